"""The convolution of every model, and what XLA on CPU needs to run it fast.

On CPU, XLA brings only the convolutions of a program's entry computation into the form its fast path takes; the
gradients inside a loop stay outside it, and the transposes of a weight gradient fuse with the activations before
them into slow gathers. Here, on CPU, a convolution and its two gradients are therefore three primitives, each
lowered to an NHWC/HWIO convolution with its transposes written out. Each is bilinear and the transposes of each are
the other two, so they stay differentiable in both modes and to any order. Depthwise convolutions are sums of shifted
products, and those that are matrix products are computed as such. Other backends get `lax.conv_general_dilated`.
`_adjust` is the only place that decides.

A limit: under `jax.shard_map` the primitives need `check_vma=False`, which is what `jax.pmap` sets itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxcnn.errors import InputError

Pair = tuple[int, int]


def _adjust() -> bool:
    return jax.default_backend() == "cpu"


def compiler_options() -> dict[str, str | bool]:
    """Options for `jax.jit(..., compiler_options=...)` under which a training step is fastest.

    Returns:
      Options of the default backend's compiler; none where its own defaults are best, as on CPU from jax 0.11 on.
    """
    if not _adjust() or jax.__version_info__ >= (0, 11):
        return {}
    return {
        # The other kinds of this fusion run a convolution on one thread.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
        # This pass drops the optimisation barriers before fusion, which they are there to stop.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }


class Geometry(NamedTuple):
    """What relates input, kernel and output of a convolution, in pairs for height and width.

    Attributes:
      input_size: in pixels.
      kernel_size: in taps.
      strides: between outputs, in pixels.
      padding: zeros before and after the pixels.
      dilation: between neighbouring taps, in pixels.
      groups: parts of the channels that are convolved each by itself.
    """

    input_size: Pair
    kernel_size: Pair
    strides: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int

    @property
    def output_size(self) -> tuple[int, ...]:
        """floor((input + padding - (dilation (kernel - 1) + 1)) / stride) + 1."""
        return tuple((n + low + high - d * (k - 1) - 1) // s + 1 for n, k, s, (low, high), d in self.dimensions)

    @property
    def dimensions(self) -> Iterator[tuple[int, int, int, Pair, int]]:
        """(input size, kernel size, stride, padding, dilation) of the height, then of the width."""
        return zip(self.input_size, self.kernel_size, self.strides, self.padding, self.dilation, strict=True)

    @property
    def is_matrix_product(self) -> bool:
        """Whether no two outputs share an input: a 1x1 kernel at every pixel, or one that covers the image once."""
        apart = self.kernel_size == (1, 1) == self.strides or self.kernel_size == self.input_size
        return apart and self.groups == 1 and self.padding == ((0, 0), (0, 0)) and self.dilation == (1, 1)


def _canonical(x: Array, kernel: Array, strides: Any, padding: Any, groups: int, dilate_x: Any, dilate: Any) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        lhs_dilation=dilate_x,
        rhs_dilation=dilate,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _depthwise(kernel: Array | jax.ShapeDtypeStruct, geometry: Geometry) -> bool:
    """Whether every channel has one filter of its own, for which XLA's convolution on CPU is 40 times too slow."""
    return kernel.shape[2:] == (1, geometry.groups)


def _shifted_products(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """The output as a sum, over the kernel's taps, of the shifted input times the tap."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in geometry.padding), (0, 0, 0)))
    (sh, sw), (dh, dw), (height, width) = geometry.strides, geometry.dilation, geometry.output_size
    y = jnp.zeros((x.shape[0], height, width, x.shape[3]), wide)
    for a, b in np.ndindex(geometry.kernel_size):
        rows = slice(a * dh, a * dh + sh * (height - 1) + 1, sh)
        columns = slice(b * dw, b * dw + sw * (width - 1) + 1, sw)
        y += padded[:, rows, columns].astype(wide) * kernel[a, b].astype(wide).reshape(1, 1, 1, -1)
    return y.astype(x.dtype)


def _output(x: Array, kernel: Array, *, geometry: Geometry) -> Array:
    """y[n, p, o] = sum over offset a and channel i of x[n, p stride + a dilation - low, i] kernel[a, i, o]."""
    if _depthwise(kernel, geometry):
        return _shifted_products(x, kernel, geometry)
    return _canonical(x, kernel, geometry.strides, geometry.padding, geometry.groups, (1, 1), geometry.dilation)


def _input_gradient(g: Array, kernel: Array, *, geometry: Geometry) -> Array:
    """The cotangent, dilated by the stride, convolved with the kernel turned by 180 degrees."""
    g = lax.optimization_barrier(g)
    if _depthwise(kernel, geometry):
        x = jax.ShapeDtypeStruct((g.shape[0], *geometry.input_size, g.shape[3]), g.dtype)
        return jax.linear_transpose(lambda x: _shifted_products(x, kernel, geometry), x)(g)[0]
    groups, (*size, inputs, features) = geometry.groups, kernel.shape
    turned = kernel[::-1, ::-1].reshape(*size, inputs, groups, features // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(*size, features // groups, groups * inputs)
    padding = []
    for (n, k, s, (low, _), d), out in zip(geometry.dimensions, geometry.output_size, strict=True):
        padding.append((d * (k - 1) - low, n + low - (s * (out - 1) + 1)))
    return _canonical(g, turned, (1, 1), padding, groups, geometry.strides, geometry.dilation)


def _kernel_gradient(x: Array, g: Array, *, geometry: Geometry) -> Array:
    """The input convolved with the cotangent as its kernel, the batch taking the place of the channels."""
    x, g = lax.optimization_barrier((x, g))
    kernel = jax.ShapeDtypeStruct((*geometry.kernel_size, x.shape[3] // geometry.groups, g.shape[3]), g.dtype)
    if _depthwise(kernel, geometry):
        return jax.linear_transpose(lambda kernel: _shifted_products(x, kernel, geometry), kernel)(g)[0]
    groups, (batch, *size, channels) = geometry.groups, x.shape
    turned = x.reshape(batch, *size, groups, channels // groups)
    turned = turned.transpose(4, 1, 2, 3, 0).reshape(channels // groups, *size, groups * batch)
    padding = []
    for (n, k, s, (low, _), d), out in zip(geometry.dimensions, geometry.output_size, strict=True):
        padding.append((low, d * (k - 1) + s * (out - 1) + 1 - n - low))
    g = g.transpose(1, 2, 0, 3)
    return _canonical(turned, g, geometry.dilation, padding, groups, (1, 1), geometry.strides).transpose(1, 2, 0, 3)


def _primitive(name: str, function: Any) -> Primitive:
    primitive = Primitive(name)

    def abstract(*args: Any, geometry: Geometry) -> Any:
        return jax.make_jaxpr(partial(function, geometry=geometry))(*args).out_avals[0]

    def batch(args: Any, axes: Any, *, geometry: Geometry) -> Any:
        if axes[1] is None and name != "convolution_kernel_gradient":  # images of all batches are one batch
            first = jnp.moveaxis(args[0], axes[0], 0)
            y = primitive.bind(first.reshape(-1, *first.shape[2:]), args[1], geometry=geometry)
            return y.reshape(*first.shape[:2], *y.shape[1:]), 0
        return jax.vmap(partial(function, geometry=geometry), axes)(*args), 0

    primitive.def_impl(jax.jit(function, static_argnames="geometry"))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    batching.primitive_batchers[primitive] = batch
    return primitive


_output_p = _primitive("convolution", _output)
_input_gradient_p = _primitive("convolution_input_gradient", _input_gradient)
_kernel_gradient_p = _primitive("convolution_kernel_gradient", _kernel_gradient)

# All three are partial sums of <convolution(x, kernel), g>, so a transpose only swaps which two of the three are given.
ad.defbilinear(
    _output_p,
    lambda g, x, kernel, **shape: _input_gradient_p.bind(g, kernel, **shape),
    lambda g, x, kernel, **shape: _kernel_gradient_p.bind(x, g, **shape),
)
ad.defbilinear(
    _input_gradient_p,
    lambda x, g, kernel, **shape: _output_p.bind(x, kernel, **shape),
    lambda x, g, kernel, **shape: _kernel_gradient_p.bind(x, g, **shape),
)
ad.defbilinear(
    _kernel_gradient_p,
    lambda kernel, x, g, **shape: _input_gradient_p.bind(g, kernel, **shape),
    lambda kernel, x, g, **shape: _output_p.bind(x, kernel, **shape),
)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c_group features"],
    *,
    strides: int | Pair = 1,
    padding: int | tuple[Pair, Pair] = 0,
    groups: int = 1,
    kernel_dilation: int | Pair = 1,
) -> Float[Array, "n h_out w_out features"]:
    """Convolution (cross-correlation) with explicit zero padding.

    y[n, p, o] = sum over offset a and channel i of x[n, p stride + a dilation - low, i] kernel[a, i, o]

    Args:
      x: [N, H, W, C].
      kernel: [kernel height, kernel width, C / groups, features], of the dtype of `x`.
      strides: pixels between outputs, at least 1.
      padding: zeros around the image: one number for all sides, or ((top, bottom), (left, right)).
      groups: number of equal runs of channels convolved apart from each other.
      kernel_dilation: pixels between the kernel's taps, at least 1.

    Returns:
      [N, H', W', features] with H' = floor((H + top + bottom - dilation (kernel - 1) - 1) / stride) + 1.

    Raises:
      InputError: channels or features do not fit the kernel and groups, or the input is smaller than the kernel.
    """
    if isinstance(padding, int):
        padding = (_pair(padding), _pair(padding))
    (_, height, width, channels), (kernel_height, kernel_width, group_channels, features) = x.shape, kernel.shape
    geometry = Geometry(
        (height, width), (kernel_height, kernel_width), _pair(strides), padding, _pair(kernel_dilation), groups
    )
    if channels != group_channels * groups or features % groups:
        raise InputError(
            f"input {x.shape} does not fit kernel {kernel.shape} in {groups} groups; expected input channels = "
            "kernel channels * groups and features divisible by groups"
        )
    if min(geometry.output_size) < 1:
        raise InputError(
            f"input {x.shape} with padding {padding} is smaller than kernel {kernel.shape} with dilation "
            f"{geometry.dilation}; expected at least one output pixel"
        )
    if _adjust():
        if geometry.is_matrix_product:
            y = x.reshape(-1, math.prod(kernel.shape[:3])) @ kernel.reshape(-1, features)
            return y.reshape(-1, *geometry.output_size, features)
        return _output_p.bind(x, kernel, geometry=geometry)
    return _canonical(x, kernel, geometry.strides, padding, groups, (1, 1), geometry.dilation)


class Conv(nn.Module):
    """Convolution over images with explicit padding.

    y = convolve(x, kernel) + bias

    Attributes:
      features: output channels.
      kernel_size: height and width in pixels; one number serves both.
      strides: pixels between outputs.
      padding: zeros around the image: one number for all sides, or ((top, bottom), (left, right)).
      groups: number of equal runs of channels convolved apart from each other.
      kernel_dilation: pixels between the kernel's taps.
      use_bias: add a number per feature.
      dtype: arithmetic; None promotes input and parameters. The parameters `kernel` and `bias` are float32.
      kernel_init: initialiser of the kernel [kernel height, kernel width, C / groups, features].
      bias_init: initialiser of the bias [features].
    """

    features: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: int | tuple[Pair, Pair] = 0
    groups: int = 1
    kernel_dilation: int | Pair = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out features"]:
        """Convolve `x` [N, H, W, C]; raises InputError as `convolve` does."""
        shape = (*_pair(self.kernel_size), x.shape[-1] // self.groups, self.features)
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise InputError(
                f"input {x.shape} and kernel {shape} cannot be split into {self.groups} groups; expected input "
                "channels and features divisible by groups"
            )
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, shape[-1:], jnp.float32) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            kernel_dilation=self.kernel_dilation,
        )
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)
