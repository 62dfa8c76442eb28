"""Up-convolution: the learned doubling of an image's sides."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

# Every output value sees one input pixel, so the four taps do not count in the fan-in.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=2, out_axis=3, batch_axis=(0, 1))


class UpConv(nn.Module):
    """Transposed 2x2 convolution with stride 2: every pixel becomes four, and none overlap.

    y[n, 2 i + a, 2 j + b, o] = sum over channel c of x[n, i, j, c] kernel[a, b, c, o] + bias[o]

    Attributes:
      features: output channels.
      kernel_init: initialiser of the kernel [2, 2, C, features].
      dtype: arithmetic; None promotes input and parameters. The parameters `kernel` and `bias` are float32.

    Reference: Ronneberger, Fischer & Brox, "U-Net", 2015, section 2.
    """

    features: int
    kernel_init: nn.initializers.Initializer = _he_normal
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out features"]:
        """Maps [N, H, W, C] to [N, 2 H, 2 W, features]."""
        n, height, width, channels = x.shape
        kernel = self.param("kernel", self.kernel_init, (2, 2, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        # One matrix product makes the four pixels of each; then they move to where they belong.
        y = x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
        y = y.reshape(n, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(n, 2 * height, 2 * width, self.features) + bias.reshape(1, 1, 1, -1)
