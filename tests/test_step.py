"""The mapped steps and the evaluation against closed forms and SciPy."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.config import DataConfig, OptimizerConfig
from jaxcnn.data import ArraySource, pipeline
from jaxcnn.train import optimizers
from jaxcnn.train.evaluate import Evaluator
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.samples import Samples
from jaxcnn.train.step import AXIS, hits, make_train_step


def test_hits_count_the_label_among_the_largest():
    logits = jnp.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0], [jnp.nan] * 4])
    labels = jnp.array([0, 1, 0, 0])
    assert hits(logits, labels, 1).tolist() == [True, False, False, False]
    assert hits(logits, labels, 3).tolist() == [True, True, False, False]
    assert hits(logits, labels, 5).tolist() == [True, True, True, False]


# ---- the mapped step


def images_and_labels(n: int, classes: int = 5) -> ArraySource:
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(classes)))
    return ArraySource(
        rng.integers(0, 256, (n, 16, 16, 3), np.uint8), rng.integers(0, classes, n).astype(np.int32), names
    )


def steps_on(count: int, steps: int = 3):
    devices = jax.devices()[:count]
    model = models.create("cifar_resnet8", num_classes=5, axis_name=AXIS, activation="tanh")
    optimizer = optimizers.create(
        OptimizerConfig(learning_rate=0.05, weight_decay=1e-3), total_steps=9, steps_per_epoch=9
    )
    state = replicate(states.create(model, jax.random.key(0), (16, 16, 3), optimizer), devices)
    traced, one_step = [], make_train_step(model, optimizer)
    step = map_train_step(lambda *arguments: traced.append(1) or one_step(*arguments), devices)
    batches = pipeline.training(
        images_and_labels(32), DataConfig(batch_size=16), seed=0, start_step=0, stop_step=steps, devices=devices
    )
    seen = []
    for batch in batches:
        state, metrics = step(state, batch)
        seen.append({name: float(value) for name, value in metrics.items()})
    assert len(traced) == 1, "the step was traced again"
    return jax.tree.map(np.asarray, (state.params, state.batch_stats, state.opt_state)), seen


@pytest.fixture(scope="module")
def on_one_device():
    return steps_on(1)


def test_eight_devices_give_the_parameters_of_one(on_one_device):
    (expected, metrics), (got, other) = on_one_device, steps_on(8)
    for a, b in zip(metrics, other, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)
    for one, many in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        assert np.linalg.norm(many - one) <= 1e-5 * np.linalg.norm(one) + 1e-7


def test_the_step_is_the_gradient_step_of_the_mean_loss(on_one_device):
    """One step of plain descent against autodiff of the loss written out, on one device."""
    model = models.create("lenet5", num_classes=5, axis_name=AXIS, activation="relu")
    optimizer = optax.sgd(0.1)
    source = ArraySource(
        np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8),
        np.arange(8, dtype=np.int32) % 5,
        tuple("abcde"),
    )
    devices = jax.devices()[:2]
    state = states.create(model, jax.random.key(0), (28, 28, 1), optimizer)
    batch = next(
        pipeline.training(source, DataConfig(batch_size=8), seed=0, start_step=0, stop_step=1, devices=devices)
    )
    images = np.asarray(batch.images).reshape(8, 28, 28, 1).astype(np.float32) / 255
    labels = np.asarray(batch.labels).reshape(8)

    def loss(params):
        logits = model.clone(axis_name=None).apply({"params": params}, images, train=True)
        return -jax.nn.log_softmax(logits)[np.arange(8), labels].mean()

    before, gradient = jax.value_and_grad(loss)(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    after, metrics = map_train_step(make_train_step(model, optimizer), devices)(replicate(state, devices), batch)
    assert int(after.step) == 1
    assert float(metrics["loss"]) == pytest.approx(float(before), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, expected)


# ---- evaluation


@pytest.mark.parametrize(
    ("n", "batch_size", "count"), [(7, 8, 8), (16, 8, 2), (37, 16, 8), (1, 8, 1), (50, 64, 4), (37, 16, 3)]
)
def test_evaluation_is_exact_for_any_split_size(n, batch_size, count):
    source = images_and_labels(n, classes=7)
    model = models.create("mlp", num_classes=7, width=8)
    state = states.create(model, jax.random.key(0), (16, 16, 3))
    evaluator = Evaluator(model, source, DataConfig(batch_size=batch_size), jax.devices()[:count])
    scores, (logits, labels) = evaluator(state), evaluator.predict(state)
    np.testing.assert_array_equal(labels, source.labels)
    expected = np.asarray(model.apply(state.variables, source.images.astype(np.float32) / 255, train=False))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    order = np.argsort(-expected, axis=1)
    assert scores.examples == n
    assert scores.top1 == np.mean(order[:, 0] == source.labels)
    assert scores.top5 == np.mean((order[:, :5] == source.labels[:, None]).any(axis=1))
    losses = -scipy.special.log_softmax(expected, axis=1)[np.arange(n), source.labels]
    assert scores.loss == pytest.approx(losses.mean(), rel=1e-5)
    samples = Samples(source, evaluator.batch_size, jax.devices()[:count], count=5)
    assert dataclasses.asdict(evaluator(state, samples.see)) == dataclasses.asdict(scores)
    shown = np.unique(np.linspace(0, n - 1, 5).astype(int))
    np.testing.assert_array_equal(samples.images, source.images[shown])
    np.testing.assert_array_equal(samples.labels, labels[shown])
    np.testing.assert_allclose(samples.probabilities, scipy.special.softmax(logits, axis=1)[shown], rtol=1e-5)


def test_a_process_whose_share_of_a_small_split_is_padding_shows_the_first_image(unchecked):
    source = images_and_labels(5, classes=7)
    devices: Any = [SimpleNamespace(process_index=index) for index in (1, 0)]
    samples = Samples(source, 16, devices)
    np.testing.assert_array_equal(samples.images, source.images[:1])
    samples.see(0, jax.numpy.asarray(np.eye(7, dtype=np.float32)[None, [3] * 8]))
    assert samples.probabilities.argmax() == 3
