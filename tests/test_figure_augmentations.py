"""The figure of augmentations shows what it was given, legibly."""

from __future__ import annotations

import numpy as np
import pytest
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.augmentations import augmentations

rng = np.random.default_rng(0)
ORIGINAL = rng.random((9, 12, 3), np.float32)


def results(count, draws=3, shape=(9, 12, 3)):
    return {f"augmentation_{i} {i / 10:g}": rng.random((draws, *shape), np.float32) for i in range(count)}


@pytest.mark.parametrize(("count", "width"), [(1, style.COLUMN), (1, style.PAGE), (5, style.PAGE), (4, style.COLUMN)])
def test_every_row_is_named_and_shows_the_original_and_its_draws(count, width):
    rows = results(count)
    figure = augmentations(ORIGINAL, rows, width=width)
    check_legible(figure)
    assert figure.get_figwidth() == pytest.approx(width)
    assert set(words(figure)) == {"original", "draws", *rows}
    shown = {}
    for axes in figure.axes:
        x, y = axes.get_position().x0, axes.get_position().y0
        shown[round(y, 3), round(x, 3)] = axes
    named = [axes for axes in shown.values() if axes.texts]
    assert [axes.texts[0].get_text() for axes in named] == _by_row(list(rows), 2 if width == style.PAGE else 1)
    for axes in named:
        (level,) = {place[0] for place, other in shown.items() if other is axes}
        right = [other for place, other in sorted(shown.items()) if place[0] == level]
        right = right[right.index(axes) : right.index(axes) + 4]
        expected = [ORIGINAL, *rows[axes.texts[0].get_text()]]
        for panel, image in zip(right, expected, strict=True):
            np.testing.assert_array_equal(picture(panel), image)


def _by_row(names, blocks):
    """The names row by row, where they run down the first block of columns and then down the second."""
    blocks = min(blocks, len(names))
    rows = -(-len(names) // blocks)
    return [
        names[block * rows + row] for row in range(rows) for block in range(blocks) if block * rows + row < len(names)
    ]


def test_a_long_name_is_shortened_and_grey_pictures_are_shown_grey():
    figure = augmentations(ORIGINAL[..., :1], {"w" * 200: rng.random((2, 9, 12, 1))}, width=style.COLUMN)
    check_legible(figure)
    assert any(word.endswith("…") for word in words(figure))
    assert figure.axes[0].images[0].get_cmap().name == "gray"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "results are empty; expected pictures of at least one augmentation"),
        (
            results(1) | {"flip 1": rng.random((3, 9, 9, 3))},
            r"flip 1 have shape \(3, 9, 9, 3\); expected \(3, 9, 12, 3\)",
        ),
        (results(1) | {"flip 1": rng.random((2, 9, 12, 3))}, r"flip 1 have shape \(2, .*expected \(3, 9, 12, 3\)"),
        ({"flip 1": np.full((1, 9, 12, 3), 1.5)}, "images hold values from 1.5 to 1.5"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        augmentations(ORIGINAL, rows)
