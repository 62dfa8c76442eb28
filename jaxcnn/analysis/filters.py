"""The kernels of the first layer: the only weights that are pictures as they stand."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from jaxcnn.errors import InputError
from jaxcnn.layers.first_layer import as_pictures, first_kernel
from jaxcnn.state import State


class FirstLayer(NamedTuple):
    """The layer that sees the image.

    Attributes:
      path: names of the modules that lead to it, joined by slashes.
      kernel: its weights as pictures.
    """

    path: str
    kernel: Float[Array, "kh kw cin cout"]


def first_layer(model: nn.Module, state: State, input_shape: tuple[int, int, int]) -> FirstLayer:
    """The kernel of the first convolution or dense layer that the model calls.

    The order is that of execution, which the names in `state.params` do not tell. A dense layer on the flattened
    image gives one picture of the image's size for each unit.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      input_shape: height and width in pixels, and channels of one image.

    Returns:
      The layer's path and its kernel.

    Raises:
      InputError: the model calls no such layer, or the first one does not see the image itself.
    """
    found = first_kernel(model, state.variables, input_shape)
    if found is None:
        raise InputError(f"{type(model).__name__} calls no convolution or dense layer; expected at least one")
    path, kernel = found
    pictures = as_pictures(kernel, input_shape)
    if pictures is None:
        raise InputError(
            f"the first layer, {'/'.join(path)}, has a kernel of shape {kernel.shape}; expected [kh, kw, cin, cout] "
            f"or [{math.prod(input_shape)}, units] on images of shape {input_shape}"
        )
    return FirstLayer("/".join(path), pictures)
