"""The direct encoding of images in evolution: the genome is the image, changed by polynomial mutation."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

STRENGTH = 15.0
"""Published exponent of the polynomial mutation: the larger, the smaller the changes."""
RATE = 0.1
"""Published share of the numbers that the first mutations change."""
HALVING = 1000
"""Generations after which it is half as large, as published."""


@dataclass(frozen=True)
class Direct:
    """Images that are their own genomes.

    Attributes:
      image_shape: height and width in pixels, and channels.
    """

    image_shape: tuple[int, int, int]

    def create(self, key: Key[Array, ""]) -> Float[Array, "h w c"]:
        """A random genome: uniform noise."""
        return jax.random.uniform(key, self.image_shape)

    def mutate(
        self, key: Key[Array, ""], genome: Float[Array, "h w c"], generation: Int[Array, ""]
    ) -> Float[Array, "h w c"]:
        """A genome of which random numbers were changed, fewer in later generations.

        rate = 0.1 / 2^floor(generation / 1000)
        """
        return polynomial_mutation(key, genome, RATE * 0.5 ** (generation // HALVING))

    def render(self, genomes: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """The images, in [0, 1]."""
        return genomes


def polynomial_mutation(
    key: Key[Array, ""],
    values: Float[Array, ...],
    rate: ArrayLike,
    *,
    low: float = 0.0,
    high: float = 1.0,
    strength: ArrayLike = STRENGTH,
) -> Float[Array, ...]:
    """Changes some of the values, rather a little than a lot.

    x <- clip(x + (high - low) delta, low, high), with the density p(delta) = (strength + 1)/2 (1 - |delta|)^strength
    on [-1, 1]

    Args:
      key: of the changes.
      values: in [low, high].
      rate: probability with which each value is changed, in [0, 1].
      low: least value.
      high: largest value.
      strength: exponent, at least 0.

    Reference: Deb & Agrawal, "A niched-penalty approach for constraint handling in genetic algorithms", 1999; without
    the later variants that depend on the distance to the bounds.
    """
    # One draw decides both whether a value changes and, being uniform below the rate if it does, by how much.
    drawn = jax.random.bits(key, values.shape).astype(jnp.float32) * 2.0**-32
    u = drawn / jnp.maximum(rate, 2.0**-32)
    side = 2 * u - 1
    delta = jnp.sign(side) * (1 - jnp.maximum(1 - jnp.abs(side), 0) ** (1 / (strength + 1)))
    changed = jnp.clip(values + (high - low) * delta, low, high)
    return jnp.where(drawn < rate, changed, values)
