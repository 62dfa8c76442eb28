"""The computation graph: every rule and every walk against autodiff, and the lectures' worked example."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.testing import assert_allclose

from jaxcnn.errors import InputError
from jaxcnn.ops import activation
from jaxcnn.ops.backprop import Layer, backpropagate
from jaxcnn.ops.dense import dense
from jaxcnn.ops.graph import RULES, Graph, trace
from jaxcnn.ops.loss import sigmoid_binary_cross_entropy

POSITIVE = {"log", "sqrt", "rsqrt", "log1p", "pow"}  # of these, the first input is positive

numbers = st.floats(0.1, 2).flatmap(lambda size: st.sampled_from([size, -size]))


def operation(name: str):
    """The operation of a rule, as jax has it."""
    if name == "integer_pow":
        return lambda x: x**3
    return RULES[name].function or getattr(lax, name)


def check_walk(graph: Graph, function, *values: float) -> None:
    """Value and gradients equal those of jax, within the precision's tolerance of the largest."""
    expected, gradients = jax.value_and_grad(function, tuple(range(len(values))))(*map(jnp.asarray, values))
    tolerance = 1e-10 if expected.dtype == np.float64 else 1e-5
    assert graph.nodes[graph.output].value.dtype == expected.dtype
    assert_allclose(graph.nodes[graph.output].value, expected, rtol=tolerance, atol=tolerance)
    actual = list(graph.gradients.values())
    assert {g.dtype for g in actual} == {expected.dtype}
    assert_allclose(actual, gradients, rtol=0, atol=tolerance * max(1, np.abs(gradients).max()))


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=15)
@given(st.data())
def test_every_rule_equals_the_derivative_by_jax(name: str, data: st.DataObject):
    function = operation(name)
    count = 2 if name in ("add", "sub", "mul", "div", "max", "min", "pow", "logaddexp") else 1
    with jax.enable_x64(True):
        values = [data.draw(numbers) for _ in range(count)]
        if name in POSITIVE:
            values[0] = abs(values[0])
        graph = trace(function if count == 2 else lambda x: function(x), *values)
        check_walk(graph, function, *values)
        # One node, so that the rule itself was compared.
        assert [node.kind for node in graph.nodes] == ["input"] * count + ["operation"]
        assert_allclose(graph.nodes[-1].local, list(graph.gradients.values()), rtol=0)


@pytest.mark.parametrize(("name", "values"), [("max", (2.0, 2.0)), ("min", (2.0, 2.0)), ("relu", (0.0,))])
def test_at_a_kink_the_derivative_is_that_of_jax(name: str, values: tuple[float, ...]):
    check_walk(trace(operation(name), *values), operation(name), *values)


def test_the_magnitude_of_zero_has_the_derivative_between_those_of_both_sides():
    assert trace(jnp.abs, 0.0).gradients == {"x": 0}
    assert trace(lambda x: activation.softplus(x), 0.0).gradients == {"x": 0.5}  # it takes max(x, 0) and |x| apart


def logistic_loss(x, w, b, y):
    s = jax.nn.sigmoid(x * w + b)
    return -y * jnp.log(s) - (1 - y) * jnp.log(1 - s)


def test_logistic_loss_has_the_lectures_numbers():
    """z = 0, s = 1/2: l = log 2, dl/db = s - y, dl/dw = (s - y) x; by the graph, the layers and autodiff."""
    x, w, b, y = 1.2, 0.5, -0.6, 1.0
    graph = trace(logistic_loss, x, w, b, y)
    assert_allclose(graph.nodes[graph.output].value, 0.693147, atol=1e-6)
    expected = {"x": -0.25, "w": -0.6, "b": -0.5, "y": 0}
    assert list(graph.gradients) == list(expected)
    assert_allclose(list(graph.gradients.values()), list(expected.values()), atol=1e-6)
    check_walk(graph, logistic_loss, x, w, b, y)

    values = {node.name: node.value for node in graph.nodes if node.name in ("×", "σ")}  # noqa: RUF001
    assert_allclose(values["σ"], 0.5, atol=1e-7)  # noqa: RUF001
    (sigmoid,) = (node for node in graph.nodes if node.name == "σ")  # noqa: RUF001
    assert_allclose([*sigmoid.local, sigmoid.gradient], [0.25, -2], atol=1e-6)

    layers = [Layer(dense, jnp.asarray([[w]]), jnp.asarray([b]))]
    by_layers = backpropagate(layers, jnp.asarray([[x]]), sigmoid_binary_cross_entropy, jnp.asarray([[y]]))
    (dw, db), dx = by_layers.dweights[0], by_layers.gradients[0]
    assert_allclose([by_layers.loss, dw.item(), db.item(), dx.item()], [0.693147, -0.6, -0.5, -0.25], atol=1e-6)


def product_of_sum(x, y, z):
    return (x + y) * z


def neuron(w0, x0, w1, x1, w2):
    return 1 / (1 + jnp.exp(-(w0 * x0 + w1 * x1 + w2)))


def shared(x, y):
    s = jnp.sin(x * y)
    t = s * s + x
    return t * jnp.exp(-s) / (1 + t**2) + jnp.maximum(s, 0) * jnp.log1p(y**2)


def twice(x):
    return x * x + x


def nested(x, y):
    inner = jax.jit(lambda a, b: jnp.tanh(a) * b)
    outer = jax.jit(lambda a: inner(a, y) + jax.checkpoint(jnp.cos)(a))
    return outer(x * y) + jax.nn.silu(x) + jax.nn.softplus(x) + jax.nn.relu(y) + jnp.clip(x, 0, 1) + jnp.sum(y)


def by_hand(x, y):
    return activation.sigmoid(x) * activation.softplus(y) + activation.arctan(x * y)


@pytest.mark.parametrize("function", [product_of_sum, neuron, shared, twice, nested, by_hand, logistic_loss])
@settings(deadline=None, max_examples=5)
@given(st.data())
def test_the_walk_through_composed_functions_equals_autodiff(function, data: st.DataObject):
    values = [data.draw(numbers) for _ in range(function.__code__.co_argcount)]
    with jax.enable_x64(True):
        check_walk(trace(function, *values), function, *values)


def test_in_single_precision_the_walk_equals_autodiff():
    check_walk(trace(shared, 0.7, -1.3), shared, 0.7, -1.3)
    check_walk(trace(nested, 0.7, -1.3), nested, 0.7, -1.3)


def test_sum_times_factor_has_the_textbooks_numbers():
    graph = trace(product_of_sum, -2.0, 5.0, -4.0)
    assert [(n.name, n.kind, n.inputs) for n in graph.nodes] == [
        ("x", "input", ()),
        ("y", "input", ()),
        ("z", "input", ()),
        ("+", "operation", (0, 1)),
        ("×", "operation", (3, 2)),  # noqa: RUF001
    ]
    assert [float(n.value) for n in graph.nodes] == [-2, 5, -4, 3, -12]
    assert [float(n.gradient) for n in graph.nodes if n.gradient is not None] == [-4, -4, 3, -4, 1]
    assert [tuple(map(float, n.local)) for n in graph.nodes if None not in n.local] == [(), (), (), (1, 1), (-4, 3)]
    assert graph.output == 4


def test_the_printed_walk_shows_values_and_chain_rule():
    assert str(trace(product_of_sum, -2.0, 5.0, -4.0)).splitlines() == [
        "forward",
        "  x = -2",
        "  y = 5",
        "  z = -4",
        "  v1 = x + y = 3",
        "  v2 = v1 × z = -12",  # noqa: RUF001
        "backward",
        "  dL/dv2 = 1",
        "  dL/dv1 = dL/dv2 · -4 = -4",
        "  dL/dz = dL/dv2 · 3 = 3",
        "  dL/dy = dL/dv1 · 1 = -4",
        "  dL/dx = dL/dv1 · 1 = -4",
    ]


def test_rows_name_operations_apart_from_inputs_and_sum_over_all_uses():
    rows = trace(lambda v1: jnp.maximum(v1**2 * v1, 0) - jnp.exp(-v1), 2.0).rows
    assert [(row.label, row.expression) for row in rows] == [
        ("v1", ""),
        ("v2", "v1^2"),
        ("v3", "v2 × v1"),  # noqa: RUF001
        ("v4", "max(v3, 0)"),
        ("v5", "neg(v1)"),
        ("v6", "exp(v5)"),
        ("v7", "v4 − v6"),  # noqa: RUF001
    ]
    assert rows[0].chain == "dL/dv2 · 4 + dL/dv3 · 4 + dL/dv5 · -1"
    assert rows[0].gradient == pytest.approx(12 + np.exp(-2))


def test_constants_have_a_value_but_no_derivative():
    graph = trace(lambda x: 2.5 * x + jnp.asarray(-1.0), 3)
    constants = [node for node in graph.nodes if node.kind == "constant"]
    assert [(node.name, float(node.value), node.gradient) for node in constants] == [
        ("2.5", 2.5, None),
        ("−1", -1, None),  # noqa: RUF001
    ]
    (product,) = (node for node in graph.nodes if node.name == "×")  # noqa: RUF001
    assert product.local[0] is None
    assert product.local[1] == 2.5


def test_a_negative_base_to_a_constant_power_has_a_finite_gradient():
    assert trace(lambda x: x**2.0, -3.0).gradients == {"x": -6}


def test_inputs_that_are_not_used_or_are_the_result():
    assert trace(lambda x, y: x, 2.0, 3.0).gradients == {"x": 1, "y": 0}
    constant = trace(lambda x: jnp.asarray(7.0), 2.0)
    assert constant.gradients == {"x": 0}
    assert constant.nodes[constant.output].value == 7


def test_several_parameters_under_one_name_are_numbered():
    assert list(trace(lambda x, *w: x * w[0] + w[1], 1.0, 2.0, 3.0).gradients) == ["x", "w0", "w1"]


def test_a_function_called_relu_is_taken_for_what_it_does():
    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x, 0) * 3

    relu.defjvps(lambda dx, y, x: 3 * dx * (x > 0))
    assert "ReLU" not in [node.name for node in trace(relu, 2.0).nodes]
    assert trace(relu, 2.0).gradients == {"x": 3}
    assert "ReLU" in [node.name for node in trace(jax.nn.relu, 2.0).nodes]


def test_a_precision_is_taken_from_jax_not_from_the_numbers():
    assert trace(jnp.sin, np.float64(1)).nodes[0].value.dtype == np.float32
    with jax.enable_x64(True):
        assert trace(jnp.sin, np.float32(1)).nodes[0].value.dtype == np.float64


def loop(x):
    return lax.fori_loop(0, 3, lambda _, y: y * x, 1.0)


def choice(x):
    return jnp.where(x > 0, x, 2 * x)


@pytest.mark.parametrize(("function", "name"), [(loop, "scan"), (choice, "gt"), (jnp.floor, "floor")])
def test_an_operation_without_a_rule_is_named_beside_those_that_have_one(function, name: str):
    with pytest.raises(InputError, match=f"no rule for '{name}' giving [a-z0-9]+; known: abs, add, .*, tanh"):
        trace(function, 2.0)


def quotient(x):
    return x * lax.div(jnp.asarray(7), jnp.asarray(2)).astype(x.dtype)


@pytest.mark.parametrize(
    ("function", "name"), [(lambda x: x * x.astype(int), "convert_element_type"), (quotient, "div")]
)
def test_operations_on_integers_are_not_taken_for_those_on_real_numbers(function, name: str):
    with pytest.raises(InputError, match=f"no rule for '{name}' giving int32; known"):
        trace(function, 2.7)


def test_a_constant_may_be_an_integer():
    check_walk(trace(lambda x: x * jnp.asarray(2) + jnp.full((), 3), 2.7), lambda x: 2 * x + 3, 2.7)


def test_arrays_are_refused_with_their_shape():
    with pytest.raises(InputError, match=r"w has shape \(2,\); expected a scalar"):
        trace(lambda x, w: x * jnp.sum(w), 1.0, np.ones(2))
    with pytest.raises(InputError, match=r"result has shape \(3,\); expected one scalar"):
        trace(lambda x: x * jnp.ones(3), 1.0)
    with pytest.raises(InputError, match=r"result has shape \(\), \(\); expected one scalar"):
        trace(lambda x: (x, x), 1.0)
    with pytest.raises(InputError, match=r"array of shape \(2,\); expected scalars throughout"):
        trace(lambda x: jnp.sum(jnp.stack([x, x])), 1.0)
    with pytest.raises(InputError, match=r"a constant has shape \(2,\); expected a scalar"):
        trace(functools.partial(lambda w, x: x * jnp.sum(w), jnp.ones(2)), 1.0)
