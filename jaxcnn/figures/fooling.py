"""Fooling images, how sure a network is of them, and how evolution came to them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_pictures, caption, grid, show, wrapped

_GAP = 0.07
_NINES = 6
_FEW = 4
_PUBLISHED = style.COLORS[1]


def sure(confidence: float) -> str:
    """A confidence with four digits, rounded down, so that 1 is said of nothing less."""
    return f"{math.floor(confidence * 1e4 + 1e-6) / 1e4:.4f}"


@style.styled
def sheet(
    images: ArrayLike,
    class_names: Sequence[str],
    confidences: ArrayLike,
    *,
    columns: int = 5,
    note: str = "",
    width: float = style.PAGE,
) -> Figure:
    """Each image under the class that the network takes it for, and how sure it is.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1] or uint8.
      class_names: N names; one too long for its place ends in an ellipsis.
      confidences: [N], in [0, 1].
      columns: images in a row.
      note: said above all of them.
      width: of the figure in inches.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures = as_pictures(images)
    values = _shares("confidences", confidences, (len(pictures),))
    _named(class_names, len(pictures))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = wrapped(note, (width - 2 * _GAP) / style.POINT) if note else []
    top = 0.14 * len(lines) + (0.05 if lines else 0)
    figure, axes = grid(rows, columns, pictures.shape[1:3], width=width, gap=_GAP, above=0.27, top=top)
    _note(figure, lines)
    room = _cell(columns, width)
    panels = [panel for row in axes for panel in row]
    for panel, picture, name, value in zip(panels, pictures, class_names, values, strict=False):
        _show(panel, picture)
        caption(panel, style.shorten(name, room), 12.0)
        caption(panel, sure(value), 3.5, "0.3")
    for unused in panels[len(pictures) :]:
        unused.remove()
    return figure


@style.styled
def confidences(values: ArrayLike, *, published: float | None = None, width: float = style.COLUMN) -> Figure:
    """How many classes the network is how sure of.

    Args:
      values: [K], confidences in [0, 1].
      published: median that a paper found, to be compared with.
      width: of the figure in inches.

    Returns:
      A figure with a histogram, and its median as a line.

    Raises:
      InputError: there are none, or a value is out of range.
    """
    found = _shares("confidences", values, (np.size(values),))
    figure = style.StyledFigure(figsize=(width, 2.3), layout="constrained")
    axes = figure.subplots()
    axes.hist(found, np.linspace(0, 1, 41).tolist(), color=style.COLORS[0])
    middle = float(np.median(found))
    axes.axvline(middle, color="black", label=f"median {sure(middle)}")
    if published is not None:
        axes.axvline(published, color=_PUBLISHED, linestyle="--", label=f"published median {published:g}")
    axes.set_xlim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("classes")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@style.styled
def history(
    confidences: ArrayLike,
    unit: str,
    *,
    first: int = 1,
    published: float | None = None,
    width: float = style.COLUMN,
) -> Figure:
    """How sure the network is of the best images, as they evolve or climb.

    Args:
      confidences: [T, K], of K classes one time after another, in [0, 1].
      unit: of time, such as "generation".
      first: number of the first time; from 1 on, times are on a logarithmic scale.
      published: median that a paper found at its end, to be compared with.
      width: of the figure in inches.

    Returns:
      A figure with the median over classes as a line, the middle half of the classes dark, and all of them light.

    Raises:
      InputError: the history is empty, or a value is out of range.
    """
    values = np.asarray(confidences, float)
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"history has shape {values.shape}; expected [T, K], neither of them 0")
    _shares("the history", values, values.shape)
    figure = style.StyledFigure(figsize=(width, 2.5), layout="constrained")
    axes = figure.subplots()
    numbers = np.arange(first, first + len(values))
    low, lower, middle, upper, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1), axis=1)
    color = style.COLORS[0]
    axes.fill_between(numbers, low, high, color=color, alpha=0.12, linewidth=0, label="all classes")
    axes.fill_between(numbers, lower, upper, color=color, alpha=0.35, linewidth=0, label="middle half")
    axes.plot(numbers, middle, color=color, label=f"median, {sure(float(middle[-1]))} at the end")
    if published is not None:
        axes.axhline(published, color=_PUBLISHED, linestyle="--", label=f"published median {published:g}")
    if first > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.xaxis.set_major_formatter(FuncFormatter(style.number))
    axes.set_xlim(first, max(first + 1, numbers[-1]))
    if middle[-1] > 0.99:  # most of what happens is beyond
        axes.set_yscale("function", functions=(_nines, lambda nines: 1 - 10.0**-nines))
        axes.set_yticks([0, 0.9, 0.99, 0.999, 0.9999, 0.99999], ["0", "0.9", "0.99", "0.999", "0.9999", "0.99999"])
        axes.set_ylim(0, 1 - 10**-_NINES)
    else:
        axes.set_ylim(0, 1)
    axes.set_xlabel(f"{unit} (log)" if first > 0 else unit)
    axes.set_ylabel("confidence")
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
    return figure


@style.styled
def film(
    frames: ArrayLike,
    numbers: Sequence[int] | Sequence[str],
    class_names: Sequence[str],
    confidences: ArrayLike,
    *,
    unit: str = "generation",
    columns: int = 10,
    width: float = style.PAGE,
) -> Figure:
    """How images changed: a row for each class, from the first generation to the last.

    Args:
      frames: [F, S, H, W, C] of S classes; floats in [0, 1] or uint8.
      numbers: F generations, rising; or names of whatever else stands side by side.
      class_names: S names, of the rows.
      confidences: [F, S], in [0, 1].
      unit: what the numbers count.
      columns: frames at most; of more, some are left out, the first and the last not; fewer than four leave a gap.
      width: of the figure in inches.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures, values = _frames(frames, numbers, class_names, confidences)
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(columns, len(pictures))).round().astype(int))
    count = pictures.shape[1]
    places = max(len(chosen), _FEW)  # one frame as wide as the page would make the film metres tall
    figure, axes = grid(count, places, pictures.shape[2:4], width=width, gap=_GAP, above=0.27, top=0.3)
    room = _cell(places, width)
    for row in range(count):
        for column, frame in enumerate(chosen):
            panel = axes[row][column]
            _show(panel, pictures[frame, row])
            caption(panel, sure(values[frame, row]), 3.5, "0.3")
            if column == 0:
                caption(panel, style.shorten(class_names[row], places * room), 12.0)
        for unused in axes[row][len(chosen) :]:
            unused.remove()
    _note(figure, [unit])
    tall = figure.get_figheight()
    for column, frame in enumerate(chosen):
        number = numbers[frame]
        text = style.shorten(number if isinstance(number, str) else f"{number:,}", room)
        left = axes[0][column].get_position().x0
        figure.text(left, 1 - 0.25 / tall, text, va="baseline", size=style.SMALL)
    return figure


def animate(
    path: str | os.PathLike[str],
    frames: ArrayLike,
    numbers: Sequence[int],
    class_names: Sequence[str],
    confidences: ArrayLike,
    *,
    columns: int = 5,
    frames_per_second: int = 5,
    width: float = style.PAGE,
) -> Path:
    """Writes how images evolved as a GIF that begins again when it has ended.

    Args:
      path: of the file.
      frames: see `film`.
      numbers: F generations, rising.
      class_names: S names.
      confidences: [F, S], in [0, 1].
      columns: images in a row.
      frames_per_second: the last frame stands ten times as long as any other.
      width: of the picture in inches.

    Raises:
      InputError: see `film`.
      OSError: the file cannot be written.
    """
    from matplotlib.animation import PillowWriter  # it imports Pillow, which no other figure needs
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    pictures, values = _frames(frames, numbers, class_names, confidences)
    writer = PillowWriter(fps=frames_per_second)
    with style.context():
        columns = min(columns, pictures.shape[1])
        rows = -(-pictures.shape[1] // columns)
        figure, axes = grid(rows, columns, pictures.shape[2:4], width=width, gap=_GAP, above=0.27, top=0.2)
        FigureCanvasAgg(figure)
        panels = [panel for row in axes for panel in row]
        title = figure.text(_GAP / width, 1 - 0.13 / figure.get_figheight(), "", va="baseline", size=style.MEDIUM)
        with writer.saving(figure, str(path), dpi=100):
            for frame in [*range(len(pictures)), *[len(pictures) - 1] * 9]:
                title.set_text(f"generation {numbers[frame]:,}")
                for number, panel in enumerate(panels):
                    _clear(panel)
                    if number < pictures.shape[1]:
                        _show(panel, pictures[frame, number])
                        caption(panel, style.shorten(class_names[number], _cell(columns, width)), 12.0)
                        caption(panel, sure(values[frame, number]), 3.5, "0.3")
                writer.grab_frame()
    return Path(path)


def _nines(shares: ArrayLike) -> np.ndarray:
    """How many nines a share begins with, six at most: -log10(1 - share)."""
    return -np.log10(np.maximum(1 - np.asarray(shares, float), 10.0**-_NINES))


def _show(panel: Axes, picture: np.ndarray) -> None:
    """Draws a picture with an edge, as some are as white as the page."""
    show(panel, picture)
    edge = Rectangle((0, 0), 1, 1, transform=panel.transAxes, fill=False, color="0.75", linewidth=0.4, clip_on=False)
    panel.add_patch(edge)


def _clear(panel: Axes) -> None:
    panel.clear()
    panel.set_axis_off()


def _cell(columns: int, width: float) -> float:
    """Width of one picture, in points."""
    return (width - _GAP * (columns + 1)) / columns / style.POINT


def _note(figure: Figure, lines: Sequence[str]) -> None:
    wide, tall = figure.get_size_inches()
    for number, line in enumerate(lines):
        figure.text(_GAP / wide, 1 - (0.11 + 0.14 * number) / tall, line, va="baseline", size=style.SMALL)


def _named(class_names: Sequence[str], count: int) -> None:
    if len(class_names) != count:
        raise InputError(f"{len(class_names)} class names were given; expected {count}, one for each image")


def _shares(what: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, float)
    if array.shape != shape or not array.size:
        raise InputError(f"{what} have shape {array.shape}; expected {shape}, at least one")
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"{what} run from {array.min():g} to {array.max():g}; expected values in [0, 1]")
    return array


def _frames(
    frames: ArrayLike, numbers: Sequence[int] | Sequence[str], class_names: Sequence[str], confidences: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(frames)
    if array.ndim != 5 or len(numbers) != len(array):
        raise InputError(f"frames have shape {array.shape}; expected [F, S, H, W, C] for {len(numbers)} generations")
    _named(class_names, array.shape[1])
    pictures = as_pictures(array.reshape(-1, *array.shape[2:])).reshape(array.shape)
    return pictures, _shares("confidences", confidences, array.shape[:2])
