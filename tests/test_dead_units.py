"""Dead units against a network whose dead units are known, and against what the layers under the ReLUs compute."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lesion import IMAGES, RESNET, resnet

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis.activations import activation
from jaxcnn.analysis.dead_units import dead_units
from jaxcnn.errors import InputError

KEY = jax.random.key(0)


def test_a_unit_is_dead_if_its_bias_outweighs_whatever_it_is_shown():
    model = models.create("mlp", num_classes=3, width=6, depth=2, activation="relu")
    state = states.create(model, KEY, IMAGES.shape[1:])
    kernel = np.asarray(state.params["hidden1"]["kernel"])
    bias = np.where([True, False, True, False, False, False], -np.abs(kernel).sum(0) - 1, np.abs(kernel).sum(0) + 1)
    params = state.params | {"hidden1": {"kernel": kernel, "bias": bias.astype(np.float32)}}
    found = dead_units(model, state.replace(params=params), IMAGES, chunk=4)
    assert found.rectifiers == ("hidden1", "hidden2")
    np.testing.assert_array_equal(found.dead[0], bias < 0)
    assert found.shares[0] == 2 / 6


@pytest.mark.slow
def test_they_are_those_that_no_image_makes_positive_whatever_the_chunk():
    state = resnet()
    found = dead_units(RESNET, state, IMAGES, chunk=4)
    norms = [name for name in found.rectifiers if name.endswith("norm1")]
    assert norms
    for name, dead in zip(found.rectifiers, found.dead, strict=True):
        if name in norms:
            outputs = activation(RESNET, name, state.variables, jnp.asarray(IMAGES))
            np.testing.assert_array_equal(dead, np.asarray(outputs <= 0).all((0, 1, 2)))
    assert all((a == b).all() for a, b in zip(found.dead, dead_units(RESNET, state, IMAGES).dead, strict=True))


def test_what_has_no_relu_is_refused():
    model = models.create("mlp", num_classes=3, width=6, depth=2, activation="tanh")
    with pytest.raises(InputError, match="MLP has no ReLU; expected a network with at least one"):
        dead_units(model, states.create(model, KEY, IMAGES.shape[1:]), IMAGES)
    with pytest.raises(InputError, match="chunk is 0; expected at least 1"):
        dead_units(RESNET, resnet(), IMAGES, chunk=0)


class Normalised(nn.Module):
    """Two layers that keep a variance from being negative by max(variance, 0), and one activation."""

    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.GroupNorm(2, name="groups")(nn.Conv(4, (3, 3), name="conv")(images))
        x = self.activation(nn.LayerNorm(name="layers")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def test_what_keeps_a_variance_positive_is_no_relu():
    shape = IMAGES.shape[1:]
    found = dead_units(Normalised(nn.relu), states.create(Normalised(nn.relu), KEY, shape), IMAGES)
    assert found.rectifiers == ("layers",)
    with pytest.raises(InputError, match="Normalised has no ReLU"):
        dead_units(Normalised(nn.tanh), states.create(Normalised(nn.tanh), KEY, shape), IMAGES)
