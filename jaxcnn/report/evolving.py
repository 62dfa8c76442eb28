"""An evolution that is watched, and that goes on where it was when it is begun again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxcnn.analysis import evolution
from jaxcnn.analysis.evolution import Archive, EncodingName
from jaxcnn.errors import InputError
from jaxcnn.report import unfinished
from jaxcnn.report.subject import Network

FRAMES = 25
"""Generations of which images are kept, each later than the one before by about the same factor."""
SLICE = 10
"""Generations between looks at the clock."""


@dataclass(frozen=True)
class Evolved:
    """An evolution so far.

    Attributes:
      archive: the best of each class.
      history: [G, K], their confidences after each generation.
      generations: [F], of the frames.
      frames: [F, S, H, W, C], the images of some classes after these, 0 to 255.
    """

    archive: Archive
    history: np.ndarray
    generations: np.ndarray
    frames: np.ndarray


def moments(generations: int) -> list[int]:
    """The generations of which images are kept: the first, the last, and some between."""
    return sorted({round(moment) for moment in np.geomspace(1, generations, FRAMES)})


def evolve(
    network: Network,
    encoding: EncodingName,
    *,
    key: Key[Array, ""],
    generations: int,
    population: int,
    shown: np.ndarray,
    about: dict[str, Any],
    file: Path,
    progress: Callable[[int, np.ndarray], None],
) -> Evolved:
    """Evolves images for all classes of a network, or goes on with it.

    Args:
      network: the network.
      encoding: of the images.
      key: of everything that is drawn.
      generations: to the end.
      population: children of each.
      shown: integers [S], classes whose images are kept now and then.
      about: JSON values that say what is evolved; a file that holds another evolution is refused.
      file: .npz in which the evolution is kept meanwhile, and found again.
      progress: called now and then with the generations so far and the confidences [K].

    Raises:
      InputError: an argument is out of range, or the file holds something else.
      RunError: the file cannot be written.
    """
    if generations < 1:
        raise InputError(f"generations is {generations}; expected at least 1")
    height, width, channels = network.spec.input_shape
    shape = height, width, channels
    so_far = _read(file, about, evolution.begin(network.model, network.state, shape, encoding))
    kept = moments(generations)
    saved = time.monotonic()
    while (done := len(so_far.history)) < generations:
        until = min(done - done % SLICE + SLICE, *(moment for moment in kept if moment > done))
        found = evolution.map_elites(
            network.model,
            network.state,
            shape,
            key=key,
            encoding=encoding,
            generations=until,
            population=population,
            archive=so_far.archive,
        )
        moment, frames = so_far.generations, so_far.frames
        if until in kept:
            images = np.asarray(evolution.images(found.archive, encoding, shape, targets=shown))
            moment = np.append(moment, until)
            frames = np.concatenate([frames.reshape(-1, *images.shape), to_bytes(images)[None]])
        so_far = Evolved(found.archive, np.concatenate([so_far.history, found.history]), moment, frames)
        due = time.monotonic() - saved > unfinished.SAVED
        if due or until in kept:
            progress(until, found.history[-1])
        if due and until < generations:
            _write(file, about, so_far)
            saved = time.monotonic()
    return so_far


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as whole numbers from 0 to 255."""
    return np.round(images * 255).astype(np.uint8)


def _write(file: Path, about: dict[str, Any], so_far: Evolved) -> None:
    leaves = {f"archive_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(so_far.archive))}
    arrays = {"history": so_far.history, "generations": so_far.generations, "frames": so_far.frames}
    unfinished.write(file, about, {**leaves, **arrays})


def _read(file: Path, about: dict[str, Any], fresh: Archive) -> Evolved:
    """The evolution in the file, or one that has not begun."""
    leaves, structure = jax.tree.flatten(fresh)
    names = [f"archive_{i}" for i in range(len(leaves))]
    found = unfinished.read(file, about, [*names, "history", "generations", "frames"], what="an evolution")
    if found is None:
        nothing = np.zeros(0, np.uint8)
        return Evolved(fresh, np.zeros((0, len(fresh.confidences)), np.float32), np.zeros(0, np.int64), nothing)
    archive = jax.tree.unflatten(structure, [jnp.array(found[name]) for name in names])
    return Evolved(archive, found["history"], found["generations"], found["frames"])
