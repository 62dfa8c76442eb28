"""Inception v4 (2017), and the blocks of parallel branches that its residual sibling shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.conv_norm import ConvNorm
from jaxcnn.layers.convolution import Pair
from jaxcnn.layers.pooling import AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.models.registration import Facts, Preprocessing, Registration

TF_SLIM = Preprocessing(resize=342, mean=(0.5,) * 3, std=(0.5,) * 3)
"""Values in [-1, 1]; the crop of 299 pixels is 87.5 % of the shorter side."""


class Unit(NamedTuple):
    """Convolution, batch norm, activation; zeros keep the image's size unless it has a stride or is `valid`."""

    features: int
    kernel: int | Pair
    stride: int = 1
    valid: bool = False


class Fork(NamedTuple):
    """Units that share an input, their outputs concatenated."""

    units: tuple[Unit, ...]


Branch: TypeAlias = tuple[Unit | Fork | str, ...]

AVERAGE = "average"
"""A 3x3 average pooling that keeps the image's size and leaves the zeros around it out of its means."""

MAX = "max"
"""A 3x3 max pooling with stride 2 and no padding."""


class Branches(nn.Module):
    """The outputs of parallel branches, concatenated in their order.

    Attributes:
      branches: of units, forks and poolings, each in sequence.
      fields: of every `ConvNorm`.
    """

    branches: tuple[Branch, ...]
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H', W', sum of the branches' features]."""

        def convolve(x: Array, unit: Unit, name: str) -> Array:
            rows, columns = (unit.kernel, unit.kernel) if isinstance(unit.kernel, int) else unit.kernel
            same = unit.stride == 1 and not unit.valid
            padding = ((rows // 2, rows // 2), (columns // 2, columns // 2)) if same else 0
            return ConvNorm(unit.features, unit.kernel, unit.stride, padding, **self.fields, name=name)(x, train=train)

        outputs = []
        for i, branch in enumerate(self.branches, start=1):
            y = x
            for j, part in enumerate(branch, start=1):
                if part == AVERAGE:
                    y = AveragePool(3, 1, 1, count_padding=False, name=f"branch{i}_pool")(y)
                elif part == MAX:
                    y = MaxPool(3, 2, name=f"branch{i}_pool")(y)
                elif isinstance(part, Fork):
                    forks = [convolve(y, u, f"branch{i}_conv{j}_fork{k}") for k, u in enumerate(part.units, start=1)]
                    y = jnp.concatenate(forks, axis=-1)
                elif isinstance(part, Unit):
                    y = convolve(y, part, f"branch{i}_conv{j}")
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)


_U = Unit
_CROSS = Fork((_U(256, (1, 3)), _U(256, (3, 1))))

# Figures 3 to 9, in the order of the network: name, how often, branches.
_BLOCKS: tuple[tuple[str, int, tuple[Branch, ...]], ...] = (
    ("stem1", 1, ((_U(32, 3, 2), _U(32, 3, valid=True), _U(64, 3)),)),
    ("stem2", 1, ((MAX,), (_U(96, 3, 2),))),
    (
        "stem3",
        1,
        (
            (_U(64, 1), _U(96, 3, valid=True)),
            (_U(64, 1), _U(64, (1, 7)), _U(64, (7, 1)), _U(96, 3, valid=True)),
        ),
    ),
    ("stem4", 1, ((_U(192, 3, 2),), (MAX,))),
    (
        "inception_a",
        4,
        ((_U(96, 1),), (_U(64, 1), _U(96, 3)), (_U(64, 1), _U(96, 3), _U(96, 3)), (AVERAGE, _U(96, 1))),
    ),
    ("reduction_a", 1, ((_U(384, 3, 2),), (_U(192, 1), _U(224, 3), _U(256, 3, 2)), (MAX,))),
    (
        "inception_b",
        7,
        (
            (_U(384, 1),),
            (_U(192, 1), _U(224, (1, 7)), _U(256, (7, 1))),
            (_U(192, 1), _U(192, (7, 1)), _U(224, (1, 7)), _U(224, (7, 1)), _U(256, (1, 7))),
            (AVERAGE, _U(128, 1)),
        ),
    ),
    (
        "reduction_b",
        1,
        (
            (_U(192, 1), _U(192, 3, 2)),
            (_U(256, 1), _U(256, (1, 7)), _U(320, (7, 1)), _U(320, 3, 2)),
            (MAX,),
        ),
    ),
    (
        "inception_c",
        3,
        (
            (_U(256, 1),),
            (_U(384, 1), _CROSS),
            (_U(384, 1), _U(448, (3, 1)), _U(512, (1, 3)), _CROSS),
            (AVERAGE, _U(256, 1)),
        ),
    ),
)


class InceptionV4(BlockModel):
    """Stem, 4 Inception-A, reduction, 7 Inception-B, reduction, 3 Inception-C, global average pooling, linear.

    Attributes:
      dropout: probability with which a value before the linear layer is dropped in training.
      activation: after every batch norm.
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
        x = self.standardize(images)
        for name, count, branches in _BLOCKS:
            for i in range(1, count + 1):
                block = Branches(branches, fields, name=f"{name}{i}" if count > 1 else name)
                x = run_block(block, x, remat=self.remat, train=train)
        x = GlobalAveragePool(name="average")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


MODELS = {
    "inception_v4": Registration(
        InceptionV4,
        Facts(
            paper="Szegedy, Ioffe, Vanhoucke & Alemi, Inception-v4, Inception-ResNet and the impact of residual "
            "connections on learning",
            year=2017,
            input_shape=(299, 299, 3),
            num_classes=1000,
            parameters=42_679_816,
            multiply_adds=12_253_974_624,
            accuracy="ILSVRC-2012 validation top-1 error 20.0 %, top-5 5.0 %, one crop, without the blacklisted images "
            "(table 2)",
            preprocessing=TF_SLIM,
            smallest=75,
            differs="TF-slim's network, whose weights were released, has no scales in its batch norms; the PyTorch "
            "form of it, this one, has 31,584 of them. The auxiliary classifier is left out.",
        ),
    ),
}
