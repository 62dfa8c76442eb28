"""Pooling and local response normalisation against PyTorch, for any size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import InputError
from jaxcnn.layers.local_response_norm import LocalResponseNorm
from jaxcnn.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool

SIZES = st.integers(1, 9)


def images(height, width, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((2, height, width, 3)), jnp.float32)


def in_torch(torch, layer, x):
    return layer(torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["max", "average", "average without padding"])
def test_windows_equal_pytorch(torch, kind):
    @settings(max_examples=60, deadline=None)
    @given(SIZES, SIZES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.booleans())
    def check(height, width, window, stride, padding, ceil_mode):
        padding = min(padding, window // 2)  # PyTorch allows no more
        x = images(height, width)
        if kind == "max":
            layer = MaxPool(window, stride, padding, ceil_mode)
            oracle = torch.nn.MaxPool2d(window, stride, padding, ceil_mode=ceil_mode)
        else:
            counted = kind == "average"
            layer = AveragePool(window, stride, padding, ceil_mode, counted)
            oracle = torch.nn.AvgPool2d(window, stride, padding, ceil_mode, counted)
        try:
            expected = in_torch(torch, oracle, x)
        except RuntimeError:
            with pytest.raises(InputError, match=f"a map of {height}x{width}"):
                layer.apply({}, x)
        else:
            np.testing.assert_allclose(layer.apply({}, x), expected, rtol=1e-5, atol=1e-6)

    check()


@pytest.mark.slow
def test_adaptive_windows_equal_pytorch(torch):
    @settings(max_examples=40, deadline=None)
    @given(SIZES, SIZES, st.integers(1, 8), st.integers(1, 8))
    def check(height, width, rows, columns):
        x = images(height, width)
        oracle = torch.nn.AdaptiveAvgPool2d((rows, columns))
        got = AdaptiveAveragePool((rows, columns)).apply({}, x)
        np.testing.assert_allclose(got, in_torch(torch, oracle, x), rtol=1e-5, atol=1e-6)

    check()


def test_global_average_is_the_mean_over_height_and_width():
    x = images(5, 7)
    np.testing.assert_allclose(GlobalAveragePool().apply({}, x), x.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_the_lecture_s_windows():
    x = jnp.array([[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]], jnp.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(AveragePool(2).apply({}, x)[0, :, :, 0], [[3.75, 1.25], [4, 2]])
    np.testing.assert_array_equal(MaxPool(2).apply({}, x)[0, :, :, 0], [[9, 2], [6, 3]])
    gradient = jax.grad(lambda x: MaxPool(2).apply({}, x)[0, 0, 0, 0])(x)
    np.testing.assert_array_equal(gradient[0, :2, :2, 0], [[0, 0], [0, 1]])


@pytest.mark.parametrize("layer", [MaxPool(3, 2, 1), AveragePool(3, 2, 1), LocalResponseNorm()])
def test_half_precision_stays_half_precision(layer):
    x = images(6, 6).astype(jnp.bfloat16)
    y = layer.apply({}, x)
    assert y.dtype == jnp.bfloat16
    wide = layer.apply({}, x.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), wide, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("size", [3, 5])
def test_local_response_normalisation_equals_pytorch(torch, size):
    x = jnp.asarray(10 * np.random.default_rng(0).standard_normal((2, 3, 4, 7)), jnp.float32)
    oracle = torch.nn.LocalResponseNorm(size, alpha=size * 0.01, beta=0.75, k=2.0)
    got = LocalResponseNorm(size, alpha=0.01).apply({}, x)
    np.testing.assert_allclose(got, in_torch(torch, oracle, x), rtol=1e-5, atol=1e-6)
