"""Pre-activation residual networks for ImageNet: batch norm and activation before each convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.layers.pooling import GlobalAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Registration, TorchNames
from jaxcnn.models.resnet import BLOCKS, torchvision_name


class Block(nn.Module):
    """y = F(x) + shortcut(x), where batch norm and activation stand before each convolution of F.

    F is two 3x3 convolutions, or the bottleneck 1x1, 3x3, 1x1 with the stride in the 3x3. The shortcut is the identity;
    where the shape changes it is a 1x1 convolution of the pre-activated input, which both paths then share.

    Attributes:
      features: output channels.
      stride: of the block.
      inner: channels inside the bottleneck; 0 for two 3x3 convolutions.
      preactivate: whether the first convolution has its batch norm and activation, which a stem may already have done.
      dropout: probability with which a value before the last convolution is dropped in training.
      activation: after each batch norm.
      dtype: arithmetic.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
    """

    features: int
    stride: int
    inner: int
    preactivate: bool
    dropout: float
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""

        def conv(x: Array, features: int, kernel: int, stride: int, name: str) -> Array:
            fields = {"use_bias": False, "kernel_init": he_normal_fan_out, "dtype": self.dtype, "name": name}
            return Conv(features, kernel, stride, kernel // 2, **fields)(x)

        def activate(x: Array, name: str) -> Array:
            x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)(x, train=train)
            return activations.get(self.activation)(x)

        y = activate(x, "norm1") if self.preactivate else x
        if x.shape[-1] != self.features or self.stride != 1:
            x = conv(y, self.features, 1, self.stride, "project")
        if self.inner:
            y = activate(conv(y, self.inner, 1, 1, "conv1"), "norm2")
            y = activate(conv(y, self.inner, 3, self.stride, "conv2"), "norm3")
            y = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(y)
            return x + conv(y, self.features, 1, 1, "conv3")
        y = activate(conv(y, self.features, 3, self.stride, "conv1"), "norm2")
        y = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(y)
        return x + conv(y, self.features, 3, 1, "conv2")


class Stage(nn.Module):
    """`blocks` blocks in sequence, the first with the stride and, if asked, without its first batch norm."""

    blocks: int
    stride: int
    preactivate: bool
    remat: bool
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        for i in range(1, self.blocks + 1):
            fields = {"stride": self.stride if i == 1 else 1, "preactivate": self.preactivate or i > 1}
            x = run_block(Block(**fields, **self.block, name=f"block{i}"), x, remat=self.remat, train=train)
        return x


class ResNetV2(BlockModel):
    """conv7x7-64/2, max pooling, four stages of pre-activation blocks, batch norm, global average pooling, linear.

    Attributes:
      depth: weighted layers: 18 or 34 (two 3x3 convolutions a block), 50, 101, 152 or 200 (bottlenecks).
      activation: after each batch norm.

    Reference: He, Zhang, Ren & Sun, "Identity mappings in deep residual networks", 2016, figure 4(e) and the appendix.
    """

    depth: int = 50
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Checks the depth."""
        if self.depth not in BLOCKS:
            raise InputError(f"depth is {self.depth}; expected one of {', '.join(map(str, BLOCKS))}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        activation = activations.get(self.activation)
        norm = {"axis_name": self.axis_name, "dtype": self.dtype}
        x = self.standardize(images)
        x = Conv(64, 7, 2, 3, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype, name="stem")(x)
        x = BatchNorm(**norm, name="stem_norm")(x, train=train)
        x = MaxPool(3, 2, padding=1, name="pool")(activation(x))
        for i, blocks in enumerate(BLOCKS[self.depth]):
            features, inner = 64 * 2**i, 0
            if self.depth >= 50:
                features, inner = 4 * features, features
            block = {"features": features, "inner": inner, "dropout": 0.0, "activation": self.activation} | norm
            x = Stage(blocks, 1 if i == 0 else 2, i > 0, self.remat, block, name=f"stage{i + 1}")(x, train=train)
        x = activation(BatchNorm(**norm, name="final_norm")(x, train=train))
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


_ACCURACY = {
    152: "ILSVRC-2012 validation top-1 error 21.1 %, top-5 5.5 %, one crop of 320x320 (table 5)",
    200: "ILSVRC-2012 validation top-1 error 20.7 %, top-5 5.3 %, one crop of 320x320, scale augmentation (table 5)",
}

# Depth: parameters and multiply-adds.
_COUNTS = {
    18: (11_687_720, 1_814_073_344),
    34: (21_795_880, 3_663_761_408),
    50: (25_549_352, 4_089_184_256),
    101: (44_541_480, 7_801_405_440),
    152: (60_185_128, 11_513_626_624),
    200: (64_666_152, 15_007_481_856),
}

MODELS = {
    f"resnet{depth}_v2": Registration(
        ResNetV2,
        Facts(
            paper="He, Zhang, Ren & Sun, Identity mappings in deep residual networks",
            year=2016,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=parameters,
            multiply_adds=multiply_adds,
            accuracy=_ACCURACY.get(depth, "none published for this depth on ImageNet"),
            preprocessing=IMAGENET,
            differs="As in Facebook's Torch code for ImageNet, the stem's batch norm and activation stand before the "
            "max pooling and serve the first block too, a projection takes the pre-activated input, and a bottleneck "
            "strides in its 3x3 convolution; the authors' own code for CIFAR strides in the first 1x1. TF-Slim's "
            "ResNet v2 has neither batch norm nor activation in the stem and strides in each stage's last block "
            "instead of the next one's first.",
        ),
        {"depth": depth},
        torch_names=TorchNames(torchvision_name),
    )
    for depth, (parameters, multiply_adds) in _COUNTS.items()
}
