"""Augmentations that change colours: each as a function of its parameters, and with its parameters drawn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxcnn.data.augment.augmentation import Augmentation, Scalar, bounded
from jaxcnn.errors import InputError

_LUMA = (0.2989, 0.587, 0.114)

EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)
"""Principal components of ImageNet's colours in [0, 1], in columns, as fb.resnet.torch published them."""


def grey(image: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
    """The brightness 0.2989 R + 0.587 G + 0.114 B (ITU-R BT.601) of every pixel; a grey picture is its own.

    Raises:
      InputError: neither one nor three channels.
    """
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        raise InputError(f"pictures to recolour have {image.shape[-1]} channels; expected 1 or 3")
    red, green, blue = (image[..., c : c + 1] for c in range(3))
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def blend(image: Float[Array, "h w c"], other: Array | float, factor: Scalar) -> Float[Array, "h w c"]:
    """y = factor image + (1 - factor) other, cut off at 0 and 1; a factor above 1 moves away from `other`."""
    return bounded(factor * image + (1 - factor) * other, image)


def adjust_brightness(image: Float[Array, "h w c"], factor: Scalar) -> Float[Array, "h w c"]:
    """Every value times `factor`, which is at least 0: a blend with black."""
    return blend(image, 0.0, factor)


def adjust_contrast(image: Float[Array, "h w c"], factor: Scalar) -> Float[Array, "h w c"]:
    """A blend with the picture's mean brightness; `factor` 0 leaves an even grey, 1 is the identity."""
    return blend(image, grey(image.mean(axis=(0, 1), keepdims=True)), factor)


def adjust_saturation(image: Float[Array, "h w c"], factor: Scalar) -> Float[Array, "h w c"]:
    """A blend with the grey picture; `factor` 0 leaves no colour, 1 is the identity. A grey picture stays as it is."""
    return image if image.shape[-1] == 1 else blend(image, grey(image), factor)


def adjust_sharpness(image: Float[Array, "h w c"], factor: Scalar) -> Float[Array, "h w c"]:
    """A blend with the picture smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the outermost pixels stay.

    Args:
      image: in [0, 1]; one with a side below 3 pixels stays as it is.
      factor: at least 0; 0 smooths, 1 is the identity, above 1 sharpens.
    """
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    centre = image[1:-1, 1:-1]
    smooth = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * centre) / 13
    return blend(image, jax.lax.dynamic_update_slice(image, smooth, (1, 1, 0)), factor)


def adjust_hue(image: Float[Array, "h w c"], shift: Scalar) -> Float[Array, "h w c"]:
    """Every colour turned around the hexagon of hues; the largest and the smallest of R, G and B stay.

    In HSV: (h, s, v) -> (h + shift mod 1, s, v). A grey picture stays as it is.

    Args:
      image: in [0, 1].
      shift: in turns, -0.5 to 0.5; 0 is the identity.

    Raises:
      InputError: neither one nor three channels.
    """
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        raise InputError(f"pictures to recolour have {image.shape[-1]} channels; expected 1 or 3")
    red, green, blue = (image[..., c] for c in range(3))
    largest = image.max(axis=-1)
    spread = largest - image.min(axis=-1)
    divisor = jnp.where(spread > 0, spread, 1)
    sixths = jnp.where(
        largest == red,
        (green - blue) / divisor,
        jnp.where(largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # Each channel is the largest value less the spread times a trapezium over the six sides of the hexagon.
    turned = jnp.stack([n + sixths + 6 * shift for n in (5, 3, 1)], axis=-1)
    turned -= 6 * jnp.floor(turned / 6)  # `%` on floats calls a slow function for every value
    trapezium = jnp.clip(jnp.minimum(turned, 4 - turned), 0, 1)
    return bounded(largest[..., None] - spread[..., None] * trapezium, image)


def add_lighting(image: Float[Array, "h w c"], weights: Float[Array, " 3"]) -> Float[Array, "h w c"]:
    """One colour added to every pixel: a mixture of the principal components of ImageNet's colours.

    y = x + E (weights lambda), with the eigenvectors in the columns of E and the eigenvalues lambda

    Args:
      image: in [0, 1].
      weights: one of each component, about 0.1.

    Raises:
      InputError: other than three channels.
    """
    if image.shape[-1] != 3:
        raise InputError(f"pictures for data.augment of lighting have {image.shape[-1]} channels; expected 3")
    # A sum, because a matrix product may be rounded to 10 bits on a GPU.
    colour = (EIGENVECTORS * (weights * EIGENVALUES)[None]).sum(axis=1)
    return bounded(image + colour[None, None], image)


def levels(image: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Values in [0, 1] as 0 to 255; k / 255 becomes k."""
    return jnp.floor(image.astype(jnp.float32) * 255.999).astype(jnp.int32)


def posterize(image: Float[Array, "h w c"], bits: int) -> Float[Array, "h w c"]:
    """The highest `bits` (0 to 8) of each value's eight, the rest zero."""
    return bounded((levels(image) & (256 - 2 ** (8 - bits))) / 255, image)


def solarize(image: Float[Array, "h w c"], threshold: Scalar) -> Float[Array, "h w c"]:
    """The negative of every value from `threshold` on."""
    return jnp.where(image >= threshold, 1 - image, image)


def autocontrast(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Every channel stretched from its smallest to its largest value over [0, 1]; an even one stays."""
    low, high = image.min(axis=(0, 1), keepdims=True), image.max(axis=(0, 1), keepdims=True)
    even = high == low
    return bounded((image - jnp.where(even, 0, low)) / jnp.where(even, 1, high - low), image)


def equalize(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Every channel's 256 values spread so that all become about equally common, as Pillow does.

    lut[k] = (count of values below k + step // 2) // step, with step the 255th part of all but the most intense pixels
    """

    def channel(values: Int[Array, " pixels"]) -> Int[Array, " pixels"]:
        counts = jnp.zeros(256).at[values].add(1, mode="promise_in_bounds")
        step = (values.size - (values == values.max()).sum()) // 255
        # A running sum as a product, three times as fast on a CPU; exact, because the counts are below 2^24.
        below = jnp.dot(jnp.tri(256, k=-1), counts, precision=jax.lax.Precision.HIGHEST).astype(jnp.int32)
        table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table.at[values].get(mode="promise_in_bounds"), values)

    spread = jax.vmap(channel, in_axes=1, out_axes=1)(levels(image).reshape(-1, image.shape[-1]))
    return bounded(spread.reshape(image.shape) / 255, image)


def _factor(key: Key[Array, ""], change: float) -> Float[Array, ""]:
    return jax.random.uniform(key, minval=1 - change, maxval=1 + change)


def random_brightness(key: Key[Array, ""], image: Float[Array, "h w c"], change: float) -> Float[Array, "h w c"]:
    """`adjust_brightness` by a factor uniform in [1 - change, 1 + change].

    Reference: Howard, "Some improvements on deep convolutional neural network based image classification", 2013.
    """
    return adjust_brightness(image, _factor(key, change))


def random_contrast(key: Key[Array, ""], image: Float[Array, "h w c"], change: float) -> Float[Array, "h w c"]:
    """`adjust_contrast` by a factor uniform in [1 - change, 1 + change].

    Reference: Howard, "Some improvements on deep convolutional neural network based image classification", 2013.
    """
    return adjust_contrast(image, _factor(key, change))


def random_saturation(key: Key[Array, ""], image: Float[Array, "h w c"], change: float) -> Float[Array, "h w c"]:
    """`adjust_saturation` by a factor uniform in [1 - change, 1 + change]; a grey picture stays as it is.

    Reference: Howard, "Some improvements on deep convolutional neural network based image classification", 2013.
    """
    return adjust_saturation(image, _factor(key, change))


def random_hue(key: Key[Array, ""], image: Float[Array, "h w c"], largest: float) -> Float[Array, "h w c"]:
    """`adjust_hue` by a shift uniform in [-largest, largest] turns; a grey picture stays as it is.

    Reference: Chen et al., "A simple framework for contrastive learning of visual representations", 2020, appendix A.
    """
    return adjust_hue(image, jax.random.uniform(key, minval=-largest, maxval=largest))


def random_lighting(key: Key[Array, ""], image: Float[Array, "h w c"], deviation: float) -> Float[Array, "h w c"]:
    """`add_lighting` with Gaussian weights; a picture without three channels is an InputError.

    Reference: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", 2012, section 4.1.
    """
    return add_lighting(image, deviation * jax.random.normal(key, (3,)))


AUGMENTATIONS = {
    "brightness": Augmentation(random_brightness, "largest change of the factor 1", 0.4, highest=1.0),
    "contrast": Augmentation(random_contrast, "largest change of the factor 1", 0.4, highest=1.0),
    "saturation": Augmentation(random_saturation, "largest change of the factor 1", 0.4, highest=1.0),
    "hue": Augmentation(random_hue, "largest shift in turns around the colour circle", 0.1, highest=0.5),
    "lighting": Augmentation(random_lighting, "standard deviation of the components' weights", 0.1, highest=1.0),
}
