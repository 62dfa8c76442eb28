"""Activation functions by name, so that a model's activation is a field that can be written down and swapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
from jax import Array

from jaxcnn.errors import unknown_name

Activation: TypeAlias = str | Callable[[Array], Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "leaky_relu": nn.leaky_relu,
    "relu": nn.relu,
    "relu6": nn.relu6,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
}
"""Every activation by name."""


def get(activation: Activation) -> Callable[[Array], Array]:
    """The function that a model's `activation` field stands for.

    Args:
      activation: a registered name, or the function itself.

    Returns:
      An elementwise function.

    Raises:
      InputError: the name is not registered.
    """
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]
