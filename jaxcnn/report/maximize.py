"""Images that excite classes or units of a trained network: sought, drawn, and gone on with where they were left."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from jaxcnn.analysis import activations, maximize, penalties
from jaxcnn.analysis import parametrization as spaces
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.analysis.objectives import Objective, channel, log_probability, logit
from jaxcnn.analysis.parametrization import Parametrization
from jaxcnn.analysis.transforms import Transform, distant, robust
from jaxcnn.config import check_seed
from jaxcnn.errors import InputError, RunError, first_line
from jaxcnn.figures import maximize as figures
from jaxcnn.report import results
from jaxcnn.report.natural import TINY, Natural, large
from jaxcnn.report.saliency import class_number
from jaxcnn.report.subject import Network

UNITS = 10
"""Units that are excited where none are named: the first."""
CERTAINTY = 4.0
"""Weight of the logarithm of a class's probability beside its logit: of classes that look alike, as two breeds of dogs
do, it seeks what tells them apart, and where the network is certain its gradient vanishes."""
DISTANT = 0.625
"""Share of the steps, from the first, in which large images are looked at from near and far."""
SETTLED = 0.1
"""Share of the step size that is left at the end, but of tiny images: small steps take the grain out."""
SHARPNESS = {"L1": 100.0, "L2": 300.0}
"""Weight of a penalty on the mean over all values of an image, where the ways are compared."""

SECONDS = 10.0
"""Between two times that what was reached is kept."""

Say = Callable[[str], None]
"""What is called with a sentence for the user."""


@dataclass(frozen=True)
class Drawn:
    """Images that were sought and drawn.

    Attributes:
      folder: what was written.
      files: in it.
      names: of the classes or units.
      numbers: of them.
      values: probabilities of the classes, or activations of the units.
      measured: from what the natural images are known, in words.
    """

    folder: Path
    files: list[Path]
    names: list[str]
    numbers: list[int]
    values: Float[np.ndarray, " n"]
    measured: str


def draw_maximized(
    network: Network,
    known: Natural,
    *,
    targets: Sequence[str] = (),
    layer: str | None = None,
    units: Sequence[int] = (),
    l1: float = 0.0,
    l2: float = 0.0,
    total_variation: float = 0.0,
    compare: bool = False,
    steps: int = maximize.STEPS,
    seed: int = 0,
    output: str | Path | None = None,
    say: Say = lambda _: None,
) -> Drawn:
    """Seeks an image for each class or unit, and draws them.

    What was reached is kept beside the folder while the search lasts; the same call goes on from there.

    Args:
      network: the network.
      known: see `natural.natural`.
      targets: names or numbers of classes; none are all of up to ten classes.
      layer: in place of classes, one of `activations.layers`.
      units: of the layer; none are the first `UNITS`.
      l1: weight of the L1 penalty on the difference from the mean colour.
      l2: weight of the L2 penalty.
      total_variation: weight of the total variation.
      compare: seek the classes in four ways: pixels without a penalty, with L1, with L2, and as without this flag.
      steps: of each ascent.
      seed: of the key of all that is random.
      output: the new folder; None calls it after the network.
      say: is told what goes on.

    Raises:
      InputError: there is no such class, layer or unit, the network takes other images, a number is out of range, the
        folder exists, or what was reached is of another call.
      RunError: an objective is not finite, or a file cannot be written.
    """
    suffix = "" if layer is None else f"-{layer.replace('/', '-')}"
    check_seed(seed)
    folder = results.new_folder(f"maximize-{network.title}{suffix}" if output is None else output)
    space = known.space
    penalty = _penalties(space, l1, l2, total_variation)
    names, numbers = _asked(network, known, targets, layer, units)
    if compare and layer is not None:
        raise InputError(f"the ways are compared by the probabilities of classes; expected no layer, got {layer}")
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")

    def wanted(way: _Way, some: np.ndarray) -> Objective:
        if layer is not None:
            return channel(layer, some)
        return logit(some) + CERTAINTY * log_probability(some) if way.robust else logit(some)

    prior = [] if known.prior == 0 else [penalties.gaussian(known.prior)]
    ways = {"full method": _Way(space, True, tuple(prior) + penalty)}
    if compare:
        ways |= _simple_ways(space, l1, l2)
    about = {
        "command": "maximize",
        "targets" if layer is None else "units": numbers,
        "layer": layer,
        "l1": l1,
        "l2": l2,
        "total_variation": total_variation,
        "compare": compare,
        "steps": steps,
        "seed": seed,
        **network.about(),
        **known.about,
    }
    kept = _Kept(folder, about)
    found: dict[str, np.ndarray] = {}
    traces: dict[str, np.ndarray] = {}
    for way in ways.values():
        changes = robust(*space.shape[:2]) if way.robust else ()
        asked = wanted(way, np.array(numbers, np.int32))
        maximize.check(network.model, network.state, asked, way.space, changes)
    size = affordable(network.model, network.state.variables, space.shape)
    for row, (title, way) in enumerate(ways.items()):
        parts = []
        for column, some in enumerate(pieces(len(numbers), size)):
            say(f"{title}: {', '.join(names[i] for i in np.unique(some))}")
            objective = wanted(way, np.array(numbers)[some].astype(np.int32))
            for term in way.penalties:
                objective = objective - term
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), column)
            parts.append(_ascend(network, objective, way, key, len(some), steps, kept, kept.at(row, column)))
        found[title], trace = join(parts, len(numbers))
        traces[title] = np.asarray(trace).T
    values = {title: _values(network, images, numbers, layer) for title, images in found.items()}
    sheet = figures.sheet(found["full method"], names, values["full method"], probability=layer is None)
    drawn = {"maximize": sheet}
    if compare:
        order = [title for title in found if title != "full method"] + ["full method"]
        drawn["comparison"] = figures.comparison({title: found[title] for title in order}, names, values)
    arrays: dict[str, np.ndarray] = {"targets" if layer is None else "units": np.array(numbers)}
    for title in found:
        name = "" if title == "full method" else "_" + title.replace(" ", "_").lower()
        arrays |= {f"images{name}": np.asarray(found[title]), f"trace{name}": traces[title]}
        arrays |= {f"values{name}": values[title]}
    files = results.write(folder, "maximize", arrays, about, drawn)
    kept.remove()
    return Drawn(folder, files, names, numbers, values["full method"], known.said)


@dataclass(frozen=True)
class _Way:
    """How images are sought.

    Attributes:
      space: the parametrisation.
      robust: whether the image has to withstand transforms, and silent ReLUs are woken.
      penalties: what is subtracted.
    """

    space: Parametrization
    robust: bool
    penalties: tuple[Objective, ...]


def _far(way: _Way, steps: int) -> int:
    """How many of the steps look at the image from near and far."""
    return int(DISTANT * steps) if way.robust and large(way.space) else 0


def _transforms(way: _Way, progress: maximize.Progress | None, steps: int) -> tuple[Transform, ...]:
    if not way.robust:
        return ()
    far = progress is not None and int(progress.step) < _far(way, steps)
    return (distant if far else robust)(*way.space.shape[:2])


@cache
def settling(steps: int) -> optax.GradientTransformation:
    """Adam whose step size falls by a cosine; one object for each number of steps, so that it compiles once."""
    return optax.adam(optax.cosine_decay_schedule(maximize.RATE, steps, SETTLED))


def _color(space: Parametrization) -> np.ndarray:
    return np.asarray(space.mean).mean((0, 1))


def _penalties(space: Parametrization, l1: float, l2: float, variation: float) -> tuple[Objective, ...]:
    color = _color(space)
    weighed = ((l1, penalties.l1(l1, color)), (l2, penalties.l2(l2, color)))
    return tuple(term for weight, term in (*weighed, (variation, penalties.total_variation(variation))) if weight)


def _simple_ways(space: Parametrization, l1: float, l2: float) -> dict[str, _Way]:
    """The lecture's: pixels, as they are or with a penalty, whose weight by default goes with their number."""
    color, values = _color(space), int(np.prod(space.shape))
    plain = spaces.pixels(space.shape, mean=color)
    return {
        "pixels": _Way(plain, False, ()),
        "pixels with L1": _Way(plain, False, (penalties.l1(l1 or SHARPNESS["L1"] / values, color),)),
        "pixels with L2": _Way(plain, False, (penalties.l2(l2 or SHARPNESS["L2"] / values, color),)),
    }


def _asked(
    network: Network, natural: Natural, targets: Sequence[str], layer: str | None, units: Sequence[int]
) -> tuple[list[str], list[int]]:
    """Names and numbers of what is to be excited, all of them checked."""
    if layer is None:
        if units:
            raise InputError(f"units are {tuple(units)}; expected --layer LAYER with them")
        names = natural.class_names
        if not targets and len(names) > UNITS:
            raise InputError(f"{network.title} has {len(names)} classes; expected --targets, names or numbers of some")
        chosen = [class_number(target, names) for target in targets] or list(range(len(names)))
        return [names[k] for k in chosen], chosen
    if targets:
        raise InputError(f"targets are {tuple(targets)}; expected none with a layer, which has units")
    known = activations.layers(network.model, network.state, natural.space.shape)
    activations.check_layer(layer, known)
    numbers = list(units) or list(range(min(UNITS, known[layer][-1])))
    return [f"{layer} {number}" for number in numbers], numbers


def _values(network: Network, images: Any, numbers: list[int], layer: str | None) -> Float[np.ndarray, " n"]:
    """What the network says of the images as they are: probabilities of the classes, or mean activations."""
    which = jnp.asarray(numbers, jnp.int32)
    if layer is not None:
        seen = np.asarray(maximize.evaluate(network.model, network.state, channel(layer, which), images))
        shape = activations.layers(network.model, network.state, images.shape[1:])[layer]
        return seen / max(1, int(np.prod(shape[:-1])))
    logits: Any = network.model.apply(network.state.variables, images, train=False)
    shares = jnp.take_along_axis(jax.nn.softmax(logits), which[:, None], 1)[:, 0]
    return np.clip(np.asarray(shares), 0, 1)


# ---- what is kept while it lasts


@dataclass(frozen=True)
class _Kept:
    """What was reached, in a hidden folder beside the one that is to be written.

    Attributes:
      folder: what is to be written.
      about: of the call.
    """

    folder: Path
    about: dict[str, Any]

    def __post_init__(self) -> None:
        """Refuses what another call left."""
        if self.place.exists() and self._read() != json.dumps(self.about):
            raise InputError(
                f"{self.place} holds what a call with other arguments had reached; expected the same arguments, "
                "another --output FOLDER, or no such folder"
            )

    @property
    def place(self) -> Path:
        """The hidden folder."""
        return self.folder.with_name(f".{self.folder.name}.progress")

    def at(self, row: int, column: int) -> Path:
        """The file for one ascent."""
        return self.place / f"{row}-{column}.npz"

    def load(self, file: Path, template: Any) -> tuple[Any, np.ndarray] | None:
        """The progress, in the template's structure, and the trace; None at the beginning."""
        if not file.exists():
            return None
        try:
            with np.load(file) as arrays:
                leaves = [jnp.asarray(arrays[f"leaf{number}"]) for number in range(len(jax.tree.leaves(template)))]
                return jax.tree.unflatten(jax.tree.structure(template), leaves), arrays["trace"]
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{file} is no search that can go on ({first_line(error)}); expected another --output FOLDER, or no "
                "such file"
            ) from error

    def save(self, file: Path, progress: Any, trace: np.ndarray) -> None:
        """Replaces the file; it is there whole or not at all."""
        leaves = {f"leaf{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(progress))}
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            self._replace(self.place / "about.json", lambda stream: stream.write(json.dumps(self.about).encode()))
            self._replace(file, lambda stream: np.savez(stream, allow_pickle=False, trace=trace, **leaves))
        except OSError as error:
            raise RunError(f"{self.place} cannot be written: {error.strerror or error}") from error

    def remove(self) -> None:
        """Removes it all."""
        shutil.rmtree(self.place, ignore_errors=True)

    def _read(self) -> str:
        try:
            return (self.place / "about.json").read_text()
        except OSError:
            return ""

    def _replace(self, file: Path, write: Callable[[Any], Any]) -> None:
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)


def _ascend(
    network: Network,
    objective: Objective,
    way: _Way,
    key: jax.Array,
    count: int,
    steps: int,
    kept: _Kept,
    file: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """The images of one ascent, and the trace of each, [n, steps]; begun or gone on with."""

    def run(number: int, progress: maximize.Progress | None) -> maximize.Maximized:
        return maximize.run(
            network.model,
            network.state,
            objective,
            key=key,
            count=count,
            parametrization=way.space,
            transforms=_transforms(way, progress, steps),
            optimizer=settling(steps) if way.robust and np.prod(way.space.shape) > TINY else None,
            steps=number,
            progress=progress,
            redirect=way.robust,
        )

    reached = run(0, None)
    trace = np.asarray(reached.trace)
    if found := kept.load(file, reached.progress):
        reached = run(0, found[0])
        trace = found[1]
    saved = time.monotonic()
    stages = sorted({_far(way, steps), steps})
    while len(trace) < steps:
        until = next(stage for stage in stages if stage > len(trace))
        reached = run(min(maximize.SEGMENT, until - len(trace)), reached.progress)
        trace = np.concatenate([trace, np.asarray(reached.trace)])
        if time.monotonic() - saved > SECONDS or len(trace) == steps:
            kept.save(file, reached.progress, trace)
            saved = time.monotonic()
    return np.asarray(reached.images), trace.T
