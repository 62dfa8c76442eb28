"""DenseNet: every layer sees the outputs of all layers before it in its block; ImageNet and CIFAR forms."""

from __future__ import annotations

import re
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
from jaxcnn.layers.initializers import he_normal
from jaxcnn.layers.pooling import AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Preprocessing, Registration, TorchNames

# Layers in each block, by the number of weighted layers: table 1, and the authors' code for 161.
_LAYERS = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


class DenseLayer(nn.Module):
    """F([x_0, x_1, ...]) of the concatenated maps: batch norm, activation, 3x3 convolution.

    With a bottleneck, F begins with batch norm, activation and a 1x1 convolution to 4 growth_rate channels.

    Attributes:
      growth_rate: output channels.
      bottleneck: whether the 1x1 convolution is there.
      dropout: probability with which a value after each convolution is dropped in training.
      activation: after each batch norm.
      dtype: arithmetic.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
    """

    growth_rate: int
    bottleneck: bool
    dropout: float
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, *maps: Array, train: bool) -> Array:
        """Maps [N, H, W, C_0], [N, H, W, C_1], ... to [N, H, W, growth_rate]."""
        x = jnp.concatenate(maps, axis=-1)
        convolutions = [(4 * self.growth_rate, 1)] * self.bottleneck + [(self.growth_rate, 3)]
        for i, (features, kernel) in enumerate(convolutions, start=1):
            x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"norm{i}")(x, train=train)
            fields = {"use_bias": False, "kernel_init": he_normal, "dtype": self.dtype, "name": f"conv{i}"}
            x = Conv(features, kernel, padding=kernel // 2, **fields)(activations.get(self.activation)(x))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
        return x


class DenseBlock(nn.Module):
    """`layers` layers, each of which sees the input and the outputs of all layers before it, concatenated.

    With `remat`, every layer is computed again together with the concatenation before it, so that each map is kept
    once. The concatenations are what grows with the square of the depth; recomputing the block as a whole would need
    all of them at the same time.

    Reference: Pleiss et al., "Memory-efficient implementation of DenseNets", 2017.
    """

    layers: int
    layer: Mapping[str, Any]
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H, W, C + layers * growth_rate]."""
        maps = [x]
        for i in range(1, self.layers + 1):
            layer = DenseLayer(**self.layer, name=f"layer{i}")
            maps.append(run_block(layer, *maps, remat=self.remat, train=train))
        return jnp.concatenate(maps, axis=-1)


class Transition(nn.Module):
    """Batch norm, activation, 1x1 convolution to `features` channels, 2x2 average pooling."""

    features: int
    dropout: float
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / 2, W / 2, features]."""
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="norm")(x, train=train)
        x = activations.get(self.activation)(x)
        x = Conv(self.features, 1, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name="conv")(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return AveragePool(2, name="pool")(x)


class DenseNet(BlockModel):
    """A stem, dense blocks with transitions between them, batch norm, global average pooling, linear.

    Attributes:
      depth: weighted layers: 121, 161, 169, 201 or 264 with the stem for 224x224 pixels (conv7x7/2, max pooling), four
        blocks and bottlenecks; else, with the stem for 32x32 (conv3x3) and three equal blocks, 3n + 4, or 6n + 4 with
        bottlenecks.
      growth_rate: channels that each layer adds.
      bottleneck: 1x1 convolutions before the 3x3, a stem of 2 growth_rate instead of 16 channels, and transitions that
        halve the channels: the form called BC.
      dropout: probability with which a value after each convolution but the stem is dropped in training; the paper
        takes 0.2 where it does not augment the images.
      activation: after each batch norm.
    """

    depth: int = 121
    growth_rate: int = 32
    bottleneck: bool = True
    dropout: float = 0.0
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Checks the depth."""
        layers = 6 if self.bottleneck else 3
        if self.depth not in _LAYERS and (self.depth < 4 + layers or (self.depth - 4) % layers):
            known = ", ".join(map(str, _LAYERS))
            raise InputError(f"depth is {self.depth}; expected {known}, or {layers}n + 4 with n >= 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        activation = activations.get(self.activation)
        norm = {"axis_name": self.axis_name, "dtype": self.dtype}
        common = {"dropout": self.dropout, "activation": self.activation} | norm
        layer = {"growth_rate": self.growth_rate, "bottleneck": self.bottleneck} | common
        stem = {"use_bias": False, "kernel_init": he_normal, "dtype": self.dtype, "name": "stem"}
        features = 2 * self.growth_rate if self.bottleneck else 16
        x = self.standardize(images)
        if self.depth in _LAYERS:
            blocks = _LAYERS[self.depth]
            x = Conv(features, 7, 2, 3, **stem)(x)
            x = BatchNorm(**norm, name="stem_norm")(x, train=train)
            x = MaxPool(3, 2, padding=1, name="pool")(activation(x))
        else:
            blocks = ((self.depth - 4) // (6 if self.bottleneck else 3),) * 3
            x = Conv(features, 3, padding=1, **stem)(x)
        for i, layers in enumerate(blocks, start=1):
            x = DenseBlock(layers, layer, self.remat, name=f"block{i}")(x, train=train)
            if i < len(blocks):
                kept = x.shape[-1] // (2 if self.bottleneck else 1)
                transition = Transition(kept, **common, name=f"transition{i}")
                x = run_block(transition, x, remat=self.remat, train=train)
        x = activation(BatchNorm(**norm, name="final_norm")(x, train=train))
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


def _torchvision(path: str) -> str:
    """block1/layer1/norm1 is features.denseblock1.denselayer1.norm1 in torchvision."""
    top = {"stem": "conv0", "stem_norm": "norm0", "final_norm": "norm5"}
    if path == "head":
        return "classifier"
    return "features." + top.get(path, re.sub("(block|layer)", r"dense\1", path).replace("/", "."))


_PAPER = "Huang, Liu, van der Maaten & Weinberger, Densely connected convolutional networks"
_DROPOUT = "Dropout is off, as the paper trains with augmented images; without augmentation it takes 0.2."


def _imagenet(depth: int, growth_rate: int, counts: tuple[int, int], accuracy: str, differs: str = "") -> Registration:
    return Registration(
        DenseNet,
        Facts(
            paper=_PAPER,
            year=2017,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=counts[0],
            multiply_adds=counts[1],
            accuracy=accuracy,
            preprocessing=IMAGENET,
            smallest=29,
            differs=differs,
        ),
        {"depth": depth, "growth_rate": growth_rate, "bottleneck": True},
        torch_names=TorchNames(_torchvision),
    )


def _cifar(depth: int, bottleneck: bool, counts: tuple[int, int], printed: str, errors: str) -> Registration:
    stem = "" if bottleneck else "The authors' later code has a stem of 24 channels here where the paper has 16. "
    return Registration(
        DenseNet,
        Facts(
            paper=_PAPER,
            year=2017,
            input_shape=(32, 32, 3),
            num_classes=10,
            parameters=counts[0],
            multiply_adds=counts[1],
            accuracy=f"{errors}; 300 epochs of batches of 64, pad-and-crop and flip (table 2)",
            published_parameters=f"{printed} million (table 2)",
            preprocessing=Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.244, 0.262)),
            smallest=4,
            differs=stem + _DROPOUT,
        ),
        {"depth": depth, "growth_rate": 12, "bottleneck": bottleneck},
    )


_TORCHVISION = "ILSVRC-2012 validation top-1 {} %, top-5 {} %, one crop (torchvision's weights)"

MODELS = {
    "densenet121": _imagenet(121, 32, (7_978_856, 2_834_161_664), _TORCHVISION.format("74.434", "91.972")),
    "densenet161": _imagenet(
        161,
        48,
        (28_681_000, 7_727_907_072),
        _TORCHVISION.format("77.138", "93.560"),
        "The paper's table does not have it; its code's model list does, with growth rate 48.",
    ),
    "densenet169": _imagenet(169, 32, (14_149_480, 3_359_843_328), _TORCHVISION.format("75.600", "92.806")),
    "densenet201": _imagenet(201, 32, (20_013_928, 4_291_365_888), _TORCHVISION.format("76.896", "93.370")),
    "densenet264": _imagenet(
        264,
        32,
        (33_337_704, 5_751_653_376),
        "ILSVRC-2012 validation top-1 error 22.15 %, top-5 6.12 %, one crop (table 3)",
    ),
    "densenet40_12": _cifar(
        40, False, (1_019_722, 264_812_928), "1.0", "CIFAR-10 test error 5.24 %, CIFAR-100 24.42 %"
    ),
    "densenet_bc100_12": _cifar(
        100, True, (769_162, 287_929_692), "0.8", "CIFAR-10 test error 4.51 %, CIFAR-100 22.27 %"
    ),
}
