"""What an image is asked not to be: penalties, which an objective is maximised minus."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxcnn.analysis.objectives import IMAGE, PARAMETERS, Objective, Term
from jaxcnn.errors import InputError


def l1(weight: float, center: ArrayLike = 0.0) -> Objective:
    """Few pixels that differ from the colour `center`.

    f = weight sum |x - center|

    Args:
      weight: at least 0 and finite.
      center: a grey level or a colour [C], in [0, 1]; 0 is black.

    Raises:
      InputError: the weight is NaN, negative or infinite.

    Reference: Tibshirani, "Regression shrinkage and selection via the lasso", 1996.
    """
    return _penalty("L1", weight, IMAGE, _absolute, np.asarray(center, np.float32))


def l2(weight: float, center: ArrayLike = 0.0) -> Objective:
    """Pixels of nearly the colour `center`.

    f = weight sum (x - center)^2

    Args:
      weight: at least 0 and finite.
      center: see `l1`.

    Raises:
      InputError: see `l1`.

    Reference: Simonyan, Vedaldi & Zisserman, "Deep inside convolutional networks", 2014, equation 1.
    """
    return _penalty("L2", weight, IMAGE, _square, np.asarray(center, np.float32))


def total_variation(weight: float) -> Objective:
    """Neighbouring pixels that are alike, but for edges.

    f = weight sum_ij (|x_{i+1,j} - x_ij| + |x_{i,j+1} - x_ij|)

    Args:
      weight: at least 0 and finite.

    Raises:
      InputError: see `l1`.

    Reference: Mahendran & Vedaldi, "Understanding deep image representations by inverting them", 2015, section 3.2,
    with beta = 1 and the sum of the two differences' magnitudes.
    """
    return _penalty("total variation", weight, IMAGE, _variation)


def blur(weight: float) -> Objective:
    """Pixels that are like the mean of their neighbourhood.

    f = weight sum (x - B x)^2, B the binomial filter (1, 2, 1)/4 along both sides, pixels repeated at the border

    Args:
      weight: at least 0 and finite.

    Raises:
      InputError: see `l1`.

    Reference: Yosinski, Clune, Nguyen, Fuchs & Lipson, "Understanding neural networks through deep visualization",
    2015, section 3, which blurs after each step instead.
    """
    return _penalty("blur", weight, IMAGE, _roughness)


def gaussian(weight: float) -> Objective:
    """Parameters as likely as those of the images that were measured, which are standard normal in the coordinates of
    `parametrization.principal` and `parametrization.spectrum`.

    f = weight |z|^2 / 2, minus the logarithm of the density where the weight is 1

    Args:
      weight: at least 0 and finite.

    Raises:
      InputError: see `l1`.

    Reference: Nguyen, Clune, Bengio, Dosovitskiy & Yosinski, "Plug & play generative networks", 2017, equation 3.
    """
    return _penalty("Gaussian", weight, PARAMETERS, _energy)


def check_weight(name: str, weight: float) -> None:
    """Raises an InputError unless the weight of the penalty of that name is a finite number of at least 0."""
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"the weight of the {name} penalty is {weight}; expected a finite number of at least 0")


def _penalty(name: str, weight: float, place: str, function: Callable[..., Array], *arguments: np.ndarray) -> Objective:
    check_weight(name, weight)
    return weight * Term(function, place, arguments)


def _absolute(images: Array, center: Array) -> Array:
    return jnp.abs(images - center.reshape(1, 1, 1, -1)).sum((1, 2, 3))


def _square(images: Array, center: Array) -> Array:
    return jnp.square(images - center.reshape(1, 1, 1, -1)).sum((1, 2, 3))


def _variation(images: Array) -> Array:
    down, right = jnp.diff(images, axis=1), jnp.diff(images, axis=2)
    return jnp.abs(down).sum((1, 2, 3)) + jnp.abs(right).sum((1, 2, 3))


def _roughness(images: Array) -> Array:
    blurred = images
    for axis in (1, 2):
        size = images.shape[axis]
        padded = jnp.pad(blurred, [(int(i == axis),) * 2 for i in range(4)], mode="edge")
        before, here, after = (jnp.take(padded, jnp.arange(size) + k, axis) for k in range(3))
        blurred = (before + 2 * here + after) / 4
    return jnp.square(images - blurred).sum((1, 2, 3))


def _energy(parameters: Array) -> Array:
    return jnp.square(parameters).sum(1) / 2
