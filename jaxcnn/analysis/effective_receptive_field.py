"""The effective receptive field: how much each pixel of what a unit sees matters to it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Key

from jaxcnn.analysis.activations import activation, check_layer, layers
from jaxcnn.analysis.checks import check_chunk, checked_images
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.analysis.patches import Box, box, receptive_fields
from jaxcnn.errors import InputError, RunError
from jaxcnn.state import State

_TWO_SIGMA = 1 - math.erf(math.sqrt(2))


class EffectiveField(NamedTuple):
    """What the centre of a layer's map sees of the image, and how much of it matters.

    Attributes:
      heat: mean size of the derivative of the centre by each pixel, the largest being 1.
      position: row and column of the centre in the layer's map.
      box: the pixels that it can see, in closed form; not cut off at the image's borders.
    """

    heat: Float[np.ndarray, "h w"]
    position: tuple[int, int]
    box: Box

    @property
    def side(self) -> float:
        """Side in pixels of a square as large as the pixels with more than 4.55 % of the largest.

        So much is left outside of two standard deviations of a normal distribution.
        """
        return math.sqrt(int((self.heat > _TWO_SIGMA).sum()))


def effective_receptive_field(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    layer: str,
    key: Key[Array, ""],
    *,
    chunk: int | None = None,
) -> EffectiveField:
    """The mean size of the derivative of a layer's central units by each pixel.

    E[x, y] = mean over images and colours of |d (sum over c of g_c z[centre, c]) / d image[x, y]|, g ~ N(0, 1)

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      layer: one of `activations.layers` that has maps, (h, w, c).
      key: decides g, which each image has its own of.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Raises:
      InputError: an argument is not as expected, the layer has no maps, or what it sees has no closed form.
      RunError: the derivative is zero at every pixel, or not finite.

    Reference: Luo, Li, Urtasun & Zemel, "Understanding the effective receptive field in deep convolutional neural
    networks", 2016.
    """
    pixels = checked_images(images)
    check_chunk(chunk)
    height, width, channels = pixels.shape[1:]
    known = layers(model, state, (height, width, channels))
    check_layer(layer, known)
    field = receptive_fields(model, (height, width, channels)).get(layer)
    if len(known[layer]) != 3 or field is None or field.axes != (1, 2):
        raise InputError(f"{layer} has the output {known[layer]}; expected maps (h, w, c) that see the image")
    rows, columns, units = known[layer]
    position = rows // 2, columns // 2
    weights = jax.random.normal(key, (len(pixels), units))
    size = chunk or affordable(model, state.variables, pixels.shape[1:])
    parts = [
        _sizes(model, layer, position, state.variables, pixels[some], weights[some])
        for some in pieces(len(pixels), size)
    ]
    heat = np.asarray(join(parts, len(pixels)), np.float64).mean(0)
    if not heat.max() > 0 or not np.isfinite(heat).all():
        raise RunError(f"the derivative of {layer} is zero or not finite; expected one that sees the images")
    return EffectiveField(heat / heat.max(), position, box(field, *position))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sizes(
    model: nn.Module, layer: str, position: tuple[int, int], variables: Any, images: Array, weights: Array
) -> Float[Array, "n h w"]:
    def centre(images: Array) -> Array:
        return (weights * activation(model, layer, variables, images)[:, *position]).sum()

    return jnp.abs(jax.grad(centre)(images)).mean(-1)
