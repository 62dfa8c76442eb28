"""Networks drawn anew and how alike maps are, against SciPy, scikit-image and what must hold."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import skimage.feature
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import jaxcnn
from jaxcnn import models
from jaxcnn.analysis import sanity
from jaxcnn.analysis.attribution import DeadMapWarning
from jaxcnn.analysis.saliency import gradient, smooth_grad
from jaxcnn.config import DataConfig
from jaxcnn.data import open_split
from jaxcnn.errors import InputError

SHAPE = (12, 10, 3)
COUNT = 4


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(4, (3, 3), name="wide")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return x + nn.Conv(4, (1, 1), name="narrow")(jnp.tanh(x))


class Network(nn.Module):
    """Layers whose alphabetical order is another than they are called in, and one whose name begins as another's."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3), name="stem")(images)
        x = Block(name="middle")(x, train=train)
        x = nn.Conv(4, (3, 3), name="stem2")(jnp.tanh(x))
        if train:
            nn.Dense(3, name="auxiliary")(x.mean((1, 2)))
        return nn.Dense(3, name="head")(jnp.tanh(x).mean((1, 2)))


BLOCKS = ("head", "stem2", "middle", "stem")
MODULES = ("head", "stem2", "middle/narrow", "middle/norm", "middle/wide", "stem")
MODEL = Network()
FRESH = jaxcnn.state.create(MODEL, jax.random.key(0), SHAPE)
STATE = FRESH.replace(  # as if it had learned something, batch statistics too
    params=jax.tree.map(lambda x: x + 0.05, FRESH.params),
    batch_stats=jax.tree.map(lambda x: x + 0.5, FRESH.batch_stats),
)
IMAGES = jax.random.uniform(jax.random.key(1), (COUNT, *SHAPE))
KEY = jax.random.key(2)
LIVE = np.random.default_rng(0).normal(size=(COUNT, *SHAPE))


def flat(tree):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_layers_come_in_the_order_of_execution():
    assert sanity.layers_with_parameters(MODEL, STATE, SHAPE) == BLOCKS[::-1]
    # The block's layers are its convolution, its normalisation and the convolution after that.
    assert sanity.layers_with_parameters(MODEL, STATE, SHAPE, by="layer") == MODULES[::-1]


@pytest.mark.slow
def test_what_inference_does_not_call_comes_first():
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=True)
    state = STATE.replace(params=variables["params"])
    assert sanity.layers_with_parameters(MODEL, state, SHAPE) == ("auxiliary", *BLOCKS[::-1])


@pytest.mark.parametrize("layers", [("head",), ("middle",), ("middle/norm", "stem"), MODULES])
def test_chosen_layers_are_as_in_a_new_network_and_the_others_as_they_were(layers):
    drawn = sanity.randomise(MODEL, STATE, KEY, layers, SHAPE)
    fresh = jaxcnn.state.create(MODEL, KEY, SHAPE)
    for part in ("params", "batch_stats"):
        old, new, now = (flat(getattr(state, part)) for state in (STATE, fresh, drawn))
        assert old.keys() == now.keys()
        for path, value in now.items():
            name = path.strip("[']").replace("']['", "/")
            chosen = any(name.startswith(layer + "/") for layer in layers)
            np.testing.assert_array_equal(value, (new if chosen else old)[path])
            assert not np.array_equal(new[path], old[path])


def test_averaged_parameters_are_drawn_too():
    averaged = STATE.replace(ema_params=jax.tree.map(lambda x: 2 * x, STATE.params))
    drawn = sanity.randomise(MODEL, averaged, KEY, ["head"], SHAPE)
    fresh = jaxcnn.state.create(MODEL, KEY, SHAPE)
    np.testing.assert_array_equal(drawn.ema_params["head"]["kernel"], fresh.params["head"]["kernel"])
    np.testing.assert_array_equal(drawn.ema_params["stem"]["kernel"], averaged.ema_params["stem"]["kernel"])


def test_an_unknown_layer_is_refused():
    with pytest.raises(InputError, match="unknown layer 'middle/normal'; did you mean middle/norm"):
        sanity.randomise(MODEL, STATE, KEY, ["stem", "middle/normal"], SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize(("by", "names"), [("block", BLOCKS), ("layer", MODULES)])
def test_a_cascade_draws_one_layer_more_each_time_and_ends_in_a_new_network(by, names):
    steps = sanity.cascading_randomisation("gradient", MODEL, STATE, IMAGES, key=KEY, by=by)
    assert tuple(step.layer for step in steps) == names
    draw, _ = jax.random.split(KEY)
    classes = MODEL.apply(STATE.variables, IMAGES, train=False).argmax(-1)
    original = gradient(MODEL, STATE, IMAGES, classes)
    assert original.mean() > 1e-3  # far above the tolerances
    assert all(step.originals is steps[0].originals for step in steps)
    np.testing.assert_allclose(steps[0].originals, original, rtol=1e-4, atol=1e-6)
    for number in (0, 2, len(names) - 1):
        drawn = sanity.randomise(MODEL, STATE, draw, names[: number + 1], SHAPE)
        expected = gradient(MODEL, drawn, IMAGES, classes)
        np.testing.assert_allclose(steps[number].maps, expected, rtol=1e-4, atol=1e-6)
        alike = sanity.similarities(expected, original)
        np.testing.assert_allclose(steps[number].similarities, alike, atol=1e-3)
        assert (alike.spearman < 0.999).all()
    new = jaxcnn.state.create(MODEL, draw, SHAPE)
    np.testing.assert_allclose(steps[-1].maps, gradient(MODEL, new, IMAGES, classes), rtol=1e-4, atol=1e-6)


def test_independent_randomisation_draws_one_layer_at_a_time():
    steps = sanity.independent_randomisation(gradient, MODEL, STATE, IMAGES, 1, key=KEY)
    assert tuple(step.layer for step in steps) == BLOCKS
    draw, _ = jax.random.split(KEY)
    for step in steps:
        drawn = sanity.randomise(MODEL, STATE, draw, [step.layer], SHAPE)
        np.testing.assert_allclose(step.maps, gradient(MODEL, drawn, IMAGES, 1), rtol=1e-4, atol=1e-6)


def test_a_method_that_does_not_look_at_the_network_stays_the_same():
    def edges(model, state, images, targets, *, key, chunk):
        return jnp.abs(jnp.diff(images.sum(-1), axis=1, append=0))

    for step in sanity.cascading_randomisation(edges, MODEL, STATE, IMAGES):
        np.testing.assert_allclose(step.similarities, np.ones((4, COUNT)), atol=1e-12)


@pytest.mark.slow
def test_the_chunk_changes_nothing_and_the_key_decides_the_network_and_the_noise():
    def noisy(*args, **options):
        return smooth_grad(*args, **options, samples=2)

    whole, small, other = (
        sanity.independent_randomisation(noisy, MODEL, STATE, IMAGES, 0, key=key, chunk=chunk)
        for key, chunk in ((KEY, 64), (KEY, 3), (jax.random.key(7), 64))
    )
    for one, two, three in zip(whole, small, other, strict=True):
        np.testing.assert_allclose(one.maps, two.maps, rtol=1e-3, atol=1e-5)
        assert not np.allclose(one.maps, three.maps, rtol=1e-3, atol=1e-5)


def test_labels_permuted_means_another_network():
    other = sanity.randomise(MODEL, STATE, KEY, BLOCKS, SHAPE)
    classes = MODEL.apply(STATE.variables, IMAGES, train=False).argmax(-1)
    alike = sanity.label_randomisation("gradient", MODEL, STATE, other, IMAGES)
    expected = sanity.similarities(gradient(MODEL, other, IMAGES, classes), gradient(MODEL, STATE, IMAGES, classes))
    np.testing.assert_allclose(alike, expected, atol=1e-3)
    assert (alike.spearman < 0.9).all()
    same = sanity.label_randomisation("gradient", MODEL, STATE, STATE, IMAGES)
    np.testing.assert_allclose(same, np.ones((4, COUNT)), atol=1e-12)


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(deadline=None, max_examples=10)
def test_rank_correlations_are_scipy_s(seed, ties):
    first, second = np.random.default_rng(seed).normal(size=(2, 3, 8, 9, 2))
    second = second + first
    if ties:
        first, second = first.round(), second.round()
    alike = sanity.similarities(first, second)
    for values, change in ((alike.spearman, np.asarray), (alike.spearman_absolute, np.abs)):
        expected = [
            scipy.stats.spearmanr(change(a).ravel(), change(b).ravel()).statistic
            for a, b in zip(first, second, strict=True)
        ]
        np.testing.assert_allclose(values, expected, atol=1e-12)


def test_structure_and_oriented_gradients_are_scikit_image_s_of_the_pictures():
    first, second = np.random.default_rng(0).normal(size=(2, 2, 40, 50))
    second = 0.3 * second + first

    def picture(values):
        size = np.abs(values)
        return np.minimum((size - size.min()) / (np.percentile(size, 99) - size.min()), 1)

    alike = sanity.similarities(first, second)
    for number in range(2):
        a, b = picture(first[number]), picture(second[number])
        expected = skimage.metrics.structural_similarity(a, b, data_range=1)
        np.testing.assert_allclose(alike.ssim[number], expected, atol=1e-12)
        histograms = [skimage.feature.hog(x, pixels_per_cell=(10, 10)) for x in (a, b)]
        np.testing.assert_allclose(alike.hog[number], np.corrcoef(*histograms)[0, 1], atol=1e-12)


@given(scale=st.floats(1e-20, 1e20))
@settings(deadline=None, max_examples=10)
def test_the_unit_of_a_map_does_not_matter_and_its_sign_only_for_the_first(scale):
    np.testing.assert_allclose(sanity.similarities(scale * LIVE, LIVE), np.ones((4, COUNT)), atol=1e-6)
    turned = sanity.similarities(-scale * LIVE, LIVE)
    np.testing.assert_allclose(turned.spearman, -1, atol=1e-9)
    np.testing.assert_allclose(turned[1:], np.ones((3, COUNT)), atol=1e-6)


def test_maps_that_have_nothing_to_do_with_each_other_are_not_alike():
    alike = sanity.similarities(LIVE, np.random.default_rng(1).normal(size=LIVE.shape))
    assert all(np.abs(values).max() < 0.4 for values in alike)


def test_dead_maps_have_no_correlation_and_are_never_nan():
    dead = np.zeros_like(LIVE)
    for pair in ((dead, LIVE), (LIVE, dead), (dead, dead), (dead + 5, LIVE)):
        alike = sanity.similarities(*pair)
        assert np.isfinite(alike).all()
        for values in (alike.spearman, alike.spearman_absolute, alike.hog):
            np.testing.assert_array_equal(values, 0)
    single = dead.copy()
    single[:, 3, 4] = 1
    np.testing.assert_allclose(sanity.similarities(0.01 * single, single), np.ones((4, COUNT)), atol=1e-9)


def test_a_network_that_dies_is_warned_of_and_counted_as_unlike():
    class Dying(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            x = nn.Dense(2, name="head", bias_init=nn.initializers.constant(-100.0))(images.mean((1, 2)))
            return nn.relu(x)

    model = Dying()
    dying = jaxcnn.state.create(model, KEY, SHAPE)
    alive = dying.replace(params=jax.tree.map(lambda x: jnp.abs(x) + 1, dying.params))
    with pytest.warns(DeadMapWarning, match="4 of 4 maps are zero everywhere"):
        (step,) = sanity.cascading_randomisation("gradient", model, alive, IMAGES)
    np.testing.assert_array_equal(step.similarities.spearman, 0)


def test_the_means_have_intervals():
    alike = sanity.similarities(LIVE + np.random.default_rng(1).normal(size=LIVE.shape), LIVE)
    intervals = alike.intervals()
    assert list(intervals) == ["spearman", "spearman_absolute", "ssim", "hog"]
    for name, (mean, low, high) in intervals.items():
        values = getattr(alike, name)
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
        np.testing.assert_allclose([mean, low, high], [values.mean(), *expected])


@pytest.mark.parametrize(
    ("maps", "originals", "message"),
    [
        (LIVE, LIVE[:2], r"maps have shapes \(4, 12, 10, 3\) and \(2, 12, 10, 3\); expected the same"),
        (LIVE[0, 0], LIVE[0, 0], r"shapes \(10, 3\)"),
        (LIVE[:, :6], LIVE[:, :6], "at least 7 pixels a side"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(maps, originals, message):
    with pytest.raises(InputError, match=message):
        sanity.similarities(maps, originals)


def test_unknown_methods_and_small_images_are_refused():
    with pytest.raises(InputError, match="unknown attribution method 'gradiant'; did you mean gradient"):
        sanity.cascading_randomisation("gradiant", MODEL, STATE, IMAGES)
    with pytest.raises(InputError, match=r"images have shape \(4, 6, 10, 3\); expected sides of at least 7 pixels"):
        sanity.independent_randomisation("gradient", MODEL, STATE, IMAGES[:, :6])


@pytest.mark.slow
def test_on_photographs_the_gradient_changes_much_more_than_guided_backpropagation(real_data):
    model, state = jaxcnn.load("squeezenet1_0", weights=real_data / "weights/squeezenet1_0_imagenet.pth")
    files = sorted((real_data / "imagenet_samples").iterdir())[::5]
    images = np.stack([np.asarray(Image.open(f).convert("RGB").resize((227, 227))) for f in files]) / np.float32(255)
    alike = {
        method: [
            step.similarities for step in sanity.cascading_randomisation(method, model, state, images, key=KEY)[:4]
        ]
        for method in ("gradient", "guided_backpropagation")
    }
    for plain, guided in zip(alike["gradient"], alike["guided_backpropagation"], strict=True):
        for one, other in zip(plain, guided, strict=True):
            assert one.mean() + 0.2 < other.mean()
        assert plain.spearman_absolute.mean() < 0.5
        assert guided.spearman_absolute.mean() > 0.6


@pytest.mark.slow
def test_who_learned_permuted_labels_looks_elsewhere_than_who_learned_the_labels_again():
    source = open_split(DataConfig("digits", image_size=28), "train", 0)
    pixels, labels = source.read(np.arange(500))
    images = jnp.asarray(pixels, jnp.float32) / 255
    model = models.create("lenet5", activation="relu", mean=(0.5,), std=(0.5,))
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(state, labels, chosen):
        def loss(params):
            logits = model.apply({"params": params}, images[chosen], train=False)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(state.params), state.opt_state)
        return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    def trained(labels, seed):
        state = jaxcnn.state.create(model, jax.random.key(seed), images.shape[1:], optimizer)
        rng = np.random.default_rng(seed)
        for _ in range(200):
            for chosen in rng.permutation(500).reshape(5, 100):
                state = step(state, labels, chosen)
        correct = model.apply(state.variables, images, train=False).argmax(-1) == labels
        assert correct.mean() > 0.95  # as in section 5 of the paper
        return state

    permuted = np.random.default_rng(7).permutation(labels)
    one, again, other = trained(labels, 1), trained(labels, 2), trained(permuted, 2)
    asked = images[:50]
    for method in ("gradient", "gradient_x_input"):
        same = sanity.label_randomisation(method, model, one, again, asked, labels[:50])
        permuted_labels = sanity.label_randomisation(method, model, one, other, asked, labels[:50])
        assert permuted_labels.spearman.mean() + 0.1 < same.spearman.mean(), method
