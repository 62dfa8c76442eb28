"""Every activation against finite differences, other formulations, PyTorch and the layers' own."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from jaxcnn.errors import InputError
from jaxcnn.layers import activations as layers
from jaxcnn.ops import activation
from jaxcnn.ops.activation import ACTIVATIONS, Activation, prelu, rrelu, rrelu_inference, softmax, softmax_jacobian

# Formulations that share nothing with the module's; autodiff of each must agree with the derivative by hand.
OTHERS: dict[str, Any] = {
    "identity": lambda x: 1 * x,
    "binary_step": lambda x: (jnp.sign(x) + 1) / 2,
    "sigmoid": jax.nn.sigmoid,
    "tanh": lambda x: 1 - 2 * jax.nn.sigmoid(-2 * x),
    "arctan": lambda x: jnp.arctan2(x, jnp.ones_like(x)),
    "softsign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
    "relu": jax.nn.relu,
    "leaky_relu": lambda x, slope=0.01: jax.nn.leaky_relu(x, slope),
    "rrelu_inference": lambda x, lower=1 / 8, upper=1 / 3: jax.nn.leaky_relu(x, (lower + upper) / 2),
    "elu": lambda x, alpha=1.0: jax.nn.elu(x, alpha),
}
slopes = st.floats(0, 0.9)
OPTIONS: dict[str, dict[str, st.SearchStrategy[float]]] = {
    "leaky_relu": {"slope": slopes},
    "rrelu_inference": {"lower": slopes, "upper": slopes},
    "elu": {"alpha": st.floats(0.25, 2)},
}

every = pytest.mark.parametrize("op", ACTIVATIONS.values(), ids=ACTIVATIONS)
precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-10)])
shapes = st.sampled_from([(1,), (3,), (4, 1), (4, 3), (2, 3, 1, 4)])


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@st.composite
def cases(draw: Any, op: Activation) -> tuple[np.ndarray, dict[str, float]]:
    """Points off the kinks, two of which have a derivative of a usual size, and options."""
    number = st.floats(-12, 12).filter(lambda x: all(abs(x - kink) > 1e-3 for kink in (*op.kinks, 0)))
    options = st.fixed_dictionaries({}, optional=OPTIONS.get(op.__name__, {}))
    return np.asarray([-0.5, 0.5, *draw(st.lists(number, min_size=6, max_size=6))]), draw(options)


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


def value_and_gradient(function: Any, x: jax.Array, dy: jax.Array, **options: float) -> tuple[jax.Array, jax.Array]:
    """The same of one array, one operation at a time: no new compilation for new options."""
    y, vjp = jax.vjp(lambda x: function(x, **options), x)
    return y, vjp(dy)[0]


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Within `tolerance` of the largest expected magnitude, array by array."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        e = np.asarray(e, np.float64)
        assert_allclose(np.asarray(a, np.float64), e, rtol=0, atol=tolerance * np.abs(e).max(initial=0))


def test_every_activation_of_the_module_is_registered_under_its_name_and_described():
    found = {name: value for name, value in vars(activation).items() if isinstance(value, Activation)}
    assert found == ACTIVATIONS
    assert all("dy/dx" in (op.__doc__ or "") for op in found.values())


@every
@settings(deadline=None, max_examples=15)
@given(st.data())
def test_derivative_equals_central_differences_away_from_kinks(op: Activation, data: st.DataObject):
    values, options = data.draw(cases(op))
    with jax.enable_x64(True):
        x, h = jnp.asarray(values), 1e-6
        differences = (op(x + h, **options) - op(x - h, **options)) / (2 * h)
        assert_allclose(op.derivative(x, **options), differences, rtol=0, atol=1e-8)


@every
@precisions
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_value_and_gradient_equal_autodiff_of_another_formulation(op, dtype, tolerance, data):
    values, options = data.draw(cases(op))
    with jax.enable_x64(dtype is np.float64):
        x, dy = jnp.asarray(values, dtype), normal(values.shape, dtype=dtype)
        y, dx = value_and_gradient(op, x, dy, **options)
        assert (y.dtype, dx.dtype) == (dtype, dtype)
        assert_close((y, dx), value_and_gradient(OTHERS[op.__name__], x, dy, **options), tolerance)
        assert_close([op.derivative(x, **options) * dy], [dx], tolerance)


@every
def test_second_order_gradient_equals_autodiff_in_float64(op: Activation):
    def second(function):
        def of_gradient(x):
            return jnp.sum(jnp.sin(jax.grad(lambda x: jnp.sum(function(x) ** 2))(x)))

        return jax.jit(jax.grad(of_gradient))

    with jax.enable_x64(True):
        x = normal((8,), dtype=np.float64)
        assert_close([second(op)(x)], [second(OTHERS[op.__name__])(x)], 1e-10)
        # Twice differentiated, the plain 1 / (1 + exp(-x)) is infinity times 0 where exp overflows.
        far = jnp.asarray([1e4, 20 if op.__name__ == "sigmoid" else -1e4])
        assert bool(jnp.isfinite(second(op)(far)).all())


@every
def test_value_and_derivative_are_finite_and_right_at_the_ends_of_float32(op: Activation):
    largest, least = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    ends = np.array([1e2, 1e4, 3e38, largest, least, 1e-30, 88.5, 89], np.float32)
    x = jnp.asarray(np.concatenate([ends, -ends]))
    y, dx = value_and_gradient(op, x, jnp.ones_like(x))
    assert bool(jnp.isfinite(y).all() and jnp.isfinite(dx).all())
    assert_close([op.derivative(x)], [dx], 0)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(x, np.float64))
        expected = value_and_gradient(OTHERS[op.__name__], wide, jnp.ones_like(wide))
    for actual, e in zip((y, dx), expected, strict=True):
        assert_allclose(actual, e, rtol=1e-5, atol=1e-7)


@every
def test_half_precision_is_kept_and_agrees_with_float32(op: Activation):
    x = normal((16,)).astype(jnp.bfloat16)
    actual = *value_and_gradients(op, jnp.ones_like(x), x), jax.jit(op.derivative)(x)
    assert {a.dtype for a in actual} == {jnp.dtype(jnp.bfloat16)}
    wide = x.astype(jnp.float32)
    y, dx = value_and_gradients(op, jnp.ones_like(wide), wide)
    assert_close(actual, (y, dx, dx), 2**-6)


@every
def test_integers_are_refused_and_shapes_are_kept(op: Activation):
    for function in (op, op.forward, op.derivative):
        with pytest.raises(InputError, match=rf"{op.__name__} got x \(2, 3\) of int32; expected floating point"):
            function(jnp.ones((2, 3), jnp.int32))
    for shape in ((), (0,), (2, 1, 3)):
        assert jax.eval_shape(op, jnp.ones(shape)).shape == shape
        assert jax.eval_shape(op.derivative, jnp.ones(shape)).shape == shape


def torch_functions(torch) -> dict[str, Any]:
    functional = torch.nn.functional
    return {
        "identity": torch.nn.Identity(),
        "binary_step": lambda x: torch.heaviside(x.detach(), torch.tensor(1.0)) + 0 * x,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "arctan": torch.arctan,
        "softsign": functional.softsign,
        "softplus": functional.softplus,
        "relu": functional.relu,
        "leaky_relu": functional.leaky_relu,
        "rrelu_inference": functional.rrelu,
        "elu": functional.elu,
    }


def in_torch(torch, function: Any, dy: np.ndarray | jax.Array, *arrays: Any) -> list[np.ndarray]:
    """The value and the gradient to each array."""
    tensors = [torch.tensor(np.asarray(a), requires_grad=True) for a in arrays]
    y = function(*tensors)
    y.backward(torch.tensor(np.asarray(dy)))
    return [t.detach().numpy() for t in (y, *(t.grad for t in tensors))]


def points_and(*kinks: float) -> tuple[jax.Array, jax.Array]:
    """16 points with those kinks among them, and a dy."""
    return (4 * normal((16,))).at[: len(kinks)].set(jnp.asarray(kinks)), normal((16,), 1)


@every
def test_value_and_gradient_equal_those_of_torch_at_kinks_too(torch, op: Activation):
    x, dy = points_and(0.0, *op.kinks)
    assert_close(value_and_gradient(op, x, dy), in_torch(torch, torch_functions(torch)[op.__name__], dy, x), 1e-5)


@pytest.mark.parametrize("name", [name for name in layers.ACTIVATIONS if name in ACTIVATIONS])
def test_value_and_gradient_equal_those_of_the_layers_of_the_same_name(name: str):
    # For leaky ReLU at 0, linen takes the derivative from the right; PyTorch's, and ours, is the one from the left.
    x, dy = points_and(*(() if name == "leaky_relu" else (0.0, *ACTIVATIONS[name].kinks)))
    expected = value_and_gradient(layers.ACTIVATIONS[name], x, dy)
    assert_close(value_and_gradient(ACTIVATIONS[name], x, dy), expected, 1e-5)


def test_values_by_hand():
    one = jnp.asarray([1.0])
    for name, at_minus_two, slope_there in (
        ("identity", -2, 1),
        ("binary_step", 0, 0),
        ("sigmoid", 0.119203, 0.104994),
        ("tanh", -0.964028, 0.070651),
        ("arctan", -1.107149, 0.2),
        ("softsign", -2 / 3, 1 / 9),
        ("softplus", 0.126928, 0.119203),
        ("relu", 0, 0),
        ("leaky_relu", -0.02, 0.01),
        ("rrelu_inference", -11 / 24, 11 / 48),
        ("elu", -0.864665, 0.135335),
    ):
        assert_allclose(ACTIVATIONS[name](-2 * one), at_minus_two, rtol=1e-5)
        assert_allclose(ACTIVATIONS[name].derivative(-2 * one), slope_there, rtol=1e-5)


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
        assert_close(actual, value_and_gradients(prelu_written_out, dy, x, slope), tolerance)


@pytest.mark.parametrize("slopes", [1, 3])
def test_prelu_and_its_gradients_equal_those_of_torch_at_the_kink_too(torch, slopes: int):
    x, slope, dy = normal((4, 5, 2, 3)).at[0, 0].set(0), normal((slopes,), 1), normal((4, 5, 2, 3), 2)

    def theirs(x, slope):
        return torch.nn.functional.prelu(x.permute(0, 3, 1, 2), slope).permute(0, 2, 3, 1)

    assert_close(value_and_gradients(prelu, dy, x, slope), in_torch(torch, theirs, dy, x, slope), 1e-5)


@pytest.mark.parametrize("dtypes", [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)])
def test_prelu_gives_each_gradient_its_own_type(dtypes: tuple[Any, Any]):
    arrays = [normal((4, 3)).astype(dtypes[0]), normal((3,), 1).astype(dtypes[1])]
    gradients = prelu.backward(prelu.forward(*arrays)[1], jnp.ones((4, 3)))
    assert tuple(g.dtype for g in gradients) == dtypes
    expected = value_and_gradients(prelu_written_out, jnp.ones((4, 3)), *(a.astype(jnp.float32) for a in arrays))
    assert_close(gradients, expected[1:], 2**-7)


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
    assert_close(vjp(dy), [-y * dy], 1e-6)
    assert_close([rrelu(x, jax.random.key(0))], [y], 0)
    assert not jnp.allclose(rrelu(x, jax.random.key(1)), y)
    assert_allclose(rrelu_inference(x), jnp.mean(y), rtol=0.02)


@precisions
@pytest.mark.parametrize("ends", [{}, {"lower": 0.3, "upper": 0.4}, {"lower": 0.2, "upper": 0.2}])
def test_rrelu_and_its_gradient_equal_autodiff(dtype, tolerance, ends):
    with jax.enable_x64(dtype is np.float64):
        x, dy, key = normal((4, 3), 0, dtype), normal((4, 3), 1, dtype), jax.random.key(3)
        y, dx = value_and_gradient(lambda x: rrelu(x, key, **ends), x, dy)
        expected = value_and_gradient(lambda x: rrelu.forward(x, key, **ends)[0], x, dy)
        assert_close((y, dx), expected, tolerance)
        slopes, (lower, upper) = np.asarray(y / x)[np.asarray(x) < 0], ends.values() or (1 / 8, 1 / 3)
        assert np.all((slopes >= lower - 1e-6) & (slopes <= upper + 1e-6))


def test_rrelu_equals_that_of_torch_with_the_same_slopes(torch):
    x, dy = normal((8, 9)).at[0].set(0), normal((8, 9), 1)
    torch.manual_seed(0)
    y, dx = in_torch(torch, lambda x: torch.nn.functional.rrelu(x, training=True), dy, x)
    # At 0 the slope cannot be read off the value: the gradient says it.
    slope = jnp.asarray(np.where(np.asarray(x) == 0, dx / np.asarray(dy), y / np.where(np.asarray(x) == 0, 1, x)))
    assert_close(rrelu.backward((x, slope), dy)[:1], [dx], 1e-5)
    assert stats.kstest(slope[x <= 0], stats.uniform(1 / 8, 1 / 3 - 1 / 8).cdf).pvalue > 0.01
    positive = np.asarray(x) > 0
    assert_close([rrelu(x, jax.random.key(0))[positive]], [y[positive]], 0)


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
        assert_close([y], expected[:1], tolerance)
        # Rounding is all that is left of dx where one class has all the probability: it is measured against dy.
        atol = tolerance * float(np.abs(dy).max())
        assert_allclose(dx, expected[1], rtol=0, atol=atol)
        jacobian = jax.jit(softmax_jacobian)(x)
        assert jacobian.shape == (*shape, shape[-1])
        assert_allclose(np.einsum("...i,...ij->...j", dy, jacobian), dx, rtol=0, atol=2 * atol)


def test_softmax_jacobian_equals_autodiff_in_float64():
    with jax.enable_x64(True):
        x = normal((5,), dtype=np.float64)
        assert_close([softmax_jacobian(x)], [jax.jacfwd(jax.nn.softmax)(x)], 1e-10)


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
    assert_close((y, *vjp(dy)), in_torch(torch, lambda x: torch.softmax(x, -1), dy, x), 1e-5)


def test_softmax_refuses_integers_and_no_class():
    with pytest.raises(InputError, match=r"softmax got x \(3,\) of int32"):
        softmax(jnp.ones((3,), jnp.int32))
    for shape, named in (((), r"\(\)"), ((4, 0), r"\(4, 0\)")):
        with pytest.raises(InputError, match=f"softmax got x {named}; expected at least one class"):
            softmax(jnp.ones(shape))
