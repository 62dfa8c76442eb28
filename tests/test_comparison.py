"""The table over methods and measures: what is in it, against SciPy's intervals, and how it is written."""

from __future__ import annotations

import csv
import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

import jaxcnn
from jaxcnn.analysis import attribution, comparison, metrics
from jaxcnn.analysis.comparison import BASELINES, MEASURES, RANDOM, SMOOTH, Measure, compare, interval, random_map
from jaxcnn.analysis.road import road
from jaxcnn.errors import InputError, RunError

SHAPE = (6, 7, 3)
COUNT = 8


class Linear(nn.Module):
    """Two classes of opposite weights, so that the probability follows what the pixels add."""

    @nn.compact
    def __call__(self, images, *, train):
        return (
            3
            * nn.Dense(2, use_bias=False, name="head")(images.reshape(len(images), -1))
            @ jnp.array([[1.0, -1.0], [-1.0, 1.0]])
        )


MODEL = Linear()
STATE = jaxcnn.state.create(MODEL, jax.random.key(0), SHAPE)
IMAGES = jax.random.uniform(jax.random.key(1), (COUNT, *SHAPE))
KEY = jax.random.key(2)
CHEAP = ("deletion", "insertion")


def contributions(model, state, images, targets=None, *, key=None, chunk=None):
    return attribution.method("gradient_x_input").function(model, state, images, targets, key=key, chunk=chunk)


def reverse(*args, **options):
    return -contributions(*args, **options)


def keyless_reverse(*args, **options):
    return reverse(*args, **options).sum(-1)


OWN = {"contributions": contributions, "reverse": keyless_reverse}


@pytest.fixture(scope="module")
def table():
    return compare(MODEL, STATE, IMAGES, OWN, key=KEY)


def test_blurring_goes_back_through_the_pictures_that_insertion_of_the_least_important_comes_by():
    heat, classes = jax.random.normal(jax.random.key(3), IMAGES.shape[:3]), np.arange(COUNT) % 2
    asked = (MODEL, STATE, IMAGES)
    there = metrics.insertion(*asked, -heat, classes, key=KEY, sigma=5.0)
    given = comparison.Explanation(BASELINES[RANDOM], heat, *asked, classes, KEY, COUNT, False, 1)
    np.testing.assert_allclose(MEASURES["blurring"].function(given), there.area, atol=1e-5)


@pytest.mark.slow
def test_every_measure_has_every_method_and_the_random_map(table):
    assert [(row.measure, row.method) for row in table] == [
        (measure, method) for measure in ("deletion", "insertion", "road") for method in (*OWN, *BASELINES)
    ]
    assert all(row.n == COUNT for row in table)
    assert table.model == "Linear"


@pytest.mark.slow
def test_what_is_true_beats_the_random_map_and_its_reverse_does_not(table):
    for measure in ("deletion", "road"):  # a blurred pixel may add more than a sharp one
        assert table.row("contributions", measure).beats_random
        worse = table.row("reverse", measure)
        assert not worse.beats_random
        assert worse.advantage_high < 0
        better = table.row(worse.baseline, measure)
        assert (better.advantage, better.advantage_low, better.advantage_high) == (0, 0, 0)
        for baseline in BASELINES:
            assert not table.row(baseline, measure).beats_random
            assert table.row(baseline, measure).advantage <= 0


@pytest.mark.parametrize("region", [1, 2])
def test_maps_that_say_nothing_are_no_better_than_the_random_map(region):
    class Coherent(nn.Module):
        """As sure of its class as the upper half of the picture is sharp, so that whole pieces tell more than dots."""

        @nn.compact
        def __call__(self, images, *, train):
            sharp = jnp.square(images[:, :4, 1:] - images[:, :4, :-1]).mean((1, 2, 3))
            return jnp.stack([10 * sharp, jnp.zeros_like(sharp)], 1) + self.param("bias", nn.initializers.zeros, ())

    images = jax.random.uniform(jax.random.key(5), (256, 8, 8, 1))
    model = Coherent()
    state = jaxcnn.state.create(model, jax.random.key(0), (8, 8, 1))

    def constant(value):
        return lambda model, state, images, targets=None, *, key=None, chunk=None: jnp.full(images.shape[:3], value)

    methods = {"zeros": constant(0.0), "constant": constant(0.1)}
    table = compare(model, state, images, methods, 0, measures=CHEAP, region=region, key=KEY)
    for measure in CHEAP:
        zeros, constant_map, white, _ = table.values[CHEAP.index(measure)]
        np.testing.assert_array_equal(zeros, constant_map)  # the same order of what is equal
        assert scipy.stats.ttest_1samp(zeros - white, 0).pvalue > 0.001
        assert not table.row("zeros", measure).beats_random


def test_the_advantage_is_over_the_better_of_the_random_maps():
    area = Measure(lambda e: jnp.asarray(e.method.title == SMOOTH, jnp.float32) + e.heat.mean((1, 2)), True, "")
    for higher, baseline in ((True, SMOOTH), (False, RANDOM)):
        measure = dataclasses.replace(area, higher_is_better=higher)
        table = compare(MODEL, STATE, IMAGES, OWN, measures={"own": measure})
        assert {row.baseline for row in table} == {baseline}


def test_smooth_random_maps_are_bilinear_between_the_places_of_a_grid():
    images = jnp.zeros((3, 28, 35, 1))
    maps = np.asarray(comparison.smooth_random_map(MODEL, STATE, images, key=KEY))
    assert maps.shape == (3, 28, 35)
    assert 0 <= maps.min() < maps.max() < 1
    # The four rows between the centres of two cells lie on a line.
    runs = maps[:, 2:-2].reshape(3, 6, 4, 35)
    np.testing.assert_allclose(np.diff(runs, 2, axis=2), 0, atol=1e-5)
    assert np.abs(np.diff(runs, axis=2)).max() > 0.05
    assert len(np.unique(maps[:, 0, 0])) == 3


def test_an_advantage_whose_interval_reaches_below_0_beats_nothing():
    def row(low):
        return comparison.Row("own", "deletion", 0.5, 0.4, 0.6, RANDOM, 0.1, low, 0.2 - low, COUNT)

    assert row(0.01).beats_random
    assert not row(-0.01).beats_random


def test_the_intervals_are_student_s_and_the_advantage_is_taken_image_by_image(table):
    classes = MODEL.apply(STATE.variables, IMAGES, train=False).argmax(-1)
    _, random_key, measure_key = jax.random.split(KEY, 3)
    heats = {
        "contributions": contributions(MODEL, STATE, IMAGES, classes).sum(-1),
        **{name: method.function(MODEL, STATE, IMAGES, key=random_key) for name, method in BASELINES.items()},
    }
    ask = MODEL, STATE, IMAGES
    measured = {
        "deletion": lambda heat: metrics.deletion(*ask, heat, classes).area,
        "insertion": lambda heat: metrics.insertion(*ask, heat, classes).area,
        "road": lambda heat: road(*ask, heat, classes, key=measure_key).gap,
    }
    for name, function in measured.items():
        values, *baselines = (np.asarray(function(heats[method]), np.float64) for method in heats)
        sign = -1 if name == "deletion" else 1
        difference = sign * (values - max(baselines, key=lambda baseline: sign * baseline.mean()))
        row = table.row("contributions", name)
        for (mean, low, high), sample in (
            ((row.mean, row.low, row.high), values),
            ((row.advantage, row.advantage_low, row.advantage_high), difference),
        ):
            expected = scipy.stats.ttest_1samp(sample, 0).confidence_interval(0.95)
            np.testing.assert_allclose([mean, low, high], [sample.mean(), *expected], rtol=1e-5)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).exponential(size=(2000, 20))
    held = [low <= 1 <= high for _, low, high in map(interval, samples)]
    assert 0.9 < np.mean(held) < 0.96
    with pytest.raises(InputError, match="there are 1 images; expected at least 2"):
        interval(np.ones(1))


@pytest.mark.slow
def test_methods_and_measures_are_found_by_name_and_infidelity_does_not_depend_on_the_unit():
    table = compare(MODEL, STATE, IMAGES, ["gradient_x_input"], measures=list(MEASURES), key=KEY)
    assert [row.measure for row in table] == [name for name in MEASURES for _ in range(3)]
    steady = table.row(RANDOM, "max_sensitivity")
    assert 0.6 < steady.low < steady.high < 0.9  # about sqrt(1/2) for maps that have nothing to do with each other
    assert table.row("gradient_x_input", "max_sensitivity").beats_random
    scaled = {"gradient_x_input": lambda *args, **options: 1000 * contributions(*args, **options)}
    other = compare(MODEL, STATE, IMAGES, scaled, measures=["infidelity"], key=KEY)
    assert math.isclose(
        table.row("gradient_x_input", "infidelity").mean, other.row("gradient_x_input", "infidelity").mean, rel_tol=1e-3
    )


def test_a_method_says_itself_how_its_channels_become_heat():
    signed, unsigned = (attribution.Method(reverse, "reverse", sign, "") for sign in (True, False))
    area = Measure(lambda s: s.heat.mean((1, 2)), True, "")
    table = compare(MODEL, STATE, IMAGES, {"sum": signed, "size": unsigned}, measures={"heat": area})
    maps = np.asarray(reverse(MODEL, STATE, IMAGES))
    assert math.isclose(table.row("sum", "heat").mean, maps.sum(-1).mean(), rel_tol=1e-4)
    assert math.isclose(table.row("size", "heat").mean, np.abs(maps).max(-1).mean(), rel_tol=1e-4)
    table = compare(MODEL, STATE, IMAGES, {"sum": signed}, measures={"heat": area}, magnitudes=True)
    assert math.isclose(table.row("sum", "heat").mean, np.abs(maps.sum(-1)).mean(), rel_tol=1e-4)


def test_the_key_decides_and_the_chunk_does_not(table):
    again, small, other = (
        compare(MODEL, STATE, IMAGES, OWN, key=key, chunk=chunk, measures=CHEAP)
        for key, chunk in ((KEY, None), (KEY, 5), (jax.random.key(9), None))
    )
    assert again.rows == table.rows[: len(again.rows)]
    for one, two in zip(small, again, strict=True):
        np.testing.assert_allclose([one.mean, one.low, one.advantage], [two.mean, two.low, two.advantage], atol=1e-5)
    assert other.row(RANDOM, "deletion").mean != again.row(RANDOM, "deletion").mean
    assert other.row("reverse", "deletion").mean == again.row("reverse", "deletion").mean


def test_maps_of_random_numbers_are_each_image_s_own():
    maps = np.asarray(random_map(MODEL, STATE, IMAGES, key=KEY))
    assert maps.shape == (COUNT, *SHAPE[:2])
    assert 0 <= maps.min() < 0.05
    assert 0.95 < maps.max() < 1
    assert len(np.unique(maps)) > 0.99 * maps.size
    np.testing.assert_array_equal(maps, random_map(MODEL, STATE, IMAGES, 1, key=KEY, chunk=3))


def test_it_is_written_in_four_ways(table):
    lines = comparison.text(table).splitlines()
    assert lines[0] == "Linear, 8 images"
    assert len(lines) == 2 + len(table.rows) + 1
    first = table.rows[0]
    assert lines[2].split()[:3] == ["deletion", "contributions", f"{first.mean:.4g}"]
    assert lines[2].endswith("yes")
    assert lines[3].endswith("no")
    assert f"{first.advantage:+.4g}" in lines[2]
    assert lines[4].split()[:3] == ["deletion", "random", "map"]
    assert lines[5].split()[:4] == ["deletion", "smooth", "random", "map"]

    piped = [line for line in comparison.markdown(table).splitlines() if line.startswith("|")]
    assert len(piped) == 2 + len(table.rows)
    assert len({line.count("|") for line in piped}) == 1

    read = list(csv.DictReader(comparison.csv(table).splitlines()))
    assert [(row["method"], float(row["mean"])) for row in read] == [(row.method, row.mean) for row in table]

    values = json.loads(json.dumps(comparison.json(table), allow_nan=False))
    assert values["model"] == "Linear"
    assert [row["beats_random"] for row in values["rows"]] == [row.beats_random for row in table]
    assert values["rows"][0]["advantage_low"] == first.advantage_low


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (["gradiant"], {}, "unknown attribution method 'gradiant'; did you mean gradient"),
        (["gradient"], {"measures": ["deletions"]}, "unknown measure 'deletions'; did you mean deletion"),
        ([], {}, r"methods are \[\] and measures .* expected at least one of each"),
        (["gradient"], {"measures": ()}, "expected at least one of each"),
        ({RANDOM: contributions}, {}, "no method called 'random map' or 'smooth random map', which are always there"),
        (OWN, {"measures": {"odd": Measure(lambda s: s.maps, True, "")}}, r"the measure odd gave shape \(8, 6, 7, 3\)"),
        (OWN, {"targets": 2}, "targets hold class 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(methods, options, message):
    with pytest.raises(InputError, match=message):
        compare(MODEL, STATE, IMAGES, methods, **options)


def test_a_measure_that_is_not_finite_is_refused():
    broken = Measure(lambda e: e.heat.mean((1, 2)).at[2].set(jnp.nan), True, "")
    with pytest.raises(RunError, match="the measure own of contributions is not finite for image 2"):
        compare(MODEL, STATE, IMAGES, OWN, measures={"own": broken})


def test_the_values_of_each_image_are_kept(table):
    assert table.values.shape == (3, 4, COUNT)
    np.testing.assert_allclose(table.values.mean(-1).ravel(), [row.mean for row in table], rtol=1e-6)


def test_one_image_is_refused_and_a_row_that_is_not_there(table):
    with pytest.raises(InputError, match="there is 1 image; expected at least 2"):
        compare(MODEL, STATE, IMAGES[:1], OWN)
    with pytest.raises(InputError, match="no row of 'contributions' by 'infidelity'"):
        table.row("contributions", "infidelity")


@pytest.mark.slow
def test_on_photographs_gradient_methods_beat_both_random_maps(real_data):
    """By squares: sharp pixels scattered over a blurred photograph show less than patches of a smooth random map."""
    model, state = jaxcnn.load("squeezenet1_0", weights=real_data / "weights/squeezenet1_0_imagenet.pth")
    images = []
    for file in sorted((real_data / "imagenet_samples").iterdir()):
        picture = Image.open(file).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        images.append(picture.resize((227, 227), box=(left, top, left + side, top + side)))

    def few(name, **options):
        return lambda *args, **asked: attribution.method(name).function(*args, **asked, **options)

    methods = {
        "integrated gradients": few("integrated_gradients", steps=16),
        "SmoothGrad": few("smooth_grad", samples=16),
        "Grad-CAM": few("grad_cam"),
    }
    pixels = np.stack([np.asarray(image, np.float32) / 255 for image in images])
    table = compare(model, state, pixels, methods, measures=["insertion"], magnitudes=True, region=9, key=KEY)
    for method in methods:
        assert table.row(method, "insertion").beats_random, comparison.text(table)
