"""The figure of a study shows the means and intervals it was given, on one scale of loss."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from test_figures import check_legible, drawn

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.study import Band, learning_curves

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
