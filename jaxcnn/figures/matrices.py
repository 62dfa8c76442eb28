"""Small matrices with their numbers, and the operators between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import caption

_CELL = 0.2  # inches, height and least width of a number's cell
_OPERATOR = 10.0  # points
_NOISE = 1e-6  # of the largest magnitude
_MARGIN, _GAP, _ABOVE = 0.05, 0.09, 0.2  # inches


class Matrix(NamedTuple):
    """A matrix to draw.

    Attributes:
      caption: a line above it.
      values: [rows, columns]; a vector is one row.
      outlined: rows and columns of the block that has a frame.
    """

    caption: str
    values: ArrayLike
    outlined: tuple[slice, slice] | None = None


@style.styled
def matrices(parts: Sequence[Matrix | str]) -> Figure:
    """An equation of matrices in a row: X * F = Z.

    A cell's colour is its number's share of the largest magnitude in its matrix: blue below zero, white at zero and red
    above. Numbers have three digits at most; below a millionth of the largest they are rounding errors and written 0.

    Args:
      parts: matrices, and between them operators or other words; "-" is drawn as a minus sign.

    Returns:
      A figure with an axes for each matrix, at least a column wide.

    Raises:
      InputError: no matrix, one that is not two-dimensional and finite, an outline of nothing, or more than fits on the
        width of the page.
    """
    parts = [part.replace("-", "−") if isinstance(part, str) else part for part in parts]  # noqa: RUF001
    arrays = [None if isinstance(part, str) else _checked(part) for part in parts]
    drawn = [array for array in arrays if array is not None]
    if not drawn:
        raise InputError(f"{len(parts)} parts hold 0 matrices; expected at least one")
    widths = [
        style.text_width(part, _OPERATOR) * style.POINT
        if isinstance(part, str)
        else max(np.atleast_2d(part.values).shape[1] * _cell(part.values), style.text_width(part.caption) * style.POINT)
        for part in parts
    ]
    content = sum(widths) + _GAP * (len(parts) - 1)
    width = max(content + 2 * _MARGIN, style.COLUMN)
    if width > style.PAGE:
        shapes = ", ".join(str(array.shape) for array in drawn)
        raise InputError(f"matrices {shapes} need {width:.1f} inches; expected at most {style.PAGE} inches in a row")
    tall = _CELL * max(len(array) for array in drawn)
    height = _ABOVE + tall + _MARGIN
    figure = style.StyledFigure(figsize=(width, height))
    left = (width - content) / 2
    middle = _MARGIN + tall / 2
    for part, array, room in zip(parts, arrays, widths, strict=True):
        if isinstance(part, str) or array is None:
            place = ((left + room / 2) / width, middle / height)
            figure.text(*place, str(part), size=_OPERATOR, ha="center", va="center_baseline")
        else:
            cell = _cell(array)
            size = cell * array.shape[1], _CELL * len(array)
            box = (left / width, (middle - size[1] / 2) / height, size[0] / width, size[1] / height)
            axes = figure.add_axes(box)
            axes.set_axis_off()
            write(axes, array, cell)
            caption(axes, part.caption)
            if part.outlined is not None:
                _outline(axes, array, part.outlined)
        left += room + _GAP
    return figure


def write(axes: Axes, values: np.ndarray, width: float, numbers: np.ndarray | None = None) -> None:
    """A cell for each value, coloured by it, and its number inside where it fits.

    Args:
      axes: to draw in; its shape becomes the matrix's.
      values: [rows, columns].
      width: of a cell, in inches.
      numbers: what is written, [rows, columns]; None for the values.
    """
    largest = float(np.abs(values).max()) or 1.0
    # Half the range of colours stays light enough for black numbers.
    axes.imshow(values, cmap=style.DIVERGING, vmin=-2 * largest, vmax=2 * largest, aspect="auto")
    for (row, column), text in np.ndenumerate(_texts(values if numbers is None else numbers)):
        if style.text_width(text) * style.POINT <= width:
            axes.text(column, row, text, size=style.SMALL, ha="center", va="center_baseline")
    rows, columns = values.shape
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, colors="0.6", linewidth=0.4)
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, colors="0.6", linewidth=0.4)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def _cell(values: ArrayLike) -> float:
    """Width in inches of a cell in which each of the numbers fits."""
    widest = max(map(style.text_width, _texts(values).flat))
    return max(_CELL, widest * style.POINT + 0.06)


def _texts(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    noise = np.abs(array) < _NOISE * np.abs(array).max()
    return np.vectorize(style.number, otypes=[object])(np.where(noise, 0.0, array) + 0.0)  # no minus zero


def _checked(part: Matrix) -> np.ndarray:
    array = np.atleast_2d(np.asarray(part.values, float))
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise InputError(f"matrix {part.caption!r} has shape {array.shape}; expected [rows, columns], finite")
    if part.outlined is not None and not array[part.outlined].size:
        raise InputError(f"matrix {part.caption!r} has shape {array.shape} and outlines {part.outlined}, where it ends")
    return array


def _outline(axes: Axes, array: np.ndarray, block: tuple[slice, slice]) -> None:
    (top, bottom), (left, right) = (s.indices(n)[:2] for s, n in zip(block, array.shape, strict=True))
    frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top)
    frame.set(fill=False, edgecolor="black", linewidth=1.5, clip_on=False, zorder=3)
    axes.add_patch(frame)
