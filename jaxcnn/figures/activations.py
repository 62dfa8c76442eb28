"""Activation functions and their derivatives as small multiples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style

_FUNCTION = {"color": style.COLORS[0], "linestyle": "-", "linewidth": 1.2}
_DERIVATIVE = {"color": style.COLORS[2], "linestyle": "--", "linewidth": 1.2}
_GAP, _ABOVE, _TOP, _BOTTOM = 0.1, 0.2, 0.2, 0.32  # inches


@style.styled
def activations(
    names: Sequence[str],
    x: ArrayLike,
    values: ArrayLike,
    derivatives: ArrayLike,
    *,
    limits: tuple[float, float] = (-2.0, 3.0),
    columns: int = 4,
    width: float = style.PAGE,
) -> Figure:
    """A panel for each function, f(x) solid and f'(x) dashed, all on the same axes.

    Where a curve jumps it is interrupted: it has no value between the two ends. What lies beyond the limits is cut.

    Args:
      names: A functions.
      x: [P], increasing; their spacing is how sharply a jump is placed.
      values: f(x), [A, P].
      derivatives: f'(x), [A, P].
      limits: the ends of all vertical axes. The range of x and these set the shape of a panel, so that a slope of 1
        rises at 45 degrees unless the panel would be very low or very high.
      columns: panels in a row.
      width: width of the figure in inches.

    Returns:
      A figure with A axes.

    Raises:
      InputError: the arrays do not fit together, are not finite or not increasing, or the limits are no interval.
    """
    xs, curves, slopes = np.asarray(x, float), np.asarray(values, float), np.asarray(derivatives, float)
    _check(names, xs, curves, slopes, limits)
    if columns < 1:
        raise InputError(f"columns is {columns}; expected at least 1")
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*limits)
    heights = [float(tick) for tick in ticks if limits[0] <= tick <= limits[1]]
    margin = max(style.text_width(style.number(tick)) for tick in heights) * style.POINT + 0.1
    wide = (width - margin - columns * _GAP) / columns
    tall = wide * float(np.clip((limits[1] - limits[0]) / (xs[-1] - xs[0]), 0.4, 1.2))
    height = _TOP + rows * (_ABOVE + tall) + _BOTTOM
    figure = style.StyledFigure(figsize=(width, height))
    for i, (name, curve, slope) in enumerate(zip(names, curves, slopes, strict=True)):
        row, column = divmod(i, columns)
        left, base = margin + column * (wide + _GAP), height - _TOP - (row + 1) * (_ABOVE + tall)
        axes = figure.add_axes((left / width, base / height, wide / width, tall / height))
        axes.set(xlim=(xs[0], xs[-1]), ylim=limits, yticks=heights)
        _frame(axes, below=i + columns >= len(names), beside=column == 0)
        # The derivative lies on top and dashed, so that the function is seen where the two are equal.
        axes.plot(*_interrupted(xs, curve), **_FUNCTION)
        axes.plot(*_interrupted(xs, slope), **_DERIVATIVE)
        axes.set_title(style.shorten(name, wide / style.POINT, style.MEDIUM), loc="left", pad=3)
    lines = [Line2D([], [], **_FUNCTION, label="f(x)"), Line2D([], [], **_DERIVATIVE, label="f′(x)")]  # noqa: RUF001
    corner = (margin / width, 1 - 0.02 / height)
    figure.legend(handles=lines, loc="upper left", bbox_to_anchor=corner, ncols=2, borderaxespad=0, borderpad=0)
    return figure


def _check(
    names: Sequence[str], x: np.ndarray, values: np.ndarray, derivatives: np.ndarray, limits: tuple[float, float]
) -> None:
    if x.ndim != 1 or x.size < 2 or not np.isfinite(x).all() or not (np.diff(x) > 0).all():
        raise InputError(f"x has shape {x.shape}; expected [P], at least 2 finite numbers that increase")
    for what, array in (("values", values), ("derivatives", derivatives)):
        if not names or array.shape != (len(names), x.size):
            raise InputError(
                f"{what} have shape {array.shape} for {len(names)} names; expected [A, P], P = {x.size}, "
                "a row for each of one or more names"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{what} hold NaN or infinite values; expected finite ones")
    if not limits[0] < limits[1]:
        raise InputError(f"limits are {limits}; expected the lower end first")


def _frame(axes: Axes, *, below: bool, beside: bool) -> None:
    """Axes through zero, ticks everywhere, their numbers at the left and at the foot of the figure alone."""
    axes.axhline(0, color="0.75", linewidth=0.6, zorder=0)
    axes.axvline(0, color="0.75", linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(style.number))
    axes.tick_params(labelbottom=below, labelleft=beside)
    if below:
        axes.set_xlabel("x", labelpad=0)


def _interrupted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve with a gap wherever it jumps: where a step is far larger than the steps before and after it."""
    steps = np.abs(np.diff(y))
    around = np.pad(steps, 1)
    jumps = steps > 5 * np.maximum(around[:-2], around[2:]) + 1e-3 * np.ptp(y)
    at = np.flatnonzero(jumps) + 1
    return np.insert(x, at, np.nan), np.insert(y, at, np.nan)
