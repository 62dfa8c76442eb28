"""Attacks against closed forms for linear networks, and what every attack guarantees."""

from __future__ import annotations

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, SHAPE, Linear, Small, images_of, state_of

from jaxcnn.analysis import adversarial
from jaxcnn.analysis.attacks import bim, excess, fgsm, pgd
from jaxcnn.analysis.carlini_wagner import carlini_wagner
from jaxcnn.analysis.deep_fool import deep_fool
from jaxcnn.analysis.robustness import robust_accuracy, wilson
from jaxcnn.errors import InputError, RunError

COUNT = 5
GREY = 0.3 + 0.4 * images_of(COUNT)  # so far from black and white that no attack here gets there
LINEAR = Linear()
WITHIN = {"linf": 0.05, "l2": 0.6}
QUICK = {"carlini_wagner": {"searches": 5, "steps": 60, "constant": 0.1}, "pgd": {"steps": 5}, "pgd_l2": {"steps": 5}}
ATTACKS = adversarial.attacks()


class Two(nn.Module):
    """A linear network of two classes."""

    scale: float = 1.0

    @nn.compact
    def __call__(self, images, *, train):
        return self.scale * nn.Dense(2, name="head")(images.reshape(len(images), -1))


@cache
def linear():
    """The state of LINEAR, its weights [H, W, C, K], and what it says of GREY."""
    state = state_of(LINEAR)
    weights = np.asarray(state.params["head"]["kernel"], np.float64).reshape(*SHAPE, CLASSES)
    logits = np.einsum("nhwc,hwck->nk", np.asarray(GREY, np.float64), weights)
    return state, weights, logits


def attacked(name, model, state, images, labels, **options):
    attack = ATTACKS[name]
    within = {"epsilon": WITHIN[attack.norm]} if attack.bounded else {}
    return attack(model, state, images, labels, **(within | QUICK.get(name, {}) | options))


def predicted(model, state, images):
    return np.asarray(model.apply(state.variables, images, train=False).argmax(-1))


def lengths(changes):
    return np.sqrt((np.asarray(changes, np.float64) ** 2).sum((1, 2, 3)))


# ---- closed forms


@given(epsilon=st.floats(0, 0.25), targeted=st.booleans())
@settings(deadline=None, max_examples=5)
def test_the_fast_gradient_sign_of_a_linear_network(epsilon, targeted):
    state, weights, logits = linear()
    classes = logits.argmin(-1) if targeted else logits.argmax(-1)
    own = np.eye(CLASSES)[classes]
    others = np.where(own, 0, np.exp(logits))
    slope = np.einsum("nk,hwck->nhwc", others / others.sum(-1, keepdims=True) - own, weights)
    found = fgsm(LINEAR, state, GREY, logits.argmax(-1), epsilon=epsilon, targets=classes if targeted else None)
    np.testing.assert_allclose(found.images, GREY + (-1 if targeted else 1) * epsilon * np.sign(slope), atol=1e-6)
    np.testing.assert_allclose(found.linf, epsilon, atol=1e-6)
    np.testing.assert_allclose(found.l2, lengths(found.images - GREY), rtol=1e-5, atol=1e-6)


def test_steps_stop_at_the_ball():
    state = state_of(Two())
    labels = predicted(Two(), state, GREY)
    kernel = np.asarray(state.params["head"]["kernel"]).reshape(*SHAPE, 2)
    way = np.where(labels[:, None, None, None], 1, -1) * (kernel[..., 0] - kernel[..., 1])
    cube = bim(Two(), state, GREY, labels, epsilon=0.1)
    np.testing.assert_allclose(cube.images, GREY + 0.1 * np.sign(way), atol=1e-6)
    ball = pgd(Two(), state, GREY, labels, epsilon=0.7, norm="l2", steps=3, random_start=False)
    np.testing.assert_allclose(ball.images, GREY + 0.7 * way / lengths(way[:1]), atol=1e-6)


def nearest_boundary():
    """Distances from GREY to where LINEAR says another class."""
    state, weights, logits = linear()
    flat = weights.reshape(-1, CLASSES)
    distances = np.full(logits.shape, np.inf)
    for row, said, best in zip(distances, logits, logits.argmax(-1), strict=True):
        for k in set(range(CLASSES)) - {best}:
            row[k] = (said[best] - said[k]) / np.linalg.norm(flat[:, best] - flat[:, k])
    return state, logits.argmax(-1), distances


def test_deep_fool_goes_straight_to_the_nearest_boundary_of_a_linear_network():
    state, labels, distances = nearest_boundary()
    found = deep_fool(LINEAR, state, GREY, labels, overshoot=0.05)
    assert found.success.all()
    np.testing.assert_array_equal(found.classes, distances.argmin(-1))
    np.testing.assert_allclose(found.l2, 1.05 * (distances.min(-1) + 1e-4), rtol=1e-4)


def test_deep_fool_considers_the_likeliest_classes_only():
    state, labels, distances = nearest_boundary()
    found = deep_fool(LINEAR, state, GREY, labels, candidates=2)
    second = linear()[2].argsort(-1)[:, -2]
    np.testing.assert_allclose(found.l2, 1.02 * (distances[range(COUNT), second] + 1e-4), rtol=1e-4)


def test_carlini_and_wagner_come_near_to_the_least_distance_of_a_linear_network():
    state, labels, distances = nearest_boundary()
    found = carlini_wagner(LINEAR, state, GREY, labels, searches=7, steps=150, constant=0.1)
    assert found.success.all()
    least = distances.min(-1)
    assert (np.asarray(found.l2) > 0.999 * least).all()
    assert (np.asarray(found.l2) < 1.05 * least).all()
    targets = np.asarray(linear()[2].argmin(-1))
    found = carlini_wagner(LINEAR, state, GREY, labels, targets=targets, searches=7, steps=150, constant=0.1)
    np.testing.assert_array_equal(found.classes, targets)
    assert (np.asarray(found.l2) > 0.999 * distances[range(COUNT), targets]).all()


def test_confidence_goes_beyond_the_boundary():
    state, labels, _ = nearest_boundary()
    found = carlini_wagner(
        LINEAR, state, GREY, labels, searches=4, steps=100, learning_rate=0.05, constant=1.0, confidence=0.3
    )
    assert found.success.all()
    said = np.asarray(LINEAR.apply(state.variables, found.images, train=False))
    own = said[range(COUNT), labels]
    assert (said.max(-1) - own > 0.3).all()


def test_an_attack_is_not_lost_where_the_gradient_of_the_loss_is():
    """A network so sure that its loss is zero in single precision."""
    sure = Two(scale=1e4)
    state = state_of(sure)
    labels = predicted(sure, state, GREY)

    def loss(images):
        logits = sure.apply(state.variables, images, train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    assert not jax.grad(loss)(GREY).any()
    np.testing.assert_allclose(
        fgsm(sure, state, GREY, labels, epsilon=0.1).images, fgsm(Two(), state, GREY, labels, epsilon=0.1).images
    )


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=6), st.data())
@settings(deadline=None, max_examples=20)
def test_the_excess_is_the_cross_entropy_before_a_softplus(logits, data):
    own = data.draw(st.integers(0, len(logits) - 1))
    expected = scipy.special.logsumexp(logits) - logits[own]
    found = excess(jnp.array([logits], jnp.float32), jnp.array([own]))
    np.testing.assert_allclose(jax.nn.softplus(found)[0], expected, rtol=1e-4, atol=1e-5)


# ---- what every attack guarantees


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_said_of_the_images_found_is_so(name):
    model, state, images = Small(), state_of(Small()), images_of(COUNT)
    labels = predicted(model, state, images)
    attack = ATTACKS[name]
    found = attacked(name, model, state, images, labels)
    assert 0 <= found.images.min() <= found.images.max() <= 1
    changes = np.asarray(found.images - images)
    np.testing.assert_array_equal(found.classes, predicted(model, state, found.images))
    np.testing.assert_array_equal(found.success, found.classes != labels)
    np.testing.assert_allclose(found.linf, np.abs(changes).max((1, 2, 3)))
    np.testing.assert_allclose(found.l2, lengths(changes), rtol=1e-5)
    if attack.bounded:
        assert getattr(found, attack.norm).max() <= WITHIN[attack.norm] + 1e-6
    assert found.success.mean() >= 0.8

    again = attacked(name, model, state, images, labels, chunk=2)
    np.testing.assert_array_equal(again.success, found.success)
    np.testing.assert_allclose(again.images, found.images, atol=1e-4)

    if attack.takes("targets"):
        target = 2
        aimed = attacked(name, model, state, images, labels, targets=target)
        np.testing.assert_array_equal(aimed.success, aimed.classes == target)
        assert aimed.success.mean() >= 0.6


def test_images_that_are_wrong_already_are_left_by_deep_fool():
    state, _, logits = linear()
    found = deep_fool(LINEAR, state, GREY, logits.argmin(-1))
    assert found.success.all()
    np.testing.assert_array_equal(found.images, GREY)


def test_an_image_that_cannot_be_fooled_in_so_few_steps_is_said_not_to_be():
    state, labels, _ = nearest_boundary()
    found = carlini_wagner(LINEAR, state, GREY, labels, searches=3, steps=1)  # which is the image itself
    assert not found.success.any()
    np.testing.assert_array_equal(found.images, GREY)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_are_uniform_in_the_ball(norm):
    shape = (1, 3, 1)
    model = Two()
    state = state_of(model, shape)
    grey = jnp.full((400, *shape), 0.5)
    labels = np.zeros(400, int)
    start = partial(pgd, model, state, grey, labels, epsilon=0.4, norm=norm, steps=1, step_size=0.0)
    changes = np.asarray(start(key=jax.random.key(1)).images - 0.5).reshape(400, 3) / 0.4
    if norm == "linf":
        assert scipy.stats.kstest(changes.ravel(), scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    else:
        radii = np.linalg.norm(changes, axis=-1)
        assert scipy.stats.kstest(radii**3, "uniform").pvalue > 0.01
        assert scipy.stats.kstest(changes[:, 0] / radii, scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01  # Archimedes
    np.testing.assert_array_equal(start(key=jax.random.key(1), chunk=7).images, start(key=jax.random.key(1)).images)
    assert (start(key=jax.random.key(2)).images != start(key=jax.random.key(1)).images).all()
    np.testing.assert_array_equal(start().images, start(key=jax.random.key(0)).images)


# ---- accuracy under attack


def test_the_accuracy_of_a_linear_network_under_attack_is_known():
    model = Two()
    state = state_of(model)
    images = 0.3 + 0.4 * images_of(40, seed=3)
    labels = np.arange(40) % 2
    kernel = np.asarray(state.params["head"]["kernel"], np.float64)
    logits = np.asarray(images, np.float64).reshape(40, -1) @ kernel
    margin = (logits[:, 0] - logits[:, 1]) * np.where(labels, -1, 1)
    way = kernel[:, 0] - kernel[:, 1]
    for name, size in (("fgsm", np.abs(way).sum()), ("deepfool", np.linalg.norm(way))):
        needed = margin / size
        epsilons = [0.0, *np.quantile(needed[needed > 0], (0.3, 0.7, 0.95)).tolist()]
        found = robust_accuracy(model, state, images, labels, ATTACKS[name], epsilons)
        # DeepFool goes 2 % and 1e-4 further than it must
        expected = [(needed * (1.02 if name == "deepfool" else 1) > epsilon).mean() for epsilon in epsilons]
        np.testing.assert_allclose(found.accuracy, expected, atol=0.026)
        np.testing.assert_array_equal(found.before, margin < 0)
        assert found.accuracy[0] == (margin > 0).mean()
        low, high = found.interval.T
        assert (low <= found.accuracy).all()
        assert (found.accuracy <= high).all()


def test_an_attack_for_the_nearest_image_has_its_own_distances():
    state, labels, distances = nearest_boundary()
    found = robust_accuracy(LINEAR, state, GREY, labels, ATTACKS["deepfool"])
    assert found.epsilons.shape == (101,)
    assert found.epsilons[-1] == pytest.approx(1.02 * (distances.min(-1).max() + 1e-4), rel=1e-4)
    assert found.accuracy[0] == 1
    assert found.accuracy[-1] == 0
    assert (np.diff(found.accuracy) <= 0).all()


def test_a_targeted_attack_fools_by_its_target():
    state, _, logits = linear()
    targets = np.full(COUNT, 1)
    found = robust_accuracy(LINEAR, state, GREY, logits.argmax(-1), ATTACKS["fgsm"], [0.0, 0.2], targets=targets)
    np.testing.assert_array_equal(found.before, logits.argmax(-1) == 1)
    np.testing.assert_array_equal(found.fooled[1], np.asarray(found.found[1].classes == 1) | found.before)


@given(count=st.integers(1, 3000), data=st.data())
@settings(deadline=None, max_examples=30)
def test_the_interval_is_scipys(count, data):
    successes = data.draw(st.integers(0, count))
    expected = scipy.stats.binomtest(successes, count).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson(np.array([successes]), count)[0], [expected.low, expected.high], atol=1e-9)


# ---- mistakes


class Broken(nn.Module):
    """Whose gradients are not finite."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(2)(jnp.sqrt(images - images).reshape(len(images), -1))


@pytest.mark.parametrize("name", ATTACKS)
def test_gradients_that_are_not_finite_are_told(name):
    with pytest.raises(RunError, match="image 0 is not finite"):
        attacked(name, Broken(), state_of(Broken()), GREY, np.zeros(COUNT, int))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("fgsm", {"epsilon": -0.1}, "epsilon is -0.1; expected a finite number of at least 0"),
        ("fgsm", {"epsilon": float("nan")}, "epsilon is nan"),
        ("pgd", {"epsilon": float("inf")}, "epsilon is inf"),
        ("pgd", {"steps": 0}, "steps is 0; expected at least 1"),
        ("bim", {"step_size": -1.0}, "step size is -1.0"),
        ("fgsm", {"targets": 4}, r"targets hold class 4; expected classes in \[0, 4\)"),
        ("fgsm", {"steps": 3}, "steps given to FGSM: 3; expected none"),
        ("deepfool", {"targets": 1}, "targets given to DeepFool: 1; expected none"),
        ("deepfool", {"candidates": 1}, "candidates is 1 and steps 50"),
        ("deepfool", {"overshoot": -0.1}, "overshoot is -0.1"),
        ("carlini_wagner", {"searches": 0}, "searches is 0"),
        ("carlini_wagner", {"constant": 0.0}, "constant 0.0; expected numbers above 0"),
        ("carlini_wagner", {"confidence": -1.0}, "confidence is -1.0"),
        ("fgsm", {"chunk": 0}, "chunk is 0"),
    ],
)
def test_mistakes_are_told(name, options, says):
    with pytest.raises(InputError, match=says):
        attacked(name, LINEAR, linear()[0], GREY, np.zeros(COUNT, int), **options)


def test_more_mistakes(unchecked):
    state = linear()[0]
    with pytest.raises(InputError, match="unknown attack 'deep_fool'; did you mean deepfool"):
        adversarial.attack("deep_fool")
    with pytest.raises(InputError, match="norm is 'l1'; expected linf or l2"):
        pgd(LINEAR, state, GREY, np.zeros(COUNT, int), epsilon=0.1, norm="l1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected integers of shape"):
        fgsm(LINEAR, state, GREY, np.zeros(3, int), epsilon=0.1)
    with pytest.raises(InputError, match="epsilons are None; expected distances within which FGSM"):
        robust_accuracy(LINEAR, state, GREY, np.zeros(COUNT, int), ATTACKS["fgsm"])
    with pytest.raises(InputError, match=r"epsilons are \(\)"):
        robust_accuracy(LINEAR, state, GREY, np.zeros(COUNT, int), ATTACKS["fgsm"], [])
    with pytest.raises(InputError, match="epsilon is -1"):
        robust_accuracy(LINEAR, state, GREY, np.zeros(COUNT, int), ATTACKS["deepfool"], [-1.0])
