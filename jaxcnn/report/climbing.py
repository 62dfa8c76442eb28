"""Gradient ascent for many classes, some after others, that goes on where it was when it is begun again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcnn.analysis import fooling
from jaxcnn.report import unfinished
from jaxcnn.report.evolving import to_bytes
from jaxcnn.report.subject import Network

GROUP = 100
"""Classes that climb together: enough that the network has work to the end, few enough that little is lost."""


@dataclass(frozen=True)
class Climbed:
    """An ascent so far.

    Attributes:
      images: [N, H, W, C], 0 to 255.
      confidences: [N], of the images before they were rounded.
      steps: [N].
      history: [T, N], the probabilities before each step; the last one again after an image has stopped.
    """

    images: np.ndarray
    confidences: Float[np.ndarray, " n"]
    steps: Int[np.ndarray, " n"]
    history: Float[np.ndarray, "t n"]


def climb(
    network: Network,
    targets: Int[np.ndarray, " n"],
    settings: dict[str, Any],
    *,
    seed: int,
    about: dict[str, Any],
    file: Path,
    progress: Callable[[int, np.ndarray], None],
) -> Climbed:
    """Climbs to images of all targets, or goes on with it. Group g starts from the noise of fold_in(key, g).

    Args:
      network: the network.
      targets: classes.
      settings: of `fooling.ascend`.
      seed: of the key.
      about: JSON values that say what is climbed to; a file that holds another ascent is refused.
      file: .npz in which the images are kept meanwhile, and found again.
      progress: called after each group with the number of images so far and their confidences.

    Raises:
      InputError: an argument is out of range, or the file holds something else.
      RunError: the file cannot be written.
    """
    height, width, channels = network.spec.input_shape
    found = unfinished.read(file, about, ["images", "confidences", "steps", "history"], what="an ascent")
    so_far = None if found is None else Climbed(**found)
    saved = time.monotonic()
    while (done := 0 if so_far is None else len(so_far.images)) < len(targets):
        ascent = fooling.ascend(
            network.model,
            network.state,
            targets[done : done + GROUP],
            key=jax.random.fold_in(jax.random.key(seed), done // GROUP),
            image_shape=(height, width, channels),
            **settings,
        )
        new = Climbed(to_bytes(np.asarray(ascent.images)), ascent.confidences, ascent.steps, ascent.history)
        so_far = new if so_far is None else _both(so_far, new)
        progress(len(so_far.images), so_far.confidences)
        if time.monotonic() - saved > unfinished.SAVED and len(so_far.images) < len(targets):
            unfinished.write(file, about, vars(so_far))
            saved = time.monotonic()
    assert so_far is not None  # there is at least one target
    return so_far


def _both(one: Climbed, other: Climbed) -> Climbed:
    longest = max(len(one.history), len(other.history))
    histories = (np.pad(each.history, ((0, longest - len(each.history)), (0, 0)), "edge") for each in (one, other))
    return Climbed(
        np.concatenate([one.images, other.images]),
        np.concatenate([one.confidences, other.confidences]),
        np.concatenate([one.steps, other.steps]),
        np.concatenate(list(histories), axis=1),
    )
