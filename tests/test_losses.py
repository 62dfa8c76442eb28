"""Losses and penalties against SciPy, PyTorch and the hand-written ones, at logits that overflow naive code too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.config import LossConfig, LossName
from jaxcnn.ops import loss as by_hand
from jaxcnn.train import losses
from jaxcnn.train.losses import cross_entropy

NAMES = LossName.__args__


def drawn(shape, k, seed=0):
    """Logits [*shape, k] and labels, of examples or of their pixels."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((*shape, k))).astype(np.float32)
    return jnp.array(logits), jnp.array(rng.integers(0, k, shape), jnp.int32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 6]), st.sampled_from([2, 9]), st.sampled_from([1.0, 30.0, 1e4]))
@settings(deadline=None, max_examples=4)
def test_cross_entropy_equals_scipy_and_is_stable(seed, n, k, scale):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((n, k))).astype(np.float32)
    labels = rng.integers(0, k, n).astype(np.int32)
    expected = -scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(n), labels]
    np.testing.assert_allclose(cross_entropy(jnp.array(logits), jnp.array(labels)), expected, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda z: cross_entropy(z, jnp.array(labels)).sum())(jnp.array(logits))
    one_hot = np.eye(k)[labels]
    expected = scipy.special.softmax(logits.astype(np.float64), axis=1) - one_hot
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_equal_pytorch_s(name, smoothing, torch):
    logits, labels = drawn((4,), 5)
    config = LossConfig(name, smoothing)
    value, gradient = jax.value_and_grad(lambda z: losses.loss(config, z, labels).mean())(logits)

    z = torch.tensor(np.asarray(logits), requires_grad=True)
    y = torch.tensor(np.asarray(labels)).long()
    t = torch.nn.functional.one_hot(y, 5) * (1 - smoothing) + smoothing / 5
    expected = {
        "cross_entropy": lambda: torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(z, y),
        "binary_cross_entropy": lambda: torch.nn.BCEWithLogitsLoss(reduction="sum")(z, t) / 4,
        "mse": lambda: torch.nn.MSELoss(reduction="sum")(z, t) / 4,
        "mae": lambda: torch.nn.L1Loss(reduction="sum")(z, t) / 4,
    }[name]()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_the_hand_written_ones(name):
    logits, labels = drawn((6,), 5)
    op, truth = {
        "cross_entropy": (by_hand.softmax_cross_entropy, labels),
        "binary_cross_entropy": (by_hand.sigmoid_binary_cross_entropy, losses.targets(labels, 5)),
        "mse": (by_hand.mean_squared_error, losses.targets(labels, 5)),
        "mae": (by_hand.mean_absolute_error, losses.targets(labels, 5)),
    }[name]
    np.testing.assert_allclose(losses.loss(LossConfig(name), logits, labels).mean(), op(logits, truth), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_examples(name):
    config = LossConfig(name, 0.1)
    logits, labels = drawn((2, 3, 4), 5)
    expected = losses.loss(config, logits.reshape(24, 5), labels.reshape(24))
    np.testing.assert_allclose(losses.loss(config, logits, labels), expected.reshape(2, 3, 4), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_are_labels_and_mixtures_are_mixed(name, smoothing):
    config = LossConfig(name, smoothing)
    logits, labels = drawn((4,), 5)
    one, other = losses.targets(labels, 5), losses.targets(4 - labels, 5)
    of_labels, of_others = losses.loss(config, logits, labels), losses.loss(config, logits, 4 - labels)
    np.testing.assert_allclose(losses.loss(config, logits, one), of_labels, rtol=1e-5)
    if name in ("cross_entropy", "binary_cross_entropy"):  # linear in the targets
        mixed = losses.loss(config, logits, 0.3 * one + 0.7 * other)
        np.testing.assert_allclose(mixed, 0.3 * of_labels + 0.7 * of_others, rtol=1e-5)


def test_without_smoothing_labels_take_the_very_arithmetic_of_cross_entropy():
    logits, labels = drawn((64,), 10)
    np.testing.assert_array_equal(losses.loss(LossConfig(), logits, labels), cross_entropy(logits, labels))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_exact_at_logits_of_ten_thousand(name):
    z = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    labels = jnp.array([0, 0])
    expected = {
        "cross_entropy": [0, 2e4],
        "binary_cross_entropy": [np.log(2), 2e4 + np.log(2)],
        "mse": [(1e4 - 1) ** 2 + 1e8, (1e4 + 1) ** 2 + 1e8],
        "mae": [2e4 - 1, 2e4 + 1],
    }[name]
    for truth in (labels, losses.targets(labels, 3)):
        value, gradient = jax.value_and_grad(lambda z, t=truth: losses.loss(LossConfig(name), z, t).sum())(z)
        np.testing.assert_allclose(losses.loss(LossConfig(name), z, truth), expected, rtol=1e-6)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


@given(st.sampled_from([2, 10]), st.sampled_from([0.0, 0.05, 0.1, 0.99]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_smoothed_targets_are_probabilities_of_which_the_label_has_most(k, smoothing, seed):
    labels = np.random.default_rng(seed).integers(0, k, 3).astype(np.int32)
    targets = np.asarray(losses.targets(jnp.array(labels), k, smoothing))
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(targets.argmax(-1), labels)
    np.testing.assert_allclose(targets.min(-1), smoothing / k, rtol=1e-5)


def test_the_l1_penalty_is_the_sum_of_absolute_kernels():
    params = {"a": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([7.0])}, "norm": {"scale": jnp.array([9.0])}}
    value, gradient = jax.value_and_grad(losses.l1_penalty)(params, 0.5)
    assert float(value) == 1.5
    np.testing.assert_array_equal(gradient["a"]["kernel"], [[0.5, -0.5]])
    np.testing.assert_array_equal(gradient["a"]["bias"], [0])
    np.testing.assert_array_equal(gradient["norm"]["scale"], [0])
    assert float(losses.l1_penalty({"norm": {"scale": jnp.ones(2)}}, 1.0)) == 0
