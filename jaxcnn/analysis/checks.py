"""What every analysis asks of its images and its target classes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxcnn.errors import InputError, first_line


def checked_images(images: ArrayLike) -> Float[Array, "n h w c"]:
    """The images in at least single precision; float64 ones stay so where JAX has it enabled.

    Raises:
      InputError: they are not floats [N, H, W, C] in [0, 1], at least one.
    """
    values = as_array("images", images)
    if values.ndim != 4 or 0 in values.shape:
        raise InputError(f"images have shape {values.shape}; expected [N, H, W, C], none of them 0")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise InputError(f"images are {values.dtype}; expected floating point in [0, 1] (divide uint8 by 255)")
    pixels = jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))
    if not isinstance(pixels, Tracer):  # inside a caller's jit there are no values to look at
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise InputError(f"images hold values from {low:g} to {high:g}; expected values in [0, 1]")
    return pixels


@contextlib.contextmanager
def taking(model: nn.Module, image_shape: tuple[int, ...]) -> Iterator[None]:
    """Within it, what a network says against images of this shape is said in a sentence that names them.

    Raises:
      InputError: the network has other parameters than such images go with.
    """
    try:
        yield
    except ScopeParamShapeError as error:
        size = "x".join(map(str, image_shape))
        raise InputError(
            f"{type(model).__name__} does not take images of {size}; expected such as it was trained on"
        ) from error


def checked_targets(targets: ArrayLike | Sequence[int], count: int, classes: int) -> Int[Array, " n"]:
    """The targets as int32.

    Raises:
      InputError: they are neither one integer in [0, classes) nor `count` of them.
    """
    values = as_array("targets", targets)
    if values.shape not in ((), (count,)) or not jnp.issubdtype(values.dtype, jnp.integer):
        raise InputError(f"targets are {values.dtype} of shape {values.shape}; expected integers of shape {(count,)}")
    if not isinstance(values, Tracer):  # before they become int32, in which 2^32 is 0
        outside = [int(k) for k in np.asarray(values).ravel() if not 0 <= k < classes]
        if outside:
            raise InputError(f"targets hold class {outside[0]}; expected classes in [0, {classes})")
    return jnp.broadcast_to(jnp.asarray(values, jnp.int32), (count,))


def check_whole(**numbers: Any) -> None:
    """Refuses what counts something and is not whole.

    Args:
      **numbers: by their names; None is let pass.

    Raises:
      InputError: one is not an integer.
    """
    for name, number in numbers.items():
        if number is not None and not isinstance(number, int | np.integer):
            raise InputError(f"{name} is {number!r}; expected a whole number")


def check_chunk(chunk: int | None) -> None:
    """Refuses a number of images at once that is none.

    Raises:
      InputError: it is neither None nor a positive integer.
    """
    check_whole(chunk=chunk)
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk is {chunk}; expected at least 1")


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


def as_array(name: str, values: Any) -> np.ndarray | Array:
    """Values as an array: lists of numbers are taken as what they hold.

    Raises:
      InputError: the list is ragged; the message begins with the name, a plural.
    """
    if isinstance(values, np.ndarray | Array):
        return values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} are no array: {first_line(error)}") from error
