"""What the layers inside a network compute, by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcnn.analysis.checks import check_chunk, checked_images, taking
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.errors import unknown_name
from jaxcnn.state import State


def layers(model: nn.Module, state: State, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The layers whose activations can be had.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      image_shape: height and width in pixels, and channels of one image.

    Returns:
      In the order in which they finish, for every module inside the network that returns an array: the names that lead
      to it, joined by slashes, and the shape of its output for one image, as (h, w, c). A module that is called twice
      counts once, with its first call.

    Raises:
      InputError: the network does not take such images.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: state.variables))
    with taking(model, image_shape):
        return dict(_layers(model, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), image_shape))


@cache
def _layers(
    model: nn.Module, structure: Any, shapes: tuple[Any, ...], image_shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def record(name: str, output: Array) -> Array:
        found.setdefault(name, output.shape[1:])
        return output

    variables = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    jax.eval_shape(partial(watched, model, record), variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return found


def activations(
    model: nn.Module, state: State, images: ArrayLike, layer: str, *, chunk: int | None = None
) -> Float[Array, "n ..."]:
    """What a layer computes of each image, in inference.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      layer: one of `layers`; what follows it without being a module of its own, as a ReLU, is not in it.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Returns:
      [N, h, w, c] of a layer of maps, [N, units] of one of units.

    Raises:
      InputError: images or chunk are not as expected, or there is no such layer; the message lists the nearest names.
    """
    pixels = checked_images(images)
    check_chunk(chunk)
    check_layer(layer, layers(model, state, pixels.shape[1:]))
    size = chunk or affordable(model, state.variables, pixels.shape[1:])
    parts = [_activations(model, layer, state.variables, pixels[some]) for some in pieces(len(pixels), size)]
    return join(parts, len(pixels))


def check_layer(layer: str, known: dict[str, tuple[int, ...]]) -> None:
    """Raises an InputError that lists the nearest names if the layer is not among those known."""
    if layer not in known:
        raise unknown_name("layer", layer, known)


def watched(
    model: nn.Module, watch: Callable[[str, Array], Array], variables: Any, images: Array
) -> Float[Array, "n k"]:
    """The network's logits in inference, what its layers compute being looked at and maybe changed.

    Args:
      model: a module called as `model(images, train=...)`.
      watch: of a layer's name and output; what it returns goes on in its place.
      variables: of the model.
      images: [n, H, W, C].
    """

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        name = "/".join(context.module.path)
        if not name or context.method_name != "__call__" or not isinstance(output, jax.Array):
            return output
        return watch(name, output)

    with nn.intercept_methods(intercept):
        return unrolled(model).apply(variables, images, train=False)  # type: ignore[return-value]


def unrolled(model: nn.Module) -> nn.Module:
    """The same network, its blocks neither scanned nor computed again, so that each can be seen."""
    looped: dict[str, Any] = {
        field.name: False for field in dataclasses.fields(model) if field.name in ("scan", "remat")
    }
    return model.clone(**looped)


def activation(model: nn.Module, layer: str, variables: Any, images: Array) -> Float[Array, "n ..."]:
    """What a layer computes, at its first call, of images that are there already.

    Args:
      model: a module called as `model(images, train=...)`.
      layer: one of `layers`.
      variables: of the model.
      images: [n, H, W, C].
    """
    seen: list[Array] = []

    def record(name: str, output: Array) -> Array:
        if name == layer:
            seen.append(output)
        return output

    watched(model, record, variables, images)
    return seen[0].astype(jnp.float32)


_activations = jax.jit(activation, static_argnums=(0, 1))
