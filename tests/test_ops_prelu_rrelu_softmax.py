"""Parametric and randomised ReLU and softmax against finite differences, other formulations and PyTorch."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_arrays_close
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from jaxcnn.errors import InputError
from jaxcnn.ops.activation import prelu, rrelu, rrelu_inference, softmax, softmax_jacobian

precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-10)])
shapes = st.sampled_from([(1,), (3,), (4, 1), (4, 3), (2, 3, 1, 4)])


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@functools.cache
def compiled(function: Any) -> Any:
    @jax.jit
    def run(dy, *arrays):
        y, vjp = jax.vjp(function, *arrays)
        return y, *vjp(dy)

    return run


def value_and_gradients(function: Any, dy: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The value and the gradient to each array; compiled once for each shape."""
    return compiled(function)(dy, *arrays)


def in_torch(torch, function: Any, dy: np.ndarray | jax.Array, *arrays: Any) -> list[np.ndarray]:
    """The value and the gradient to each array."""
    tensors = [torch.tensor(np.asarray(a), requires_grad=True) for a in arrays]
    y = function(*tensors)
    y.backward(torch.tensor(np.asarray(dy)))
    return [t.detach().numpy() for t in (y, *(t.grad for t in tensors))]


def central_differences(function: Any, *arrays: jax.Array) -> list[jax.Array]:
    """The gradients of the number `function(*arrays)`, from two values for each element of each array."""

    def gradient(i: int) -> jax.Array:
        def along(step):
            above, below = ([*arrays[:i], arrays[i] + s * step, *arrays[i + 1 :]] for s in (1, -1))
            return (function(*above) - function(*below)) / (2 * h)

        h = 1e-6
        steps = h * jnp.eye(arrays[i].size).reshape(-1, *arrays[i].shape)
        return jax.vmap(along)(steps).reshape(arrays[i].shape)

    return [gradient(i) for i in range(len(arrays))]


def assert_gradients_are_central_differences(op: Any, *arrays: jax.Array) -> None:
    """To every array, of a weighted sum of the outputs."""

    def total(*arrays):
        return jnp.vdot(normal(arrays[0].shape, 9, np.float64), op(*arrays))

    gradients = jax.grad(total, tuple(range(len(arrays))))(*arrays)
    for actual, expected in zip(gradients, central_differences(total, *arrays), strict=True):
        assert_allclose(actual, expected, rtol=0, atol=1e-8)


def off_the_kink(shape: tuple[int, ...], seed: int) -> jax.Array:
    """Normal numbers, none of which a small step takes to the other side of 0."""
    x = normal(shape, seed, np.float64)
    return x + 0.01 * jnp.sign(x)


@settings(deadline=None, max_examples=8)
@given(shape=shapes, shared=st.sampled_from([None, (), (1,)]), seed=st.integers(0, 99))
@pytest.mark.slow
def test_prelu_s_gradients_are_central_differences(shape, shared, seed):
    with jax.enable_x64(True):
        slope = normal(shape[-1:] if shared is None else shared, seed + 1, np.float64)
        assert_gradients_are_central_differences(prelu, off_the_kink(shape, seed), slope)


@settings(deadline=None, max_examples=4)
@given(shape=shapes, seed=st.integers(0, 99), ends=st.sampled_from([{}, {"lower": 0.3, "upper": 0.9}]))
def test_rrelu_s_gradient_is_central_differences_of_one_key(shape, seed, ends):
    with jax.enable_x64(True):
        key = jax.random.key(seed)
        assert_gradients_are_central_differences(lambda x: rrelu(x, key, **ends), off_the_kink(shape, seed))


@settings(deadline=None, max_examples=4)
@given(shape=shapes, seed=st.integers(0, 99))
def test_softmax_s_gradient_is_central_differences(shape, seed):
    with jax.enable_x64(True):
        assert_gradients_are_central_differences(softmax, normal(shape, seed, np.float64))


# Parametric ReLU


def prelu_written_out(x, slope):
    """The formula, to be differentiated by autodiff."""
    return jax.nn.relu(x) - slope.reshape((1,) * (x.ndim - 1) + (-1,)) * jax.nn.relu(-x)


@precisions
@settings(deadline=None, max_examples=12)
@given(shape=shapes, shared=st.sampled_from([None, (), (1,)]))
def test_prelu_and_its_gradients_equal_autodiff(dtype, tolerance, shape, shared):
    with jax.enable_x64(dtype is np.float64):
        x, dy = normal(shape, 0, dtype), normal(shape, 1, dtype)
        slope = normal(shape[-1:] if shared is None else shared, 2, dtype)
        actual = value_and_gradients(prelu, dy, x, slope)
        assert {a.dtype for a in actual} == {jnp.dtype(dtype)}
        assert_arrays_close(actual, value_and_gradients(prelu_written_out, dy, x, slope), tolerance)


@pytest.mark.parametrize("slopes", [1, 3])
def test_prelu_and_its_gradients_equal_those_of_torch_at_the_kink_too(torch, slopes: int):
    x, slope, dy = normal((4, 5, 2, 3)).at[0, 0].set(0), normal((slopes,), 1), normal((4, 5, 2, 3), 2)

    def theirs(x, slope):
        return torch.nn.functional.prelu(x.permute(0, 3, 1, 2), slope).permute(0, 2, 3, 1)

    assert_arrays_close(value_and_gradients(prelu, dy, x, slope), in_torch(torch, theirs, dy, x, slope), 1e-5)


@pytest.mark.parametrize("dtypes", [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)])
def test_prelu_gives_each_gradient_its_own_type(dtypes: tuple[Any, Any]):
    arrays = [normal((4, 3)).astype(dtypes[0]), normal((3,), 1).astype(dtypes[1])]
    gradients = prelu.backward(prelu.forward(*arrays)[1], jnp.ones((4, 3)))
    assert tuple(g.dtype for g in gradients) == dtypes
    expected = value_and_gradients(prelu_written_out, jnp.ones((4, 3)), *(a.astype(jnp.float32) for a in arrays))
    assert_arrays_close(gradients, expected[1:], 2**-7)


@pytest.mark.parametrize("slope", [(2,), (4,), (4, 3), (1, 1)])
def test_prelu_refuses_integers_and_a_slope_that_is_not_one_per_channel(slope: tuple[int, ...]):
    message = f"prelu got x (4, 3) and slope {slope}; expected a slope for each channel (3,)"
    with pytest.raises(InputError, match=re.escape(message)):
        prelu(jnp.ones((4, 3)), jnp.ones(slope))
    with pytest.raises(InputError, match=r"prelu got x \(4, 3\) of float32 and slope \(3,\) of int32"):
        prelu(jnp.ones((4, 3)), jnp.ones((3,), jnp.int32))


# Randomised leaky ReLU


def test_rrelu_takes_uniform_slopes_from_its_key_and_keeps_them_for_its_gradient():
    x = -jnp.ones((50, 40))
    y, vjp = jax.vjp(lambda x: rrelu(x, jax.random.key(0)), x)
    slopes = -np.asarray(y, np.float64).ravel()
    assert slopes.min() >= 1 / 8
    assert slopes.max() <= 1 / 3
    assert stats.kstest(slopes, stats.uniform(1 / 8, 1 / 3 - 1 / 8).cdf).pvalue > 0.01
    assert abs(np.corrcoef(slopes[1:], slopes[:-1])[0, 1]) < 0.1
    dy = normal(x.shape)
    assert_arrays_close(vjp(dy), [-y * dy], 1e-6)
    assert_arrays_close([rrelu(x, jax.random.key(0))], [y], 0)
    assert not jnp.allclose(rrelu(x, jax.random.key(1)), y)
    assert_allclose(rrelu_inference(x), jnp.mean(y), rtol=0.02)


@precisions
@pytest.mark.parametrize("ends", [{}, {"lower": 0.3, "upper": 0.4}, {"lower": 0.2, "upper": 0.2}])
def test_rrelu_and_its_gradient_equal_autodiff(dtype, tolerance, ends):
    with jax.enable_x64(dtype is np.float64):
        x, dy, key = normal((4, 3), 0, dtype), normal((4, 3), 1, dtype), jax.random.key(3)
        # The slopes follow from the key and the shape alone.
        slope, (lower, upper) = -rrelu(-jnp.ones_like(x), key, **ends), ends.values() or (1 / 8, 1 / 3)
        assert bool(jnp.all((slope >= lower) & (slope <= upper)))

        def written_out(x):
            return jax.nn.relu(x) - slope * jax.nn.relu(-x)

        actual = value_and_gradients(lambda x: rrelu(x, key, **ends), dy, x)
        assert {a.dtype for a in actual} == {jnp.dtype(dtype)}
        assert_arrays_close(actual, value_and_gradients(written_out, dy, x), tolerance)


def test_rrelu_equals_that_of_torch_with_the_same_slopes(torch):
    x, dy = normal((8, 9)).at[0].set(0), normal((8, 9), 1)
    torch.manual_seed(0)
    y, dx = in_torch(torch, lambda x: torch.nn.functional.rrelu(x, training=True), dy, x)
    # At 0 the slope cannot be read off the value: the gradient says it.
    slope = jnp.asarray(np.where(np.asarray(x) == 0, dx / np.asarray(dy), y / np.where(np.asarray(x) == 0, 1, x)))
    assert_arrays_close(rrelu.backward((x, slope), dy)[:1], [dx], 1e-5)
    assert stats.kstest(slope[x <= 0], stats.uniform(1 / 8, 1 / 3 - 1 / 8).cdf).pvalue > 0.01
    positive = np.asarray(x) > 0
    assert_arrays_close([rrelu(x, jax.random.key(0))[positive]], [y[positive]], 0)


def test_rrelu_refuses_integers_and_slopes_in_the_wrong_order():
    with pytest.raises(InputError, match=r"rrelu got x \(2,\) of int32"):
        rrelu(jnp.ones((2,), jnp.int32), jax.random.key(0))
    with pytest.raises(InputError, match=r"lower 0.5 and upper 0.25; expected lower <= upper"):
        rrelu(jnp.ones((2,)), jax.random.key(0), lower=0.5, upper=0.25)


# Softmax


def test_softmax_of_9_5_0_is_what_a_lecture_prints():
    probabilities = softmax(jnp.asarray([9.0, 5.0, 0.0]))
    assert_allclose(probabilities, [0.981895, 0.017984, 0.000121], rtol=0, atol=5e-7)
    # The print cuts the second and rounds the first: each is right within one of its last digit.
    for probability, printed, digit in zip(probabilities, (0.982, 0.0179, 0.0001), (1e-3, 1e-4, 1e-4), strict=True):
        assert abs(probability - printed) < digit


def softmax_written_out(x):
    """The formula, to be differentiated by autodiff."""
    return jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True)


@precisions
@settings(deadline=None, max_examples=12)
@given(shape=shapes, scale=st.sampled_from([0.1, 1.0, 20.0]))
def test_softmax_and_its_gradient_equal_autodiff_and_its_jacobian(dtype, tolerance, shape, scale):
    with jax.enable_x64(dtype is np.float64):
        x, dy = scale * normal(shape, 0, dtype), normal(shape, 1, dtype)
        y, dx = value_and_gradients(softmax, dy, x)
        assert (y.dtype, dx.dtype) == (dtype, dtype)
        expected = value_and_gradients(softmax_written_out, dy, x)
        assert_arrays_close([y], expected[:1], tolerance)
        # Rounding is all that is left of dx where one class has all the probability: it is measured against dy.
        atol = tolerance * float(np.abs(dy).max())
        assert_allclose(dx, expected[1], rtol=0, atol=atol)
        jacobian = jax.jit(softmax_jacobian)(x)
        assert jacobian.shape == (*shape, shape[-1])
        assert_allclose(np.einsum("...i,...ij->...j", dy, jacobian), dx, rtol=0, atol=2 * atol)


def test_softmax_jacobian_equals_autodiff_in_float64():
    with jax.enable_x64(True):
        x = normal((5,), dtype=np.float64)
        assert_arrays_close([softmax_jacobian(x)], [jax.jacfwd(jax.nn.softmax)(x)], 1e-10)


@settings(deadline=None, max_examples=15)
@given(shape=shapes, shift=st.floats(-100, 100))
def test_softmax_sums_to_one_and_does_not_see_a_shift(shape, shift):
    x = np.asarray(normal(shape))
    run = jax.jit(softmax)
    assert_allclose(np.sum(run(x), -1), 1, rtol=1e-6)
    assert_allclose(run(x + np.float32(shift)), run(x), rtol=1e-4)


def test_softmax_is_finite_and_right_at_the_ends_of_float32():
    largest = float(np.finfo(np.float32).max)
    x = jnp.asarray([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [largest, -largest, 0], [-largest, -largest, largest]])
    y, vjp = jax.vjp(softmax, x)
    assert_allclose(y, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 1]], rtol=1e-6)
    assert_allclose(vjp(jnp.ones_like(x))[0], 0, atol=1e-7)


def test_softmax_and_its_gradient_equal_those_of_torch(torch):
    x, dy = 3 * normal((4, 2, 5)), normal((4, 2, 5), 1)
    y, vjp = jax.vjp(softmax, x)
    assert_arrays_close((y, *vjp(dy)), in_torch(torch, lambda x: torch.softmax(x, -1), dy, x), 1e-5)


def test_softmax_refuses_integers_and_no_class():
    with pytest.raises(InputError, match=r"softmax got x \(3,\) of int32"):
        softmax(jnp.ones((3,), jnp.int32))
    for shape, named in (((), r"\(\)"), ((4, 0), r"\(4, 0\)")):
        with pytest.raises(InputError, match=f"softmax got x {named}; expected at least one class"):
            softmax(jnp.ones(shape))
