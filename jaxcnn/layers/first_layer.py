"""Which layer sees the image, found by running a network abstractly until that layer is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


class _Found(Exception):
    """Ends the trace at the first kernel."""


def first_kernel(
    model: nn.Module, variables: Mapping[str, Any], input_shape: tuple[int, int, int]
) -> tuple[tuple[str, ...], Array] | None:
    """The names of the modules that lead to the first layer with a kernel, in the order of execution, and the kernel.

    The order is that of execution, which the names of the parameters do not tell.

    Args:
      model: a module called as `model(images, train=...)`.
      variables: what it is applied with.
      input_shape: height and width in pixels, and channels of one image.

    Returns:
      The path and the kernel; None for a network that calls no such layer.
    """
    found: list[tuple[tuple[str, ...], Array]] = []

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        kernel = _kernel(variables["params"], context.module.path)
        if kernel is None:
            return call(*args, **kwargs)
        found.append((context.module.path, kernel))
        raise _Found

    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    try:
        with nn.intercept_methods(record):
            jax.eval_shape(lambda variables, x: model.apply(variables, x, train=False), variables, images)
    except _Found:
        return found[0]
    return None


def as_pictures(kernel: Array, input_shape: tuple[int, int, int]) -> Array | None:
    """The kernel as [kh, kw, cin, cout], where a dense layer on the flattened image has one picture for each unit.

    Returns:
      The pictures; None for a layer that does not see the image itself.
    """
    height, width, channels = input_shape
    if kernel.ndim == 2 and kernel.shape[0] == height * width * channels:
        kernel = kernel.reshape(height, width, channels, -1)
    return None if kernel.ndim != 4 or channels % kernel.shape[2] else kernel


def _kernel(params: Mapping[str, Any], path: tuple[str, ...]) -> Array | None:
    """The parameter "kernel" of the module at `path`, if it has one."""
    for name in path:
        if name not in params:
            return None
        params = params[name]
    kernel = params.get("kernel")
    return None if isinstance(kernel, Mapping) else kernel
