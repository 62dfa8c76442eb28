"""ROAD, remove and debias: deletion whose holes are filled so that they cannot be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key

from jaxcnn.analysis.attribution import Targets, ask
from jaxcnn.analysis.metrics import checked_heat, finite, ranks
from jaxcnn.errors import InputError
from jaxcnn.state import State


class Road(NamedTuple):
    """The probability of a class at some shares of removed pixels.

    Attributes:
      shares: of the pixels that are removed, in (0, 1).
      most_relevant_first: probabilities with the most important pixels removed; low for a faithful map.
      least_relevant_first: with the least important ones removed; high for a faithful map.
    """

    shares: Float[Array, " s"]
    most_relevant_first: Float[Array, "n s"]
    least_relevant_first: Float[Array, "n s"]

    @property
    def gap(self) -> Float[Array, " n"]:
        """By how much the second are above the first, averaged over the shares: in [-1, 1], 0 expected by chance."""
        return (self.least_relevant_first - self.most_relevant_first).mean(1)


def road(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    heat: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    region: int = 1,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
) -> Road:
    """The probability of the class with pixels replaced by what their neighbours let expect.

    The replacement hides which pixels were removed, so that their shape tells nothing. It is solved for image by image
    in SciPy, so this cannot be called inside a jit.

    Args:
      model: see `metrics.deletion`, as all arguments up to `region` but the key.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      heat: [N, H, W], higher = more important.
      targets: whose probability.
      key: of the noise, and of the order of equally important pixels; None is `jax.random.key(0)`.
      chunk: images that the network evaluates at once.
      region: side in pixels of the squares that are removed as a whole.
      shares: of the pixels that are removed, each in (0, 1); rounded to pixels, of which at least one stays.
      noise: standard deviation, in pixel values, of what is added to what was filled in; the result is kept in [0, 1].

    Raises:
      InputError, RunError: see `metrics.deletion`; or shares or noise are out of their range.

    Reference: Rong, Leemann, Borisov, Kasneci & Kasneci 2022, "A Consistent and Efficient Evaluation Strategy for
    Attribution Methods", section 4.
    """
    if not shares or not all(0 < share < 1 for share in shares) or not 0 <= noise < math.inf:
        raise InputError(
            f"shares are {tuple(shares)} and noise is {noise}; expected shares in (0, 1) and noise of at least 0"
        )
    question = ask(model, state, images, targets, key=key, chunk=chunk, output="probability").resolved()
    keys = jax.vmap(jax.random.split)(question.companions)
    places = np.asarray(ranks(checked_heat(heat, question.images), keys[:, 0], region))
    count = places[0].size
    curves: list[Array] = []
    for order in (places, count - 1 - places):
        values = []
        for number, share in enumerate(shares):
            removed = order < min(round(share * count), count - 1)
            values.append(question.scores(_imputed(question.images, removed, noise, keys[:, 1], number)))
        curves.append(finite(jnp.stack(values, 1), shares))
    return Road(jnp.asarray(shares, jnp.float32), *curves)


def imputed(image: Float[np.ndarray, "h w c"], removed: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w c"]:
    """The image with each removed pixel the weighted mean of its eight neighbours, removed ones among them.

    x_i = sum_j w_j x_j, w = 1/6 for a direct neighbour and 1/12 for a diagonal one; fewer at the border, scaled to 1

    Args:
      image: what is known.
      removed: which pixels are not; at least one is known.

    Reference: Rong et al. 2022, section 4.2.
    """
    height, width = removed.shape
    weights = _neighbours(height, width)
    gone = removed.ravel()
    if not gone.any():
        return image
    rows = weights[gone]
    system = scipy.sparse.diags_array(rows.sum(1)) - rows[:, gone]
    pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
    # The matrix is symmetric and diagonally dominant: it needs no pivots, and then few numbers are added to it.
    factors = scipy.sparse.linalg.splu(
        system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    pixels[gone] = factors.solve(rows[:, ~gone] @ pixels[~gone])
    return pixels.reshape(image.shape).astype(image.dtype)


def _imputed(given: Array, removed: np.ndarray, noise: float, keys: Array, number: int) -> Array:
    images = np.asarray(given)
    filled = np.stack([imputed(image, gone) for image, gone in zip(images, removed, strict=True)])
    drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), images.shape[1:]))(keys)
    return jnp.where(removed[..., None], jnp.clip(filled + noise * drawn, 0, 1), images)


@cache
def _neighbours(height: int, width: int) -> scipy.sparse.csr_array:
    """The weight of each pixel [row] for each other [column]."""
    places = np.arange(height * width).reshape(height, width)
    half = scipy.sparse.csr_array((height * width, height * width))
    for down, right, weight in ((0, 1, 1 / 6), (1, 0, 1 / 6), (1, 1, 1 / 12), (1, -1, 1 / 12)):
        here = places[: height - down, max(0, -right) : width - max(0, right)].ravel()
        there = places[down:, max(0, right) : width + min(0, right)].ravel()
        half += scipy.sparse.coo_array((np.full(here.size, weight), (here, there)), half.shape)
    return (half + half.T).tocsr()
