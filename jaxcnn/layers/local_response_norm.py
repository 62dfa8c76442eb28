"""Local response normalisation, as AlexNet and VGG A-LRN have it."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class LocalResponseNorm(nn.Module):
    """y_c = x_c / (k + alpha sum of x_j^2 over the `size` channels around c)^beta, channels beyond the ends left out.

    PyTorch divides its alpha by the size first: its 5e-4 is 1e-4 here.

    Attributes:
      size: channels summed over, an odd number.
      k: added to the sum.
      alpha: weight of the sum.
      beta: exponent.

    Reference: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 3.3, whose constants are the defaults.
    """

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Normalises [N, H, W, C] over its channels; half precision is computed in float32."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        half = self.size // 2
        padding = [(0, 0), (0, 0), (0, 0), (half, half)]
        total = lax.reduce_window(jnp.square(wide), 0.0, lax.add, (1, 1, 1, self.size), (1, 1, 1, 1), padding)
        return (wide / (self.k + self.alpha * total) ** self.beta).astype(x.dtype)
