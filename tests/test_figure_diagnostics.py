"""Figures of diagnostics: what they show equals what they were given, gaps are shown as gaps, every text legible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.diagnostics import dead_units, gradient_norms, magnitudes, time_spent

rng = np.random.default_rng(0)
STEPS = np.array([1, 100, 200, 300, 400, 500, 600])
LAYERS = [f"stage{i // 4}/block{i % 4}/conv1" for i in range(8)]
NORMS = 10.0 ** rng.uniform(-6, 1, (7, 8))
SHARES = rng.uniform(0, 1, (7, 8))
SECONDS = {"step": 75.5, "data": 3.0, "evaluation": 20.0, "checkpoint": 1.5}


def deep(count: int):
    names = [f"stage{i // 36 + 1}/a block with a long name {i}/conv1/kernel" for i in range(count)]
    return names, 10.0 ** rng.uniform(-9, 2, (7, count))


SAMPLES = {
    "norms": lambda: gradient_norms(STEPS, LAYERS, NORMS),
    "norms, deep": lambda: gradient_norms(10**6 * STEPS, *deep(300)),
    "norms, one layer and step": lambda: gradient_norms([1], ["head"], [[0.5]]),
    "norms, diverged": lambda: gradient_norms([1, 2], LAYERS, np.stack([NORMS[0], np.full(8, np.nan)])),
    "norms, all zero": lambda: gradient_norms([1, 2], LAYERS, np.zeros((2, 8))),
    "norms, alike": lambda: gradient_norms(STEPS, LAYERS, 1 + 0.1 * SHARES),
    "magnitudes": lambda: magnitudes(STEPS, LAYERS, NORMS, NORMS**2),
    "magnitudes, deep": lambda: magnitudes(10**6 * STEPS, *deep(300), deep(300)[1]),
    "magnitudes, one": lambda: magnitudes([1], ["head/bias"], [[0.0]], [[1e-3]]),
    "dead": lambda: dead_units(STEPS, LAYERS, SHARES),
    "dead, deep": lambda: dead_units(10**6 * STEPS, deep(150)[0], rng.uniform(0, 1, (7, 150))),
    "dead, not executed": lambda: dead_units([1], LAYERS, np.full((1, 8), np.nan)),
    "time": lambda: time_spent(SECONDS, images_per_second=123456.0),
    "time, one": lambda: time_spent({"step": 1e-3}),
    "time, many": lambda: time_spent({f"a part with a name {i}": 10.0**i for i in range(9)}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_legible(name):
    figure = SAMPLES[name]()
    check_legible(figure)
    assert figure.get_figwidth() == pytest.approx(style.PAGE)


def test_lines_are_the_norms_of_steps_from_the_first_to_the_last():
    norms = NORMS.copy()
    norms[0, 3] = 0
    (axes,) = gradient_norms(STEPS, LAYERS, norms, lines=3).axes
    assert [line.get_label() for line in axes.lines] == ["step 1", "step 300", "step 600"]
    for line, row in zip(axes.lines, (0, 3, 6), strict=True):
        expected = np.where(norms[row] > 0, norms[row], np.nan)
        np.testing.assert_array_equal(np.asarray(line.get_ydata(), float), expected)
    assert axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == LAYERS


def test_magnitudes_are_drawn_as_given_with_the_first_parameter_on_top():
    values = NORMS.copy()
    values[0, 2] = 0
    left, right, *_ = magnitudes(STEPS, LAYERS, values, NORMS**2).axes
    np.testing.assert_array_equal(picture(left).T, np.where(values > 0, values, np.nan))
    np.testing.assert_array_equal(picture(right).T, NORMS**2)
    assert isinstance(left.images[0].norm, LogNorm)
    assert left.images[0].origin == "upper"
    assert [label.get_text() for label in left.get_yticklabels()] == LAYERS
    assert left.get_title("left") == "mean |parameter| (grey: zero)"
    assert right.get_title("left") == "mean |gradient|"


def test_dead_shares_have_a_fixed_scale_and_the_last_stand_beside():
    shares = SHARES.copy()
    shares[-1, :3] = [0.25, np.nan, 1]
    figure = dead_units(STEPS, LAYERS, shares)
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(picture(figure.axes[0]).T, shares)
    assert image.get_clim() == (0, 1)
    beside = [text.get_text() for text in figure.axes[0].texts]
    assert beside[:3] == ["25%", "–", "100%"]  # noqa: RUF001
    assert len(beside) == len(LAYERS)
    assert "grey: ReLU not executed" in figure.axes[0].get_title("left")


def test_of_many_rows_some_are_named_and_their_shares_stand_beside_them():
    names, values = deep(150)
    figure = dead_units(STEPS, names, values / values.max())
    ticks = figure.axes[0].get_yticks()
    assert 30 < len(ticks) < 150
    assert [text.xy[1] for text in figure.axes[0].texts] == list(ticks)  # pyright: ignore[reportAttributeAccessIssue]
    assert figure.get_figheight() < 10


def test_the_bar_is_made_of_the_seconds():
    figure = time_spent(SECONDS, images_per_second=1234.5)
    bars: list[Any] = list(figure.axes[0].patches)
    np.testing.assert_allclose([bar.get_width() for bar in bars], list(SECONDS.values()))
    np.testing.assert_allclose([bar.get_x() for bar in bars], [0, 75.5, 78.5, 98.5])
    assert figure.axes[0].get_xlim() == (0, 100)
    shown = words(figure)
    assert "step  75.5 s  75.5%" in shown
    assert "100 s in all, 1,234 images/s in training" in shown


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: gradient_norms([], LAYERS, np.zeros((0, 8))), r"shape \(0, 8\)"),
        (lambda: gradient_norms(STEPS, LAYERS[1:], NORMS), r"\(7, 8\) for steps \(7,\) and 7 names"),
        (lambda: gradient_norms(STEPS, LAYERS, -NORMS), "norms go down to -"),
        (lambda: magnitudes(STEPS, LAYERS, NORMS, NORMS.T), "gradients have shape"),
        (lambda: dead_units(STEPS, [], np.zeros((7, 0))), "0 names"),
        (lambda: dead_units(STEPS, LAYERS, SHARES + 1), "expected at most 1"),
        (lambda: time_spent({}), "seconds are {}"),
        (lambda: time_spent({"step": 0.0}), "one of them more"),
        (lambda: time_spent({"step": -1.0, "data": 2.0}), "at least 0"),
        (lambda: time_spent({"step": np.nan}), "finite"),
    ],
)
def test_errors_say_what_was_given(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
