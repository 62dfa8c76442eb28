"""Segmentation: U-Net's weighted loss and its weight map, and intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int
from scipy import ndimage

from jaxcnn.train.losses import cross_entropy


def weighted_cross_entropy(
    logits: Float[Array, "n h w k"], labels: Int[Array, "n h w"], weights: Float[Array, "n h w"]
) -> Float[Array, " n"]:
    """The energy E = sum over pixels x of -w(x) log p_label(x)(x), p being the softmax over the classes.

    Args:
      logits: [N, H, W, k].
      labels: in [0, k).
      weights: w, at least 0.

    Returns:
      One sum per image, in nats.

    Reference: Ronneberger, Fischer & Brox, "U-Net", 2015, equation 1, which leaves the minus out.
    """
    return jnp.sum(weights * cross_entropy(logits, labels), axis=(1, 2))


def weight_map(
    objects: Int[np.ndarray, "h w"],
    class_weights: Sequence[float] = (1.0, 1.0),
    *,
    separation: float = 10.0,
    sigma: float = 5.0,
) -> Float32[np.ndarray, "h w"]:
    """Pixel weights that make a network learn the narrow gaps between objects that almost touch.

    w(x) = w_c(x) + w_0 exp(-(d_1(x) + d_2(x))^2 / (2 sigma^2))

    with the distances d_1 and d_2 to the borders of the nearest and the second nearest object; a border is an
    object's own outermost pixels, and the edge of the image is none. With fewer than two objects w is w_c.

    Args:
      objects: 0 for the background, and another number for each object.
      class_weights: w_c of the background and of the objects.
      separation: w_0.
      sigma: in pixels, positive.

    Returns:
      The weight of every pixel.

    Reference: Ronneberger, Fischer & Brox, "U-Net", 2015, equation 2.
    """
    nearest = np.full(objects.shape, np.inf)
    second = nearest
    for number in np.unique(objects[objects != 0]):
        inside = objects == number
        border = inside & np.logical_not(ndimage.binary_erosion(inside, border_value=1))
        if border.any():  # an object that fills the image has none
            distance = np.asarray(ndimage.distance_transform_edt(~border))
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    balance = np.where(objects == 0, *class_weights)
    gaps = np.exp(-np.square(nearest + second) / (2 * sigma**2))
    return (balance + separation * gaps).astype(np.float32)


def confusion(predictions: Int[Array, "*n"], labels: Int[Array, "*n"], num_classes: int) -> Int[Array, "k k"]:
    """How many pixels of each class (row) were taken for each class (column); sums over batches may be added.

    Args:
      predictions: classes in [0, num_classes).
      labels: classes in [0, num_classes).
      num_classes: k.

    Returns:
      Counts.
    """
    return jnp.zeros((num_classes, num_classes), jnp.int32).at[labels, predictions].add(1)


def intersection_over_union(counts: Int[Array, "k k"]) -> tuple[Float[Array, " k"], Float[Array, ""]]:
    """Of each class, the share found of the pixels that are of it or were taken for it.

    IoU_c = pixels of class c that were found / pixels that are of class c or were taken for it

    Args:
      counts: the confusion matrix.

    Returns:
      Per class, in [0, 1], not a number for a class that neither labels nor predictions have; and the mean over the
      classes that are there.
    """
    found = jnp.diag(counts)
    union = counts.sum(0) + counts.sum(1) - found
    per_class = jnp.where(union > 0, found / jnp.maximum(union, 1), jnp.nan)
    return per_class, jnp.nanmean(per_class)
