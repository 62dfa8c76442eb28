"""The gradient of max pooling without a scatter against XLA's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.analysis.max_pooling import faster, max_pool
from jaxcnn.analysis.rewriting import rewrite
from jaxcnn.layers.pooling import MaxPool


def check(pool, shape):
    """With many equal pixels, of which the first wins."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, shape).astype(np.float32))
    changed = rewrite(pool, faster)
    assert "max_pool" in str(jax.make_jaxpr(changed)(x))
    y = pool(x)
    g = jnp.asarray(np.random.default_rng(1).normal(size=y.shape).astype(np.float32))
    (same, found), (_, expected) = jax.jit(lambda x, g: [(f(x), jax.vjp(f, x)[1](g)[0]) for f in (changed, pool)])(x, g)
    np.testing.assert_array_equal(same, y)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (MaxPool(3, 2, ceil_mode=True), (2, 10, 9, 3)),
        (MaxPool(3, 2, padding=1), (1, 9, 8, 2)),
        (MaxPool(2), (2, 7, 6, 1)),
        (MaxPool(3, 1, padding=1), (1, 5, 6, 2)),
    ],
)
def test_the_pooling_of_every_kind_of_network(module, shape):
    check(lambda x: module.apply({}, x), shape)


PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(deadline=None, max_examples=4)
@given(PAIRS, PAIRS, st.tuples(st.integers(4, 9), st.integers(4, 9)), st.data())
def test_windows_strides_and_paddings_of_any_kind(window, strides, size, data):
    padding = tuple((data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k - 1))) for k in window)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (1, *size, 2)).astype(np.float32))

    def pool(x):
        around = [(0, 0), *padding, (0, 0)]
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), around)

    g = jnp.asarray(np.random.default_rng(1).normal(size=pool(x).shape).astype(np.float32))
    found, expected = jax.jit(
        lambda x, g: [jax.vjp(f, x)[1](g)[0] for f in (lambda x: max_pool(x, window, strides, padding), pool)]
    )(x, g)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_reductions_stay():
    x = jnp.ones((1, 6, 6, 2))
    for pool in (
        lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 2), (1, 2, 2, 1), "VALID"),
    ):
        assert "max_pool" not in str(jax.make_jaxpr(rewrite(pool, faster))(x))


def test_a_function_with_a_derivative_of_its_own_keeps_it_though_it_pools():
    @jax.custom_vjp
    def reversing(x):
        return pool(x)

    def pool(x):
        return MaxPool(2).apply({}, x)

    reversing.defvjp(lambda x: (pool(x), x), lambda x, g: (-jnp.ones_like(x),))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.float32)
    found = jax.grad(lambda x: rewrite(reversing, faster)(x).sum())(x)
    np.testing.assert_array_equal(found, -np.ones(x.shape))
