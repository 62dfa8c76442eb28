"""Inception v3, as torchvision builds it: factorised convolutions, grid reductions and a batch-normalised side head.

Figures are those of Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, "Rethinking the Inception architecture", 2016.
"""

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
from jaxcnn.layers.convolution import Pair
from jaxcnn.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.models.registration import Facts, Preprocessing, Registration, TorchNames


def _convolve(
    x: Array,
    features: int,
    kernel: int | Pair,
    name: str,
    strides: int = 1,
    *,
    valid: bool = False,
    train: bool,
    **unit: Any,
) -> Array:
    """Convolution, batch norm and activation; padded so that stride 1 keeps the size, unless `valid`."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = 0 if valid else ((height // 2, height // 2), (width // 2, width // 2))
    return ConvNorm(features, kernel, strides, padding, epsilon=1e-3, name=name, **unit)(x, train=train)


class _Block(nn.Module):
    """A module whose branches end in one concatenation; `unit` is activation, dtype and axis_name."""

    unit: Mapping[str, Any]


class InceptionA(_Block):
    """Branches of 1x1, 5x5, twice 3x3, and average pooling with `pool_features` filters (figure 5).

    Attributes:
      pool_features: filters of the convolution after the pooling.
    """

    pool_features: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H, W, 224 + pool_features]."""
        conv = partial(_convolve, train=train, **self.unit)
        one = conv(x, 64, 1, "branch1x1")
        five = conv(x, 48, 1, "branch5x5_1")
        five = conv(five, 64, 5, "branch5x5_2")
        double = conv(x, 64, 1, "branch3x3dbl_1")
        double = conv(double, 96, 3, "branch3x3dbl_2")
        double = conv(double, 96, 3, "branch3x3dbl_3")
        pooled = AveragePool(3, 1, padding=1, name="pool")(x)
        pooled = conv(pooled, self.pool_features, 1, "branch_pool")
        return jnp.concatenate([one, five, double, pooled], axis=-1)


class InceptionB(_Block):
    """Halves the map: 3x3, twice 3x3, and max pooling, all with stride 2 (figure 10)."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, (H - 1) / 2, (W - 1) / 2, C + 480]."""
        conv = partial(_convolve, train=train, **self.unit)
        three = conv(x, 384, 3, "branch3x3", strides=2, valid=True)
        double = conv(x, 64, 1, "branch3x3dbl_1")
        double = conv(double, 96, 3, "branch3x3dbl_2")
        double = conv(double, 96, 3, "branch3x3dbl_3", strides=2, valid=True)
        return jnp.concatenate([three, double, MaxPool(3, 2, name="pool")(x)], axis=-1)


class InceptionC(_Block):
    """Branches of 1x1, 7x7 and twice 7x7 as 1x7 and 7x1, and average pooling (figure 6).

    Attributes:
      features: filters between the branches' ends.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H, W, 768]."""
        conv = partial(_convolve, train=train, **self.unit)
        one = conv(x, 192, 1, "branch1x1")
        seven = conv(x, self.features, 1, "branch7x7_1")
        seven = conv(seven, self.features, (1, 7), "branch7x7_2")
        seven = conv(seven, 192, (7, 1), "branch7x7_3")
        double = conv(x, self.features, 1, "branch7x7dbl_1")
        double = conv(double, self.features, (7, 1), "branch7x7dbl_2")
        double = conv(double, self.features, (1, 7), "branch7x7dbl_3")
        double = conv(double, self.features, (7, 1), "branch7x7dbl_4")
        double = conv(double, 192, (1, 7), "branch7x7dbl_5")
        pooled = AveragePool(3, 1, padding=1, name="pool")(x)
        pooled = conv(pooled, 192, 1, "branch_pool")
        return jnp.concatenate([one, seven, double, pooled], axis=-1)


class InceptionD(_Block):
    """Halves the map: 3x3, 7x7 (as 1x7 and 7x1) and 3x3, and max pooling, all with stride 2."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, (H - 1) / 2, (W - 1) / 2, C + 512]."""
        conv = partial(_convolve, train=train, **self.unit)
        three = conv(x, 192, 1, "branch3x3_1")
        three = conv(three, 320, 3, "branch3x3_2", strides=2, valid=True)
        seven = conv(x, 192, 1, "branch7x7x3_1")
        seven = conv(seven, 192, (1, 7), "branch7x7x3_2")
        seven = conv(seven, 192, (7, 1), "branch7x7x3_3")
        seven = conv(seven, 192, 3, "branch7x7x3_4", strides=2, valid=True)
        return jnp.concatenate([three, seven, MaxPool(3, 2, name="pool")(x)], axis=-1)


class InceptionE(_Block):
    """Branches of 1x1, 3x3 and twice 3x3, each ending in 1x3 and 3x1 side by side, and average pooling (figure 7)."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H, W, 2048]."""
        conv = partial(_convolve, train=train, **self.unit)
        one = conv(x, 320, 1, "branch1x1")
        three = conv(x, 384, 1, "branch3x3_1")
        three = [conv(three, 384, (1, 3), "branch3x3_2a"), conv(three, 384, (3, 1), "branch3x3_2b")]
        double = conv(x, 448, 1, "branch3x3dbl_1")
        double = conv(double, 384, 3, "branch3x3dbl_2")
        double = [conv(double, 384, (1, 3), "branch3x3dbl_3a"), conv(double, 384, (3, 1), "branch3x3dbl_3b")]
        pooled = AveragePool(3, 1, padding=1, name="pool")(x)
        pooled = conv(pooled, 192, 1, "branch_pool")
        return jnp.concatenate([one, *three, *double, pooled], axis=-1)


class AuxiliaryHead(_Block):
    """Average pooling to 5x5, a 1x1 and a 5x5 convolution, and one linear layer (figure 8).

    Attributes:
      num_classes: number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to logits [N, num_classes]."""
        conv = partial(_convolve, train=train, **self.unit)
        # Below 17 rows or columns (299 pixels) the published windows leave less than the 5x5 convolution needs.
        published = min(x.shape[1:3]) >= 17
        x = (AveragePool(5, 3, name="pool") if published else AdaptiveAveragePool(5, name="pool"))(x)
        x = conv(x, 128, 1, "conv1")
        x = conv(x, 768, 5, "conv2", valid=True)
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


class InceptionV3(BlockModel):
    """Five convolutions, eleven inception modules in three sizes of map, and one linear layer.

    Attributes:
      auxiliary: train one more classifier, before the last halving of the map.
      auxiliary_weight: of its loss.
      dropout: probability with which a unit before the linear layer is dropped in training.
      activation: after every batch norm.
    """

    auxiliary: bool = True
    auxiliary_weight: float = 0.4
    dropout: float = 0.5
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C], at least 75 pixels a side and in [0, 1], to logits [N, num_classes]."""
        unit = {"activation": self.activation, "dtype": self.dtype, "axis_name": self.axis_name}
        conv = partial(_convolve, train=train, **unit)
        run = partial(run_block, remat=self.remat, train=train)
        x = self.standardize(images)
        x = conv(x, 32, 3, "conv1", strides=2, valid=True)
        x = conv(x, 32, 3, "conv2", valid=True)
        x = conv(x, 64, 3, "conv3")
        x = MaxPool(3, 2, name="pool1")(x)
        x = conv(x, 80, 1, "conv4")
        x = conv(x, 192, 3, "conv5", valid=True)
        x = MaxPool(3, 2, name="pool2")(x)
        for name, pool_features in {"5b": 32, "5c": 64, "5d": 64}.items():
            x = run(InceptionA(unit, pool_features, name=f"mixed{name}"), x)
        x = run(InceptionB(unit, name="mixed6a"), x)
        for name, features in {"6b": 128, "6c": 160, "6d": 160, "6e": 192}.items():
            x = run(InceptionC(unit, features, name=f"mixed{name}"), x)
        if self.auxiliary and (train or self.is_initializing()):
            logits = AuxiliaryHead(unit, self.num_classes, name="aux")(x, train=train)
            self.add_auxiliary("auxiliary", logits, self.auxiliary_weight)
        x = run(InceptionD(unit, name="mixed7a"), x)
        x = run(InceptionE(unit, name="mixed7b"), x)
        x = run(InceptionE(unit, name="mixed7c"), x)
        x = GlobalAveragePool(name="average")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


_STEM = {
    "conv1": "Conv2d_1a_3x3",
    "conv2": "Conv2d_2a_3x3",
    "conv3": "Conv2d_2b_3x3",
    "conv4": "Conv2d_3b_1x1",
    "conv5": "Conv2d_4a_3x3",
    "head": "fc",
}


def _torchvision(path: str) -> str:
    """mixed5b/branch1x1/norm is Mixed_5b.branch1x1.bn in torchvision."""
    first, *rest = path.replace("/norm", "/bn").split("/")
    if first == "aux":
        first, rest[0] = "AuxLogits", {"conv1": "conv0", "conv2": "conv1", "head": "fc"}[rest[0]]
    else:
        first = _STEM.get(first, first.replace("mixed", "Mixed_"))
    return ".".join([first, *rest])


MODELS = {
    "inception_v3": Registration(
        InceptionV3,
        Facts(
            paper="Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, Rethinking the Inception architecture for computer "
            "vision",
            year=2016,
            input_shape=(299, 299, 3),
            num_classes=1000,
            parameters=27_161_264,
            multiply_adds=5_713_216_096,
            accuracy="ILSVRC-2012 validation top-1 77.294 %, top-5 93.450 %, one crop (torchvision's weights); the "
            "paper's 21.2 % and 5.6 % error (table 3)",
            published_parameters="less than 25 million (abstract)",
            published_operations="5 billion multiply-adds (abstract)",
            preprocessing=Preprocessing(resize=342, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            smallest=75,
            differs="The paper's table 1 begins with six convolutions that none of the published weights have; this "
            "is the form of Google's code and of torchvision, whose 35x35 modules keep a 5x5 convolution too. "
            "3,326,696 of the parameters are the auxiliary classifier's, whose weight 0.4 is that of TF-Slim's "
            "training; the paper gives none. For maps of less than 17x17, where the published auxiliary classifier "
            "is undefined, it averages adaptively to 5x5.",
        ),
        torch_names=TorchNames(_torchvision, surplus=("AuxLogits.",)),
    ),
}
