"""Pooling as modules, so that a pooled map has a name, a row in every table and a place in the receptive field."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.errors import InputError

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _sides(
    x: Array, window: int | Pair, strides: int | Pair, padding: int | Sides, ceil_mode: bool
) -> tuple[Sides, Sides]:
    """The padding of a pooling layer, and what `ceil_mode` adds below and to the right for the last window.

    A window that would start beyond the image and its first padding is left out, as in PyTorch.

    Args:
      x: the input [N, H, W, C].
      window: height and width pooled together.
      strides: pixels between windows.
      padding: one number for all sides, or ((top, bottom), (left, right)).
      ceil_mode: count a last window that the image fills in part.

    Raises:
      InputError: the window is larger than the padded image, so that there is no output.
    """
    asked = (_pair(padding), _pair(padding)) if isinstance(padding, int) else padding
    added = []
    for n, k, s, (low, high) in zip(x.shape[1:3], _pair(window), _pair(strides), asked, strict=True):
        count = (n + low + high - k + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= n + low:
            count -= 1
        if count < 1:
            raise InputError(
                f"pooling got a map of {x.shape[1]}x{x.shape[2]} with padding {asked}; expected at least its window, "
                f"{window}"
            )
        added.append((0, max(0, (count - 1) * s + k - (n + low + high))))
    return asked, (added[0], added[1])


def _reduce(x: Array, start: float, function: Any, window: Pair, strides: Pair, asked: Sides, added: Sides) -> Array:
    padding = [(low, high + more) for (low, high), (_, more) in zip(asked, added, strict=True)]
    return lax.reduce_window(x, start, function, (1, *window, 1), (1, *strides, 1), [(0, 0), *padding, (0, 0)])


class MaxPool(nn.Module):
    """y[p] = max of x over the window at p; padding never wins.

    Attributes:
      window: height and width pooled together; one number serves both.
      strides: pixels between windows; None takes the window's size, so that windows do not overlap.
      padding: one number for all sides, or ((top, bottom), (left, right)).
      ceil_mode: count a last window that the image fills in part.
    """

    window: int | Pair
    strides: int | Pair | None = None
    padding: int | Sides = 0
    ceil_mode: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        """Pools [N, H, W, C]; raises InputError if the map is smaller than the window."""
        strides = self.window if self.strides is None else self.strides
        asked, added = _sides(x, self.window, strides, self.padding, self.ceil_mode)
        return _reduce(x, -jnp.inf, lax.max, _pair(self.window), _pair(strides), asked, added)


class AveragePool(nn.Module):
    """y[p] = mean of x over the window at p.

    Attributes:
      window: height and width pooled together; one number serves both.
      strides: pixels between windows; None takes the window's size, so that windows do not overlap.
      padding: one number for all sides, or ((top, bottom), (left, right)).
      ceil_mode: count a last window that the image fills in part.
      count_padding: whether zeros of `padding` count in the mean; those of `ceil_mode` never do.
    """

    window: int | Pair
    strides: int | Pair | None = None
    padding: int | Sides = 0
    ceil_mode: bool = False
    count_padding: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        """Pools [N, H, W, C]; raises InputError if the map is smaller than the window."""
        window, strides = _pair(self.window), _pair(self.window if self.strides is None else self.strides)
        asked, added = _sides(x, window, strides, self.padding, self.ceil_mode)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # half precision would round every partial sum
        total = _reduce(wide, 0.0, lax.add, window, strides, asked, added)
        counts = []
        for n, k, s, (low, high), (_, more) in zip(x.shape[1:3], window, strides, asked, added, strict=True):
            real = np.ones(n + low + high) if self.count_padding else np.pad(np.ones(n), (low, high))
            counts.append(np.convolve(np.pad(real, (0, more)), np.ones(k), "valid")[::s])
        share = jnp.asarray(1 / np.outer(*counts), total.dtype)
        return (total * share[None, :, :, None]).astype(x.dtype)


class AdaptiveAveragePool(nn.Module):
    """y[p] = mean of x from floor(p n / m) to ceil((p + 1) n / m): m outputs of any n inputs, per side.

    Attributes:
      output_size: height and width of the output; one number serves both.
    """

    output_size: int | Pair

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        """Pools [N, H, W, C] to the output size."""
        size = _pair(self.output_size)
        if x.shape[1:3] == size:
            return x
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        rows, columns = (jnp.asarray(_shares(n, m), wide.dtype) for n, m in zip(x.shape[1:3], size, strict=True))
        return jnp.einsum("nhwc,ph,qw->npqc", wide, rows, columns, precision=lax.Precision.HIGHEST).astype(x.dtype)


def _shares(inputs: int, outputs: int) -> np.ndarray:
    """The weight [outputs, inputs] of every input in every mean."""
    weights = np.zeros((outputs, inputs))
    for p in range(outputs):
        first, last = p * inputs // outputs, -(-(p + 1) * inputs // outputs)
        weights[p, first:last] = 1 / (last - first)
    return weights


class GlobalAveragePool(nn.Module):
    """y[c] = mean of x over height and width."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
        """Maps [N, H, W, C] to [N, C], in at least float32, as the last layer takes it."""
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean(axis=(1, 2))
