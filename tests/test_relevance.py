"""Relevance propagation against captum and NumPy's sums, and its conservation through additions, gates and tanh."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn.state
from jaxcnn import models
from jaxcnn.analysis.relevance import lrp
from jaxcnn.analysis.saliency import gradient_x_input
from jaxcnn.errors import InputError

SHAPE, CLASSES = (10, 10, 3), 5
IMAGES = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
TARGETS = np.array([3, 1])


class Chain(nn.Module):
    """Convolution, ReLU, pooling, convolution, ReLU, dense layer."""

    bias: bool = False

    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = nn.relu(nn.Conv(6, (3, 3), padding="VALID", use_bias=self.bias, name="one")(images))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(8, (3, 3), padding="VALID", use_bias=self.bias, name="two")(x))
        return nn.Dense(CLASSES, use_bias=self.bias, name="head")(x.reshape(len(x), -1))


class Mixed(nn.Module):
    """A shortcut, a gate, a normalisation by other channels, concatenation and tanh; nothing is added to anything."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = nn.relu(nn.Conv(6, (3, 3), use_bias=False, name="stem")(images))
        x = x + nn.tanh(nn.Conv(6, (3, 3), use_bias=False, name="branch")(x))
        x = x / jnp.sqrt(1 + jnp.square(x).sum(-1, keepdims=True))
        x = x * nn.sigmoid(nn.Conv(6, (1, 1), use_bias=False, name="gate")(x))
        x = jnp.concatenate([x, 0 - x[:, :, ::-1]], axis=-1)
        x = nn.leaky_relu(nn.avg_pool(x, (2, 2), (2, 2)))
        return nn.Dense(CLASSES, use_bias=False, name="head")(x.reshape(len(x), -1))


class Squared(nn.Module):
    """The product of two activations, neither of which only scales the other."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = nn.Dense(CLASSES, name="a")(images.reshape(len(images), -1))
        return x * nn.Dense(CLASSES, name="b")(images.reshape(len(images), -1))


def made(model, shape=SHAPE):
    return jaxcnn.state.create(model, jax.random.key(0), shape)


def close(one, other, tolerance=1e-5):
    assert np.abs(np.asarray(one) - np.asarray(other)).max() <= tolerance * np.abs(np.asarray(other)).max()


def logits(model, state, images, targets):
    return np.asarray(model.apply(state.variables, images, train=False))[range(len(targets)), targets]


@pytest.mark.slow
@pytest.mark.parametrize("model", [Chain(), Mixed()])
@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_without_biases_the_relevance_adds_up_to_the_score(model, gamma):
    state = made(model)
    found = lrp(model, state, IMAGES, TARGETS, epsilon=0.0, gamma=gamma)
    np.testing.assert_allclose(found.sum((1, 2, 3)), logits(model, state, IMAGES, TARGETS), rtol=2e-3, atol=1e-4)


def test_with_relus_and_gamma_zero_it_is_the_gradient_times_the_pixel():
    model = Chain(bias=True)
    state = made(model)
    close(lrp(model, state, IMAGES, TARGETS, epsilon=1e-9), gradient_x_input(model, state, IMAGES, TARGETS))


def test_gamma_counts_what_speaks_for_a_unit_more_as_captum_does(torch, captum):
    rules = __import__("captum.attr._utils.lrp_rules", fromlist=["GammaRule"])

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Conv2d(3, 6, 3, bias=False)
            self.two = torch.nn.Conv2d(6, 8, 3, bias=False)
            self.head = torch.nn.Linear(32, CLASSES, bias=False)
            self.first, self.second, self.pool = torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.MaxPool2d(2)

        def forward(self, x):
            x = self.second(self.two(self.pool(self.first(self.one(x)))))
            return self.head(x.permute(0, 2, 3, 1).flatten(1))

    net, model = Net(), Chain()
    state = made(model)
    for name in ("one", "two", "head"):
        kernel = torch.tensor(np.array(state.params[name]["kernel"]))
        layer = getattr(net, name)
        layer.weight.data = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        layer.rule = rules.GammaRule(gamma=0.25)
    images = torch.tensor(np.array(IMAGES)).permute(0, 3, 1, 2).requires_grad_()
    theirs = captum.LRP(net).attribute(images, target=torch.tensor(TARGETS)).detach().permute(0, 2, 3, 1).numpy()
    close(lrp(model, state, IMAGES, TARGETS, epsilon=1e-9, gamma=0.25), theirs, 1e-4)


@pytest.mark.parametrize(("epsilon", "gamma"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.5)])
def test_of_two_layers_it_is_what_the_sums_say(epsilon, gamma):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            del train
            x = nn.relu(nn.Dense(7, name="one")(images.reshape(len(images), -1)))
            return nn.Dense(CLASSES, name="two")(x)

    def back(a, layer, relevance):
        z = a[:, :, None] * layer["kernel"][None]
        z, bias = z + gamma * np.maximum(z, 0), layer["bias"] + gamma * np.maximum(layer["bias"], 0)
        total = z.sum(1) + bias
        total = total + np.where(total < 0, -epsilon, epsilon)
        return (z * (relevance / total)[:, None]).sum(2)

    model, shape = Two(), (2, 3, 1)
    state = made(model, shape)
    noise = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * noise(leaf.shape).astype(np.float32), state.params)
    images = np.random.default_rng(1).random((2, *shape), np.float32)
    a = np.maximum(images.reshape(2, -1) @ params["one"]["kernel"] + params["one"]["bias"], 0)
    z = a @ params["two"]["kernel"] + params["two"]["bias"]
    relevance = back(a, params["two"], z * np.eye(CLASSES)[TARGETS])
    expected = back(images.reshape(2, -1), params["one"], relevance).reshape(images.shape)
    found = lrp(model, state.replace(params=params), images, TARGETS, epsilon=epsilon, gamma=gamma)
    close(found, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "alexnet_2012",
        "cifar_resnet8",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v2", "densenet40_12")),
    ],
)
def test_the_networks_of_the_zoo_have_rules(name):
    # Normalisation across channels, depthwise convolutions, shortcuts padded with zeros, concatenation.
    size = {"alexnet_2012": 67}.get(name, 32)
    model = models.create(name, num_classes=4)
    state = made(model, (size, size, 3))
    images = jax.random.uniform(jax.random.key(3), (1, size, size, 3))
    found = lrp(model, state, images, 2, epsilon=0.0)  # random networks have logits as small as 1e-11
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


class Halves(nn.Module):
    """Half of the channels gates the other half, after an exact GELU."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = nn.gelu(nn.Dense(6, use_bias=False, name="stem")(images.mean((1, 2))), approximate=False)
        one, other = jnp.split(x, 2, axis=-1)
        return nn.Dense(CLASSES, use_bias=False, name="head")(one * nn.sigmoid(other))


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_through_split_and_exact_gelu_the_relevance_adds_up_to_the_score(gamma):
    state = made(Halves())
    found = lrp(Halves(), state, IMAGES, TARGETS, epsilon=0.0, gamma=gamma)
    np.testing.assert_allclose(found.sum((1, 2, 3)), logits(Halves(), state, IMAGES, TARGETS), rtol=2e-3, atol=1e-5)


class SelfGated(nn.Module):
    """Activations that are products of a unit with a function of itself."""

    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = self.activation(nn.Dense(6, use_bias=False, name="stem")(images.mean((1, 2))))
        return nn.Dense(CLASSES, use_bias=False, name="head")(x)


@pytest.mark.parametrize(
    "activation", [nn.gelu, nn.hard_swish, nn.silu, nn.soft_sign, lambda x: x * jnp.tanh(nn.softplus(x))]
)
@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_a_unit_that_scales_itself_hands_all_on(activation, gamma):
    model = SelfGated(activation)
    state = made(model)
    found = lrp(model, state, IMAGES, TARGETS, epsilon=0.0, gamma=gamma)
    np.testing.assert_allclose(found.sum((1, 2, 3)), logits(model, state, IMAGES, TARGETS), rtol=2e-3, atol=1e-5)


def test_what_has_no_rule_is_refused_by_name():
    with pytest.raises(InputError, match="no rule for mul of two activations; expected one of them to be a gate"):
        lrp(Squared(), made(Squared()), IMAGES, TARGETS)


@pytest.mark.parametrize("options", [{"epsilon": -1.0}, {"gamma": -0.1}, {"gamma": float("nan")}])
def test_negative_numbers_are_refused(options):
    with pytest.raises(InputError, match="expected numbers of at least 0"):
        lrp(Chain(), made(Chain()), IMAGES, TARGETS, **options)
