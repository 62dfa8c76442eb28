"""The confusion matrix, from 2 to some hundred classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import blended_transform_factory
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style


@style.styled
def confusion(counts: ArrayLike, class_names: Sequence[str] | None = None) -> Figure:
    """True classes in rows, predicted ones in columns, the colour a row's share.

    The figure is one column wide, or as much wider, up to the page, as lets the counts be read; if they do not fit on
    the page, the colours alone speak. Crowded class names are thinned out evenly.

    Args:
      counts: [K, K] examples of class i taken for class j, integers from 0.
      class_names: K names; None numbers the classes from 0.

    Returns:
      The figure, with the accuracy over all examples in its title.

    Raises:
      InputError: another shape or type, a negative count, no example at all, or not K names.
    """
    matrix = np.asarray(counts)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(f"counts have shape {matrix.shape}; expected [K, K] for at least 2 classes")
    if matrix.dtype.kind not in "iu" or matrix.min() < 0:
        raise InputError(f"counts are {matrix.dtype} from {matrix.min()}; expected integers from 0")
    if matrix.sum() == 0:
        raise InputError("counts are all 0; expected at least one example")
    names = [str(name) for name in (range(len(matrix)) if class_names is None else class_names)]
    if len(names) != len(matrix):
        raise InputError(f"{len(names)} class names were given; expected {len(matrix)}, one for each row of counts")
    names = [style.shorten(name, _LONGEST) for name in names]
    needed = max(style.text_width(f"{matrix.max()}") + 3, style.SMALL + 3)
    width = len(matrix) * needed * style.POINT + _left(names) + _RIGHT
    readable = width <= style.PAGE
    if not readable:
        width = style.COLUMN if len(matrix) <= _FEW else style.PAGE
    figure, axes = _draw(matrix, names, max(width, style.COLUMN))
    if readable:
        _annotate(axes, matrix)
    return figure


_LONGEST = 100.0  # points for a class name
_FEW = 20  # classes that a column's width holds without counts
_RIGHT = 0.17  # inches right of the matrix, for half of "100%"


def _left(names: list[str]) -> float:
    return max(map(style.text_width, names)) * style.POINT + 0.27


def _shares(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def _draw(matrix: np.ndarray, names: list[str], width: float) -> tuple[Figure, Axes]:
    classes = len(names)
    left = _left(names)
    side = width - left - _RIGHT
    cell = side / style.POINT / classes
    step = next(step for step in _STEPS if step * cell >= 1.2 * style.SMALL)
    shown = names[::step]
    upright = max(map(style.text_width, shown)) <= step * cell - 3
    below = 0.3 + (style.SMALL * style.POINT if upright else _left(shown) - 0.27)
    bottom = below + 0.45
    height = bottom + side + 0.22
    figure = style.StyledFigure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    image = axes.imshow(_shares(matrix), cmap=style.SHARES, vmin=0, vmax=1)
    ticks = range(0, classes, step)
    axes.set_xticks(ticks, shown, rotation=0 if upright else 90)
    axes.set_yticks(ticks, shown)
    axes.tick_params(length=1.5 if step > 1 else 0)
    axes.spines[:].set_visible(True)
    axes.set_ylabel("true class")
    axes.yaxis.set_label_coords(
        0.16 / width, 0.5, transform=blended_transform_factory(figure.transFigure, axes.transAxes)
    )
    axes.set_xlabel("predicted class", labelpad=2)
    title = f"Accuracy {np.trace(matrix) / matrix.sum():.1%} of {matrix.sum():,} examples"
    fits = style.text_width(title, style.MEDIUM) <= (width - left) / style.POINT
    axes.set_title(title, loc="left" if fits else "right", pad=3)
    bar = figure.add_axes((left / width, 0.34 / height, side / width, 0.08 / height))
    figure.colorbar(image, cax=bar, orientation="horizontal", format=PercentFormatter(xmax=1))
    bar.set_xlabel("share of the true class", labelpad=2)
    return figure, axes


_STEPS = [step * 10**power for power in range(6) for step in (1, 2, 5)]


def _annotate(axes: Axes, matrix: np.ndarray) -> None:
    shares = _shares(matrix)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.55 else "black" if count else "0.6"
        axes.text(column, row, str(count), ha="center", va="center", size=style.SMALL, color=color)
