"""LeNet-5 (LeCun, Bottou, Bengio & Haffner 1998)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.errors import InputError, unknown_name
from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.layers.pooling import AveragePool, MaxPool
from jaxcnn.models.registration import Facts, Registration

_POOLING = {"average": AveragePool, "max": MaxPool}

_KERNELS = {"5x5": ((5, 5),), "3x3": ((3, 3), (3, 3)), "1x5": ((1, 5), (5, 1))}
"""What sees 5x5 pixels: kernels that follow one another."""


class LeNet5(ImageModel):
    """C1 6@28x28, S2 6@14x14, C3 16@10x10, S4 16@5x5, C5 120, F6 84, output.

    The paper's input is 32x32; smaller images are zero-padded to it evenly. C3 sees every map of S2, the scaled
    tanh is a plain one, S2 and S4 have no trainable coefficients, and the output is linear instead of RBF units:
    the form that is taught, with 61,706 parameters for ten classes and one channel.

    Attributes:
      activation: after each layer but the last; "tanh" as published, "relu" as is common now.
      pooling: "average" as published, or "max".
      kernels: of C3 and C5: "5x5" as published, "3x3" twice, or "1x5" and 5x1 (Szegedy et al., "Rethinking the
        Inception architecture", 2016, section 3); the first of two keeps the number of channels, and the activation
        follows it too.
      batch_norm: before every activation.
    """

    activation: Activation = "tanh"
    pooling: str = "average"
    kernels: str = "5x5"
    batch_norm: bool = False

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C], 25 to 32 pixels a side and in [0, 1], to logits [N, num_classes]."""
        for name, chosen, known in (("pooling", self.pooling, _POOLING), ("kernels", self.kernels, _KERNELS)):
            if chosen not in known:
                raise unknown_name(name, chosen, known)
        pool = _POOLING[self.pooling]

        def activate(x: Array, layer: str) -> Array:
            if self.batch_norm:
                norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=f"{layer}_norm")
                x = norm(x, train=train)
            return activations.get(self.activation)(x)

        def convolve(x: Array, features: int, layer: str) -> Array:
            *first, last = _KERNELS[self.kernels]
            for kernel in first:
                name = f"{layer}_{kernel[0]}x{kernel[1]}"
                x = activate(Conv(x.shape[-1], kernel, padding=0, dtype=self.dtype, name=name)(x), name)
            return activate(Conv(features, last, padding=0, dtype=self.dtype, name=layer)(x), layer)

        x = self.standardize(images)
        missing = [32 - size for size in x.shape[1:3]]
        if not all(0 <= m <= 7 for m in missing):
            raise InputError(f"lenet5 got images of {x.shape[1]}x{x.shape[2]}; expected 25 to 32 pixels a side")
        (top, left), (bottom, right) = [m // 2 for m in missing], [m - m // 2 for m in missing]
        x = Conv(6, (5, 5), padding=((top, bottom), (left, right)), dtype=self.dtype, name="c1")(x)
        x = pool(2, name="s2")(activate(x, "c1"))
        x = pool(2, name="s4")(convolve(x, 16, "c3"))
        x = convolve(x, 120, "c5")
        x = x.reshape(x.shape[0], -1)
        x = activate(nn.Dense(84, dtype=self.dtype, name="f6")(x), "f6")
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


MODELS = {
    "lenet5": Registration(
        LeNet5,
        Facts(
            paper="LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition",
            year=1998,
            input_shape=(32, 32, 1),
            num_classes=10,
            parameters=61_706,
            multiply_adds=416_520,
            accuracy="MNIST test error 0.95 %, 0.8 % with distorted training images (figure 9)",
            published_parameters="60,000",
            published_operations="340,908 connections",
            smallest=25,
            differs="The paper's C3 sees only some maps of S2, S2 and S4 have trainable coefficients, and the output "
            "is a layer of radial basis functions.",
        ),
    )
}
