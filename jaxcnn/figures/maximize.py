"""Images that excite classes or units, under what they were asked for, and several ways to seek them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_pictures, caption, grid, heading, show, wrapped

_GAP = 0.06
_LINE = 0.125
_BELOW = 0.16
_NAME = 0.95  # inches for the name of a row
_LARGEST = 1.3  # inches of a picture


@style.styled
def sheet(
    images: ArrayLike,
    names: Sequence[str],
    values: ArrayLike | None = None,
    *,
    probability: bool = True,
    columns: int | None = None,
    width: float = style.PAGE,
) -> Figure:
    """Each picture under the class or unit that it excites, and over what the network says of it.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1] or uint8.
      names: N; one too long for its place ends in an ellipsis.
      values: N, written below: probabilities of the classes in [0, 1], or activations of units; None writes nothing.
      probability: whether they are probabilities.
      columns: pictures in a row; None is at most five, for small pictures ten, and rows of one length.
      width: of the figure in inches.

    Returns:
      A figure with one axes for each picture.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures = as_pictures(images)
    written = [""] * len(pictures) if values is None else _written(values, probability, (len(pictures),))
    _fit(names, len(pictures), "names", "images")
    if columns is not None and columns < 1:
        raise InputError(f"columns is {columns}; expected at least 1")
    most = columns or (10 if max(pictures.shape[1:3]) <= 32 else 5)
    rows = -(-len(pictures) // most)
    across = min(most, len(pictures)) if columns else -(-len(pictures) // rows)
    above = 0.17 if values is None else 0.3
    figure, axes = grid(
        rows, across, pictures.shape[1:3], width=min(width, across * width / min(most, 5)), gap=_GAP, above=above
    )
    room = (figure.get_figwidth() - _GAP * (across + 1)) / across / style.POINT
    panels = [panel for row in axes for panel in row]
    for panel, picture, name, value in zip(panels, pictures, names, written, strict=False):
        show(panel, picture)
        caption(panel, style.shorten(name, room), 3.5 if values is None else 12.0)
        caption(panel, value, 3.5, "0.3")
    for unused in panels[len(pictures) :]:
        unused.remove()
    return figure


@style.styled
def comparison(
    ways: Mapping[str, ArrayLike],
    names: Sequence[str],
    probabilities: Mapping[str, ArrayLike],
    *,
    width: float = style.PAGE,
) -> Figure:
    """The same classes sought in several ways: a row for each way, a column for each class.

    Args:
      ways: images [N, H, W, C] with one or three channels, by what the ways are called.
      names: of the N classes.
      probabilities: of each way, N in [0, 1], written below the pictures.
      width: of the figure in inches, at most.

    Returns:
      A figure with an axes for each picture.

    Raises:
      InputError: there are no ways, the arrays do not fit together, or a value is out of its range.
    """
    if not ways or ways.keys() != probabilities.keys():
        raise InputError(f"images are of {list(ways)}, probabilities of {list(probabilities)}; expected the same ways")
    pictures = {way: as_pictures(images) for way, images in ways.items()}
    shapes = {images.shape for images in pictures.values()}
    if len(shapes) > 1:
        raise InputError(f"images have shapes {sorted(shapes)}; expected one shape for all ways")
    count, height, wide = shapes.pop()[:3]
    _fit(names, count, "names", "images")
    written = {way: _written(values, True, (count,)) for way, values in probabilities.items()}
    cell = min(_LARGEST, (width - _NAME - _GAP) / count - _GAP)
    tall = cell * height / wide
    lines = [wrapped(name, cell / style.POINT) for name in names]
    top = _LINE * max(map(len, lines)) + 0.05
    total = (_NAME + count * (cell + _GAP) + _GAP, top + len(ways) * (tall + _BELOW) + _GAP)
    figure = style.StyledFigure(figsize=total)
    for column, name in enumerate(lines):
        heading(figure, [style.shorten(line, cell / style.POINT + 3) for line in name], *_at(column, cell, total, top))
    for row, way in enumerate(pictures):
        base = total[1] - top - row * (tall + _BELOW) - tall
        for line, text in enumerate(wrapped(way, (_NAME - 2 * _GAP) / style.POINT)):
            place = (_GAP / total[0], (base + tall - (line + 1) * _LINE) / total[1])
            figure.text(*place, text, size=style.SMALL, va="baseline")
        for column, (picture, value) in enumerate(zip(pictures[way], written[way], strict=True)):
            left = _NAME + column * (cell + _GAP)
            axes = figure.add_axes((left / total[0], base / total[1], cell / total[0], tall / total[1]))
            axes.set_axis_off()
            show(axes, picture)
            figure.text((left + cell / 2) / total[0], (base - 0.115) / total[1], value, **_SMALL)
    return figure


_SMALL = {"ha": "center", "va": "baseline", "size": style.SMALL, "color": "0.3"}


def _at(column: int, cell: float, total: tuple[float, float], top: float) -> tuple[float, float]:
    return _NAME + column * (cell + _GAP) + cell / 2, total[1] - top


def _written(values: ArrayLike, probability: bool, shape: tuple[int]) -> list[str]:
    numbers = np.asarray(values, float)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise InputError(f"values are {numbers.tolist()}; expected {shape[0]} finite numbers, one for each image")
    if not probability:
        return [style.number(number) for number in numbers]
    if not (numbers.min() >= 0 and numbers.max() <= 1):
        raise InputError(f"probabilities run from {numbers.min():g} to {numbers.max():g}; expected values in [0, 1]")
    return [_share(number) for number in numbers]


def _share(probability: float) -> str:
    """In per cent, never rounded up to a certainty that it is not, nor down to none."""
    if 0 < probability < 0.001:
        return "<0.1%"
    return f"{np.floor(1000 * probability) / 10:.1f}%"


def _fit(values: Sequence[str], count: int, what: str, of: str) -> None:
    if len(values) != count:
        raise InputError(f"{len(values)} {what} were given for {count} {of}; expected as many")
