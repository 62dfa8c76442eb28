"""The views of an image that a network's predictions are averaged over when it is tested."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8
from PIL import Image

from jaxcnn.errors import InputError

Crops: TypeAlias = Literal[1, 10, 144, "dense"]

PUBLISHED_SIZE = 224
"""Height and width in pixels of the crops for which the scales of the 144 views were published."""

PUBLISHED_SCALES = (256, 288, 320, 352)
"""Shorter sides in pixels of the 144 views, for crops of 224; they grow and shrink with the crop."""


class Box(NamedTuple):
    """A window of an image.

    Attributes:
      top: first row.
      left: first column, of the mirrored image where `mirrored`.
      mirrored: whether the image is mirrored, left to right, before the window is taken.
    """

    top: int
    left: int
    mirrored: bool


def five_boxes(shape: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Top and left of the four corners and the centre: top left, top right, bottom left, bottom right, centre.

    Args:
      shape: height and width in pixels of the image.
      size: height and width in pixels of the window.

    Raises:
      InputError: the window is larger than the image.
    """
    down, right = shape[0] - size[0], shape[1] - size[1]
    if min(down, right) < 0:
        raise InputError(f"the image is {shape[0]}x{shape[1]}; expected at least its crops' {size[0]}x{size[1]} pixels")
    # Half a pixel goes to the even side, as in torchvision.
    return (0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))


def ten_boxes(shape: tuple[int, int], size: tuple[int, int]) -> tuple[Box, ...]:
    """The four corners and the centre, and the same of the mirrored image.

    Args:
      shape: height and width in pixels of the image.
      size: height and width in pixels of the windows.

    Raises:
      InputError: the window is larger than the image.

    Reference: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 4.1.
    """
    return tuple(Box(*place, mirrored) for mirrored in (False, True) for place in five_boxes(shape, size))


def take(
    images: Float[Array, "n h w c"],
    top: int | Array,
    left: int | Array,
    mirrored: bool | Array,
    size: tuple[int, int],
) -> Float[Array, "n height width c"]:
    """One view of every image; the box may be traced.

    Args:
      images: [N, H, W, C].
      top: see `Box`.
      left: see `Box`.
      mirrored: see `Box`.
      size: height and width in pixels of the view.
    """
    # The mirrored image's window is the mirrored window of the image, counted from the other side.
    column = jnp.where(mirrored, images.shape[2] - size[1] - left, left)
    window = lax.dynamic_slice(images, (0, top, column, 0), (len(images), *size, images.shape[3]))
    return jnp.where(mirrored, window[:, :, ::-1], window)


def ten_views(images: Float[Array, "n h w c"], size: tuple[int, int]) -> Float[Array, "10 n height width c"]:
    """The ten views of `ten_boxes`, of images of one size.

    Args:
      images: [N, H, W, C].
      size: height and width in pixels of the views.

    Raises:
      InputError: the views are larger than the images.
    """
    shape = (images.shape[1], images.shape[2])
    return jnp.stack([take(images, *box, size) for box in ten_boxes(shape, size)])


def padding(size: tuple[int, int]) -> int:
    """Zeros on every side of an image that is no larger than its crops: an eighth of its shorter side, at least 1.

    That is 4 at 32 pixels, as in training on CIFAR.

    Reference: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016, section 4.2.
    """
    return max(1, min(size) // 8)


# ---- photographs: uint8 arrays of any size, cut by Pillow


def resized(image: UInt8[np.ndarray, "h w c"], height: int, width: int) -> UInt8[np.ndarray, "height width c"]:
    """Scales a picture to a size in pixels (bilinear, antialiased)."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)


def scaled_shape(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width in pixels once the shorter side is `side`; the longer is rounded down, as in torchvision."""
    shorter = min(shape)
    return int(side * shape[0] / shorter), int(side * shape[1] / shorter)


def scaled(image: UInt8[np.ndarray, "h w c"], side: int) -> UInt8[np.ndarray, "k l c"]:
    """Scales a picture so that its shorter side is `side` pixels."""
    return resized(image, *scaled_shape((image.shape[0], image.shape[1]), side))


def central(image: UInt8[np.ndarray, "h w c"], height: int, width: int) -> UInt8[np.ndarray, "height width c"]:
    """The window at the centre."""
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]


def ten_of_photograph(
    image: UInt8[np.ndarray, "h w c"], resize: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "10 height width c"]:
    """The ten views of a photograph's central square.

    Args:
      image: pixels.
      resize: side of the square: the photograph's shorter side after scaling.
      size: height and width in pixels of the views.

    Raises:
      InputError: the views are larger than the square.

    Reference: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    sections 2 and 4.1.
    """
    square = central(scaled(image, resize), resize, resize)
    both = (square, square[:, ::-1])
    boxes = ten_boxes((resize, resize), size)
    return np.stack([both[b.mirrored][b.top : b.top + size[0], b.left : b.left + size[1]] for b in boxes])


def many_of_photograph(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "144 size size c"]:
    """The 144 views: 4 scales, 3 squares of each, 6 views of each square, and all of them mirrored.

    The shorter side becomes 256, 288, 320 and 352 pixels, times size / 224. The squares lie at the left, the centre
    and the right, or at the top, the centre and the bottom of a portrait. Of each the four corners and the centre are
    taken, and the whole square scaled to the views' size. A mirrored view follows each view.

    Args:
      image: pixels.
      size: height and width in pixels of the views.

    Reference: Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke & Rabinovich, "Going deeper with
    convolutions", 2015, section 7.
    """
    views = []
    for side in (round(scale * size / PUBLISHED_SIZE) for scale in PUBLISHED_SCALES):
        picture = scaled(image, side)
        down, right = picture.shape[0] - side, picture.shape[1] - side
        for part in (0, 0.5, 1):
            top, left = round(part * down), round(part * right)
            square = picture[top : top + side, left : left + side]
            places = five_boxes((side, side), (size, size))
            windows = [square[top : top + size, left : left + size] for top, left in places]
            for view in (*windows, resized(square, size, size)):
                views += [view, view[:, ::-1]]
    return np.stack(views)
