"""Inception v2, or BN-Inception: batch norm everywhere and pairs of 3x3 convolutions for the 5x5 ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.conv_norm import ConvNorm
from jaxcnn.layers.pooling import AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Registration

# Figure 5: filters of 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3 and pool projection, and the pooling. The
# modules without 1x1 and projection have stride 2 and pass all channels of the pooling on.
_MODULES = {
    "3a": (64, 64, 64, 64, 96, 32, "average"),
    "3b": (64, 64, 96, 64, 96, 64, "average"),
    "3c": (0, 128, 160, 64, 96, 0, "max"),
    "4a": (224, 64, 96, 96, 128, 128, "average"),
    "4b": (192, 96, 128, 96, 128, 128, "average"),
    "4c": (160, 128, 160, 128, 160, 128, "average"),
    "4d": (96, 128, 192, 160, 192, 128, "average"),
    "4e": (0, 128, 192, 192, 256, 0, "max"),
    "5a": (352, 192, 320, 160, 224, 128, "average"),
    "5b": (352, 192, 320, 192, 224, 128, "max"),
}


def _convolve(x: Array, features: int, kernel: int, name: str, strides: int = 1, *, train: bool, **unit: Any) -> Array:
    return ConvNorm(features, kernel, strides, padding=kernel // 2, name=name, **unit)(x, train=train)


class Inception(nn.Module):
    """1x1, 3x3, two 3x3 in sequence, and pooling of one map side by side, their outputs concatenated.

    Attributes:
      features: filters of 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3 and pool projection; no 1x1 and no
        projection make a module of stride 2.
      pooling: "average" or "max".
      unit: activation, dtype and axis_name of the convolutions.
    """

    features: tuple[int, ...]
    pooling: str
    unit: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, the sum of the branches' channels]."""
        conv = partial(_convolve, train=train, **self.unit)
        one, reduce3, three, reduce_double, double, project = self.features
        strides = 1 if one else 2
        branches = [conv(x, one, 1, "conv1x1")] if one else []
        branches.append(conv(conv(x, reduce3, 1, "reduce3x3"), three, 3, "conv3x3", strides))
        y = conv(conv(x, reduce_double, 1, "reduce_double3x3"), double, 3, "double3x3_1")
        branches.append(conv(y, double, 3, "double3x3_2", strides))
        # With stride 2 the rows are added at the end, as rounding up does, but so that odd sizes fit the convolutions.
        padding = 1 if one else ((0, 2), (0, 2))
        pooled = (AveragePool if self.pooling == "average" else MaxPool)(3, strides, padding, name="pool")(x)
        branches.append(conv(pooled, project, 1, "project") if project else pooled)
        return jnp.concatenate(branches, axis=-1)


class InceptionV2(BlockModel):
    """Three convolutions, ten inception modules, two of them with stride 2, and one linear layer.

    Attributes:
      activation: after every batch norm.
    """

    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        unit = {"activation": self.activation, "dtype": self.dtype, "axis_name": self.axis_name}
        conv = partial(_convolve, train=train, **unit)
        x = self.standardize(images)
        x = conv(x, 64, 7, "conv1", strides=2)
        x = MaxPool(3, 2, ceil_mode=True, name="pool1")(x)
        x = conv(x, 64, 1, "conv2")
        x = conv(x, 192, 3, "conv3")
        x = MaxPool(3, 2, ceil_mode=True, name="pool2")(x)
        for name, (*features, pooling) in _MODULES.items():
            module = Inception(tuple(features), pooling, unit, name=f"inception{name}")
            x = run_block(module, x, remat=self.remat, train=train)
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


MODELS = {
    "inception_v2": Registration(
        InceptionV2,
        Facts(
            paper="Ioffe & Szegedy, Batch normalization: accelerating deep network training by reducing internal "
            "covariate shift",
            year=2015,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=11_285_224,
            multiply_adds=2_032_600_064,
            accuracy="ILSVRC-2012 validation top-1 error 25.2 %, top-5 7.82 %, one crop (figure 4)",
            preprocessing=IMAGENET,
            smallest=7,
            differs="Figure 5 prints 576 output channels for the modules 4c and 4d and 1,024 for 4e; its own filters "
            "add up to 608, 608 and 1,056, as in Caffe's and here, while TF-Slim keeps the sums with 96 filters in "
            "their projections. The paper's first convolution is a separable one (8 filters per channel), as in "
            "TF-Slim; Caffe's and this one is plain. Caffe's convolutions keep their biases beside batch norm: "
            "11,295,240 parameters. There is no dropout, which the paper removes.",
        ),
    ),
}
