"""What every analysis asks of its images and its target classes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxcnn.errors import InputError


def checked_images(images: ArrayLike) -> Float[Array, "n h w c"]:
    """The images in at least single precision; float64 ones stay so where JAX has it enabled.

    Raises:
      InputError: they are not floats [N, H, W, C] in [0, 1], at least one.
    """
    shape, dtype = np.shape(images), jnp.result_type(images)
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"images have shape {shape}; expected [N, H, W, C], none of them 0")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"images are {dtype}; expected floating point in [0, 1] (divide uint8 by 255)")
    pixels = jnp.asarray(images, jnp.promote_types(dtype, jnp.float32))
    if not isinstance(pixels, Tracer):  # inside a caller's jit there are no values to look at
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise InputError(f"images hold values from {low:g} to {high:g}; expected values in [0, 1]")
    return pixels


def checked_targets(targets: ArrayLike, count: int, classes: int) -> Int[Array, " n"]:
    """The targets as int32.

    Raises:
      InputError: they are not `count` integers in [0, classes).
    """
    shape, dtype = np.shape(targets), jnp.result_type(targets)
    if shape != (count,) or not jnp.issubdtype(dtype, jnp.integer):
        raise InputError(f"targets are {dtype} of shape {shape}; expected integers of shape {(count,)}")
    if not isinstance(targets, Tracer):
        outside = [int(k) for k in np.asarray(targets) if not 0 <= k < classes]
        if outside:
            raise InputError(f"targets hold class {outside[0]}; expected classes in [0, {classes})")
    return jnp.asarray(targets, jnp.int32)


def checked_baseline(baseline: ArrayLike, images: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """The baseline of each image.

    Args:
      baseline: a number, a colour [C], an image [H, W, C] or images [N, H, W, C], in [0, 1].
      images: whose shape it takes.

    Raises:
      InputError: it has another shape or range.
    """
    values = jnp.asarray(baseline, images.dtype)
    if values.ndim not in (0, 1, 3, 4) or values.shape != images.shape[4 - values.ndim :]:
        raise InputError(
            f"the baseline is of shape {values.shape}; expected a number or the shape of a colour, an image or all "
            f"images, {images.shape}"
        )
    if not isinstance(values, Tracer) and not (float(values.min()) >= 0 and float(values.max()) <= 1):
        raise InputError(
            f"the baseline holds values from {float(values.min()):g} to {float(values.max()):g}; expected values in "
            "[0, 1]"
        )
    return jnp.broadcast_to(values.reshape((1,) * (4 - values.ndim) + values.shape), images.shape)
