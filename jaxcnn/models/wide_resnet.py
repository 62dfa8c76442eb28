"""Wide residual networks for 32x32 images (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.blocks import BlockModel
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal, he_normal_fan_out
from jaxcnn.layers.pooling import GlobalAveragePool
from jaxcnn.models.registration import Facts, Preprocessing, Registration
from jaxcnn.models.resnet_v2 import Stage


class WideResNet(BlockModel):
    """conv3x3-16, three stages of n pre-activation blocks with 16k, 32k and 64k filters, batch norm, pooling, linear.

    Attributes:
      depth: convolutions, 6n + 4.
      widening: the factor k.
      dropout: probability with which a value between the two convolutions of a block is dropped in training.
      activation: after each batch norm.
    """

    depth: int = 28
    widening: int = 10
    dropout: float = 0.0
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Checks the depth."""
        if self.depth < 10 or (self.depth - 4) % 6:
            raise InputError(f"depth is {self.depth}; expected 6n + 4 with n >= 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        norm = {"axis_name": self.axis_name, "dtype": self.dtype}
        x = self.standardize(images)
        x = Conv(16, 3, padding=1, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype, name="stem")(x)
        for i, (features, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            block = {"features": features * self.widening, "inner": 0, "dropout": self.dropout} | norm
            block["activation"] = self.activation
            x = Stage((self.depth - 4) // 6, stride, True, self.remat, block, name=f"stage{i}")(x, train=train)
        x = BatchNorm(**norm, name="final_norm")(x, train=train)
        x = GlobalAveragePool(name="average")(activations.get(self.activation)(x))
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="head")(x.astype(jnp.float32))


def _register(depth: int, widening: int, counts: tuple[int, int], printed: str, errors: str) -> Registration:
    return Registration(
        WideResNet,
        Facts(
            paper="Zagoruyko & Komodakis, Wide residual networks",
            year=2016,
            input_shape=(32, 32, 3),
            num_classes=10,
            parameters=counts[0],
            multiply_adds=counts[1],
            accuracy=f"{errors}; 200 epochs, pad-and-crop and flip, no dropout",
            published_parameters=f"{printed} million",
            preprocessing=Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.244, 0.262)),
            differs="As in the authors' code, a block whose shape changes shares its first batch norm and activation "
            "between the convolutions and the projection.",
        ),
        {"depth": depth, "widening": widening},
    )


MODELS = {
    "wide_resnet16_8": _register(
        16, 8, (10_961_370, 1_548_145_664), "11.0", "CIFAR-10 test error 4.27 %, CIFAR-100 20.43 %"
    ),
    "wide_resnet28_10": _register(
        28, 10, (36_479_194, 5_243_328_768), "36.5", "CIFAR-10 test error 4.00 %, CIFAR-100 19.25 %"
    ),
}
