"""What goes on inside a network while it trains: gradients by layer, sizes of parameters, dead ReLUs, and time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style

_ROW = 1.4 * style.SMALL * style.POINT  # inches for a name
_LONGEST = 130.0  # points for a name
_TALLEST = 8.0  # inches for rows; more rows are drawn lower, and only some are named
_MISSING = "0.8"


@style.styled
def gradient_norms(steps: ArrayLike, layers: Sequence[str], norms: ArrayLike, *, lines: int = 5) -> Figure:
    """The L2 norm of each layer's gradient, layers from the input to the output, a line for each of some steps.

    Gradients that vanish fall towards the first layers by powers of ten, and those that explode rise.

    Args:
      steps: T optimisation steps, increasing.
      layers: L names in the order of the forward pass.
      norms: [T, L], at least 0; zeros and NaN leave gaps.
      lines: at most so many steps are drawn, spread evenly from the first to the last.

    Returns:
      A figure as wide as the page.

    Raises:
      InputError: shapes do not fit, nothing is given, or a norm is negative.
    """
    steps, values = _checked("norms", steps, layers, norms)
    figure = style.StyledFigure(figsize=(style.PAGE, 3.3), layout="constrained")
    axes = figure.subplots()
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(lines, len(steps))).round().astype(int))
    shades = colormaps["viridis"](np.linspace(0, 0.85, len(chosen)))
    x = np.arange(len(layers))
    for number, (row, shade) in enumerate(zip(chosen, shades, strict=True)):
        y = np.where(values[row] > 0, values[row], np.nan)
        mark = style.MARKERS[number % len(style.MARKERS)]
        axes.plot(x, y, color=shade, marker=mark, label=f"step {steps[row]:,}")
    axes.set_yscale("log")
    _tick_powers(axes, *axes.get_ylim())
    axes.set_ylabel("gradient norm (log scale)")
    every = -(-len(layers) // int(style.PAGE / _ROW * 0.85))
    axes.set_xticks(x[::every], [style.shorten(name, _LONGEST) for name in layers[::every]], rotation=90)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("layer, from the input to the output")
    figure.legend(loc="outside upper left", ncols=len(chosen))
    return figure


@style.styled
def magnitudes(steps: ArrayLike, parameters: Sequence[str], values: ArrayLike, gradients: ArrayLike) -> Figure:
    """The mean absolute value of every parameter (left) and of its gradient (right) over training, on log scales.

    Args:
      steps: T optimisation steps, increasing.
      parameters: P names in the order of the forward pass, the first on top.
      values: [T, P], at least 0; zeros and NaN are grey.
      gradients: [T, P] likewise.

    Returns:
      A figure as wide as the page, its height by the number of parameters.

    Raises:
      InputError: shapes do not fit, nothing is given, or a value is negative.
    """
    steps, left = _checked("values", steps, parameters, values)
    _, right = _checked("gradients", steps, parameters, gradients)
    figure, panels = _rows(2, len(parameters))
    for axes, array, title in zip(panels, (left, right), ("mean |parameter|", "mean |gradient|"), strict=True):
        positive = array[np.isfinite(array) & (array > 0)]
        low, high = (positive.min(), positive.max()) if positive.size else (1.0, 10.0)
        norm = LogNorm(low, high if high > low else 10 * low)
        grey = "" if positive.size == array.size else " (grey: zero)"
        _heat(figure, axes, steps, np.where(array > 0, array, np.nan), norm, style.SEQUENTIAL, title + grey)
    _name(panels[0], parameters)
    panels[1].set_yticks([])
    return figure


@style.styled
def dead_units(steps: ArrayLike, rectifiers: Sequence[str], dead: ArrayLike) -> Figure:
    """The share of each ReLU's units that are zero for a whole batch, over training.

    Args:
      steps: T optimisation steps, increasing.
      rectifiers: R names in the order of the forward pass, the first on top.
      dead: [T, R], shares in [0, 1]; NaN, of a ReLU that was not executed, is grey.

    Returns:
      A figure as wide as the page, its height by the number of ReLUs; the shares at the last step stand beside it.

    Raises:
      InputError: shapes do not fit, nothing is given, or a share lies outside [0, 1].
    """
    steps, shares = _checked("shares", steps, rectifiers, dead)
    if np.nanmax(shares, initial=0) > 1:
        raise InputError(f"shares of dead units reach {np.nanmax(shares):g}; expected at most 1")
    figure, (axes,) = _rows(1, len(rectifiers))
    title = "dead units" + (" (grey: ReLU not executed)" if np.isnan(shares).any() else "")
    _heat(figure, axes, steps, shares, Normalize(0, 1), style.SHARES, title, percent=True)
    every = _name(axes, rectifiers)
    for row in range(0, len(rectifiers), every):
        share = shares[-1, row]
        text = "–" if np.isnan(share) else f"{100 * share:.0f}%"  # noqa: RUF001
        place = (1, row)
        axes.annotate(
            text, place, (3, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
            va="center_baseline", size=style.SMALL,
        )  # fmt: skip
    return figure


@style.styled
def time_spent(seconds: Mapping[str, float], *, images_per_second: float | None = None) -> Figure:
    """Where the time of a run went: one bar of all its parts, and each part's seconds and share.

    Args:
      seconds: by part, at least 0, in the order of the bar.
      images_per_second: of training, for the title.

    Returns:
      A figure as wide as the page.

    Raises:
      InputError: no part is given, a number is negative or not finite, or all are zero.
    """
    spent = np.array([*seconds.values()], float)
    if not spent.size or not np.isfinite(spent).all() or spent.min() < 0 or not spent.sum():
        raise InputError(f"seconds are {dict(seconds)}; expected finite numbers of at least 0, one of them more")
    total = spent.sum()
    labels = [
        f"{name}  {_seconds(value)}  {100 * value / total:.3g}%" for name, value in zip(seconds, spent, strict=True)
    ]
    columns = max(1, int(style.PAGE / style.POINT / (max(map(style.text_width, labels)) + 36)))
    rows = -(-len(labels) // columns)
    figure = style.StyledFigure(figsize=(style.PAGE, 0.75 + rows * _ROW * 1.15), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for number, (value, label) in enumerate(zip(spent, labels, strict=True)):
        color = style.COLORS[number % len(style.COLORS)]
        axes.barh(0, value, left=left, color=color, label=label, edgecolor="white", linewidth=0.5)
        left += value
    axes.set_xlim(0, total)
    axes.set_axis_off()
    rate = "" if images_per_second is None else f", {images_per_second:,.0f} images/s in training"
    axes.set_title(f"{_seconds(total)} in all{rate}", loc="left")
    figure.legend(loc="outside lower left", ncols=columns, handlelength=1.0, handleheight=1.0)
    return figure


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{style.number(value)} s"


def _short(step: int | float) -> str:
    return f"{step:g}" if step < 1e4 else f"{step / 1e3:.4g}k" if step < 1e6 else f"{step / 1e6:.4g}M"


def _checked(what: str, steps: ArrayLike, names: Sequence[str], values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    steps, array = np.asarray(steps), np.asarray(values, float)
    if steps.ndim != 1 or not steps.size or not names or array.shape != (len(steps), len(names)):
        raise InputError(
            f"{what} have shape {array.shape} for steps {steps.shape} and {len(names)} names; expected [T, N], both "
            "at least 1"
        )
    if np.nanmin(array, initial=0) < 0:
        raise InputError(f"{what} go down to {np.nanmin(array):g}; expected at least 0")
    return steps, array


def _rows(panels: int, rows: int) -> tuple[Figure, list[Axes]]:
    height = min(rows * _ROW, _TALLEST) + 0.75
    figure = style.StyledFigure(figsize=(style.PAGE, max(height, 1.6)), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _name(axes: Axes, names: Sequence[str]) -> int:
    """Names every row, or every n-th where they would not all fit, and returns n."""
    every = math.ceil(len(names) * _ROW / _TALLEST)
    axes.set_yticks(range(0, len(names), every), [style.shorten(name, _LONGEST) for name in names[::every]])
    return every


def _heat(
    figure: Figure, axes: Axes, steps: np.ndarray, values: np.ndarray, norm: Normalize, colors: str, title: str,
    percent: bool = False,
) -> None:  # fmt: skip
    axes.set_facecolor(_MISSING)
    image = axes.imshow(values.T, aspect="auto", norm=norm, cmap=colors)
    ticks = np.arange(0, len(steps), max(1, math.ceil((len(steps) - 1) / 4)))
    axes.set_xticks(ticks, [_short(step) for step in steps[ticks].tolist()])
    axes.set_xlabel("step")
    axes.set_title(title, loc="left")
    axes.tick_params(length=0)
    pad, aspect = 0.09 if percent else 0.02, figure.get_figheight() / 0.12
    bar = figure.colorbar(image, ax=axes, location="right", fraction=0.05, pad=pad, aspect=aspect)
    if percent:
        bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    else:
        _tick_powers(bar.ax, *image.get_clim())


def _tick_powers(axes: Axes, low: Any, high: Any) -> None:
    span = high / low  # over few powers of ten, they alone are too few ticks
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1e2 else (1, 3) if span < 1e4 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(style.number))
    axes.yaxis.set_minor_formatter(NullFormatter())
