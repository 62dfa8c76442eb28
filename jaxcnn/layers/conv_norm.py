"""Convolution, batch norm, activation: the unit that most networks since 2015 are made of."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.convolution import Conv, Pair
from jaxcnn.layers.initializers import he_normal


class ConvNorm(nn.Module):
    """y = activation(batch_norm(convolve(x))), the convolution without a bias.

    Attributes:
      features: output channels.
      kernel_size: height and width in pixels; one number serves both.
      strides: pixels between outputs.
      padding: zeros around the image: one number for all sides, or ((top, bottom), (left, right)).
      groups: number of equal runs of channels convolved apart from each other.
      activation: after batch norm; None for none.
      epsilon: of batch norm.
      momentum: of batch norm.
      kernel_init: initialiser of the kernel.
      dtype: arithmetic.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
    """

    features: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: int | tuple[Pair, Pair] = 0
    groups: int = 1
    activation: Activation | None = "relu"
    epsilon: float = 1e-5
    momentum: float = 0.9
    kernel_init: nn.initializers.Initializer = he_normal
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h_out w_out features"]:
        """Maps [N, H, W, C] to [N, H', W', features]; parts are called `conv` and `norm`."""
        x = Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        norm = BatchNorm(self.momentum, self.epsilon, dtype=self.dtype, axis_name=self.axis_name, name="norm")
        x = norm(x, train=train)
        return x if self.activation is None else activations.get(self.activation)(x)
