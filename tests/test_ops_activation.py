"""Every activation of one array against finite differences, other formulations, PyTorch and the layers' own."""

from __future__ import annotations

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
from jaxcnn.layers import activations as layers
from jaxcnn.ops import activation
from jaxcnn.ops.activation import ACTIVATIONS, Activation, rrelu_inference, sigmoid

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
    "rrelu_inference": {"lower": st.floats(0, 1 / 3), "upper": st.floats(1 / 3, 0.9)},
    "elu": {"alpha": st.floats(0.25, 2)},
}

every = pytest.mark.parametrize("op", ACTIVATIONS.values(), ids=ACTIVATIONS)
precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-10)])


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@st.composite
def cases(draw: Any, op: Activation) -> tuple[np.ndarray, dict[str, float]]:
    """Points off the kinks, two of which have a derivative of a usual size, and options."""
    number = st.floats(-12, 12).filter(lambda x: all(abs(x - kink) > 1e-3 for kink in (*op.kinks, 0)))
    options = st.fixed_dictionaries({}, optional=OPTIONS.get(op.__name__, {}))
    return np.asarray([-0.5, 0.5, *draw(st.lists(number, min_size=6, max_size=6))]), draw(options)


def value_and_gradient(function: Any, x: jax.Array, dy: jax.Array, **options: float) -> tuple[jax.Array, jax.Array]:
    """The value and dy times its derivative, one operation at a time: no new compilation for new options."""
    y, vjp = jax.vjp(lambda x: function(x, **options), x)
    return y, vjp(dy)[0]


def test_every_activation_of_the_module_is_registered_under_its_name_and_described():
    found = {name: value for name, value in vars(activation).items() if isinstance(value, Activation)}
    assert found == ACTIVATIONS
    assert all("dy/dx" in (op.__doc__ or "") for op in found.values())


@every
@settings(deadline=None, max_examples=7)
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
        assert_arrays_close((y, dx), value_and_gradient(OTHERS[op.__name__], x, dy, **options), tolerance)
        assert_arrays_close([op.derivative(x, **options) * dy], [dx], tolerance)


@every
def test_second_order_gradient_equals_autodiff_in_float64(op: Activation):
    def second(function):
        def of_gradient(x):
            return jnp.sum(jnp.sin(jax.grad(lambda x: jnp.sum(function(x) ** 2))(x)))

        return jax.jit(jax.grad(of_gradient))

    with jax.enable_x64(True):
        x = normal((8,), dtype=np.float64)
        assert_arrays_close([second(op)(x)], [second(OTHERS[op.__name__])(x)], 1e-10)
        far = jnp.asarray([1e4, -1e4])
        assert bool(jnp.isfinite(second(op)(far)).all())


@pytest.mark.parametrize("x", [-1e4, -90.0, -20.0, 0.5, 20.0, 90.0, 1e4])
def test_the_second_derivative_of_x_sigmoid_of_x_is_right_where_exp_overflows(x: float):
    def second(function):
        return jax.grad(jax.grad(lambda x: function(x) * x))

    with jax.enable_x64(True):
        expected = second(jax.nn.sigmoid)(jnp.asarray(x))
    for function in (sigmoid, lambda x: sigmoid.forward(x)[0]):
        assert_allclose(second(function)(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-7)


@every
def test_value_and_derivative_are_finite_and_right_at_the_ends_of_float32(op: Activation):
    largest, least = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    ends = np.array([1e2, 1e4, 3e38, largest, least, 1e-30, 88.5, 89], np.float32)
    x = jnp.asarray(np.concatenate([ends, -ends]))
    y, dx = value_and_gradient(op, x, jnp.ones_like(x))
    assert bool(jnp.isfinite(y).all() and jnp.isfinite(dx).all())
    assert_arrays_close([op.derivative(x)], [dx], 0)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(x, np.float64))
        expected = value_and_gradient(OTHERS[op.__name__], wide, jnp.ones_like(wide))
    for actual, e in zip((y, dx), expected, strict=True):
        assert_allclose(actual, e, rtol=1e-5, atol=1e-7)


@every
def test_half_precision_is_kept_and_agrees_with_float32(op: Activation):
    x = normal((16,)).astype(jnp.bfloat16)
    actual = *jax.jit(value_and_gradient, static_argnums=0)(op, x, jnp.ones_like(x)), jax.jit(op.derivative)(x)
    assert {a.dtype for a in actual} == {jnp.dtype(jnp.bfloat16)}
    wide = x.astype(jnp.float32)
    y, dx = value_and_gradient(op, wide, jnp.ones_like(wide))
    assert_arrays_close(actual, (y, dx, dx), 2**-6)


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


def in_torch(torch, function: Any, dy: jax.Array, x: jax.Array) -> list[np.ndarray]:
    """The value and the gradient."""
    tensor = torch.tensor(np.asarray(x), requires_grad=True)
    y = function(tensor)
    y.backward(torch.tensor(np.asarray(dy)))
    return [y.detach().numpy(), tensor.grad.numpy()]


def points_and(*kinks: float) -> tuple[jax.Array, jax.Array]:
    """16 points with those kinks among them, and a dy."""
    return (4 * normal((16,))).at[: len(kinks)].set(jnp.asarray(kinks)), normal((16,), 1)


@every
def test_value_and_gradient_equal_those_of_torch_at_kinks_too(torch, op: Activation):
    x, dy = points_and(0.0, *op.kinks)
    assert_arrays_close(
        value_and_gradient(op, x, dy), in_torch(torch, torch_functions(torch)[op.__name__], dy, x), 1e-5
    )


@pytest.mark.parametrize("name", [name for name in layers.ACTIVATIONS if name in ACTIVATIONS])
def test_value_and_gradient_equal_those_of_the_layers_of_the_same_name(name: str):
    # For leaky ReLU at 0, linen takes the derivative from the right; PyTorch's, and ours, is the one from the left.
    x, dy = points_and(*(() if name == "leaky_relu" else (0.0, *ACTIVATIONS[name].kinks)))
    expected = value_and_gradient(layers.ACTIVATIONS[name], x, dy)
    assert_arrays_close(value_and_gradient(ACTIVATIONS[name], x, dy), expected, 1e-5)


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


def test_rrelu_inference_refuses_slopes_in_the_wrong_order():
    for function in (rrelu_inference, rrelu_inference.derivative):
        with pytest.raises(InputError, match=r"rrelu_inference got lower 0.5 and upper 0.1; expected lower <= upper"):
            function(jnp.ones((2,)), lower=0.5, upper=0.1)
