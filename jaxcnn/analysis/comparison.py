"""One table over methods and measures, always with maps of random numbers, which a method must beat to say anything."""

from __future__ import annotations

import csv as csv_writer
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis import attribution, metrics
from jaxcnn.analysis.attribution import Method, Targets, ask
from jaxcnn.analysis.road import road
from jaxcnn.errors import InputError, RunError, unknown_name
from jaxcnn.state import State

RANDOM = "random map"
"""What the maps of random numbers are called in a table."""

SMOOTH = "smooth random map"
"""What those are called that change as slowly as maps of regions."""


class Interval(NamedTuple):
    """A mean, and the lower and the upper end of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def interval(values: ArrayLike) -> Interval:
    """The mean of values and Student's 95 % confidence interval for it.

    low, high = mean -+ t s / sqrt(n), s the standard deviation of the values, t the 97.5 % quantile of Student's
    distribution with n - 1 degrees of freedom

    Args:
      values: [n], one for each image, n at least 2.

    Raises:
      InputError: there are fewer.

    Examples:
      >>> mean, low, high = interval(np.array([0.91, 0.92, 0.93]))
      >>> print(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
      0.920 [0.895, 0.945]
    """
    numbers = np.asarray(values, np.float64)
    count = len(numbers)
    if count < 2:
        raise InputError(f"there are {count} images; expected at least 2, without which there is no interval")
    mean = float(numbers.mean())
    half = float(scipy.stats.t.ppf(0.975, count - 1) * numbers.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Explanation:
    """The maps that a method made of images, as a measure needs them.

    Attributes:
      method: which made the maps.
      maps: [N, H, W] or [N, H, W, C].
      model: the network.
      state: its state.
      images: [N, H, W, C].
      targets: what is explained: classes, or a function of the logits.
      key: the same for all methods.
      chunk: images that the network evaluates at once.
      magnitudes: whether a pixel that speaks against what is explained is as important as one that speaks for it.
      region: side in pixels of the squares that are exchanged as a whole.
    """

    method: Method
    maps: Array
    model: nn.Module
    state: State
    images: Array
    targets: Targets
    key: Array
    chunk: int
    magnitudes: bool
    region: int

    @property
    def heat(self) -> Float[Array, "n h w"]:
        """One number for each pixel, higher = more important."""
        heat = self.method.heat(self.maps)
        return jnp.abs(heat) if self.magnitudes else heat

    @property
    def asked(self) -> tuple[nn.Module, State, Array]:
        """What every method and measure takes first."""
        return self.model, self.state, self.images

    @property
    def exchanged(self) -> dict[str, Any]:
        """What every measure takes that exchanges pixels; equal ones go in the same order, whatever the method."""
        return {"key": self.key, "chunk": self.chunk, "region": self.region}


@dataclass(frozen=True)
class Measure:
    """What a table measures.

    Attributes:
      function: of an explanation, a number for each image, [N].
      higher_is_better: whether a faithful map has a high one.
      reference: the paper.
      calls: the function that measures, whose own options hold but for those that an explanation has.
    """

    function: Callable[[Explanation], Array]
    higher_is_better: bool
    reference: str
    calls: Callable[..., Any] | None = None


_infidelity = partial(metrics.infidelity, normalize=True)
_BLURRED: Any = f"the images, blurred with sigma {metrics.BLUR:g}"


def _area(function: Callable[..., metrics.Curve]) -> Callable[[Explanation], Array]:
    return lambda e: function(*e.asked, e.heat, e.targets, **e.exchanged).area


def _blurring(explanation: Explanation) -> Array:
    return _area(partial(metrics.deletion, value=metrics.blurred(explanation.images)))(explanation)


MEASURES = {
    "deletion": Measure(_area(metrics.deletion), False, "Petsiuk et al. 2018", metrics.deletion),
    "insertion": Measure(_area(metrics.insertion), True, "Petsiuk et al. 2018", metrics.insertion),
    "blurring": Measure(_blurring, False, "Sturmfels et al. 2020", partial(metrics.deletion, value=_BLURRED)),
    "road": Measure(lambda e: road(*e.asked, e.heat, e.targets, **e.exchanged).gap, True, "Rong et al. 2022", road),
    "infidelity": Measure(
        lambda e: _infidelity(*e.asked, e.maps, e.targets, key=e.key, chunk=e.chunk),
        False,
        "Yeh et al. 2019",
        _infidelity,
    ),
    "max_sensitivity": Measure(
        lambda e: metrics.max_sensitivity(e.method.function, *e.asked, e.targets, key=e.key, chunk=e.chunk),
        False,
        "Yeh et al. 2019",
        metrics.max_sensitivity,
    ),
}
"""Every measure by its name: the areas under the curves, ROAD's gap, and what `metrics` says of the rest."""


@dataclass(frozen=True)
class Row:
    """One method by one measure, over images.

    Attributes:
      method: its name; `RANDOM` and `SMOOTH` for the baselines.
      measure: its name.
      mean: over images.
      low: end of the mean's 95 % confidence interval.
      high: its other end.
      baseline: `RANDOM` or `SMOOTH`, whichever has the better mean.
      advantage: by how much the method is better than that baseline on the same images, on average; negative if worse.
      advantage_low: end of its 95 % confidence interval.
      advantage_high: its other end.
      n: images.
    """

    method: str
    measure: str
    mean: float
    low: float
    high: float
    baseline: str
    advantage: float
    advantage_low: float
    advantage_high: float
    n: int

    @property
    def beats_random(self) -> bool:
        """Whether the whole interval of the advantage is positive."""
        return self.advantage_low > 0


@dataclass(frozen=True)
class Comparison:
    """The table; iterating gives its rows, measure by measure, the random maps at each one's end.

    Attributes:
      model: its name.
      rows: one for each measure and method.
      values: of each image, [measures, methods, N], in the order of the rows.
    """

    model: str
    rows: tuple[Row, ...]
    values: Float[np.ndarray, "measures methods n"]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def row(self, method: str, measure: str) -> Row:
        """The row of a method and a measure.

        Raises:
          InputError: there is none.
        """
        for row in self.rows:
            if (row.method, row.measure) == (method, measure):
                return row
        raise InputError(f"the table has no row of {method!r} by {measure!r}")


def random_map(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, "n h w"]:
    """A baseline: maps of random numbers that know nothing of the image.

    Args:
      model: unused, as all arguments but the images and the key.
      state: unused.
      images: [N, H, W, C].
      targets: unused.
      key: from which the maps are drawn; None is `jax.random.key(0)`.
      chunk: unused.

    Returns:
      Numbers uniform in [0, 1).
    """
    return _drawn(images, key, max(np.shape(images)[1:3]))


def smooth_random_map(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, "n h w"]:
    """A baseline: random numbers on a grid of 7x7, enlarged bilinearly to the image.

    Whole pieces of a picture disturb a network otherwise than single pixels do. A method whose maps are smooth must
    therefore beat maps that are as smooth and know nothing.

    Args:
      model: unused, as all arguments but the images and the key.
      state: unused.
      images: [N, H, W, C].
      targets: unused.
      key: from which the maps are drawn; None is `jax.random.key(0)`.
      chunk: unused.

    Returns:
      Numbers in [0, 1).
    """
    return _drawn(images, key, _CELLS)


BASELINES = {
    RANDOM: Method(random_map, RANDOM, False, "a baseline"),
    SMOOTH: Method(smooth_random_map, SMOOTH, False, "a baseline"),
}
"""What knows nothing of the image and is always there, by its name."""


def compare(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    methods: Sequence[str] | Mapping[str, Method | Callable[..., Array]],
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    measures: Sequence[str] | Mapping[str, Measure] = ("deletion", "insertion", "road"),
    magnitudes: bool = False,
    region: int = 1,
) -> Comparison:
    """Methods measured on the same images, with the same noise, beside maps of random numbers.

    The intervals are Student's over the images (`interval`). A method's advantage is that over the better of the two
    random maps, `RANDOM` and `SMOOTH`, by each measure; its interval is made of the differences image by image, so it
    is narrower than the two means' intervals let expect.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1], at least 2.
      methods: names among `attribution.methods()`; or methods by names of one's own, each an `attribution.Method` or a
        function called as one. The channels of a function's maps are added up.
      targets: what is explained; see `attribution.Targets`. None is the class predicted for each image.
      key: of the methods, the measures and the random maps; None is `jax.random.key(0)`.
      chunk: images that the network evaluates at once, on which the result does not depend.
      measures: names among `MEASURES`, of which infidelity and max_sensitivity take longest; or measures by names.
      magnitudes: whether deletion, insertion and ROAD rank pixels by the magnitude of signed maps: where a map changes
        its sign from pixel to pixel, as one made of gradients does, both signs tend to mark what is looked at.
      region: side in pixels of the squares that measures exchange as a whole (`metrics.by_region`).

    Raises:
      InputError: there are fewer than two images, no methods or measures, or unknown ones; a method has a baseline's
        name; a measure gives no number for each image; or see `metrics.deletion` and `metrics.by_region`.
      RunError: a measure is not finite.
    """
    chosen = {name: _method(name, methods) for name in methods} | BASELINES
    measured_by = {name: _measure(name, measures) for name in measures}
    if not methods or not measured_by or BASELINES.keys() & {*methods}:
        raise InputError(
            f"methods are {list(methods)} and measures {list(measures)}; expected at least one of each, and no method "
            f"called {RANDOM!r} or {SMOOTH!r}, which are always there"
        )
    map_key, random_key, measure_key = jax.random.split(jax.random.key(0) if key is None else key, 3)
    question = ask(model, state, images, targets, chunk=chunk).resolved()
    if len(question.images) < 2:
        raise InputError(f"there is {len(question.images)} image; expected at least 2, for an interval")
    asked = question.targets
    values: dict[tuple[str, str], np.ndarray] = {}
    for name, method in chosen.items():
        drawn = random_key if name in BASELINES else map_key
        maps = method.function(model, state, question.images, asked, key=drawn, chunk=chunk)
        explanation = Explanation(
            method, maps, model, state, question.images, asked, measure_key, question.chunk, magnitudes, region
        )
        for label, measure in measured_by.items():
            values[label, name] = _measured(label, measure, explanation)
    rows = []
    for label, measure in measured_by.items():
        sign = 1 if measure.higher_is_better else -1
        baseline = max(BASELINES, key=lambda name: sign * values[label, name].mean())
        for name in chosen:
            advantage = interval(sign * (values[label, name] - values[label, baseline]))
            mean = interval(values[label, name])
            rows.append(Row(name, label, *mean, baseline, *advantage, len(question.images)))
    each = np.array([[values[label, name] for name in chosen] for label in measured_by])
    return Comparison(type(model).__name__, tuple(rows), each)


def text(table: Comparison) -> str:
    """Aligned columns, and what they mean."""
    rows = [_HEADER, *map(_cells, table)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_title(table), *lines, _NOTE])


def markdown(table: Comparison) -> str:
    """The same in Markdown."""
    rows = [_HEADER, [":--"] * len(_HEADER), *map(_cells, table)]
    return "\n".join([f"**{_title(table)}**", "", *("| " + " | ".join(row) + " |" for row in rows), "", _NOTE])


def csv(table: Comparison) -> str:
    """A line for each row under a line of names, numbers in full."""
    lines = io.StringIO()
    rows = [_values(row) for row in table]
    writer = csv_writer.DictWriter(lines, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue().rstrip()


def json(table: Comparison) -> dict[str, Any]:
    """The table as JSON values."""
    return {"model": table.model, "rows": [_values(row) for row in table]}


_CELLS = 7  # along a side, as in the masks of RISE

_HEADER = ("measure", "method", "mean", "95 % interval", "better than random by", "95 % interval", "beats random")
_NOTE = (
    "Intervals are Student's over the images; the advantage is taken image by image over whichever random map has the "
    "better mean, and beats random if all of its interval is above 0."
)


def _title(table: Comparison) -> str:
    return f"{table.model}, {table.rows[0].n} images"


def _cells(row: Row) -> tuple[str, ...]:
    mean, low, high = (f"{x:.4g}" for x in (row.mean, row.low, row.high))
    if row.method in BASELINES:
        return row.measure, row.method, mean, f"{low} to {high}", "", "", ""
    advantage, least, most = (f"{x:+.4g}" for x in (row.advantage, row.advantage_low, row.advantage_high))
    verdict = "yes" if row.beats_random else "no"
    return row.measure, row.method, mean, f"{low} to {high}", advantage, f"{least} to {most}", verdict


def _values(row: Row) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"beats_random": row.beats_random}


def _method(name: str, methods: Sequence[str] | Mapping[str, Method | Callable[..., Array]]) -> Method:
    if not isinstance(methods, Mapping):
        return attribution.method(name)
    given = methods[name]
    return given if isinstance(given, Method) else Method(given, name, True, "")


def _measure(name: str, measures: Sequence[str] | Mapping[str, Measure]) -> Measure:
    if isinstance(measures, Mapping):
        return measures[name]
    if name not in MEASURES:
        raise unknown_name("measure", name, MEASURES)
    return MEASURES[name]


def _measured(label: str, measure: Measure, explanation: Explanation) -> np.ndarray:
    values = jnp.asarray(measure.function(explanation))
    if values.shape != (len(explanation.images),):
        raise InputError(
            f"the measure {label} gave shape {values.shape}; expected a number for each of {len(explanation.images)} "
            "images"
        )
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise RunError(
            f"the measure {label} of {explanation.method.title} is not finite for image "
            f"{int(np.argmin(np.isfinite(numbers)))}; expected a finite number for each image"
        )
    return numbers


def _drawn(images: ArrayLike, key: Array | None, most: int) -> Float[Array, "n h w"]:
    """Random numbers at no more than so many places along a side, enlarged to the image."""
    count, *sides = np.shape(images)[:3]
    keys = jax.random.split(jax.random.key(0) if key is None else key, count)
    grid = tuple(min(side, most) for side in sides)
    return jax.vmap(lambda key: jax.image.resize(jax.random.uniform(key, grid), tuple(sides), "linear"))(keys)
