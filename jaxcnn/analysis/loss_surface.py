"""The loss along random directions from the trained parameters, each scaled as the filters that it changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Key

from jaxcnn.analysis.batches import REPEATED, Batches, read
from jaxcnn.errors import InputError
from jaxcnn.state import State


def direction(state: State, key: Key[Array, ""]) -> Any:
    """A random direction among the parameters, normalised filter by filter.

    d_f = |w_f| g_f / |g_f|, g ~ N(0, 1), for each filter or row of weights w_f; 0 for biases and batch norm

    Without this scale two networks cannot be compared: with batch norm, filters ten times as large are the same
    function, whose loss looks ten times as flat.

    Args:
      state: of the network; its averaged parameters, where an average is kept.
      key: decides g.

    Returns:
      A tree like the parameters; its filters have the norms of theirs.

    Reference: Li, Xu, Taylor, Studer & Goldstein, "Visualizing the loss landscape of neural nets", 2018, section 4.
    """
    leaves, structure = jax.tree.flatten(state.variables["params"])
    drawn = [
        jax.random.normal(k, leaf.shape) for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, [_scaled(g, w) for g, w in zip(drawn, leaves, strict=True)])


def slice_1d(
    model: nn.Module,
    state: State,
    batches: Batches,
    along: Any,
    steps: ArrayLike,
    *,
    chunk: int | None = None,
) -> Float[np.ndarray, " a"]:
    """The mean cross-entropy along a line through the parameters.

    L(a) = mean loss at w + a d; the statistics of batch norm stay as they are

    Args:
      model: a module called as `model(images, train=...)` that returns logits [n, K].
      state: its state.
      batches: images and labels, read once.
      along: d, a tree like the parameters: a `direction`, or the difference to other parameters.
      steps: the numbers a.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Returns:
      In nats; not finite where the logits are not.

    Raises:
      InputError: an argument or a batch is not as expected, or there are no images.

    Reference: Goodfellow, Vinyals & Saxe, "Qualitatively characterizing neural network optimization problems", 2015.
    """
    line = _range("steps", steps)
    return _losses(model, state, batches, (along,), line[:, None], chunk)


def slice_2d(
    model: nn.Module,
    state: State,
    batches: Batches,
    along: tuple[Any, Any],
    rows: ArrayLike,
    columns: ArrayLike,
    *,
    chunk: int | None = None,
) -> Float[np.ndarray, "a b"]:
    """The mean cross-entropy on a plane through the parameters.

    L(a, b) = mean loss at w + a d + b e

    Args:
      model: see `slice_1d`.
      state: its state.
      batches: images and labels, read once.
      along: d and e, trees like the parameters.
      rows: the numbers a.
      columns: the numbers b.
      chunk: see `slice_1d`.

    Returns:
      In nats; not finite where the logits are not.

    Raises:
      InputError: see `slice_1d`.

    Reference: see `direction`.
    """
    a, b = _range("rows", rows), _range("columns", columns)
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1)
    return _losses(model, state, batches, along, grid.reshape(-1, 2), chunk).reshape(len(a), len(b))


def _scaled(g: Array, w: Array) -> Array:
    if w.ndim < 2:
        return jnp.zeros_like(g)
    axes = tuple(range(w.ndim - 1))  # the last axis counts the filters
    wanted, drawn = (jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (w, g))
    return g * (wanted / drawn)


def _range(name: str, values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, np.float32)
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise InputError(f"{name} are {np.asarray(values).tolist()}; expected a list of finite numbers")
    return numbers


def _losses(
    model: nn.Module, state: State, batches: Batches, along: Sequence[Any], points: np.ndarray, chunk: int | None
) -> Float[np.ndarray, " m"]:
    """The mean loss at each of the points [M, directions], all images being read once."""
    shapes = jax.tree.map(jnp.shape, state.variables["params"])
    for tree in along:
        if jax.tree.map(jnp.shape, tree) != shapes:
            raise InputError("a direction has other names or shapes than the parameters; expected a tree like them")
    stream = read(model, state, batches, chunk)[1]
    sums: list[Array] = []
    count = 0
    for images, labels in stream:
        sums.append(
            jnp.stack([_loss(model, state.variables, tuple(along), jnp.asarray(p), images, labels) for p in points])
        )
        count += int((labels != REPEATED).sum())
    return np.sum([np.asarray(part, np.float64) for part in sums], axis=0) / count


@partial(jax.jit, static_argnums=0)
def _loss(
    model: nn.Module, variables: Any, along: tuple[Any, ...], point: Array, images: Array, labels: Array
) -> Float[Array, ""]:
    def moved(value: Array, *steps: Array) -> Array:
        return value + sum(point[i] * step for i, step in enumerate(steps))

    params = jax.tree.map(moved, variables["params"], *along)
    logits: Any = model.apply({**variables, "params": params}, images, train=False)
    counts = labels != REPEATED
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, labels, 0))
    return jnp.where(counts, losses, 0).sum()
