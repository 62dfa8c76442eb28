"""Shapley values: what each part of an image is worth, averaged over the orders in which the parts can appear."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxcnn.analysis.attribution import Method, Score, Targets, ask, finish
from jaxcnn.analysis.checks import check_whole, checked_baseline
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.occlusion import evaluated, unless_hidden
from jaxcnn.errors import InputError
from jaxcnn.state import State


def shapley(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    permutations: int = 24,
    cells: int = 8,
    baseline: ArrayLike = 0.0,
) -> Float[Array, "n h w"]:
    """What square cells of the image add to the score when they appear on a baseline in random order.

    phi_i = mean over orders of v(i and all before it) - v(all before it), v the logit y_k of an image of which some
    cells are shown; M = phi_i / |i| at the |i| pixels of cell i

    The sum of M is y_k(X) - y_k(X') whatever the number of orders. Every second order is the one before it reversed,
    so that two are enough where no more than two cells interact.

    Args:
      model: see `saliency.gradient`, as all arguments up to `chunk`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: of the orders; None is `jax.random.key(0)`.
      chunk: images of some cells evaluated at once.
      permutations: orders, at least 1; each costs one evaluation a cell.
      cells: along the image's shorter side, at least 1: their side is ceil(min(H, W) / cells) pixels, and those at the
        right and the lower border are what is left.
      baseline: X' in [0, 1]: a number (0 is black), a colour [C], an image [H, W, C], or images [N, H, W, C].

    Returns:
      M, signed, in logits.

    Raises:
      InputError, RunError: see `saliency.gradient`; or the numbers or the baseline are out of range.

    Reference: Castro, Gomez & Tejada 2009, "Polynomial calculation of the Shapley value based on sampling"; Strumbelj &
    Kononenko 2010, "An Efficient Explanation of Individual Classifications using Game Theory"; of the reversed orders,
    Mitchell, Cooper, Frank & Holmes 2022, "Sampling Permutations for Shapley Value Estimation".
    """
    check_whole(permutations=permutations, cells=cells)
    if permutations < 1 or cells < 1:
        raise InputError(f"permutations is {permutations} and cells {cells}; expected at least 1 of each")
    question = ask(model, state, images, targets, key=key, chunk=chunk).resolved()
    hidden = checked_baseline(baseline, question.images)
    _, height, width, _ = question.images.shape
    players = _players(height, width, cells)
    pixels = np.bincount(players.ravel())
    asked = replace(question, companions=(question.companions, hidden, question.scores(hidden)))
    sums = partial(_sums, question.network, len(pixels), question.variables, jnp.asarray(players))
    values = asked.total(permutations * len(pixels), sums) / permutations
    maps = (values / jnp.asarray(pixels, jnp.float32)[None])[:, players]
    return finish(unless_hidden(maps, question.images, hidden))


def _players(height: int, width: int, cells: int) -> Int[np.ndarray, "height width"]:
    """The number of the cell that each pixel is in."""
    side = -(-min(height, width) // cells)
    rows, columns = np.arange(height) // side, np.arange(width) // side
    return rows[:, None] * (columns[-1] + 1) + columns


def _ranks(key: Array, permutation: Array, count: int) -> Int[Array, " count"]:
    """When each player appears."""
    ranks = jax.random.permutation(jax.random.fold_in(key, permutation // 2), count)
    return jnp.where(permutation % 2 == 0, ranks, count - 1 - ranks)


@compiled(static_argnums=(0, 1))
def _sums(
    network: tuple[nn.Module, Score],
    count: int,
    variables: Any,
    players: Array,
    images: Array,
    classes: Array | None,
    companions: tuple[Array, Array, Array],
    numbers: Array,
    weights: Array,
) -> Float[Array, "n count"]:
    """What each player adds, summed over orders; a sample is an order and one of its players, the last to appear.

    What is worth v with it belongs to that player, and is taken from the next one of the order.
    """
    keys, hidden, nothing = companions
    order, last = numbers // count, (numbers % count)[None, :, None]
    ranks = jax.vmap(lambda key: jax.vmap(lambda number: _ranks(key, number, count))(order))(keys)
    masks = jnp.asarray(ranks <= last, jnp.float32)[:, :, players]
    scores, _ = evaluated(network, variables, images, classes, hidden, masks)
    worth = (scores - nothing[:, None]) * weights[None]
    signs = jnp.asarray(ranks == last, jnp.float32) - jnp.asarray(ranks == last + 1, jnp.float32)
    return jnp.einsum("ns,nsp->np", worth, signs, precision="highest")


METHODS = {"shapley": Method(shapley, "Shapley sampling", True, "Strumbelj & Kononenko 2010")}
