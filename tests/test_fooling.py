"""Gradient ascent to fooling images: against the steps written out, and it stops where it says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import CLASSES, SHAPE, Constant, Linear, Small, images_of, state_of

from jaxcnn import models
from jaxcnn.analysis import fooling
from jaxcnn.errors import InputError

MODEL, STATE = Small(), state_of(Small())
TARGETS = np.array([0, 1, 2, 3, 3])
KEY = jax.random.key(3)


def probabilities(images, model=MODEL, state=STATE):
    return np.asarray(jax.nn.softmax(model.apply(state.variables, images, train=False)))


def by_hand(x, start, target, steps, step_size, penalty):
    """One linear network's image after some steps, with the gradient in closed form."""
    state = state_of(Linear())
    kernel = np.asarray(state.params["head"]["kernel"], np.float64)
    bias = np.asarray(state.params["head"]["bias"], np.float64)
    x, start = x.ravel().astype(np.float64), start.ravel().astype(np.float64)
    sure = []
    for step in range(steps + 1):
        z = x @ kernel + bias
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        sure.append(p[target])
        if step == steps:
            break
        gradient = kernel[:, target] - kernel @ p - penalty * (x - start)
        x = np.clip(x + step_size * gradient / np.sqrt((gradient**2).mean()), 0, 1)
    return x.reshape(SHAPE), sure


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_a_step_goes_up_the_gradient_by_its_size(penalty):
    start = np.asarray(images_of(2))
    found = fooling.ascend(
        Linear(),
        state_of(Linear()),
        np.array([1, 2]),
        start=start,
        confidence=1.0,
        steps=4,
        step_size=0.03,
        penalty=penalty,
    )
    for number, target in enumerate([1, 2]):
        image, sure = by_hand(start[number], start[number], target, 4, 0.03, penalty)
        np.testing.assert_allclose(found.images[number], image, atol=1e-5)
        np.testing.assert_allclose(found.history[:, number], sure, rtol=1e-4)
    assert found.steps.tolist() == [4, 4]


def test_a_penalty_keeps_the_image_near_its_start():
    start = images_of(5)
    given = {"start": start, "confidence": 1.0, "steps": 30, "step_size": 0.02}
    free, held = (fooling.ascend(MODEL, STATE, TARGETS, penalty=penalty, **given) for penalty in (0.0, 10.0))
    distances = [np.abs(np.asarray(found.images - start)).mean() for found in (free, held)]
    assert distances[1] < distances[0] / 2


@pytest.mark.parametrize("chunk", [None, 2])
def test_images_stop_where_they_are_sure_enough_and_are_what_is_said_of_them(chunk):
    found = fooling.ascend(MODEL, STATE, TARGETS, key=KEY, image_shape=SHAPE, confidence=0.95, chunk=chunk)
    assert found.images.shape == (5, *SHAPE)
    assert (np.asarray(found.images) >= 0).all()
    assert (np.asarray(found.images) <= 1).all()
    np.testing.assert_allclose(probabilities(found.images)[range(5), TARGETS], found.confidences, rtol=1e-4)
    assert (found.confidences >= 0.95).all()
    for number, steps in enumerate(found.steps):
        assert (found.history[:steps, number] < 0.95).all()
        np.testing.assert_array_equal(found.history[steps:, number], found.confidences[number])
    assert len(found.history) == found.steps.max() + 1
    again = fooling.ascend(MODEL, STATE, TARGETS, key=KEY, image_shape=SHAPE, confidence=0.95, chunk=chunk)
    np.testing.assert_array_equal(found.images, again.images)


def test_an_image_that_is_sure_at_the_start_stays_as_it_is():
    start = images_of(2)
    found = fooling.ascend(Constant(), state_of(Constant()), np.full(2, CLASSES - 1), start=start)
    np.testing.assert_array_equal(found.images, start)
    assert found.steps.tolist() == [0, 0]
    hopeless = fooling.ascend(Constant(), state_of(Constant()), np.zeros(2, int), start=start, steps=3)
    np.testing.assert_array_equal(hopeless.images, start)  # there is no gradient to climb
    assert hopeless.steps.tolist() == [3, 3]


def test_noise_lies_around_the_mean_of_the_model():
    model = models.create("mlp", mean=(0.2, 0.5, 0.8), std=(0.2, 0.2, 0.2))
    noise = fooling.around_mean(model, KEY, (8, 40, 40, 3))
    np.testing.assert_allclose(noise.mean((0, 1, 2)), model.mean, atol=0.01)
    np.testing.assert_allclose(jnp.std(noise[..., 1]), fooling.NOISE, atol=0.003)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"targets": np.array([0, CLASSES])}, "targets hold class 4; expected classes in [0, 4)"),
        ({"targets": np.array([-1])}, "targets hold class -1"),
        ({"targets": np.array([0]), "start": images_of(1)}, "expected None with images to start from"),
        ({"targets": np.array([0]), "key": None}, "expected one, or a key and an image_shape"),
        ({"targets": np.array([0]), "confidence": 1.5}, "confidence is 1.5"),
        ({"targets": np.array([0]), "step_size": 0.0}, "step_size is 0.0; expected a number above 0"),
        ({"targets": np.array([0]), "penalty": -1.0}, "penalty is -1.0; expected a number of at least 0"),
        ({"targets": np.array([0]), "chunk": 0}, "chunk is 0; expected at least 1"),
        ({"targets": np.array([0, 1]), "image_shape": None, "start": images_of(3)}, "expected integers of shape (3,)"),
    ],
)
def test_mistakes_are_told_in_a_sentence(given, says):
    with pytest.raises(InputError) as caught:
        fooling.ascend(MODEL, STATE, **{"key": KEY, "image_shape": SHAPE, **given})
    assert says in str(caught.value)
