"""Residual and plain networks for 32x32 images (He, Zhang, Ren & Sun 2016, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
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
from jaxcnn.layers.pooling import GlobalAveragePool
from jaxcnn.models.registration import IMAGENET, Facts, Preprocessing, Registration, TorchNames


class Block(nn.Module):
    """y = a(F(x) + shortcut(x)), F = conv3x3, batch norm, a, conv3x3, batch norm; a plain block has no shortcut.

    The shortcut is option A: the identity, subsampled and zero-padded in channels where the shape changes, so it
    has no parameters.
    """

    features: int
    stride: int
    residual: bool
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        activation = activations.get(self.activation)

        def conv(x: Array, stride: int, name: str) -> Array:
            return Conv(
                self.features,
                (3, 3),
                strides=stride,
                padding=1,
                use_bias=False,
                kernel_init=he_normal,
                dtype=self.dtype,
                name=name,
            )(x)

        def norm(x: Array, name: str) -> Array:
            return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)(x, train=train)

        y = activation(norm(conv(x, self.stride, "conv1"), "norm1"))
        y = norm(conv(y, 1, "conv2"), "norm2")
        if self.residual:
            x = x[:, :: self.stride, :: self.stride]
            extra = self.features - x.shape[-1]
            y = y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        return activation(y)


class Stage(nn.Module):
    """`blocks` blocks in sequence, the first with the stride; the equal ones are scanned if `scan` is set."""

    blocks: int
    stride: int
    scan: bool
    remat: bool
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""

        def run(block: nn.Module, x: Array) -> Array:
            return run_block(block, x, remat=self.remat, train=train)

        x = run(Block(stride=self.stride, **self.block, name="block1"), x)
        if not self.scan:
            for i in range(2, self.blocks + 1):
                x = run(Block(stride=1, **self.block, name=f"block{i}"), x)
            return x
        rest = nn.scan(
            lambda block, x, _: (run(block, x), None),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=self.blocks - 1,
        )
        return rest(Block(stride=1, **self.block, name="rest"), x, None)[0]


def _stack(variables: dict[str, Any]) -> dict[str, Any]:
    """Gathers block2, block3, ... of each collection into one `rest` with a leading axis."""

    def gather(blocks: dict[str, Any]) -> dict[str, Any]:
        rest = [blocks[f"block{i}"] for i in range(2, len(blocks) + 1)]
        return {"block1": blocks["block1"], "rest": jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest)}

    return {name: gather(blocks) if blocks else blocks for name, blocks in variables.items()}


def _unstack(variables: dict[str, Any]) -> dict[str, Any]:
    """Undoes `_stack`."""

    def scatter(blocks: dict[str, Any]) -> dict[str, Any]:
        rest = blocks["rest"]
        length = len(jax.tree.leaves(rest)[0])
        parts = {f"block{i + 2}": jax.tree.map(lambda leaf, i=i: leaf[i], rest) for i in range(length)}
        return {"block1": blocks["block1"]} | parts

    return {name: scatter(blocks) if blocks else blocks for name, blocks in variables.items()}


class CifarResNet(BlockModel):
    """conv3x3-16, three stages of n blocks with 16, 32 and 64 filters, global average pooling, linear: 6n + 2 layers.

    Attributes:
      depth: weighted layers, 6n + 2.
      residual: whether the blocks have shortcuts; without them it is the plain net.
      activation: after each batch norm and after each addition.
      scan: compile the equal blocks of a stage once. Parameters keep their names, one set per block; only the
        compile time and the random numbers of the initialisation differ.
    """

    depth: int = 20
    residual: bool = True
    activation: Activation = "relu"
    scan: bool = False

    def __post_init__(self) -> None:
        """Checks the depth."""
        if self.depth < 8 or (self.depth - 2) % 6:
            raise InputError(f"depth is {self.depth}; expected 6n + 2 with n >= 1")
        super().__post_init__()

    @property
    def branch_norms(self) -> str | None:
        """See `ImageModel`."""
        return r"stage\d+/block\d+/norm2" if self.residual else None

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        block = {
            "residual": self.residual,
            "activation": self.activation,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }
        blocks = (self.depth - 2) // 6
        scan = self.scan and blocks > 1  # the first block of a stage has none equal to it
        stage = Stage
        if scan:
            stage = nn.map_variables(
                Stage,
                ["params", "batch_stats"],
                trans_in_fn=_stack,
                trans_out_fn=_unstack,
                init=self.is_initializing(),
                mutable=True,
            )
        x = self.standardize(images)
        x = Conv(16, (3, 3), padding=1, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name="stem")(x)
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="stem_norm")(x, train=train)
        x = activations.get(self.activation)(x)
        for i, (features, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            fields = {"stride": stride, "scan": scan, "remat": self.remat, "block": block | {"features": features}}
            x = stage(blocks=blocks, **fields, name=f"stage{i}")(x, train=train)
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="head")(x.astype(jnp.float32))


def _torch_name(path: str) -> str:
    """stage1/block1/norm1 is layer1.0.bn1 in the published weights."""
    stage, *rest = path.split("/")
    if not rest:
        return {"stem": "conv1", "stem_norm": "bn1", "head": "linear"}[stage]
    block, part = rest
    return f"layer{stage[5:]}.{int(block[5:]) - 1}.{part.replace('norm', 'bn')}"


def _register(depth: int, residual: bool, parameters: int, macs: int, printed: str, error: str) -> Registration:
    accuracy = f"CIFAR-10 test error {error}; 64k iterations of 128, pad-and-crop and flip, single view (table 6)"
    if not residual:
        accuracy = {
            110: "CIFAR-10 error above 60 %, so not shown in figure 6",
            1202: "none: the paper has the residual net alone at this depth",
        }.get(depth, "CIFAR-10 error published as a curve only (figure 6, left)")
    if depth < 20:
        accuracy = "none: the paper's networks begin at 20 layers"
    tiny = " MLPerf Tiny's ResNet-8 (Banbury et al. 2021) has 1x1 convolutions where its shortcuts change the shape."
    # One block is compiled for a whole stage where compiling two hundred would take many minutes.
    deep = depth > 200
    return Registration(
        CifarResNet,
        Facts(
            paper="He, Zhang, Ren & Sun, Deep residual learning for image recognition",
            year=2016,
            input_shape=(32, 32, 3),
            num_classes=10,
            parameters=parameters,
            multiply_adds=macs,
            accuracy=accuracy,
            published_parameters=f"{printed} million (table 6)" if residual and printed else "",
            preprocessing=Preprocessing(mean=IMAGENET.mean, std=IMAGENET.std),
            differs="The paper subtracts the per-pixel mean; the published PyTorch weights standardise per channel."
            + (tiny if depth == 8 else ""),
        ),
        fixed={"depth": depth, "residual": residual},
        defaults={"scan": deep, "remat": deep},
        torch_names=TorchNames(_torch_name),
    )


# Depth: parameters with option A shortcuts (they have none, so the plain net counts the same), multiply-adds, and
# table 6, which begins at 20 layers: millions of parameters and the residual net's error.
_PUBLISHED = {
    8: (75_290, 12_239_488, "", ""),
    14: (172_506, 26_395_264, "", ""),
    20: (269_722, 40_551_040, "0.27", "8.75 %"),
    32: (464_154, 68_862_592, "0.46", "7.51 %"),
    44: (658_586, 97_174_144, "0.66", "7.17 %"),
    56: (853_018, 125_485_696, "0.85", "6.97 %"),
    110: (1_727_962, 252_887_680, "1.7", "6.43 % (6.61 +- 0.16 over five runs)"),
    1202: (19_421_274, 2_829_238_912, "19.4", "7.93 %"),
}

MODELS = {
    f"cifar_{'resnet' if residual else 'plain'}{depth}": _register(depth, residual, *published)
    for depth, published in _PUBLISHED.items()
    for residual in (True, False)
    if residual or depth >= 20
}
