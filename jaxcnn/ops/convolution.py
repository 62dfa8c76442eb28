"""Convolution in one and two dimensions, three ways that agree: by definition, as a matrix product, by the library.

Shapes are [N, W, C] with kernels [k, C / groups, features], or [N, H, W, C] with [kh, kw, C / groups, features]; the
code is the same. As in every framework, a convolution is a cross-correlation: the kernel applies as it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from jaxcnn.errors import InputError
from jaxcnn.ops.im2col import (
    Numbers,
    Padding,
    Sides,
    Sizes,
    col2im,
    dilate,
    geometry,
    im2col,
    output_sizes,
    pad,
    seen,
    taps,
    wide,
)
from jaxcnn.ops.op import Op, check_floating


def turn(kernel: Float[Array, "*size c features"]) -> Float[Array, "*size c features"]:
    """The kernel turned by 180 degrees: its last tap first along every dimension."""
    return jnp.flip(kernel, tuple(range(kernel.ndim - 2)))


def full_padding(kernel_size: Sizes, padding: Sides, dilation: Sizes) -> Sides:
    """Zeros with which the kernel overlaps the image by as little as one tap, less those that `padding` had added."""
    reach = [d * (f - 1) for f, d in zip(kernel_size, dilation, strict=True)]
    return tuple((r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True))


@partial(jax.jit, static_argnames=("strides", "padding", "dilation"))
def convolve(
    x: Float[Array, "n *size c"],
    kernel: Float[Array, "*kernel_size c features"],
    strides: Sizes,
    padding: Sides,
    dilation: Sizes,
) -> Float[Array, "n *outputs features"]:
    """The definition, of one group: a sum over the kernel's taps, each times the pixels it meets.

    z[n, p, o] = sum over tap a and channel i of x[n, p stride + a dilation - low, i] kernel[a, i, o]
    """
    kernel_size, dtype = kernel.shape[:-2], x.dtype
    outputs = output_sizes(x.shape[1:-1], kernel_size, strides, padding, dilation)
    x, kernel = wide(pad(x, padding)), wide(kernel)

    def add_tap(z: Array, tap: Any) -> tuple[Array, None]:
        a, weights = tap
        return z + seen(x, a, outputs, strides, dilation) @ weights, None

    z = jnp.zeros((x.shape[0], *outputs, kernel.shape[-1]), x.dtype)
    z, _ = lax.scan(add_tap, z, (taps(kernel_size), kernel.reshape(math.prod(kernel_size), *kernel.shape[-2:])))
    return z.astype(dtype)


def convolution_forward(
    x: Num[Array, "n *size c"],
    kernel: Num[Array, "*kernel_size c_group features"],
    *,
    strides: Numbers = 1,
    padding: Padding = 0,
    groups: int = 1,
    kernel_dilation: Numbers = 1,
) -> tuple[Float[Array, "n *outputs features"], tuple[Array, Array]]:
    """Convolution by the definition, with gradients that are convolutions themselves.

    z[n, p, o] = sum over tap a and channel i of x[n, p stride + a dilation - low, i] kernel[a, i, o]

    as z11 = f11 x11 + f12 x12 + f21 x21 + f22 x22 in one channel, and backward

    dF = X * dZ  with the batch in the place of the channels, stride and dilation in each other's
    dX = full convolution of dZ, dilated by the stride, with F turned by 180 degrees

    Args:
      x: [N, W, C] or [N, H, W, C].
      kernel: [k, C / groups, features] or [kh, kw, C / groups, features], of the dtype of `x`.
      strides: pixels between outputs, at least 1; one number serves every dimension.
      padding: zeros around the image: one number for all sides, or (low, high) for every dimension.
      groups: number of equal runs of channels convolved apart from each other, at least 1.
      kernel_dilation: pixels between the kernel's taps, at least 1; one number serves every dimension.

    Returns:
      z, [N, outputs, features] or [N, rows, columns, features], of `output_size` along every dimension; and x and
      kernel, which the gradients need.

    Raises:
      InputError: integers, shapes or dtypes that do not fit each other, the groups or the options, or a kernel larger
        than the padded input.

    Examples:
      >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
      >>> z, _ = convolution_forward(x, jnp.ones((2, 2, 1, 1)))
      >>> z[0, :, :, 0].tolist()
      [[8.0, 12.0], [20.0, 24.0]]

    Reference: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.
    """
    _, strides, padding, dilation = _checked(x, kernel, strides, padding, groups, kernel_dilation)

    def forward(x: Array, kernel: Array) -> Array:
        return convolve(x, kernel, strides, padding, dilation)

    return _per_group(forward, groups, x, kernel), (x, kernel)


def convolution_backward(
    saved: tuple[Array, Array],
    dz: Float[Array, "n *outputs features"],
    *,
    strides: Numbers = 1,
    padding: Padding = 0,
    groups: int = 1,
    kernel_dilation: Numbers = 1,
) -> tuple[Float[Array, "n *size c"], Float[Array, "*kernel_size c_group features"]]:
    """The gradients by the input and the kernel, each a convolution; see `convolution_forward`.

    Args:
      saved: x and kernel.
      dz: dL/dz, in the shape of z.
      strides: as forward, like all options.
      padding: as forward.
      groups: as forward.
      kernel_dilation: as forward.

    Returns:
      dL/dx and dL/dkernel.
    """
    _, strides, padding, dilation = _checked(*saved, strides, padding, groups, kernel_dilation)

    def backward(x: Array, kernel: Array, dz: Array) -> tuple[Array, Array]:
        dkernel = convolve(x.swapaxes(0, -1), _batch_as_channels(dz), dilation, padding, strides)
        full = full_padding(kernel.shape[:-2], padding, dilation)
        one = (1,) * len(strides)
        dx = convolve(dilate(dz, strides), turn(kernel).swapaxes(-1, -2), one, full, dilation)
        return dx, _batch_as_channels(dkernel)

    return _per_group(backward, groups, *saved, dz)


convolution = Op(convolution_forward, convolution_backward)
"""The op of `convolution_forward` and `convolution_backward`."""


def convolution_im2col_forward(
    x: Num[Array, "n *size c"],
    kernel: Num[Array, "*kernel_size c_group features"],
    *,
    strides: Numbers = 1,
    padding: Padding = 0,
    groups: int = 1,
    kernel_dilation: Numbers = 1,
) -> tuple[Float[Array, "n *outputs features"], tuple[Array, Array]]:
    """Convolution as a matrix product, with the product's own gradients.

    Z = W X_col;  dW = dZ X_col^T;  dX = col2im(W^T dZ)

    with a filter in every row of W [features, taps C], a receptive field in every column of X_col [taps C, N outputs],
    and a feature in every row of Z [features, N outputs]; every group is a product of its own.

    Args:
      x: as for `convolution`, like all arguments.
      kernel: as for `convolution`.
      strides: as for `convolution`.
      padding: as for `convolution`.
      groups: as for `convolution`.
      kernel_dilation: as for `convolution`.

    Returns:
      z as `convolution` shapes it; and x and kernel, which the gradients need.

    Raises:
      InputError: as `convolution`.

    Reference: Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing",
    2006, section 2.
    """
    outputs = output_sizes(x.shape[1:-1], *_checked(x, kernel, strides, padding, groups, kernel_dilation))
    options = {"strides": strides, "padding": padding, "kernel_dilation": kernel_dilation}

    def forward(x: Array, kernel: Array) -> Array:
        x_col = im2col(x, kernel.shape[:-2], **options)
        w = kernel.reshape(-1, kernel.shape[-1]).T
        z = w @ x_col
        return z.T.reshape(x.shape[0], *outputs, kernel.shape[-1])

    return _per_group(forward, groups, x, kernel), (x, kernel)


def convolution_im2col_backward(
    saved: tuple[Array, Array],
    dz: Float[Array, "n *outputs features"],
    *,
    strides: Numbers = 1,
    padding: Padding = 0,
    groups: int = 1,
    kernel_dilation: Numbers = 1,
) -> tuple[Float[Array, "n *size c"], Float[Array, "*kernel_size c_group features"]]:
    """The gradients by the input and the kernel, each a matrix product; see `convolution_im2col_forward`.

    X_col is stretched again and not kept: it is as many times larger than x as the kernel has taps.

    Takes and returns what `convolution_backward` does.
    """
    options = {"strides": strides, "padding": padding, "kernel_dilation": kernel_dilation}

    def backward(x: Array, kernel: Array, dz: Array) -> tuple[Array, Array]:
        x_col = im2col(x, kernel.shape[:-2], **options)
        w = kernel.reshape(-1, kernel.shape[-1]).T
        dz = dz.reshape(-1, dz.shape[-1]).T
        dw = dz @ x_col.T
        dx = col2im(w.T @ dz, x.shape, kernel.shape[:-2], **options)
        return dx, dw.T.reshape(kernel.shape)

    return _per_group(backward, groups, *saved, dz)


convolution_im2col = Op(convolution_im2col_forward, convolution_im2col_backward)
"""The op of `convolution_im2col_forward` and `convolution_im2col_backward`."""


def convolution_library(
    x: Num[Array, "n *size c"],
    kernel: Num[Array, "*kernel_size c_group features"],
    *,
    strides: Numbers = 1,
    padding: Padding = 0,
    groups: int = 1,
    kernel_dilation: Numbers = 1,
) -> Float[Array, "n *outputs features"]:
    """The library's convolution, with the library's gradients: what the other two are compared with.

    Takes, returns and raises what `convolution` does.
    """
    _, strides, padding, dilation = _checked(x, kernel, strides, padding, groups, kernel_dilation)
    size = "HW"[-len(strides) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{size}C", f"{size}IO", f"N{size}C"),
        feature_group_count=groups,
    )


def _checked(
    x: Array, kernel: Array, strides: Numbers, padding: Padding, groups: int, dilation: Numbers
) -> tuple[Sizes, Sizes, Sides, Sizes]:
    check_floating("a convolution", input=x, kernel=kernel)
    if x.ndim != kernel.ndim or x.ndim not in (3, 4):
        raise InputError(
            f"a convolution got input {x.shape} and kernel {kernel.shape}; expected [N, W, C] and [k, C / groups, "
            "features], or [N, H, W, C] and [kh, kw, C / groups, features]"
        )
    if x.dtype != kernel.dtype:
        raise InputError(
            f"a convolution got input {x.shape} of {x.dtype} and kernel {kernel.shape} of {kernel.dtype}; expected "
            "one dtype"
        )
    if groups < 1 or x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        raise InputError(
            f"input {x.shape} does not fit kernel {kernel.shape} in {groups} groups; expected input channels = "
            "kernel channels * groups and features divisible by groups"
        )
    given = f"a convolution got input {x.shape} and kernel {kernel.shape}"
    return geometry(given, x.shape[1:-1], kernel.shape[:-2], strides, padding, dilation)


def _per_group(function: Callable[..., Any], groups: int, *arrays: Array) -> Any:
    """The function of each group's run of channels, last dimension of all arrays; the results side by side."""
    apart = (a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups) for a in arrays)
    results = jax.vmap(function, in_axes=-2, out_axes=-2)(*apart)
    return jax.tree.map(lambda a: a.reshape(*a.shape[:-2], groups * a.shape[-1]), results)


def _batch_as_channels(x: Array) -> Array:
    """[N, *size, C] as a kernel [*size, N, C], whose channels are the batch."""
    return jnp.moveaxis(x, 0, -2)
