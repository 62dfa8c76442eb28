"""The multi-layer perceptron: the baseline that convolutional networks are measured against."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.models.registration import Facts, Registration


class MLP(ImageModel):
    """h_l = a(W_l h_{l-1} + b_l), logits = W h_L + b, on flattened images.

    Attributes:
      width: units of each hidden layer.
      depth: hidden layers; 0 gives softmax regression.
      dropout: probability with which a hidden unit is dropped in training, in [0, 1).
      activation: a of the equation.
    """

    width: int = 300
    depth: int = 1
    dropout: float = 0.0
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.width < 1 or self.depth < 0:
            raise InputError(f"mlp has width {self.width} and depth {self.depth}; expected width >= 1 and depth >= 0")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, num_classes]."""
        activation = activations.get(self.activation)
        x = self.standardize(images)
        x = x.reshape(x.shape[0], -1)
        for layer in range(1, self.depth + 1):
            x = activation(nn.Dense(self.width, dtype=self.dtype, name=f"hidden{layer}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


MODELS = {
    "mlp": Registration(
        MLP,
        Facts(
            paper="LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition",
            year=1998,
            input_shape=(28, 28, 1),
            num_classes=10,
            parameters=238_510,
            multiply_adds=238_200,
            accuracy="MNIST test error 4.7 % with 300 hidden units, no distortions (section III.C.4)",
        ),
    )
}
