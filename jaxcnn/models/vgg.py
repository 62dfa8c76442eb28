"""VGG: the configurations A to E, A with response normalisation, and A, B, D and E with batch norm."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.layers.local_response_norm import LocalResponseNorm
from jaxcnn.layers.pooling import AdaptiveAveragePool, MaxPool
from jaxcnn.models.registration import IMAGENET, Facts, Registration, TorchNames

# Table 1: convolutions in each of the five stages, all 3x3 but for the third ones of C, which are 1x1.
_CONVOLUTIONS = {
    "A": (1, 1, 2, 2, 2),
    "B": (2, 2, 2, 2, 2),
    "C": (2, 2, 3, 3, 3),
    "D": (2, 2, 3, 3, 3),
    "E": (2, 2, 4, 4, 4),
}
_FEATURES = (64, 128, 256, 512, 512)

_gaussian = nn.initializers.normal(0.01)


class VGG(BlockModel):
    """Five stages of convolutions, each closed by 2x2 max pooling, and three dense layers.

    The last map is averaged to 7x7, which it is at 224x224 pixels, so that images of any size from 32 pixels fit.

    Attributes:
      configuration: column of table 1 (Simonyan & Zisserman 2015), "A" to "E".
      norm: "batch" after every convolution, "response" after the first one, or "none".
      dropout: probability with which a unit of the two hidden dense layers is dropped in training.
      activation: after every convolution (and its batch norm) and hidden dense layer.
    """

    configuration: str = "D"
    norm: str = "none"
    dropout: float = 0.5
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C], at least 32 pixels a side and in [0, 1], to logits [N, num_classes]."""
        activation = activations.get(self.activation)

        def convolve(model: VGG, x: Array, *, stage: int) -> Array:
            for i in range(1, _CONVOLUTIONS[model.configuration][stage - 1] + 1):
                kernel = 1 if model.configuration == "C" and i == 3 else 3
                fields = {"kernel_init": he_normal_fan_out, "dtype": model.dtype, "name": f"conv{stage}_{i}"}
                x = Conv(_FEATURES[stage - 1], kernel, padding=kernel // 2, **fields)(x)
                if model.norm == "batch":
                    norm = BatchNorm(dtype=model.dtype, axis_name=model.axis_name, name=f"norm{stage}_{i}")
                    x = norm(x, train=train)
                x = activation(x)
                if model.norm == "response" and stage == 1:
                    x = LocalResponseNorm(name=f"norm{stage}_{i}")(x)
            return MaxPool(2, name=f"pool{stage}")(x)

        x = self.standardize(images)
        for stage in (1, 2, 3, 4, 5):
            x = run_block(self, x, remat=self.remat, call=convolve, stage=stage)
        x = AdaptiveAveragePool(7, name="average")(x)
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = activation(nn.Dense(4096, kernel_init=_gaussian, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=_gaussian, name="head")(x.astype(jnp.float32))


def _torchvision(configuration: str, norm: str) -> dict[str, str]:
    """conv1_1 is features.0 there: convolutions, norms, activations and poolings are counted in one row."""
    names, position = {"fc6": "classifier.0", "fc7": "classifier.3", "head": "classifier.6"}, 0
    for stage, convolutions in enumerate(_CONVOLUTIONS[configuration], start=1):
        for i in range(1, convolutions + 1):
            names[f"conv{stage}_{i}"] = f"features.{position}"
            if norm == "batch":
                names[f"norm{stage}_{i}"] = f"features.{position + 1}"
                position += 1
            position += 2
        position += 1
    return names


# Parameters and multiply-adds at 224x224, and what table 2 prints in millions of parameters.
_COUNTS = {
    "A": (132_863_336, 7_609_090_048, "133"),
    "B": (133_047_848, 11_308_466_176, "133"),
    "C": (133_638_952, 11_770_888_192, "134"),
    "D": (138_357_544, 15_470_264_320, "138"),
    "E": (143_667_240, 19_632_062_464, "144"),
}


def _register(configuration: str, norm: str, accuracy: str) -> Registration:
    parameters, multiply_adds, printed = _COUNTS[configuration]
    filters = sum(n * features for n, features in zip(_CONVOLUTIONS[configuration], _FEATURES, strict=True))
    published = {
        "none": "The paper pretrains deep configurations with the layers of A",
        "batch": "The paper has no batch norm; torchvision's form keeps the convolutions' biases",
        "response": "The constants are AlexNet's, as in the paper, and the normalisation stands after the ReLU",
    }[norm]
    named = norm != "response" and configuration != "C"
    return Registration(
        VGG,
        Facts(
            paper="Simonyan & Zisserman, Very deep convolutional networks for large-scale image recognition",
            year=2015,
            input_shape=(224, 224, 3),
            num_classes=1000,
            parameters=parameters + (2 * filters if norm == "batch" else 0),
            multiply_adds=multiply_adds,
            accuracy=accuracy,
            published_parameters=f"{printed} million (table 2, {configuration})" if norm != "batch" else "",
            preprocessing=IMAGENET,
            smallest=32,
            differs=f"{published}; here, as in torchvision, convolutions start from He's initialisation. The paper "
            "tests with the dense layers turned into convolutions over the whole picture.",
        ),
        fixed={"configuration": configuration, "norm": norm},
        torch_names=TorchNames(_torchvision(configuration, norm).__getitem__, flattened={"fc6": (7, 7)})
        if named
        else TorchNames(flattened={"fc6": (7, 7)}),
    )


_TORCHVISION_WEIGHTS = "ILSVRC-2012 validation top-1 {} %, top-5 {} %, one crop (torchvision's weights)"
_PAPER = "ILSVRC-2012 validation top-1 error {} %, top-5 {} %, trained at and tested densely at scale 256 (table 3)"

MODELS = {
    f"vgg{depth}{suffix}": _register(configuration, norm, accuracy.format(top1, top5))
    for depth, suffix, configuration, norm, accuracy, top1, top5 in [
        (11, "", "A", "none", _TORCHVISION_WEIGHTS, "69.020", "88.628"),
        (13, "", "B", "none", _TORCHVISION_WEIGHTS, "69.928", "89.246"),
        (16, "", "D", "none", _TORCHVISION_WEIGHTS, "71.592", "90.382"),
        (19, "", "E", "none", _TORCHVISION_WEIGHTS, "72.376", "90.876"),
        (11, "_bn", "A", "batch", _TORCHVISION_WEIGHTS, "70.370", "89.810"),
        (13, "_bn", "B", "batch", _TORCHVISION_WEIGHTS, "71.586", "90.374"),
        (16, "_bn", "D", "batch", _TORCHVISION_WEIGHTS, "73.360", "91.516"),
        (19, "_bn", "E", "batch", _TORCHVISION_WEIGHTS, "74.218", "91.842"),
        (11, "_lrn", "A", "response", _PAPER, "29.7", "10.5"),
        (16, "_c", "C", "none", _PAPER, "28.1", "9.4"),
    ]
}
