"""The gradient of max pooling without a scatter, which on CPU takes longer than the rest of a small network.

Each window notes which of its pixels won. A pixel then asks the few windows that it lies in whether it did: pixels with
one remainder by the strides lie in windows at the same offsets, so that all of it is comparisons of shifted maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

Pair: TypeAlias = tuple[int, int]

_LARGEST = 16  # pixels of a window, for each of which the program grows


def faster(equation: JaxprEqn, operands: Sequence[Any]) -> list[Array] | None:
    """A rule for `rewriting.rewrite`: max pooling over height and width with the gradient of `max_pool`.

    Args:
      equation: what is computed.
      operands: its values.

    Returns:
      The pooled maps, or None of anything else.
    """
    parameters = equation.params
    if equation.primitive.name != "reduce_window_max" or len(parameters["window_dimensions"]) != 4:
        return None
    (n, *window, c), (m, *strides, d) = parameters["window_dimensions"], parameters["window_strides"]
    first, *padding, last = parameters["padding"]
    dilated = {*parameters["base_dilation"], *parameters["window_dilation"]} != {1}
    if dilated or {n, c, m, d} != {1} or {first, last} != {(0, 0)} or math.prod(window) > _LARGEST:
        return None
    return [max_pool(operands[0], tuple(window), tuple(strides), tuple(padding))]


faster.exact = True  # type: ignore[attr-defined]  # see `rewriting.rewrite`


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(
    x: Float[Array, "n h w c"], window: Pair, strides: Pair, padding: tuple[Pair, Pair]
) -> Float[Array, "n h_out w_out c"]:
    """y[p] = max of x over the window at p; of equal pixels the first, row by row, gets the gradient.

    Args:
      x: maps.
      window: height and width.
      strides: pixels between windows.
      padding: above and below, left and right.
    """
    around = [(0, 0), *padding, (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), around)


def _forward(x: Array, window: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> tuple[Any, tuple[Any, Any]]:
    y = max_pool(x, window, strides, padding)
    return y, (x, y)


def _backward(
    window: Pair, strides: Pair, padding: tuple[Pair, Pair], kept: tuple[Array, Array], g: Array
) -> tuple[Array]:
    x, y = kept
    (count, height, width, channels), (_, rows, columns, _) = x.shape, y.shape
    (kh, kw), (sh, sw), (top, left) = window, strides, (low for low, _ in padding)
    around = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    whole = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), around)
    nobody = kh * kw
    winner = jnp.full(y.shape, nobody, jnp.int16)
    for a in reversed(range(kh)):
        for b in reversed(range(kw)):
            end = (count, a + sh * (rows - 1) + 1, b + sw * (columns - 1) + 1, channels)
            seen = lax.slice(whole, (0, a, b, 0), end, (1, sh, sw, 1))
            winner = jnp.where(seen == y, jnp.int16(kw * a + b), winner)
    # Computed once, and not again for each of the pixels that ask.
    winner, g = lax.optimization_barrier((winner, g))
    # As many groups of strides as it takes to reach the last pixel, and the last window's last pixel.
    tall, wide = -(-max(height + top, kh + sh * (rows - 1)) // sh), -(-max(width + left, kw + sw * (columns - 1)) // sw)

    def moved(values: Array, r: int, s: int, outside: Any) -> Array:
        """Windows r rows above and s columns to the left of each group."""
        sides = ((0, 0), (r, tall - rows - r), (s, wide - columns - s), (0, 0))
        return jnp.pad(values, sides, constant_values=outside)

    def won(p: int, q: int) -> Array:
        """What the pixels with remainders p and q get."""
        total = jnp.zeros((count, tall, wide, channels), g.dtype)
        for r, a in enumerate(range(p, kh, sh)):
            for s, b in enumerate(range(q, kw, sw)):
                total += jnp.where(moved(winner, r, s, nobody) == kw * a + b, moved(g, r, s, 0), 0)
        return total

    groups = jnp.stack([jnp.stack([won(p, q) for q in range(sw)], 3) for p in range(sh)], 2)
    pixels = groups.reshape(count, tall * sh, wide * sw, channels)
    return (pixels[:, top : top + height, left : left + width],)


max_pool.defvjp(_forward, _backward)
