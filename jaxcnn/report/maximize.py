"""Images that excite classes or units of a trained network: sought, drawn, and gone on with where they were left."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxcnn.analysis import activations, maximize
from jaxcnn.analysis.chunks import join
from jaxcnn.analysis.objectives import Objective, channel
from jaxcnn.config import check_seed
from jaxcnn.errors import InputError
from jaxcnn.figures import maximize as figures
from jaxcnn.report import results, unfinished
from jaxcnn.report.natural import Natural
from jaxcnn.report.saliency import class_number
from jaxcnn.report.subject import Network
from jaxcnn.report.ways import (
    Way,
    ascend,
    batches,
    full_method,
    most_natural,
    random_key,
    remembering,
    simple_ways,
    weighed,
)

UNITS = 10
"""Units that are excited where none are named: the first."""
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
      compare: seek the classes in four ways: pixels without a penalty, with L1, with L2, and as without this flag; for
        small colour images, in a fifth one if the network has batch normalisation, which is asked what they are like.
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
    penalty = weighed(space, l1, l2, total_variation)
    names, numbers = _asked(network, known, targets, layer, units)
    if compare and layer is not None:
        raise InputError(f"the ways are compared by the probabilities of classes; expected no layer, got {layer}")
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")

    def wanted(way: Way, some: np.ndarray) -> Objective:
        return way.classes(some) if layer is None else channel(layer, some)

    ways = {"full method": full_method(known, penalty)}
    if compare:
        ways |= simple_ways(space, l1, l2) | remembering(network, known, penalty)
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
    about = json.loads(json.dumps(about))  # as a file gives it back
    kept = folder.with_name(f".{folder.name}.progress")
    found: dict[str, np.ndarray] = {}
    traces: dict[str, np.ndarray] = {}
    for way in ways.values():
        asked = wanted(way, np.array(numbers, np.int32))
        maximize.check(network.model, network.state, asked, way.space, way.transforms(), len(numbers))
    for row, (title, way) in enumerate(ways.items()):
        parts = []
        starts, together = batches(network, way, len(numbers))
        for column, some in enumerate(together):
            say(f"{title}: {', '.join(names[i] for i in np.unique(some))}")
            asked = np.array(numbers)[some].astype(np.int32)
            objective = way.penalized(wanted(way, np.tile(asked, starts)))
            key = random_key(seed, 0 if way.memory else row, column)
            climb = partial(ascend, network, objective, way, key=key, count=len(some) * starts, steps=steps)
            images, trace = _climbed(climb, steps, kept / f"{row}-{column}.npz", about)
            best = most_natural(network, way, images, asked)
            parts.append((images[best], trace[best]))
        found[title], trace = join(parts, len(numbers))
        traces[title] = np.asarray(trace).T
    values = {title: _values(network, images, numbers, layer) for title, images in found.items()}
    sheet = figures.sheet(found["full method"], names, values["full method"], probability=layer is None)
    drawn = {"maximize": sheet}
    if compare:
        order = sorted(found, key=lambda title: (ways[title].robust, ways[title].memory is not None))
        drawn["comparison"] = figures.comparison({title: found[title] for title in order}, names, values)
    arrays: dict[str, np.ndarray] = {"targets" if layer is None else "units": np.array(numbers)}
    for title in found:
        name = "" if title == "full method" else "_" + title.replace(" ", "_").lower()
        arrays |= {f"images{name}": np.asarray(found[title]), f"trace{name}": traces[title]}
        arrays |= {f"values{name}": values[title]}
    files = results.write(folder, "maximize", arrays, about, drawn)
    shutil.rmtree(kept, ignore_errors=True)
    return Drawn(folder, files, names, numbers, values["full method"], known.said)


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


def _climbed(
    climb: Callable[..., Iterator[maximize.Maximized]], steps: int, file: Path, about: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The images of one ascent, and the trace of each, [n, steps]; begun, or gone on with from the file."""
    reached = next(climb())
    progress, trace, saved = reached.progress, np.asarray(reached.trace), time.monotonic()
    leaves, structure = jax.tree.flatten(progress)
    names = [f"leaf{number}" for number in range(len(leaves))]
    if found := unfinished.read(file, about, [*names, "trace"], what="a search"):
        progress, trace = structure.unflatten([jnp.asarray(found[name]) for name in names]), found["trace"]
    for reached in climb(progress=progress):
        trace = np.concatenate([trace, np.asarray(reached.trace)])
        if len(reached.trace) and (time.monotonic() - saved > SECONDS or len(trace) == steps):
            arrays = map(np.asarray, jax.tree.leaves(reached.progress))
            unfinished.write(file, about, {**dict(zip(names, arrays, strict=True)), "trace": trace})
            saved = time.monotonic()
    return np.asarray(reached.images), trace.T
