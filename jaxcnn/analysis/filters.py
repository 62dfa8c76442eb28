"""The kernels of the first layer: the only weights that are pictures as they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import InputError
from jaxcnn.state import State


class FirstLayer(NamedTuple):
    """The layer that sees the image.

    Attributes:
      path: names of the modules that lead to it, joined by slashes.
      kernel: its weights as pictures.
    """

    path: str
    kernel: Float[Array, "kh kw cin cout"]


def first_layer(model: nn.Module, state: State, input_shape: tuple[int, int, int]) -> FirstLayer:
    """The kernel of the first convolution or dense layer that the model calls.

    The order is that of execution, which the names in `state.params` do not tell. A dense layer on the flattened
    image gives one picture of the image's size for each unit.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      input_shape: height and width in pixels, and channels of one image.

    Returns:
      The layer's path and its kernel.

    Raises:
      InputError: the model calls no such layer, or the first one does not see the image itself.
    """
    kernels: list[tuple[tuple[str, ...], Array]] = []

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        kernel = _kernel(state.variables["params"], context.module.path)
        if kernel is not None:
            kernels.append((context.module.path, kernel))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        jax.eval_shape(lambda variables, x: model.apply(variables, x, train=False), state.variables, images)
    if not kernels:
        raise InputError(f"{type(model).__name__} calls no convolution or dense layer; expected at least one")
    path, kernel = kernels[0]
    height, width, channels = input_shape
    if kernel.ndim == 2 and kernel.shape[0] == height * width * channels:
        kernel = kernel.reshape(height, width, channels, -1)
    if kernel.ndim != 4 or channels % kernel.shape[2]:
        raise InputError(
            f"the first layer, {'/'.join(path)}, has a kernel of shape {kernel.shape}; expected [kh, kw, cin, cout] "
            f"or [{height * width * channels}, units] on images of shape {input_shape}"
        )
    return FirstLayer("/".join(path), kernel)


def _kernel(params: Mapping[str, Any], path: tuple[str, ...]) -> Array | None:
    """The parameter "kernel" of the module at `path`, if it has one."""
    for name in path:
        if name not in params:
            return None
        params = params[name]
    kernel = params.get("kernel")
    return None if isinstance(kernel, Mapping) else kernel
