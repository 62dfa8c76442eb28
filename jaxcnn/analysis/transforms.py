"""Small random changes that an image has to withstand: shifts, scales and turns, drawn anew at each step.

Each transform is a frozen value, called with a key and images; its random numbers are the same for all images of a
batch, its shapes depend on nothing random, and it is linear, zero lying outside the image. `transformed` therefore
applies them to what differs from a grey level, which is then what lies outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.errors import InputError

Transform: TypeAlias = Callable[[Key[Array, ""], Float[Array, "n h w c"]], Float[Array, "n h_out w_out c"]]
"""A linear function of images, drawn by a key."""


def transformed(
    transforms: Sequence[Transform], key: Key[Array, ""], images: Float[Array, "n h w c"], outside: ArrayLike = 0.5
) -> Float[Array, "n h_out w_out c"]:
    """Images under one transform after another.

    Args:
      transforms: in their order.
      key: decides all of them.
      images: [n, H, W, C].
      outside: grey level or colour [C] of what lies outside the image.
    """
    level = jnp.asarray(outside, images.dtype).reshape(1, 1, 1, -1)
    changed = images - level
    for number, transform in enumerate(transforms):
        changed = transform(jax.random.fold_in(key, number), changed)
    return changed + level


@dataclass(frozen=True)
class Pad:
    """Zeros around the image.

    Attributes:
      pixels: on each side, at least 0.
    """

    pixels: int

    def __post_init__(self) -> None:
        """Checks the pixels."""
        if self.pixels < 0:
            raise InputError(f"pad is {self.pixels} pixels; expected at least 0")

    def __call__(self, key: Key[Array, ""], images: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        """Maps [n, H, W, C] to [n, H + 2 pixels, W + 2 pixels, C]; the key changes nothing."""
        del key
        side = (self.pixels, self.pixels)
        return jnp.pad(images, ((0, 0), side, side, (0, 0)))


@dataclass(frozen=True)
class Jitter:
    """A window of the image at a random place, every one equally likely.

    Attributes:
      pixels: by which the window is smaller than the image, at least 0.
    """

    pixels: int

    def __post_init__(self) -> None:
        """Checks the pixels."""
        if self.pixels < 0:
            raise InputError(f"jitter is {self.pixels} pixels; expected at least 0")

    def __call__(self, key: Key[Array, ""], images: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        """Maps [n, H, W, C] to [n, H - pixels, W - pixels, C]."""
        count, height, width, channels = images.shape
        if self.pixels >= min(height, width):
            raise InputError(f"jitter is {self.pixels} pixels; expected fewer than the {height}x{width} of the image")
        row, column = jax.random.randint(key, (2,), 0, self.pixels + 1)
        return lax.dynamic_slice(
            images, (0, row, column, 0), (count, height - self.pixels, width - self.pixels, channels)
        )


@dataclass(frozen=True)
class Scale:
    """The image enlarged or reduced about its middle, linearly interpolated, its size kept.

    y(p) = x(c + (p - c) / s), c the middle, s uniform in [lowest, highest]

    Attributes:
      lowest: of the factors, positive.
      highest: of the factors.
    """

    lowest: float
    highest: float

    def __post_init__(self) -> None:
        """Checks the factors."""
        if not 0 < self.lowest <= self.highest < float("inf"):
            raise InputError(f"scale is from {self.lowest} to {self.highest}; expected 0 < lowest <= highest")

    def __call__(self, key: Key[Array, ""], images: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """The images at one factor."""
        factor = jax.random.uniform(key, minval=self.lowest, maxval=self.highest)
        rows, columns = (_resampling(size, factor) for size in images.shape[1:3])
        # Two matrix products: on CPU a gather's gradient would take longer than the network's.
        return jnp.einsum("hr,nrqc,wq->nhwc", rows, images, columns, precision="highest")


def _resampling(size: int, factor: Array) -> Float[Array, "size size"]:
    """The weight of each pixel in each pixel of a scaled line."""
    pixels = jnp.arange(size, dtype=jnp.float32)
    middle = (size - 1) / 2
    positions = middle + (pixels - middle) / factor
    return jnp.maximum(1 - jnp.abs(positions[:, None] - pixels[None]), 0)


@dataclass(frozen=True)
class Rotate:
    """The image turned about its middle, as three shears, each linearly interpolated.

    R(a) = X(-tan a/2) Y(sin a) X(-tan a/2), X and Y shears along rows and columns, a uniform in +-degrees

    Attributes:
      degrees: the largest angle, at least 0 and below 90.

    Reference: Paeth, "A fast algorithm for general raster rotation", 1986.
    """

    degrees: float

    def __post_init__(self) -> None:
        """Checks the angle."""
        if not 0 <= self.degrees < 90:
            raise InputError(f"rotate is {self.degrees} degrees; expected at least 0 and less than 90")

    def __call__(self, key: Key[Array, ""], images: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """The images at one angle, positive ones against the clock."""
        return rotated(images, jnp.deg2rad(jax.random.uniform(key, minval=-self.degrees, maxval=self.degrees)))


def rotated(images: Float[Array, "n h w c"], angle: ArrayLike) -> Float[Array, "n h w c"]:
    """Images turned about their middle, see `Rotate`.

    Args:
      images: zero outside.
      angle: in radians, against the clock.
    """
    along, across = jnp.tan(jnp.asarray(angle) / 2), -jnp.sin(angle)
    height, width = images.shape[1:3]
    rows, columns = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    images = shifted(images, rows * along)
    images = shifted(images.swapaxes(1, 2), columns * across).swapaxes(1, 2)
    return shifted(images, rows * along)


@jax.custom_vjp
def shifted(images: Float[Array, "n h w c"], distances: Float[Array, " h"]) -> Float[Array, "n h w c"]:
    """Each row moved to the right by its own distance, linearly interpolated.

    y_ij = (1 - f) x_i,j-m + f x_i,j-m-1, m = floor(distance_i), f = distance_i - m

    Its transpose is the move back, so the gradient takes slices too and needs no scatter; distances get none.

    Args:
      images: zero outside.
      distances: in pixels.
    """
    count, _, width, channels = images.shape
    whole = jnp.floor(distances)
    share = (distances - whole).reshape(1, -1, 1, 1)
    room = width + 1
    padded = jnp.pad(images, ((0, 0), (0, 0), (room, room), (0, 0)))

    def moved(row: Array, by: Array) -> Array:
        return lax.dynamic_slice(row, (0, room - 1 - by, 0), (count, room, channels))

    # A slice a row: a gather of single pixels took seven times as long on CPU.
    steps = jnp.clip(whole.astype(jnp.int32), -room, width)
    rows = jax.vmap(moved, in_axes=(1, 0), out_axes=1)(padded, steps)
    return (1 - share) * rows[:, :, 1:] + share * rows[:, :, :-1]


shifted.defvjp(
    lambda images, distances: (shifted(images, distances), distances),
    lambda distances, g: (shifted(g, -distances), jnp.zeros_like(distances)),
)


def robust(height: int, width: int) -> tuple[Transform, ...]:
    """Transforms under which most pictures of a size stay the same to the eye: a sixteenth of the side, 5 degrees, 5 %.

    Args:
      height: of the images in pixels.
      width: of the images in pixels.

    Returns:
      Transforms that keep the size.

    Reference: Olah, Mordvintsev & Schubert, "Feature visualization", 2017, section "Three families of regularization".
    """
    edge = max(1, min(height, width) // 16)
    return (Pad(edge), Scale(0.95, 1.05), Rotate(5.0), Jitter(2 * edge))


def distant(height: int, width: int) -> tuple[Transform, ...]:
    """As `robust`, but from near and far: a picture that is right at two thirds of its size too has large things in it.

    Args:
      height: of the images in pixels.
      width: of the images in pixels.

    Returns:
      Transforms that keep the size.
    """
    pad, _, rotate, jitter = robust(height, width)
    return (pad, Scale(0.65, 1.1), rotate, jitter)
