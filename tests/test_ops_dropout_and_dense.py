"""Dropout and the fully connected layer by hand against autodiff, PyTorch and the lectures' numbers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxcnn.analysis.summary import table
from jaxcnn.errors import InputError
from jaxcnn.ops.dense import dense
from jaxcnn.ops.dropout import dropout

PRECISIONS = {np.float32: 1e-5, np.float64: 1e-10}
precisions = st.sampled_from([*PRECISIONS])


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@settings(deadline=None, max_examples=5)
@given(st.lists(st.integers(1, 4), max_size=4).map(tuple), st.sampled_from([0.0, 0.1, 0.5, 0.9]), precisions)
def test_dropout_equals_autodiff_of_a_selection_by_the_same_key(shape, rate, dtype):
    with jax.enable_x64(dtype == np.float64):
        x, dy, key = normal(shape, 0, dtype), normal(shape, 1, dtype), jax.random.key(3)
        y, gradients = value_and_gradients(lambda x: dropout(x, key, rate=rate), [x], dy)
        assert {v.dtype for v in (y, *gradients)} == {np.dtype(dtype)}
        kept = jax.random.bernoulli(key, 1 - rate, shape)
        expected = value_and_gradients(lambda x: jnp.where(kept, x / (1 - rate), 0), [x], dy)
        assert_close((y, gradients), expected, PRECISIONS[dtype])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate):
    n = 200_000
    y = np.asarray(dropout(jnp.full(n, 3.0), jax.random.key(0), rate=rate), np.float64)
    # Five standard errors of a mean of n draws.
    assert abs(np.mean(y == 0) - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    assert abs(y.mean() - 3) < 5 * 3 * np.sqrt(rate / (1 - rate) / n)
    assert_allclose(np.unique(y), [0, 3 / (1 - rate)], rtol=1e-6)


def test_the_gradient_passes_the_mask_of_the_value():
    x, key = jnp.ones((20, 30)), jax.random.key(1)
    dx = jax.grad(lambda x: jnp.sum(dropout(x, key, rate=0.4)))(x)
    assert_allclose(dx, dropout(x, key, rate=0.4), rtol=0)
    assert 0 < np.count_nonzero(dx) < dx.size


def test_the_same_key_gives_the_same_mask_and_another_key_another():
    x = jnp.ones((20, 30))
    first, again, other = (dropout(x, jax.random.key(seed), rate=0.5) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_rate_of_zero_is_the_identity():
    x, key = jnp.asarray(normal((4, 5))), jax.random.key(0)
    y, saved = dropout.forward(x, key, rate=0.0)
    assert y.tolist() == x.tolist()
    assert jax.tree.leaves(dropout.backward(saved, x, rate=0.0))[0].tolist() == x.tolist()


def test_gradients_equal_autodiff_through_the_forward_passes():
    with jax.enable_x64(True):
        x, weights, bias = (normal(s, i, np.float64) for i, s in enumerate([(4, 3), (3, 2), (2,)]))
        key = jax.random.key(0)
        by_hand = value_and_gradients(dense, [x, weights, bias], x[:, :2])
        through = value_and_gradients(lambda *a: dense.forward(*a)[0], [x, weights, bias], x[:, :2])
        assert_close(by_hand, through, 1e-10)
        by_hand = value_and_gradients(lambda x: dropout(x, key, rate=0.4), [x], x**2)
        through = value_and_gradients(lambda x: dropout.forward(x, key, rate=0.4)[0], [x], x**2)
        assert_close(by_hand, through, 1e-10)


def test_the_key_has_no_gradient():
    x, key = jnp.ones((4, 5)), jax.random.key(0)
    _, saved = dropout.forward(x, key, rate=0.5)
    assert dropout.backward(saved, x, rate=0.5)[1] is None
    _, vjp = jax.vjp(lambda x, key: dropout(x, key, rate=0.5), x, key)
    dx, dkey = vjp(x)
    assert dx.tolist() == saved.tolist()
    assert dkey.dtype == jax.dtypes.float0


def test_dropout_scales_values_and_gradients_as_pytorch_does(torch):
    theirs = torch.ones(500, requires_grad=True)
    y = torch.nn.functional.dropout(theirs, 0.3, training=True)
    y.sum().backward()
    ours, (dx,) = value_and_gradients(lambda x: dropout(x, jax.random.key(0), rate=0.3), [jnp.ones(500)], jnp.ones(500))
    assert_allclose(np.unique(ours), np.unique(y.detach().numpy()), rtol=1e-6)
    assert_allclose(np.unique(dx), np.unique(theirs.grad.numpy()), rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_zero_and_one_is_refused(rate):
    with pytest.raises(InputError, match=rf"dropout got rate {rate} for input \(2, 3\); .* \[0, 1\)"):
        dropout(jnp.ones((2, 3)), jax.random.key(0), rate=rate)


@settings(deadline=None, max_examples=5)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), precisions)
def test_dense_equals_autodiff(n, inputs, outputs, dtype):
    with jax.enable_x64(dtype == np.float64):
        arrays = [normal(s, i, dtype) for i, s in enumerate([(n, inputs), (inputs, outputs), (outputs,)])]
        dy = normal((n, outputs), 3, dtype)
        y, gradients = value_and_gradients(dense, arrays, dy)
        assert {v.dtype for v in (y, *gradients)} == {np.dtype(dtype)}

        def one_example(x, weights, bias):
            return jnp.einsum("i,io->o", x, weights) + bias

        expected = value_and_gradients(jax.vmap(one_example, (0, None, None)), arrays, dy)
        assert_close((y, gradients), expected, PRECISIONS[dtype])


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_dense_equals_pytorch(torch, n, inputs, outputs):
    arrays = [normal(s, i) for i, s in enumerate([(n, inputs), (inputs, outputs), (outputs,)])]
    dy = normal((n, outputs), 3)
    x, weights, bias = (torch.tensor(v, requires_grad=True) for v in arrays)
    y = torch.nn.functional.linear(x, weights.T, bias)
    y.backward(torch.tensor(dy))
    expected = y.detach().numpy(), tuple(v.grad.numpy() for v in (x, weights, bias))
    assert_close(value_and_gradients(dense, arrays, dy), expected, 1e-5)


def test_a_thousand_units_on_an_image_have_thirty_million_weights():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(1000, use_bias=False, name="units")(images.reshape(len(images), -1))

    def by_hand(key):
        images = jnp.zeros((1, 100, 100, 3))
        weights = Network().init(key, images, train=False)["params"]["units"]["kernel"]
        return dense(images.reshape(1, -1), weights, jnp.zeros(1000))

    assert table(Network(), (100, 100, 3)).totals.parameters == 30_000_000
    assert jax.eval_shape(by_hand, jax.random.key(0)).shape == (1, 1000)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_derivative_of_a_quadratic_form(symmetric: bool):
    with jax.enable_x64(True):
        q, x = jnp.asarray(normal((5, 5), 0, np.float64)), jnp.asarray(normal((5,), 1, np.float64))
        q = q + q.T if symmetric else q
        row, column, none = x.reshape(1, 5), x.reshape(5, 1), jnp.zeros(5)

        # Y = (X^T Q) X: the first product takes X as its input, the second as its weights.
        h, first = dense.forward(row, q, none)
        y, second = dense.forward(h, column, none[:1])
        dh, dcolumn, _ = dense.backward(second, jnp.ones((1, 1)))
        drow, _, _ = dense.backward(first, dh)
        assert drow is not None
        assert dcolumn is not None
        dx = drow.reshape(5) + dcolumn.reshape(5)
        by_jax = jax.grad(lambda x: dense(dense(x.reshape(1, 5), q, none), x.reshape(5, 1), none[:1])[0, 0])(x)

        assert_allclose(y[0, 0], x @ q @ x, rtol=1e-10)
        for gradient in (dx, by_jax):
            assert_close(gradient, (q + q.T) @ x, 1e-10)
            if symmetric:
                assert_close(gradient, 2 * q @ x, 1e-10)
            else:
                with pytest.raises(AssertionError):
                    assert_close(gradient, 2 * q @ x, 1e-2)


@pytest.mark.parametrize(
    ("x", "weights", "bias"),
    [
        ((2, 3), (4, 5), (5,)),
        ((2, 3), (3, 5), (4,)),
        ((2, 2, 3), (3, 5), (5,)),
        ((3,), (3, 5), (5,)),
        ((2, 3), (3,), ()),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(unchecked, x, weights, bias):
    with pytest.raises(InputError) as caught:
        dense(jnp.ones(x), jnp.ones(weights), jnp.ones(bias))
    given = f"dense got x {x}, weights {weights} and bias {bias}; expected [N, inputs], [inputs, outputs] and [outputs]"
    assert str(caught.value) == given


def test_half_precision_stays_half_and_agrees_with_float32():
    arrays = [jnp.asarray(normal(s, i), jnp.bfloat16) for i, s in enumerate([(4, 6), (6, 5), (5,)])]
    dy, key = jnp.asarray(normal((4, 5), 3), jnp.bfloat16), jax.random.key(0)
    wide = [v.astype(jnp.float32) for v in (*arrays, dy)]
    actual = value_and_gradients(dense, arrays, dy)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(actual, value_and_gradients(dense, wide[:3], wide[3]), 2**-6)
    actual = value_and_gradients(lambda x: dropout(x, key, rate=0.3), [dy], dy)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(actual, value_and_gradients(lambda x: dropout(x, key, rate=0.3), [wide[3]], wide[3]), 2**-6)


def test_integers_are_refused(unchecked):
    x = jnp.ones((2, 3), jnp.int32)
    with pytest.raises(
        InputError, match=r"dense got x \(2, 3\) of int32 and weights \(3, 5\) of float32 and bias \(5,\)"
    ):
        dense(x, jnp.ones((3, 5)), jnp.ones(5))
    with pytest.raises(InputError, match=r"dropout got x \(2, 3\) of int32; expected floating point"):
        dropout(x, jax.random.key(0), rate=0.5)
