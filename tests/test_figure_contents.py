"""What each figure shows: the curves, kernels, pictures, counts and maps it was given, on the scale it states."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from test_figures import COLOR, COUNTS, EVALUATION, GREY, NAMES, PROBABILITIES, TARGETS, TRAINING, picture, rng, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.confusion import confusion
from jaxcnn.figures.curves import Curve, compare, history
from jaxcnn.figures.filters import kernels
from jaxcnn.figures.predictions import predictions
from jaxcnn.figures.saliency import saliency

# --- curves


def test_history_plots_what_it_was_given():
    figure = history(TRAINING, EVALUATION, split="test")
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("loss", "accuracy (%)", "iteration")
    for panel, field in ((upper, "loss"), (lower, "accuracy")):
        for line, curve in zip(panel.lines, (TRAINING, EVALUATION), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), curve.steps)
            np.testing.assert_array_equal(line.get_ydata(), getattr(curve, field))
    points, marked = upper.lines
    assert points.get_linestyle() == "None"
    assert points.get_alpha() < 1
    assert marked.get_linestyle() == "-"
    assert marked.get_marker() == "o"
    assert {"training", "test"} <= set(words(figure))
    assert "validation" not in words(figure)
    assert upper.get_ylim()[0] == 0
    assert 0 <= lower.get_ylim()[0] < lower.get_ylim()[1] <= 1.01


def test_error_is_one_minus_accuracy_from_zero():
    figure = history(TRAINING, measure="error")
    lower = figure.axes[1]
    np.testing.assert_allclose(lower.lines[0].get_ydata(), 1 - np.asarray(TRAINING.accuracy))
    assert lower.get_ylabel() == "error (%)"
    assert lower.get_ylim()[0] == 0


def test_a_logarithmic_loss_says_so_and_labels_several_ticks():
    upper = history(TRAINING, log_loss=True).axes[0]
    assert upper.get_yscale() == "log"
    assert upper.get_ylabel() == "loss (log scale)"
    low, high = upper.get_ylim()
    assert sum(low <= tick <= high for tick in upper.get_yticks()) >= 3


def test_runs_are_told_apart_by_name_color_and_marker():
    names = [f"run {i}" for i in range(10)]
    figure = compare({names[0]: TRAINING}, dict.fromkeys(names, EVALUATION), split="test")
    lines = [line for line in figure.axes[0].lines if line.get_label() in names]
    assert [line.get_label() for line in lines] == names
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 10
    assert set(names) | {"thin: training", "marked: test"} <= set(words(figure))
    thin = figure.axes[0].lines[0]
    assert thin.get_linewidth() < lines[0].get_linewidth()
    assert thin.get_color() == lines[0].get_color()


# --- filters


def test_colour_kernels_share_one_scale_with_zero_grey():
    weights = rng.normal(size=(3, 5, 3, 8))
    weights[0, 0, 0, 0] = -4.0
    weights[1, 1, 1, 3] = 0.0
    figure = kernels(weights)
    mosaic = picture(figure.axes[0])
    assert mosaic.shape == (2 * 3, 4 * 5, 3)
    for i in range(8):
        tile = mosaic[i // 4 * 3 :, i % 4 * 5 :][:3, :5]
        np.testing.assert_allclose(tile, 0.5 + weights[..., i] / 8)
    assert mosaic[1, 3 * 5 + 1, 1] == 0.5
    assert words(figure) == ["8 kernels 3×5×3; weight 0 is grey, ±4 full colour"]  # noqa: RUF001


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_other_kernels_are_diverging_maps_with_zero_in_the_middle(channels):
    weights = rng.normal(size=(4, 3, channels, 6))
    figure = kernels(weights)
    axes, bar = figure.axes
    image = axes.images[0]
    assert image.get_clim() == (-np.abs(weights).max(), np.abs(weights).max())
    assert min(image.cmap(0.5)) > 0.95
    mosaic = picture(axes)
    columns = 3 if channels == 1 else 6
    for channel, i in np.ndindex(channels, 6):
        place = channel * 6 + i
        tile = mosaic[place // columns * 4 :, place % columns * 3 :][:4, :3]
        np.testing.assert_array_equal(tile, weights[:, :, channel, i])
    assert bar.get_xlabel() == "weight"
    assert bar.get_xticks()[1] == 0


# --- predictions


@pytest.mark.parametrize(("first", "order"), [(False, [0, 1, 2, 3, 4]), (True, [1, 3, 0, 2, 4])])
def test_mistakes_are_marked_where_they_are(first, order):
    figure = predictions(COLOR, PROBABILITIES, TARGETS, ["a", "b", "c"], columns=3, mistakes_first=first)
    assert len(figure.axes) == 5
    for panel, i in zip(figure.axes, order, strict=True):
        np.testing.assert_array_equal(picture(panel), COLOR[i])
        k, wrong = PROBABILITIES[i].argmax(), i in (1, 3)
        answer, true = (text.get_text() for text in panel.texts)
        assert answer == f"{'✗' if wrong else '✓'} {'abc'[k]} ({PROBABILITIES[i, k]:.0%})"
        assert true == f"true: {'abc'[TARGETS[i]]}"
        assert [type(patch) for patch in panel.patches] == ([Rectangle] if wrong else [])


def test_uint8_and_float_pictures_look_the_same():
    bytes_ = (GREY * 255).astype(np.uint8)
    figure = predictions(bytes_, PROBABILITIES, TARGETS, NAMES)
    np.testing.assert_allclose(picture(figure.axes[0]), bytes_[0, ..., 0] / 255, rtol=1e-6)
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert figure.axes[0].images[0].cmap.name == "gray"


def test_a_note_says_which_images_they_are_and_takes_nothing_from_them():
    bare, noted = (
        predictions(COLOR, PROBABILITIES, TARGETS, ["a", "b", "c"], note=note) for note in ("", "2 of 9 " * 40)
    )
    assert "2 of 9" in noted.texts[0].get_text()
    heights = [figure.axes[0].get_position().height * figure.get_figheight() for figure in (bare, noted)]
    assert heights[0] == pytest.approx(heights[1])
    noted.draw_without_rendering()
    assert noted.texts[0].get_window_extent().y0 > max(
        text.get_window_extent().y1 for panel in noted.axes for text in panel.texts
    )


def test_names_stay_whole_where_columns_are_free():
    whole = predictions(COLOR, PROBABILITIES, TARGETS, ["golden retriever", "b", "c"])
    assert "✓ golden retriever (70%)" in words(whole)
    cramped = predictions(COLOR, PROBABILITIES, TARGETS, ["golden retriever", "b", "c"], columns=5)
    assert any(word.endswith("… (70%)") for word in words(cramped))


# --- confusion


def test_colours_are_row_shares_and_numbers_are_counts():
    figure = confusion(COUNTS, ["a", "b", "c"])
    axes = figure.axes[0]
    np.testing.assert_allclose(picture(axes), [[0.9, 0.1, 0], [0.25, 0.75, 0], [0, 0, 0]])
    assert axes.images[0].get_clim() == (0, 1)
    written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert written == {place: str(count) for place, count in np.ndenumerate(COUNTS)}
    assert axes.get_title(loc="left") == "Accuracy 87.5% of 120 examples"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_many_classes_thin_their_ticks_and_drop_the_numbers():
    names = [f"class {i}" for i in range(100)]
    axes = confusion(np.eye(100, dtype=int) * 50, names).axes[0]
    ticks = axes.get_yticks()
    assert 10 <= len(ticks) < 100
    assert [label.get_text() for label in axes.get_yticklabels()] == [names[int(tick)] for tick in ticks]
    assert not axes.texts


# --- saliency


def test_each_map_is_shown_relative_to_its_own_percentile():
    maps = np.stack([GREY[0, ..., 0], 100 * GREY[1, ..., 0]])
    figure = saliency(GREY[:2], maps, ["cat", "dog"], [0.25, 1.0], percentile=90.0, quantity="gradient")
    assert len(figure.axes) == 2 * 3 + 1
    for i in range(2):
        image, heat, overlay = figure.axes[3 * i : 3 * i + 3]
        np.testing.assert_array_equal(picture(image), GREY[i, ..., 0])
        np.testing.assert_allclose(picture(heat), maps[i] / np.percentile(maps[i], 90))
        assert heat.images[0].get_clim() == overlay.images[1].get_clim() == (0, 1)
        alpha = overlay.images[1].get_alpha()
        assert alpha.argmin() == maps[i].argmin()
        assert alpha.max() == pytest.approx(0.85)
    said = words(figure)
    assert {"cat (25%)", "dog (100%)", "image", "map", "overlay"} <= set(said)
    assert "gradient\nrelative to each map's 90% quantile, clipped there" in said


def test_all_maps_can_share_one_scale_in_their_own_unit():
    maps = np.stack([GREY[0, ..., 0], 100 * GREY[1, ..., 0]])
    figure = saliency(GREY[:2], maps, scale="all", percentile=100.0)
    np.testing.assert_array_equal(picture(figure.axes[1]), maps[0])
    assert figure.axes[1].images[0].get_clim() == (0, maps.max())
    assert "saliency\nup to the largest magnitude of all maps" in words(figure)


def test_signed_maps_diverge_from_zero():
    signed = COLOR[..., 0] - 0.2
    heat = saliency(COLOR, signed, signed=True).axes[1].images[0]
    assert heat.get_clim() == (-1, 1)
    assert heat.cmap.name == style.DIVERGING
    assert saliency(COLOR, COLOR[..., 0]).axes[1].images[0].cmap.name == style.SEQUENTIAL


def test_a_map_of_zeros_is_black():
    heat = saliency(GREY, np.zeros((5, 8, 8))).axes[1].images[0]
    assert to_hex(heat.to_rgba(np.asarray(heat.get_array()))[0, 0]) == "#000004"


# --- what is refused


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: history(Curve([0, 1], [1.0], [0.5])), r"shapes \(2,\), \(1,\) and \(1,\)"),
        (lambda: history(Curve([], [], [])), "at least 1"),
        (lambda: history(Curve([0], [1.0], [50.0])), "accuracy runs from 50 to 50"),
        (lambda: compare({}, {}), "no run"),
        (lambda: kernels(np.zeros((3, 3, 3))), r"shape \(3, 3, 3\); expected \[kh, kw, c, n\]"),
        (lambda: kernels(np.full((3, 3, 3, 1), np.nan)), "NaN"),
        (lambda: predictions(COLOR[0], PROBABILITIES, TARGETS, NAMES), r"\[N, H, W, C\]"),
        (lambda: predictions(COLOR * 255, PROBABILITIES, TARGETS, NAMES), r"to 254\.\d+; expected floats in \[0, 1\]"),
        (lambda: predictions(COLOR.astype(int), PROBABILITIES, TARGETS, NAMES), "type int64"),
        (lambda: predictions(COLOR, PROBABILITIES[:, :2], TARGETS, NAMES), r"shape \(5, 2\); expected \(5, 3\)"),
        (lambda: predictions(COLOR, PROBABILITIES * 9, TARGETS, NAMES), r"to 8\.1; expected values in \[0, 1\]"),
        (lambda: predictions(COLOR, PROBABILITIES, TARGETS + 1, NAMES), r"from 1 to 3; expected classes in \[0, 3\)"),
        (lambda: predictions(COLOR, PROBABILITIES, TARGETS[:2], NAMES), r"shape \(2,\); expected integers"),
        (lambda: predictions(COLOR, PROBABILITIES, TARGETS, NAMES, columns=0), "columns is 0"),
        (lambda: confusion(np.zeros((2, 3), int)), r"shape \(2, 3\)"),
        (lambda: confusion(np.zeros((2, 2), int)), "all 0"),
        (lambda: confusion(np.eye(2)), "float64"),
        (lambda: confusion(-np.eye(2, dtype=int)), "from -1"),
        (lambda: confusion(COUNTS, ["a"]), "1 class names were given; expected 3"),
        (lambda: saliency(COLOR, COLOR), r"maps have shape \(5, 12, 16, 3\); expected \(5, 12, 16\)"),
        (lambda: saliency(COLOR, -COLOR[..., 0]), "signed=True"),
        (lambda: saliency(COLOR, COLOR[..., 0] * np.inf), "NaN or infinite"),
        (lambda: saliency(COLOR, COLOR[..., 0], percentile=0.0), r"\(0, 100\]"),
        (lambda: saliency(COLOR, COLOR[..., 0], ["a"]), "1 classes were given; expected 5"),
        (lambda: saliency(COLOR, COLOR[..., 0], None, [2.0] * 5), r"values in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
