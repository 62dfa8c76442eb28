"""What layers compute, guided gradients and class activation maps, in networks of any make."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn.state
from jaxcnn import models
from jaxcnn.analysis.activations import activations, layers
from jaxcnn.analysis.grad_cam import grad_cam, grad_cam_plus_plus, last_maps
from jaxcnn.analysis.guided import deconvnet, guided_backpropagation
from jaxcnn.errors import InputError

SHAPE, CLASSES = (9, 8, 3), 4
IMAGES = jax.random.uniform(jax.random.key(1), (5, *SHAPE))


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(6, (3, 3), name="conv")(x))


class Net(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = Inner(name="first")(images)
        x = Inner(name="second")(nn.max_pool(x, (2, 2), (2, 2)))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


NET = Net()
STATE = jaxcnn.state.create(NET, jax.random.key(0), SHAPE)


def test_layers_are_named_in_the_order_in_which_they_finish():
    assert layers(NET, STATE, SHAPE) == {
        "first/conv": (9, 8, 6),
        "first": (9, 8, 6),
        "second/conv": (4, 4, 6),
        "second": (4, 4, 6),
        "head": (4,),
    }


@pytest.mark.parametrize("chunk", [None, 2])
def test_activations_are_what_the_layer_computes(chunk):
    first = jax.nn.relu(nn.Conv(6, (3, 3)).apply({"params": STATE.params["first"]["conv"]}, IMAGES))
    np.testing.assert_allclose(activations(NET, STATE, IMAGES, "first", chunk=chunk), first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        activations(NET, STATE, IMAGES, "head", chunk=chunk), NET.apply(STATE.variables, IMAGES, train=False), rtol=1e-5
    )


@pytest.mark.slow
def test_blocks_that_are_scanned_have_their_own_names():
    model = models.create("cifar_resnet14", scan=True)
    state = jaxcnn.state.create(model, jax.random.key(0), (16, 16, 3))
    images = jax.random.uniform(jax.random.key(2), (1, 16, 16, 3))
    assert "stage3/block2/conv1" in layers(model, state, (16, 16, 3))
    assert activations(model, state, images, "stage3/block2").shape == (1, 4, 4, 64)
    plain = models.create("cifar_resnet14")
    for method in (guided_backpropagation, grad_cam):
        np.testing.assert_allclose(
            method(model, state, images, 1), method(plain, state, images, 1), rtol=1e-3, atol=1e-5
        )


def test_an_unknown_layer_is_named_with_the_nearest():
    with pytest.raises(InputError, match="unknown layer 'secnd'; did you mean second"):
        activations(NET, STATE, IMAGES, "secnd")
    with pytest.raises(InputError, match=r"layer head computes values of shape \(4,\); expected maps"):
        grad_cam(NET, STATE, IMAGES, layer="head")


def rectified(backward, x, weights):
    """One ReLU between two dense layers, backwards by hand."""
    z = x @ weights["one"]
    g = np.broadcast_to(weights["two"][:, 1], z.shape)
    return backward(z, g) @ weights["one"].T


@pytest.mark.parametrize(
    "form",
    [
        jax.nn.relu,
        lambda x: jnp.maximum(x, 0),
        lambda x: jnp.maximum(0.0, x),
        jax.jit(nn.relu),
        lambda x: jnp.maximum(x, jnp.zeros_like(x)),
        lambda x: jnp.clip(x, 0),
    ],
)
@pytest.mark.parametrize(
    ("method", "backward"),
    [
        (guided_backpropagation, lambda z, g: np.where((z > 0) & (g > 0), g, 0)),
        (deconvnet, lambda z, g: np.maximum(g, 0)),
    ],
)
def test_a_relu_is_found_however_it_is_written(form, method, backward):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            del train
            x = form(nn.Dense(9, use_bias=False, name="one")(images.reshape(len(images), -1)))
            return nn.Dense(CLASSES, use_bias=False, name="two")(x)

    model = Two()
    state = jaxcnn.state.create(model, jax.random.key(3), SHAPE)
    weights = {name: np.asarray(state.params[name]["kernel"]) for name in ("one", "two")}
    # Both signs on either side of the ReLU, which a picture of positive values alone does not give.
    expected = rectified(backward, np.asarray(IMAGES).reshape(5, -1), weights).reshape(IMAGES.shape)
    np.testing.assert_allclose(method(model, state, IMAGES, 1), expected, rtol=1e-4, atol=1e-5)


class Between(nn.Module):
    """A function between two dense layers, maybe after a normalisation."""

    form: Callable[[jax.Array], jax.Array]
    normalised: bool = False

    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = nn.Dense(9, use_bias=False, name="one")(images.reshape(len(images), -1))
        x = nn.LayerNorm(name="norm")(x) if self.normalised else x
        return nn.Dense(CLASSES, use_bias=False, name="two")(self.form(x))


@pytest.mark.parametrize(
    "form", [jnp.tanh, nn.softplus, lambda x: jnp.clip(x, 0.1), lambda x: jnp.maximum(x, jnp.ones_like(x))]
)
def test_what_is_no_relu_is_not_taken_for_one(form):
    model = Between(form, normalised=True)
    with pytest.raises(InputError, match="Between has no ReLU"):
        guided_backpropagation(model, jaxcnn.state.create(model, jax.random.key(3), SHAPE), IMAGES, 1)


def test_a_clip_at_zero_is_told_from_another_that_is_traced_alike():
    model = Between(lambda x: jnp.clip(jnp.clip(x, 0), 0.2))
    state = jaxcnn.state.create(model, jax.random.key(3), SHAPE)
    weights = {name: np.asarray(state.params[name]["kernel"]) for name in ("one", "two")}

    def backward(z, g):
        g = np.where(z > 0.2, g, 0)
        return np.where((z > 0) & (g > 0), g, 0)

    expected = rectified(backward, np.asarray(IMAGES).reshape(5, -1), weights).reshape(IMAGES.shape)
    np.testing.assert_allclose(guided_backpropagation(model, state, IMAGES, 1), expected, rtol=1e-4, atol=1e-5)


@jax.custom_vjp
def rounded(x):
    """Straight through backwards."""
    return jnp.round(4 * x) / 4


rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (g,))


def test_a_function_with_a_derivative_of_its_own_keeps_it():
    model = Between(lambda x: rounded(nn.relu(x)))
    state = jaxcnn.state.create(model, jax.random.key(3), SHAPE)
    weights = {name: np.asarray(state.params[name]["kernel"]) for name in ("one", "two")}
    for method, backward in (
        (guided_backpropagation, lambda z, g: np.where((z > 0) & (g > 0), g, 0)),
        (deconvnet, lambda z, g: np.maximum(g, 0)),
    ):
        expected = rectified(backward, np.asarray(IMAGES).reshape(5, -1), weights).reshape(IMAGES.shape)
        np.testing.assert_allclose(method(model, state, IMAGES, 1), expected, rtol=1e-4, atol=1e-5)


def test_class_activation_maps_are_what_the_equations_say():
    maps = np.asarray(activations(NET, STATE, IMAGES, "second"), np.float64)
    column = np.asarray(STATE.params["head"]["kernel"], np.float64)[:, 2]
    slope = np.broadcast_to(column / 16, maps.shape)  # the head averages 4x4 positions
    plain = np.maximum((maps * slope.mean((1, 2), keepdims=True)).sum(-1), 0)
    share = slope**2 / (2 * slope**2 + maps.sum((1, 2), keepdims=True) * slope**3)
    spread = np.maximum((maps * (share * np.maximum(slope, 0)).sum((1, 2), keepdims=True)).sum(-1), 0)
    for method, expected in ((grad_cam, plain), (grad_cam_plus_plus, spread)):
        enlarged = jax.image.resize(expected, (5, *SHAPE[:2]), "bilinear")
        np.testing.assert_allclose(method(NET, STATE, IMAGES, 2), enlarged, rtol=1e-4, atol=1e-6)


def test_the_maps_of_the_last_layer_with_parameters_are_taken():
    assert last_maps(NET, STATE, SHAPE) == "second"
    for name, expected in {"cifar_resnet8": "stage3", "lenet5": "c3"}.items():
        model = models.create(name)
        shape = models.facts(name).input_shape
        assert (
            last_maps(
                model, jax.eval_shape(lambda m=model, s=shape: jaxcnn.state.create(m, jax.random.key(0), s)), shape
            )
            == expected
        )
