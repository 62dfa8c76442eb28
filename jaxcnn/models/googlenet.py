"""GoogLeNet: as published (Szegedy et al. 2015), with the naive modules it argues against, and as torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.conv_norm import ConvNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal
from jaxcnn.layers.local_response_norm import LocalResponseNorm
from jaxcnn.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Preprocessing, Registration, TorchNames

# Table 1: filters of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection.
_MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _convolve(
    x: Array,
    features: int,
    kernel: int,
    name: str,
    strides: int = 1,
    *,
    form: str,
    activation: Activation,
    dtype: Any,
    axis_name: str | None,
    train: bool,
) -> Array:
    """Convolution and activation, with batch norm in torchvision's form and a bias in the others."""
    fields = {"padding": kernel // 2, "dtype": dtype, "name": name}
    if form == "torchvision":
        unit = ConvNorm(features, kernel, strides, activation=activation, epsilon=1e-3, axis_name=axis_name, **fields)
        return unit(x, train=train)
    return activations.get(activation)(Conv(features, kernel, strides, kernel_init=he_normal, **fields)(x))


class Inception(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and 3x3 max pooling of one map side by side, their outputs concatenated.

    The naive form (figure 2a) is without the 1x1 convolutions before the 3x3 and the 5x5 and after the pooling, so
    that the pooling passes all channels on. torchvision's `conv5x5` is 3x3.

    Attributes:
      features: filters of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection.
      unit: form, activation, dtype and axis_name of the convolutions.
    """

    features: tuple[int, ...]
    unit: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H, W, the sum of the branches' channels]."""
        conv = partial(_convolve, train=train, **self.unit)
        one, reduce3, three, reduce5, five, project = self.features
        before3 = before5 = x
        if self.unit["form"] != "naive":
            before3, before5 = conv(x, reduce3, 1, "reduce3x3"), conv(x, reduce5, 1, "reduce5x5")
        pooled = MaxPool(3, 1, padding=1, name="pool")(x)
        if self.unit["form"] != "naive":
            pooled = conv(pooled, project, 1, "project")
        branches = [
            conv(x, one, 1, "conv1x1"),
            conv(before3, three, 3, "conv3x3"),
            conv(before5, five, 3 if self.unit["form"] == "torchvision" else 5, "conv5x5"),
            pooled,
        ]
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """Average pooling to 4x4, a 1x1 convolution and two dense layers.

    Attributes:
      num_classes: number of logits.
      dropout: probability with which a unit of the hidden dense layer is dropped in training.
      unit: form, activation, dtype and axis_name of the convolution.
    """

    num_classes: int
    dropout: float
    unit: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to logits [N, num_classes]."""
        # The paper's windows give the 4x4 that the dense layer needs only from 14 (224 pixels) to 16 rows and columns.
        fits = all(14 <= side <= 16 for side in x.shape[1:3])
        if fits and self.unit["form"] != "torchvision":
            x = AveragePool(5, 3, name="pool")(x)
        else:
            x = AdaptiveAveragePool(4, name="pool")(x)
        x = _convolve(x, 128, 1, "conv", train=train, **self.unit)
        x = nn.Dense(1024, kernel_init=he_normal, dtype=self.unit["dtype"], name="fc1")(x.reshape(x.shape[0], -1))
        x = activations.get(self.unit["activation"])(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


class GoogLeNet(BlockModel):
    """Three convolutions, nine inception modules and one linear layer.

    Attributes:
      form: "published"; "naive", the same with naive modules; or "torchvision": batch norm instead of response
        normalisation and biases, 3x3 for 5x5, 2x2 in the last max pooling.
      auxiliary: train two more classifiers, after the modules 4a and 4d.
      auxiliary_weight: of each of their losses.
      auxiliary_dropout: probability with which a unit of their hidden layers is dropped in training.
      dropout: probability with which a unit before the linear layer is dropped in training.
      activation: after every convolution and hidden dense layer.
      width: factor of every number of filters, for small images and short experiments; at least 1/16.
    """

    form: str = "torchvision"
    auxiliary: bool = False
    auxiliary_weight: float = 0.3
    auxiliary_dropout: float = 0.7
    dropout: float = 0.2
    activation: Activation = "relu"
    width: float = 1.0

    def __post_init__(self) -> None:
        """Checks the width."""
        if self.width < 1 / 16:
            raise InputError(
                f"width is {self.width}; expected at least 1/16, which leaves the narrowest layer a filter"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        unit = {"form": self.form, "activation": self.activation, "dtype": self.dtype, "axis_name": self.axis_name}
        conv = partial(_convolve, train=train, **unit)
        torchvision = self.form == "torchvision"

        def scaled(features: int) -> int:
            return round(self.width * features)

        x = self.standardize(images)
        x = conv(x, scaled(64), 7, "conv1", strides=2)
        x = MaxPool(3, 2, ceil_mode=True, name="pool1")(x)
        if not torchvision:
            x = LocalResponseNorm(name="norm1")(x)
        x = conv(x, scaled(64), 1, "conv2")
        x = conv(x, scaled(192), 3, "conv3")
        if not torchvision:
            x = LocalResponseNorm(name="norm2")(x)
        x = MaxPool(3, 2, ceil_mode=True, name="pool2")(x)
        for name, features in _MODULES.items():
            if name == "4a":
                x = MaxPool(3, 2, ceil_mode=True, name="pool3")(x)
            if name == "5a":
                x = MaxPool(2 if torchvision else 3, 2, ceil_mode=True, name="pool4")(x)
            module = Inception(tuple(map(scaled, features)), unit, name=f"inception{name}")
            x = run_block(module, x, remat=self.remat, train=train)
            if name in ("4a", "4d") and self.auxiliary and (train or self.is_initializing()):
                i = 1 if name == "4a" else 2
                head = AuxiliaryHead(self.num_classes, self.auxiliary_dropout, unit, name=f"aux{i}")
                self.add_auxiliary(f"auxiliary{i}", head(x, train=train), self.auxiliary_weight)
        x = GlobalAveragePool(name="average")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


_BRANCHES = {
    "conv1x1": "branch1",
    "reduce3x3": "branch2.0",
    "conv3x3": "branch2.1",
    "reduce5x5": "branch3.0",
    "conv5x5": "branch3.1",
    "project": "branch4.1",
}


def _torchvision(path: str) -> str:
    """inception3a/reduce3x3/norm is inception3a.branch2.0.bn in torchvision."""
    if path == "head":
        return "fc"
    names = _BRANCHES | {"head": "fc2", "norm": "bn"}
    return ".".join(names.get(part, part) for part in path.split("/"))


_PAPER = "Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke & Rabinovich, Going deeper with convolutions"
_FLATTENED = {"aux1/fc1": (4, 4), "aux2/fc1": (4, 4)}

MODELS = {
    "googlenet": Registration(
        GoogLeNet,
        Facts(
            paper=_PAPER,
            year=2015,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=6_624_904,
            multiply_adds=1_498_376_192,
            accuracy="ILSVRC-2012 validation top-1 69.778 %, top-5 89.530 %, one crop (torchvision's weights)",
            preprocessing=Preprocessing(resize=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            smallest=15,
            differs="torchvision's form: batch norm, which the paper does not have, no response normalisation, 3x3 "
            "where the paper has 5x5, and 2x2 in the last max pooling. The auxiliary classifiers of its published "
            "weights are untrained.",
        ),
        fixed={"form": "torchvision"},
        torch_names=TorchNames(_torchvision, flattened=_FLATTENED, surplus=("aux1.", "aux2.")),
    ),
    "googlenet_2014": Registration(
        GoogLeNet,
        Facts(
            paper=_PAPER,
            year=2015,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=6_998_552,
            multiply_adds=1_582_671_872,
            accuracy="ILSVRC-2014 validation top-5 error 10.07 %, one model and one crop; 6.67 % with seven models and "
            "144 crops (table 3)",
            published_operations="1.5 billion multiply-adds (section 1)",
            preprocessing=IMAGENET,
            smallest=31,
            differs="The paper gives neither the response normalisation's constants (AlexNet's here) nor the "
            "initialisation (He's here). Table 1's 2.7K parameters and 34M operations of the first convolution are "
            "those of a depthwise 7x7 convolution with 8 filters per channel and a 1x1 convolution to 64; "
            "implementations, this one too, have the plain one, 9,408 weights and 118M. The auxiliary classifiers "
            "add 6,379,728 parameters.",
        ),
        fixed={"form": "published"},
        defaults={"dropout": 0.4},
        torch_names=TorchNames(flattened=_FLATTENED, surplus=("aux1.", "aux2.")),
    ),
    "inception_naive": Registration(
        GoogLeNet,
        Facts(
            paper=_PAPER,
            year=2015,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=97_526_008,
            multiply_adds=12_568_061_056,
            accuracy="none: figure 2(a) shows the module, and no network of it has been published",
            preprocessing=IMAGENET,
            smallest=31,
            differs="GoogLeNet with the module of figure 2(a): table 1's filters of 1x1, 3x3 and 5x5 without the 1x1 "
            "reductions, and all channels of the pooling passed on, so that the module 5b has 4,944 channels.",
        ),
        fixed={"form": "naive"},
        defaults={"dropout": 0.4},
        torch_names=TorchNames(flattened=_FLATTENED, surplus=("aux1.", "aux2.")),
    ),
}
