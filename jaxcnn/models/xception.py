"""Xception: depthwise separable convolutions with shortcuts (2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.conv_norm import ConvNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal
from jaxcnn.layers.pooling import GlobalAveragePool, MaxPool
from jaxcnn.models.registration import Facts, Preprocessing, Registration


class SeparableConvNorm(nn.Module):
    """A 3x3 filter for every channel, a 1x1 convolution of them all, batch norm; nothing in between."""

    features: int
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H, W, features]."""
        channels = x.shape[-1]
        fields = {"use_bias": False, "kernel_init": he_normal, "dtype": self.fields["dtype"]}
        x = Conv(channels, 3, padding=1, groups=channels, **fields, name="depthwise")(x)
        return ConvNorm(self.features, 1, activation=None, **self.fields, name="pointwise")(x, train=train)


class Block(nn.Module):
    """Separable convolutions with an activation before each, and a shortcut.

    Attributes:
      features: of each separable convolution.
      activate_first: whether an activation stands before the first one.
      pool: halve the image by 3x3 max pooling, and the shortcut by a 1x1 convolution with stride 2.
      activation: its name or function.
      fields: of every `ConvNorm`.
    """

    features: tuple[int, ...]
    activate_first: bool
    pool: bool
    activation: Activation
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H', W', features[-1]], H' = ceil(H / 2) with pooling and H without."""
        y = x
        for i, features in enumerate(self.features, start=1):
            if i > 1 or self.activate_first:
                y = activations.get(self.activation)(y)
            y = SeparableConvNorm(features, self.fields, name=f"conv{i}")(y, train=train)
        if not self.pool:
            return x + y
        # What TensorFlow pads so that ceil(n / 2) windows fit: one pixel less before the image where n is even.
        height, width = (n % 2 for n in y.shape[1:3])
        y = MaxPool(3, 2, ((height, 1), (width, 1)), name="pool")(y)
        shortcut = ConvNorm(self.features[-1], 1, 2, activation=None, **self.fields, name="shortcut")
        return shortcut(x, train=train) + y


# Of blocks 1 to 12: separable convolutions; the first three and the last halve the image.
_BLOCKS = ((128, 128), (256, 256), (728, 728), *((728, 728, 728),) * 8, (728, 1024))
_POOLED = (1, 2, 3, 12)


class Xception(BlockModel):
    """Two convolutions, twelve blocks with shortcuts, two separable convolutions, global average pooling, linear.

    Attributes:
      dropout: probability with which a value before the linear layer is dropped in training.
      activation: after batch norms.
    """

    dropout: float = 0.5
    activation: Activation = "relu"

    @property
    def branch_norms(self) -> str | None:
        """See `ImageModel`."""
        return r"block([1-3]|12)/conv2/pointwise/norm|block([4-9]|1[01])/conv3/pointwise/norm"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        activation = activations.get(self.activation)
        fields = {"epsilon": 1e-3, "dtype": self.dtype, "axis_name": self.axis_name}
        x = self.standardize(images)
        x = ConvNorm(32, 3, 2, activation=activation, **fields, name="conv1")(x, train=train)
        x = ConvNorm(64, 3, activation=activation, **fields, name="conv2")(x, train=train)
        for i, features in enumerate(_BLOCKS, start=1):
            block = Block(features, i > 1, i in _POOLED, self.activation, fields, name=f"block{i}")
            x = run_block(block, x, remat=self.remat, train=train)
        for i, features in enumerate((1536, 2048), start=3):
            x = activation(SeparableConvNorm(features, fields, name=f"conv{i}")(x, train=train))
        x = GlobalAveragePool(name="average")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


MODELS = {
    "xception": Registration(
        Xception,
        Facts(
            paper="Chollet, Xception: Deep learning with depthwise separable convolutions",
            year=2017,
            input_shape=(299, 299, 3),
            num_classes=1000,
            parameters=22_855_952,
            multiply_adds=8_357_403_496,
            accuracy="ILSVRC-2012 validation top-1 79.0 %, top-5 94.5 %, one crop (table 1)",
            published_parameters="22,855,952 (table 3)",
            preprocessing=Preprocessing(resize=342, mean=(0.5,) * 3, std=(0.5,) * 3),
            smallest=7,
            differs="Keras counts 22,910,480, with the 54,528 running statistics, and leaves dropout out. Its max "
            "poolings, and these, pad an even image on one side only; ports to PyTorch pad both and differ there.",
        ),
    ),
}
