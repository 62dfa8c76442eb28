"""Matrices in a row: their numbers, colours and frames as given, in reading order, legible, and shown in notebooks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from PIL import Image
from test_figures import check_legible, drawn, picture

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.matrices import Matrix, matrices

X = np.array([[10, 10, 10, 0, 0, 0]] * 6)
F = np.array([[1, 0, -1]] * 3)
Z = np.array([[0, 30, 30, 0]] * 4)
WINDOW = (slice(0, 3), slice(1, 4))
rng = np.random.default_rng(0)

SAMPLES = {
    "equation": lambda: matrices([Matrix("X", X, WINDOW), "*", Matrix("F", F), "=", Matrix("Z", Z)]),
    "product": lambda: matrices(
        [Matrix("W", F.repeat(4, 1)[:2]), "·", Matrix("X_col", rng.normal(size=(12, 4))), "=", Matrix("Z", Z[:2])]
    ),
    "one": lambda: matrices([Matrix("a caption wider than its matrix by far", [[1]])]),
    "vectors": lambda: matrices([Matrix("p", [0.982, 0.0179, 0.000121]), "-", Matrix("y", [1, 0, 0])]),
    "words": lambda: matrices([Matrix("F", F), "dilated by 2:", Matrix("", F), "or", "nothing"]),
    "zero": lambda: matrices([Matrix("0", np.zeros((2, 2)))]),
}


def numbers(axes: Axes) -> np.ndarray:
    """What stands in the cells, in the shape of the matrix; the caption is the last text."""
    found = np.zeros(picture(axes).shape)
    for text in axes.texts[:-1]:
        column, row = map(int, text.get_position())
        found[row, column] = float(text.get_text().replace("−", "-"))  # noqa: RUF001
    assert len(axes.texts) == found.size + 1
    return found


def frame(axes: Axes) -> tuple[float, float, float, float]:
    (patch,) = axes.patches
    return (*patch.get_xy(), patch.get_width(), patch.get_height())


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_legible(name):
    figure = SAMPLES[name]()
    check_legible(figure)
    assert style.COLUMN - 1e-6 <= figure.get_figwidth() <= style.PAGE


@settings(deadline=None, max_examples=15)
@given(
    arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(-1e6, 1e6)),
    st.text("abc ", max_size=20),
)
def test_any_numbers_are_legible_and_in_their_cells(values, caption):
    figure = matrices([Matrix(caption, values), "=", Matrix("again", values)])
    check_legible(figure)
    expected = np.where(np.abs(values) < 1e-6 * np.abs(values).max(), 0, values)
    for axes in figure.axes:
        assert_array_equal(numbers(axes), [[float(f"{v:.3g}") for v in row] for row in expected])


def test_an_equation_reads_from_left_to_right():
    figure = SAMPLES["equation"]()
    assert [axes.texts[-1].get_text() for axes in figure.axes] == ["X", "F", "Z"]
    for axes, values in zip(figure.axes, (X, F, Z), strict=True):
        assert_array_equal(picture(axes), values)
        assert_array_equal(numbers(axes), values)
        assert axes.yaxis_inverted()
    texts = drawn(figure)
    order = sorted((text for text in texts if text.get_text() in "XFZ*="), key=lambda text: text.get_window_extent().x0)
    assert [text.get_text() for text in order] == ["X", "*", "F", "=", "Z"]
    edges = [edge for axes in figure.axes for edge in (axes.get_position().x0, axes.get_position().x1)]
    assert edges == sorted(edges)


def test_cells_have_one_height_and_matrices_one_middle():
    figure = SAMPLES["product"]()
    boxes = [axes.get_position() for axes in figure.axes]
    heights = [box.height / len(picture(axes)) for axes, box in zip(figure.axes, boxes, strict=True)]
    assert heights == pytest.approx([heights[0]] * 3)
    middles = [(box.y0 + box.y1) / 2 for box in boxes]
    assert middles == pytest.approx([middles[0]] * 3)


def test_the_frame_is_around_the_outlined_block_alone():
    figure = SAMPLES["equation"]()
    assert frame(figure.axes[0]) == (0.5, -0.5, 3, 3)
    assert not figure.axes[1].patches
    assert not figure.axes[2].patches
    last = matrices([Matrix("X", X, (slice(-1, None), slice(-2, None)))])
    assert frame(last.axes[0]) == (3.5, 4.5, 2, 1)


def test_colours_tell_the_sign_and_the_share_of_the_largest_in_each_matrix():
    assert len({axes.images[0].to_rgba(picture(axes).max()) for axes in SAMPLES["equation"]().axes}) == 1
    for axes in SAMPLES["equation"]().axes:
        limit = np.abs(picture(axes)).max()
        red, white, blue = axes.images[0].to_rgba(np.array([[limit, 0.0, -limit]]))[0, :, :3]
        assert red[0] > red[2]
        assert blue[2] > blue[0]
        assert min(white) > 0.9
        assert min(red.max(), blue.max()) > 0.6  # light enough for black numbers


def test_rounding_errors_are_zeros_and_zero_has_no_sign():
    (axes,) = matrices([Matrix("dx", [[1.0, -1.5e-8], [-0.0, -2e-5]])]).axes
    assert [text.get_text() for text in axes.texts] == ["1", "0", "0", "−2e−05", "dx"]  # noqa: RUF001
    small = matrices([Matrix("dx", [[1e-9, -2e-9]])])
    assert [text.get_text() for text in small.axes[0].texts] == ["1e−09", "−2e−09", "dx"]  # noqa: RUF001

    zero = matrices([Matrix("dx", [[-0.0]])])
    assert [text.get_text() for text in zero.axes[0].texts] == ["0", "dx"]


def test_a_minus_is_drawn_as_one():
    assert "−" in [text.get_text() for text in SAMPLES["vectors"]().texts]  # noqa: RUF001


def test_drawing_gives_equal_bytes():
    files = []
    for _ in range(2):
        files.append(io.BytesIO())
        with style.context():
            SAMPLES["equation"]().savefig(files[-1], format="png")
    assert files[0].getvalue() == files[1].getvalue()


def test_a_notebook_shows_a_figure_at_twice_the_pixels_of_its_size():
    figure = SAMPLES["equation"]()
    assert isinstance(figure, Figure)
    content, size = figure._repr_png_()  # type: ignore[attr-defined]
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == pytest.approx((2 * size["width"], 2 * size["height"]), abs=2)
    assert size["width"] == round(150 * figure.get_figwidth())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "0 parts hold 0 matrices"),
        (["*", "="], "2 parts hold 0 matrices; expected at least one"),
        ([Matrix("X", X[None])], r"'X' has shape \(1, 6, 6\); expected \[rows, columns\]"),
        ([Matrix("X", np.ones((0, 2)))], r"'X' has shape \(0, 2\)"),
        ([Matrix("X", [[1, np.nan]])], r"'X' has shape \(1, 2\); expected .* finite"),
        ([Matrix("X", X, (slice(6, 8), slice(0, 1)))], r"'X' has shape \(6, 6\) and outlines"),
        ([Matrix("X", np.ones((2, 40)))], r"\(2, 40\) need 8.1 inches; expected at most 6.9"),
    ],
)
def test_wrong_input_is_refused(parts, message):
    with pytest.raises(InputError, match=message):
        matrices(parts)
