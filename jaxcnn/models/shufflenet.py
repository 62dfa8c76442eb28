"""ShuffleNet v2: half of the channels pass each block untouched, and a shuffle mixes the halves (2018)."""

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
from jaxcnn.layers.pooling import GlobalAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Registration, TorchNames

# Table 5 at width 1: output channels and blocks; every stage halves the image.
_STAGES = ((116, 4), (232, 8), (464, 4))


def shuffle(x: Array) -> Array:
    """Interleaves the two halves of the channels of [N, H, W, C]: 0, C / 2, 1, C / 2 + 1, ..."""
    return x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)


class Block(nn.Module):
    """y = shuffle(concatenate(left, F(right))), F = 1x1, depthwise 3x3, 1x1.

    With stride 1, left and right are the two halves of the channels; with stride 2, both are the whole input and the
    left branch is a depthwise 3x3 and a 1x1.
    """

    features: int
    stride: int
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        half = self.features // 2

        def pointwise(x: Array, name: str) -> Array:
            return ConvNorm(half, 1, **self.fields, name=name)(x, train=train)

        def depthwise(x: Array, name: str) -> Array:
            fields = {**self.fields, "activation": None}
            return ConvNorm(x.shape[-1], 3, self.stride, 1, x.shape[-1], **fields, name=name)(x, train=train)

        if self.stride == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            left, right = pointwise(depthwise(x, "left_depthwise"), "left_pointwise"), x
        right = depthwise(pointwise(right, "right_pointwise1"), "right_depthwise")
        right = pointwise(right, "right_pointwise2")
        return shuffle(jnp.concatenate([left, right], axis=-1))


class Stage(nn.Module):
    """`blocks` blocks in sequence, the first with stride 2."""

    features: int
    blocks: int
    remat: bool
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / 2, W / 2, features]."""
        for i in range(1, self.blocks + 1):
            block = Block(self.features, 2 if i == 1 else 1, self.fields, name=f"block{i}")
            x = run_block(block, x, remat=self.remat, train=train)
        return x


class ShuffleNetV2(BlockModel):
    """Convolution, max pooling, three stages of blocks, 1x1 convolution, global average pooling, linear.

    Attributes:
      activation: after every batch norm but those of the depthwise convolutions.
    """

    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        fields = {"activation": self.activation, "dtype": self.dtype, "axis_name": self.axis_name}
        x = self.standardize(images)
        x = ConvNorm(24, 3, 2, 1, **fields, name="stem")(x, train=train)
        x = MaxPool(3, 2, 1, name="pool")(x)
        for i, (features, blocks) in enumerate(_STAGES, start=1):
            x = Stage(features, blocks, self.remat, fields, name=f"stage{i}")(x, train=train)
        x = ConvNorm(1024, 1, **fields, name="last")(x, train=train)
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


_BRANCHES = {
    "left_depthwise": ("branch1", 0),
    "left_pointwise": ("branch1", 2),
    "right_pointwise1": ("branch2", 0),
    "right_depthwise": ("branch2", 3),
    "right_pointwise2": ("branch2", 5),
}


def _torch_name(path: str) -> str:
    """stage1/block2/right_depthwise/norm is stage2.1.branch2.4."""
    stage, *rest = path.split("/")
    if stage == "head":
        return "fc"
    leaf = ("conv", "norm").index(rest[-1])
    if stage in ("stem", "last"):
        return f"conv{1 if stage == 'stem' else 5}.{leaf}"
    branch, index = _BRANCHES[rest[1]]
    return f"stage{int(stage[5:]) + 1}.{int(rest[0][5:]) - 1}.{branch}.{index + leaf}"


MODELS = {
    "shufflenet_v2_x1_0": Registration(
        ShuffleNetV2,
        Facts(
            paper="Ma, Zhang, Zheng & Sun, ShuffleNet V2: Practical guidelines for efficient CNN architecture design",
            year=2018,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=2_278_604,
            multiply_adds=144_907_992,
            accuracy="ILSVRC-2012 validation top-1 error 30.6 % (table 8); torchvision's weights top-1 69.362 %, top-5 "
            "88.316 %, one crop",
            published_parameters="2.3M (table 5)",
            published_operations="146M multiply-adds (table 5)",
            preprocessing=IMAGENET,
        ),
        torch_names=TorchNames(_torch_name),
    ),
}
