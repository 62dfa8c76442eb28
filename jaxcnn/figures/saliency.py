"""Heat maps beside their pictures and over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_heat, as_pictures, caption, captions, color_bar, grid, quantiles, show


@style.styled
def saliency(
    images: ArrayLike,
    maps: ArrayLike,
    classes: Sequence[str] | None = None,
    probabilities: ArrayLike | None = None,
    *,
    truths: Sequence[str] | None = None,
    quantity: str = "saliency",
    signed: bool = False,
    scale: Literal["each", "all"] = "each",
    percentile: float = 99.0,
    width: float = style.COLUMN,
) -> Figure:
    """Each picture, its heat map, and the map over the greyed picture.

    Values beyond the percentile of |map| take the last colour, so that a few pixels do not darken all others; the
    colour bar says so. Magnitudes run from black to light, signed values from blue over white to red.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1] or uint8.
      maps: [N, H, W], of the pictures' size.
      classes: N names of the classes explained.
      probabilities: [N], of those classes, in [0, 1].
      truths: N names of the true classes, said where they are others.
      quantity: what the maps hold, for the colour bar.
      signed: whether the sign has a meaning; otherwise every value must be at least 0.
      scale: one percentile for "each" map, whose values become shares of it, or one for "all" maps in their own unit.
      percentile: of |map|, in (0, 100]; 100 clips nothing.
      width: width of the figure in inches; a page's width holds two pictures beside each other.

    Returns:
      A figure with three axes for each picture, and a colour bar.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures = as_pictures(images)
    heat = as_heat(maps, pictures, signed=signed)
    count, height, wide = heat.shape
    texts = captions(count, classes, probabilities, truths)

    each = scale == "each"
    limits = quantiles(heat, percentile, each=each)
    values = heat / limits if each else heat
    limit = 1.0 if each else float(limits.item())
    colors = mpl.colormaps[style.DIVERGING if signed else style.SEQUENTIAL]
    norm = Normalize(-limit if signed else 0, limit)

    blocks = 2 if width > 1.5 * style.COLUMN and count > 1 else 1
    rows = -(-count // blocks)
    above = 0.16 if any(texts) else 0.0
    figure, axes = grid(
        rows, 3 * blocks, (height, wide), width=width, blocks=blocks, above=above, top=0.13, bottom=0.54
    )
    triples = [row[start : start + 3] for row in axes for start in range(0, 3 * blocks, 3)]
    for (picture, colored, overlaid), image, value, text in zip(triples, pictures, values, texts, strict=False):
        show(picture, image)
        colored.imshow(value, cmap=colors, norm=norm)
        show(overlaid, 0.3 + 0.7 * image.mean(-1, keepdims=True))  # paler, so that colours stand out
        overlaid.imshow(value, cmap=colors, norm=norm, alpha=0.85 * np.clip(np.abs(value) / limit, 0, 1))
        room = 3 * picture.get_position().width * width / style.POINT
        caption(picture, style.shorten(text, room))
    for unused in triples[count:]:
        for panel in unused:
            panel.remove()
    tall = figure.get_figheight()
    for column, heading in enumerate(("image", "map", "overlay") * blocks):
        left = axes[0][column].get_position().x0
        figure.text(left, 1 - 0.12 / tall, heading, va="baseline", size=style.SMALL, color="0.35")
    clipped = bool((np.abs(values) > limit).any())
    color_bar(figure, ScalarMappable(norm, colors), 0.43, limit, clipped=clipped)
    note = _note(percentile, each)
    figure.text(0.5, 0.05 / tall, f"{quantity}\n{note}", ha="center", size=style.SMALL, linespacing=1.1)
    return figure


def _note(percentile: float, each: bool) -> str:
    if percentile == 100:
        return "relative to each map's largest magnitude" if each else "up to the largest magnitude of all maps"
    if each:
        return f"relative to each map's {percentile:g}% quantile, clipped there"
    return f"clipped at the {percentile:g}% quantile of all maps"
