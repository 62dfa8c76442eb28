"""Pooling by hand against XLA's windows and their autodiff, PyTorch's, and the lectures' numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.testing import assert_allclose

from jaxcnn.errors import InputError
from jaxcnn.ops.pooling import average_pool, global_average_pool, max_pool

OPS = {"max": max_pool, "average": average_pool}
PRECISIONS = {np.float32: 1e-5, np.float64: 1e-10}
PRINTED = [[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]
Geometry = tuple[tuple[int, ...], dict[str, Any]]


def normal(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def image(rows: Any) -> jax.Array:
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """The shape of images, and options under which at least one window fits."""
    window = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(st.none() | st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple((draw(st.integers(0, f - 1)), draw(st.integers(0, f - 1))) for f in window)
    size = tuple(max(1, f - sum(p)) + draw(st.integers(0, 4)) for f, p in zip(window, padding, strict=True))
    shape = (draw(st.integers(1, 2)), *size, draw(st.integers(1, 3)))
    return shape, {"window": window, "strides": strides, "padding": padding}


def by_windows(kind: str, window, strides, padding):
    """XLA's own reduction over windows."""
    strides = window if strides is None else (strides, strides) if isinstance(strides, int) else strides
    geometry = (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
    if kind == "max":
        return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *geometry)
    return lambda x: lax.reduce_window(x, 0.0, lax.add, *geometry) / (window[0] * window[1])


def value_and_gradient(function, x):
    """z, and dx for a dz that differs from pixel to pixel."""

    @jax.jit
    def run(x):
        z, vjp = jax.vjp(function, x)
        return z, *vjp(jnp.cos(3 * jnp.arange(z.size, dtype=z.dtype)).reshape(z.shape))

    return run(x)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPS)
def test_value_and_gradient_equal_autodiff_through_windows_of_xla(kind):
    @settings(deadline=None, max_examples=15)
    @given(geometries(), st.sampled_from([*PRECISIONS]))
    def check(geometry: Geometry, dtype: Any):
        shape, options = geometry
        with jax.enable_x64(dtype == np.float64):
            x = normal(shape, dtype)
            z, dx = value_and_gradient(lambda x: OPS[kind](x, **options), x)
            assert z.dtype == dx.dtype == dtype
            assert_close((z, dx), value_and_gradient(by_windows(kind, **options), x), PRECISIONS[dtype])

    check()


@pytest.mark.parametrize("kind", OPS)
def test_value_and_gradient_equal_autodiff_through_the_forward_pass(kind):
    options = {"window": 3, "strides": 2, "padding": ((2, 1), (0, 2))}
    with jax.enable_x64(True):
        x = normal((2, 7, 6, 3), np.float64)
        actual = value_and_gradient(lambda x: OPS[kind](x, **options), x)
        assert_close(actual, value_and_gradient(lambda x: OPS[kind].forward(x, **options)[0], x), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPS)
def test_value_and_gradient_equal_pytorch_where_pixels_are_equal_too(torch, kind):
    functional = torch.nn.functional

    @settings(deadline=None, max_examples=12)
    @given(geometries(), st.booleans())
    def check(geometry: Geometry, equal: bool):
        shape, options = geometry
        x = normal(shape)
        if equal:
            x = np.round(x)
        z, dx = value_and_gradient(lambda x: OPS[kind](x, **options), x)

        theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        (top, bottom), (left, right) = options["padding"]
        padded = functional.pad(theirs, (left, right, top, bottom), value=-np.inf if kind == "max" else 0)
        pool = functional.max_pool2d if kind == "max" else functional.avg_pool2d
        expected = pool(padded, options["window"], options["strides"])
        dz = np.cos(3 * np.arange(z.size, dtype=np.float32)).reshape(z.shape)
        expected.backward(torch.tensor(dz.transpose(0, 3, 1, 2)))
        assert_close((z, dx), tuple(v.numpy().transpose(0, 2, 3, 1) for v in (expected.detach(), theirs.grad)), 1e-5)

    check()


@pytest.mark.parametrize("kind", OPS)
def test_padding_is_that_of_pytorch(torch, kind):
    # Negative everywhere, so that padding of zeros would win a maximum.
    x = -1 - np.abs(normal((2, 6, 5, 3)))
    z, dx = value_and_gradient(lambda x: OPS[kind](x, window=3, strides=2, padding=1), x)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    pool = torch.nn.functional.max_pool2d if kind == "max" else torch.nn.functional.avg_pool2d
    expected = pool(theirs, 3, 2, 1)
    dz = np.cos(3 * np.arange(z.size, dtype=np.float32)).reshape(z.shape)
    expected.backward(torch.tensor(dz.transpose(0, 3, 1, 2)))
    assert_close((z, dx), tuple(v.numpy().transpose(0, 2, 3, 1) for v in (expected.detach(), theirs.grad)), 1e-5)


def test_the_printed_example():
    assert average_pool(image(PRINTED), window=2)[0, :, :, 0].tolist() == [[3.75, 1.25], [4, 2]]
    assert max_pool(image(PRINTED), window=2, strides=2)[0, :, :, 0].tolist() == [[9, 2], [6, 3]]


def test_the_averages_of_the_misprinted_input():
    misprinted = [[1, 3, 2, 4], [2, 9, 1, 1], [1, 3, 2, 3], [5, 6, 1, 2]]
    assert average_pool(image(misprinted), window=2)[0, :, :, 0].tolist() == [[3.75, 2], [3.75, 2]]


def test_the_printed_derivative_of_the_maximum_goes_to_the_nine_alone():
    dz11 = image([[1, 0], [0, 0]])
    _, saved = max_pool.forward(image(PRINTED), window=2)
    dx = np.asarray(max_pool.backward(saved, dz11, window=2)[0])
    # Counted from one, as printed, the 9 is X22.
    assert dx[0, :, :, 0].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_the_derivative_of_an_average_is_one_over_the_window():
    _, saved = average_pool.forward(image(PRINTED), window=2)
    dx = np.asarray(average_pool.backward(saved, image([[1, 0], [0, 2]]), window=2)[0])
    q, h = 0.25, 0.5
    assert dx[0, :, :, 0].tolist() == [[q, q, 0, 0], [q, q, 0, 0], [0, 0, h, h], [0, 0, h, h]]


def test_a_pixel_that_wins_two_windows_takes_both_gradients():
    dx = jax.grad(lambda x: jnp.sum(max_pool(x, window=(1, 2), strides=1)))(image([[1, 3, 2]]))
    assert dx[0, 0, :, 0].tolist() == [0, 2, 0]


def test_of_equal_pixels_the_first_in_reading_order_takes_the_gradient():
    dx = jax.grad(lambda x: jnp.sum(max_pool(x, window=2)))(image([[1, 5], [5, 5]]))
    assert dx[0, :, :, 0].tolist() == [[0, 1], [0, 0]]


def test_pixels_between_windows_have_no_gradient():
    for op in OPS.values():
        dx = jax.grad(lambda x, op=op: jnp.sum(op(x, window=1, strides=2)))(image(PRINTED))
        assert dx[0, :, :, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_zeros_of_padding_count_in_the_mean_but_never_win():
    x = image([[-4.0]])
    assert average_pool(x, window=2, padding=1, strides=1)[0, :, :, 0].tolist() == [[-1, -1], [-1, -1]]
    assert max_pool(x, window=2, padding=1, strides=1)[0, :, :, 0].tolist() == [[-4, -4], [-4, -4]]


@pytest.mark.slow
def test_global_average_pool_is_the_window_of_the_whole_image():
    for dtype, tolerance in PRECISIONS.items():
        with jax.enable_x64(dtype == np.float64):
            x = normal((2, 4, 5, 3), dtype)
            actual = value_and_gradient(global_average_pool, x)
            assert actual[0].dtype == actual[1].dtype == dtype
            assert_close(actual, value_and_gradient(lambda x: jnp.einsum("nhwc->nc", x) / 20, x), tolerance)
            assert_close(actual[0], average_pool(jnp.asarray(x), window=(4, 5)).reshape(2, 3), tolerance)


def test_global_average_pool_equals_pytorch(torch):
    x = normal((2, 4, 5, 3))
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    z = torch.nn.functional.adaptive_avg_pool2d(theirs, 1)[:, :, 0, 0]
    z.backward(torch.tensor(np.cos(3 * np.arange(6, dtype=np.float32)).reshape(2, 3)))
    expected = z.detach().numpy(), theirs.grad.numpy().transpose(0, 2, 3, 1)
    assert_close(value_and_gradient(global_average_pool, x), expected, 1e-5)


@pytest.mark.parametrize("op", [*OPS.values(), global_average_pool], ids=lambda op: op.__name__)
def test_half_precision_stays_half_and_agrees_with_float32(op):
    options = {} if op is global_average_pool else {"window": 3, "strides": 2, "padding": 1}
    x = jnp.asarray(normal((2, 6, 5, 3)), jnp.bfloat16)
    z, vjp = jax.vjp(lambda x: op(x, **options), x)
    dz = jnp.asarray(normal((7, *z.shape))[0], jnp.bfloat16)
    assert z.dtype == vjp(dz)[0].dtype == jnp.bfloat16
    expected, wide = jax.vjp(lambda x: op(x, **options), x.astype(jnp.float32))
    # bfloat16 keeps 8 bits.
    assert_close((z, vjp(dz)), (expected, wide(dz.astype(jnp.float32))), 2**-8)


@pytest.mark.slow
def test_half_precision_is_rounded_once_where_windows_overlap():
    # A pixel that all 169 windows see; parts of 1/169 added up in bfloat16 come to 1.156.
    x = jnp.zeros((1, 25, 25, 1), jnp.bfloat16)
    backward = jax.jit(lambda dz: average_pool.backward(x, dz, window=13, strides=1)[0])
    dx = backward(jnp.ones((1, 13, 13, 1), x.dtype))
    assert dx.dtype == x.dtype
    assert dx[0, 12, 12, 0] == 1


def test_a_maximum_of_many_windows_takes_all_their_half_precision_gradients():
    x = jnp.zeros((1, 39, 1, 1), jnp.bfloat16).at[0, 19].set(1)
    _, saved = max_pool.forward(x, window=(20, 1), strides=1)
    dz = jnp.ones((1, 20, 1, 1), x.dtype).at[0, 0].set(256)
    (dx,) = max_pool.backward(saved, dz, window=(20, 1), strides=1)
    assert dx[0, 19, 0, 0] == 276  # 256 + 1 is 256 in bfloat16


def test_the_mean_of_more_pixels_than_float16_counts_has_a_gradient():
    x = jnp.zeros((1, 300, 300, 1), jnp.float16)
    (dx,) = global_average_pool.backward(x, jnp.ones((1, 1), x.dtype))
    assert_allclose(dx, np.full(x.shape, 1 / 90000), rtol=1e-2)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
@pytest.mark.parametrize(
    "options",
    [
        {"window": 5},
        {"window": (1, 4), "strides": 1},
        {"window": (5, 1), "padding": ((0, 0), (0, 0))},
        {"window": 2, "strides": 0},
        {"window": 2, "strides": (1, -1)},
        {"window": 2, "padding": -1},
        {"window": 2, "padding": ((0, -1), (0, 0))},
        {"window": 2, "padding": 2},
        {"window": 2, "padding": ((2, 0), (0, 0))},
        {"window": 2, "padding": ((0, 0), (0, 2))},
        {"window": 2, "padding": ((0, 0), (0, 3))},
        {"window": 0},
        {"window": (2, 0)},
        {"window": (2, 2, 2)},
        {"window": 2.0},
        {"window": 2, "strides": 1.5},
        {"window": 2, "padding": (1, 1)},
        {"window": 2, "padding": "SAME"},
    ],
    ids=str,
)
def test_a_geometry_that_gives_no_windows_is_refused(unchecked, op, options):
    with pytest.raises(InputError, match=r"pool got images \(2, 4, 3, 1\) and window .* with .*; expected "):
        op(jnp.ones((2, 4, 3, 1)), **options)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_a_refusal_says_what_was_expected(unchecked, op):
    x = jnp.ones((2, 4, 3, 1))
    for options, message in (
        ({"window": (2, 2, 2)}, r"window \(2, 2, 2\) with window .*; expected an integer of at least 1, or 2 of them"),
        ({"window": 2, "strides": 0}, r"window 2 with strides 0; expected an integer of at least 1, or 2 of them"),
        ({"window": 2, "padding": (1, 1)}, r"padding \(1, 1\); expected one number .*\(\(low, high\), \(low, high\)\)"),
        ({"window": 5}, r"window 5 with padding \(\(0, 0\), \(0, 0\)\); expected a window no larger than the padded"),
        ({"window": 2, "padding": 2}, r"window 2 with padding \(\(2, 2\), \(2, 2\)\); .* padding less than the window"),
    ):
        with pytest.raises(InputError, match=message):
            op(x, **options)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_lists_and_integers_of_numpy_are_options_too(op):
    x = jnp.asarray(normal((1, 5, 6, 2)))
    expected = op(x, window=(2, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for strides, padding in ([2, 2], [[1, 1], [1, 1]]), (np.int64(2), np.int64(1)):
        actual = op(x, window=[2, np.int64(3)], strides=strides, padding=padding)
        assert_allclose(actual, expected, rtol=0)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_a_window_of_the_padded_size_is_accepted(op):
    assert op(jnp.ones((2, 4, 3, 1)), window=(5, 4), padding=((1, 0), (0, 1))).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_images_without_pixels_are_refused(op):
    with pytest.raises(InputError, match=r"\(2, 0, 3, 1\)"):
        op(jnp.ones((2, 0, 3, 1)), window=2, padding=1)
    with pytest.raises(InputError, match=r"\(2, 3, 0, 1\); expected .* at least one pixel"):
        global_average_pool(jnp.ones((2, 3, 0, 1)))


@pytest.mark.parametrize("op", [*OPS.values(), global_average_pool], ids=lambda op: op.__name__)
def test_integers_and_one_image_alone_are_refused(unchecked, op):
    options = {} if op is global_average_pool else {"window": 2}
    name = op.__name__.replace("_", " ")
    with pytest.raises(InputError, match=rf"{name} got x \(2, 4, 3, 1\) of int32; expected floating point"):
        op(jnp.ones((2, 4, 3, 1), jnp.int32), **options)
    with pytest.raises(InputError, match=rf"{name} got images \(4, 3, 1\); expected \[N, H, W, C\]"):
        op(jnp.ones((4, 3, 1)), **options)
