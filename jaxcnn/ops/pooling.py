"""Max pooling and average pooling, and where their gradients go."""

from __future__ import annotations

from itertools import product

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcnn.errors import InputError
from jaxcnn.ops.im2col import Numbers, Padding, Sides, each_side, geometry, output_sizes, pad, unpad, wide
from jaxcnn.ops.op import Op, check_floating


def _geometry(
    name: str, x: Array, window: Numbers, strides: Numbers | None, padding: Padding
) -> tuple[Sides, list[tuple[slice, slice]]]:
    """The padding per side, and for every offset in the window, in reading order, the pixels found there."""
    if x.ndim != 4:
        raise InputError(f"{name} got images {x.shape}; expected [N, H, W, C]")
    given, size = f"{name} got images {x.shape} and window {window}", x.shape[1:3]
    wanted = each_side(given, padding, 2)
    strides = window if strides is None else strides
    window, strides, sides, dilation = geometry(given, size, window, strides, wanted, kernel="window")
    # Padding as large as the window would make a window of padding alone, which has no maximum.
    if 0 in size or any(max(side) >= f for side, f in zip(wanted, window, strict=True)):
        raise InputError(
            f"{given} with padding {wanted}; expected at least one pixel, and padding less than the window"
        )
    outputs = output_sizes(size, window, strides, sides, dilation)
    rows, columns = (
        [slice(a, a + s * (p - 1) + 1, s) for a in range(f)] for f, s, p in zip(window, strides, outputs, strict=True)
    )
    return sides, list(product(rows, columns))


def max_pool_forward(
    x: Float[Array, "n h w c"],
    *,
    window: Numbers,
    strides: Numbers | None = None,
    padding: Padding = 0,
) -> tuple[
    Float[Array, "n h_out w_out c"],
    tuple[Float[Array, "n h w c"], Int[Array, "n h_out w_out c"]],
]:
    """Max pooling: the largest pixel of every window, channel by channel.

    z[p] = max over offset a of x[p stride + a - low]

    Padding is -inf and loses to every finite pixel.

    Args:
      x: [N, H, W, C].
      window: height and width pooled together, in pixels; one number serves both.
      strides: pixels between windows, at least 1; None takes the window's size, so that windows do not overlap.
      padding: pixels around the image, less than the window: one number for all sides, or
        ((top, bottom), (left, right)).

    Returns:
      z [N, H', W', C] with H' = floor((H + top + bottom - window) / stride) + 1; saved: x, and for every window the
      number of the winning offset in reading order, the first one where several pixels are equal.

    Raises:
      InputError: integers; or a window, strides or padding that do not fit the images.

    Examples:
      >>> z, _ = max_pool_forward(jnp.arange(16.0).reshape(1, 4, 4, 1), window=2)
      >>> z[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]

    Reference: Boureau, Ponce & LeCun, "A theoretical analysis of feature pooling in visual recognition", 2010.
    """
    check_floating("max pool", x=x)
    sides, offsets = _geometry("max pool", x, window, strides, padding)
    padded = pad(x, sides, -jnp.inf)
    pixels = jnp.stack([padded[:, rows, columns] for rows, columns in offsets])
    return jnp.max(pixels, axis=0), (x, jnp.argmax(pixels, axis=0))


def max_pool_backward(
    saved: tuple[Float[Array, "n h w c"], Int[Array, "n h_out w_out c"]],
    dz: Float[Array, "n h_out w_out c"],
    *,
    window: Numbers,
    strides: Numbers | None = None,
    padding: Padding = 0,
) -> tuple[Float[Array, "n h w c"]]:
    """The gradient of a maximum goes to the arg-max only.

    dz[p]/dx[q] = 1 where q is the pixel that won window p, else 0;  dx[q] = sum of dz[p] over the windows p that q won

    Of equal pixels the first in reading order takes all of it, as in PyTorch.

    Args:
      saved: x, and the winning offset of every window.
      dz: dL/dz, [N, H', W', C].
      window: as forward.
      strides: as forward.
      padding: as forward.

    Returns:
      dx as x.
    """
    x, winner = saved
    sides, offsets = _geometry("max pool", x, window, strides, padding)
    dpadded = pad(jnp.zeros_like(wide(x)), sides)
    for number, (rows, columns) in enumerate(offsets):
        dpadded = dpadded.at[:, rows, columns].add(jnp.where(winner == number, wide(dz), 0))
    return (unpad(dpadded, sides).astype(x.dtype),)


max_pool = Op(max_pool_forward, max_pool_backward)
"""The op of `max_pool_forward` and `max_pool_backward`."""


def average_pool_forward(
    x: Float[Array, "n h w c"],
    *,
    window: Numbers,
    strides: Numbers | None = None,
    padding: Padding = 0,
) -> tuple[Float[Array, "n h_out w_out c"], Float[Array, "n h w c"]]:
    """Average pooling: the mean of every window, channel by channel.

    z[p] = 1/(window size) sum over offset a of x[p stride + a - low]

    Padding counts as zeros in the mean, PyTorch's count_include_pad=True.

    Args:
      x: [N, H, W, C].
      window: height and width pooled together, in pixels; one number serves both.
      strides: pixels between windows, at least 1; None takes the window's size, so that windows do not overlap.
      padding: zeros around the image, less than the window: one number for all sides, or
        ((top, bottom), (left, right)).

    Returns:
      z [N, H', W', C] with H' = floor((H + top + bottom - window) / stride) + 1; saved: x.

    Raises:
      InputError: integers; or a window, strides or padding that do not fit the images.

    Reference: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", 1998,
    section II.
    """
    check_floating("average pool", x=x)
    sides, offsets = _geometry("average pool", x, window, strides, padding)
    padded = pad(x, sides)
    pixels = jnp.stack([padded[:, rows, columns] for rows, columns in offsets])
    return jnp.mean(pixels, axis=0), x


def average_pool_backward(
    saved: Float[Array, "n h w c"],
    dz: Float[Array, "n h_out w_out c"],
    *,
    window: Numbers,
    strides: Numbers | None = None,
    padding: Padding = 0,
) -> tuple[Float[Array, "n h w c"]]:
    """The gradient of a mean goes to every pixel of the window in equal parts.

    dz[p]/dx[q] = 1/(window size) where q lies in window p, else 0;  dx[q] = 1/(window size) sum of dz[p] over the
    windows p that hold q

    Args:
      saved: x, for its shape.
      dz: dL/dz, [N, H', W', C].
      window: as forward.
      strides: as forward.
      padding: as forward.

    Returns:
      dx as x.
    """
    x = saved
    sides, offsets = _geometry("average pool", x, window, strides, padding)
    dpadded = pad(jnp.zeros_like(wide(x)), sides)
    for rows, columns in offsets:
        dpadded = dpadded.at[:, rows, columns].add(wide(dz) / len(offsets))
    return (unpad(dpadded, sides).astype(x.dtype),)


average_pool = Op(average_pool_forward, average_pool_backward)
"""The op of `average_pool_forward` and `average_pool_backward`."""


def global_average_pool_forward(x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n c"], Float[Array, "n h w c"]]:
    """Global average pooling: one mean per channel.

    z[c] = 1/(H W) sum over h and w of x[h, w, c]

    Args:
      x: [N, H, W, C].

    Returns:
      z [N, C]; saved: x.

    Raises:
      InputError: integers, or images without pixels.

    Reference: Lin, Chen & Yan, "Network in network", 2014, section 3.2.
    """
    check_floating("global average pool", x=x)
    if x.ndim != 4 or 0 in x.shape[1:3]:
        raise InputError(f"global average pool got images {x.shape}; expected [N, H, W, C] with at least one pixel")
    return jnp.mean(x, axis=(1, 2)), x


def global_average_pool_backward(
    saved: Float[Array, "n h w c"], dz: Float[Array, "n c"]
) -> tuple[Float[Array, "n h w c"]]:
    """Every pixel takes an equal part.

    dx[h, w, c] = dz[c] / (H W)

    Args:
      saved: x, for its shape.
      dz: dL/dz, [N, C].

    Returns:
      dx as x.
    """
    n, h, w, c = saved.shape
    part = wide(dz).reshape(n, 1, 1, c) / (h * w)
    return (jnp.broadcast_to(part.astype(saved.dtype), saved.shape),)


global_average_pool = Op(global_average_pool_forward, global_average_pool_backward)
"""The op of `global_average_pool_forward` and `global_average_pool_backward`."""
