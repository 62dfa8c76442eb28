"""What batch normalisation remembers of the images that a network was trained on, as a penalty on images sought."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcnn.analysis.activations import unrolled, watched
from jaxcnn.analysis.checks import check_chunk, checked_images, taking
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.analysis.objectives import Objective, Term
from jaxcnn.analysis.penalties import check_weight
from jaxcnn.errors import InputError
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.state import State

_OFF = 1e-4  # a smaller scale has been switched off in training, and its channel tells the network nothing
_ROUNDINGS = 10  # of the bias: a smaller scale leaves too little of the input in the output


def batch_statistics(weight: float, model: nn.Module, state: State, image_shape: tuple[int, ...]) -> Objective:
    """Images that, taken together, are to every batch normalisation as the training images were.

    f = weight sum_l (|mu_l(X) - mu_l| + |v_l(X) - v_l|), mu_l and v_l the running mean and variance of layer l; mu_l(X)
    and v_l(X) those of its inputs over all images X of the batch and all positions

    The number is the same for all images of a batch. Without it, an image that pleases a class many times over pleases
    it more; with it, a network's layers may not answer more often than they used to. Needs no data. Of a layer that is
    called twice the first call counts.

    Args:
      weight: at least 0 and finite.
      model: a module called as `model(images, train=...)`.
      state: its state, with running averages.
      image_shape: height and width in pixels, and channels of the images sought.

    Raises:
      InputError: the weight is NaN, negative or infinite, the network has no batch normalisation, or does not take such
        images.

    Reference: Yin et al., "Dreaming to distill: data-free knowledge transfer via DeepInversion", 2020, equation 4.
    """
    check_weight("batch statistics", weight)
    total: Objective | None = None
    for name, arguments in _remembered(model, state, image_shape).items():
        term = Term(_distance, name, arguments)
        total = term if total is None else total + term
    if total is None:
        raise InputError(f"{type(model).__name__} has no batch normalisation; expected a network that has")
    return weight * total


def has_batch_norm(model: nn.Module, state: State, image_shape: tuple[int, ...]) -> bool:
    """Whether any layer of the network is batch normalisation.

    Args:
      model: see `batch_statistics`.
      state: its state.
      image_shape: of its images.

    Raises:
      InputError: the network does not take such images.
    """
    return bool(_remembered(model, state, image_shape))


def each_statistics(
    model: nn.Module, state: State, images: ArrayLike, *, chunk: int | None = None
) -> list[Float[Array, "n _"]]:
    """For each batch normalisation, mean and deviation of its outputs over the positions of each image.

    Args:
      model: see `batch_statistics`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Returns:
      In the order in which they are computed: [N, 2 C], means first.

    Raises:
      InputError: images or chunk are not as expected.
    """
    pixels = checked_images(images)
    check_chunk(chunk)
    names = tuple(_remembered(model, state, pixels.shape[1:]))
    size = chunk or affordable(model, state.variables, pixels.shape[1:])
    parts = [_each(model, names, state.variables, pixels[some]) for some in pieces(len(pixels), size)]
    return join(parts, len(pixels))


@partial(jax.jit, static_argnums=(0, 1))
def _each(model: nn.Module, names: tuple[str, ...], variables: Any, images: Array) -> list[Float[Array, "n _"]]:
    seen: dict[str, Array] = {}

    def record(name: str, output: Array) -> Array:
        if name in names:
            flat = output.astype(jnp.float32).reshape(len(output), -1, output.shape[-1])
            seen.setdefault(name, jnp.concatenate([flat.mean(1), flat.std(1)], 1))
        return output

    watched(model, record, variables, images)
    return [seen[name] for name in names]


def _remembered(model: nn.Module, state: State, image_shape: tuple[int, ...]) -> dict[str, tuple[Array, ...]]:
    """Of each batch normalisation by its name, as arrays [C]: see the arguments of `_distance` after the first."""
    found: dict[str, tuple[float, Any]] = {}  # epsilon, and the type of the outputs

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output, module = call(*args, **kwargs), context.module
        if isinstance(module, BatchNorm | nn.BatchNorm) and context.method_name == "__call__":
            found.setdefault("/".join(module.path), (module.epsilon, output.dtype))
        return output

    variables, images = state.variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(note), taking(model, image_shape):
        jax.eval_shape(partial(unrolled(model).apply, train=False), variables, images)
    remembered = {}
    for name, (epsilon, kind) in found.items():
        running, learned = (_inside(variables[part], name) for part in ("batch_stats", "params"))
        mean, variance = jnp.asarray(running["mean"]), jnp.asarray(running["var"])
        deviation = jnp.sqrt(variance + epsilon)
        scale, bias = learned.get("scale", jnp.ones_like(mean)), learned.get("bias", jnp.zeros_like(mean))
        least = jnp.maximum(_OFF, _ROUNDINGS * jnp.finfo(kind).eps * jnp.abs(bias))
        speaks = jnp.abs(scale) > least
        stretch = jnp.where(speaks, deviation / jnp.where(speaks, scale, 1), 0)
        remembered[name] = (speaks, stretch, bias, mean, variance)
    return remembered


def _inside(tree: Any, name: str) -> Any:
    for part in name.split("/"):
        tree = tree.get(part, {})
    return tree


def _distance(
    outputs: Float[Array, "n *positions c"], speaks: Array, stretch: Array, bias: Array, mean: Array, variance: Array
) -> Float[Array, " n"]:
    """By a layer's outputs, of which the inputs follow but for silent channels: stretch * (output - bias) + mean."""
    flat = (outputs.reshape(-1, outputs.shape[-1]) - bias[None]) * stretch[None] + mean[None]
    center = flat.mean(0)
    spread = jnp.square(flat - center[None]).mean(0)
    off = _norm(jnp.where(speaks, center - mean, 0)) + _norm(jnp.where(speaks, spread - variance, 0))
    return jnp.broadcast_to(off, len(outputs))


def _norm(vector: Float[Array, " c"]) -> Float[Array, ""]:
    """Its length, whose gradient at 0 is 0."""
    square = jnp.square(vector).sum()
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
