"""Parametrisations: round trips, the covariance that they promise, gradients at the border, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.analysis import parametrization as spaces
from jaxcnn.errors import InputError

KEY = jax.random.key(0)
rng = np.random.default_rng(0)


def natural(count, shape):
    """Images whose channels and neighbours are alike."""
    height, width, channels = shape
    waves = rng.normal(size=(count, height, width, channels)).cumsum(1).cumsum(2)
    colors = waves @ rng.normal(size=(channels, channels)) + waves.sum(-1, keepdims=True)
    low, high = colors.min((1, 2, 3), keepdims=True), colors.max((1, 2, 3), keepdims=True)
    noise = rng.random(colors.shape)  # so that no component is nearly nothing
    return (0.9 * (colors - low) / (high - low) + 0.1 * noise).astype(np.float32)


SHAPE = (6, 5, 3)
IMAGES = natural(200, SHAPE)
SPACES = {
    "pixels": spaces.pixels(SHAPE),
    "fourier": spaces.fourier(SHAPE, mean=np.array([0.2, 0.5, 0.7]), covariance=spaces.color_covariance(IMAGES)),
    "spectrum": spaces.spectrum(IMAGES),
    "principal": spaces.principal(IMAGES),
}


@pytest.mark.parametrize("name", SPACES)
def test_an_image_comes_back_from_its_parameters(name):
    space = SPACES[name]
    parameters = space.of(IMAGES[:7])
    assert parameters.shape == (7, *space.parameter_shape)
    np.testing.assert_allclose(space(parameters), IMAGES[:7], atol=1e-4)


@settings(deadline=None, max_examples=5)
@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 2, 3, 4]), st.floats(0, 2))
def test_waves_of_any_size_and_number_of_channels_make_any_image(height, width, channels, decay):
    space = spaces.fourier((height, width, channels), decay=decay)
    images = np.random.default_rng(height * width).random((2, height, width, channels)).astype(np.float32)
    np.testing.assert_allclose(space(space.of(images)), images, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 5), (7, 8), (1, 4)])
def test_random_waves_have_the_covariance_of_colours_at_every_pixel(size):
    covariance = np.array([[0.05, 0.03], [0.03, 0.04]])
    space = spaces.fourier((*size, 2), covariance=covariance)
    # In closed form: the covariance is the sum of the outer products of what each parameter alone makes.
    number = int(np.prod(space.parameter_shape))
    basis = space.spread(jnp.eye(number).reshape(number, *space.parameter_shape))
    found = np.einsum("pijk,pijl->ijkl", basis, basis)
    np.testing.assert_allclose(found, np.broadcast_to(covariance, found.shape), rtol=1e-3)


def test_waves_fall_with_their_frequency():
    halves = np.sqrt([[1, 2, 2, 2, 1]])  # of waves that stand for two, which have two parts
    amplitudes = spaces.fourier((8, 8, 1), decay=1.0).amplitudes[..., 0] * halves
    np.testing.assert_allclose(amplitudes[0, 1] / amplitudes[0, 2:], np.arange(2, 5) / 1, rtol=1e-5)
    np.testing.assert_allclose(amplitudes[1, 1], amplitudes[0, 1] / np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(amplitudes[0, 0], amplitudes[0, 1], rtol=1e-5)
    np.testing.assert_allclose(amplitudes[-1], amplitudes[1], rtol=1e-5)


def test_random_principal_components_have_mean_and_covariance_of_the_images():
    space = SPACES["principal"]
    flat = IMAGES.reshape(len(IMAGES), -1)
    basis = np.asarray(space.components).reshape(len(space.components), -1)
    np.testing.assert_allclose(basis.T @ basis, np.cov(flat, rowvar=False), atol=1e-5)
    np.testing.assert_allclose(space.mean, IMAGES.mean(0), atol=1e-6)


def test_few_images_have_as_many_components_less_one():
    few = spaces.principal(IMAGES[:9])
    assert len(few.components) == 8
    flat = IMAGES[:9].reshape(9, -1)
    basis = np.asarray(few.components).reshape(8, -1)
    np.testing.assert_allclose(basis.T @ basis, np.cov(flat, rowvar=False), atol=1e-5)
    two = spaces.principal(IMAGES, 2)
    np.testing.assert_allclose(two.components, SPACES["principal"].components[:2], rtol=1e-4)


def test_the_spectrum_is_that_of_the_images():
    grey = natural(50, (8, 8, 1))
    space = spaces.spectrum(grey)
    power = (np.abs(np.fft.fft2(grey[..., 0] - grey.mean(), norm="ortho")) ** 2).mean(0)
    ring = [power[i, j] for i, j in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (1, 0), (0, -1), (-1, 0))]
    np.testing.assert_allclose(2 * space.amplitudes[0, 1, 0] ** 2, np.mean(ring), rtol=1e-4)
    np.testing.assert_allclose(space.mean.ravel(), grey.mean(), rtol=1e-5)
    colors = spaces.spectrum(IMAGES).colors
    decorrelated = colors.T @ spaces.color_covariance(IMAGES) @ colors
    np.testing.assert_allclose(decorrelated, np.diag(np.diag(decorrelated)), atol=1e-7)


@pytest.mark.parametrize("name", ["fourier", "spectrum"])
def test_vivid_waves_spread_more_in_all_colours_but_the_first(name):
    space = SPACES[name]

    def covariance(waves):
        z = waves.drawn(KEY, 400, 1.0)
        return np.cov(np.asarray(waves.spread(z)).reshape(-1, 3), rowvar=False)

    before, after = covariance(space), covariance(spaces.vivid(space, 3.0))
    squares, axes = np.linalg.eigh(before)
    np.testing.assert_allclose(np.diag(axes.T @ after @ axes) / squares, [9, 9, 1], rtol=0.02)


def test_grey_waves_have_no_colours_to_be_vivid():
    space = spaces.fourier((8, 8, 1))
    np.testing.assert_allclose(spaces.vivid(space, 3.0).colors, space.colors)


def test_the_covariance_of_colours_is_numpy_s():
    found = spaces.color_covariance(IMAGES)
    np.testing.assert_allclose(found, np.cov(IMAGES.reshape(-1, 3), rowvar=False, bias=True), rtol=1e-5)
    assert spaces.color_covariance(IMAGES[..., :1]).shape == (1, 1)


def test_a_clipped_pixel_can_come_back():
    values = jnp.array([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5])
    upwards = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    found, back = jax.vjp(spaces.clipped, values)
    np.testing.assert_array_equal(found, [0, 0, 0.5, 0.5, 1, 1])
    np.testing.assert_array_equal(back(upwards)[0], [1, 0, 1, -1, 0, -1])


def test_the_beginning_does_not_depend_on_how_many_images_there_are():
    space = SPACES["fourier"]
    np.testing.assert_array_equal(space.drawn(KEY, 3, 0.1)[:2], space.drawn(KEY, 2, 0.1))
    assert abs(float(space.drawn(KEY, 50, 0.1).std()) - 0.1) < 0.01


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: spaces.pixels((0, 3, 1)), r"shape is \(0, 3, 1\); expected height, width and channels"),
        (lambda: spaces.pixels(SHAPE, mean=1.5), "mean is 1.5; expected a grey level or 3 values"),
        (lambda: spaces.pixels(SHAPE, mean=np.array([0.1, 0.2])), "expected a grey level or 3 values"),
        (lambda: spaces.fourier(SHAPE, covariance=np.eye(2)), "expected a symmetric matrix of 3 channels"),
        (lambda: spaces.fourier(SHAPE, covariance=np.full((3, 3), np.nan)), "expected a symmetric matrix"),
        (lambda: spaces.vivid(spaces.fourier(SHAPE), 0.0), "factor is 0.0; expected a positive finite number"),
        (lambda: spaces.principal(IMAGES, 91), "components is 91; expected 1 to 90"),
        (lambda: spaces.principal(IMAGES[:1]), "the 1 images are all alike"),
        (lambda: spaces.spectrum(np.zeros((4, 5, 5, 1))), "the 4 images are all alike"),
        (lambda: SPACES["pixels"].of(IMAGES[:, 1:]), r"expected \[N, 6, 5, 3\]"),
        (lambda: spaces.principal(IMAGES * 255), "expected values in"),
    ],
)
def test_what_is_no_parametrisation_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
