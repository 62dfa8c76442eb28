"""MobileNet v2: inverted residuals with linear bottlenecks (2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.conv_norm import ConvNorm
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.layers.pooling import GlobalAveragePool
from jaxcnn.models.registration import IMAGENET, Facts, Registration, TorchNames

# Table 2: expansion, output channels, blocks, stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expands with 1x1, filters every channel with its own 3x3, projects with 1x1 without an activation.

    The input is added where its shape is the output's.
    """

    expansion: int
    features: int
    stride: int
    activation: Activation
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        hidden = self.expansion * x.shape[-1]
        fields = {"activation": self.activation, **self.fields}
        y = x
        if self.expansion > 1:
            y = ConvNorm(hidden, 1, **fields, name="expand")(y, train=train)
        y = ConvNorm(hidden, 3, self.stride, 1, groups=hidden, **fields, name="depthwise")(y, train=train)
        y = ConvNorm(self.features, 1, activation=None, **self.fields, name="project")(y, train=train)
        return x + y if x.shape == y.shape else y


class Stage(nn.Module):
    """`blocks` inverted residuals in sequence, the first with the stride."""

    expansion: int
    features: int
    blocks: int
    stride: int
    remat: bool
    activation: Activation
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        for i in range(1, self.blocks + 1):
            stride = self.stride if i == 1 else 1
            block = InvertedResidual(
                self.expansion, self.features, stride, self.activation, self.fields, name=f"block{i}"
            )
            x = run_block(block, x, remat=self.remat, train=train)
        return x


class MobileNetV2(BlockModel):
    """Convolution, seven stages of inverted residuals, 1x1 convolution, global average pooling, linear.

    Attributes:
      dropout: probability with which a value before the linear layer is dropped in training.
      activation: after every batch norm but those of the projections.
    """

    dropout: float = 0.2
    activation: Activation = "relu6"

    @property
    def branch_norms(self) -> str | None:
        """See `ImageModel`."""
        return r"stage\d+/block(?!1/)\d+/project/norm"  # a stage's first block has no shortcut

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        fields = {"kernel_init": he_normal_fan_out, "dtype": self.dtype, "axis_name": self.axis_name}
        x = self.standardize(images)
        x = ConvNorm(32, 3, 2, 1, activation=self.activation, **fields, name="stem")(x, train=train)
        for i, row in enumerate(_STAGES, start=1):
            x = Stage(*row, self.remat, self.activation, fields, name=f"stage{i}")(x, train=train)
        x = ConvNorm(1280, 1, activation=self.activation, **fields, name="last")(x, train=train)
        x = GlobalAveragePool(name="average")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x.astype(jnp.float32))


def _torch_name(path: str) -> str:
    """stage2/block1/depthwise/norm is features.2.conv.1.1: torchvision numbers the blocks through."""
    stage, *rest = path.split("/")
    if stage == "head":
        return "classifier.1"
    leaf = ("conv", "norm").index(rest[-1])
    if stage in ("stem", "last"):
        return f"features.{0 if stage == 'stem' else 18}.{leaf}"
    number = int(stage[5:])
    index = sum(blocks for _, _, blocks, _ in _STAGES[: number - 1]) + int(rest[0][5:])
    part = ("expand", "depthwise", "project").index(rest[1]) - (number == 1)  # the first stage does not expand
    if rest[1] == "project":
        return f"features.{index}.conv.{part + leaf}"
    return f"features.{index}.conv.{part}.{leaf}"


MODELS = {
    "mobilenet_v2": Registration(
        MobileNetV2,
        Facts(
            paper="Sandler, Howard, Zhu, Zhmoginov & Chen, MobileNetV2: Inverted residuals and linear bottlenecks",
            year=2018,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=3_504_872,
            multiply_adds=300_774_272,
            accuracy="ILSVRC-2012 validation top-1 72.0 % (table 4); torchvision's weights top-1 71.878 %, top-5 "
            "90.286 %, one crop",
            published_parameters="3.4M (table 4)",
            published_operations="300M multiply-adds (table 4)",
            preprocessing=IMAGENET,
        ),
        torch_names=TorchNames(_torch_name),
    ),
}
