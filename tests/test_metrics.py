"""Faithfulness and steadiness against closed forms of a linear model, captum, scikit-learn, SciPy and brute force."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcnn.state
from jaxcnn.analysis import metrics
from jaxcnn.analysis.road import imputed, road
from jaxcnn.analysis.saliency import gradient, gradient_x_input, smooth_grad
from jaxcnn.errors import InputError, RunError

SHAPE = (6, 7, 3)
PIXELS = 42
CLASSES = 3
COUNT = 5
STEPS = 9


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(CLASSES, use_bias=False, name="head")(images.reshape(len(images), -1))


class Small(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        x = jnp.tanh(nn.Conv(4, (3, 3), name="conv")(images))
        return nn.Dense(CLASSES, name="head")(x.reshape(len(x), -1))


LINEAR, SMALL = Linear(), Small()
LINEAR_STATE, SMALL_STATE = (jaxcnn.state.create(model, jax.random.key(0), SHAPE) for model in (LINEAR, SMALL))
IMAGES = jax.random.uniform(jax.random.key(1), (COUNT, *SHAPE)).at[:, 0, 0].set(jnp.array([0.0, 1.0, 1.0]))
MEAN = SMALL.apply(SMALL_STATE.variables, IMAGES, train=False).mean(0)
HEAD = SMALL_STATE.params["head"] | {"bias": -MEAN}  # so that not all images are of one class
SMALL_STATE = SMALL_STATE.replace(params=SMALL_STATE.params | {"head": HEAD})
HEAT = jax.random.normal(jax.random.key(2), (COUNT, *SHAPE[:2]))
TARGETS = np.array([0, 2, 1, 1, 0])
KEY = jax.random.key(3)


def second(logits):
    return logits[:, 1]


def contributions():
    """What each pixel adds to the logit of class 1."""
    kernel = LINEAR_STATE.params["head"]["kernel"][:, 1].reshape(1, *SHAPE)
    return np.asarray((IMAGES * kernel).sum(-1))


def heats(seed):
    return np.random.default_rng(seed).normal(size=(COUNT, *SHAPE[:2])).astype(np.float32)


def test_of_a_linear_model_deletion_takes_the_largest_contributions_away_first():
    curve = metrics.deletion(LINEAR, LINEAR_STATE, IMAGES, contributions(), second, steps=PIXELS)
    falling = np.cumsum(-np.sort(-contributions().reshape(COUNT, -1)), 1)
    expected = falling[:, -1:] - np.pad(falling, ((0, 0), (1, 0)))
    np.testing.assert_allclose(curve.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(curve.shares, np.linspace(0, 1, PIXELS + 1), atol=1e-6)


def test_of_a_linear_model_insertion_adds_the_largest_differences_first():
    start = metrics.blurred(IMAGES, 2.0)
    kernel = LINEAR_STATE.params["head"]["kernel"][:, 1].reshape(1, *SHAPE)
    added = np.asarray(((IMAGES - start) * kernel).sum(-1))
    curve = metrics.insertion(LINEAR, LINEAR_STATE, IMAGES, added, second, steps=PIXELS, sigma=2.0)
    rising = np.cumsum(-np.sort(-added.reshape(COUNT, -1)), 1)
    before = np.asarray(LINEAR.apply(LINEAR_STATE.variables, start, train=False))[:, 1:2]
    np.testing.assert_allclose(curve.probabilities, before + np.pad(rising, ((0, 0), (1, 0))), atol=1e-5)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=10)
def test_no_order_is_better_than_that_of_the_contributions_and_none_worse_than_its_reverse(seed):
    def area(heat):
        return np.asarray(metrics.deletion(LINEAR, LINEAR_STATE, IMAGES, heat, second, steps=STEPS).area)

    best, other, worst = area(contributions()), area(heats(seed)), area(-contributions())
    assert (best <= other + 1e-6).all()
    assert (other <= worst + 1e-6).all()
    assert (best < worst).all()


@pytest.mark.parametrize("measure", [metrics.deletion, metrics.insertion])
def test_the_area_is_scikit_learn_s_and_a_share_of_1(measure):
    curve = measure(SMALL, SMALL_STATE, IMAGES, HEAT, TARGETS, steps=STEPS)
    expected = [sklearn.metrics.auc(curve.shares, values) for values in np.asarray(curve.probabilities)]
    np.testing.assert_allclose(curve.area, expected, rtol=1e-5)
    assert ((curve.area > 0) & (curve.area < 1)).all()
    assert curve.probabilities.shape == (COUNT, STEPS + 1)


@pytest.mark.parametrize("measure", [metrics.deletion, metrics.insertion])
def test_the_ends_are_the_probabilities_of_the_whole_and_of_the_empty_picture(measure):
    curve = measure(SMALL, SMALL_STATE, IMAGES, HEAT, TARGETS, steps=STEPS)
    empty = jnp.zeros_like(IMAGES) if measure is metrics.deletion else metrics.blurred(IMAGES, 5.0)
    for pictures, end in ((IMAGES, 0), (empty, -1)):
        probabilities = jax.nn.softmax(SMALL.apply(SMALL_STATE.variables, pictures, train=False))
        place = end if measure is metrics.deletion else -1 - end
        np.testing.assert_allclose(
            curve.probabilities[:, place], np.asarray(probabilities)[np.arange(COUNT), TARGETS], rtol=1e-4
        )


@given(power=st.sampled_from([1 / 3, 3.0]), scale=st.floats(0.1, 100), shift=st.floats(-5, 5))
@settings(deadline=None, max_examples=6)
def test_only_the_order_of_the_heat_counts(power, scale, shift):
    # So far apart that no transform makes two of them equal in float32.
    heat = np.random.default_rng(0).permuted(np.tile(np.linspace(-1, 1, PIXELS), (COUNT, 1)), axis=1)
    other = (np.sign(heat) * np.abs(heat) ** power * scale + shift).reshape(COUNT, *SHAPE[:2])
    for measure in (metrics.deletion, metrics.insertion):
        curves = [
            measure(SMALL, SMALL_STATE, IMAGES, h.reshape(other.shape), TARGETS, steps=STEPS) for h in (heat, other)
        ]
        np.testing.assert_array_equal(curves[0].probabilities, curves[1].probabilities)


def test_what_is_written_can_be_chosen():
    colour = np.array([0.1, 0.5, 0.9])
    rows = -jnp.broadcast_to(jnp.arange(SHAPE[0], dtype=jnp.float32)[None, :, None], HEAT.shape)
    curve = metrics.deletion(SMALL, SMALL_STATE, IMAGES, rows, TARGETS, steps=SHAPE[0], value=colour)
    half = np.array(IMAGES)
    half[:, :3] = colour
    probabilities = jax.nn.softmax(SMALL.apply(SMALL_STATE.variables, half, train=False))
    expected = np.asarray(probabilities)[np.arange(COUNT), TARGETS]
    np.testing.assert_allclose(curve.probabilities[:, 3], expected, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(region=st.integers(1, 4), seed=st.integers(0, 99))
def test_equal_regions_go_in_an_order_drawn_by_key_alone(region, seed):
    keys = jax.random.split(jax.random.key(seed), COUNT)
    # The upper rows, a whole number of regions, are hotter; both parts are the same everywhere, 0.1 as rounding has it.
    top = region * max(1, SHAPE[0] // region // 2)
    heat = jnp.full(HEAT.shape, 0.1).at[:, :top].set(0.7)
    places = np.asarray(metrics.ranks(heat, keys, region))
    for place in places:
        assert sorted(place.ravel()) == list(range(PIXELS))
        assert place[:top].max() < place[top:].min() if top < SHAPE[0] else True
    np.testing.assert_array_equal(metrics.ranks(heat - 5, keys, region), places)
    rows, columns = (np.arange(size) // region for size in SHAPE[:2])
    labels = rows[:, None] * (columns[-1] + 1) + columns[None]
    for place in places:  # a region goes as a whole
        for label in range(labels.max() + 1):
            own = np.sort(place[labels == label])
            np.testing.assert_array_equal(own, np.arange(own[0], own[0] + len(own)))


def test_the_order_of_equal_pixels_is_uniform_and_each_image_s_own():
    places = np.asarray(metrics.ranks(jnp.zeros((400, 2, 3)), jax.random.split(KEY, 400)))
    np.testing.assert_allclose(places.mean(0), 2.5, atol=0.35)  # four standard deviations of the mean
    assert len(np.unique(places.reshape(400, -1), axis=0)) > 250  # of 720 orders


@settings(max_examples=10, deadline=None)
@given(side=st.integers(1, 9))
def test_a_region_has_the_mean_heat_of_its_pixels(side):
    rows, columns = (np.arange(size) // side for size in SHAPE[:2])
    labels = rows[:, None] * (columns[-1] + 1) + columns[None]
    found = np.asarray(metrics.by_region(HEAT, side))
    for got, heat in zip(found, np.asarray(HEAT), strict=True):
        means = scipy.ndimage.mean(heat, labels, np.arange(labels.max() + 1))
        np.testing.assert_allclose(got, means[labels], atol=1e-6)


def test_a_region_without_pixels_is_refused():
    with pytest.raises(InputError, match="the side of a region is 0; expected at least 1 pixel"):
        metrics.by_region(HEAT, 0)


def test_the_predicted_class_of_the_whole_picture_is_followed_by_default():
    predicted = SMALL.apply(SMALL_STATE.variables, IMAGES, train=False).argmax(-1)
    assert len(set(predicted.tolist())) > 1
    default, asked = (metrics.deletion(SMALL, SMALL_STATE, IMAGES, HEAT, k, steps=STEPS) for k in (None, predicted))
    np.testing.assert_array_equal(default.probabilities, asked.probabilities)


def test_blurring_is_scipy_s_where_only_what_is_inside_counts():
    def smooth(x):
        return scipy.ndimage.gaussian_filter(x, (0, 1.7, 1.7, 0), mode="constant", truncate=20)

    images = np.asarray(IMAGES, np.float64)
    np.testing.assert_allclose(metrics.blurred(IMAGES, 1.7), smooth(images) / smooth(np.ones_like(images)), atol=1e-5)


def dense_imputation(image, removed):
    """The same equations written out pixel by pixel."""
    places = [tuple(place) for place in np.argwhere(removed)]
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), image.shape[-1]))
    for row, (i, j) in enumerate(places):
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                near = (i + di, j + dj)
                if (di, dj) == (0, 0) or not (0 <= near[0] < removed.shape[0] and 0 <= near[1] < removed.shape[1]):
                    continue
                weight = 1 / 12 if di and dj else 1 / 6
                matrix[row, row] += weight
                if removed[near]:
                    matrix[row, places.index(near)] -= weight
                else:
                    right[row] += weight * image[near]
    filled = image.copy()
    filled[removed] = np.linalg.solve(matrix, right)
    return filled


@given(
    height=st.integers(1, 6), width=st.integers(1, 6), share=st.sampled_from([0.1, 0.5, 0.9]), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=30)
def test_imputation_solves_the_equations_of_the_paper(height, width, share, seed):
    random = np.random.default_rng(seed)
    image = random.uniform(size=(height, width, 2))
    removed = random.uniform(size=(height, width)) < share
    removed[random.integers(height), random.integers(width)] = False
    np.testing.assert_allclose(imputed(image, removed), dense_imputation(image, removed), atol=1e-9)


def test_imputation_leaves_a_slope_as_it_was():
    image = np.add.outer(np.linspace(0, 0.5, 8), np.linspace(0, 0.4, 9))[..., None]
    removed = np.zeros((8, 9), bool)
    removed[1:-1, 1:-1] = True
    np.testing.assert_allclose(imputed(np.where(removed[..., None], 0, image), removed), image, atol=1e-12)


def test_road_evaluates_the_imputed_pictures_and_its_gap_turns_with_the_map():
    def measured(heat, **options):
        return road(LINEAR, LINEAR_STATE, IMAGES, heat, TARGETS, shares=(0.25, 0.5), **options)

    result = measured(HEAT, noise=0.0)
    assert result.most_relevant_first.shape == result.least_relevant_first.shape == (COUNT, 2)
    for heat, values in ((HEAT, result.most_relevant_first), (-HEAT, result.least_relevant_first)):
        order = np.argsort(np.argsort(-np.asarray(heat).reshape(COUNT, -1), 1), 1).reshape(HEAT.shape)
        for number, share in enumerate((0.25, 0.5)):
            filled = [
                dense_imputation(x, r) for x, r in zip(np.asarray(IMAGES), order < round(share * PIXELS), strict=True)
            ]
            probabilities = jax.nn.softmax(LINEAR.apply(LINEAR_STATE.variables, np.stack(filled), train=False))
            np.testing.assert_allclose(
                values[:, number], np.asarray(probabilities)[np.arange(COUNT), TARGETS], rtol=1e-4
            )
    np.testing.assert_allclose(measured(-HEAT, noise=0.0).gap, -result.gap, atol=1e-5)
    np.testing.assert_allclose(
        result.gap, (result.least_relevant_first - result.most_relevant_first).mean(1), rtol=1e-5, atol=1e-6
    )
    twice = road(LINEAR, LINEAR_STATE, IMAGES, HEAT, TARGETS, shares=(0.5, 0.5), noise=0.1).most_relevant_first
    assert (twice[:, 0] != twice[:, 1]).all()  # the noise is drawn anew
    noisy = measured(HEAT, key=KEY, noise=0.1)
    assert not np.allclose(noisy.gap, result.gap, atol=1e-4)
    np.testing.assert_array_equal(noisy.gap, measured(HEAT, key=KEY, noise=0.1).gap)
    np.testing.assert_allclose(noisy.gap, measured(HEAT, key=KEY, noise=0.1, chunk=2).gap, atol=1e-6)
    assert not np.allclose(noisy.gap, measured(HEAT, key=jax.random.key(9), noise=0.1).gap, atol=1e-4)


@pytest.mark.slow
def test_the_chunk_changes_nothing():
    def everything(chunk):
        curve = metrics.deletion(SMALL, SMALL_STATE, IMAGES, HEAT, TARGETS, steps=6, chunk=chunk)
        maps = gradient_x_input(SMALL, SMALL_STATE, IMAGES, TARGETS)
        missed = metrics.infidelity(SMALL, SMALL_STATE, IMAGES, maps, TARGETS, key=KEY, samples=7, chunk=chunk)
        steady = metrics.max_sensitivity(gradient, SMALL, SMALL_STATE, IMAGES, TARGETS, key=KEY, samples=2, chunk=chunk)
        return *curve, missed, steady

    whole = everything(64)
    for chunk in (1, 4):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), everything(chunk), whole)


def through_torch(torch, function):
    """A function of images [n, h, w, c] as one of torch tensors."""
    return lambda x, **asked: torch.tensor(np.array(function(jnp.asarray(x.numpy()), **asked)))


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_captum_s(captum, torch, normalize):
    from captum.metrics import infidelity

    samples = 6
    maps = smooth_grad(SMALL, SMALL_STATE, IMAGES, TARGETS, samples=3) + 0.2
    ours = metrics.infidelity(
        SMALL, SMALL_STATE, IMAGES, maps, TARGETS, key=KEY, samples=samples, noise=0.3, normalize=normalize
    )
    keys = jax.random.split(KEY, COUNT)
    drawn = [[jax.random.normal(jax.random.fold_in(key, i), SHAPE) for i in range(samples)] for key in keys]
    noise = torch.tensor(0.3 * np.array(drawn).reshape(-1, *SHAPE))
    theirs = infidelity(
        through_torch(torch, lambda x: SMALL.apply(SMALL_STATE.variables, x, train=False)),
        lambda inputs: (noise, inputs - noise),
        torch.tensor(np.array(IMAGES)),
        torch.tensor(np.array(maps)),
        target=torch.tensor(TARGETS),
        n_perturb_samples=samples,
        normalize=normalize,
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4)


def test_max_sensitivity_is_captum_s(captum, torch):
    from captum.metrics import sensitivity_max

    seen = []

    def recorded(model, state, images, targets, *, key, chunk):
        seen.append(images)
        return gradient_x_input(model, state, images, targets, key=key, chunk=chunk)

    samples = 4
    ours = metrics.max_sensitivity(recorded, SMALL, SMALL_STATE, IMAGES, TARGETS, key=KEY, samples=samples, radius=0.1)
    moved = np.stack(seen[1:], 1)
    assert moved.shape == (COUNT, samples, *SHAPE)
    assert moved.min() == 0  # black stays a pixel value
    assert moved.max() == 1
    difference = np.abs(moved - np.asarray(IMAGES)[:, None])
    assert 0.09 < difference.max() <= 0.1 + 1e-6
    explain = through_torch(torch, lambda x, target: gradient_x_input(SMALL, SMALL_STATE, x, target.numpy()))
    theirs = sensitivity_max(
        lambda x, target: (explain(x[0] if isinstance(x, tuple) else x, target=target),),
        torch.tensor(np.array(IMAGES)),
        lambda inputs: torch.tensor(moved.reshape(-1, *SHAPE)),
        n_perturb_samples=samples,
        target=torch.tensor(TARGETS),
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4)


def test_of_a_linear_model_the_gradient_misses_nothing_and_never_changes():
    kernel = LINEAR_STATE.params["head"]["kernel"]
    maps = jnp.moveaxis(kernel[:, TARGETS].reshape(*SHAPE, COUNT), -1, 0)
    ask = LINEAR, LINEAR_STATE, IMAGES
    assert metrics.infidelity(*ask, maps, TARGETS, samples=5).max() < 1e-9
    assert metrics.infidelity(*ask, 2 * maps, TARGETS, samples=5).min() > 1e-4
    assert metrics.infidelity(*ask, 2 * maps, TARGETS, samples=5, normalize=True).max() < 1e-6
    assert metrics.max_sensitivity(gradient, *ask, TARGETS, samples=2).max() == 0


class Standardising(nn.Module):
    """Each image to mean 0 and standard deviation 1, which an image of one colour does not have."""

    @nn.compact
    def __call__(self, images, *, train):
        axes = (1, 2, 3)
        x = (images - images.mean(axes, keepdims=True)) / images.std(axes, keepdims=True)
        return nn.Dense(CLASSES, name="head")(x.reshape(len(x), -1))


def test_a_network_that_has_no_score_for_some_picture_is_refused():
    model = Standardising()
    state = jaxcnn.state.create(model, jax.random.key(0), SHAPE)
    with pytest.raises(RunError, match="the score of image 0 is not finite with 100% of its pixels exchanged"):
        metrics.deletion(model, state, IMAGES, HEAT, TARGETS, steps=3)


def test_dead_maps_are_measured_like_any():
    dead = jnp.zeros_like(HEAT)
    ask = SMALL, SMALL_STATE, IMAGES
    for curve in (metrics.deletion(*ask, dead, steps=STEPS), metrics.insertion(*ask, dead, steps=STEPS)):
        assert jnp.isfinite(curve.area).all()
    plain, scaled = (metrics.infidelity(*ask, dead, samples=5, normalize=normalize) for normalize in (False, True))
    assert (plain > 0).all()
    np.testing.assert_allclose(plain, scaled, rtol=1e-5)  # all of what the noise does is missed
    zeros = metrics.max_sensitivity(lambda *_, **options: dead, *ask, samples=2)
    np.testing.assert_array_equal(zeros, 0)


def test_a_method_that_draws_is_charged_for_what_it_draws():
    def drawn(model, state, images, targets, *, key, chunk):
        return jax.random.uniform(key, images.shape[:3])

    assert (metrics.max_sensitivity(drawn, SMALL, SMALL_STATE, IMAGES, samples=2) > 0.3).all()


def test_a_map_without_channels_stands_for_each():
    one = metrics.infidelity(SMALL, SMALL_STATE, IMAGES, HEAT, samples=5)
    each = metrics.infidelity(SMALL, SMALL_STATE, IMAGES, jnp.repeat(HEAT[..., None], 3, -1), samples=5)
    np.testing.assert_array_equal(one, each)


@pytest.mark.slow
def test_they_work_inside_jit():
    def measured(state, images, heat):
        area = metrics.insertion(SMALL, state, images, heat, steps=6, chunk=4).area
        return area, metrics.infidelity(SMALL, state, images, heat, samples=5, chunk=4)

    inside, outside = (f(SMALL_STATE, IMAGES, HEAT) for f in (jax.jit(measured), measured))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), inside, outside)


@pytest.mark.parametrize(
    ("measure", "given_", "options", "message"),
    [
        (
            metrics.deletion,
            HEAT[:, :3],
            {},
            r"heat has shape \(5, 3, 7\); expected a number for each pixel, \(5, 6, 7\)",
        ),
        (metrics.deletion, HEAT[0], {}, r"heat has shape \(6, 7\)"),
        (metrics.insertion, HEAT * jnp.nan, {}, "heat holds a value that is not finite"),
        (metrics.deletion, HEAT, {"steps": 0}, "steps is 0; expected at least 1"),
        (metrics.deletion, HEAT, {"value": 2.0}, r"from 2 to 2; expected values in \[0, 1\]"),
        (metrics.deletion, HEAT, {"targets": 3}, r"targets hold class 3; expected classes in \[0, 3\)"),
        *(
            (metrics.insertion, HEAT, {"sigma": sigma}, f"sigma is {sigma}; expected a positive number of pixels")
            for sigma in (0.0, -1.0, float("inf"), float("nan"))
        ),
        (metrics.insertion, HEAT, {"chunk": 0}, "chunk is 0; expected at least 1"),
        (road, HEAT, {"shares": (0.5, 1.0)}, r"shares are \(0.5, 1.0\).*expected shares in \(0, 1\)"),
        (road, HEAT, {"shares": ()}, r"shares are \(\)"),
        (road, HEAT, {"noise": -0.1}, "noise is -0.1"),
        (road, HEAT[:2], {}, r"heat has shape \(2, 6, 7\)"),
        (metrics.infidelity, HEAT[..., :2], {}, r"maps have shape \(5, 6, 2\); expected that of the images"),
        (metrics.infidelity, HEAT, {"samples": 0}, "samples is 0"),
        (metrics.infidelity, HEAT, {"noise": float("inf")}, "noise inf; expected at least 1 and a positive number"),
        (metrics.deletion, HEAT, {"region": 0}, "the side of a region is 0; expected at least 1 pixel"),
        (metrics.infidelity, HEAT, {"noise": 0.0}, "noise 0.0; expected at least 1 and a positive number"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(measure, given_, options, message):
    with pytest.raises(InputError, match=message):
        measure(SMALL, SMALL_STATE, IMAGES, given_, **options)


@pytest.mark.parametrize(
    "options", [{"samples": 0}, {"radius": 0.0}, {"radius": float("nan")}, {"radius": float("inf")}]
)
def test_a_sensitivity_without_noise_is_refused(options):
    with pytest.raises(InputError, match="expected at least 1 and a positive number"):
        metrics.max_sensitivity(gradient, SMALL, SMALL_STATE, IMAGES, **options)
