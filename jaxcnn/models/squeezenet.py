"""SqueezeNet: fire modules, and a last convolution averaged over the image instead of dense layers (2016)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal
from jaxcnn.layers.pooling import GlobalAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Registration, TorchNames

# Filters and kernel size of conv1, and the layers after which a pooling stands.
_VERSIONS = {"1.0": (96, 7, (1, 4, 8)), "1.1": (64, 3, (1, 3, 5))}

# Filters of the squeeze layers of fire2 to fire9; each of their two expansions has four times as many.
_SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)


class Fire(nn.Module):
    """s = a(conv1x1(x)); y = concatenate(a(conv1x1(s)), a(conv3x3(s)))."""

    squeeze: int
    activation: Activation
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [N, H, W, C] to [N, H, W, 8 squeeze]."""
        activation = activations.get(self.activation)
        fields = {"kernel_init": he_normal, "dtype": self.dtype}
        x = activation(Conv(self.squeeze, 1, **fields, name="squeeze")(x))
        narrow = Conv(4 * self.squeeze, 1, **fields, name="expand1x1")(x)
        wide = Conv(4 * self.squeeze, 3, padding=1, **fields, name="expand3x3")(x)
        return activation(jnp.concatenate([narrow, wide], axis=-1))


class SqueezeNet(BlockModel):
    """Convolution, eight fire modules with three max poolings between them, convolution, global average pooling.

    Attributes:
      version: "1.0", as published, or "1.1", which pools earlier and needs 2.4 times fewer multiplications.
      dropout: probability with which a value before the last convolution is dropped in training.
      activation: after every convolution, the last one too.
    """

    version: str = "1.0"
    dropout: float = 0.5
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]; the last activation leaves them >= 0."""
        activation = activations.get(self.activation)
        features, kernel, pooled = _VERSIONS[self.version]
        x = self.standardize(images)
        x = activation(Conv(features, kernel, 2, kernel_init=he_normal, dtype=self.dtype, name="conv1")(x))
        x = MaxPool(3, 2, ceil_mode=True, name="pool1")(x)
        for i, squeeze in enumerate(_SQUEEZE, start=2):
            x = run_block(Fire(squeeze, self.activation, self.dtype, name=f"fire{i}"), x, remat=self.remat)
            if i in pooled:
                x = MaxPool(3, 2, ceil_mode=True, name=f"pool{i}")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head = Conv(self.num_classes, 1, kernel_init=nn.initializers.normal(0.01), name="head")
        return GlobalAveragePool(name="average")(activation(head(x.astype(jnp.float32))))


def _names(version: str) -> TorchNames:
    """fire2/squeeze is features.3.squeeze: activations and poolings count in torchvision's sequence."""
    pooled = _VERSIONS[version][2]

    def name(path: str) -> str:
        part, _, rest = path.partition("/")
        if not rest:
            return {"conv1": "features.0", "head": "classifier.1"}[part]
        fire = int(part.removeprefix("fire"))
        return f"features.{fire + sum(after < fire for after in pooled)}.{rest}"

    return TorchNames(name)


def _register(version: str, parameters: int, multiply_adds: int, accuracy: str, **facts: str) -> Registration:
    return Registration(
        SqueezeNet,
        Facts(
            paper="Iandola, Han, Moskewicz, Ashraf, Dally & Keutzer, SqueezeNet: AlexNet-level accuracy with 50x fewer "
            "parameters and <0.5MB model size",
            year=2016,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=parameters,
            multiply_adds=multiply_adds,
            accuracy=f"ILSVRC-2012 validation {accuracy}",
            preprocessing=IMAGENET,
            smallest=21 if version == "1.0" else 17,
            **facts,
        ),
        fixed={"version": version},
        torch_names=_names(version),
    )


MODELS = {
    "squeezenet1_0": _register(
        "1.0",
        1_248_424,
        818_924_576,
        "top-1 57.5 %, top-5 80.3 % (table 2); torchvision's weights 58.092 % and 80.420 %, one crop",
        published_parameters="1,248,424 (table 1)",
        differs="The paper says 224x224; its 111x111 map of conv1 (7x7, stride 2) needs 227x227. torchvision, and this "
        "one, round the sizes of pooled maps up.",
    ),
    "squeezenet1_1": _register(
        "1.1",
        1_235_496,
        349_151_936,
        "top-1 58.178 %, top-5 80.624 %, one crop (torchvision's weights)",
        differs="Not in the paper: its authors released this version afterwards.",
    ),
}
