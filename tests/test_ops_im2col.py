"""Receptive fields as columns against slices of the padded image, and the sizes that the formula gives."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.errors import InputError
from jaxcnn.ops.convolution import convolution_library
from jaxcnn.ops.im2col import col2im, im2col, output_size


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@st.composite
def cases(draw: st.DrawFn):
    """An input [N, *size, C], a kernel size that fits it, and options."""
    dimensions = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(low, high)] * dimensions))

    kernel_size, strides, dilation, low, high = each(1, 3), each(1, 4), each(1, 3), each(0, 3), each(0, 3)
    smallest = [max(1, d * (k - 1) + 1 - a - b) for k, d, a, b in zip(kernel_size, dilation, low, high, strict=True)]
    size = [n + more for n, more in zip(smallest, each(0, 4), strict=True)]
    options = {"strides": strides, "padding": tuple(zip(low, high, strict=True)), "kernel_dilation": dilation}
    return normal(draw(st.integers(1, 2)), *size, draw(st.integers(1, 3))), kernel_size, options


@settings(deadline=None, max_examples=4)
@given(cases())
def test_im2col_holds_every_receptive_field_and_col2im_is_its_transpose(case):
    x, kernel_size, options = case
    strides, dilation = options["strides"], options["kernel_dilation"]
    padded = np.pad(x, ((0, 0), *options["padding"], (0, 0)))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    firsts = [range(0, n - r + 1, s) for n, r, s in zip(padded.shape[1:-1], reach, strides, strict=True)]
    fields = [
        image[tuple(slice(p, p + r, d) for p, r, d in zip(first, reach, dilation, strict=True))].ravel()
        for image in padded
        for first in itertools.product(*firsts)
    ]
    columns = im2col(jnp.asarray(x), kernel_size, **options)
    assert_array_equal(columns, np.stack(fields, 1))

    other = jnp.asarray(normal(7, *columns.shape)[0])
    back = col2im(other, x.shape, kernel_size, **options)
    adjoint = jax.linear_transpose(lambda x: im2col(x, kernel_size, **options), x)(other)[0]
    assert_allclose(back, adjoint, rtol=0, atol=1e-5)
    assert_allclose(np.vdot(back, x), np.vdot(other, columns), rtol=0, atol=1e-5 * np.abs(other).sum())


def test_the_matrices_of_a_4x4x3_image_and_two_2x2x3_filters():
    x, kernel = jnp.asarray(normal(1, 4, 4, 3)), jnp.asarray(normal(2, 2, 3, 2))
    x_col = im2col(x, 2, strides=2)
    w = kernel.reshape(-1, 2).T
    z = w @ x_col
    assert (x_col.shape, w.shape, z.shape) == ((12, 4), (2, 12), (2, 4))
    assert_array_equal(x_col[:, 0], x[0, :2, :2].ravel())
    assert_array_equal(x_col[:, 1], x[0, :2, 2:].ravel())
    features_first = z.reshape(2, 2, 2)
    expected = convolution_library(x, kernel, strides=2)[0]
    assert_allclose(jnp.moveaxis(features_first, 0, -1), expected, rtol=0, atol=1e-5)


def test_a_batch_is_more_columns():
    x = jnp.asarray(normal(3, 5, 4, 2))
    each = [im2col(image[None], (2, 3), padding=1) for image in x]
    assert_array_equal(im2col(x, (2, 3), padding=1), jnp.concatenate(each, 1))


def test_half_precision_is_rounded_once_where_fields_overlap():
    # 256 + 1 is 256 in bfloat16; the sum of a pixel that 9 fields see is not.
    columns = jnp.ones((9, 9), jnp.bfloat16).at[0].set(256)
    assert col2im(columns, (1, 5, 5, 1), 3)[0, 2, 2, 0] == 264


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((6, 3), 4), ((7, 3, 2), 3), ((6, 3, 2), 2), ((5, 3, 1, 1), 5), ((224, 7, 2, 3), 112), ((7, 3, 1, 0, 2), 3)],
)
def test_output_sizes_by_the_formula(arguments: tuple[int, ...], expected: int):
    assert output_size(*arguments) == expected


@settings(deadline=None, max_examples=100)
@given(n=st.integers(1, 12), f=st.integers(1, 6), s=st.integers(1, 5), p=st.integers(0, 4), d=st.integers(1, 3))
def test_output_size_counts_the_places_of_a_kernel(n: int, f: int, s: int, p: int, d: int):
    places = range(0, n + 2 * p - d * (f - 1), s)
    assert max(output_size(n, f, s, p, d), 0) == len(places)


def test_what_does_not_fit_is_refused():
    x = jnp.zeros((1, 5, 6, 4))
    with pytest.raises(
        InputError,
        match=r"input \(1, 5, 6, 4\) and kernel size 7 with padding .*\(0, 0\)\); .* no larger than the padded",
    ):
        im2col(x, 7)
    with pytest.raises(
        InputError, match=r"input \(1, 5, 6, 4\) and kernel size \(3,\).*an integer of at least 1, or 2 of them"
    ):
        im2col(x, (3,))
    with pytest.raises(InputError, match=r"input \(5, 4\).*expected input \[N, W, C\] or \[N, H, W, C\]"):
        im2col(jnp.zeros((5, 4)), 3)
    with pytest.raises(
        InputError, match=r"columns \(16, 21\).*input \(1, 5, 6, 4\).*kernel size 2; expected \(16, 20\)"
    ):
        col2im(jnp.zeros((16, 21)), x.shape, 2)
    with pytest.raises(InputError, match=r"input \(1, 5, 6, 4\) and kernel size 2 with strides \(0, 1\); expected an"):
        col2im(jnp.zeros((16, 20)), x.shape, 2, strides=(0, 1))


def test_lists_and_integers_of_numpy_are_options_too():
    x = jnp.asarray(normal(1, 6, 7, 2))
    options = {"strides": (2, 2), "padding": ((1, 1), (1, 1)), "kernel_dilation": (1, 2)}
    expected = im2col(x, (3, 3), **options)
    lists = {"strides": [2, 2], "padding": [[1, 1], [1, 1]], "kernel_dilation": np.array([1, 2])}
    numbers = {"strides": np.int64(2), "padding": np.uint8(1), "kernel_dilation": (np.int32(1), 2)}
    for same in (lists, numbers):
        assert_array_equal(im2col(x, [3, np.int64(3)], **same), expected)
        assert_array_equal(col2im(expected, x.shape, np.int64(3), **same), col2im(expected, x.shape, (3, 3), **options))


@pytest.mark.parametrize(
    ("kernel_size", "options", "message"),
    [
        (1.5, {}, r"kernel size 1.5; expected an integer of at least 1, or 2 of them"),
        (2, {"strides": "2"}, r"strides 2; expected an integer"),
        (2, {"strides": (2.0, 2.0)}, r"strides \(2.0, 2.0\); expected an integer"),
        (2, {"strides": None}, r"strides None; expected an integer"),
        (2, {"strides": ((2, 2), (2, 2))}, r"strides \(\(2, 2\), \(2, 2\)\); expected an integer"),
        (2, {"kernel_dilation": ()}, r"dilation \(\); expected an integer"),
        (2, {"padding": 0.5}, r"padding 0.5; expected one number of at least 0 or \(\(low, high\), \(low, high\)\)"),
        (2, {"padding": "SAME"}, r"padding SAME; expected one number of at least 0 or \(\(low, high\)"),
        (2, {"padding": ((1, 1), 1)}, r"padding \(\(1, 1\), 1\); expected one number"),
    ],
)
def test_what_is_no_integer_or_no_pairs_is_refused_in_one_sentence(unchecked, kernel_size, options, message):
    with pytest.raises(InputError, match=rf"im2col got input \(1, 5, 6, 4\) and kernel size .* with {message}"):
        im2col(jnp.zeros((1, 5, 6, 4)), kernel_size, **options)
    with pytest.raises(InputError, match=rf"col2im got input \(1, 5, 6, 4\) and kernel size .* with {message}"):
        col2im(jnp.zeros((16, 20)), (1, 5, 6, 4), kernel_size, **options)


def test_one_dimension_names_its_own_padding(unchecked):
    with pytest.raises(InputError, match=r"padding \(1, 1\); expected one number of at least 0 or \(\(low, high\)\)"):
        im2col(jnp.zeros((1, 5, 4)), 3, padding=(1, 1))
