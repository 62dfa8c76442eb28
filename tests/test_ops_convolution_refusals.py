"""What no way to convolve accepts, and what each says of it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_ops_convolution import every_way, normal, value_and_gradients

from jaxcnn.errors import InputError

IMAGE, KERNEL = (1, 5, 6, 4), (3, 2, 4, 2)
BOTH = r"input \(1, 5, 6, 4\).*kernel \(3, 2, 4, 2\)"
N = r"expected \[N, W, C\]"
SIDES = r"expected one number of at least 0 or \(\(low, high\), \(low, high\)\)"
BAD = {
    "kernel too large": (IMAGE, (6, 2, 4, 2), {}, r"\(1, 5, 6, 4\).*\(6, 2, 4, 2\).*no larger than the padded"),
    "padding too small": (IMAGE, (9, 2, 4, 2), {"padding": ((1, 2), (9, 9))}, r"\(9, 2, 4, 2\).*\(\(1, 2\), \(9"),
    "dilation too large": (IMAGE, KERNEL, {"kernel_dilation": (3, 1)}, rf"{BOTH}.*dilation \(3, 1\)"),
    "channels of another number": (IMAGE, (3, 2, 3, 2), {}, r"\(1, 5, 6, 4\) does not fit kernel \(3, 2, 3, 2\)"),
    "input channels not divisible": (IMAGE, (3, 2, 1, 3), {"groups": 3}, r"\(1, 5, 6, 4\).*\(3, 2, 1, 3\) in 3 groups"),
    "features not divisible": (IMAGE, (3, 2, 2, 3), {"groups": 2}, r"\(1, 5, 6, 4\).*\(3, 2, 2, 3\) in 2 groups"),
    "no groups": (IMAGE, KERNEL, {"groups": 0}, rf"{BOTH} in 0 groups"),
    "stride 0": (
        IMAGE,
        KERNEL,
        {"strides": 0},
        rf"{BOTH} with strides 0; expected an integer of at least 1, or 2 of them",
    ),
    "negative stride": (IMAGE, KERNEL, {"strides": (1, -2)}, rf"{BOTH} with strides \(1, -2\); expected an integer"),
    "negative strides": (IMAGE, KERNEL, {"strides": -1}, rf"{BOTH} with strides -1; expected an integer of at least 1"),
    "three strides": (IMAGE, KERNEL, {"strides": (1, 1, 1)}, rf"{BOTH} with strides \(1, 1, 1\); .* 2 of them"),
    "negative padding": (IMAGE, KERNEL, {"padding": ((0, 0), (1, -1))}, rf"{BOTH} with padding .*{SIDES}"),
    "padding of one dimension": (IMAGE, KERNEL, {"padding": ((1, 1),)}, rf"{BOTH} with padding .*{SIDES}"),
    "dilation 0": (
        IMAGE,
        KERNEL,
        {"kernel_dilation": 0},
        rf"{BOTH} with dilation 0; expected an integer of at least 1",
    ),
    "kernel without taps": (IMAGE, (3, 0, 4, 2), {}, r"kernel \(3, 0, 4, 2\) with kernel size \(3, 0\)"),
    "kernel of one dimension": (IMAGE, (3, 4, 2), {}, rf"\(1, 5, 6, 4\) and kernel \(3, 4, 2\); {N}"),
    "no dimensions": ((1, 4), (4, 2), {}, rf"\(1, 4\) and kernel \(4, 2\); {N}"),
    "three dimensions": ((1, 5, 5, 5, 1), (1, 1, 1, 1, 1), {}, rf"\(1, 5, 5, 5, 1\) and kernel \(1, 1, 1, 1, 1\); {N}"),
}


@every_way
@pytest.mark.parametrize(("x", "kernel", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_both_shapes(way, x, kernel, options, message):
    with pytest.raises(InputError, match=message):
        way(jnp.zeros(x), jnp.zeros(kernel), **options)


@every_way
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": (1, 1)}, rf"padding \(1, 1\); {SIDES}"),
        ({"padding": "SAME"}, rf"padding SAME; {SIDES}"),
        ({"strides": 1.5}, r"strides 1.5; expected an integer of at least 1, or 2 of them"),
        ({"strides": (2.0, 2.0)}, r"strides \(2.0, 2.0\); expected an integer of at least 1, or 2 of them"),
    ],
    ids=str,
)
def test_options_of_another_kind_are_refused_with_both_shapes(unchecked, way, options, message):
    with pytest.raises(InputError, match=rf"{BOTH} with {message}"):
        way(jnp.zeros(IMAGE), jnp.zeros(KERNEL), **options)


@every_way
def test_lists_and_integers_of_numpy_are_options_too(way):
    arrays = jnp.asarray(normal(1, 6, 5, 2), jnp.float32), jnp.asarray(normal(3, 2, 2, 3), jnp.float32)
    expected = value_and_gradients(lambda *a: way(*a, strides=2, padding=1), *arrays)
    for strides, padding in ([2, 2], [[1, 1], [1, 1]]), (np.int64(2), np.int64(1)):
        actual = value_and_gradients(
            lambda *a, strides=strides, padding=padding: way(*a, strides=strides, padding=padding), *arrays
        )
        for a, e in zip(actual, expected, strict=True):
            assert_array_equal(a, e)


@every_way
@pytest.mark.parametrize("dtypes", [("int32", "float32"), ("float32", "int32"), ("uint8", "int8")])
def test_integers_are_refused_with_both_shapes(way, dtypes):
    message = rf"\(1, 5, 6, 4\) of {dtypes[0]} and kernel \(3, 2, 4, 2\) of {dtypes[1]}; expected floating point"
    with pytest.raises(InputError, match=message):
        way(jnp.zeros(IMAGE, dtypes[0]), jnp.zeros(KERNEL, dtypes[1]))


@every_way
def test_two_dtypes_are_refused_with_both_shapes(way):
    with pytest.raises(InputError, match=r"\(1, 5, 6, 4\) of bfloat16 and kernel \(3, 2, 4, 2\) of float32.*one dtype"):
        way(jnp.zeros(IMAGE, jnp.bfloat16), jnp.zeros(KERNEL))
