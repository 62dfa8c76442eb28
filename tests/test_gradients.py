"""Gradients by layer and by path against the chain rule written out, and against networks whose paths are products."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from test_lesion import ALL, IMAGES, RESNET, SHAPE, by_hand, gate, insides, resnet, trained

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import gradients
from jaxcnn.analysis.activations import watched
from jaxcnn.errors import InputError, RunError
from jaxcnn.layers.convolution import Conv
from jaxcnn.models.wide_resnet import WideResNet

KEY = jax.random.key(0)
LABELS = np.array([0, 2, 1, 2, 0, 1])

DERIVATIVES = {
    "sigmoid": lambda z: scipy.special.expit(z) * (1 - scipy.special.expit(z)),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "relu": lambda z: (z > 0).astype(float),
}


@pytest.mark.parametrize("activation", DERIVATIVES)
def test_the_gradient_at_every_layer_follows_the_chain_rule(activation):
    model = models.create("mlp", num_classes=3, width=6, depth=3, activation=activation)
    state = states.create(model, KEY, SHAPE)
    found = gradients.flow(model, state, IMAGES, LABELS, chunk=4)
    names = ("hidden1", "hidden2", "hidden3", "head")
    assert found.layers == names

    function = {"sigmoid": scipy.special.expit, "tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[activation]
    weights = [np.asarray(state.params[name]["kernel"], np.float64) for name in names]
    h, z = np.asarray(IMAGES, np.float64).reshape(6, -1), []
    for weight in weights:  # biases begin at zero
        z.append(h @ weight)
        h = function(z[-1])
    delta = scipy.special.softmax(z[-1], -1) - np.eye(3)[LABELS]
    expected = [delta]
    for weight, before in zip(weights[:0:-1], z[-2::-1], strict=True):
        delta = delta @ weight.T * DERIVATIVES[activation](before)
        expected.insert(0, delta)
    np.testing.assert_allclose(found.norms, [np.linalg.norm(d, axis=-1) for d in expected], rtol=1e-4, atol=1e-7)


def test_the_gradient_vanishes_in_deep_sigmoid_networks():
    falls = {}
    for activation in ("sigmoid", "relu"):
        model = models.create("mlp", num_classes=3, width=16, depth=8, activation=activation)
        norms = gradients.flow(model, states.create(model, KEY, SHAPE), IMAGES, LABELS).norms.mean(1)
        falls[activation] = norms[0] / norms[-1]
    assert falls["sigmoid"] < 1e-4
    assert falls["relu"] > 1e-2


@pytest.mark.slow
def test_layers_are_those_with_kernels_and_each_image_has_its_own_gradient():
    found = gradients.flow(RESNET, resnet(), IMAGES[:2], LABELS[:2])
    assert found.layers[:3] == ("stem", "stage1/block1/conv1", "stage1/block1/conv2")
    assert len(found.layers) == 14
    alone = gradients.flow(RESNET, resnet(), IMAGES[:1], LABELS[:1])
    np.testing.assert_allclose(alone.norms[:, 0], found.norms[:, 0], rtol=1e-3)


# ---- paths


class Block(nn.Module):
    """x + w x."""

    weight: float

    @nn.compact
    def __call__(self, x):
        def kernel(key, shape, dtype):
            return self.weight * jnp.eye(shape[-1]).reshape(shape)

        return x + Conv(x.shape[-1], 1, use_bias=False, kernel_init=kernel, name="conv1")(x)


class Stage(nn.Module):
    weights: tuple[float, ...]

    @nn.compact
    def __call__(self, x):
        for i, weight in enumerate(self.weights, start=1):
            x = Block(weight, name=f"block{i}")(x)
        return x


WEIGHTS = (0.5, 2.0, 0.25, 1.5)


class Products(nn.Module):
    """A linear residual network, of which each path multiplies the gradient by the weights of its branches."""

    @nn.compact
    def __call__(self, images, *, train):
        x = Stage(WEIGHTS[2:], name="stage2")(Stage(WEIGHTS[:2], name="stage1")(images))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


@pytest.mark.slow
def test_the_gradient_along_a_path_is_the_product_of_its_branches():
    model = Products()
    state = states.create(model, KEY, SHAPE)
    found = gradients.paths(model, state, IMAGES, LABELS, 40, KEY, chunk=4)
    assert [block.name for block in found.blocks] == [f"stage{s}/block{b}" for s in (1, 2) for b in (1, 2)]
    assert found.lengths.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(found.kept.sum(-1), np.broadcast_to(np.arange(5)[:, None], (5, 40)))
    whole = jax.grad(lambda x: loss(model.apply(state.variables, x, train=False), LABELS))(IMAGES)
    size = float(jnp.sqrt(jnp.square(whole).sum((1, 2, 3))).mean()) / np.prod([1 + w for w in WEIGHTS])
    products = np.where(found.kept, WEIGHTS, 1).prod(-1)
    np.testing.assert_allclose(found.norms, size * products, rtol=1e-4)

    # Every path was drawn, and all of them together are the product of 1 + w.
    known = {tuple(path): norm for path, norm in zip(found.kept.reshape(-1, 4), found.norms.ravel(), strict=True)}
    assert len(known) == 2**4
    np.testing.assert_allclose(sum(known.values()), size * np.prod([1 + w for w in WEIGHTS]), rtol=1e-4)

    np.testing.assert_allclose(found.shares, np.array([1, 4, 6, 4, 1]) / 16)
    brought = found.shares * found.norms.mean(1)
    np.testing.assert_allclose(found.contributions, brought / brought.sum())


def loss(logits, labels):
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).sum()


@pytest.mark.slow
def test_a_path_through_a_trained_kind_of_network_is_that_of_the_forward_pass_by_hand():
    found = gradients.paths(RESNET, resnet(), IMAGES, LABELS, 2, KEY, lengths=(0, 3, 6))

    @jax.jit
    def along(kept):
        def score(images):
            return loss(by_hand(resnet().variables, insides(resnet()), images, ALL, kept, 1 - kept), LABELS)

        return jnp.sqrt(jnp.square(jax.grad(score)(IMAGES)).sum((1, 2, 3))).mean()

    for row, kept in zip(found.norms, found.kept, strict=True):
        for norm, path in zip(row, kept, strict=True):
            np.testing.assert_allclose(norm, along(path.astype(np.float32)), rtol=1e-3)
    assert len(np.unique(found.norms.round(6))) >= 3


@pytest.mark.slow
def test_where_branch_and_shortcut_share_a_batch_norm_they_are_told_apart():
    model = WideResNet(depth=10, widening=1, num_classes=3)
    state = trained(model)
    found = gradients.paths(model, state, IMAGES, LABELS, 6, KEY, lengths=(0, 1))

    @jax.jit
    def through(passes):
        """The gradient past all branches, and through those that let it pass as well."""
        ends = {f"stage{i + 1}/block1/conv2": share for i, share in enumerate(passes)}

        def score(images):
            return loss(watched(model, lambda name, y: gate(y, ends.get(name, 1)), state.variables, images), LABELS)

        return jax.grad(score)(IMAGES)

    past = through(np.zeros(3, np.float32))
    size = lambda gradient: float(jnp.sqrt(jnp.square(gradient).sum((1, 2, 3))).mean())  # noqa: E731
    np.testing.assert_allclose(found.norms[0], size(past), rtol=1e-3)
    one = [size(through(kept) - past) for kept in np.eye(3, dtype=np.float32)]
    np.testing.assert_allclose(found.norms[1], [one[int(kept.argmax())] for kept in found.kept[1]], rtol=1e-2)
    assert found.kept[1].any(0).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"repeats": 0}, "repeats is 0"),
        ({"lengths": (5,)}, r"lengths are \(5,\); expected whole numbers from 0 to 4"),
        ({"lengths": (-1,)}, r"lengths are \(-1,\)"),
        ({"lengths": ()}, r"lengths are \(\)"),
        ({"lengths": (2, 1, 2)}, r"lengths are \(2, 1, 2\); expected .*, each once"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, says):
    model = Products()
    state = states.create(model, KEY, SHAPE)
    with pytest.raises(InputError, match=says):
        gradients.paths(model, state, IMAGES, LABELS, **{"repeats": 1, "key": KEY} | arguments)


def test_images_labels_and_networks_are_checked():
    model = models.create("mlp", num_classes=3, width=4, depth=1)
    state = states.create(model, KEY, SHAPE)
    with pytest.raises(InputError, match="MLP has no residual blocks called stage1/block1"):
        gradients.paths(model, state, IMAGES, LABELS, 1, KEY)
    with pytest.raises(InputError, match=r"targets hold class 3; expected classes in \[0, 3\)"):
        gradients.flow(model, state, IMAGES, LABELS + 1)
    with pytest.raises(InputError, match="images hold values from"):
        gradients.flow(model, state, 2 * IMAGES, LABELS)
    broken = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    with pytest.raises(RunError, match="a gradient is not finite"):
        gradients.flow(model, broken, IMAGES, LABELS)
