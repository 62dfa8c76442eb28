"""First-layer kernels are found by execution, whatever the modules are called."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn.state
from jaxcnn.analysis.filters import first_layer
from jaxcnn.errors import InputError

SHAPE = (8, 10, 3)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(4, (3, 5), name="inner")(x))


class Late(nn.Module):
    """Its first layer comes last by name, after normalisation and in a submodule."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.BatchNorm(use_running_average=not train, name="before")(images)
        x = Block(name="z_stem")(x)
        x = nn.Conv(5, (1, 1), name="a_second")(x)
        return nn.Dense(7, name="b_head")(x.mean((1, 2)))


class Setup(nn.Module):
    """Modules declared in another order than they are called."""

    def setup(self):
        self.second = nn.Conv(4, (3, 3))
        self.first = nn.Conv(6, (5, 5), feature_group_count=3)
        self.head = nn.Dense(2)

    def __call__(self, images, *, train):
        return self.head(self.second(self.first(images)).mean((1, 2)))


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Dense(12, name="z")(images.reshape(len(images), -1)))
        return nn.Dense(2, name="a")(x)


class Rematerialised(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(2)(nn.remat(Block)(name="stem")(images).mean((1, 2)))


@pytest.mark.parametrize(
    ("model", "path", "shape"),
    [
        (Late(), "z_stem/inner", (3, 5, 3, 4)),
        (Setup(), "first", (5, 5, 1, 6)),
        (Rematerialised(), "stem/inner", (3, 5, 3, 4)),
        (Perceptron(), "z", (8, 10, 3, 12)),
    ],
)
def test_the_first_layer_called_is_found(model, path, shape):
    state = jaxcnn.state.create(model, jax.random.key(0), SHAPE)
    layer = first_layer(model, state, SHAPE)
    assert layer.path == path
    assert layer.kernel.shape == shape
    found = state.params
    for name in path.split("/"):
        found = found[name]
    np.testing.assert_array_equal(layer.kernel.reshape(found["kernel"].shape), found["kernel"])


def test_a_dense_unit_is_the_picture_it_answers_to():
    model = Perceptron()
    state = jaxcnn.state.create(model, jax.random.key(0), SHAPE)
    images = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
    kernel = first_layer(model, state, SHAPE).kernel
    answers = jnp.einsum("nhwc,hwck->nk", images, kernel)
    expected = images.reshape(2, -1) @ state.params["z"]["kernel"]
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-5)


def test_averaged_parameters_are_taken_where_kept():
    model = Late()
    state = jaxcnn.state.create(model, jax.random.key(0), SHAPE)
    averaged = state.replace(ema_params=jax.tree.map(lambda x: x + 1, state.params))
    np.testing.assert_allclose(
        first_layer(model, averaged, SHAPE).kernel, first_layer(model, state, SHAPE).kernel + 1, rtol=1e-6
    )


class Nothing(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return images.mean((1, 2)) + self.param("bias", nn.initializers.zeros, (1, 3))


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(2, name="head")(images.mean((1, 2)))


@pytest.mark.parametrize(
    ("model", "message"),
    [(Nothing(), "Nothing calls no convolution or dense layer"), (Pooled(), r"head, has a kernel of shape \(3, 2\)")],
)
def test_models_without_one_are_refused(model, message):
    state = jaxcnn.state.create(model, jax.random.key(0), SHAPE)
    with pytest.raises(InputError, match=message):
        first_layer(model, state, SHAPE)
