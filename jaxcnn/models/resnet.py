"""Residual and plain networks for ImageNet, and their relatives with grouped and with wide bottlenecks."""

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

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Blocks in each of the four stages, by the number of weighted layers; from 50 on they are bottlenecks.

Reference: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016, table 1; 200 layers are of their
"Identity mappings in deep residual networks", 2016.
"""


class Block(nn.Module):
    """y = a(F(x) + shortcut(x)), where the convolutions of F have batch norm and, but for the last, the activation a.

    F is two 3x3 convolutions, or the bottleneck 1x1, 3x3, 1x1. The shortcut is the identity, or a 1x1 convolution with
    batch norm where the shape changes (option B); a plain block has none.

    Attributes:
      features: output channels.
      stride: of the block.
      inner: channels inside the bottleneck; 0 for two 3x3 convolutions.
      groups: of the bottleneck's 3x3 convolution.
      early_stride: stride in the bottleneck's first convolution instead of its second.
      residual: whether there is a shortcut.
      activation: the function a.
      dtype: arithmetic.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
    """

    features: int
    stride: int
    inner: int
    groups: int
    early_stride: bool
    residual: bool
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        activation = activations.get(self.activation)

        def conv(x: Array, features: int, kernel: int, stride: int, groups: int, name: str, norm: str) -> Array:
            fields = {"use_bias": False, "kernel_init": he_normal_fan_out, "dtype": self.dtype, "name": name}
            x = Conv(features, kernel, stride, kernel // 2, groups, **fields)(x)
            return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=norm)(x, train=train)

        if self.inner:
            first, second = (self.stride, 1) if self.early_stride else (1, self.stride)
            y = activation(conv(x, self.inner, 1, first, 1, "conv1", "norm1"))
            y = activation(conv(y, self.inner, 3, second, self.groups, "conv2", "norm2"))
            y = conv(y, self.features, 1, 1, 1, "conv3", "norm3")
        else:
            y = activation(conv(x, self.features, 3, self.stride, 1, "conv1", "norm1"))
            y = conv(y, self.features, 3, 1, 1, "conv2", "norm2")
        if self.residual:
            if x.shape[-1] != self.features or self.stride != 1:
                x = conv(x, self.features, 1, self.stride, 1, "project", "project_norm")
            y = y + x
        return activation(y)


class Stage(nn.Module):
    """`blocks` blocks in sequence, the first with the stride."""

    blocks: int
    stride: int
    remat: bool
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        for i in range(1, self.blocks + 1):
            block = Block(stride=self.stride if i == 1 else 1, **self.block, name=f"block{i}")
            x = run_block(block, x, remat=self.remat, train=train)
        return x


class ResNet(BlockModel):
    """conv7x7-64/2, max pooling, four stages of residual blocks, global average pooling, linear.

    Attributes:
      depth: weighted layers: 18 or 34 (two 3x3 convolutions a block), 50, 101, 152 or 200 (bottlenecks).
      early_stride: whether a bottleneck strides in its first convolution, as published, or in its 3x3 (ResNet v1.5).
      groups: of the bottlenecks' 3x3 convolutions, called cardinality.
      width: channels of each group in the first stage's bottlenecks; every later stage doubles them.
      residual: whether the blocks have shortcuts; without them it is the plain net.
      activation: after each batch norm and after each addition.
    """

    depth: int = 50
    early_stride: bool = False
    groups: int = 1
    width: int = 64
    residual: bool = True
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Checks the depth."""
        if self.depth not in BLOCKS:
            raise InputError(f"depth is {self.depth}; expected one of {', '.join(map(str, BLOCKS))}")
        super().__post_init__()

    @property
    def branch_norms(self) -> str | None:
        """See `ImageModel`."""
        return rf"stage\d+/block\d+/norm{3 if self.depth >= 50 else 2}" if self.residual else None

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        common = {
            "groups": self.groups,
            "early_stride": self.early_stride,
            "residual": self.residual,
            "activation": self.activation,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }
        x = self.standardize(images)
        x = Conv(64, 7, 2, 3, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype, name="stem")(x)
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="stem_norm")(x, train=train)
        x = MaxPool(3, 2, padding=1, name="pool")(activations.get(self.activation)(x))
        for i, blocks in enumerate(BLOCKS[self.depth]):
            features, inner = 64 * 2**i, 0
            if self.depth >= 50:
                features, inner = 4 * features, self.groups * self.width * 2**i
            block = common | {"features": features, "inner": inner}
            x = Stage(blocks, 1 if i == 0 else 2, self.remat, block, name=f"stage{i + 1}")(x, train=train)
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


def torchvision_name(path: str) -> str:
    """stage1/block1/norm1 is layer1.0.bn1 in torchvision."""
    stage, *rest = path.split("/")
    if not rest:
        return {"stem": "conv1", "stem_norm": "bn1", "final_norm": "bn2", "head": "fc"}[stage]
    block, part = rest
    parts = {"project": "downsample.0", "project_norm": "downsample.1"}
    return f"layer{stage[5:]}.{int(block[5:]) - 1}.{parts.get(part, part.replace('norm', 'bn'))}"


_HE = "He, Zhang, Ren & Sun, Deep residual learning for image recognition"
_TORCHVISION = "ILSVRC-2012 validation top-1 {} %, top-5 {} %, one crop (torchvision's weights)"
_TEN_CROPS = "ILSVRC-2012 validation top-1 error {} %, top-5 {} %, ten crops (table 3)"
_V1_SHALLOW = "ILSVRC-2012 validation top-1 error {}, ten crops (table {})"
_UNTESTED = "none published in this form"
_STRIDE = (
    "The paper strides in a bottleneck's first 1x1 convolution; torchvision, and this network, in its 3x3 (ResNet "
    "v1.5), which costs more and is more accurate."
)
_SHORTCUT = (
    "torchvision, and this network, project where the shape changes (option B); the printed operations are those of "
    "the identity with zero-padded channels (option A)."
)


def _register(
    counts: tuple[int, int],
    accuracy: str,
    *,
    paper: str = _HE,
    year: int = 2016,
    operations: str = "",
    published_parameters: str = "",
    differs: str = "",
    **fixed: int,
) -> Registration:
    residual = fixed.get("residual", True)
    facts = Facts(
        paper=paper,
        year=year,
        input_shape=(224, 224, 3),
        num_classes=1000,
        parameters=counts[0],
        multiply_adds=counts[1],
        accuracy=accuracy,
        published_parameters=published_parameters,
        published_operations=operations,
        preprocessing=IMAGENET,
        differs=differs,
    )
    return Registration(ResNet, facts, fixed, torch_names=TorchNames(torchvision_name) if residual else TorchNames())


MODELS = {
    "resnet18": _register(
        (11_689_512, 1_814_073_344),
        _TORCHVISION.format("69.758", "89.078"),
        operations="1.8 billion multiply-adds (table 1)",
        differs=_SHORTCUT,
        depth=18,
    ),
    "resnet34": _register(
        (21_797_672, 3_663_761_408),
        _TORCHVISION.format("73.314", "91.420"),
        operations="3.6 billion multiply-adds (table 1)",
        differs=_SHORTCUT,
        depth=34,
    ),
    "resnet50": _register(
        (25_557_032, 4_089_184_256),
        _TORCHVISION.format("76.130", "92.862"),
        differs=_STRIDE,
        depth=50,
        early_stride=False,
    ),
    "resnet101": _register(
        (44_549_160, 7_801_405_440),
        _TORCHVISION.format("77.374", "93.546"),
        differs=_STRIDE,
        depth=101,
        early_stride=False,
    ),
    "resnet152": _register(
        (60_192_808, 11_513_626_624),
        _TORCHVISION.format("78.312", "94.046"),
        differs=_STRIDE,
        depth=152,
        early_stride=False,
    ),
    "resnet200": _register(
        (64_673_832, 15_007_481_856),
        _UNTESTED,
        paper="He, Zhang, Ren & Sun, Identity mappings in deep residual networks",
        differs=f"The depth is that paper's. {_STRIDE}",
        depth=200,
        early_stride=False,
    ),
    "resnet18_v1": _register(
        (11_689_512, 1_814_073_344),
        _V1_SHALLOW.format("27.88 %", "2"),
        operations="1.8 billion multiply-adds (table 1)",
        differs=_SHORTCUT,
        depth=18,
    ),
    "resnet34_v1": _register(
        (21_797_672, 3_663_761_408),
        _V1_SHALLOW.format("24.52 % with projections where the shape changes, 25.03 % without", "3"),
        operations="3.6 billion multiply-adds (table 1)",
        differs=_SHORTCUT,
        depth=34,
    ),
    "resnet50_v1": _register(
        (25_557_032, 3_857_973_248),
        _TEN_CROPS.format("22.85", "6.71"),
        operations="3.8 billion multiply-adds (table 1)",
        depth=50,
        early_stride=True,
    ),
    "resnet101_v1": _register(
        (44_549_160, 7_570_194_432),
        _TEN_CROPS.format("21.75", "6.05"),
        operations="7.6 billion multiply-adds (table 1)",
        depth=101,
        early_stride=True,
    ),
    "resnet152_v1": _register(
        (60_192_808, 11_282_415_616),
        _TEN_CROPS.format("21.43", "5.71"),
        operations="11.3 billion multiply-adds (table 1)",
        depth=152,
        early_stride=True,
    ),
    "resnet200_v1": _register(
        (64_673_832, 14_776_270_848),
        "ILSVRC-2012 validation top-1 error 21.8 %, top-5 6.0 %, one crop of 320x320 (table 5)",
        paper="He, Zhang, Ren & Sun, Identity mappings in deep residual networks",
        depth=200,
        early_stride=True,
    ),
    "plain18": _register(
        (11_515_688, 1_794_805_760),
        "ILSVRC-2012 validation top-1 error 27.94 %, ten crops (table 2)",
        operations="1.8 billion multiply-adds (table 1)",
        depth=18,
        residual=False,
    ),
    "plain34": _register(
        (21_623_848, 3_644_493_824),
        "ILSVRC-2012 validation top-1 error 28.54 %, ten crops (table 2)",
        operations="3.6 billion multiply-adds (figure 3)",
        depth=34,
        residual=False,
    ),
    "resnext50_32x4d": _register(
        (25_028_904, 4_230_479_872),
        _TORCHVISION.format("77.618", "93.698"),
        paper="Xie, Girshick, Dollar, Tu & He, Aggregated residual transformations for deep neural networks",
        year=2017,
        published_parameters="25.0 million (table 1)",
        operations="4.2 billion multiply-adds (table 1)",
        depth=50,
        groups=32,
        width=4,
        early_stride=False,
    ),
    "wide_resnet50_2": _register(
        (68_883_240, 11_398_021_120),
        _TORCHVISION.format("78.468", "94.086"),
        paper="Zagoruyko & Komodakis, Wide residual networks",
        published_parameters="68.9 million",
        differs="The bottlenecks are twice as wide inside and equal outside. torchvision, and this network, stride in "
        "the 3x3 convolution.",
        depth=50,
        width=128,
        early_stride=False,
    ),
}
