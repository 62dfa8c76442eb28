"""Augmentations that cut pictures out, or mix them with others and their targets likewise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxcnn.data.augment.augmentation import Augmentation, Scalar, bounded
from jaxcnn.errors import InputError


def rectangle(
    height: int, width: int, start: Int[Array, " 2"], stop: Int[Array, " 2"]
) -> Bool[Array, "height width 1"]:
    """True at the pixels from `start` to before `stop`, each a row and a column, which may lie outside."""
    inside = [(jnp.arange(n) >= a) & (jnp.arange(n) < b) for n, a, b in zip((height, width), start, stop, strict=True)]
    return (inside[0][:, None] & inside[1][None, :])[..., None]


def erase(image: Float[Array, "h w c"], centre: Int[Array, " 2"], side: int) -> Float[Array, "h w c"]:
    """A square in the picture's mean colour; what of it lies outside is lost.

    The paper erases with zero where zero is the mean of the data. Here 0 is black, so the mean is the picture's own.

    Args:
      image: in [0, 1].
      centre: row and column of the square's pixel number side // 2.
      side: in pixels; 0 is the identity.

    Raises:
      InputError: the side exceeds the picture's.
    """
    height, width, _ = image.shape
    if side > min(height, width):
        raise InputError(f"data.augment of cutout is {side} for pictures {image.shape}; expected at most their side")
    start = centre - side // 2
    mean = image.mean(axis=(0, 1), keepdims=True)
    return jnp.where(rectangle(height, width, start, start + side), mean, image)


def cutout(key: Key[Array, ""], image: Float[Array, "h w c"], side: float) -> Float[Array, "h w c"]:
    """`erase` about a pixel that may be any.

    Reference: DeVries & Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    return erase(image, jax.random.randint(key, (2,), 0, jnp.array(image.shape[:2])), int(side))


def mix(
    images: Float[Array, "n h w c"], targets: Float[Array, "n k"], share: Scalar
) -> tuple[Float[Array, "n h w c"], Float[Array, "n k"]]:
    """Every example with the one before it, the first with the last.

    x'[i] = share x[i] + (1 - share) x[i - 1], and the targets likewise

    The order of a training batch is random, so this partner is as good as any.

    Args:
      images: in [0, 1].
      targets: probabilities of the classes.
      share: in [0, 1]; 1 is the identity.
    """
    mixed, soft = (share * x + (1 - share) * jnp.roll(x, 1, axis=0) for x in (images, targets))
    return bounded(mixed, images), bounded(soft, targets)


def mixup(
    key: Key[Array, ""], images: Float[Array, "n h w c"], targets: Float[Array, "n k"], alpha: float
) -> tuple[Float[Array, "n h w c"], Float[Array, "n k"]]:
    """`mix` with one share for the whole batch, from Beta(alpha, alpha); alpha 0 is the identity.

    Reference: Zhang et al., "mixup: Beyond empirical risk minimization", 2018.
    """
    return mix(images, targets, jax.random.beta(key, alpha, alpha)) if alpha else (images, targets)


def paste(
    images: Float[Array, "n h w c"], targets: Float[Array, "n k"], start: Int[Array, " 2"], stop: Int[Array, " 2"]
) -> tuple[Float[Array, "n h w c"], Float[Array, "n k"]]:
    """A rectangle of every example replaced by that of the one before it; targets by the share of pixels.

    Args:
      images: in [0, 1].
      targets: probabilities of the classes.
      start: first row and column of the rectangle.
      stop: the row and column after its last.
    """
    _, height, width, _ = images.shape
    inside = rectangle(height, width, start, stop)
    pasted = jnp.where(inside[None], jnp.roll(images, 1, axis=0), images)
    return pasted, mix(images, targets, 1 - inside.mean())[1]


def draw_rectangle(
    key: Key[Array, ""], height: int, width: int, alpha: float
) -> tuple[Int[Array, " 2"], Int[Array, " 2"]]:
    """The rectangle of `cutmix`: sqrt(1 - share) of each side about any pixel, share from Beta(alpha, alpha).

    Args:
      key: decides everything.
      height: of the pictures, in pixels.
      width: likewise.
      alpha: above 0.

    Returns:
      The first row and column, and those after the last, within the picture.
    """
    of_share, of_centre = jax.random.split(key)
    size = jnp.array([height, width])
    half = (jnp.sqrt(1 - jax.random.beta(of_share, alpha, alpha)) / 2 * size).astype(jnp.int32)
    centre = jax.random.randint(of_centre, (2,), 0, size)
    return jnp.maximum(centre - half, 0), jnp.minimum(centre + half, size)


def cutmix(
    key: Key[Array, ""], images: Float[Array, "n h w c"], targets: Float[Array, "n k"], alpha: float
) -> tuple[Float[Array, "n h w c"], Float[Array, "n k"]]:
    """`paste` of one rectangle from `draw_rectangle` for the whole batch; alpha 0 is the identity.

    Reference: Yun et al., "CutMix: Regularization strategy to train strong classifiers with localizable features",
    2019.
    """
    _, height, width, _ = images.shape
    return paste(images, targets, *draw_rectangle(key, height, width, alpha)) if alpha else (images, targets)


AUGMENTATIONS = {
    "cutout": Augmentation(cutout, "side of the erased square in pixels", 16.0, whole=True),
    "mixup": Augmentation(mixup, "alpha of the Beta distribution of the share", 0.2, mixes=True),
    "cutmix": Augmentation(cutmix, "alpha of the Beta distribution of the share", 1.0, mixes=True),
}
