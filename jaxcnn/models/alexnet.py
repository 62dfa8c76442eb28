"""AlexNet: as published in two groups with response normalisation (2012), and as torchvision builds it (2014)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.layers.initializers import he_normal
from jaxcnn.layers.local_response_norm import LocalResponseNorm
from jaxcnn.layers.pooling import AdaptiveAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Registration, TorchNames

_gaussian = nn.initializers.normal(0.01)


class AlexNet2012(ImageModel):
    """Five convolutions, the second, fourth and fifth in two groups (two GPUs' halves), and three dense layers.

    227x227 pixels give the published sizes: 55, 27, 13 and, into the dense layers, 6. The paper writes 224, which its
    own stride cannot produce without the padding that it does not mention.

    Attributes:
      dropout: probability with which a unit of the two hidden dense layers is dropped in training.
      activation: after every convolution and hidden dense layer.
    """

    dropout: float = 0.5
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]; H and W fix the shape of `fc6`."""
        activation = activations.get(self.activation)
        # Section 5: the constant 1 in these layers gives the ReLUs positive inputs from the first step on.
        ones = nn.initializers.ones

        def conv(x: Array, features: int, kernel: int, stride: int, groups: int, name: str) -> Array:
            bias = ones if groups == 2 else nn.initializers.zeros
            padding = 0 if name == "conv1" else kernel // 2
            fields = {"kernel_init": _gaussian, "bias_init": bias, "dtype": self.dtype, "name": name}
            return activation(Conv(features, kernel, stride, padding, groups, **fields)(x))

        x = self.standardize(images)
        x = conv(x, 96, 11, 4, 1, "conv1")
        x = MaxPool(3, 2, name="pool1")(LocalResponseNorm(name="norm1")(x))
        x = conv(x, 256, 5, 1, 2, "conv2")
        x = MaxPool(3, 2, name="pool2")(LocalResponseNorm(name="norm2")(x))
        x = conv(x, 384, 3, 1, 1, "conv3")
        x = conv(x, 384, 3, 1, 2, "conv4")
        x = conv(x, 256, 3, 1, 2, "conv5")
        x = MaxPool(3, 2, name="pool5")(x)
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = activation(nn.Dense(4096, kernel_init=_gaussian, bias_init=ones, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=_gaussian, name="head")(x.astype(jnp.float32))


class AlexNet(ImageModel):
    """The single-column form without response normalisation, with 64 to 384 filters.

    Attributes:
      dropout: probability with which a unit before each of the two hidden dense layers is dropped in training.
      activation: after every convolution and hidden dense layer.

    Reference: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """

    dropout: float = 0.5
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C], at least 63 pixels a side and in [0, 1], to logits [N, num_classes]."""
        activation = activations.get(self.activation)
        x = self.standardize(images)
        for i, (features, kernel, stride, padding) in enumerate(
            [(64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)], start=1
        ):
            fields = {"kernel_init": he_normal, "dtype": self.dtype, "name": f"conv{i}"}
            x = activation(Conv(features, kernel, stride, padding, **fields)(x))
            if i in (1, 2, 5):
                x = MaxPool(3, 2, name=f"pool{i}")(x)
        x = AdaptiveAveragePool(6, name="average")(x)
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = activation(nn.Dense(4096, kernel_init=he_normal, dtype=self.dtype, name=name)(x))
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


_TORCHVISION = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "head": "classifier.6",
}

MODELS = {
    "alexnet_2012": Registration(
        AlexNet2012,
        Facts(
            paper="Krizhevsky, Sutskever & Hinton, ImageNet classification with deep convolutional neural networks",
            year=2012,
            input_shape=(227, 227, 3),
            num_classes=1000,
            parameters=60_965_224,
            multiply_adds=724_406_816,
            accuracy="ILSVRC-2012 validation top-1 error 40.7 %, top-5 18.2 %, ten crops (table 2)",
            published_parameters="60 million",
            preprocessing=IMAGENET,
            smallest=67,
            differs="The paper says 224x224; its 55x55 map of conv1 (11x11, stride 4) needs 227x227. Its colour "
            "augmentation and mean image belong to the data, not to the network.",
        ),
        torch_names=TorchNames(flattened={"fc6": (6, 6)}),
    ),
    "alexnet": Registration(
        AlexNet,
        Facts(
            paper="Krizhevsky, One weird trick for parallelizing convolutional neural networks",
            year=2014,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=61_100_840,
            multiply_adds=714_188_480,
            accuracy="ILSVRC-2012 validation top-1 56.522 %, top-5 79.066 %, one crop (torchvision's weights)",
            preprocessing=IMAGENET,
            smallest=63,
            differs="torchvision's fourth convolution has 256 filters where the paper's has 384, and dropout stands "
            "before the dense layers instead of after them.",
        ),
        torch_names=TorchNames(_TORCHVISION.__getitem__, flattened={"fc6": (6, 6)}),
    ),
}
