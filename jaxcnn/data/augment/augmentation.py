"""What an augmentation is: a drawn function of pictures, and what its strength means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import InputError

Scalar: TypeAlias = Float[Array, ""] | float


@dataclass(frozen=True)
class Augmentation:
    """One way to vary training pictures, and the one number that says how much.

    Attributes:
      apply: (key, image [h, w, c], strength) -> image; with `mixes`, (key, images [n, h, w, c], targets [n, k],
        strength) -> (images, targets). Strengths are Python numbers, so a compiled program holds them as constants.
      meaning: what the strength is, with its unit.
      default: the strength of the paper that the function cites.
      highest: largest strength allowed; the smallest is 0.
      whole: whether only whole numbers are allowed.
      mixes: whether it acts on a batch with its targets, and not on one picture.
    """

    apply: Callable[..., Any]
    meaning: str
    default: float
    highest: float = math.inf
    whole: bool = False
    mixes: bool = False

    def check(self, name: str, strength: float) -> None:
        """Refuses a strength that is not in range.

        Raises:
          InputError: it is not; the message names the setting, the value, the meaning and the range.
        """
        allowed = math.isfinite(strength) and 0 <= strength <= self.highest
        if not allowed or (self.whole and strength != int(strength)):
            limit = "of at least 0" if math.isinf(self.highest) else f"from 0 to {self.highest:g}"
            kind = "a whole number" if self.whole else "a number"
            raise InputError(f"data.augment of {name} is {strength:g}; expected {kind} {limit}: {self.meaning}")


def bounded(values: Float[Array, "*shape"], image: Array) -> Float[Array, "*shape"]:
    """Values cut off at 0 and 1, in the type of `image`."""
    return jnp.clip(values, 0, 1).astype(image.dtype)
