"""First-layer kernels as pictures."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import grid


@style.styled
def kernels(weights: ArrayLike, *, width: float = style.COLUMN) -> Figure:
    """Every kernel of a convolution, all on one scale.

    Three channels are shown as colours, with m = max |w| over the whole figure:

        shown = 1/2 + w / (2 m),

    so that grey is zero. One channel is shown in diverging colours, white zero; with any other number, each row holds
    the kernels over one input channel.

    Args:
      weights: [kh, kw, c, n], c input channels and n filters.
      width: width of the figure in inches.

    Returns:
      The figure; its title or its colour bar states the scale.

    Raises:
      InputError: another shape, or values that are not finite.
    """
    array = np.asarray(weights)
    if array.ndim != 4 or 0 in array.shape:
        raise InputError(f"kernels have shape {array.shape}; expected [kh, kw, c, n], none of them 0")
    if not np.isfinite(array).all():
        raise InputError("kernels hold NaN or infinite values; expected finite weights")
    kh, kw, channels, count = array.shape
    largest = float(np.abs(array).max()) or 1.0
    size = f"{count} kernels {kh}×{kw}×{channels}"  # noqa: RUF001
    if channels == 3:
        mosaic = _mosaic(np.moveaxis(0.5 + array / (2 * largest), -1, 0), _even_columns(count), background=1.0)
        figure, axes = _single(mosaic.shape[:2], width, bottom=0.0)
        axes.imshow(mosaic)
        _separate(axes, kh, kw, "white", 2.5)
        _caption(figure, f"{size}; weight 0 is grey, ±{style.number(largest)} full colour")
        return figure
    columns = _even_columns(count) if channels == 1 else count
    maps = np.transpose(array, (2, 3, 0, 1)).reshape(channels * count, kh, kw)
    mosaic = _mosaic(maps, columns, background=np.nan)
    figure, axes = _single(mosaic.shape[:2], width, bottom=0.42)
    image = axes.imshow(mosaic, cmap=style.DIVERGING, vmin=-largest, vmax=largest)
    _separate(axes, kh, kw, "0.4", 0.8)
    height = figure.get_figheight()
    bar = figure.add_axes((0.2, 0.30 / height, 0.6, 0.08 / height))
    ticks = [-largest, 0, largest]
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=ticks, format=FuncFormatter(style.number))
    bar.set_xlabel("weight", labelpad=1)
    _caption(figure, size if channels == 1 else f"{size}; a row per input channel")
    return figure


def _even_columns(count: int) -> int:
    """Columns of a grid about twice as wide as high, its last row as full as can be."""
    ideal = math.ceil(math.sqrt(2 * count))
    return min(range(ideal, max(1, ideal // 2), -1), key=lambda columns: (-count % columns, -columns), default=1)


def _mosaic(pictures: np.ndarray, columns: int, background: float) -> np.ndarray:
    """[n, h, w] or [n, h, w, 3] side by side in rows of `columns`, a pixel for each weight."""
    count, height, width = pictures.shape[:3]
    rows = math.ceil(count / columns)
    mosaic = np.full((rows * height, columns * width, *pictures.shape[3:]), background)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        mosaic[top : top + height, left : left + width] = picture
    return mosaic


def _separate(axes: Axes, kh: int, kw: int, color: str, thickest: float) -> None:
    """Lines between the kernels of a mosaic, at most a fifteenth of a kernel wide."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    kernel = axes.get_window_extent().width / axes.figure.dpi / style.POINT * kw / (right - left)
    thickness = min(thickest, kernel / 15)
    axes.vlines(np.arange(left, right + kw / 2, kw), top, bottom, colors=color, linewidth=thickness)
    axes.hlines(np.arange(top, bottom + kh / 2, kh), left, right, colors=color, linewidth=thickness)


def _single(shape: tuple[int, int], width: float, bottom: float) -> tuple[Figure, Axes]:
    figure, [[axes]] = grid(1, 1, shape, width=width, top=0.18, bottom=bottom)
    return figure, axes


def _caption(figure: Figure, text: str) -> None:
    width, height = figure.get_size_inches()
    room = width / style.POINT - 6
    figure.text(0.04 / width, 1 - 0.04 / height, style.shorten(text, room), va="top", size=style.SMALL)
