"""Pictures with what the network took them for, mistakes marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_pictures, caption, grid, show, wrapped

RIGHT, WRONG = "✓", "✗"


@style.styled
def predictions(
    images: ArrayLike,
    probabilities: ArrayLike,
    targets: ArrayLike,
    class_names: Sequence[str],
    *,
    columns: int | None = None,
    mistakes_first: bool = False,
    note: str = "",
    width: float = style.COLUMN,
) -> Figure:
    """Each picture under its predicted class, the probability of that class, and the true class.

    A mistake has a cross before its name and a thick frame; a right answer has a tick.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1] or uint8.
      probabilities: [N, K] in [0, 1]; the largest of a row is the prediction.
      targets: [N], the true classes, integers in [0, K).
      class_names: K names; one too long for its place ends in an ellipsis.
      columns: pictures in a row; None takes as many as leave the names whole, and at least 2.
      mistakes_first: whether the mistakes move to the front; otherwise the order stays as given.
      note: said above all of them, such as which images they are.
      width: width of the figure in inches.

    Returns:
      A figure with one axes for each picture.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures = as_pictures(images)
    shares, truth = np.asarray(probabilities), np.asarray(targets)
    names = [str(name) for name in class_names]
    count, classes = len(pictures), len(names)
    if shares.shape != (count, classes):
        raise InputError(
            f"probabilities have shape {shares.shape}; expected {(count, classes)}: {count} images, {classes} names"
        )
    if not (shares.min() >= 0 and shares.max() <= 1):
        raise InputError(f"probabilities run from {shares.min():g} to {shares.max():g}; expected values in [0, 1]")
    if truth.shape != (count,) or truth.dtype.kind not in "iu":
        raise InputError(f"targets are {truth.dtype} of shape {truth.shape}; expected integers of shape {(count,)}")
    if truth.min() < 0 or truth.max() >= classes:
        raise InputError(f"targets run from {truth.min()} to {truth.max()}; expected classes in [0, {classes})")
    if columns is not None and columns < 1:
        raise InputError(f"columns is {columns}; expected at least 1")
    predicted = shares.argmax(-1)
    mistaken = predicted != truth
    order = np.argsort(~mistaken, kind="stable") if mistakes_first else np.arange(count)
    answers = [
        (f"{WRONG if wrong else RIGHT} ", names[k], f" ({share[k]:.0%})")
        for wrong, k, share in zip(mistaken, predicted, shares, strict=True)
    ]
    truths = [("true: ", names[k], "") for k in truth]
    if columns is None:
        columns = _columns(["".join(parts) for parts in answers + truths], width)
    columns = min(columns, count)
    rows = -(-count // columns)
    lines = wrapped(note, (width - 2 * _GAP) / style.POINT) if note else []
    top = _LINE * len(lines) + (_GAP if lines else 0)
    figure, axes = grid(rows, columns, pictures.shape[1:3], width=width, gap=_GAP, above=0.27, top=top)
    if lines:
        top = 1 - _GAP / figure.get_figheight()
        figure.text(_GAP / width, top, "\n".join(lines), va="top", size=style.SMALL, linespacing=1.15)
    panels = [panel for row in axes for panel in row]
    for panel, i in zip(panels, order, strict=False):
        show(panel, pictures[i])
        room = _cell(columns, width)
        color = style.WRONG if mistaken[i] else "black"
        _line(panel, 12.0, answers[i], room, color)
        _line(panel, 3.5, truths[i], room, "0.3")
        if mistaken[i]:
            frame = Rectangle((0, 0), 1, 1, transform=panel.transAxes, fill=False, edgecolor=color, linewidth=2)
            panel.add_patch(frame)
    for unused in panels[count:]:
        unused.remove()
    return figure


_GAP, _LINE = 0.07, 0.125


def _cell(columns: int, width: float) -> float:
    """Width of one picture, in points."""
    return (width - _GAP * (columns + 1)) / columns / style.POINT


def _columns(lines: list[str], width: float) -> int:
    """As many columns as leave every line whole, from 2 to one for each 0.65 inches."""
    longest = max(map(style.text_width, lines))
    most = max(2, int(width / 0.65))
    return next((columns for columns in range(most, 2, -1) if longest <= _cell(columns, width)), 2)


def _line(panel: Axes, height: float, parts: tuple[str, str, str], room: float, color: str) -> None:
    """Text above the picture, its middle part shortened to fit."""
    start, name, end = parts
    text = start + style.shorten(name, room - style.text_width(start + end)) + end
    caption(panel, text, height, color)
