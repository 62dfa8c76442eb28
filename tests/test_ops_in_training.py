"""LeNet-5 trained through the operations written by hand ends at the parameters of the fast layers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.data.pipeline import Batch
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.pooling import AveragePool, MaxPool
from jaxcnn.ops.activation import relu, tanh
from jaxcnn.ops.convolution import convolution, convolution_im2col
from jaxcnn.ops.dense import dense
from jaxcnn.ops.loss import softmax_cross_entropy
from jaxcnn.ops.op import Op
from jaxcnn.ops.pooling import average_pool, max_pool
from jaxcnn.train import losses as losses_by_name
from jaxcnn.train import step as steps
from jaxcnn.train.parallel import map_train_step, replicate

BATCHES, BATCH = 56, 32


def batches() -> list[Batch]:
    """Bundled digits, four times their size: uint8 [1, 32, 32, 32, 1], with a leading device dimension of one."""
    digits = load_digits()
    images = np.kron(digits.images, np.ones((1, 4, 4)))[..., None] * 255 / 16
    order = np.random.default_rng(0).permutation(len(images))[: BATCHES * BATCH].reshape(BATCHES, 1, BATCH)
    mask = jnp.ones((1, BATCH), bool)
    return [Batch(jnp.asarray(images[i], jnp.uint8), jnp.asarray(digits.target[i], jnp.int32), mask) for i in order]


def train(model: nn.Module, data: list[Batch]) -> tuple[Any, list[float], list[float]]:
    """Parameters, losses and accuracies of the project's own training step, on one device."""
    devices = jax.local_devices()[:1]
    optimizer = optax.sgd(0.05, momentum=0.9)
    state = replicate(states.create(model, jax.random.key(0), (32, 32, 1), optimizer), devices)
    step = map_train_step(steps.make_train_step(model.clone(axis_name=steps.AXIS), optimizer), devices)
    losses, accuracies = [], []
    for batch in data:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        accuracies.append(float(metrics["top1"]))
    return state.params, losses, accuracies


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "pooling", "convolve"),
    [("tanh", "average", convolution), ("relu", "max", convolution_im2col)],
    ids=["tanh, average pooling, loops", "relu, max pooling, im2col"],
)
def test_lenet_trains_to_the_same_parameters(activation, pooling, convolve, monkeypatch):
    swapped = Counter()

    def by_hand(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module, (x, *_) = context.module, args
        weights = module.variables.get("params", {}) if module.scope is not None else {}
        operations = {
            Conv: lambda: convolve(x, weights["kernel"], padding=module.padding) + weights["bias"].reshape(1, 1, 1, -1),
            nn.Dense: lambda: dense(x, weights["kernel"], weights["bias"]),
            AveragePool: lambda: average_pool(x, window=module.window),
            MaxPool: lambda: max_pool(x, window=module.window),
        }
        if module.is_initializing() or type(module) not in operations:
            return call(*args, **kwargs)
        swapped[type(module).__name__] += 1
        return operations[type(module)]()

    data = batches()
    options = {"num_classes": 10, "pooling": pooling}
    fast, losses, accuracies = train(models.create("lenet5", activation=activation, **options), data)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        swapped["loss"] += 1
        return jnp.full(labels.shape, softmax_cross_entropy(logits, labels))  # of which the step takes the mean

    monkeypatch.setattr(losses_by_name, "cross_entropy", loss)
    function = {"tanh": tanh, "relu": relu}[activation]
    assert isinstance(function, Op)
    with nn.intercept_methods(by_hand):
        hand, hand_losses, _ = train(models.create("lenet5", activation=function, **options), data)

    # Everything that has parameters, both poolings and the loss were really replaced, and the network really learned.
    assert set(swapped) == {"Conv", "Dense", "loss", "AveragePool" if pooling == "average" else "MaxPool"}
    assert swapped["Conv"] >= 3
    assert np.mean(accuracies[-10:]) > 0.8
    assert losses[0] > 3 * np.mean(losses[-10:])

    np.testing.assert_allclose(hand_losses, losses, rtol=1e-3, atol=1e-3)
    for path, expected in jax.tree.leaves_with_path(fast):
        found = hand
        for key in path:
            found = found[key.key]
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max(), err_msg=str(path))
