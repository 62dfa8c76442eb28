"""Which attribution maps of a network may be believed: measured against random maps, and against what it learned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.analysis import attribution, comparison, metrics, sanity
from jaxcnn.analysis.attribution import Method
from jaxcnn.analysis.comparison import MEASURES, Comparison, Measure
from jaxcnn.config import check_seed
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.figures import trust as figure
from jaxcnn.figures.trust import Band
from jaxcnn.report import results
from jaxcnn.report.saliency import ALL, Chosen, Say, choose, heard, options, pick
from jaxcnn.report.subject import Subject

_ALWAYS = ("deletion", "insertion")
_LAYERS = 12  # as many maps beside each other are large enough
_SIMILARITIES = {"spearman_absolute": "rank correlation of |value|", "ssim": "SSIM", "hog": "HOG similarity"}


@dataclass(frozen=True)
class Measured:
    """Methods compared, and drawn.

    Attributes:
      folder: what was written.
      files: in it.
      chosen: the images.
      table: the comparison.
      left_out: methods that do not apply to the network, and why.
    """

    folder: Path
    files: list[Path]
    chosen: Chosen
    table: Comparison
    left_out: dict[str, str]


def draw_trust(
    subject: Subject,
    *,
    methods: Sequence[str] = (ALL,),
    targets: Sequence[str] = (),
    measures: Sequence[str] = ("road",),
    magnitudes: bool = False,
    region: int = 1,
    randomise: bool = False,
    limit: int = 16,
    seed: int = 0,
    output: str | Path | None = None,
    say: Say,
) -> Measured:
    """Compares methods by how faithful their maps are, beside random maps, and draws the curves.

    Args:
      subject: the network and the images.
      methods: see `saliency.pick`.
      targets: see `saliency.choose`.
      measures: besides deletion and insertion, names among `comparison.MEASURES`.
      magnitudes: see `comparison.compare`.
      region: see `comparison.compare`.
      randomise: whether to draw, too, how maps change as the network's layers are drawn anew.
      limit: most images, at least 2.
      seed: of the key of all that is drawn at random.
      output: the new folder; None calls it after the network.
      say: is told what is warned of, and which methods are left out.

    Raises:
      InputError: see `saliency.pick` and `comparison.compare`; or the seed is out of range, or the folder exists or
        cannot be made.
    """
    network = subject.network
    check_seed(seed)
    folder = results.new_folder(f"trust-{network.title}" if output is None else output)
    for name in measures:
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
    if limit < 2:
        raise InputError(f"limit is {limit}; expected at least 2 images, without which there is no interval")
    chosen = choose(subject, targets, limit=limit)
    picked, left_out = pick(chosen, methods, say)
    curves: dict[str, dict[str, metrics.Curve]] = {name: {} for name in _ALWAYS}
    maps: dict[str, np.ndarray] = {}
    asked = {
        "deletion": _kept(metrics.deletion, "deletion", curves, maps),
        "insertion": _kept(metrics.insertion, "insertion", curves, maps),
    } | {name: MEASURES[name] for name in measures if name not in _ALWAYS}
    key = jax.random.key(seed)
    compare = partial(
        comparison.compare,
        *(network.model, network.state, chosen.images, picked, chosen.targets),
        key=key,
        measures=asked,
        magnitudes=magnitudes,
        region=region,
    )
    table = heard(compare, "trust", chosen, say)

    shares = np.asarray(next(iter(curves["deletion"].values())).shares)
    titled = {
        what: {
            title: figure.Curve(_band(np.asarray(c.probabilities)), _number(np.asarray(c.area)))
            for title, c in kept.items()
        }
        for what, kept in curves.items()
    }
    count = len(chosen.images)
    figures = {"curves": figure.exchange(shares, **titled, baselines=list(comparison.BASELINES), images=count)}
    arrays = {"shares": shares, "images": chosen.images, "values": table.values, **chosen.arrays}
    arrays |= {
        f"maps_{name}": made for name, made in zip([*picked, "random", "smooth_random"], maps.values(), strict=True)
    }
    for what, kept in curves.items():
        arrays[what] = np.stack([np.asarray(curve.probabilities) for curve in kept.values()])
    if randomise:
        more, drawn = _randomised(chosen, picked, key, say)
        arrays |= more
        figures |= drawn
    about = {
        "command": "trust",
        "methods": [*picked, *comparison.BASELINES],
        "options": {name: options(method.function) for name, method in picked.items()},
        "left_out": left_out,
        "measures": list(asked),
        "measure_options": {name: _options(MEASURES[name], region) for name in asked},
        "randomise": randomise,
        "similarities": list(_SIMILARITIES) if randomise else [],
        "magnitudes": magnitudes,
        "region": region,
        "seed": seed,
        "table": comparison.json(table),
        **chosen.about(),
    }
    tables = {"trust.csv": comparison.csv(table) + "\n", "trust.md": comparison.markdown(table) + "\n"}
    return Measured(folder, results.write(folder, "trust", arrays, about, figures, tables), chosen, table, left_out)


def _kept(
    function: Callable[..., metrics.Curve],
    name: str,
    curves: dict[str, dict[str, metrics.Curve]],
    maps: dict[str, np.ndarray],
) -> Measure:
    """The area under the curves, which are kept, and the maps."""

    def measured(explanation: comparison.Explanation) -> jax.Array:
        curve = function(*explanation.asked, explanation.heat, explanation.targets, **explanation.exchanged)
        curves[name][explanation.method.title] = curve
        maps[explanation.method.title] = np.asarray(explanation.maps)
        return curve.area

    return replace(MEASURES[name], function=measured)


def _options(measure: Measure, region: int) -> dict[str, Any]:
    """What the measure was asked with."""
    assert measure.calls is not None
    chosen = options(measure.calls)
    return chosen | ({"region": region} if "region" in chosen else {})


def _randomised(
    chosen: Chosen, methods: dict[str, Method], key: jax.Array, say: Say
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """How like the trained network's maps are those of the network of which ever more layers are drawn anew."""
    network = chosen.subject.network
    asked = (network.model, network.state, chosen.images, chosen.targets)
    layers: list[str] = []
    values: dict[str, np.ndarray] = {}
    shown: dict[str, np.ndarray] = {}
    alive = np.ones(len(chosen.images), bool)

    def cascade(method: Method) -> tuple[sanity.Step, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attribution.DeadMapWarning)  # said below, once
            return sanity.cascading_randomisation(method.function, *asked, key=key)

    for name, method in methods.items():
        steps = heard(partial(cascade, method), name, chosen, say)
        for made in (steps[0].originals, *(step.maps for step in steps)):
            alive &= made.reshape(len(made), -1).any(1)
        layers = [step.layer for step in steps]
        maps = [steps[0].originals[:1], *(steps[i].maps[:1] for i in _some(len(steps)))]
        shown[method.title] = np.concatenate([np.asarray(method.heat(jnp.asarray(m))) for m in maps])
        similar = [[getattr(step.similarities, field) for field in _SIMILARITIES] for step in steps]
        values[name] = np.array(similar).transpose(1, 0, 2)  # [measures, layers, images]
    kept = alive if alive.sum() > 1 else np.ones_like(alive)
    if not alive.all():
        what = "are left out of the figure of similarities" if kept is alive else "count as unlike"
        say(
            f"for {(~alive).sum()} of {len(alive)} images a network drawn anew gives maps that are zero everywhere, as "
            f"the class's score depends on the image no longer; they {what}"
        )
    bands = {
        label: {method.title: _band(values[name][row][:, kept].T) for name, method in methods.items()}
        for row, label in enumerate(_SIMILARITIES.values())
    }
    signed = [method.title for method in methods.values() if method.signed]
    figures = {
        "cascade": figure.cascade(chosen.images[0], shown, [layers[i] for i in _some(len(layers))], signed),
        "similarity": figure.similarity(layers, bands, images=int(kept.sum())),
    }
    arrays = {"layers": np.array(layers), "similarities": np.stack(list(values.values())), "dead": ~alive}
    return arrays, figures


def _some(count: int) -> list[int]:
    """Of so many layers those that are drawn, the last among them."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, _LAYERS)).round()]


def _band(values: np.ndarray) -> Band:
    """Over images, [N, S]."""
    return Band(*np.array([comparison.interval(column) for column in values.T]).T)


def _number(values: np.ndarray) -> Band:
    return Band(*comparison.interval(values))
