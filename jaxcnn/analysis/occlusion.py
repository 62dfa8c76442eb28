"""What a network says while part of the image is hidden from it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxcnn.analysis.attribution import Method, Question, Score, Targets, ask, finish, scores_at_copies
from jaxcnn.analysis.checks import check_whole, checked_baseline
from jaxcnn.analysis.compiled import compiled
from jaxcnn.errors import InputError
from jaxcnn.state import State


class OcclusionGrid(NamedTuple):
    """What a network says of an image for every position of a patch that hides part of it.

    Attributes:
      probabilities: of the class that is explained, or the number of the target function.
      classes: the most likely ones.
      tops: first row of the image that the patch hides, for each row of the grid.
      lefts: first column of the image that the patch hides, for each column of the grid.
      patch: side of the patch in pixels; at the right and the lower border of the image less of it may fit.
    """

    probabilities: Float[Array, "n rows columns"]
    classes: Int[Array, "n rows columns"]
    tops: Int[np.ndarray, " rows"]
    lefts: Int[np.ndarray, " columns"]
    patch: int


def occlusion(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    patch: int | None = None,
    stride: int | None = None,
    value: ArrayLike = 0.5,
) -> Float[Array, "n h w"]:
    """By how much the probability drops when a patch hides a pixel: the mean over the patch's positions that do.

    M_ij = mean over patches P with ij in P of p_k(X) - p_k(X without P)

    Args:
      model: see `saliency.gradient`, as all arguments up to `chunk`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained; of a function of the logits, the drop of that number.
      key: unused, as nothing is drawn.
      chunk: occluded images evaluated at once.
      patch: side of the square patch in pixels; None is an eighth of the image's shorter side.
      stride: pixels between positions, at most `patch`, so that every pixel is hidden once at least; None is half the
        patch. The last position reaches the border, or beyond it.
      value: what stands in the patch, in [0, 1]: a grey number, a colour [C], an image [H, W, C], or images
        [N, H, W, C].

    Returns:
      M, signed, in units of probability: negative where the network is surer without the pixel.

    Raises:
      InputError, RunError: see `saliency.gradient`; or patch, stride or value do not fit the images.

    Reference: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk, output="probability").resolved()
    hidden = checked_baseline(value, question.images)
    grid = _grid(question, hidden, patch, stride)
    drops = question.scores(question.images)[:, None, None] - grid.probabilities
    _, height, width, _ = question.images.shape
    rows, columns = (
        jnp.asarray(_covered(starts, grid.patch, side), jnp.float32)
        for starts, side in ((grid.tops, height), (grid.lefts, width))
    )
    sums = jnp.einsum("nrc,rh,cw->nhw", drops, rows, columns, precision="highest")
    return finish(unless_hidden(sums / jnp.outer(rows.sum(0), columns.sum(0))[None], question.images, hidden))


def occlusion_grid(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    chunk: int | None = None,
    patch: int | None = None,
    stride: int | None = None,
    value: ArrayLike = 0.5,
) -> OcclusionGrid:
    """What the network says with the patch at every position: how sure of the class, and which class instead.

    Args:
      model: see `occlusion`, as all arguments.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      chunk: occluded images evaluated at once.
      patch: side of the patch in pixels.
      stride: pixels between positions.
      value: what stands in the patch.

    Raises:
      InputError, RunError: see `occlusion`.

    Reference: Zeiler & Fergus 2014, figure 7 (d) and (e).
    """
    question = ask(model, state, images, targets, chunk=chunk, output="probability").resolved()
    grid = _grid(question, checked_baseline(value, question.images), patch, stride)
    return grid._replace(probabilities=finish(grid.probabilities))


def evaluated(
    network: tuple[nn.Module, Score],
    variables: Any,
    images: Float[Array, "n h w c"],
    classes: Array | None,
    hidden: Float[Array, "n h w c"],
    masks: Float[Array, "m s h w"],
) -> tuple[Float[Array, "n s"], Float[Array, "n s k"]]:
    """Scores and logits of copies of each image that are hidden in part, M X + (1 - M) X'.

    Args:
      network: what programs are compiled for.
      variables: of the model.
      images: X.
      classes: [n], or None where the score is a function.
      hidden: X', what takes the place of pixels that are not seen.
      masks: M, 1 where the image is seen and 0 where it is not; m is n, or 1 where all images have the same.
    """
    seen = masks[..., None]
    mixed = seen * images[:, None] + (1 - seen) * hidden[:, None]  # exact at 0 and 1
    scores, said = scores_at_copies(network, variables, mixed, classes)
    return scores.astype(jnp.float32), said


def unless_hidden(
    maps: Float[Array, "n h w"], images: Float[Array, "n h w c"], hidden: Float[Array, "n h w c"]
) -> Float[Array, "n h w"]:
    """The maps, zero of an image that equals what hides it: its scores differ in nothing but rounding."""
    return maps * (images != hidden).any((1, 2, 3))[:, None, None]


def patch_of(image_shape: tuple[int, ...]) -> int:
    """An eighth of the shorter side of an image [H, W, C], in pixels, at least 1."""
    return -(-min(image_shape[:2]) // 8)


def _grid(question: Question, hidden: Array, patch: int | None, stride: int | None) -> OcclusionGrid:
    _, height, width, _ = question.images.shape
    check_whole(patch=patch, stride=stride)
    side = patch_of(question.images.shape[1:]) if patch is None else patch
    step = max(1, side // 2) if stride is None else stride
    if not (1 <= side <= min(height, width) and 1 <= step <= side):
        raise InputError(
            f"patch is {side} and stride {step}; expected a patch of 1 to {min(height, width)} pixels, the image's "
            "shorter side, and a stride of 1 to the patch"
        )
    tops, lefts = (np.arange(1 + -(-(length - side) // step)) * step for length in (height, width))
    windows = jnp.asarray(_covered(tops, side, height)), jnp.asarray(_covered(lefts, side, width))
    sums = replace(question, companions=hidden).total(
        len(tops) * len(lefts), partial(_occluded, question.network, question.variables, windows)
    )
    shape = (len(question.images), len(tops), len(lefts))
    probabilities, classes = (values.reshape(shape) for values in sums)
    return OcclusionGrid(probabilities, classes, tops, lefts, side)


def _covered(starts: np.ndarray, patch: int, length: int) -> Bool[np.ndarray, "positions length"]:
    """Which pixels of a row or a column a patch covers at each of its positions."""
    pixels = np.arange(length)
    return (starts[:, None] <= pixels) & (pixels < starts[:, None] + patch)


@compiled(static_argnums=0)
def _occluded(
    network: tuple[nn.Module, Score],
    variables: Any,
    windows: tuple[Array, Array],
    images: Array,
    classes: Array | None,
    hidden: Array,
    numbers: Array,
    weights: Array,
) -> tuple[Float[Array, "n positions"], Int[Array, "n positions"]]:
    """Scores and most likely classes at some positions, each in its place among all positions, the others 0."""
    rows, columns = windows
    covered = rows[numbers // len(columns)][:, :, None] & columns[numbers % len(columns)][:, None, :]
    scores, said = evaluated(network, variables, images, classes, hidden, 1.0 - covered[None])
    nothing = jnp.zeros((len(images), len(rows) * len(columns)))
    likely = said.argmax(-1) * weights.astype(jnp.int32)[None]
    return nothing.at[:, numbers].add(scores * weights[None]), nothing.astype(jnp.int32).at[:, numbers].add(likely)


METHODS = {"occlusion": Method(occlusion, "occlusion", True, "Zeiler & Fergus 2014")}
