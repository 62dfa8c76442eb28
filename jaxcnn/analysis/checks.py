"""What every analysis asks of its images and its target classes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxcnn.errors import InputError


def checked_images(images: ArrayLike) -> Float[Array, "n h w c"]:
    """The images as float32.

    Raises:
      InputError: they are not floats [N, H, W, C] in [0, 1], at least one.
    """
    shape, dtype = np.shape(images), jnp.result_type(images)
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"images have shape {shape}; expected [N, H, W, C], none of them 0")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"images are {dtype}; expected floating point in [0, 1] (divide uint8 by 255)")
    pixels = jnp.asarray(images, jnp.float32)
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
