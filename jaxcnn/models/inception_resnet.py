"""Inception-ResNet v2: Inception branches as scaled residuals (Szegedy, Ioffe, Vanhoucke & Alemi 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.conv_norm import ConvNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal
from jaxcnn.layers.pooling import GlobalAveragePool, MaxPool
from jaxcnn.models.inception_v4 import AVERAGE, MAX, TF_SLIM, Branch, Branches, Unit
from jaxcnn.models.registration import Facts, Registration

_U = Unit

_INCEPTION_A: tuple[Branch, ...] = (
    (_U(96, 1),),
    (_U(48, 1), _U(64, 5)),
    (_U(64, 1), _U(96, 3), _U(96, 3)),
    (AVERAGE, _U(64, 1)),
)
_REDUCTION_A: tuple[Branch, ...] = ((_U(384, 3, 2),), (_U(256, 1), _U(256, 3), _U(384, 3, 2)), (MAX,))
_REDUCTION_B: tuple[Branch, ...] = (
    (_U(256, 1), _U(384, 3, 2)),
    (_U(256, 1), _U(288, 3, 2)),
    (_U(256, 1), _U(288, 3), _U(320, 3, 2)),
    (MAX,),
)

_RESIDUAL_A: tuple[Branch, ...] = ((_U(32, 1),), (_U(32, 1), _U(32, 3)), (_U(32, 1), _U(48, 3), _U(64, 3)))
_RESIDUAL_B: tuple[Branch, ...] = ((_U(192, 1),), (_U(128, 1), _U(160, (1, 7)), _U(192, (7, 1))))
_RESIDUAL_C: tuple[Branch, ...] = ((_U(192, 1),), (_U(192, 1), _U(224, (1, 3)), _U(256, (3, 1))))


class Residual(nn.Module):
    """y = a(x + scale conv1x1(branches(x))), the 1x1 convolution with a bias and without batch norm.

    Scaling the residuals down is what keeps wide networks of this kind from dying early in training (section 3.3).
    """

    branches: tuple[Branch, ...]
    scale: float
    activation: Activation | None
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to the same shape."""
        y = Branches(self.branches, self.fields, name="branches")(x, train=train)
        y = Conv(x.shape[-1], 1, kernel_init=he_normal, dtype=self.fields["dtype"], name="project")(y)
        x = x + self.scale * y
        return x if self.activation is None else activations.get(self.activation)(x)


class InceptionResNetV2(BlockModel):
    """Stem, Inception-A, 10 residuals, reduction, 20 residuals, reduction, 10 residuals, 1x1, pooling, linear.

    Attributes:
      dropout: probability with which a value before the linear layer is dropped in training.
      activation: after every batch norm and every addition but the last.
    """

    dropout: float = 0.2
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        fields = {
            "activation": self.activation,
            "epsilon": 1e-3,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }

        def conv(x: Array, features: int, kernel: int, stride: int, padding: int, name: str) -> Array:
            return ConvNorm(features, kernel, stride, padding, **fields, name=name)(x, train=train)

        def inception(x: Array, branches: tuple[Branch, ...], name: str) -> Array:
            return run_block(Branches(branches, fields, name=name), x, remat=self.remat, train=train)

        def residual(
            x: Array, branches: tuple[Branch, ...], scale: float, activation: Activation | None, name: str
        ) -> Array:
            block = Residual(branches, scale, activation, fields, name=name)
            return run_block(block, x, remat=self.remat, train=train)

        def residuals(x: Array, branches: tuple[Branch, ...], scale: float, count: int, name: str) -> Array:
            for i in range(1, count + 1):
                x = residual(x, branches, scale, self.activation, f"{name}{i}")
            return x

        x = self.standardize(images)
        x = conv(x, 32, 3, 2, 0, "conv1")
        x = conv(x, 32, 3, 1, 0, "conv2")
        x = conv(x, 64, 3, 1, 1, "conv3")
        x = MaxPool(3, 2, name="pool1")(x)
        x = conv(x, 80, 1, 1, 0, "conv4")
        x = conv(x, 192, 3, 1, 0, "conv5")
        x = MaxPool(3, 2, name="pool2")(x)
        x = inception(x, _INCEPTION_A, "inception_a")
        x = residuals(x, _RESIDUAL_A, 0.17, 10, "residual_a")
        x = inception(x, _REDUCTION_A, "reduction_a")
        x = residuals(x, _RESIDUAL_B, 0.10, 20, "residual_b")
        x = inception(x, _REDUCTION_B, "reduction_b")
        x = residuals(x, _RESIDUAL_C, 0.20, 9, "residual_c")
        x = residual(x, _RESIDUAL_C, 1.0, None, "residual_c10")
        x = conv(x, 1536, 1, 1, 0, "last")
        x = GlobalAveragePool(name="average")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


MODELS = {
    "inception_resnet_v2": Registration(
        InceptionResNetV2,
        Facts(
            paper="Szegedy, Ioffe, Vanhoucke & Alemi, Inception-v4, Inception-ResNet and the impact of residual "
            "connections on learning",
            year=2017,
            input_shape=(299, 299, 3),
            num_classes=1000,
            parameters=55_843_464,
            multiply_adds=13_155_794_016,
            accuracy="ILSVRC-2012 validation top-1 error 19.9 %, top-5 4.9 %, one crop, without the blacklisted images "
            "(table 2)",
            preprocessing=TF_SLIM,
            smallest=75,
            differs="The paper's figures have the stem of Inception v4 and wider blocks, and scale residuals by 0.1 to "
            "0.3. This is the network whose weights were released, TF-slim's and Keras's, in its PyTorch form, with "
            "scales in the batch norms. Without these 30,272 it has 55,813,192 parameters; the 55,873,736 that Keras "
            "prints add 60,544 running statistics. The auxiliary classifier is left out.",
        ),
    ),
}
