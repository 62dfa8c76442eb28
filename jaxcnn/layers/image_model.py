"""What every network here has in common: it takes images in [0, 1] and standardises them itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.errors import InputError


class Auxiliary(NamedTuple):
    """The output of a classifier that helps training from the middle of a network.

    Attributes:
      logits: [N, num_classes].
      weight: of its loss in the training loss.
    """

    logits: Array
    weight: float


class ImageModel(nn.Module):
    """Base of the networks: their common fields, and the step from pixels to standardised inputs.

    Attributes:
      num_classes: number of logits.
      mean: subtracted per channel, in [0, 1]; one value serves every channel.
      std: divided by per channel; one value serves every channel.
      dtype: arithmetic of the layers; parameters, statistics and the last layer stay float32.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
    """

    num_classes: int = 1000
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def __post_init__(self) -> None:
        """Checks the dropout, of the networks that have it."""
        dropout = getattr(self, "dropout", 0.0)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout}; expected a probability in [0, 1)")
        super().__post_init__()

    @property
    def branch_norms(self) -> str | None:
        """The paths of the batch norms that end a residual branch, as a regular expression; None where none does."""
        return None

    def standardize(self, images: ArrayLike) -> Array:
        """x = (image - mean) / std, per channel.

        Args:
          images: [N, H, W, C], floating point in [0, 1].

        Returns:
          [N, H, W, C] in the model's dtype.

        Raises:
          InputError: another rank, an integer type, or channels that do not match `mean`.
        """
        images = jnp.asarray(images)
        if images.ndim != 4:
            raise InputError(f"images have shape {images.shape}; expected [N, H, W, C]")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(f"images are {images.dtype}; expected floating point in [0, 1] (divide uint8 by 255)")
        if len(self.mean) not in (1, images.shape[-1]):
            raise InputError(f"images have {images.shape[-1]} channels; expected {len(self.mean)}, as in mean")
        mean, std = (jnp.asarray(v, images.dtype).reshape(1, 1, 1, -1) for v in (self.mean, self.std))
        return ((images - mean) / std).astype(self.dtype)

    def add_auxiliary(self, name: str, logits: Array, weight: float) -> None:
        """Hands the logits [N, num_classes] of an auxiliary classifier, and its weight, to the training loss."""
        self.sow("auxiliary", name, Auxiliary(logits, weight))
