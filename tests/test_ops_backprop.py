"""Layer-wise backpropagation against autodiff, products of Jacobian matrices and the lectures' closed forms."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.testing import assert_allclose

from jaxcnn.errors import InputError
from jaxcnn.ops.activation import arctan, relu, sigmoid, tanh
from jaxcnn.ops.backprop import Backpropagation, Layer, backpropagate, by_autodiff, flatten
from jaxcnn.ops.convolution import convolution
from jaxcnn.ops.dense import dense
from jaxcnn.ops.dropout import dropout
from jaxcnn.ops.loss import (
    euclidean_loss,
    mean_squared_error,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
)
from jaxcnn.ops.op import Op
from jaxcnn.ops.pooling import max_pool


def normal(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    """Standard normal numbers of the default precision."""
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), float)


def assert_close(actual: Any, expected: Any) -> None:
    """Within the tolerance of the precision, relative to the largest expected magnitude, leaf by leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        tolerance = 1e-10 if e.dtype == np.float64 else 1e-5
        assert_allclose(a, e, rtol=0, atol=tolerance * max(np.abs(e).max(initial=0), 1e-3))


def first_maximum(x: jax.Array, *, window: int) -> jax.Array:
    """Max pooling by XLA, whose derivative goes to the first of equal values; ReLU makes many equal zeros."""
    sizes = (1, window, window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, sizes, "VALID")


def by_hand(layers: list[Layer], x: jax.Array, loss: Any, *targets: jax.Array) -> Backpropagation:
    """The algorithm, compiled as one; step by step, every small operation would be compiled alone."""
    return jax.jit(lambda x: backpropagate(layers, x, loss, *targets))(x)


def by_jax(layers: list[Layer], x: jax.Array, loss: Any, *targets: jax.Array) -> Backpropagation:
    """The same numbers by autodiff of the forward passes: G_l is the derivative of all that comes after X_l."""

    def run(x: jax.Array, weights: list[tuple[jax.Array, ...]], start: int) -> tuple[jax.Array, list[jax.Array]]:
        outputs = [x]
        for layer, own in zip(layers[start:], weights[start:], strict=True):
            function = first_maximum if layer.op is max_pool else lambda *a, op=layer.op, **o: op.forward(*a, **o)[0]
            outputs.append(function(outputs[-1], *own, **layer.options))
        return loss.forward(outputs[-1], *targets)[0], outputs

    @jax.jit
    def differentiate(x: jax.Array, weights: list[tuple[jax.Array, ...]]) -> Backpropagation:
        value, outputs = run(x, weights, 0)
        gradients = [jax.grad(run, has_aux=True)(z, weights, i)[0] for i, z in enumerate(outputs)]
        dweights = jax.grad(run, argnums=1, has_aux=True)(x, weights, 0)[0]
        return Backpropagation(value, tuple(outputs), tuple(gradients), tuple(dweights))

    return differentiate(x, [layer.weights for layer in layers])


def matrix_product(x, weights):
    """Y = X W, which has no backward pass by hand."""
    return x @ weights


def perceptron(sizes: list[int], activation: Op) -> list[Layer]:
    layers = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [Layer(dense, normal((inputs, outputs), i), normal((outputs,), i)), Layer(activation)]
    return layers[:-1]


def convolutional() -> list[Layer]:
    return [
        Layer(convolution, normal((3, 3, 2, 4)), padding=1),
        Layer(relu),
        Layer(max_pool, window=2),
        Layer(flatten),
        Layer(dense, normal((36, 3)), normal((3,))),
    ]


@settings(deadline=None, max_examples=4)
@given(
    st.lists(st.sampled_from([1, 3]), min_size=2, max_size=4),
    st.sampled_from([1, 2]),
    st.sampled_from([relu, tanh, sigmoid]),
)
def test_perceptrons_of_any_size_equal_autodiff(sizes: list[int], batch: int, activation: Op):
    layers, x = perceptron(sizes, activation), normal((batch, sizes[0]))
    targets = normal((batch, sizes[-1]), 9)
    expected = by_jax(layers, x, mean_squared_error, targets)
    assert_close(by_hand(layers, x, mean_squared_error, targets), expected)


@pytest.mark.parametrize("x64", [False, True])
def test_a_convolutional_network_equals_autodiff(x64: bool):
    with jax.enable_x64(x64):
        layers, x, labels = convolutional(), normal((2, 7, 6, 2)), jnp.asarray([2, 0])
        actual = by_hand(layers, x, softmax_cross_entropy, labels)
        assert_close(actual, by_jax(layers, x, softmax_cross_entropy, labels))
        assert [z.shape for z in actual.outputs] == [
            (2, 7, 6, 2),
            (2, 7, 6, 4),
            (2, 7, 6, 4),
            (2, 3, 3, 4),
            (2, 36),
            (2, 3),
        ]
        assert [len(dw) for dw in actual.dweights] == [1, 0, 0, 0, 2]
        assert actual.loss.dtype == (np.float64 if x64 else np.float32)


def test_a_step_down_the_gradient_lowers_the_loss():
    layers, x, labels = convolutional(), normal((2, 6, 6, 2)), jnp.asarray([2, 0])
    before = by_hand(layers, x, softmax_cross_entropy, labels)
    slope = sum(float(jnp.sum(d**2)) for dw in before.dweights for d in dw if d is not None)
    for layer, dw in zip(layers, before.dweights, strict=True):
        layer.weights = tuple(w - 1e-4 * d for w, d in zip(layer.weights, dw, strict=True))
    after = by_hand(layers, x, softmax_cross_entropy, labels)
    assert float(before.loss - after.loss) == pytest.approx(1e-4 * slope, rel=0.1)


@pytest.mark.slow
def test_every_gradient_is_the_product_of_the_jacobian_matrices():
    """G df_l/df_{l-1} and G df_l/dW_l with the matrices written out, which the algorithm never forms."""
    with jax.enable_x64(True):
        layers = [
            Layer(convolution, normal((2, 2, 1, 2))),
            Layer(arctan),
            Layer(flatten),
            Layer(dense, normal((24, 3)), normal((3,))),
            Layer(tanh),
        ]
        x, y = normal((1, 4, 5, 1)), normal((1, 3), 1)
        actual = by_hand(layers, x, euclidean_loss, y)

        loss = by_autodiff(lambda z: jnp.sqrt(jnp.sum((z - y) ** 2) / 2))
        g = jax.jacobian(loss)(actual.outputs[-1]).reshape(1, -1)
        assert_close(actual.gradients[-1].reshape(1, -1), g)
        steps = zip(layers, actual.outputs[:-1], actual.gradients[:-1], actual.dweights, strict=True)
        for layer, x_before, dx, dweights in reversed(list(steps)):
            arguments = (x_before, *layer.weights)
            function = partial(lambda layer, *a: layer.op.forward(*a, **layer.options)[0], layer)
            jacobians = jax.jit(jax.jacobian(function, tuple(range(len(arguments)))))(*arguments)
            of_x, *of_weights = (j.reshape(g.size, a.size) for j, a in zip(jacobians, arguments, strict=True))
            for dw, matrix in zip(dweights, of_weights, strict=True):
                assert_close(dw, (g @ matrix).reshape(dw.shape))
            g = g @ of_x
            assert_close(dx, g.reshape(dx.shape))


@pytest.mark.slow
def test_hidden_layer_of_arctangents_equals_the_closed_form():
    """z = arctan(W x) from 3 to 4 and y_hat = V z to 2, with the square root of half the squared error."""
    with jax.enable_x64(True):
        w, v = normal((4, 3)), normal((2, 4))
        x, y = normal((3,)), normal((2,), 1)
        layers = [
            Layer(dense, w.T, jnp.zeros(4)),
            Layer(arctan),
            Layer(dense, v.T, jnp.zeros(2)),
        ]
        actual = backpropagate(layers, x[None], euclidean_loss, y[None])

        z = np.arctan(np.asarray(w) @ x)
        error = np.asarray(v) @ z - y
        loss = np.sqrt(np.sum(error**2) / 2)
        dv = [[error[j] * z[k] / (2 * loss) for k in range(4)] for j in range(2)]
        back = [sum(error[j] * v[j, k] / (2 * loss) for j in range(2)) for k in range(4)]
        dw = [[x[i] / (np.tan(z[k]) ** 2 + 1) * back[k] for i in range(3)] for k in range(4)]
        assert_allclose(actual.loss, loss, rtol=1e-10)
        assert_allclose(actual.dweights[2][0].T, dv, rtol=1e-10)
        assert_allclose(actual.dweights[0][0].T, dw, rtol=1e-10)

        by_grad = jax.grad(lambda w, v: jnp.sqrt(jnp.sum((v @ jnp.arctan(w @ x) - y) ** 2) / 2), (0, 1))(w, v)
        assert_allclose(by_grad[0], dw, rtol=1e-10)
        assert_allclose(by_grad[1], dv, rtol=1e-10)


def test_logistic_regression_of_one_example_has_the_lectures_numbers():
    layers = [Layer(dense, jnp.asarray([[0.5]]), jnp.asarray([-0.6]))]
    result = backpropagate(layers, jnp.asarray([[1.2]]), sigmoid_binary_cross_entropy, jnp.asarray([[1.0]]))
    assert_allclose(result.loss, 0.693147, atol=1e-6)
    (dw, db), (dx, dz) = result.dweights[0], result.gradients
    assert_allclose([dw.item(), db.item(), dx.item(), dz.item()], [-0.6, -0.5, -0.25, -0.5], atol=1e-6)


def test_plain_functions_are_layers_and_losses_too():
    x, weights, y = normal((3, 4)), normal((4, 2)), normal((3, 2), 1)

    def scaled(x, factor, *, power):
        return factor * x**power

    layers = [Layer(matrix_product, weights), Layer(scaled, jnp.asarray(0.7), power=3), Layer(jnp.transpose)]
    actual = backpropagate(layers, x, lambda z, y: jnp.mean((z.T - y) ** 2), y)
    dx, dw, df = jax.grad(lambda x, w, f: jnp.mean((f * (x @ w) ** 3 - y) ** 2), (0, 1, 2))(
        x, weights, jnp.asarray(0.7)
    )
    assert_close((actual.gradients[0], actual.dweights), (dx, ((dw,), (df,), ())))
    assert repr(layers[0].op) == "Op(matrix_product)"


def test_no_layers_leave_the_loss_alone():
    x, y = normal((3, 2)), normal((3, 2), 1)
    result = backpropagate([], x, mean_squared_error, y)
    assert_close(result, Backpropagation(mean_squared_error(x, y), (x,), (2 * (x - y) / 3,), ()))


def test_random_keys_have_no_derivative():
    x, y = normal((3, 2)), normal((3, 2), 1)
    layers = [Layer(dropout, jax.random.key(0), rate=0.5)]
    actual = backpropagate(layers, x, mean_squared_error, y)
    assert actual.dweights == ((None,),)
    assert_close(actual.gradients[0], jax.grad(lambda x: mean_squared_error(layers[0].forward(x)[0], y))(x))


def test_options_reach_the_loss():
    def power_loss(z, y, *, power):
        return jnp.mean(jnp.abs(z - y) ** power)

    x, y = normal((3, 2)), normal((3, 2), 1)
    actual = backpropagate([Layer(tanh)], x, power_loss, y, power=4)
    assert_close(actual.gradients[0], jax.grad(lambda x: jnp.mean((jnp.tanh(x) - y) ** 4))(x))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_flatten_equals_reshape_and_autodiff(shape: list[int]):
    x = normal(tuple(shape))
    z, saved = flatten.forward(x)
    assert z.shape == (shape[0], int(np.prod(shape[1:])))
    assert np.asarray(z).ravel().tolist() == np.asarray(x).ravel().tolist()
    dz = normal(z.shape, 1)
    assert_close(flatten.backward(saved, dz), jax.vjp(lambda x: flatten.forward(x)[0], x)[1](dz))


def test_flatten_runs_over_channels_fastest_as_the_formula_says():
    x = normal((2, 3, 4, 5))
    z = flatten(x)
    assert all(z[n, (h * 4 + w) * 5 + c] == x[n, h, w, c] for n, h, w, c in [(0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 2, 3)])


def test_a_layer_that_does_not_fit_is_named():
    layers = [Layer(tanh), Layer(convolution, jnp.ones((3, 3, 4, 2))), Layer(tanh)]
    with pytest.raises(InputError, match=r"^layer 2 \(convolution\): .*\(1, 5, 5, 3\).*\(3, 3, 4, 2\)"):
        backpropagate(layers, jnp.ones((1, 5, 5, 3)), mean_squared_error, jnp.ones((1, 2)))
    with pytest.raises(InputError, match=r"^loss \(mean_squared_error\): .*\(1, 3, 3, 2\).*\(1, 3\)"):
        backpropagate(layers, jnp.ones((1, 5, 5, 4)), mean_squared_error, jnp.ones((1, 3)))


def test_what_a_plain_function_raises_says_where():
    with pytest.raises(TypeError) as caught:
        backpropagate([Layer(matrix_product, jnp.ones((4, 2)))], jnp.ones((1, 3)), mean_squared_error, jnp.ones((1, 2)))
    assert "This happened in layer 1 (matrix_product)." in caught.value.__notes__


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(InputError, match=r"loss \(tanh\) has shape \(1, 3\); expected a scalar"):
        backpropagate([], jnp.ones((1, 3)), tanh)


@pytest.mark.parametrize(
    ("x", "message"), [(jnp.ones((2, 3), int), r"\(2, 3\) of int32"), (jnp.ones(()), r"shape \(\)")]
)
def test_flatten_refuses_integers_and_scalars(x: jax.Array, message: str):
    with pytest.raises(InputError, match=message):
        flatten(x)
