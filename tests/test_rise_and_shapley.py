"""RISE and Shapley sampling against their definitions, captum, exact values, and the axioms."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, SHAPE, Constant, Linear, Rounding, Small, images_of, state_of

import jaxcnn.state
from jaxcnn.analysis.attribution import DeadMapWarning, method
from jaxcnn.analysis.integrated_gradients import completeness
from jaxcnn.analysis.rise import random_mask, rise
from jaxcnn.analysis.shapley import shapley
from jaxcnn.errors import InputError, RunError

BOTH = [(rise, {"masks": 13, "cells": 3, "share": 0.3}), (shapley, {"permutations": 3, "cells": 2})]


def second_logit(logits):
    return logits[:, 1]


def squared(logits):
    return logits[:, 0] ** 2


def in_pairs(logits):
    """A game in which no more than two players interact, the logits being linear."""
    return logits[:, 1] ** 2 + logits[:, 0] * logits[:, 2] - logits[:, 3]


LINEAR, SMALL, CONSTANT = Linear(), Small(), Constant()
LINEAR_STATE, SMALL_STATE, CONSTANT_STATE = state_of(LINEAR), state_of(SMALL), state_of(CONSTANT)
WEIGHTS = np.asarray(LINEAR_STATE.params["head"]["kernel"], np.float64).reshape(*SHAPE, CLASSES)


def copies_of(image, count: int):
    """The same image again and again: each has a key of its own, so the maps are independent draws."""
    return jnp.broadcast_to(image, (count, *image.shape))


def within_error(draws, expected) -> bool:
    """Whether the mean of independent draws is what is expected, by five standard errors everywhere."""
    error = np.std(draws, 0, ddof=1) / math.sqrt(len(draws))
    return bool((np.abs(np.mean(draws, 0) - expected) < 5 * error + 1e-6).all())


@partial(jax.jit, static_argnums=(1, 2))
def masks_of(key, count: int, cells: int, share):
    height, width, _ = SHAPE
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(count))
    return jax.vmap(lambda key: random_mask(key, height, width, cells, share))(keys)


@jax.jit
def probabilities(images):
    logits: Any = SMALL.apply(SMALL_STATE.variables, images, train=False)
    return jax.nn.softmax(logits)


def published(masks, image, value, share: float, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Equation 6 of the paper, and the masks' probabilities."""
    masked = masks[..., None] * np.asarray(image) + (1 - masks[..., None]) * value
    said = np.asarray(probabilities(masked))[:, target]
    return np.einsum("m,mhw->hw", said, masks) / (share * len(masks)), said


@pytest.mark.slow
def test_a_mask_is_a_part_of_a_grid_of_zeros_and_ones_enlarged_by_one_cell_more():
    height, width, cells = 5, 6, 2  # cells of 3 by 3 pixels, grids enlarged to 9 by 9
    grids = jnp.array(list(itertools.product((0.0, 1.0), repeat=cells**2))).reshape(-1, cells, cells)
    large = np.asarray(jax.image.resize(grids, (len(grids), 9, 9), "bilinear"))
    parts = np.concatenate([large[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])
    keys = jax.random.split(jax.random.key(0), 2000)
    masks = np.asarray(jax.vmap(lambda key: random_mask(key, height, width, cells))(keys))
    parts, equal = np.unique(parts.reshape(-1, height, width).round(4), return_counts=True, axis=0)
    drawn = np.abs(masks[:, None] - parts).max((-1, -2)) < 1e-3
    np.testing.assert_array_equal(drawn.sum(1), np.ones(2000))  # each mask is one of them
    expected = 2000 * equal / equal.sum()
    assert (np.abs(drawn.sum(0) - expected) < 4 * np.sqrt(expected)).all()  # and each is as likely


@pytest.mark.parametrize(("cells", "share"), [(3, 0.5), (4, 0.2), (20, 0.7)])
def test_masks_show_every_pixel_as_often_as_is_asked(cells, share):
    masks = np.asarray(masks_of(jax.random.key(3), 3000, cells, share))
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert within_error(masks, share)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, np.array([0.2, 0.9, 0.5], np.float32)])
def test_rise_is_the_published_sum_but_for_the_mean(value):
    images, targets, key = images_of(3), np.array([3, 0, 2]), jax.random.key(5)
    maps = rise(SMALL, SMALL_STATE, images, targets, key=key, masks=60, cells=4, share=0.4, value=value)
    for map_, image, target, own in zip(maps, images, targets, jax.random.split(key, 3), strict=True):
        masks = np.asarray(masks_of(own, 60, 4, 0.4))
        saliency, said = published(masks, image, value, 0.4, target)
        expected = saliency - said.mean() * masks.mean(0) / 0.4
        np.testing.assert_allclose(map_, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_noise_of_rise_is_less_than_that_of_the_published_sum():
    image = images_of(1)[0]
    keys = jax.random.split(jax.random.key(0), 40)
    plain = np.stack([published(np.asarray(masks_of(key, 30, 3, 0.5)), image, 0, 0.5, 1)[0] for key in keys])
    maps = rise(SMALL, SMALL_STATE, copies_of(image, 40), 1, masks=30, cells=3, chunk=1200)
    assert np.std(maps, 0).mean() < 0.7 * plain.std(0).mean()


@pytest.mark.slow
def test_rise_of_a_linear_score_is_the_covariance_of_the_masks():
    """S_i = sum_j (w X)_j Cov(M_i, M_j) / share, the masks' covariance being that of the cells, over all shifts."""
    cells, share, count = 3, 0.3, 12
    image = images_of(1)[0]

    def overlap(side):
        cell = -(-side // cells)
        large = np.asarray(jax.image.resize(jnp.eye(cells), ((cells + 1) * cell, cells), "bilinear"))
        parts = [large[start : start + side] for start in range(cell)]
        return np.mean([part @ part.T for part in parts], 0)

    worth = (np.asarray(image) * WEIGHTS[..., 1]).sum(-1)
    expected = (1 - share) * overlap(SHAPE[0]) @ worth @ overlap(SHAPE[1])
    options = {"masks": 5000, "cells": cells, "share": share, "chunk": 2000}
    maps = rise(LINEAR, LINEAR_STATE, copies_of(image, count), second_logit, **options)
    assert within_error(maps, expected)
    assert np.std(maps, 0).max() / math.sqrt(count) < 0.1 * np.ptp(expected)  # the error is small enough to tell


def players_of(side: int) -> np.ndarray:
    """Squares of some pixels, in the order of reading, by their definition."""
    across = math.ceil(SHAPE[1] / side)
    return np.array([[(i // side) * across + j // side for j in range(SHAPE[1])] for i in range(SHAPE[0])])


def coalition(image, baseline, players, members):
    shown = np.isin(players, members)[..., None]
    return np.where(shown, image, baseline).astype(np.float32)


def exact(model, state, score, image, baseline, players) -> np.ndarray:
    """Shapley values by their definition, from all subsets of the players."""
    count = players.max() + 1
    subsets = [s for size in range(count + 1) for s in itertools.combinations(range(count), size)]
    shown = np.stack([coalition(np.asarray(image), baseline, players, s) for s in subsets])
    worth = np.asarray(score(model.apply(state.variables, shown, train=False)), np.float64)
    value = dict(zip(subsets, worth, strict=True))
    values = np.zeros(count)
    for subset in subsets:
        for player in set(range(count)) - set(subset):
            weight = 1 / (count * math.comb(count - 1, len(subset)))
            values[player] += weight * (value[tuple(sorted((*subset, player)))] - value[subset])
    return values


def per_pixel(values, players) -> np.ndarray:
    return (values / np.bincount(players.ravel()))[players]


def orders_of(count: int, permutations: int, cells: int, players, key) -> np.ndarray:
    """In which order the players of each image appear, read off a game in which who is late gains more.

    v is the square of the pixels shown, so a player of s pixels that finds a of them shown gains (a + s)^2 - a^2.
    """

    class Sum(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return self.param("scale", nn.initializers.ones, ()) * images.sum((1, 2, 3))[:, None]

    model, ones = Sum(), jnp.ones((count, *SHAPE[:2], 1))
    state = jaxcnn.state.create(model, jax.random.key(0), (*SHAPE[:2], 1))
    sizes = np.bincount(players.ravel())
    orders, before = [], 0
    for number in range(1, permutations + 1):
        maps = shapley(model, state, ones, squared, key=key, chunk=len(sizes), permutations=number, cells=cells)
        sums = np.stack([np.bincount(players.ravel(), np.ravel(map_)) for map_ in maps]) * number
        orders.append(np.argsort(((sums - before) / sizes - sizes) / 2, axis=1))
        before = sums
    return np.stack(orders, 1)


@pytest.mark.slow
def test_shapley_equals_captum_with_the_same_orders(torch, captum):
    params = jax.tree.map(lambda x: torch.tensor(np.array(x)), SMALL_STATE.params)
    conv, head = params["conv"], params["head"]

    def network(x):
        x = torch.nn.functional.conv2d((x - 0.4) / 0.2, conv["kernel"].permute(3, 2, 0, 1), conv["bias"], 2, 1)
        return x.relu().permute(0, 2, 3, 1).flatten(1) @ head["kernel"] + head["bias"]

    images, targets, key, players = images_of(2), np.array([3, 1]), jax.random.key(4), players_of(3)
    orders = orders_of(2, 4, 3, players, key)
    np.testing.assert_array_equal(orders[:, 1::2], orders[:, ::2, ::-1])  # every second one is reversed
    assert len(np.unique(orders.reshape(-1, orders.shape[-1]), axis=0)) == 8  # and all others are drawn
    maps = shapley(SMALL, SMALL_STATE, images, targets, key=key, permutations=4, cells=3, baseline=0.5)
    for map_, image, target, own in zip(maps, images, targets, orders, strict=True):
        sampling = captum.ShapleyValueSampling(network)
        sampling.permutation_generator = lambda features, samples, own=own: own.tolist()
        values = sampling.attribute(
            torch.tensor(np.array(image)[None]).permute(0, 3, 1, 2),
            baselines=0.5,
            target=int(target),
            feature_mask=torch.tensor(players)[None, None],
        )
        expected = values[0, 0].numpy() / np.bincount(players.ravel())[players]  # captum's pixels have all of a cell's
        np.testing.assert_allclose(map_, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_two_orders_give_the_exact_values_where_no_more_than_two_players_interact():
    images, players = images_of(2), players_of(5)
    maps = shapley(LINEAR, LINEAR_STATE, images, in_pairs, permutations=2, cells=2, baseline=0.3)
    for map_, image in zip(maps, images, strict=True):
        expected = per_pixel(exact(LINEAR, LINEAR_STATE, in_pairs, image, 0.3, players), players)
        np.testing.assert_allclose(map_, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_with_many_orders_the_exact_values_are_approached_whatever_the_network():
    image, players = images_of(1)[0], players_of(5)
    expected = per_pixel(exact(SMALL, SMALL_STATE, second_logit, image, 0.0, players), players)
    maps = shapley(SMALL, SMALL_STATE, copies_of(image, 12), second_logit, permutations=100, cells=2, chunk=1200)
    assert within_error(maps, expected)
    assert np.abs(np.mean(maps, 0) - expected).max() < 0.03 * np.abs(expected).max()


@given(cells=st.integers(1, 12), colour=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
@settings(deadline=None, max_examples=4)
def test_of_a_linear_score_a_cell_is_worth_its_pixels(cells, colour):
    images, players = images_of(2), players_of(math.ceil(SHAPE[0] / cells))
    worth = ((np.asarray(images, np.float64) - np.array(colour)) * WEIGHTS[..., 1]).sum(-1)
    expected = np.stack([per_pixel(np.bincount(players.ravel(), w.ravel()), players) for w in worth])
    maps = shapley(LINEAR, LINEAR_STATE, images, 1, permutations=1, cells=cells, baseline=jnp.array(colour))
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


@given(permutations=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=4)
def test_the_sum_is_the_difference_of_the_scores_for_any_number_of_orders(permutations, seed):
    images, key = images_of(3, seed), jax.random.key(seed)
    maps = shapley(SMALL, SMALL_STATE, images, key=key, permutations=permutations, cells=3, baseline=0.2)
    np.testing.assert_allclose(completeness(SMALL, SMALL_STATE, images, maps, baseline=0.2), np.zeros(3), atol=1e-5)


def test_players_that_are_alike_get_the_same_and_those_that_nothing_depends_on_get_nothing():
    kernel = np.array(WEIGHTS, np.float32)
    kernel[:, 5:10] = kernel[:, :5]  # the second cell of each row of cells does what the first one does
    kernel[:, 10:] = 0
    state = LINEAR_STATE.replace(params={"head": {"kernel": kernel.reshape(-1, CLASSES), "bias": jnp.zeros(CLASSES)}})
    images = images_of(2)
    images = images.at[:, :, 5:10].set(images[:, :, :5])
    maps = np.asarray(shapley(LINEAR, state, images, in_pairs, permutations=2, cells=2))
    scale = np.abs(maps).max()
    np.testing.assert_allclose(maps[:, :, 5:10], maps[:, :, :5], rtol=1e-4, atol=1e-6 * scale)
    assert (np.abs(maps[:, :, 10:]) < 1e-6 * scale).all()
    assert (np.abs(maps[:, :, :10]) > 1e-3 * scale).all()


@pytest.mark.slow
@pytest.mark.parametrize(("function", "options"), BOTH)
def test_neither_the_chunk_nor_the_other_images_change_anything(function, options):
    images, targets, key = images_of(4), np.arange(4), jax.random.key(2)
    whole = function(SMALL, SMALL_STATE, images, targets, key=key, chunk=1000, **options)
    for count, chunk in [(3, 31), (4, 5)]:  # pieces of images and of samples, the last of which repeats some
        maps = function(SMALL, SMALL_STATE, images[:count], targets[:count], key=key, chunk=chunk, **options)
        assert maps.shape == (count, *SHAPE[:2])
        np.testing.assert_allclose(maps, whole[:count], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("function", "options"), BOTH)
def test_the_key_alone_says_what_is_drawn(function, options):
    images = copies_of(images_of(1)[0], 2)
    maps = [
        np.asarray(function(SMALL, SMALL_STATE, images, 1, key=key, **options))
        for key in (None, jax.random.key(0), jax.random.key(1))
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert np.abs(maps[0] - maps[2]).max() > 1e-3
    assert np.abs(maps[0][0] - maps[0][1]).max() > 1e-3  # each image has draws of its own


@pytest.mark.slow
@pytest.mark.parametrize(("function", "options"), BOTH)
def test_the_predicted_class_is_explained_by_default_and_stays_while_parts_are_hidden(function, options):
    images = images_of(9)
    predicted = np.asarray(probabilities(images).argmax(-1))
    assert len(set(predicted.tolist())) > 1
    default = function(SMALL, SMALL_STATE, images, **options)
    np.testing.assert_array_equal(default, function(SMALL, SMALL_STATE, images, predicted, **options))


@pytest.mark.parametrize(("function", "options"), BOTH)
def test_no_more_images_than_the_chunk_are_evaluated_at_once_and_one_program_serves_all(function, options):
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            traces.append(len(images))
            return nn.Dense(CLASSES)(images.reshape(len(images), -1))

    model = Counted()
    state = state_of(model)
    traces.clear()
    for seed in (1, 2):
        function(model, state, images_of(3, seed), np.array([0, 1, 2]), key=jax.random.key(seed), chunk=5, **options)
    assert max(traces) <= 5
    assert len(traces) == 3  # the shape of the logits, the scores of whole images, and one program for every piece


@pytest.mark.parametrize(("function", "options"), BOTH)
def test_they_work_inside_jit(function, options):
    images, targets = images_of(2), jnp.array([0, 1])
    inside = jax.jit(lambda state, x, k, key: function(SMALL, state, x, k, key=key, chunk=50, **options))
    maps = inside(SMALL_STATE, images, targets, jax.random.key(3))
    expected = function(SMALL, SMALL_STATE, images, targets, key=jax.random.key(3), chunk=50, **options)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("function", "options"), BOTH)
def test_where_nothing_can_change_the_maps_are_zero_and_said_to_be(function, options):
    with pytest.warns(DeadMapWarning, match="2 of 2 maps are zero"):
        assert not function(CONSTANT, CONSTANT_STATE, images_of(2), **options).any()
    black = images_of(2).at[1].set(0)
    with pytest.warns(DeadMapWarning, match=r"1 of 2 maps are zero everywhere \(image 1\)"):
        maps = function(Rounding(), state_of(Rounding()), black, 1, **options)
    assert maps[0].any()
    assert not maps[1].any()


@pytest.mark.slow
@pytest.mark.parametrize(("function", "options"), BOTH)
def test_a_network_that_is_not_finite_is_refused(function, options):
    broken = SMALL_STATE.replace(params=jax.tree.map(lambda x: x * jnp.nan, SMALL_STATE.params))
    with pytest.raises(RunError, match="the map of image 0 is not finite"):
        function(SMALL, broken, jnp.zeros((1, *SHAPE)), 1, **options)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (
            rise,
            {"masks": 1},
            "masks is 1, cells 7 and share 0.5; expected at least 2, at least 1, and a number between",
        ),
        (rise, {"cells": 0}, "cells 0"),
        (rise, {"share": 0.0}, "share 0.0"),
        (rise, {"share": 1.0}, "share 1.0"),
        (rise, {"share": math.nan}, "share nan"),
        (rise, {"value": -0.5}, r"holds values from -0.5 to -0.5; expected values in \[0, 1\]"),
        (rise, {"targets": CLASSES}, "targets hold class 4"),
        (shapley, {"permutations": 0}, "permutations is 0 and cells 8; expected at least 1 of each"),
        (shapley, {"cells": 0}, "cells 0"),
        (shapley, {"baseline": jnp.zeros(SHAPE[:2])}, r"shape \(9, 11\); expected a number"),
        (shapley, {"targets": -1}, "targets hold class -1"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(function, options, message):
    with pytest.raises(InputError, match=message):
        function(SMALL, SMALL_STATE, images_of(1), **options)


@pytest.mark.parametrize("name", ["rise", "shapley"])
def test_they_are_registered(name):
    assert method(name).function is {"rise": rise, "shapley": shapley}[name]
    assert method(name).signed
