"""Directions with the norms of the filters that they change, and slices against the loss where they lead."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from small_networks import CLASSES, Small, images_of, state_of
from test_lesion import resnet

from jaxcnn.analysis import loss_surface
from jaxcnn.errors import InputError

MODEL = Small()
IMAGES = images_of(5)
LABELS = np.arange(5) % CLASSES


def mean_loss(state, params):
    logits: Any = MODEL.apply({"params": params}, IMAGES, train=False)
    return float(optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS)).mean())


@pytest.mark.slow
def test_a_direction_has_the_norms_of_the_filters():
    state = resnet()
    drawn: Any = flatten_dict(loss_surface.direction(state, jax.random.key(0)), sep="/")
    kernels = 0
    parameters: Any = flatten_dict(state.params, sep="/")
    for path, weights in parameters.items():
        assert drawn[path].shape == weights.shape
        if weights.ndim < 2:  # biases, and scales of batch norm
            np.testing.assert_array_equal(drawn[path], 0)
            continue
        kernels += 1
        columns, expected = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (drawn[path], weights))
        np.testing.assert_allclose(np.linalg.norm(columns, axis=0), np.linalg.norm(expected, axis=0), rtol=1e-5)
        assert abs(np.corrcoef(columns.ravel(), expected.ravel())[0, 1]) < 0.5
    assert kernels == 14
    other = loss_surface.direction(state, jax.random.key(1))
    assert not np.allclose(other["stem"]["kernel"], drawn["stem/kernel"])
    again = loss_surface.direction(state, jax.random.key(0))
    np.testing.assert_array_equal(again["stem"]["kernel"], drawn["stem/kernel"])


def test_a_filter_of_zeros_stays_where_it_is():
    state = state_of(MODEL)
    zero = jax.tree.map(jnp.zeros_like, state.params)
    drawn = loss_surface.direction(state.replace(params=zero), jax.random.key(0))
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(drawn))


@pytest.mark.slow
def test_a_slice_is_the_loss_along_a_line():
    state = state_of(MODEL)
    along = loss_surface.direction(state, jax.random.key(0))
    steps = np.array([-1, 0, 0.5, 2], np.float32)
    program: Any = loss_surface._loss
    before = program._cache_size()
    found = loss_surface.slice_1d(MODEL, state, [(IMAGES, LABELS)], along, steps)
    assert program._cache_size() == before + 1  # one program for all
    expected = [mean_loss(state, jax.tree.map(lambda w, d: w + a * d, state.params, along)) for a in steps]  # noqa: B023
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(found[1], mean_loss(state, state.params), rtol=1e-6)

    stream = ((IMAGES[some], LABELS[some]) for some in (slice(0, 3), slice(3, 4), slice(4, 5)))
    np.testing.assert_allclose(loss_surface.slice_1d(MODEL, state, stream, along, steps, chunk=2), found, rtol=1e-5)


def test_the_line_to_other_parameters_ends_at_their_loss():
    state = state_of(MODEL)
    other = jax.tree.map(lambda w: 0.3 * jnp.cos(7 * w), state.params)
    along = jax.tree.map(jnp.subtract, other, state.params)
    found = loss_surface.slice_1d(MODEL, state, [(IMAGES, LABELS)], along, np.array([0, 1], np.float32))
    np.testing.assert_allclose(found, [mean_loss(state, state.params), mean_loss(state, other)], rtol=1e-5)


def test_a_plane_holds_its_lines():
    state = state_of(MODEL)
    first, second = (loss_surface.direction(state, jax.random.key(seed)) for seed in (0, 1))
    rows, columns = np.array([-0.5, 0, 1], np.float32), np.array([0, 0.7], np.float32)
    found = loss_surface.slice_2d(MODEL, state, [(IMAGES, LABELS)], (first, second), rows, columns)
    assert found.shape == (3, 2)
    batches = [(IMAGES, LABELS)]
    np.testing.assert_allclose(found[:, 0], loss_surface.slice_1d(MODEL, state, batches, first, rows), rtol=1e-5)
    np.testing.assert_allclose(found[1], loss_surface.slice_1d(MODEL, state, batches, second, columns), rtol=1e-5)
    both = jax.tree.map(lambda w, d, e: w + d + 0.7 * e, state.params, first, second)
    np.testing.assert_allclose(found[2, 1], mean_loss(state, both), rtol=1e-5)


def test_averaged_parameters_are_the_ones_that_count():
    state = state_of(MODEL)
    other = jax.tree.map(lambda w: 0.5 * w, state.params)
    averaged = state.replace(ema_params=other)
    along = jax.tree.map(jnp.zeros_like, state.params)
    found = loss_surface.slice_1d(MODEL, averaged, [(IMAGES, LABELS)], along, np.zeros(1, np.float32))
    np.testing.assert_allclose(found, [mean_loss(state, other)], rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (np.array([0, np.nan]), "steps are .*nan.*; expected a list of finite numbers"),
        (np.array([0, np.inf]), "steps are .*inf"),
        (np.array([]), r"steps are \[\]"),
        (np.zeros((2, 2)), "steps are"),
    ],
)
def test_a_range_that_is_none_is_refused(steps, says):
    state = state_of(MODEL)
    with pytest.raises(InputError, match=says):
        loss_surface.slice_1d(MODEL, state, [(IMAGES, LABELS)], state.params, steps)
    with pytest.raises(InputError, match=says.replace("steps", "columns")):
        loss_surface.slice_2d(
            MODEL, state, [(IMAGES, LABELS)], (state.params, state.params), np.zeros(1, np.float32), steps
        )


def test_a_direction_of_another_network_is_refused():
    state = state_of(MODEL)
    steps = np.zeros(1, np.float32)
    for along in ({"conv": state.params["conv"]}, resnet().params):
        with pytest.raises(InputError, match="a direction has other names or shapes than the parameters"):
            loss_surface.slice_1d(MODEL, state, [(IMAGES, LABELS)], along, steps)
    with pytest.raises(InputError, match="the stream holds no images"):
        loss_surface.slice_1d(MODEL, state, [], state.params, steps)
