"""Figures of images that excite classes or units: legible, complete, and strict about their input."""

from __future__ import annotations

import numpy as np
import pytest
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.maximize import comparison, sheet

rng = np.random.default_rng(0)
GREY = rng.random((10, 8, 8, 1))
COLOR = rng.random((3, 64, 48, 3))
NAMES = ["dumbbell", "a class with a very long name indeed", "Siberian husky"]
SURE = np.array([0.99999, 0.5, 0.0002])


@pytest.mark.parametrize(
    "figure",
    [
        lambda: sheet(GREY, list("0123456789"), np.linspace(0, 1, 10)),
        lambda: sheet(COLOR, NAMES, SURE),
        lambda: sheet(COLOR, NAMES, [-12345.6, 0.001, 3.0], probability=False, columns=2),
        lambda: sheet(COLOR, NAMES),
        lambda: sheet(GREY[:1], ["c3 12"], [4.5], probability=False),
        lambda: comparison({"pixels": COLOR, "full method": COLOR}, NAMES, {"pixels": SURE, "full method": SURE}),
        lambda: comparison({"pixels with L1": GREY}, list("0123456789"), {"pixels with L1": np.full(10, 0.5)}),
    ],
)
def test_every_text_is_readable(figure):
    drawn = figure()
    check_legible(drawn)
    assert drawn.get_figwidth() <= style.PAGE + 1e-6


def test_a_sheet_holds_the_pictures_with_what_is_said_of_them():
    figure = sheet(COLOR, NAMES, SURE)
    assert [np.array_equal(picture(axes), image) for axes, image in zip(figure.axes, COLOR, strict=True)] == [True] * 3
    # 0.99999 is not certain.
    assert {"dumbbell", "Siberian husky", "99.9%", "50.0%", "<0.1%"} <= set(words(figure))
    assert {"1", "−1.23e+04"} <= set(words(sheet(GREY[:2], ["a", "b"], [1.0, -12345.6], probability=False)))  # noqa: RUF001


def test_a_comparison_has_a_row_for_each_way():
    ways = {"pixels": COLOR, "full method": 1 - COLOR}
    figure = comparison(ways, NAMES, dict.fromkeys(ways, SURE))
    assert len(figure.axes) == 6
    np.testing.assert_array_equal(picture(figure.axes[4]), 1 - COLOR[1])
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops[0] == tops[1] == tops[2] > tops[3] == tops[5]
    assert {"pixels", "full method"} <= set(words(figure))


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: sheet(COLOR, NAMES[:2], SURE), "2 names were given for 3 images"),
        (lambda: sheet(COLOR, NAMES, SURE[:2]), "expected 3 finite numbers"),
        (lambda: sheet(COLOR, NAMES, SURE * 2), "expected values in"),
        (lambda: sheet(COLOR, NAMES, [np.nan] * 3, probability=False), "expected 3 finite numbers"),
        (lambda: sheet(COLOR, NAMES, SURE, columns=0), "columns is 0"),
        (lambda: comparison({}, NAMES, {}), "expected the same ways"),
        (lambda: comparison({"a": COLOR}, NAMES, {"b": SURE}), "expected the same ways"),
        (lambda: comparison({"a": COLOR, "b": GREY[:3]}, NAMES, {"a": SURE, "b": SURE}), "expected one shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(draw, says):
    with pytest.raises(InputError, match=says):
        draw()
