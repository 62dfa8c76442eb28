"""Where a network's parameters, arithmetic and memory are: bars by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style

_ROW = 1.45 * style.SMALL * style.POINT  # inches for a layer
_LONGEST = 120.0  # points for its name
_COLORS = tuple(color for color in style.COLORS if color != style.WRONG)


@style.styled
def layers(names: Sequence[str], counts: Mapping[str, ArrayLike], *, title: str = "") -> Figure:
    """A row for each layer, the first on top, and beside it a bar for each quantity.

    The scales are linear, so that a bar's length is the layer's share of the sum, which heads the column; the number
    stands at the bar's end. A layer without any of a quantity has no bar.

    Args:
      names: N layers in order of execution.
      counts: the quantities in the order of the columns, each [N], from 0.
      title: above the names.

    Returns:
      A figure as wide as the page, its height by the number of layers.

    Raises:
      InputError: no layers or no quantities, another shape, or a count that is negative or not finite.
    """
    if not names or not counts:
        raise InputError(f"{len(names)} layers and {len(counts)} quantities were given; expected at least one of each")
    arrays = {name: np.asarray(values, float) for name, values in counts.items()}
    for name, values in arrays.items():
        if values.shape != (len(names),):
            raise InputError(f"{name} have shape {values.shape}; expected [{len(names)}], one for each layer")
        if not (np.isfinite(values).all() and values.min() >= 0):
            raise InputError(f"{name} lie between {values.min():g} and {values.max():g}; expected finite, from 0")
    labels = [style.shorten(name, _LONGEST) for name in names]
    left = max(map(style.text_width, labels)) * style.POINT + 0.12
    top, bottom, gap = 0.4, 0.06, 0.14
    height = top + len(names) * _ROW + bottom
    figure = style.StyledFigure(figsize=(style.PAGE, height))
    width = (style.PAGE - left - gap * len(arrays)) / len(arrays)
    for i, (name, values) in enumerate(arrays.items()):
        start = (left + i * (width + gap)) / style.PAGE
        axes = figure.add_axes((start, bottom / height, width / style.PAGE, len(names) * _ROW / height))
        texts = [quantity(value) if value else "" for value in values]
        # The longest bar leaves room for its number.
        room = max(map(style.text_width, texts)) * style.POINT + 0.05
        axes.set_xlim(0, max(values.max(), 1) * width / (width - room))
        axes.barh(range(len(names)), values, height=0.72, color=_COLORS[i % len(_COLORS)])
        for row, (value, text) in enumerate(zip(values, texts, strict=True)):
            axes.annotate(
                text, (value, row), (2, 0), textcoords="offset points", va="center_baseline", size=style.SMALL
            )
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xticks([])
        axes.set_yticks(range(len(names)), labels if i == 0 else [])
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(f"{quantity(values.sum())} {name}", loc="left", pad=4)
    figure.text(0.04 / style.PAGE, 1 - 0.04 / height, title, va="top", size=style.MEDIUM)
    return figure


_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


def quantity(count: float | int) -> str:
    """A count with three digits and a decimal prefix: 2.36 M."""
    rounded = float(f"{count:.3g}")
    prefix, scale = next((prefix, scale) for prefix, scale in _PREFIXES if rounded >= scale or scale == 1)
    return f"{rounded / scale:.3g} {prefix}".rstrip()
