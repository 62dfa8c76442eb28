"""Every loss against other formulations, PyTorch and the training loss, and at logits that overflow naive code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_arrays_close
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxcnn.errors import InputError
from jaxcnn.ops.loss import (
    euclidean_loss,
    mean_absolute_error,
    mean_squared_error,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
)
from jaxcnn.train.losses import cross_entropy

# The losses of two arrays of one shape, beside formulations for autodiff that are only safe at small values.
PAIRED: dict[str, tuple[Any, Callable[..., jax.Array]]] = {
    "sigmoid binary cross-entropy": (
        sigmoid_binary_cross_entropy,
        lambda z, y: jnp.sum(y * jnp.log1p(jnp.exp(-z)) + (1 - y) * jnp.log1p(jnp.exp(z))) / z.shape[0],
    ),
    "mean squared error": (mean_squared_error, lambda p, y: jnp.vdot(p - y, p - y) / p.shape[0]),
    "mean absolute error": (
        mean_absolute_error,
        lambda p, y: jnp.sum(jnp.maximum(p, y) - jnp.minimum(p, y)) / p.shape[0],
    ),
    "Euclidean loss": (
        euclidean_loss,
        lambda p, y: jnp.mean(jnp.linalg.norm((p - y).reshape(-1, p.shape[-1]), axis=1)) / np.sqrt(2),
    ),
}

paired = pytest.mark.parametrize(("op", "other"), PAIRED.values(), ids=PAIRED)
precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-10)])
shapes = st.sampled_from([(5,), (1, 4), (4, 3), (2, 3, 1, 4)])


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def uniform(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape).astype(dtype)


def labels_of(shape: tuple[int, ...], classes: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, classes, shape).astype(np.int32)


@functools.cache
def compiled(function: Any, only: int | None) -> Any:
    @jax.jit
    def run(dloss, *arrays):
        def of(*first):
            return function(*first, *arrays[len(first) :])

        loss, vjp = jax.vjp(of, *arrays[:only])
        return loss, *vjp(dloss.astype(loss.dtype))

    return run


def loss_and_gradients(function: Any, *arrays: Any, dloss: float = 1.0, only: int | None = None) -> tuple[Any, ...]:
    """The loss, and dloss times its gradient to each array or to the first `only`; compiled once for each shape."""
    return compiled(function, only)(jnp.asarray(dloss), *map(jnp.asarray, arrays))


def in_torch(torch, function: Any, *arrays: np.ndarray) -> list[np.ndarray]:
    """The loss and its gradient to each floating-point array."""
    tensors = [torch.tensor(np.asarray(a), requires_grad=np.issubdtype(a.dtype, np.floating)) for a in arrays]
    loss = function(*tensors)
    loss.backward()
    return [t.detach().numpy() for t in (loss, *(t.grad for t in tensors if t.requires_grad))]


# Softmax cross-entropy


def cross_entropy_written_out(z, y):
    """The formula with a one-hot target, to be differentiated by autodiff."""
    probabilities = jnp.exp(z) / jnp.sum(jnp.exp(z), -1, keepdims=True)
    onehot = jnp.eye(z.shape[-1])[y]
    return -jnp.sum(onehot * jnp.log(probabilities)) / y.size


@precisions
@settings(deadline=None, max_examples=12)
@given(shape=shapes.filter(lambda shape: len(shape) > 1), dloss=st.sampled_from([1.0, -0.3]))
def test_softmax_cross_entropy_and_its_gradient_equal_autodiff(dtype, tolerance, shape, dloss):
    with jax.enable_x64(dtype is np.float64):
        z, y = 3 * normal(shape, 0, dtype), labels_of(shape[:-1], shape[-1])
        actual = loss_and_gradients(softmax_cross_entropy, z, y, dloss=dloss, only=1)
        assert {a.dtype for a in actual} == {jnp.dtype(dtype)}
        assert_arrays_close(actual, loss_and_gradients(cross_entropy_written_out, z, y, dloss=dloss, only=1), tolerance)


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 5, 4)], ids=["images", "pixels"])
def test_softmax_cross_entropy_equals_that_of_training_and_of_torch(torch, shape: tuple[int, ...]):
    z, y = 3 * normal(shape), labels_of(shape[:-1], 4)
    actual = loss_and_gradients(softmax_cross_entropy, z, y, only=1)
    assert_arrays_close(actual, loss_and_gradients(lambda z, y: cross_entropy(z, y).mean(), z, y, only=1))
    theirs = in_torch(
        torch, lambda z, y: torch.nn.functional.cross_entropy(z.reshape(-1, 4), y.long().reshape(-1)), z, y
    )
    assert_arrays_close(actual, theirs)


def test_softmax_cross_entropy_by_hand():
    # Two classes of equal logits: each has probability 1/2.
    loss, dz = loss_and_gradients(softmax_cross_entropy, np.zeros((2, 2), np.float32), np.array([0, 1]), only=1)
    assert_allclose(loss, np.log(2), rtol=1e-6)
    assert_allclose(dz, [[-0.25, 0.25], [0.25, -0.25]], rtol=1e-6)
    # The softmax of (9, 5, 0) is 0.981895, 0.017984, 0.000121.
    z = jnp.asarray([[9.0, 5.0, 0.0]])
    for label, expected in enumerate((0.018271, 4.018271, 9.018271)):
        assert_allclose(softmax_cross_entropy(z, jnp.asarray([label])), expected, atol=2e-6)
    value, saved = softmax_cross_entropy.forward(z, jnp.asarray([1]))
    dz, dlabels = softmax_cross_entropy.backward(saved, jnp.ones_like(value))
    assert_allclose(dz, [[0.981895, -0.982016, 0.000121]], atol=1e-6)
    assert dlabels is None


def test_softmax_cross_entropy_is_stable_in_float32():
    z = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, -1e4, -1e4], [3e38, 3e38, 0]], np.float32)
    y = np.array([0, 1, 2, 0, 1])
    for row, label, expected in zip(z, y, [0, 2e4, 1e4, np.log(3), np.log(2)], strict=True):
        assert_allclose(softmax_cross_entropy(jnp.asarray(row[None]), jnp.asarray([label])), expected, rtol=1e-6)
    # The logarithm of the second probability is minus infinity, the loss of the first none the less 0.
    assert softmax_cross_entropy(jnp.asarray([[3e38, -3e38, 0]]), jnp.asarray([0])) == 0
    loss, dz = loss_and_gradients(softmax_cross_entropy, z, y, only=1)
    assert_allclose(loss, (3e4 + np.log(6)) / 5, rtol=1e-6)
    expected = np.array([[0, 0, 0], [1, -1, 0], [1, 0, -1], [-2 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0]]) / 5
    assert_allclose(dz, expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
@pytest.mark.parametrize("label", [3, 4, 127, -1, -3, -4, -128])
def test_softmax_cross_entropy_of_a_label_of_no_class_is_not_a_number_nor_is_its_gradient(label: int, dtype: Any):
    labels = np.array([0, label]).astype(dtype)  # among unsigned numbers, a negative one is far beyond the classes
    loss, dz = loss_and_gradients(softmax_cross_entropy, np.zeros((2, 3), np.float32), labels, only=1)
    assert jnp.isnan(loss)
    assert_allclose(dz, [[-1 / 3, 1 / 6, 1 / 6], [np.nan] * 3], rtol=1e-6)


def test_softmax_cross_entropy_has_more_classes_than_its_labels_have_numbers():
    z, y = normal((3, 300)), np.array([0, 44, 255], np.uint8)
    expected = loss_and_gradients(cross_entropy_written_out, z, y.astype(np.int32), only=1)
    assert_arrays_close(loss_and_gradients(softmax_cross_entropy, z, y, only=1), expected)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((4, 3), np.int32), np.zeros(4, np.int32), r"logits \(4, 3\) of int32; expected floating point"),
        (np.zeros((4, 3), np.float32), np.zeros(4, np.float32), r"labels \(4,\) of float32; expected integers"),
        (np.zeros((4, 3), np.float32), np.zeros(3, np.int32), r"logits \(4, 3\) and labels \(3,\); expected one label"),
        (np.zeros((4, 3), np.float32), np.zeros((4, 3), np.int32), r"logits \(4, 3\) and labels \(4, 3\)"),
        (np.zeros((4, 3), np.float32), np.zeros((4, 1), np.int32), r"logits \(4, 3\) and labels \(4, 1\)"),
        (np.zeros((), np.float32), np.zeros((), np.int32), r"logits \(\) and labels \(\)"),
        (np.zeros((0, 3), np.float32), np.zeros(0, np.int32), r"logits \(0, 3\); expected at least one"),
        (np.zeros((4, 0), np.float32), np.zeros(4, np.int32), r"logits \(4, 0\); expected at least one"),
    ],
)
def test_softmax_cross_entropy_refuses(logits, labels, message):
    with pytest.raises(InputError, match=f"softmax cross-entropy got {message}"):
        softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))


# Losses of two arrays of one shape


@paired
@precisions
@settings(deadline=None, max_examples=10)
@given(shape=shapes, dloss=st.sampled_from([1.0, -0.3]))
def test_loss_and_its_gradients_equal_autodiff(op, other, dtype, tolerance, shape, dloss):
    with jax.enable_x64(dtype is np.float64):
        arrays = 3 * normal(shape, 0, dtype), uniform(shape, 1, dtype)
        actual = loss_and_gradients(op, *arrays, dloss=dloss)
        assert {a.dtype for a in actual} == {jnp.dtype(dtype)}
        assert_arrays_close(actual, loss_and_gradients(other, *arrays, dloss=dloss), tolerance)


@pytest.mark.parametrize("shape", [(6,), (6, 4), (2, 3, 4)])
@pytest.mark.parametrize(
    ("op", "name"),
    [
        (sigmoid_binary_cross_entropy, "binary_cross_entropy_with_logits"),
        (mean_squared_error, "mse_loss"),
        (mean_absolute_error, "l1_loss"),
    ],
)
def test_loss_and_its_gradients_equal_those_of_torch(torch, op, name: str, shape: tuple[int, ...]):
    arrays = 3 * normal(shape), uniform(shape, 1)
    function = getattr(torch.nn.functional, name)
    theirs = in_torch(torch, lambda z, y: function(z, y, reduction="sum") / len(z), *arrays)
    assert_arrays_close(loss_and_gradients(op, *arrays), theirs)


def test_euclidean_loss_and_its_gradients_equal_those_of_torch(torch):
    arrays = normal((6, 4)), normal((6, 4), 1)
    theirs = in_torch(torch, lambda p, y: torch.nn.functional.pairwise_distance(p, y, eps=0).mean() / 2**0.5, *arrays)
    assert_arrays_close(loss_and_gradients(euclidean_loss, *arrays), theirs)


@paired
def test_loss_sums_over_outputs_and_averages_over_the_batch(op, other):
    row = normal((1, 4)), uniform((1, 4), 1)
    twice = [np.concatenate([a, a]) for a in row]
    assert_allclose(op(*map(jnp.asarray, twice)), op(*map(jnp.asarray, row)), rtol=1e-6)
    if op is not euclidean_loss:
        wide = [np.concatenate([a, a], 1) for a in row]
        assert_allclose(op(*map(jnp.asarray, wide)), 2 * op(*map(jnp.asarray, row)), rtol=1e-6)


def test_losses_by_hand():
    predictions, targets = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[1.0, 0.0], [0.0, 8.0]])
    for op, loss, dpredictions in (
        (mean_squared_error, (0 + 4 + 9 + 16) / 2, [[0, 2], [3, -4]]),
        # Equal outputs, as the first, get 0.
        (mean_absolute_error, (0 + 2 + 3 + 4) / 2, [[0, 0.5], [0.5, -0.5]]),
        # The roots are sqrt(2) and sqrt(12.5).
        (euclidean_loss, (2**0.5 + 12.5**0.5) / 2, [[0, 1 / 2 / 2**0.5], [3 / 4 / 12.5**0.5, -1 / 12.5**0.5]]),
    ):
        actual = loss_and_gradients(op, predictions, targets)
        assert_arrays_close(actual, [np.float32(loss), np.asarray(dpredictions), -np.asarray(dpredictions)], 1e-6)


def test_euclidean_loss_of_one_example_is_the_root_of_half_its_squared_error():
    loss, gradient, _ = loss_and_gradients(euclidean_loss, np.float32([3, 0]), np.float32([0, 4]))
    assert_allclose(loss, 12.5**0.5, rtol=1e-6)
    assert_allclose(gradient, np.array([3, -4]) / (2 * 12.5**0.5), rtol=1e-6)


def test_euclidean_loss_of_equal_outputs_is_0_with_gradient_0():
    same = normal((3, 4))
    other = same.copy()
    other[1] += 1
    loss, gradient, _ = loss_and_gradients(euclidean_loss, same, other)
    assert_allclose(loss, 2**0.5 / 3, rtol=1e-6)
    assert_allclose(gradient, np.array([[0], [-1], [0]]) * np.ones((3, 4)) / (2 * 2**0.5 * 3), rtol=1e-6)


def test_logistic_regression_of_one_example():
    # x = 1.2, w = 0.5 and b = -0.6 give z = 0, where sigma is 1/2.
    x, w, b, y = (np.float32([v]) for v in (1.2, 0.5, -0.6, 1))
    loss, dw, db, dx = loss_and_gradients(
        lambda w, b, x, y: sigmoid_binary_cross_entropy(x * w + b, y), w, b, x, y, only=3
    )
    assert_allclose(loss, 0.693147, rtol=1e-6)
    assert_allclose((dw[0], db[0], dx[0]), (-0.6, -0.5, -0.25), rtol=1e-6)


def test_sigmoid_binary_cross_entropy_is_stable_in_float32():
    z = np.array([1e4, 1e4, -1e4, -1e4, 3e38, -3e38, 100], np.float32).reshape(1, -1)
    y = np.array([1, 0, 1, 0, 1, 0, 1], np.float32).reshape(1, -1)
    for logit, target, expected in zip(z[0], y[0], [0, 1e4, 1e4, 0, 0, 0, 0], strict=True):
        pair = jnp.asarray([logit]), jnp.asarray([target])
        assert_allclose(sigmoid_binary_cross_entropy(*pair), expected, rtol=1e-6, atol=1e-12)
    loss, dz, dy = loss_and_gradients(sigmoid_binary_cross_entropy, z, y)
    assert_allclose(loss, 2e4, rtol=1e-6)
    assert_allclose(dz, [[0, 1, -1, 0, 0, 0, 0]], atol=1e-12)
    assert_allclose(dy, -z, rtol=1e-6)
    # Small losses keep their digits: -log sigma(20) is exp(-20) to first order.
    assert_allclose(sigmoid_binary_cross_entropy(jnp.asarray([20.0]), jnp.asarray([1.0])), np.exp(-20), rtol=1e-5)


@paired
def test_half_precision_predictions_with_float32_targets_give_each_its_own_type(op, other):
    p, y = jnp.asarray(normal((4, 3))).astype(jnp.bfloat16), uniform((4, 3), 1)
    _, dp, dy = loss_and_gradients(op, p, y)
    assert (dp.dtype, dy.dtype) == (jnp.bfloat16, jnp.float32)
    assert_arrays_close((dp, dy), loss_and_gradients(op, p.astype(jnp.float32), y)[1:], 2**-7)


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((4, 3)), np.zeros(3), r"\(4, 3\) and \w+ \(3,\); expected one shape"),
        (np.zeros((4, 1)), np.zeros(4), r"\(4, 1\) and \w+ \(4,\); expected one shape"),
        (np.zeros((4, 3)), np.zeros((4, 1)), r"\(4, 3\) and \w+ \(4, 1\); expected one shape"),
        (np.zeros((4, 3)), np.zeros((4, 3), np.int32), r"\(4, 3\) of float32 and targets \(4, 3\) of int32"),
        (np.zeros((4, 3), np.int32), np.zeros((4, 3)), r"\(4, 3\) of int32 and targets \(4, 3\) of float32"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"\(0, 3\) and \w+ \(0, 3\); expected at least one example"),
        (np.zeros(()), np.zeros(()), r"\(\) and \w+ \(\); expected at least one example"),
    ],
)
def test_loss_refuses(name, first, second, message):
    first, second = (jnp.asarray(a, jnp.float32 if a.dtype == np.float64 else a.dtype) for a in (first, second))
    with pytest.raises(InputError, match=rf"^{name} got \w+ {message}"):
        PAIRED[name][0](first, second)
