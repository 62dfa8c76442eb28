"""Whether attribution maps may be believed: curves of deletion and insertion, and maps of networks drawn anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import (
    as_heat,
    as_pictures,
    color_bar,
    heading,
    quantiles,
    scale_notes,
    shared_scale,
    show,
    wrapped,
)

_GAP, _LINE, _ROW = 0.04, 0.125, 0.14  # inches
_LABEL = 0.9  # inches, for the methods' titles
_LEAST = 0.3  # inches, of a map


class Band(NamedTuple):
    """A mean over images and its 95 % confidence interval.

    Attributes:
      mean: [S], or one number.
      low: lower end.
      high: upper end.
    """

    mean: ArrayLike
    low: ArrayLike
    high: ArrayLike


class Curve(NamedTuple):
    """What becomes of a class as pixels are exchanged, the most important ones first.

    Attributes:
      probability: of the class, [S].
      area: under the curve of each image.
    """

    probability: Band
    area: Band


@style.styled
def exchange(
    shares: ArrayLike,
    deletion: Mapping[str, Curve],
    insertion: Mapping[str, Curve],
    *,
    baselines: Sequence[str] = (),
    images: int,
) -> Figure:
    """The probability of the class as pixels are deleted and inserted, a line for each method.

    Bands are 95 % intervals, of the random maps alone where there are any: the others should leave those bands.

    Args:
      shares: of the pixels that are exchanged, [S], increasing in [0, 1].
      deletion: by method.
      insertion: of the same methods.
      baselines: the methods that are random maps, black: the first dashed, the second dotted.
      images: over how many the means are.

    Returns:
      A figure as wide as the page, with two axes and a legend that tells the areas.

    Raises:
      InputError: no method is given, the two are of different methods, or arrays differ in length.
    """
    x = np.asarray(shares, float)
    if not deletion or deletion.keys() != insertion.keys():
        raise InputError(
            f"deletion is of the methods {list(deletion)} and insertion of {list(insertion)}; expected the same, at "
            "least one"
        )
    looks = _looks(list(deletion), baselines)
    gain = {name: _mean(insertion[name].area) - _mean(deletion[name].area) for name in looks}
    order = sorted(looks, key=lambda name: -gain[name])
    shaded = [name for name in looks if name in baselines] or list(looks)
    rows = -(-len(order) // 2)
    table = (rows + 1) * _ROW + 0.22
    height = table + 2.55
    figure = style.StyledFigure(figsize=(style.PAGE, height))
    for number, (what, curves) in enumerate({"deletion": deletion, "insertion": insertion}.items()):
        left = 0.45 + number * (style.PAGE / 2 + 0.05)
        box = (left / style.PAGE, (table + 0.42) / height, (style.PAGE / 2 - 0.6) / style.PAGE, 1.9 / height)
        axes = figure.add_axes(box)
        axes.set_title(f"{what}: a {'low' if what == 'deletion' else 'high'} area is good", loc="left", pad=4)
        for name, curve in curves.items():
            mean, low, high = _checked(f"{what} of {name!r}", curve.probability, x)
            axes.plot(x, mean, **looks[name])
            if name in shaded:
                axes.fill_between(x, low, high, color=looks[name]["color"], alpha=0.1, linewidth=0)
        axes.set(xlim=(0, 1), xlabel=f"pixels {'deleted' if what == 'deletion' else 'made sharp'} (%)")
        axes.set_ylim(0, min(1.0, axes.get_ylim()[1]))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
        axes.grid(axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        if number == 0:
            axes.set_ylabel("probability of the class")
    for column, some in enumerate((order[:rows], order[rows:])):
        left = _GAP + column * style.PAGE / 2
        for row, name in enumerate(["", *some]):
            level = (table - (row + 0.6) * _ROW) / height
            entries = ("method", "deletion area", "insertion area") if row == 0 else (name, None, None)
            if row and name:
                ends = [left / style.PAGE, (left + 0.24) / style.PAGE]
                figure.add_artist(Line2D(ends, [level, level], **looks[name]))
                entries = (
                    style.shorten(name, 1.3 / style.POINT),
                    _area(deletion[name].area),
                    _area(insertion[name].area),
                )
            for place, text in zip((0.3, 1.66, 2.52), entries, strict=True):
                color = "black" if row else "0.35"
                x_text = (left + place) / style.PAGE
                figure.text(x_text, level, text or "", va="center_baseline", size=style.SMALL, color=color)
    whose = "random maps' intervals shaded; " if len(shaded) < len(looks) else ""
    note = f"means over {images} images with their 95% intervals; {whose}best first, by the difference of the areas"
    figure.text(_GAP / style.PAGE, _GAP / height, note, va="bottom", size=style.SMALL, color="0.35")
    return figure


@style.styled
def cascade(
    image: ArrayLike,
    maps: Mapping[str, ArrayLike],
    layers: Sequence[str],
    signed: Collection[str] = (),
    *,
    percentile: float = 99.0,
) -> Figure:
    """The maps of a picture as layer after layer is drawn anew: a row for each method, the trained network's map first.

    Args:
      image: [H, W, C] with one or three channels; floats in [0, 1] or uint8.
      maps: by method, [1 + L, H, W], that of the trained network first.
      layers: L names, in the order in which they are drawn anew.
      signed: the methods whose sign has a meaning.
      percentile: of each map's |map|, in (0, 100].

    Returns:
      A figure as wide as the page, with an axes for the picture and for each map, and a colour bar.

    Raises:
      InputError: the arrays do not fit together, a value is out of range, or there are more layers than fit.
    """
    picture = as_pictures(np.asarray(image)[None])[0]
    count = len(layers) + 1
    cell = (style.PAGE - _LABEL - 2 * _GAP) / count - _GAP
    if not maps or not layers or cell < _LEAST:
        raise InputError(
            f"there are {len(maps)} methods and {len(layers)} layers; expected at least one of each, and each map at "
            f"least {_LEAST} inches wide"
        )
    pictures = np.broadcast_to(picture, (count, *picture.shape))
    heats = {name: as_heat(heat, pictures, signed=name in signed, name=name) for name, heat in maps.items()}
    tall = cell * picture.shape[0] / picture.shape[1]
    texts = ["trained network", *layers]
    upright = any(style.text_width(line) * style.POINT > cell for text in texts for line in text.split(" "))
    longest = max(map(style.text_width, texts)) * style.POINT
    header = max(longest if upright else 2 * _LINE, _LABEL * picture.shape[0] / picture.shape[1]) + 2 * _GAP
    labels = {name: wrapped(name, (_LABEL - _GAP) / style.POINT) for name in heats}
    rows = [max(tall, _LINE * len(lines)) + _GAP for lines in labels.values()]
    notes = ["parameters drawn anew in every layer from the logits to the one named"]
    notes += scale_notes(percentile, heats, signed)
    foot = 0.37 + _LINE * len(notes)
    height = header + sum(rows) + foot
    figure = style.StyledFigure(figsize=(style.PAGE, height))
    corner = _LABEL * picture.shape[0] / picture.shape[1]
    axes = figure.add_axes(
        (_GAP / style.PAGE, 1 - (corner + _GAP) / height, (_LABEL - _GAP) / style.PAGE, corner / height)
    )
    show(axes, picture)
    axes.set_axis_off()
    colors, norm = shared_scale(heats, signed)
    lefts = [_LABEL + 2 * _GAP + column * (cell + _GAP) for column in range(count)]
    for left, text in zip(lefts, texts, strict=True):
        if upright:
            place = ((left + cell / 2) / style.PAGE, 1 - (header - _GAP) / height)
            figure.text(*place, text, ha="center", va="bottom", size=style.SMALL, rotation=90)
        else:
            heading(figure, text.split(" "), left + cell / 2, height - header, _LINE)
    base, clipped = height - header, False
    for (name, heat), room in zip(heats.items(), rows, strict=True):
        base -= room
        place = (_GAP / style.PAGE, (base + (room + _GAP) / 2) / height)
        figure.text(*place, "\n".join(labels[name]), va="center", size=style.SMALL, linespacing=1.1)
        values = heat / quantiles(heat, percentile)
        clipped |= bool((np.abs(values) > 1).any())
        for left, value in zip(lefts, values, strict=True):
            axes = figure.add_axes((left / style.PAGE, (base + _GAP) / height, cell / style.PAGE, tall / height))
            axes.imshow(value, cmap=colors, norm=norm)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(visible=True, color="0.7", linewidth=0.4)
    color_bar(figure, ScalarMappable(norm, colors), foot - 0.13, 1.0, clipped=clipped)
    figure.text(0.5, _GAP / height, "\n".join(notes), ha="center", va="bottom", size=style.SMALL, linespacing=1.1)
    return figure


@style.styled
def similarity(
    layers: Sequence[str], measures: Mapping[str, Mapping[str, Band]], *, baseline: str | None = None, images: int
) -> Figure:
    """How alike maps stay to those of the trained network as layer after layer is drawn anew.

    Args:
      layers: L names, in the order in which they are drawn anew.
      measures: by what is measured ("rank correlation"), and by method, [L] after each layer.
      baseline: a method that is dashed and black.
      images: over how many the means are.

    Returns:
      A figure as wide as the page with an axes for each measure, in which all methods begin at 1.

    Raises:
      InputError: nothing is given, the measures are of different methods, or arrays differ in length.
    """
    methods = [list(bands) for bands in measures.values()]
    if not layers or not methods or not methods[0] or any(names != methods[0] for names in methods):
        raise InputError(
            f"there are {len(layers)} layers, and measures of the methods {methods}; expected at least one layer and "
            "measure, all of the same methods"
        )
    looks = _looks(methods[0], () if baseline is None else (baseline,))
    x = np.arange(len(layers) + 1)
    texts = ["none", *layers]
    entries = [Line2D([], [], **look, label=name) for name, look in looks.items()]
    widest = max(style.text_width(name) for name in looks) + 34
    columns = min(len(entries), max(1, int((style.PAGE / style.POINT - 10) / widest)))
    height = 2.4 + max(map(style.text_width, texts)) * style.POINT + -(-len(entries) // columns) * 0.15
    figure = style.StyledFigure(figsize=(style.PAGE, height), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for panel, (measure, bands) in zip(panels, measures.items(), strict=True):
        for name, band in bands.items():
            checked = _checked(f"{measure} of {name!r}", band, x[1:])
            mean, low, high = (np.concatenate([[1.0], values]) for values in checked)
            panel.plot(x, mean, **looks[name])
            panel.fill_between(x, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
        panel.set_title(measure, loc="left", pad=4)
        panel.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        panel.grid(axis="y", color="0.9", linewidth=0.5)
        panel.set_axisbelow(True)
        _name_ticks(panel, x, texts)
    panels[0].set_ylabel("similarity to the trained network's map")
    panels[0].yaxis.set_major_formatter(FuncFormatter(style.number))
    bottom = min(panel.get_ylim()[0] for panel in panels)
    panels[0].set_ylim(max(bottom, -1.05), 1.05)
    figure.supxlabel(
        f"parameters drawn anew in every layer from the logits to this one; mean over {images} images, 95% band",
        size=style.SMALL,
    )
    figure.legend(handles=entries, loc="outside upper left", ncols=columns, columnspacing=1.2)
    return figure


def _looks(names: Sequence[str], baselines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each method; black is the baselines' alone."""
    colors = style.COLORS[:-1]
    others = [name for name in names if name not in baselines]
    dashes = ("-", (0, (1, 1)), (0, (4, 1, 1, 1)))
    looks: dict[str, dict[str, Any]] = {
        name: {"color": colors[i % len(colors)], "linestyle": dashes[i // len(colors) % len(dashes)]}
        for i, name in enumerate(others)
    }
    known = (name for name in baselines if name in names)
    return looks | {name: {"color": "black", "linestyle": dash} for name, dash in zip(known, ("--", ":"), strict=False)}


def _mean(band: Band) -> float:
    return float(np.asarray(band.mean))


def _area(band: Band) -> str:
    return f"{_mean(band):.3f} ± {float(np.asarray(band.high)) - _mean(band):.3f}"


def _checked(what: str, band: Band, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    arrays = tuple(np.asarray(values, float) for values in band)
    if any(values.shape != x.shape for values in arrays):
        raise InputError(f"{what}: arrays have shapes {[values.shape for values in arrays]}; expected {x.shape}")
    return arrays  # type: ignore[return-value]


def _name_ticks(panel: Axes, x: np.ndarray, texts: Sequence[str]) -> None:
    """The layers' names, no more of them than leave each a line."""
    every = -(-len(texts) // 12)
    panel.set_xticks(x[::every], texts[::every], rotation=90)
    panel.set_xlim(-0.3, x[-1] + 0.3)
