"""Transforms of images against SciPy, their gradients as transposes, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.analysis.transforms import Jitter, Pad, Rotate, Scale, distant, robust, rotated, shifted, transformed
from jaxcnn.errors import InputError

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(2, 11, 8, 3)).astype(np.float32)
ALL = (Pad(2), Jitter(3), Scale(0.7, 1.4), Rotate(20.0))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(-12, 12, width=32), min_size=11, max_size=11))
def test_rows_are_shifted_as_by_scipy(distances):
    found = shifted(jnp.asarray(IMAGES), jnp.asarray(distances, jnp.float32))
    for row, distance in enumerate(distances):
        moved = scipy.ndimage.shift(IMAGES[:, row], (0, distance, 0), order=1, mode="grid-constant")
        np.testing.assert_allclose(found[:, row], moved, atol=1e-4)


@pytest.mark.parametrize("angle", [-0.5, 0.0, 0.1, 1.2])
def test_a_turn_is_three_shears_of_scipy(angle):
    along, across = np.tan(angle / 2), -np.sin(angle)
    center = (np.array(IMAGES.shape[1:3]) - 1) / 2

    def shear(plane, matrix):
        matrix = np.array(matrix)
        return scipy.ndimage.affine_transform(
            plane, matrix, center - matrix @ center, order=1, mode="grid-constant", output=np.float64
        )

    expected = np.empty_like(IMAGES)
    for n, _, _, c in np.ndindex(2, 1, 1, 3):
        plane = shear(IMAGES[n, :, :, c], [[1, 0], [-along, 1]])
        plane = shear(plane, [[1, -across], [0, 1]])
        expected[n, :, :, c] = shear(plane, [[1, 0], [-along, 1]])
    np.testing.assert_allclose(rotated(jnp.asarray(IMAGES), angle), expected, atol=1e-4)


def test_a_smooth_picture_turns_as_skimage_turns_it():
    rows, columns = np.mgrid[:65, :65] / 64 - 0.5
    picture = np.exp(-((rows - 0.15) ** 2 + 2 * (columns + 0.1) ** 2) / 0.02).astype(np.float32)
    found = rotated(jnp.asarray(picture[None, :, :, None]), np.deg2rad(15))[0, :, :, 0]
    expected = skimage.transform.rotate(picture, 15, order=3)
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(found - picture).max() > 0.3


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_an_image_is_scaled_as_by_scipy(factor):
    found = Scale(factor, factor)(KEY, jnp.asarray(IMAGES))
    center = (np.array(IMAGES.shape[1:3]) - 1) / 2
    matrix = np.diag([1 / factor] * 2)
    for n, _, _, c in np.ndindex(2, 1, 1, 3):
        expected = scipy.ndimage.affine_transform(
            IMAGES[n, :, :, c], matrix, center - matrix @ center, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(found[n, :, :, c], expected, atol=1e-4)


def test_jitter_cuts_every_window():
    numbers = jnp.arange(11 * 8.0).reshape(1, 11, 8, 1)
    corners = set()
    for key in jax.random.split(KEY, 60):
        window = Jitter(2)(key, numbers)
        row, column = divmod(int(window[0, 0, 0, 0]), 8)
        np.testing.assert_array_equal(window, numbers[:, row : row + 9, column : column + 6])
        corners.add((row, column))
    assert corners == {(row, column) for row in range(3) for column in range(3)}


def test_padding_is_what_lies_outside():
    found = transformed((Pad(2),), KEY, jnp.asarray(IMAGES), np.array([0.1, 0.2, 0.3], np.float32))
    outside = np.broadcast_to(np.float32([0.1, 0.2, 0.3]), (2, 15, 12, 3)).copy()
    outside[:, 2:-2, 2:-2] = IMAGES
    np.testing.assert_allclose(found, outside, atol=1e-6)


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_a_transform_is_linear_and_its_gradient_its_transpose(transform):
    images = jnp.asarray(IMAGES)
    output = transform(KEY, images)
    np.testing.assert_allclose(transform(KEY, 3 * images), 3 * output, rtol=1e-4, atol=1e-5)
    g = jnp.asarray(np.random.default_rng(1).normal(size=output.shape).astype(np.float32))
    (back,) = jax.vjp(lambda x: transform(KEY, x), images)[1](g)
    # <T x, g> = <x, T' g> for every x: here for x = images and for all of T's columns by central differences.
    np.testing.assert_allclose((output * g).sum(), (images * back).sum(), rtol=1e-3, atol=1e-3)
    columns = [(transform(KEY, jnp.zeros_like(images).at[0, i, 5, 1].set(1.0)) * g).sum() for i in range(11)]
    np.testing.assert_allclose(back[0, :, 5, 1], jnp.stack(columns), rtol=1e-3, atol=1e-4)


def test_transforms_are_drawn_by_the_key_and_compile_once():
    traced = 0

    @jax.jit
    def change(key, images):
        nonlocal traced
        traced += 1
        return transformed(ALL, key, images)

    one, two = change(KEY, IMAGES), change(jax.random.key(1), IMAGES)
    assert traced == 1
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(one, change(KEY, IMAGES))
    np.testing.assert_allclose(one[:1], change(KEY, IMAGES[:1]), atol=1e-5)  # nor does it depend on the other images


@pytest.mark.parametrize("usual", [robust, distant])
@pytest.mark.parametrize("size", [(28, 28), (32, 40), (224, 224)])
def test_the_usual_transforms_keep_the_size(usual, size):
    images = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32)
    assert jax.eval_shape(lambda x: transformed(usual(*size), KEY, x), images).shape == images.shape


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Pad(-1), "pad is -1 pixels"),
        (lambda: Jitter(-1), "jitter is -1 pixels"),
        (lambda: Jitter(8)(KEY, jnp.asarray(IMAGES)), "jitter is 8 pixels; expected fewer than the 11x8 of the image"),
        (lambda: Scale(0.0, 1.0), "scale is from 0.0 to 1.0"),
        (lambda: Scale(1.1, 1.0), "scale is from 1.1 to 1.0"),
        (lambda: Rotate(90.0), "rotate is 90.0 degrees"),
        (lambda: Rotate(float("nan")), "rotate is nan degrees"),
    ],
)
def test_what_is_no_transform_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
