"""ResNet-110 for 32x32 images with stochastic depth (Huang, Sun, Liu, Sedra & Weinberger 2016)."""

from __future__ import annotations

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
from jaxcnn.layers.pooling import GlobalAveragePool
from jaxcnn.layers.stochastic_depth import stochastic_depth
from jaxcnn.models import cifar_resnet
from jaxcnn.models.registration import Facts, Preprocessing, Registration


class Block(nn.Module):
    """The block of `cifar_resnet`, with its parameters, whose branch may be dropped.

    Attributes:
      features: output channels.
      stride: of the block.
      survival: probability with which the branch stays in training.
      per_sample: whether to decide for every example instead of for the batch.
      activation: after the first batch norm and after the addition.
      dtype: arithmetic.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
    """

    features: int
    stride: int
    survival: float
    per_sample: bool
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        activation = activations.get(self.activation)

        def branch(block: Block, x: Array) -> Array:
            for i, stride in enumerate((block.stride, 1), start=1):
                fields = {"use_bias": False, "kernel_init": he_normal, "dtype": block.dtype, "name": f"conv{i}"}
                x = Conv(block.features, 3, stride, 1, **fields)(x)
                norm = BatchNorm(axis_name=block.axis_name, dtype=block.dtype, name=f"norm{i}")
                x = norm(x, train=train)
                x = activation(x) if i == 1 else x
            return x

        extra = self.features - x.shape[-1]
        shortcut = x[:, :: self.stride, :: self.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        fields = {"survival": self.survival, "per_sample": self.per_sample, "train": train}
        return activation(stochastic_depth(self, branch, x, shortcut, **fields))


class Stage(nn.Module):
    """One block per survival probability in sequence, the first with the stride."""

    features: int
    stride: int
    survivals: tuple[float, ...]
    remat: bool
    per_sample: bool
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""
        common = (self.per_sample, self.activation, self.dtype, self.axis_name)
        for i, survival in enumerate(self.survivals, start=1):
            stride = self.stride if i == 1 else 1
            block = Block(self.features, stride, survival, *common, name=f"block{i}")
            x = run_block(block, x, remat=self.remat, train=train)
        return x


class StochasticDepthResNet(BlockModel):
    """The CIFAR residual network of 6n + 2 layers whose l-th of L blocks survives with p_l = 1 - l / L (1 - p_L).

    Attributes:
      depth: weighted layers, 6n + 2.
      survival: p_L, of the last block, in (0, 1].
      per_sample: whether every example drops its own blocks; as published, a batch drops the same ones.
      activation: after the first batch norm of each block and after each addition.
    """

    depth: int = 110
    survival: float = 0.5
    per_sample: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Checks depth and survival."""
        if self.depth < 8 or (self.depth - 2) % 6:
            raise InputError(f"depth is {self.depth}; expected 6n + 2 with n >= 1")
        if not 0 < self.survival <= 1:
            raise InputError(f"survival is {self.survival}; expected a probability in (0, 1]")
        super().__post_init__()

    @property
    def branch_norms(self) -> str | None:
        """See `ImageModel`."""
        return r"stage\d+/block\d+/norm2"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        blocks = (self.depth - 2) // 6
        survivals = tuple(1 - i / (3 * blocks) * (1 - self.survival) for i in range(1, 3 * blocks + 1))
        common = (self.per_sample, self.activation, self.dtype, self.axis_name)
        x = self.standardize(images)
        x = Conv(16, 3, padding=1, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name="stem")(x)
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="stem_norm")(x, train=train)
        x = activations.get(self.activation)(x)
        for i, (features, stride) in enumerate([(16, 1), (32, 2), (64, 2)]):
            own = survivals[i * blocks : (i + 1) * blocks]
            x = Stage(features, stride, own, self.remat, *common, name=f"stage{i + 1}")(x, train=train)
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="head")(x.astype(jnp.float32))


_RESNET110 = cifar_resnet.MODELS["cifar_resnet110"]

MODELS = {
    "stochastic_depth110": Registration(
        StochasticDepthResNet,
        Facts(
            paper="Huang, Sun, Liu, Sedra & Weinberger, Deep networks with stochastic depth",
            year=2016,
            input_shape=(32, 32, 3),
            num_classes=10,
            parameters=_RESNET110.facts.parameters,
            multiply_adds=_RESNET110.facts.multiply_adds,
            accuracy="CIFAR-10 test error 5.23 % (6.41 % with constant depth), CIFAR-100 24.58 %; 500 epochs "
            "of batches of 128, pad-and-crop and flip (table 1)",
            published_parameters="1.7 million",
            preprocessing=Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.244, 0.262)),
            differs="Shortcuts that change the shape take every other pixel and pad channels on both sides, so that "
            "weights interchange with cifar_resnet110; the authors' code averages 2x2 pixels and pads on one side.",
        ),
        {"depth": 110},
        torch_names=_RESNET110.torch_names,
    ),
}
