"""Augmentations that move pixels: each as a function of its parameters, and with its parameters drawn."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxcnn.data.augment.augmentation import Augmentation, Scalar, bounded
from jaxcnn.errors import InputError

_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10


def flip(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The picture mirrored left to right."""
    return image[:, ::-1]


def random_flip(key: Key[Array, ""], image: Float[Array, "h w c"], probability: float) -> Float[Array, "h w c"]:
    """`flip` with a probability in [0, 1].

    Reference: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", 2012, section 4.1.
    """
    return jnp.where(jax.random.bernoulli(key, probability), flip(image), image)


def crop(
    image: Float[Array, "h w c"], top: Int[Array, ""], left: Int[Array, ""], padding: int
) -> Float[Array, "h w c"]:
    """A window of the picture's own size, cut from the picture with zeros all around it.

    Args:
      image: in [0, 1].
      top: first row of the window in the padded picture, 0 to 2 padding; `padding` is the picture as it was.
      left: first column, likewise.
      padding: pixels of zeros on every side.

    Raises:
      InputError: the padding is as large as the picture, so that a window could miss it.
    """
    if padding >= min(image.shape[:2]):
        raise InputError(f"data.augment of crop is {padding} for pictures {image.shape}; expected less than their side")
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def random_crop(key: Key[Array, ""], image: Float[Array, "h w c"], padding: float) -> Float[Array, "h w c"]:
    """`crop` at one of the (2 padding + 1)^2 places, all equally likely.

    Reference: He et al., "Deep residual learning for image recognition", 2016, section 4.2.
    """
    top, left = jax.random.randint(key, (2,), 0, 2 * int(padding) + 1)
    return crop(image, top, left, int(padding))


def resample(
    image: Float[Array, "h w c"], rows: Float[Array, " h_out"], columns: Float[Array, " w_out"]
) -> Float[Array, "h_out w_out c"]:
    """Bilinear interpolation at every pair of a row and a column; beyond the picture are zeros.

    y[p, q] = sum over i, j of max(0, 1 - |rows[p] - i|) max(0, 1 - |columns[q] - j|) x[i, j]

    Args:
      image: in [0, 1].
      rows: positions in pixels; 0 is the centre of the first row, and halves lie between rows.
      columns: likewise.
    """
    for axis, positions in ((0, rows), (1, columns)):
        low, share = _neighbour(positions, image.shape[axis])
        padded = jnp.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        share = jnp.expand_dims(share, (1 - axis, 2))
        before, after = (jnp.take(padded, low + step, axis, mode="clip") for step in (1, 2))
        image = bounded((1 - share) * before + share * after, image)
    return image


def _neighbour(positions: Float[Array, "*p"], size: int) -> tuple[Int[Array, "*p"], Float[Array, "*p"]]:
    """The pixel at or before each position, from -1 to size - 1, and how far beyond it the position lies, 0 to 1."""
    positions = jnp.clip(positions, -1, size)
    low = jnp.minimum(jnp.floor(positions), size - 1)
    return low.astype(jnp.int32), positions - low


def resized_crop(image: Float[Array, "h w c"], box: Int[Array, " 4"]) -> Float[Array, "h w c"]:
    """A rectangle of the picture, enlarged to the whole picture's size; no pixel outside the rectangle takes part.

    Bilinear. The rectangle is never larger than the result, so there is nothing to smooth first, and this is also the
    antialiased resize of Pillow and torchvision.

    Args:
      image: in [0, 1].
      box: top, left, height and width in pixels, inside the picture.
    """
    top, left, height, width = box

    def positions(start: Int[Array, ""], length: Int[Array, ""], size: int) -> Float[Array, " size"]:
        inside = (jnp.arange(size) + 0.5) * (length / size) - 0.5
        return start + jnp.clip(inside, 0, length - 1)

    return resample(image, positions(top, height, image.shape[0]), positions(left, width, image.shape[1]))


def draw_box(key: Key[Array, ""], height: int, width: int, smallest: float) -> Int[Array, " 4"]:
    """The rectangle of `resized_crop`: area uniform, logarithm of the aspect ratio uniform in 3/4 to 4/3, any place.

    What does not fit into the picture is drawn again, ten times at most; then comes the whole picture, cut in the
    middle where it is wider or taller than the ratios allow.

    Args:
      key: decides everything.
      height: of the picture, in pixels.
      width: likewise.
      smallest: smallest share of the picture's area, in [0, 1]; the largest is 1.

    Returns:
      Top, left, height and width in pixels.
    """
    areas, ratios, place = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(areas, (_TRIES,), minval=smallest, maxval=1.0)
    bounds = [math.log(ratio) for ratio in _ASPECT]
    ratio = jnp.exp(jax.random.uniform(ratios, (_TRIES,), minval=bounds[0], maxval=bounds[1]))
    sides = jnp.round(jnp.sqrt(jnp.stack([area / ratio, area * ratio], axis=1))).astype(jnp.int32)
    whole = jnp.array([height, width])
    fits = ((sides > 0) & (sides <= whole[None])).all(axis=1)
    limits = jnp.array([min(height, round(width / _ASPECT[0])), min(width, round(height * _ASPECT[1]))])
    size = jnp.where(fits.any(), sides[fits.argmax()], limits)
    corner = jax.random.randint(place, (2,), 0, whole - size + 1)
    return jnp.concatenate([jnp.where(fits.any(), corner, (whole - size) // 2), size])


def random_resized_crop(key: Key[Array, ""], image: Float[Array, "h w c"], smallest: float) -> Float[Array, "h w c"]:
    """`resized_crop` of a rectangle from `draw_box`, of at least `smallest` of the area.

    Reference: Szegedy et al., "Going deeper with convolutions", 2015, section 6.
    """
    height, width, _ = image.shape
    return resized_crop(image, draw_box(key, height, width, smallest))


def scale(image: Float[Array, "h w c"], factor: Scalar) -> Float[Array, "h w c"]:
    """The picture enlarged about its centre, bilinear; what a smaller one leaves free is zero.

    y[p] = x[centre + (p - centre) / factor]

    Args:
      image: in [0, 1].
      factor: above 0; 1 is the identity.
    """
    rows, columns = ((jnp.arange(n) - (n - 1) / 2) / factor + (n - 1) / 2 for n in image.shape[:2])
    return resample(image, rows, columns)


def random_scale(key: Key[Array, ""], image: Float[Array, "h w c"], change: float) -> Float[Array, "h w c"]:
    """`scale` by a factor uniform in [1 - change, 1 + change].

    Reference: Ciresan et al., "Deep, big, simple neural nets for handwritten digit recognition", 2010, section 3.
    """
    return scale(image, jax.random.uniform(key, minval=1 - change, maxval=1 + change))


def affine(image: Float[Array, "h w c"], matrix: Float[Array, "2 3"]) -> Float[Array, "h w c"]:
    """The picture under an affine map, bilinear; what lies outside it is zero.

    y[p] = x[q] with q = M (p, 1), both measured from the picture's centre

    Args:
      image: in [0, 1].
      matrix: M, rows before columns: where in the picture each pixel of the result is taken from, in pixels.
    """
    height, width, channels = image.shape
    row = (jnp.arange(height) - (height - 1) / 2)[:, None]
    column = (jnp.arange(width) - (width - 1) / 2)[None, :]
    sources = [m[0] * row + m[1] * column + m[2] for m in matrix]
    i, down = _neighbour(sources[0] + (height - 1) / 2, height)
    j, right = _neighbour(sources[1] + (width - 1) / 2, width)
    stride = width + 2
    pixels = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    corner = (i + 1) * stride + j + 1
    top_left, top_right, low_left, low_right = (
        pixels.at[corner + step].get(mode="promise_in_bounds") for step in (0, 1, stride, stride + 1)
    )
    down, right = down[..., None], right[..., None]
    above = (1 - right) * top_left + right * top_right
    below = (1 - right) * low_left + right * low_right
    return bounded((1 - down) * above + down * below, image)


def rotation_matrix(degrees: Scalar) -> Float[Array, "2 3"]:
    """M of `affine` that turns a picture counterclockwise about its centre."""
    angle = jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros(())
    return jnp.array([[cos, sin, zero], [-sin, cos, zero]])


def rotate(image: Float[Array, "h w c"], degrees: Scalar) -> Float[Array, "h w c"]:
    """The picture turned counterclockwise about its centre, bilinear; what lies outside it is zero."""
    return affine(image, rotation_matrix(degrees))


def random_rotation(key: Key[Array, ""], image: Float[Array, "h w c"], largest: float) -> Float[Array, "h w c"]:
    """`rotate` by an angle uniform in [-largest, largest] degrees.

    Reference: Ciresan et al., "Deep, big, simple neural nets for handwritten digit recognition", 2010, section 3.
    """
    return rotate(image, jax.random.uniform(key, minval=-largest, maxval=largest))


AUGMENTATIONS = {
    "flip": Augmentation(random_flip, "probability of mirroring left to right", 0.5, highest=1.0),
    "crop": Augmentation(random_crop, "pixels of zero padding before the crop", 4.0, whole=True),
    "resized_crop": Augmentation(random_resized_crop, "smallest share of the area", 0.08, highest=1.0),
    "scale": Augmentation(random_scale, "largest change of size, as a share of it", 0.15, highest=0.9),
    "rotation": Augmentation(random_rotation, "largest angle in degrees", 15.0, highest=180.0),
}
