"""Which pixels a class score depends on most: the gradient of the score."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxcnn.analysis.checks import checked_images, checked_targets
from jaxcnn.errors import InputError
from jaxcnn.state import State


def gradient(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    chunk: int = 32,
) -> Float[Array, "n h w"]:
    """Saliency maps, the largest over channels of the class score's derivative:

        M_ij = max_c |d y_k / d X_ijc|,

    where y_k is the logit of class k and X the image in true pixel values.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: integers [N] in [0, K), the class k of each image; None takes the predicted one.
      chunk: images differentiated at a time; memory grows with it, the result does not depend on it.

    Returns:
      M, at least 0, in logits per unit of pixel value.

    Raises:
      InputError: images or targets have another shape, type or range, or the model returns no logits [N, K].

    Reference: Simonyan, Vedaldi & Zisserman 2014, "Deep Inside Convolutional Networks", section 3.
    """
    pixels = checked_images(images)
    if chunk < 1:
        raise InputError(f"chunk is {chunk}; expected at least 1")
    logits = _logits.eval_shape(model, state.variables, pixels)
    if len(logits.shape) != 2 or logits.shape[0] != pixels.shape[0]:
        raise InputError(f"the model returned shape {logits.shape}; expected logits [{pixels.shape[0]}, K]")
    classes = None if targets is None else checked_targets(targets, *logits.shape)
    # A loop here and not `lax.map`: XLA on CPU runs a convolution's gradient several times slower inside a loop.
    maps = []
    for start in range(0, len(pixels), chunk):
        part = pixels[start : start + chunk]
        explained = None if classes is None else classes[start : start + chunk]
        missing = min(chunk, len(pixels)) - len(part)
        if missing:  # a last chunk of another size would be compiled anew
            part = jnp.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            explained = None if explained is None else jnp.pad(explained, (0, missing))
        maps.append(_gradient(model, state.variables, part, explained))
    return jnp.concatenate(maps)[: len(pixels)]


def _scores(model: nn.Module, variables: dict[str, Any], images: Array) -> Array:
    return model.apply(variables, images, train=False)  # type: ignore[return-value]


_logits = jax.jit(_scores, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _gradient(
    model: nn.Module, variables: dict[str, Any], images: Float[Array, "n h w c"], targets: Int[Array, " n"] | None
) -> Float[Array, "n h w"]:
    logits, backward = jax.vjp(lambda x: _scores(model, variables, x), images)
    classes = logits.argmax(-1) if targets is None else targets
    (derivative,) = backward(jax.nn.one_hot(classes, logits.shape[-1], dtype=logits.dtype))
    return jnp.abs(derivative).max(-1)
