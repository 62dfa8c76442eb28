"""Occlusion against captum, against loops over a linear model, and against what hiding a pixel must mean."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, SHAPE, Constant, Linear, Rounding, Small, images_of, state_of

from jaxcnn.analysis.attribution import DeadMapWarning, method
from jaxcnn.analysis.occlusion import occlusion, occlusion_grid
from jaxcnn.errors import InputError, RunError


def second_logit(logits):
    return logits[:, 1]


LINEAR, SMALL, CONSTANT = Linear(), Small(), Constant()
LINEAR_STATE, SMALL_STATE, CONSTANT_STATE = state_of(LINEAR), state_of(SMALL), state_of(CONSTANT)


@jax.jit
def probabilities(images):
    logits: Any = SMALL.apply(SMALL_STATE.variables, images, train=False)
    return jax.nn.softmax(logits)


@pytest.mark.parametrize(
    ("patch", "stride", "value"),
    [(3, 2, 0.5), (4, 3, 0.0), (1, 1, 0.3), (9, 9, 0.5), (5, 1, [0.1, 0.5, 0.9])],
)
def test_it_equals_captum(torch, captum, patch, stride, value):
    """Also where the last position reaches beyond the border, and where a patch is as high as the image."""
    params = jax.tree.map(lambda x: torch.tensor(np.array(x)), SMALL_STATE.params)
    conv, head = params["conv"], params["head"]

    def network(x):
        x = torch.nn.functional.conv2d((x - 0.4) / 0.2, conv["kernel"].permute(3, 2, 0, 1), conv["bias"], 2, 1)
        return (x.relu().permute(0, 2, 3, 1).flatten(1) @ head["kernel"] + head["bias"]).softmax(-1)

    images, targets = images_of(3), np.array([3, 0, 2])
    baseline = torch.tensor(np.broadcast_to(np.asarray(value, np.float32), images.shape).copy()).permute(0, 3, 1, 2)
    expected = captum.Occlusion(network).attribute(
        torch.tensor(np.array(images)).permute(0, 3, 1, 2),
        sliding_window_shapes=(3, patch, patch),
        strides=(3, stride, stride),
        baselines=baseline,
        target=torch.tensor(targets),
    )
    maps = occlusion(SMALL, SMALL_STATE, images, targets, patch=patch, stride=stride, value=jnp.array(value))
    expected = expected[:, 0].numpy()
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@given(patch=st.integers(1, 9), data=st.data())
@settings(deadline=None, max_examples=4)
def test_of_a_linear_score_it_is_the_mean_of_what_the_patches_hide(patch, data):
    stride = data.draw(st.integers(1, patch))
    images = images_of(2)
    weights = np.asarray(LINEAR_STATE.params["head"]["kernel"])[:, 1].reshape(SHAPE)
    worth = (np.asarray(images) - 0.25) @ np.eye(3)  # to float64
    worth = (worth * weights).sum(-1)
    sums, counts = np.zeros(worth.shape), np.zeros(SHAPE[:2])
    reach = [range(0, side - patch + stride, stride) for side in SHAPE[:2]]
    for top in reach[0]:
        for left in reach[1]:
            window = slice(top, top + patch), slice(left, left + patch)
            sums[:, *window] += worth[:, *window].sum((1, 2))[:, None, None]
            counts[window] += 1
    maps = occlusion(LINEAR, LINEAR_STATE, images, second_logit, patch=patch, stride=stride, value=0.25)
    assert counts.min() >= 1
    np.testing.assert_allclose(maps, sums / counts, rtol=1e-4, atol=1e-5)


def test_the_grid_says_what_the_network_says_with_the_patch_there():
    images, value = images_of(3), images_of(1, seed=7)[0]
    grid = occlusion_grid(SMALL, SMALL_STATE, images, chunk=7, patch=4, stride=2, value=value)
    np.testing.assert_array_equal(grid.tops, [0, 2, 4, 6])  # the last begins in row 6 of 9 and does not fit
    np.testing.assert_array_equal(grid.lefts, [0, 2, 4, 6, 8])
    assert grid.patch == 4
    assert grid.probabilities.shape == grid.classes.shape == (3, 4, 5)
    predicted = np.asarray(probabilities(images).argmax(-1))
    for row, top in enumerate(grid.tops):
        for column, left in enumerate(grid.lefts):
            hidden = np.array(images)
            hidden[:, top : top + 4, left : left + 4] = value[top : top + 4, left : left + 4]
            said = np.asarray(probabilities(hidden))
            np.testing.assert_allclose(grid.probabilities[:, row, column], said[np.arange(3), predicted], rtol=1e-4)
            np.testing.assert_array_equal(grid.classes[:, row, column], said.argmax(-1))
    assert (np.asarray(grid.classes) != predicted[:, None, None]).any()  # hiding changes what is most likely


@pytest.mark.slow
def test_the_predicted_class_is_explained_by_default_and_stays_while_parts_are_hidden():
    images = images_of(9)
    predicted = np.asarray(probabilities(images).argmax(-1))
    assert len(set(predicted.tolist())) > 1
    default = occlusion(SMALL, SMALL_STATE, images, patch=5)
    np.testing.assert_array_equal(default, occlusion(SMALL, SMALL_STATE, images, predicted, patch=5))
    assert (jnp.abs(default - occlusion(SMALL, SMALL_STATE, images, 0, patch=5)).max((1, 2)) > 1e-4).any()


def test_it_points_at_the_only_pixels_the_network_looks_at():
    """A window of 3 by 3: hidden in part by every patch that is less than a patch away, by no other."""

    class Window(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            scale = self.param("scale", nn.initializers.ones, ())
            seen = scale * images[:, 10:13, 20:23].mean((1, 2, 3))
            return jnp.stack([seen, 1 - seen], -1)

    model, shape = Window(), (28, 30, 1)
    image = jnp.ones((1, *shape))
    map_ = np.asarray(occlusion(model, state_of(model, shape), image, 0, patch=4, stride=1, value=0.0))[0]
    reached = np.zeros(shape[:2], bool)
    reached[7:16, 17:26] = True
    assert (map_[reached] > 0).all()
    assert (np.abs(map_[~reached]) < 1e-7).all()
    assert np.unravel_index(map_.argmax(), map_.shape) == (11, 21)


@pytest.mark.parametrize(("side", "patch", "rows"), [(3, 1, 3), (28, 4, 13), (32, 4, 15), (224, 28, 15)])
def test_the_patch_follows_from_the_size_of_the_image(side, patch, rows):
    grid = occlusion_grid(CONSTANT, CONSTANT_STATE, jnp.ones((1, side, side, 1)))
    assert grid.patch == patch
    assert grid.probabilities.shape == (1, rows, rows)
    assert grid.tops[-1] + patch == side


@pytest.mark.parametrize(("count", "chunk"), [(4, 7), (3, 45), (1, 1)])
def test_neither_the_chunk_nor_the_other_images_change_anything(count, chunk):
    """The 20 positions in 3 pieces, the last of which repeats one; 2 images at once; 1 position at once."""
    images, targets = images_of(4)[:count], np.arange(4)[:count]
    whole = occlusion(SMALL, SMALL_STATE, images_of(4), np.arange(4), chunk=1000, patch=3, stride=2)
    maps = occlusion(SMALL, SMALL_STATE, images, targets, chunk=chunk, patch=3, stride=2)
    assert maps.shape == (count, *SHAPE[:2])
    np.testing.assert_allclose(maps, whole[:count], rtol=1e-4, atol=1e-6)


def test_no_more_images_than_the_chunk_are_evaluated_at_once_and_one_program_serves_all():
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            traces.append(len(images))
            return nn.Dense(CLASSES)(images.reshape(len(images), -1))

    model = Counted()
    state = state_of(model)
    traces.clear()
    occlusion_grid(model, state, images_of(2), np.array([0, 1]), chunk=7, patch=3, stride=2)
    occlusion_grid(model, state, images_of(2, seed=2), np.array([1, 2]), chunk=7, patch=3, stride=2)
    assert traces == [2, 7]  # the shape of the logits, and 20 positions in pieces of 7


def test_it_works_inside_jit():
    images, targets = images_of(2), jnp.array([0, 1])

    def inside(state, x, k, value):
        return occlusion(SMALL, state, x, k, chunk=50, patch=4, value=value)

    maps = jax.jit(inside)(SMALL_STATE, images, targets, jnp.array(0.5))
    np.testing.assert_allclose(
        maps, occlusion(SMALL, SMALL_STATE, images, targets, chunk=50, patch=4), rtol=1e-4, atol=1e-6
    )


def test_where_nothing_can_change_the_maps_are_zero_and_said_to_be():
    with pytest.warns(DeadMapWarning, match="2 of 2 maps are zero"):
        assert not occlusion(CONSTANT, CONSTANT_STATE, images_of(2)).any()
    grey = images_of(2).at[1].set(0.5)
    with pytest.warns(DeadMapWarning, match=r"1 of 2 maps are zero everywhere \(image 1\)"):
        maps = occlusion(Rounding(), state_of(Rounding()), grey, 1)
    assert maps[0].any()
    assert not maps[1].any()


@pytest.mark.parametrize("function", [occlusion, occlusion_grid])
def test_a_network_that_is_not_finite_is_refused(function):
    broken = SMALL_STATE.replace(params=jax.tree.map(lambda x: x * jnp.nan, SMALL_STATE.params))
    with pytest.raises(RunError, match="the map of image 0 is not finite"):
        function(SMALL, broken, images_of(1).at[:].set(0.5), 1, patch=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, r"patch is 0 and stride 1; expected a patch of 1 to 9 pixels"),
        ({"patch": 10}, r"patch is 10 and stride 5; expected a patch of 1 to 9 pixels"),
        ({"patch": 3, "stride": 4}, r"patch is 3 and stride 4; .* a stride of 1 to the patch"),
        ({"stride": 0}, r"patch is 2 and stride 0"),
        ({"value": 1.5}, r"holds values from 1.5 to 1.5; expected values in \[0, 1\]"),
        ({"value": jnp.zeros(2)}, r"shape \(2,\); expected a number"),
        ({"targets": CLASSES}, r"targets hold class 4"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(options, message):
    for function in (occlusion, occlusion_grid):
        with pytest.raises(InputError, match=message):
            function(SMALL, SMALL_STATE, images_of(1), **options)


def test_it_is_registered():
    assert method("occlusion").function is occlusion
    assert method("occlusion").signed
