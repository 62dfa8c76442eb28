"""Where a kernel meets an image: sizes, paddings, and the receptive fields stretched into a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

from jaxcnn.errors import InputError

Sizes = tuple[int, ...]
Sides = tuple[tuple[int, int], ...]
Numbers = SupportsIndex | Sequence[SupportsIndex]
"""One integer, or one for every dimension, as a caller may write it; `Sizes` once it is checked."""
Padding = SupportsIndex | Sequence[Sequence[SupportsIndex]]
"""One integer for all sides, or (low, high) for every dimension; `Sides` once it is checked."""


def output_size(n: int, f: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """How often a kernel fits along one dimension.

    outputs = floor((n + 2 padding - dilation (f - 1) - 1) / stride) + 1

    Args:
      n: size of the input, in pixels.
      f: size of the kernel, in taps.
      stride: pixels between outputs, at least 1.
      padding: zeros on either side.
      dilation: pixels between taps, at least 1.

    Returns:
      Outputs; below 1 where the kernel is larger than the padded input.

    Examples:
      >>> output_size(32, 5), output_size(224, 7, stride=2, padding=3)
      (28, 112)

    Reference: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 5.1.
    """
    return (n + 2 * padding - dilation * (f - 1) - 1) // stride + 1


def output_sizes(size: Sizes, kernel_size: Sizes, strides: Sizes, padding: Sides, dilation: Sizes) -> Sizes:
    """`output_size` along every dimension, with `padding` before and after."""
    dimensions = zip(size, kernel_size, strides, padding, dilation, strict=True)
    return tuple(output_size(n + low + high, f, s, 0, d) for n, f, s, (low, high), d in dimensions)


def geometry(
    given: str,
    size: Sizes,
    kernel_size: Numbers,
    strides: Numbers,
    padding: Padding,
    dilation: Numbers = 1,
    *,
    kernel: str = "kernel size",
) -> tuple[Sizes, Sizes, Sides, Sizes]:
    """The options of a convolution written out for every dimension, and checked.

    Args:
      given: the operation and the shapes it was given, as a message begins.
      size: of the input, in pixels.
      kernel_size: in taps, one number or one for every dimension, at least 1.
      strides: one number, or one for every dimension, at least 1.
      padding: one number for all sides, or (low, high) for every dimension, at least 0.
      dilation: one number, or one for every dimension, at least 1.
      kernel: what a message calls the kernel size.

    Returns:
      kernel size; strides; padding, less the pixels at the end that a stride leaves unseen, so that the last window
      ends where the padded input does; and dilation.

    Raises:
      InputError: more than two dimensions, as many integers not given, one of them too small, or a kernel larger than
        the padded input.
    """
    dimensions = len(size)
    if dimensions not in (1, 2):
        raise InputError(f"{given}; expected input [N, W, C] or [N, H, W, C]")
    kernel_size = each(given, kernel, kernel_size, dimensions)
    strides = each(given, "strides", strides, dimensions)
    dilation = each(given, "dilation", dilation, dimensions)
    sides = each_side(given, padding, dimensions)
    ends = []
    for n, f, s, (low, high), d in zip(size, kernel_size, strides, sides, dilation, strict=True):
        room = n + low + high - d * (f - 1) - 1
        if room < 0:
            dilated = f" and dilation {dilation}" if max(dilation) > 1 else ""
            raise InputError(
                f"{given} with padding {sides}{dilated}; expected a {kernel} no larger than the padded input"
            )
        ends.append((low, high - room % s))
    return kernel_size, strides, tuple(ends), dilation


def each(given: str, name: str, value: Numbers, dimensions: int) -> Sizes:
    """An option written out for every dimension, in integers of at least 1."""
    numbers = _integers(value, (dimensions,))
    if numbers is None or numbers.min() < 1:
        raise InputError(f"{given} with {name} {value}; expected an integer of at least 1, or {dimensions} of them")
    return tuple(numbers.tolist())


def each_side(given: str, padding: Padding, dimensions: int) -> Sides:
    """A padding written out for both sides of every dimension, in integers of at least 0."""
    numbers = _integers(padding, (dimensions, 2))
    if numbers is None or numbers.min() < 0:
        expected = ", ".join(["(low, high)"] * dimensions)
        raise InputError(f"{given} with padding {padding}; expected one number of at least 0 or ({expected})")
    return tuple((low, high) for low, high in numbers.tolist())


def _integers(value: Any, shape: Sizes) -> np.ndarray | None:
    """The integers of a shape, from as many or from one alone; None where the value is neither."""
    try:
        numbers = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return np.broadcast_to(numbers, shape) if numbers.dtype.kind in "iu" and numbers.shape in ((), shape) else None


def wide(x: Num[Array, "*shape"]) -> Num[Array, "*shape"]:
    """In at least float32: half precision would round every partial sum."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def dilate(x: Float[Array, "n *size c"], strides: Sizes) -> Float[Array, "n *dilated c"]:
    """Pixels `strides` apart, with zeros in between: n become strides (n - 1) + 1."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)))


def pad(x: Num[Array, "n *size c"], padding: Sides, value: float = 0) -> Num[Array, "n *padded c"]:
    """One value around every image; a negative number cuts pixels off."""
    sides = ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), sides)


def unpad(x: Num[Array, "n *padded c"], padding: Sides) -> Num[Array, "n *size c"]:
    """Every image without what `pad` put around it; pixels that were cut off are zeros."""
    return pad(x, tuple((-low, -high) for low, high in padding))


def taps(kernel_size: Sizes) -> Int[Array, "taps dimensions"]:
    """Where every tap of a kernel is, in reading order; the loops over them are compiled once for all taps."""
    return jnp.array(list(np.ndindex(*kernel_size)))


def start(tap: Int[Array, " dimensions"], dilation: Sizes) -> tuple[Any, ...]:
    """The first pixel that one tap meets, as an index of [N, *size, C]."""
    return 0, *(a * d for a, d in zip(tap, dilation, strict=True)), 0


def seen(
    x: Num[Array, "n *padded c"],
    tap: Int[Array, " dimensions"],
    outputs: Sizes,
    strides: Sizes,
    dilation: Sizes,
) -> Num[Array, "n *outputs c"]:
    """The pixels x[n, p stride + tap dilation, c] that one tap of the kernel meets, one for every output p."""
    reach = (s * (p - 1) + 1 for p, s in zip(outputs, strides, strict=True))
    every = (slice(None, None, s) for s in strides)
    return lax.dynamic_slice(x, start(tap, dilation), (x.shape[0], *reach, x.shape[-1]))[(slice(None), *every)]


def im2col(
    x: Num[Array, "n *size c"],
    kernel_size: Numbers,
    *,
    strides: Numbers = 1,
    padding: Padding = 0,
    kernel_dilation: Numbers = 1,
) -> Num[Array, "taps_c n_outputs"]:
    """Stretch every receptive field into a column.

    X_col[(a, i), (n, p)] = x[n, p stride + a dilation - low, i]

    so that a convolution is Z = W X_col with a filter in every row of W. A 4x4x3 image under 2x2 kernels of stride 2
    gives X_col 12x4; two such filters are W 2x12, and Z is 2x4.

    Args:
      x: [N, W, C] or [N, H, W, C].
      kernel_size: taps along every dimension; one number serves all.
      strides: pixels between receptive fields, at least 1.
      padding: zeros around the image: one number for all sides, or (low, high) for every dimension.
      kernel_dilation: pixels between taps, at least 1.

    Returns:
      [taps C, N outputs]: down a column, tap after tap in reading order, the channels of each together; along a row,
      image after image, the outputs of each in reading order.

    Raises:
      InputError: a kernel size or options that do not fit the input.

    Reference: Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing",
    2006, section 2.
    """
    given = f"im2col got input {x.shape} and kernel size {kernel_size}"
    return _im2col(x, *geometry(given, x.shape[1:-1], kernel_size, strides, padding, kernel_dilation))


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _im2col(x: Array, kernel_size: Sizes, strides: Sizes, padding: Sides, dilation: Sizes) -> Array:
    outputs = output_sizes(x.shape[1:-1], kernel_size, strides, padding, dilation)
    x = pad(x, padding)
    rows = lax.map(lambda a: seen(x, a, outputs, strides, dilation), taps(kernel_size))
    return jnp.moveaxis(rows, -1, 1).reshape(len(rows) * x.shape[-1], x.shape[0] * math.prod(outputs))


def col2im(
    columns: Float[Array, "taps_c n_outputs"],
    shape: Sizes,
    kernel_size: Numbers,
    *,
    strides: Numbers = 1,
    padding: Padding = 0,
    kernel_dilation: Numbers = 1,
) -> Float[Array, "n *size c"]:
    """The transpose of `im2col`: every number back to the pixel it came from, where overlapping fields add up.

    x[n, q, i] = sum of columns[(a, i), (n, p)] over the a and p with p stride + a dilation - low = q

    Args:
      columns: [taps C, N outputs], ordered as `im2col` orders them.
      shape: of x, [N, W, C] or [N, H, W, C].
      kernel_size: as for `im2col`, like all options.
      strides: as for `im2col`.
      padding: as for `im2col`.
      kernel_dilation: as for `im2col`.

    Returns:
      x, in the given shape.

    Raises:
      InputError: columns, a kernel size or options that do not fit the shape.

    Reference: Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing",
    2006, section 2.
    """
    n, *size, c = shape
    given = f"col2im got input {shape} and kernel size {kernel_size}"
    options = geometry(given, tuple(size), kernel_size, strides, padding, kernel_dilation)
    expected = math.prod(options[0]) * c, n * math.prod(output_sizes(tuple(size), *options))
    if columns.shape != expected:
        raise InputError(
            f"columns {columns.shape} do not fit input {shape} and kernel size {kernel_size}; expected {expected}"
        )
    return _col2im(columns, tuple(shape), *options)


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _col2im(columns: Array, shape: Sizes, kernel_size: Sizes, strides: Sizes, padding: Sides, dilation: Sizes) -> Array:
    n, *size, c = shape
    outputs = output_sizes(tuple(size), kernel_size, strides, padding, dilation)
    rows = jnp.moveaxis(wide(columns).reshape(math.prod(kernel_size), c, n, *outputs), 1, -1)
    padded = tuple(m + low + high for m, (low, high) in zip(size, padding, strict=True))

    def add_tap(x: Array, tap: Any) -> tuple[Array, None]:
        a, row = tap
        return x + lax.dynamic_update_slice(jnp.zeros_like(x), dilate(row, strides), start(a, dilation)), None

    x, _ = lax.scan(add_tap, jnp.zeros((n, *padded, c), rows.dtype), (taps(kernel_size), rows))
    return unpad(x, padding).astype(columns.dtype)
