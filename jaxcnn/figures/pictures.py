"""Pictures on a page: what counts as one, how it is shown, and grids of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style


def as_pictures(images: ArrayLike) -> np.ndarray:
    """Images as matplotlib shows them.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1], or uint8 in 0 to 255.

    Returns:
      Floats in [0, 1], [N, H, W, C].

    Raises:
      InputError: another shape, type or range.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise InputError(f"images have shape {array.shape}; expected [N, H, W, C] with 1 or 3 channels, none empty")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype.kind != "f":
        raise InputError(f"images have type {array.dtype}; expected floats in [0, 1] or uint8")
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"images hold values from {array.min():g} to {array.max():g}; expected floats in [0, 1]")
    return array


def as_heat(maps: ArrayLike, pictures: np.ndarray, *, signed: bool, name: str = "maps") -> np.ndarray:
    """Heat maps as floats.

    Args:
      maps: [N, H, W], of the pictures' size.
      pictures: [N, H, W, C].
      signed: whether the sign has a meaning; otherwise every value must be at least 0.
      name: of the maps, for messages.

    Raises:
      InputError: another shape, or a value out of range.
    """
    heat, shape = np.asarray(maps), pictures.shape[:3]
    if heat.shape != shape:
        raise InputError(f"{name} have shape {heat.shape}; expected {shape}, as the images have")
    if not np.isfinite(heat).all():
        raise InputError(f"{name} hold NaN or infinite values; expected finite ones")
    if not signed and heat.min() < 0:
        raise InputError(f"{name} reach down to {heat.min():g}; expected values from 0, or signed=True")
    return heat


def quantiles(heat: np.ndarray, percentile: float, *, each: bool = True) -> np.ndarray:
    """What a map's values are compared with: the percentile of |map|, or the largest where that is 0, or 1.

    Args:
      heat: [N, H, W].
      percentile: in (0, 100].
      each: one for each map, or one for all.

    Returns:
      [N, 1, 1] or [1, 1, 1], positive.

    Raises:
      InputError: the percentile is out of range.
    """
    if not 0 < percentile <= 100:
        raise InputError(f"percentile is {percentile:g}; expected a number in (0, 100]")
    axes = (1, 2) if each else None
    limits = np.percentile(np.abs(heat), percentile, axis=axes, keepdims=True)
    limits = np.where(limits > 0, limits, np.abs(heat).max(axis=axes, keepdims=True))  # of a few bright pixels
    return np.where(limits > 0, limits, 1.0)


def captions(
    count: int, classes: Sequence[str] | None, probabilities: ArrayLike | None, truths: Sequence[str] | None = None
) -> list[str]:
    """What stands above each picture: "cat (93%)", or "cat (93%), is dog".

    Args:
      count: of the pictures.
      classes: their names, one for each picture.
      probabilities: one for each picture, in [0, 1].
      truths: the true classes, named where they are others.

    Returns:
      Lines, empty where nothing is known.

    Raises:
      InputError: there are not as many, or a value is out of range.
    """
    names = [""] * count if classes is None else list(classes)
    if len(names) != count:
        raise InputError(f"{len(names)} classes were given; expected {count}, one for each image")
    if truths is not None and len(truths) != count:
        raise InputError(f"{len(truths)} true classes were given; expected {count}, one for each image")
    known = names if truths is None else truths
    ends = ["" if truth == name else f", is {truth}" for name, truth in zip(names, known, strict=True)]
    if probabilities is None:
        return [name + end for name, end in zip(names, ends, strict=True)]
    shares = np.asarray(probabilities)
    if shares.shape != (count,) or not (shares.min() >= 0 and shares.max() <= 1):
        raise InputError(f"probabilities are {shares}; expected {count} values in [0, 1]")
    return [
        (f"{name} ({share:.0%})" if name else f"{share:.0%}") + end
        for name, share, end in zip(names, shares, ends, strict=True)
    ]


def color_bar(figure: Figure, mappable: ScalarMappable, base: float, limit: float, *, clipped: bool) -> None:
    """A horizontal colour bar across the figure, its ends pointed where values lie beyond them.

    Args:
      figure: whose size is settled.
      mappable: from 0, or from -limit, to the limit.
      base: lower edge of the bar over that of the figure, in inches.
      limit: the upper end.
      clipped: whether values lie beyond.
    """
    tall = figure.get_figheight()
    axes = figure.add_axes((0.15, base / tall, 0.7, 0.08 / tall))
    signed = mappable.norm.vmin != 0
    extend = "neither" if not clipped else "both" if signed else "max"
    ticks = [-limit, 0, limit] if signed else [0, limit / 2, limit]
    figure.colorbar(
        mappable, cax=axes, orientation="horizontal", extend=extend, ticks=ticks, format=FuncFormatter(style.number)
    )


def shared_scale(methods: Collection[str], signed: Collection[str]) -> tuple[Colormap, Normalize]:
    """From blue over white to red, from -1 to 1; where no map has a sign, its half from white on.

    Args:
      methods: that made the maps.
      signed: those whose sign has a meaning.
    """
    colors = mpl.colormaps[style.DIVERGING]
    if any(method in signed for method in methods):
        return colors, Normalize(-1, 1)
    return ListedColormap(colors(np.linspace(0.5, 1, 256))), Normalize(0, 1)


def scale_notes(percentile: float, methods: Collection[str], signed: Collection[str]) -> list[str]:
    """What to say of maps that share one scale from blue over white to red, in sentences.

    Args:
      percentile: of |map|, which each is relative to.
      methods: that made the maps.
      signed: those of them whose sign has a meaning.
    """
    compared = "largest |value|" if percentile == 100 else f"{percentile:g}% quantile of |value|, clipped there"
    notes = [f"share of each map's {compared}"]
    if signed:
        half = "; maps without a sign use the half from 0" if len(signed) < len(methods) else ""
        notes.append(f"red speaks for the class, blue against it{half}")
    return notes


def wrapped(text: str, room: float, size: float = style.SMALL) -> list[str]:
    """The text in lines, as far as its words allow no wider than there is room.

    Args:
      text: words with spaces between them.
      room: in points.
      size: of the font, in points.
    """
    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        if style.text_width(f"{lines[-1]} {word}", size) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def show(axes: Axes, picture: np.ndarray) -> None:
    """Draw one picture, [H, W, 3] in colour or [H, W, 1] in grey, black 0 and white 1."""
    if picture.shape[-1] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(picture)


def caption(axes: Axes, text: str, height: float = 3.5, color: str = "black") -> None:
    """Write one line above a picture, its baseline `height` points over the edge."""
    axes.annotate(
        text,
        (0, 1),
        (0, height),
        xycoords="axes fraction",
        textcoords="offset points",
        va="baseline",
        fontsize=style.SMALL,
        color=color,
    )


def heading(figure: Figure, lines: Sequence[str], x: float, y: float, line: float = 0.125) -> None:
    """Write lines above a column of pictures, centred, the last one's baseline just over the edge.

    Args:
      figure: to write on.
      lines: from above.
      x: middle of the column, in inches.
      y: upper edge of the column, in inches.
      line: distance of baselines, in inches.
    """
    wide, tall = figure.get_size_inches()
    for number, text in enumerate(reversed(lines)):
        place = (x / wide, (y + 0.035 + number * line) / tall)
        figure.text(*place, text, ha="center", va="baseline", size=style.SMALL)


def grid(
    rows: int,
    columns: int,
    shape: tuple[int, int],
    *,
    width: float,
    blocks: int = 1,
    gap: float = 0.04,
    above: float = 0.0,
    top: float = 0.0,
    bottom: float = 0.0,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of frameless axes of equal size, exactly as wide as asked.

    Args:
      rows: rows of pictures.
      columns: pictures in a row.
      shape: height and width of one picture; only their ratio counts.
      width: width of the figure in inches.
      blocks: groups of neighbouring columns, set apart by three more gaps.
      gap: space between pictures and around them, in inches.
      above: height reserved for text above each picture, in inches.
      top: height reserved above all rows, in inches.
      bottom: height reserved below all rows, in inches.

    Returns:
      The figure and its axes, row by row.
    """
    cell = (width - gap * (columns + 1 + 3 * (blocks - 1))) / columns
    tall = cell * shape[0] / shape[1]
    height = top + rows * (above + tall + gap) + gap + bottom
    figure = style.StyledFigure(figsize=(width, height))

    def place(row: int, column: int) -> Axes:
        left = gap + column * (cell + gap) + column * blocks // columns * 3 * gap
        base = height - top - (row + 1) * (above + tall + gap)
        axes = figure.add_axes((left / width, base / height, cell / width, tall / height))
        axes.set_axis_off()
        return axes

    return figure, [[place(row, column) for column in range(columns)] for row in range(rows)]
