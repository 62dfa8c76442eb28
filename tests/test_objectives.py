"""Objectives and penalties against direct formulas, their gradients by automatic differentiation, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, SHAPE, Small, images_of, state_of

from jaxcnn.analysis import maximize, objectives, penalties
from jaxcnn.analysis.activations import layers
from jaxcnn.errors import InputError

MODEL, STATE = Small(), state_of(Small())
IMAGES = images_of(2)
UNITS = np.array([3, 5])
TARGETS = np.array([1, 2])
MAPS = (5, 6, 8)
rng = np.random.default_rng(0)
VECTORS = rng.normal(size=(2, 8)).astype(np.float32)
GRAM = rng.normal(size=(8, 8)).astype(np.float32)
WANTED = rng.normal(size=(2, *MAPS)).astype(np.float32)


def conv(x):
    parameters = STATE.params["conv"]
    y = jax.lax.conv_general_dilated(
        (x - 0.4) / 0.2, parameters["kernel"], (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + parameters["bias"].reshape(1, 1, 1, -1)


def logits(x):
    return MODEL.apply(STATE.variables, x, train=False)


def gram(a):
    flat = a.reshape(len(a), -1, a.shape[-1])
    return jnp.matmul(flat.swapaxes(1, 2), flat) / flat.shape[1]


def alike(a):
    g = gram(a).reshape(2, -1)
    return (g[0] @ g[1]) / jnp.linalg.norm(g[0]) / jnp.linalg.norm(g[1])


def pick(values, which):
    return jnp.stack([values[0, which[0]], values[1, which[1]]])


DIRECT = {
    "channel": (objectives.channel("conv", UNITS), lambda x: pick(conv(x).sum((1, 2)), UNITS)),
    "channel, one for all": (objectives.channel("conv", 4), lambda x: conv(x)[..., 4].sum((1, 2))),
    "channel of a dense layer": (objectives.channel("head", TARGETS), lambda x: pick(logits(x), TARGETS)),
    "neuron, in the middle": (objectives.neuron("conv", UNITS), lambda x: pick(conv(x)[:, 2, 3], UNITS)),
    "neuron": (objectives.neuron("conv", 1, (4, 0)), lambda x: conv(x)[:, 4, 0, 1]),
    "logit": (objectives.logit(TARGETS), lambda x: pick(logits(x), TARGETS)),
    "sufficient logit": (
        objectives.sufficient_logit(TARGETS, 0.3),
        lambda x: -jnp.log1p(jnp.exp(0.3 - pick(logits(x), TARGETS))),
    ),
    "log probability": (
        objectives.log_probability(TARGETS),
        lambda x: jnp.log(pick(jax.nn.softmax(logits(x)), TARGETS)),
    ),
    "probability": (objectives.probability(TARGETS), lambda x: pick(jax.nn.softmax(logits(x)), TARGETS)),
    "direction": (
        objectives.direction("conv", VECTORS),
        lambda x: jnp.einsum("nijc,nc->n", conv(x), jnp.asarray(VECTORS)),
    ),
    "deep dream": (objectives.deep_dream("conv"), lambda x: jnp.mean(conv(x) ** 2, (1, 2, 3))),
    "diversity": (objectives.diversity("conv"), lambda x: -jnp.stack([alike(conv(x))] * 2)),
    "style": (
        objectives.style("conv", GRAM),
        lambda x: -((gram(conv(x)) - GRAM[None]) ** 2).sum((1, 2)) / (4 * 8**2),
    ),
    "content": (objectives.content("conv", WANTED), lambda x: -0.5 * ((conv(x) - WANTED) ** 2).sum((1, 2, 3))),
    "L1": (
        penalties.l1(0.3, np.array([0.2, 0.5, 0.9])),
        lambda x: 0.3 * jnp.abs(x - np.float32([[[[0.2, 0.5, 0.9]]]])).sum((1, 2, 3)),
    ),
    "L2": (penalties.l2(2.0, 0.5), lambda x: 2 * ((x - 0.5) ** 2).sum((1, 2, 3))),
    "total variation": (
        penalties.total_variation(1.5),
        lambda x: (
            1.5 * (jnp.abs(x[:, 1:] - x[:, :-1]).sum((1, 2, 3)) + jnp.abs(x[:, :, 1:] - x[:, :, :-1]).sum((1, 2, 3)))
        ),
    ),
    "a mixture": (
        2 * objectives.channel("conv", UNITS) * objectives.logit(1) - penalties.l2(0.1) + np.array([1.0, 2.0]),
        lambda x: (
            2 * pick(conv(x).sum((1, 2)), UNITS) * logits(x)[:, 1] - 0.1 * (x**2).sum((1, 2, 3)) + jnp.array([1.0, 2.0])
        ),
    ),
    "the other way round": (1 - (-objectives.logit(0)), lambda x: 1 + logits(x)[:, 0]),
}


@pytest.mark.parametrize("name", DIRECT)
def test_an_objective_and_its_gradient_are_those_of_its_formula(name):
    objective, formula = DIRECT[name]
    objective.check(layers(MODEL, STATE, SHAPE) | {objectives.LOGITS: (CLASSES,), objectives.IMAGE: SHAPE})
    found, gradient = jax.value_and_grad(
        lambda x: (maximize.evaluate(MODEL, STATE, objective, x) * jnp.array([1.0, 0.5])).sum()
    )(IMAGES)
    expected, slope = jax.value_and_grad(lambda x: (formula(x) * jnp.array([1.0, 0.5])).sum())(IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=2e-5 * float(jnp.abs(slope).max()))


def test_an_objective_reads_where_it_says():
    mixed = objectives.channel("conv", 1) + 2 * objectives.logit(0) - penalties.gaussian(0.1)
    assert mixed.places == {"conv", objectives.LOGITS, objectives.PARAMETERS}


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 5))
def test_a_gram_matrix_is_the_mean_outer_product(height, width, channels):
    values = np.random.default_rng(0).normal(size=(2, height, width, channels)).astype(np.float32)
    expected = [np.mean([np.outer(v, v) for v in image.reshape(-1, channels)], axis=0) for image in values]
    np.testing.assert_allclose(objectives.gram(jnp.asarray(values)), expected, rtol=1e-4, atol=1e-5)


def test_the_blur_penalty_is_the_distance_from_scipy_s_blur():
    images = np.asarray(IMAGES)
    kernel = np.array([1, 2, 1]) / 4
    blurred = images
    for axis in (1, 2):
        blurred = scipy.ndimage.convolve1d(blurred, kernel, axis, mode="nearest")
    expected = 0.7 * ((images - blurred) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(maximize.evaluate(MODEL, STATE, penalties.blur(0.7), IMAGES), expected, rtol=1e-4)


def test_the_gaussian_is_minus_the_logarithm_of_the_density():
    z = jnp.asarray(VECTORS)
    found = maximize.evaluate(MODEL, STATE, penalties.gaussian(1.0), IMAGES, parameters=z)
    density = jax.scipy.stats.norm.logpdf(z).sum(1)
    np.testing.assert_allclose(found[0] - found[1], density[1] - density[0], rtol=1e-4)


@pytest.mark.parametrize("weight", [float("nan"), -0.1, float("inf")])
@pytest.mark.parametrize(
    "penalty", [penalties.l1, penalties.l2, penalties.total_variation, penalties.blur, penalties.gaussian]
)
def test_a_weight_that_is_none_is_refused(penalty, weight):
    with pytest.raises(InputError, match=r"the weight of the .* penalty is .*; expected a finite number of at least 0"):
        penalty(weight)


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (objectives.channel("cnv", 0), "unknown layer 'cnv'; did you mean conv"),
        (objectives.logit(0) + objectives.channel("cnv", 0), "unknown layer 'cnv'"),
        (objectives.channel("conv", 8), r"unit of conv is 8; expected units in \[0, 8\)"),
        (objectives.channel("conv", 0.5), "unit of conv is float64 of shape"),
        (objectives.logit(np.array([0, -1])), r"target is -1; expected classes in \[0, 4\)"),
        (objectives.neuron("head", 0), r"head gives shape \(4,\) for an image; expected a layer of maps"),
        (objectives.neuron("conv", 0, (5, 0)), r"position in conv is \(5, 0\); expected one in its map, \(5, 6\)"),
        (objectives.direction("conv", np.ones(7)), r"vector for conv: the shape is \(7,\); expected \(8,\)"),
        (objectives.style("conv", np.ones((8, 7))), r"Gram matrix for conv: the shape is \(8, 7\); expected \(8, 8\)"),
        (objectives.content("conv", np.ones((3, 3, 8))), r"activations for conv: the shape is \(3, 3, 8\)"),
        (objectives.diversity("head"), "expected a layer of maps"),
        (
            objectives.sufficient_logit(0, float("nan")),
            "level is nan; expected a finite number, or one for each target",
        ),
        (
            objectives.sufficient_logit(np.array([0, 1]), np.arange(3.0)),
            r"level is \[0.0, 1.0, 2.0\]; expected a finite number",
        ),
    ],
)
def test_what_the_network_does_not_have_is_refused(objective, says):
    with pytest.raises(InputError, match=says):
        objective.check(layers(MODEL, STATE, SHAPE) | {objectives.LOGITS: (CLASSES,)})


def test_one_image_cannot_be_diverse():
    with pytest.raises(InputError, match="diversity has 1 image; expected at least 2"):
        maximize.evaluate(MODEL, STATE, objectives.diversity("conv"), IMAGES[:1])
