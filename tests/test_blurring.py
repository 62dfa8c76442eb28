"""Blurring: deletion and insertion, each with its other end changed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import CLASSES, SHAPE, Small

import jaxcnn.state
from jaxcnn.analysis import metrics
from jaxcnn.analysis.blurring import blurring
from jaxcnn.errors import InputError

MODEL = Small()
STATE = jaxcnn.state.create(MODEL, jax.random.key(0), SHAPE)
IMAGES = jax.random.uniform(jax.random.key(1), (3, *SHAPE))
HEAT = jax.random.normal(jax.random.key(2), (3, *SHAPE[:2]))
TARGETS = np.arange(3) % CLASSES


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_it_goes_back_through_the_pictures_that_insertion_of_the_least_important_comes_by(sigma):
    steps = SHAPE[0] * SHAPE[1]
    there = metrics.insertion(MODEL, STATE, IMAGES, -HEAT, TARGETS, steps=steps, sigma=sigma)
    back = blurring(MODEL, STATE, IMAGES, HEAT, TARGETS, steps=steps, sigma=sigma)
    np.testing.assert_allclose(back.probabilities, there.probabilities[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(back.area, there.area, atol=1e-5)


def test_regions_go_as_a_whole_and_pictures_without_detail_stay_as_they_are():
    rows = jnp.broadcast_to(-jnp.arange(SHAPE[0], dtype=jnp.float32)[None, :, None], HEAT.shape)
    curve = blurring(MODEL, STATE, IMAGES, rows, TARGETS, steps=3, region=3)
    first = jnp.concatenate([metrics.blurred(IMAGES, 5.0)[:, :3], IMAGES[:, 3:]], axis=1)
    expected = jax.nn.softmax(MODEL.apply(STATE.variables, first, train=False))[jnp.arange(3), TARGETS]
    np.testing.assert_allclose(curve.probabilities[:, 1], expected, atol=1e-5)
    grey = blurring(MODEL, STATE, jnp.full_like(IMAGES, 0.3), HEAT, TARGETS, steps=4).probabilities
    np.testing.assert_allclose(grey, grey[:, :1].repeat(5, 1), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.inf, np.nan])
def test_a_blur_needs_a_width(sigma):
    with pytest.raises(InputError, match="sigma is .*; expected a positive number of pixels"):
        blurring(MODEL, STATE, IMAGES, HEAT, TARGETS, sigma=sigma)
