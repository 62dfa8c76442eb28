"""Normalisation by hand against autodiff of its formula, the layers and PyTorch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxcnn.errors import InputError
from jaxcnn.layers.batch_norm import normalize
from jaxcnn.layers.local_response_norm import LocalResponseNorm
from jaxcnn.ops.normalization import batch_norm, batch_norm_inference, local_response_norm, running_average

PRECISIONS = {np.float32: 1e-5, np.float64: 1e-10}
precisions = st.sampled_from([*PRECISIONS])
# At least 8 values per channel: with 2, x_hat is +-1 whatever x is, dx is all cancellation.
shapes = st.tuples(st.integers(2, 3), st.integers(2, 4), st.integers(2, 4), st.integers(1, 4))
epsilons = st.sampled_from([1e-5, 1e-3, 0.1])


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def example(shape: tuple[int, ...], dtype: Any = np.float32) -> tuple[np.ndarray, ...]:
    """An input whose channels differ in mean and deviation, gamma, beta, a mean, a variance and a dy."""
    c = shape[-1:]
    x = normal(shape, 0, dtype) * (1 + np.arange(c[0], dtype=dtype)) + normal(c, 1, dtype)
    variance = 0.1 + normal(c, 5, dtype) ** 2
    return x, normal(c, 2, dtype), normal(c, 3, dtype), normal(c, 4, dtype), variance, normal(shape, 6, dtype)


def in_nchw(torch, array) -> Any:
    return torch.tensor(np.asarray(array).transpose(0, 3, 1, 2), requires_grad=True)


def in_nhwc(tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def normalized_by(mean, variance, epsilon):
    """The formula for any mean and variance, in an order of operations of its own."""

    def function(x, gamma, beta):
        flat = x.reshape(-1, x.shape[-1])
        m, v = mean(flat), variance(flat)
        return jax.vmap(lambda row: gamma * (row - m) * (v + epsilon) ** -0.5 + beta)(flat).reshape(x.shape)

    return function


@settings(deadline=None, max_examples=5)
@given(shapes, epsilons, precisions)
def test_batch_norm_equals_autodiff_of_its_formula(shape, epsilon, dtype):
    with jax.enable_x64(dtype == np.float64):
        *arrays, _, _, dy = example(shape, dtype)
        y, gradients = value_and_gradients(lambda *a: batch_norm(*a, epsilon=epsilon), arrays, dy)
        assert {v.dtype for v in (y, *gradients)} == {np.dtype(dtype)}
        formula = normalized_by(lambda x: jnp.mean(x, 0), lambda x: jnp.var(x, 0), epsilon)
        assert_close((y, gradients), value_and_gradients(formula, arrays, dy), PRECISIONS[dtype])


def test_gradients_equal_autodiff_through_the_forward_passes():
    with jax.enable_x64(True):
        *arrays, dy = example((3, 2, 4, 3), np.float64)
        for op, given_arrays in (
            (batch_norm, arrays[:3]),
            (batch_norm_inference, arrays),
            (local_response_norm, arrays[:1]),
        ):
            actual = value_and_gradients(op, given_arrays, dy)
            assert len(actual[1]) == len(given_arrays)
            assert_close(actual, value_and_gradients(lambda *a, op=op: op.forward(*a)[0], given_arrays, dy), 1e-10)


@pytest.mark.slow
def test_the_sign_that_one_lecture_prints_for_the_first_term_of_dx_is_wrong():
    with jax.enable_x64(True):
        x, gamma, beta, _, _, dy = example((3, 2, 4, 3), np.float64)
        _, saved = batch_norm.forward(jnp.asarray(x), jnp.asarray(gamma), jnp.asarray(beta))
        dx, _, _ = batch_norm.backward(saved, jnp.asarray(dy))
        _, vjp = jax.vjp(lambda x: batch_norm.forward(x, jnp.asarray(gamma), jnp.asarray(beta))[0], jnp.asarray(x))
        (expected,) = vjp(jnp.asarray(dy))
        _, _, _, sigma2 = saved
        first_term = dy * gamma / np.sqrt(sigma2 + 1e-5)
        assert_close(dx, expected, 1e-10)
        with pytest.raises(AssertionError):
            assert_close(dx - 2 * first_term, expected, 0.5)


@pytest.mark.parametrize("shape", [(8, 3), (3, 2, 4, 3)])
def test_channels_come_out_with_mean_beta_and_deviation_gamma(shape):
    x, gamma, beta, *_ = map(jnp.asarray, example(shape))
    axes = tuple(range(len(shape) - 1))
    y = np.asarray(batch_norm(x, gamma, beta, epsilon=1e-8))
    assert_allclose(y.mean(axes), beta, atol=1e-5)
    assert_allclose(y.std(axes), np.abs(gamma), rtol=1e-4)


def test_a_mean_large_against_the_deviation_is_still_normalised():
    x = 1e4 + normal((64, 8, 8, 3))
    wide = x.astype(np.float64)
    y = batch_norm(jnp.asarray(x), jnp.ones(3), jnp.zeros(3))
    # float32 holds 1e4 to the nearest 1/1024.
    assert_allclose(y, (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2)), atol=2e-3)


def test_batch_norm_equals_the_layer():
    *arrays, _, _, dy = example((3, 2, 4, 3))
    actual = value_and_gradients(batch_norm, arrays, dy)
    expected = value_and_gradients(lambda x, gamma, beta: normalize(x, gamma, beta, 1e-5, None)[0], arrays, dy)
    assert_close(actual, expected, 1e-5)


@settings(deadline=None, max_examples=4)
@given(shapes, epsilons, st.booleans())
def test_batch_norm_and_its_running_averages_equal_pytorch(torch, shape, epsilon, train):
    x, gamma, beta, mean, variance, dy = (jnp.asarray(v) for v in example(shape))
    theirs = in_nchw(torch, x)
    weight, bias = (torch.tensor(np.asarray(v), requires_grad=True) for v in (gamma, beta))
    running = [torch.tensor(np.asarray(v)) for v in (mean, variance)]
    expected = torch.nn.functional.batch_norm(theirs, *running, weight, bias, train, momentum=0.1, eps=epsilon)
    expected.backward(in_nchw(torch, dy).detach())
    if train:
        y, saved = batch_norm.forward(x, gamma, beta, epsilon=epsilon)
        gradients = batch_norm.backward(saved, dy, epsilon=epsilon)
        m = x.size // x.shape[-1]
        _, _, mu, sigma2 = (v.reshape(-1) for v in saved)
        averages = running_average(mean, mu, momentum=0.9), running_average(variance, m / (m - 1) * sigma2)
        assert_close(averages, tuple(v.numpy() for v in running), 1e-5)
    else:
        y, saved = batch_norm_inference.forward(x, gamma, beta, mean, variance, epsilon=epsilon)
        gradients = batch_norm_inference.backward(saved, dy, epsilon=epsilon)[:3]
    assert_close(y, in_nhwc(expected), 1e-5)
    assert_close(gradients, (in_nhwc(theirs.grad), weight.grad.numpy(), bias.grad.numpy()), 1e-5)


@settings(deadline=None, max_examples=5)
@given(shapes, epsilons, precisions)
def test_inference_equals_autodiff_of_its_formula_for_all_five_arrays(shape, epsilon, dtype):
    with jax.enable_x64(dtype == np.float64):
        *arrays, dy = example(shape, dtype)
        y, gradients = value_and_gradients(lambda *a: batch_norm_inference(*a, epsilon=epsilon), arrays, dy)
        assert {v.dtype for v in (y, *gradients)} == {np.dtype(dtype)}

        def formula(x, gamma, beta, mean, variance):
            return normalized_by(lambda _: mean, lambda _: variance, epsilon)(x, gamma, beta)

        assert_close((y, gradients), value_and_gradients(formula, arrays, dy), PRECISIONS[dtype])


def test_running_average_moves_by_one_minus_momentum():
    running, batch = jnp.array([1.0, 2.0]), jnp.array([2.0, 0.0])
    assert_allclose(running_average(running, batch), [1.1, 1.8], rtol=1e-6)
    assert running_average(running, batch, momentum=0.0).tolist() == batch.tolist()
    assert running_average(running, batch, momentum=1.0).tolist() == running.tolist()


# Weights at which the sum counts as much as k; AlexNet's leave y nearly linear.
responses = st.fixed_dictionaries(
    {
        "size": st.sampled_from([1, 3, 5, 7]),
        "k": st.sampled_from([1.0, 2.0]),
        "alpha": st.sampled_from([0.1, 1.0]),
        "beta": st.sampled_from([0.5, 0.75, 1.0]),
    }
)


@settings(deadline=None, max_examples=5)
@given(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 8)), responses, precisions)
def test_local_response_norm_equals_autodiff_of_the_layer(shape, options, dtype):
    with jax.enable_x64(dtype == np.float64):
        x, dy = normal(shape, 0, dtype), normal(shape, 1, dtype)
        y, gradients = value_and_gradients(lambda x: local_response_norm(x, **options), [x], dy)
        assert {v.dtype for v in (y, *gradients)} == {np.dtype(dtype)}
        expected = value_and_gradients(lambda x: LocalResponseNorm(**options).apply({}, x), [x], dy)
        assert_close((y, gradients), expected, PRECISIONS[dtype])


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 8), responses)
def test_local_response_norm_equals_pytorch_which_divides_alpha_by_the_size(torch, channels, options):
    x, dy = normal((2, 2, 3, channels)), normal((2, 2, 3, channels), 1)
    y, gradients = value_and_gradients(lambda x: local_response_norm(x, **options), [x], dy)
    theirs = in_nchw(torch, x)
    options = {**options, "alpha": options["alpha"] * options["size"]}
    expected = torch.nn.functional.local_response_norm(theirs, **options)
    expected.backward(in_nchw(torch, dy).detach())
    assert_close((y, gradients), (in_nhwc(expected), (in_nhwc(theirs.grad),)), 1e-5)


def test_the_defaults_of_local_response_norm_are_those_of_alexnet():
    x, dy = 100 * normal((2, 3, 3, 8)), normal((2, 3, 3, 8), 1)
    expected = value_and_gradients(lambda x: local_response_norm(x, size=5, k=2.0, alpha=1e-4, beta=0.75), [x], dy)
    assert_close(value_and_gradients(local_response_norm, [x], dy), expected, 1e-6)
    assert_close(expected, value_and_gradients(lambda x: LocalResponseNorm().apply({}, x), [x], dy), 1e-5)


def test_half_precision_stays_half_and_agrees_with_float32():
    *arrays, dy = (jnp.asarray(v, jnp.bfloat16) for v in example((3, 4, 4, 3)))
    for op, count in ((batch_norm, 3), (batch_norm_inference, 5), (local_response_norm, 1)):
        actual = value_and_gradients(op, arrays[:count], dy)
        assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(jnp.bfloat16)}
        wide = [v.astype(jnp.float32) for v in (*arrays[:count], dy)]
        # bfloat16 keeps 8 bits, to which only the result is rounded.
        assert_close(actual, value_and_gradients(op, wide[:-1], wide[-1]), 2**-8)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_keeps_a_mean_large_against_the_deviation(dtype):
    x = jnp.asarray(100 + 4 * normal((64, 3)), dtype)
    *arrays, dy = x, jnp.ones(3, dtype), jnp.zeros(3, dtype), jnp.asarray(normal((64, 3), 1), dtype)
    actual = value_and_gradients(batch_norm, arrays, dy)
    wide = [v.astype(jnp.float32) for v in (*arrays, dy)]
    assert_close(actual, value_and_gradients(batch_norm, wide[:-1], wide[-1]), 2**-8)


@pytest.mark.slow
def test_squares_that_float16_cannot_hold_are_right(torch):
    x, one, zero = jnp.asarray([[-300], [300]], jnp.float16), jnp.ones(1, jnp.float16), jnp.zeros(1, jnp.float16)
    y = batch_norm(x, one, zero)
    assert (y.dtype, y.tolist()) == (x.dtype, [[-1], [1]])
    assert_close(y, normalize(x, one, zero, 1e-5, None)[0], 2**-11)
    theirs = torch.nn.functional.batch_norm(torch.tensor(np.asarray(x)), None, None, training=True)
    assert_close(y, theirs.numpy(), 2**-11)

    # A gradient that grows with x is that of a scale, which the norm takes away.
    dx = jax.grad(lambda x: jnp.sum(batch_norm(x, one, zero) * jnp.asarray([[1], [0]], x.dtype)))(x)
    assert_allclose(dx, [[0], [0]], atol=1e-3)

    mean, variance = jnp.asarray([-6e4], jnp.float16), jnp.asarray([6e4], jnp.float16)
    y = batch_norm_inference(jnp.asarray([[6e4]], jnp.float16), one, zero, mean, variance)
    assert_allclose(y, [[489.9]], rtol=2**-11)

    y, gradients = value_and_gradients(
        local_response_norm, [jnp.full((1, 1), 300, jnp.float16)], jnp.ones((1, 1), jnp.float16)
    )
    # s = 2 + 1e-4 * 300^2 = 11
    assert_allclose(y, [[300 / 11**0.75]], rtol=2**-10)
    assert_allclose(gradients[0], [[11**-0.75 - 2e-4 * 0.75 * 300**2 / 11**1.75]], rtol=2**-10)


def test_a_running_average_in_half_precision_weighs_by_the_momentum_given():
    # In bfloat16, 0.999 is 1.
    running, batch = jnp.asarray([1000.0], jnp.bfloat16), jnp.asarray([-8000.0], jnp.bfloat16)
    average = running_average(running, batch, momentum=0.999)
    assert (average.dtype, average.item()) == (running.dtype, jnp.bfloat16(991))


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 4), (4,), (0, 3, 3, 4)])
def test_one_value_per_channel_is_refused_in_training_alone(shape):
    x, c = jnp.ones(shape), jnp.ones(4)
    with pytest.raises(
        InputError, match=r"batch norm got input \(.*4,?\) in training; .* more than 1 value per channel"
    ):
        batch_norm(x, c, c)
    assert batch_norm_inference(x, c, c, c, c).shape == shape


@pytest.mark.parametrize("epsilon", [0.0, -1e-5])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon):
    x, c = jnp.ones((2, 3, 3, 4)), jnp.ones(4)
    with pytest.raises(InputError, match=r"batch norm got epsilon .* for input \(2, 3, 3, 4\); expected a positive"):
        batch_norm(x, c, c, epsilon=epsilon)
    with pytest.raises(InputError, match="expected a positive"):
        batch_norm_inference(x, c, c, c, c, epsilon=epsilon)


def test_vectors_that_do_not_fit_the_channels_are_refused_with_both_shapes(unchecked):
    x, c, other = jnp.ones((2, 3, 3, 4)), jnp.ones(4), jnp.ones(3)
    with pytest.raises(InputError, match=r"batch norm got input \(2, 3, 3, 4\) and gamma \(4,\), beta \(3,\)"):
        batch_norm(x, c, other)
    with pytest.raises(InputError, match=r"input \(2, 3, 3, 4\) and .*mean \(4,\), variance \(3,\)"):
        batch_norm_inference(x, c, c, c, other)
    with pytest.raises(InputError, match=r"running \(4,\) and batch \(3,\); expected one shape"):
        running_average(c, other)


def test_integers_are_refused(unchecked):
    x, c = jnp.ones((2, 3, 3, 4), jnp.int32), jnp.ones(4)
    with pytest.raises(InputError, match=r"batch norm got x \(2, 3, 3, 4\) of int32 .* expected floating point"):
        batch_norm(x, c, c)
    with pytest.raises(InputError, match=r"batch norm got x \(2, 3, 3, 4\) of int32 .* expected floating point"):
        batch_norm_inference(x, c, c, c, c)
    with pytest.raises(InputError, match=r"local response norm got x \(2, 3, 3, 4\) of int32"):
        local_response_norm(x)
    with pytest.raises(InputError, match=r"running average got running \(4,\) of float32 and batch \(4,\) of int32"):
        running_average(c, jnp.ones(4, jnp.int32))


@pytest.mark.parametrize("size", [0, -1, 2, 4])
def test_a_size_that_is_not_odd_and_positive_is_refused(size):
    with pytest.raises(InputError, match=rf"got size {size} for input \(2, 3, 3, 4\); expected an odd number"):
        local_response_norm(jnp.ones((2, 3, 3, 4)), size=size)


@pytest.mark.parametrize("options", [{"k": 0.0}, {"k": -1.0}, {"alpha": -1e-4}], ids=str)
def test_constants_under_which_the_divisor_may_vanish_are_refused(options):
    with pytest.raises(InputError, match="got k .* and alpha .*; expected k above 0 and alpha of at least 0"):
        local_response_norm(jnp.ones((2, 3, 3, 4)), **options)


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_a_momentum_outside_zero_and_one_is_refused(momentum):
    with pytest.raises(InputError, match=rf"momentum {momentum}; expected a number in \[0, 1\]"):
        running_average(jnp.ones(4), jnp.ones(4), momentum=momentum)
