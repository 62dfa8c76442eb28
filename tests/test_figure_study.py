"""The figure of a study shows the means and intervals it was given, on one scale of loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from test_figures import check_legible, drawn

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.study import Band, Panel, Points, learning_curves, measures

EPOCHS = np.linspace(0.1, 3, 30)


def band(level: float, epochs: np.ndarray = EPOCHS, spread: float = 0.1) -> Band:
    mean = level * (0.3 + np.exp(-epochs))
    return Band(epochs, mean, mean - spread * level, mean + spread * level)


ARMS = {"GD": band(2.0), "SGD": band(1.0), "Adam": band(0.5)}
TEST = {arm: Band(*(values[9::10] for values in map(np.asarray, curve))) for arm, curve in ARMS.items()}
ACCURACY = {arm: band(0.3, EPOCHS[9::10], 0.02) for arm in ARMS}


def test_the_lines_and_bands_are_the_numbers():
    figure = learning_curves(ARMS, TEST, ACCURACY)
    check_legible(figure)
    assert figure.get_figwidth() == style.PAGE
    for axes, bands in zip(figure.axes, (ARMS, TEST, ACCURACY), strict=True):
        for line, shade, curve in zip(axes.lines, axes.collections, bands.values(), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), curve.epochs)
            np.testing.assert_array_equal(line.get_ydata(), curve.mean)
            assert isinstance(shade, PolyCollection)
            corners = shade.get_paths()[0].vertices
            assert corners[:, 1].min() == pytest.approx(np.min(curve.low))
            assert corners[:, 1].max() == pytest.approx(np.max(curve.high))
    colors = [[line.get_color() for line in axes.lines] for axes in figure.axes]
    assert colors[0] == colors[1] == colors[2]
    assert len(set(colors[0])) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["GD", "SGD", "Adam"]
    assert [handle.get_color() for handle in legend.legend_handles] == colors[0]


def test_both_losses_share_a_scale_that_an_interval_below_zero_does_not_stretch():
    wide = {"a": Band(EPOCHS, np.full(30, 0.2), np.full(30, -1.0), np.full(30, 1.4))}
    figure = learning_curves(wide, {"a": TEST["SGD"]}, {"a": ACCURACY["SGD"]})
    training, test, accuracy = figure.axes
    assert training.get_yscale() == test.get_yscale() == "log"
    assert training.get_ylim() == test.get_ylim()
    low, high = training.get_ylim()
    assert 0.1 < low < 0.2
    assert np.max(TEST["SGD"].mean) < high < 2
    assert accuracy.get_yscale() == "linear"
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "training loss (log scale)",
        "test loss (log scale)",
        "test accuracy (%)",
    ]
    assert len([label for label in training.get_yticklabels() if label.get_text()]) >= 3


def test_a_single_seed_has_lines_alone():
    nothing = np.full(30, np.nan)
    single = {"a": Band(EPOCHS, np.asarray(ARMS["SGD"].mean), nothing, nothing)}
    figure = learning_curves(
        single, single, {"a": Band(EPOCHS, np.full(30, 0.5), nothing, nothing)}, split="validation"
    )
    check_legible(figure)
    assert figure.axes[1].get_ylabel() == "validation loss (log scale)"
    assert not any(
        len(path.vertices) for axes in figure.axes for shade in axes.collections for path in shade.get_paths()
    )


def test_after_one_epoch_intervals_stand_beside_each_other():
    def end(mean: float, spread: float) -> Band:
        return Band([1.0], [mean], [mean - spread], [mean + spread])

    accuracy = {"a": end(0.6, 0.2), "b": end(0.5, 0.1)}
    figure = learning_curves(dict.fromkeys(accuracy, ARMS["SGD"]), {arm: end(1.2, 0.3) for arm in accuracy}, accuracy)
    check_legible(figure)
    reach = [container.lines[2][0].get_segments()[0] for container in figure.axes[2].containers]
    for (lower, upper), curve in zip(reach, accuracy.values(), strict=True):
        assert (lower[1], upper[1]) == pytest.approx((curve.low[0], curve.high[0]))
        assert lower[0] == upper[0] == pytest.approx(1.0, abs=0.05)
    assert reach[0][0][0] < reach[1][0][0] < figure.axes[2].get_xlim()[1] - 0.02
    assert {text.get_text() for text in figure.axes[2].get_yticklabels()} >= {"40", "50", "60", "70", "80"}


def test_an_arm_that_diverged_ends_in_a_cross_and_says_so():
    mean = np.where(EPOCHS > 1, np.nan, 1.0)
    lost = np.full(3, np.nan)
    training = ARMS | {"wild": Band(EPOCHS, mean, mean, mean)}
    test, accuracy = ({**bands, "wild": Band(EPOCHS[9::10], lost, lost, lost)} for bands in (TEST, ACCURACY))
    figure = learning_curves(training, test, accuracy, diverged=["wild"])
    check_legible(figure)
    cross = figure.axes[0].lines[-1]
    assert cross.get_marker() == "x"
    assert [*cross.get_xdata(), *cross.get_ydata()] == [EPOCHS[EPOCHS <= 1][-1], 1.0]
    assert "wild (diverged)" in [text.get_text() for text in drawn(figure)]
    assert not [line for axes in figure.axes[1:] for line in axes.lines if line.get_marker() == "x"]
    nothing = {"wild": Band([], [], [], [])}
    check_legible(learning_curves(nothing, nothing, nothing, diverged=["wild"]))


def test_many_arms_are_told_apart():
    many = {f"arm {i} " + "x" * i: band(1 + i / 10) for i in range(12)}
    figure = learning_curves(many, many, {name: band(0.1) for name in many})
    check_legible(figure)
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 12


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (({}, {}, {}), "no arm was given"),
        ((ARMS, {"GD": TEST["GD"]}, ACCURACY), r"test loss has the arms \['GD'\]; expected \['GD', 'SGD', 'Adam'\]"),
        (({"a": Band([1, 2], [1], [1], [1])}, {}, {}), "training loss of 'a': arrays have shapes"),
        ((ARMS, TEST, TEST), "accuracy runs from"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        learning_curves(*arguments)


def points(level: float, positions: Sequence[str] | Sequence[float]) -> Points:
    mean = level * np.arange(1, len(positions) + 1)
    return Points(positions, mean, mean - 0.1, mean + 0.2)


def test_measures_are_the_numbers_with_their_intervals():
    crops = Panel("accuracy", "crops", {"a": points(1, (1, 10, 144)), "b": points(2, (1, 10))}, log=False)
    layers = Panel("gradient", "layer", {"b": points(1, ("conv1", "conv2"))}, log=True)
    figure = measures([crops, layers])
    check_legible(figure)
    left, right = figure.axes
    assert (left.get_xscale(), left.get_yscale(), right.get_yscale()) == ("log", "linear", "log")
    assert [label.get_text() for label in left.get_xticklabels()] == ["1", "10", "144"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["conv1", "conv2"]
    assert (left.get_xlabel(), right.get_ylabel()) == ("crops", "gradient (log scale)")
    line, (lower, upper), _ = left.containers[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 1], [10, 2], [144, 3]])
    np.testing.assert_allclose(lower.get_ydata(), [0.9, 1.9, 2.9])
    np.testing.assert_allclose(upper.get_ydata(), [1.2, 2.2, 3.2])
    assert left.containers[1].lines[0].get_color() == right.containers[0].lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_positions_that_count_on_have_a_linear_axis_and_tiny_numbers_powers_of_ten():
    layers = list(range(1, 12))
    falling = np.logspace(-6, 0, 11)
    shown = Panel("gradient norm at the start", "layer", {"a": Points(layers, falling, falling / 2, falling * 2)}, True)
    figure = measures([shown])
    check_legible(figure)
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert axes.get_ylabel() == "gradient norm at the start\n(log scale)"
    assert {"10⁻⁵", "10⁰"} <= {text.get_text() for text in drawn(figure)}
    sizes = [500.0, 1000.0, 5000.0]
    counts = np.array([62_000.0, 3.0, 4.0])
    axes = measures([Panel("weights", "images", {"a": Points(sizes, counts, counts, counts)}, False)]).axes[0]
    assert axes.get_xscale() == "log"
    assert "60,000" in [text.get_text() for text in axes.get_yticklabels()]


def test_one_position_sets_the_arms_side_by_side():
    figure = measures([Panel("parameters", "", {"a": points(1, ("all",)), "b": points(2, ("all",))}, log=False)])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(axes.containers[0].lines[0].get_ydata(), [1, 2])
    assert not figure.legends


def test_a_cross_stands_where_all_seeds_diverged():
    gone = Points((0.1, 1.0, 10.0), [0.8, 0.9, np.nan], [0.7, 0.8, np.nan], [0.9, 1.0, np.nan])
    figure = measures([Panel("accuracy", "rate", {"a": gone, "b": points(0.2, (0.1, 1.0, 10.0))}, log=False)])
    check_legible(figure)
    (cross,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [10.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "diverged"]


def test_many_names_stand_upright_on_the_whole_page():
    names = tuple(f"stage1/block{i}" for i in range(30))
    figure = measures([Panel("error", "block", {"a": points(0.01, names), "b": points(0.02, names)}, log=False)])
    check_legible(figure)
    assert figure.get_figwidth() == style.PAGE
    assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {90}


def test_measures_that_cannot_be_drawn_are_refused():
    good = points(1, (1, 2))
    for panels, says in (
        ([], "no panel was given"),
        ([Panel("error", "crops", {}, log=False)], "error has no arm"),
        ([Panel("error", "crops", {"a": good._replace(low=[1.0])}, log=False)], "as many numbers as positions"),
        ([Panel("error", "crops", {"a": good, "b": points(1, ("x", "y"))}, log=False)], "all texts or all numbers"),
    ):
        with pytest.raises(InputError, match=says):
            measures(panels)
