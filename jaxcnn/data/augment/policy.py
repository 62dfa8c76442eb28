"""RandAugment: a few operations drawn from fourteen, all with one magnitude."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxcnn.data.augment import geometric, photometric
from jaxcnn.data.augment.augmentation import Augmentation

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
"""The paper's fourteen; `operate` takes their positions here."""

COUNT = 2
"""Operations that `randaugment` applies, one after the other: the paper's N."""

LARGEST = 30.0
"""Largest magnitude: the paper's M."""


def _matrices(height: int, width: int, sign: Float[Array, ""], share: float) -> Float[Array, "5 2 3"]:
    """The maps of shear_x, shear_y, translate_x, translate_y and rotate, as `geometric.affine` takes them."""
    shear = 0.3 * share * sign
    across, down = (int(150 / 331 * side * share) * sign for side in (width, height))
    shears_and_shifts = jnp.array(
        [
            [[1, 0, 0], [shear, 1, shear * height / 2]],
            [[1, shear, shear * width / 2], [0, 1, 0]],
            [[1, 0, 0], [0, 1, -across]],
            [[1, 0, -down], [0, 1, 0]],
        ]
    )
    return jnp.concatenate([shears_and_shifts, geometric.rotation_matrix(30 * share * sign)[None]])


def operate(
    image: Float[Array, "h w c"], operation: Int[Array, ""], sign: Float[Array, ""], magnitude: int
) -> Float[Array, "h w c"]:
    """One of the fourteen operations.

    Mapped over a batch, a branch for each operation would cost all branches for every picture. So the identity
    and the five that move pixels are one affine map with different matrices, and of the others only `equalize` is more
    than arithmetic.

    Args:
      image: in [0, 1].
      operation: position in `OPERATIONS`.
      sign: 1 or -1: the direction of shears, shifts and rotations, and whether the four blends strengthen or weaken;
        the other operations have none.
      magnitude: 0 to 30. At 30, shears by 0.3, shifts by 150/331 of the side (rounded down), rotates by 30 degrees,
        blends with the factors 1.9 and 0.1, posterizes to 4 bits and solarizes from 0; linear below.

    Reference: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020.
    """
    height, width, _ = image.shape
    share = magnitude / LARGEST
    still = jnp.array([[1.0, 0, 0], [0, 1, 0]])
    matrices = jnp.concatenate([still[None], _matrices(height, width, sign, share)])
    moves = len(matrices)
    moved = geometric.affine(image, matrices[jnp.where(operation < moves, operation, 0)])
    factor = 1 + 0.9 * share * sign
    results = [
        *([moved] * moves),
        photometric.adjust_brightness(image, factor),
        photometric.adjust_saturation(image, factor),
        photometric.adjust_contrast(image, factor),
        photometric.adjust_sharpness(image, factor),
        photometric.posterize(image, round(8 - 4 * share)),
        photometric.solarize(image, 1 - share),
        photometric.autocontrast(image),
        photometric.equalize(image),
    ]
    return jax.lax.select_n(operation, *results)


def randaugment(key: Key[Array, ""], image: Float[Array, "h w c"], magnitude: float) -> Float[Array, "h w c"]:
    """Two operations of the fourteen, drawn with their signs anew for every picture; see `operate`.

    Magnitude 0 is not the identity: the operations without a strength remain.

    Reference: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020.
    """
    operations, signs = jax.random.split(key)
    drawn = jax.random.randint(operations, (COUNT,), 0, len(OPERATIONS))
    directions = jax.random.rademacher(signs, (COUNT,), jnp.float32)
    for operation, sign in zip(drawn, directions, strict=True):
        image = operate(image, operation, sign, int(magnitude))
    return image


AUGMENTATIONS = {
    "randaugment": Augmentation(
        randaugment, "magnitude of two operations drawn from fourteen", 9.0, highest=LARGEST, whole=True
    ),
}
