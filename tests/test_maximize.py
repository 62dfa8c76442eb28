"""Gradient ascent: the known maximiser of a linear model, repetition, continuation, dead ReLUs, refusals."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_networks import SHAPE, Linear, Small, images_of, state_of

from jaxcnn import models
from jaxcnn.analysis import maximize, penalties
from jaxcnn.analysis import parametrization as spaces
from jaxcnn.analysis.objectives import channel, direction, log_probability, logit, neuron, sufficient_logit
from jaxcnn.errors import InputError, RunError
from jaxcnn.layers.convolution import Conv

KEY = jax.random.key(0)
SMALL, STATE = Small(), state_of(Small())
PIXELS = spaces.pixels(SHAPE)


def test_a_linear_model_s_maximiser_under_l2_is_its_weights():
    """argmax w x - |x - 1/2|^2 / a is 1/2 + a w / 2, where that is an image."""
    model, state = Linear(), state_of(Linear())
    kernel = np.asarray(state.params["head"]["kernel"])
    weight = float(np.abs(kernel).max()) / 0.8
    targets = np.array([2, 0])
    found = maximize.run(
        model,
        state,
        logit(targets) - penalties.l2(weight, 0.5),
        key=KEY,
        count=2,
        parametrization=PIXELS,
        transforms=(),
        optimizer=optax.sgd(4.0 / weight),
        steps=40,
    )
    expected = 0.5 + kernel[:, targets].T.reshape(2, *SHAPE) / (2 * weight)
    np.testing.assert_allclose(found.images, expected, atol=1e-5)


def test_without_a_penalty_its_pixels_are_black_and_white():
    model, state = Linear(), state_of(Linear())
    found = maximize.run(model, state, logit(1), key=KEY, parametrization=PIXELS, transforms=(), steps=150)
    kernel = np.asarray(state.params["head"]["kernel"])[:, 1].reshape(1, *SHAPE)
    np.testing.assert_array_equal(found.images, (kernel > 0).astype(np.float32))


def test_l1_leaves_pixels_alone_whose_weight_is_smaller():
    model, state = Linear(), state_of(Linear())
    kernel = np.asarray(state.params["head"]["kernel"])[:, 1].reshape(1, *SHAPE)
    weight = float(np.median(np.abs(kernel)))
    objective = logit(1) - penalties.l1(weight, 0.5)
    found = maximize.run(
        model,
        state,
        objective,
        key=KEY,
        parametrization=PIXELS,
        transforms=(),
        optimizer=optax.sgd(2.0),
        steps=400,
    )
    expected = np.where(kernel > weight, 1.0, np.where(kernel < -weight, 0.0, 0.5))
    clear = np.abs(np.abs(kernel) - weight) > 0.02
    np.testing.assert_allclose(np.where(clear, found.images, expected), expected, atol=0.08)


def ascend(steps, progress=None, key=KEY, count=2, **more):
    objective = log_probability(np.array([1, 2])[:count]) + 0.1 * channel("conv", 3) - penalties.l2(0.01)
    space = spaces.fourier(SHAPE)
    asked = {"key": key, "count": count, "parametrization": space, "steps": steps, "progress": progress}
    return maximize.run(SMALL, STATE, objective, **asked, **more)


def test_the_same_key_gives_the_same_bits_and_another_does_not():
    one, two = ascend(40), ascend(40)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(one.images - ascend(40, key=jax.random.key(1)).images).max() > 0.01


@pytest.mark.parametrize("first", [1, 7, 32, 39])
def test_an_ascent_that_was_stopped_ends_in_the_same_bits(first):
    whole = ascend(40)
    begun = ascend(first)
    rest = ascend(40 - first, begun.progress)
    np.testing.assert_array_equal(whole.images, rest.images)
    np.testing.assert_array_equal(whole.trace, np.concatenate([begun.trace, rest.trace]))
    assert int(rest.progress.step) == 40
    for a, b in zip(jax.tree.leaves(whole.progress), jax.tree.leaves(rest.progress), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_may_begin_with_given_images():
    begun = images_of(2)
    space, objective = spaces.fourier(SHAPE), logit(np.array([1, 2]))
    asked = {"key": KEY, "count": 2, "parametrization": space, "transforms": ()}
    unchanged = maximize.run(SMALL, STATE, objective, start=begun, steps=0, **asked)
    np.testing.assert_allclose(unchanged.images, begun, atol=1e-5)
    changed = maximize.run(SMALL, STATE, objective, start=begun, steps=5, **asked)
    first = maximize.run(SMALL, STATE, objective, start=begun, steps=2, **asked)
    rest = maximize.run(SMALL, STATE, objective, progress=first.progress, steps=3, **asked)
    np.testing.assert_array_equal(changed.images, rest.images)
    assert (changed.trace[-1] > changed.trace[0]).all()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"start": images_of(1)}, "start has parameters .*; expected"),
        ({"start": images_of(2)[:, 1:]}, r"images have shape \(2, 8, 11, 3\); expected \[N, 9, 11, 3\]"),
        ({"start": 2 * images_of(2)}, "expected values in"),
        ({"start": images_of(2), "progress": maximize.Progress(0, jnp.zeros(3), ())}, "start and progress were both"),
    ],
)
def test_it_cannot_begin_with_other_images(more, says):
    with pytest.raises(InputError, match=says):
        maximize.run(SMALL, STATE, logit(0), key=KEY, count=2, parametrization=PIXELS, **more)


def test_an_image_is_the_same_beside_others():
    np.testing.assert_allclose(ascend(20).images[:1], ascend(20, count=1).images, atol=5e-3)


def test_the_objective_grows_and_other_units_are_no_other_program():
    found = ascend(60)
    assert found.trace.shape == (60, 2)
    assert (found.trace[-10:].mean(0) > found.trace[:10].mean(0) + 1).all()
    program = maximize._advance.fastest()
    before = program._cache_size()
    for unit in (0, 1):
        maximize.run(SMALL, STATE, channel("conv", np.array([unit])), key=KEY, parametrization=PIXELS, steps=2)
    assert program._cache_size() == before + 1


def test_steps_are_those_of_a_loop_by_hand():
    objective = logit(np.array([1, 2]))
    found = maximize.run(
        SMALL,
        STATE,
        objective,
        key=KEY,
        count=2,
        parametrization=PIXELS,
        transforms=(),
        optimizer=optax.adam(0.05),
        steps=5,
        redirect=False,
    )

    def total(z):
        images = spaces.clipped(PIXELS.mean[None] + PIXELS.deviation * z)
        logits = SMALL.apply(STATE.variables, images, train=False)
        return logits[0, 1] + logits[1, 2]

    z = PIXELS.drawn(jax.random.split(KEY)[0], 2, maximize.START)
    memory = optax.adam(0.05).init(z)
    for _ in range(5):
        updates, memory = optax.adam(0.05).update(-jax.grad(total)(z), memory, z)
        z += updates
    np.testing.assert_allclose(found.progress.parameters, z, atol=1e-4)
    np.testing.assert_allclose(found.images, PIXELS(z), atol=1e-4)


class Silent(nn.Module):
    """Its ReLUs answer to no grey image."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(Conv(4, 3, padding=1, name="conv")(images - 0.5) - 0.1)
        return nn.Dense(3, name="head")(nn.relu(x.mean((1, 2)) - 0.01))


def test_silent_relus_are_woken():
    state = state_of(Silent())
    state = state.replace(params={**state.params, "head": jax.tree.map(jnp.abs, state.params["head"])})
    asked = {"key": KEY, "parametrization": PIXELS, "transforms": (), "steps": 60}
    asleep = maximize.run(Silent(), state, logit(1), **asked, redirect=False)
    assert not np.ptp(asleep.trace)
    awake = maximize.run(Silent(), state, logit(1), **asked)
    assert awake.trace[-1, 0] > awake.trace[0, 0] + 0.1


def test_a_relu_that_speaks_has_its_own_gradient():
    x = jnp.array([[1.0, -1.0], [-2.0, -3.0]])
    g = jnp.array([[-1.0, 5.0], [2.0, -4.0]])
    np.testing.assert_array_equal(jax.vjp(maximize._relu, x)[1](g)[0], [[-1, 0], [2, 0]])


def test_by_default_the_network_s_own_images_are_sought():
    model = models.create("lenet5", activation="relu", pooling="max")
    shape = maximize.published_shape(model)
    assert shape == (32, 32, 1)
    found = maximize.run(model, state_of(model, shape), logit(3), key=KEY, steps=2)
    assert found.images.shape == (1, 32, 32, 1)
    assert maximize.published_shape(models.create("resnet50")) == (224, 224, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"objective": channel("conf", 0)}, "unknown layer 'conf'"),
        ({"objective": logit(4)}, r"target is 4; expected classes in \[0, 4\)"),
        ({"objective": neuron("conv", 0, (9, 9))}, "position in conv"),
        ({"steps": -1}, "steps is -1"),
        ({"count": 0}, "count 0"),
        ({"parametrization": spaces.pixels((10, 10, 3))}, "Small does not take images of 10x10x3; expected such"),
        ({"parametrization": None}, "Small is no registered network; expected a parametrization of its images"),
        ({"objective": logit(np.arange(4))}, "count is 1, and the objective is for another number"),
        ({"objective": logit(0) + channel("conv", [1, 2, 3]), "count": 2}, "count is 2, and the objective is for"),
        ({"objective": logit(0) * np.ones(3)}, r"it gives shape \(3,\)\); expected .* one for all images or 1$"),
        ({"objective": logit(0) * np.ones((2, 1)), "count": 2}, "count is 2, and the objective is for another"),
        ({"objective": logit(0) - penalties.l1(1.0, np.ones(2))}, "count is 1, and the objective is for another"),
        ({"objective": direction("conv", np.ones((2, 8)))}, "count is 1, and the objective is for another"),
    ],
)
def test_what_cannot_be_sought_is_refused(arguments, says):
    given = {"objective": logit(0), "key": KEY, "parametrization": PIXELS, "steps": 1} | arguments
    with pytest.raises(InputError, match=says):
        maximize.run(SMALL, STATE, **given)


@pytest.mark.parametrize("position", [(1, 2, 3), (1.5, 2), (1,), ((1, 2), (3, 4))])
def test_a_position_is_two_integers(position, unchecked):
    objective = neuron("conv", 0, position)
    with pytest.raises(InputError, match=r"position in conv is .*; expected one in its map, \(5, 6\), as two integers"):
        maximize.run(SMALL, STATE, objective, key=KEY, parametrization=PIXELS, steps=1)


def test_lists_are_taken_as_arrays():
    asked = {"key": KEY, "count": 2, "parametrization": PIXELS, "transforms": (), "steps": 2}
    listed = [1.0, 2.0] * logit([1, 2]) + neuron("conv", [0, 1], (1, 2)) + sufficient_logit([1, 2], [0.5, 1])
    one = np.array([1, 2])
    arrays = np.array([1.0, 2.0]) * logit(one) + neuron("conv", one - 1, (1, 2)) + sufficient_logit(one, one / 2)
    found, expected = (maximize.run(SMALL, STATE, objective, **asked) for objective in (listed, arrays))
    np.testing.assert_array_equal(found.trace, expected.trace)


@pytest.mark.parametrize(
    ("objective", "images", "says"),
    [
        (channel("zz", 0), images_of(2), "unknown layer 'zz'"),
        (logit(99), images_of(2), r"target is 99; expected classes in \[0, 4\)"),
        (logit(-1), images_of(2), r"target is -1; expected classes in \[0, 4\)"),
        (logit(0), 255 * images_of(2), r"expected values in \[0, 1\]"),
        (logit(0), images_of(2)[:, 1:], "Small does not take images of 8x11x3"),
        (logit([1, 2, 3]), images_of(2), "there are 2 images, and the objective is for another number"),
        (penalties.gaussian(1.0), images_of(2), "parameters is None; expected those of the images"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(objective, images, says):
    with pytest.raises(InputError, match=says):
        maximize.evaluate(SMALL, STATE, objective, images)


def test_parameters_are_those_of_the_images():
    with pytest.raises(InputError, match=r"parameters have shape \(3, 5\); expected those of 2 images"):
        maximize.evaluate(SMALL, STATE, penalties.gaussian(1.0), images_of(2), parameters=jnp.ones((3, 5)))


def test_progress_of_other_images_is_refused():
    begun = ascend(1)
    with pytest.raises(InputError, match="progress has parameters .*; expected"):
        ascend(1, begun.progress, count=1)


def test_an_objective_that_is_not_finite_is_told():
    with pytest.raises(RunError, match="the objective is not finite by step 2"):
        maximize.run(SMALL, STATE, logit(0) * float("nan"), key=KEY, parametrization=PIXELS, steps=2)
