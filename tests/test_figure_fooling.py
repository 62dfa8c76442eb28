"""The figures of fooling images show what they were given, and every text can be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import fooling, style

rng = np.random.default_rng(0)
NAMES = ["0", "a dog with a very long name indeed, longer than its place", "$1 note", "cat", "lion", "8", "9"]
COLOR = rng.random((7, 6, 8, 3), np.float32)
SURE = np.array([0.99999, 0.99996, 1.0, 0.5, 0.0, 0.25, 0.125])
NUMBERS = [1, 2, 5, 10, 100, 1000, 2000]
FRAMES = rng.integers(0, 256, (7, 3, 6, 8, 1), np.uint8)
GROWING = np.sort(rng.random((7, 3)), axis=0)


def test_a_confidence_is_rounded_down():
    assert [fooling.sure(value) for value in (0.99999, 0.9999, 1.0, 0.88, 0.0)] == [
        "0.9999", "0.9999", "1.0000", "0.8800", "0.0000"
    ]  # fmt: skip


@pytest.mark.parametrize("note", ["", "40 of 1,000 classes"])
def test_a_sheet_shows_each_image_with_its_class_and_confidence(note):
    figure = fooling.sheet(COLOR, NAMES, SURE, note=note)
    check_legible(figure)
    assert len(figure.axes) == 7
    for axes, image in zip(figure.axes, COLOR, strict=True):
        np.testing.assert_allclose(picture(axes), image)
    said = words(figure)
    assert said.count("0.9999") == 2
    assert "$1 note" in said
    assert (note in said) == bool(note)


def test_a_histogram_counts_classes_and_marks_the_medians():
    figure = fooling.confidences(SURE, published=0.88)
    check_legible(figure)
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 7
    assert [line.get_xdata()[0] for line in axes.lines] == [np.median(SURE), 0.88]
    assert {"median 0.5000", "published median 0.88"} <= set(words(figure))


def test_generations_are_median_quartiles_and_extremes():
    history = np.sort(rng.random((40, 9)), axis=0)
    figure = fooling.history(history, "generation", published=0.22)
    check_legible(figure)
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), np.arange(1, 41))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(history, axis=1))
    for band, (low, high) in zip(axes.collections, ((0, 1), (0.25, 0.75)), strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        last = np.quantile(history[-1], (low, high))
        assert heights.max() == pytest.approx(last[1], abs=1e-6) or heights.max() > last[1]
    check_legible(fooling.history(history[:1], "generation"))
    steps = fooling.history(history, "step", first=0)
    check_legible(steps)
    np.testing.assert_array_equal(steps.axes[0].lines[0].get_xdata(), np.arange(40))
    assert steps.axes[0].get_xscale() == "linear"


def test_a_history_near_certainty_counts_nines():
    (axes,) = fooling.history([[0.5], [0.99], [0.9999]], "step", first=0).axes
    to_pixels = axes.transData.transform
    heights = [to_pixels((0, share))[1] for share in (0, 0.9, 0.99, 0.999)]
    np.testing.assert_allclose(np.diff(heights), heights[1] - heights[0])


def test_a_film_runs_from_the_first_generation_to_the_last():
    figure = fooling.film(FRAMES, NUMBERS, NAMES[:3], GROWING, columns=4)
    check_legible(figure)
    assert figure.get_figwidth() == style.PAGE
    shown = [0, 2, 4, 6]
    for row in range(3):
        for column, frame in enumerate(shown):
            np.testing.assert_allclose(picture(figure.axes[4 * row + column]), FRAMES[frame, row, ..., 0] / 255)
    assert {"generation", "1", "5", "100", "2,000"} <= set(words(figure))


@pytest.mark.parametrize("count", [1, 3])
def test_a_film_of_few_frames_is_no_taller_than_one_of_four(count):
    figure = fooling.film(FRAMES[:count], NUMBERS[:count], NAMES[:3], GROWING[:count])
    check_legible(figure)
    assert (
        figure.get_size_inches().tolist()
        == fooling.film(FRAMES[:4], NUMBERS[:4], NAMES[:3], GROWING[:4]).get_size_inches().tolist()
    )
    assert len(figure.axes) == 3 * count
    for row, panel in enumerate(figure.axes[::count]):
        np.testing.assert_allclose(picture(panel), FRAMES[0, row, ..., 0] / 255)
    assert NAMES[1] in words(figure)


def test_an_animation_has_every_frame_and_begins_again(tmp_path):
    path = fooling.animate(tmp_path / "evolution.gif", FRAMES, NUMBERS, NAMES[:3], GROWING, width=3.0)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
    assert len(durations) == 7
    assert sum(durations) == 16 * 200


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: fooling.sheet(COLOR, NAMES[:2], SURE), "2 class names were given; expected 7"),
        (lambda: fooling.sheet(COLOR, NAMES, SURE + 1), "confidences run from 1 to 2"),
        (lambda: fooling.confidences([]), "at least one"),
        (lambda: fooling.history(SURE, "step"), r"history has shape \(7,\)"),
        (lambda: fooling.film(FRAMES, NUMBERS[1:], NAMES[:3], GROWING), "for 6 generations"),
        (lambda: fooling.film(FRAMES, NUMBERS, NAMES[:3], GROWING[:2]), "confidences have shape"),
    ],
)
def test_mistakes_are_told_in_a_sentence(draw, says):
    with pytest.raises(InputError, match=says):
        draw()
