"""Sheets of attribution methods by images, on one scale of colours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import (
    as_heat,
    as_pictures,
    caption,
    captions,
    color_bar,
    heading,
    quantiles,
    scale_notes,
    shared_scale,
    show,
    wrapped,
)

HEIGHT = 9.5
"""Height of a page without its caption, in inches."""

_GAP, _ABOVE, _LINE = 0.05, 0.15, 0.125  # inches: between pictures, for a caption, for a line of a title
_LEAST, _MOST = 0.8, 1.3  # inches, width of a picture


class _Layout(NamedTuple):
    """Where a sheet puts its methods: in blocks under each other, each with the pictures again.

    Attributes:
      columns: methods beside each other.
      blocks: of them.
      cell: width of a picture in inches.
      titles: each method's, in lines.
    """

    columns: int
    blocks: int
    cell: float
    titles: list[list[str]]

    def block(self, number: int) -> range:
        """Numbers of the methods in a block."""
        return range(len(self.titles))[number * self.columns : (number + 1) * self.columns]

    def header(self, number: int) -> float:
        """Height in inches of the titles of a block."""
        return _LINE * max(len(self.titles[i]) for i in self.block(number)) + _GAP

    def height(self, pictures: int, row: float) -> float:
        """Of all blocks in inches.

        Args:
          pictures: rows of a block.
          row: height of one.
        """
        return sum(self.header(number) + pictures * row + _GAP for number in range(self.blocks))


@style.styled
def sheet(
    images: ArrayLike,
    maps: Mapping[str, ArrayLike],
    signed: Collection[str] = (),
    classes: Sequence[str] | None = None,
    probabilities: ArrayLike | None = None,
    *,
    truths: Sequence[str] | None = None,
    percentile: float = 99.0,
    width: float = style.PAGE,
) -> Figure:
    """A row for each picture: the picture, and what each method says of it.

    Each map is shown relative to its own percentile of |map|. All share one scale, from blue over white to red, of
    which maps without a sign use the half from white to red. A map that is zero everywhere says so.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1] or uint8.
      maps: by the methods' titles, each [N, H, W], of the pictures' size.
      signed: the titles of those whose sign has a meaning; every other value must be at least 0.
      classes: N names of the classes explained.
      probabilities: [N], of those classes, in [0, 1].
      truths: N names of the true classes, said where they are others.
      percentile: of |map|, in (0, 100]; 100 clips nothing.
      width: of the figure in inches; few methods take less.

    Returns:
      A figure with an axes for each picture and map, in blocks under each other where one row does not hold all
      methods, and a colour bar.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures = as_pictures(images)
    if not maps or not set(signed) <= set(maps):
        raise InputError(f"maps are of {list(maps)}, signed {list(signed)}; expected a method, and signed ones of them")
    heats = {title: as_heat(heat, pictures, signed=title in signed, name=title) for title, heat in maps.items()}
    values = [heat / quantiles(heat, percentile) for heat in heats.values()]
    texts = captions(len(pictures), classes, probabilities, truths)

    titles = list(heats)
    layout = _layout(titles, width)
    across = (layout.columns + 1) * (layout.cell + _GAP) + 2 * _GAP
    width = min(width, max(style.COLUMN, across))
    room = (width - 2 * _GAP) / style.POINT
    note = [line for sentence in scale_notes(percentile, titles, signed) for line in wrapped(sentence, room)]
    foot = 0.36 + _LINE * len(note)
    tall = layout.cell * pictures.shape[1] / pictures.shape[2]
    above = _ABOVE if any(texts) else 0.0
    height = layout.height(len(pictures), above + tall + _GAP) + foot
    figure = style.StyledFigure(figsize=(width, height))
    colors, norm = shared_scale(titles, signed)

    top = height
    for number in range(layout.blocks):
        top -= layout.header(number)
        chosen = layout.block(number)
        lefts = [_GAP + (column > 0) * _GAP + column * (layout.cell + _GAP) for column in range(len(chosen) + 1)]
        for left, i in zip(lefts[1:], chosen, strict=True):
            heading(figure, layout.titles[i], left + layout.cell / 2, top, _LINE)
        for picture, text, row in zip(pictures, texts, range(len(pictures)), strict=True):
            top -= above + tall + _GAP
            boxes = [(left / width, (top + _GAP) / height, layout.cell / width, tall / height) for left in lefts]
            first, *others = (figure.add_axes(box) for box in boxes)
            show(first, picture)
            caption(first, style.shorten(text, room))
            first.set_axis_off()
            for axes, i in zip(others, chosen, strict=True):
                axes.imshow(values[i][row], cmap=colors, norm=norm)
                if not values[i][row].any():  # not to be taken for one that was forgotten
                    axes.text(0.5, 0.5, "zero", transform=axes.transAxes, ha="center", va="center", color="0.5")
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():  # a white map would have no end
                    spine.set(visible=True, color="0.7", linewidth=0.4)
        top -= _GAP
    clipped = any(bool((np.abs(value) > 1).any()) for value in values)
    color_bar(figure, ScalarMappable(norm, colors), foot - 0.12, 1.0, clipped=clipped)
    figure.text(0.5, _GAP / height, "\n".join(note), ha="center", va="bottom", size=style.SMALL, linespacing=1.1)
    return figure


def fitting(titles: Sequence[str], shape: tuple[int, int], *, width: float = style.PAGE, height: float = HEIGHT) -> int:
    """How many pictures a sheet holds that is no taller than a page, at least one.

    Args:
      titles: of the methods.
      shape: height and width of a picture; only their ratio counts.
      width: of the sheet in inches.
      height: of the page in inches.
    """
    layout = _layout(titles, width)
    row = _ABOVE + layout.cell * shape[0] / shape[1] + _GAP
    foot = 0.36 + 2 * _LINE
    return max(1, int((height - foot - layout.height(0, row)) / (layout.blocks * row)))


def _layout(titles: Sequence[str], width: float) -> _Layout:
    """As many methods beside each other as leave the words of their titles whole."""
    for blocks in range(1, len(titles) + 1):
        columns = -(-len(titles) // blocks)
        cell = min(_MOST, (width - 3 * _GAP) / (columns + 1) - _GAP)
        room = cell / style.POINT
        lines = [wrapped(title, room) for title in titles]
        whole = all(style.text_width(line) <= room for title in lines for line in title)
        if cell >= _LEAST and whole and max(map(len, lines)) <= 2:
            break
    else:
        columns, blocks = 1, len(titles)
        cell = min(_MOST, (width - 3 * _GAP) / 2 - _GAP)
        lines = [
            [style.shorten(line, cell / style.POINT) for line in wrapped(title, cell / style.POINT)] for title in titles
        ]
    return _Layout(columns, -(-len(titles) // columns), cell, lines)
