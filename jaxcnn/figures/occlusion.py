"""What a network says of a picture while a patch hides part of it, by the patch's position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_pictures, caption, captions, show

_GAP, _ABOVE, _TOP, _FOOT, _LINE = 0.06, 0.17, 0.15, 0.32, 0.135  # inches
_BAR, _NAMES = 0.42, 1.5  # inches, for the bar with its numbers, and for the names of classes
_NAMED = 6
_OTHER = "0.8"


@style.styled
def occlusion(
    images: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike,
    tops: ArrayLike,
    lefts: ArrayLike,
    patch: int,
    names: Sequence[str],
    targets: ArrayLike,
    whole: ArrayLike,
    *,
    truths: Sequence[str] | None = None,
    value: float = 0.5,
    width: float = style.PAGE,
) -> Figure:
    """For each picture: the patch, the probability of the class, and the most likely class by the patch's position.

    The patch is drawn where it takes most from the class. A position is shown at the patch's centre, so the borders of
    the picture, where no centre lies, stay grey.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1] or uint8.
      probabilities: of the class explained, [N, rows, columns], in [0, 1].
      classes: the most likely ones, [N, rows, columns].
      tops: [rows], first row of the picture under the patch, increasing.
      lefts: [columns], first column under it, increasing.
      patch: its side in pixels.
      names: of all classes.
      targets: the classes explained, [N].
      whole: their probabilities with nothing hidden, [N], in [0, 1].
      truths: N names of the true classes, said where they are others.
      value: grey of the patch, 0 black and 1 white.
      width: of the figure in inches.

    Returns:
      A figure with three axes and a colour bar for each picture, from 0 to the largest probability; a triangle beside
      the bar marks that of the whole picture.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures = as_pictures(images)
    chances, likely, explained = np.asarray(probabilities), np.asarray(classes), np.asarray(targets)
    rows, columns = np.asarray(tops), np.asarray(lefts)
    _check(pictures, chances, likely, explained, rows, columns, names)
    texts = captions(len(pictures), [names[int(k)] for k in explained], whole, truths)

    high, wide = pictures.shape[1:3]
    cell = (width - 4 * _GAP - _BAR - _NAMES) / 3
    tall = max(cell * high / wide, (_NAMED + 1) * _LINE)
    height = _TOP + len(pictures) * (_ABOVE + tall + _GAP) + _FOOT
    figure = style.StyledFigure(figsize=(width, height))
    lefts_ = [_GAP, 2 * _GAP + cell, 3 * _GAP + _BAR + 2 * cell]
    for left, heading in zip(lefts_, ("image and patch", "probability of the class", "most likely class"), strict=True):
        figure.text(left / width, 1 - 0.12 / height, heading, va="baseline", size=style.SMALL, color="0.35")
    for number, picture in enumerate(pictures):
        base = height - _TOP - (number + 1) * (_ABOVE + tall + _GAP) + _GAP
        panels = [figure.add_axes((x / width, base / height, cell / width, tall / height)) for x in lefts_]
        chance, best = chances[number], likely[number]
        _draw_patch(panels[0], picture, chance, rows, columns, patch, value)
        caption(panels[0], style.shorten(texts[number], 2 * cell / style.POINT))
        known = float(np.asarray(whole)[number])
        top = max(0.1, math.ceil(10 * max(float(chance.max()), known)) / 10)
        mappable = ScalarMappable(Normalize(0, top), mpl.colormaps[style.SEQUENTIAL])
        _draw_grid(panels[1], mappable.to_rgba(chance)[..., :3], rows, columns, patch, (high, wide))
        box = panels[1].get_position()
        bar = figure.add_axes((box.x1 + 0.07 / width, box.y0, 0.07 / width, box.height))
        figure.colorbar(mappable, cax=bar, ticks=MaxNLocator(4), format=FuncFormatter(style.number))
        bar.plot(-0.35, known, ">", color="black", markersize=3, clip_on=False, transform=bar.get_yaxis_transform())
        named = _named(best, int(explained[number]))
        palette = [*style.COLORS[: len(named)], _OTHER]
        codes = np.full(best.shape, len(named))
        for code, k in enumerate(named):
            codes[best == k] = code
        _draw_grid(panels[2], np.array([to_rgb(color) for color in palette])[codes], rows, columns, patch, (high, wide))
        entries = [(names[k], style.COLORS[code], float((codes == code).mean())) for code, k in enumerate(named)]
        if (codes == len(named)).any():
            entries.append(("other", _OTHER, float((codes == len(named)).mean())))
        _write_names(figure, panels[2], entries)
    note = (
        f"patch of {patch}×{patch} pixels, drawn where it takes most from the class; each position at the patch's "  # noqa: RUF001
        "centre\ntriangle beside the bar: probability with nothing hidden; beside each class its share of the positions"
    )
    figure.text(0.5, 0.04 / height, note, ha="center", va="bottom", size=style.SMALL, linespacing=1.15)
    return figure


def _check(
    pictures: np.ndarray,
    chances: np.ndarray,
    likely: np.ndarray,
    explained: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    names: Sequence[str],
) -> None:
    shape = (len(pictures), len(rows), len(columns))
    if chances.shape != shape or likely.shape != shape or explained.shape != shape[:1]:
        raise InputError(
            f"probabilities have shape {chances.shape}, classes {likely.shape} and targets {explained.shape}; expected "
            f"{shape}, {shape} and {shape[:1]}"
        )
    if not (chances.min() >= 0 and chances.max() <= 1):
        raise InputError(f"probabilities run from {chances.min():g} to {chances.max():g}; expected values in [0, 1]")
    for what, array in (("classes", likely), ("targets", explained)):
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(names):
            raise InputError(f"{what} run from {array.min()} to {array.max()}; expected integers in [0, {len(names)})")


def _draw_patch(
    axes: Axes,
    picture: np.ndarray,
    chance: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    patch: int,
    value: float,
) -> None:
    show(axes, picture)
    axes.set_axis_off()
    row, column = np.unravel_index(chance.argmin(), chance.shape)
    corner = (columns[column] - 0.5, rows[row] - 0.5)
    face = str(float(value))
    axes.add_patch(Rectangle(corner, patch, patch, facecolor=face, edgecolor=style.WRONG, linewidth=0.8))


def _draw_grid(
    axes: Axes, colors: np.ndarray, rows: np.ndarray, columns: np.ndarray, patch: int, shape: tuple[int, int]
) -> None:
    """Cells of the grid where the patch's centre is, in the coordinates of the picture."""
    axes.set_facecolor("0.93")
    step_down, step_across = (float(starts[1] - starts[0]) if len(starts) > 1 else patch for starts in (rows, columns))
    middle_down, middle_across = rows + (patch - 1) / 2, columns + (patch - 1) / 2
    extent = (
        middle_across[0] - step_across / 2,
        middle_across[-1] + step_across / 2,
        middle_down[-1] + step_down / 2,
        middle_down[0] - step_down / 2,
    )
    axes.imshow(colors, extent=extent, aspect="auto")
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color="0.6", linewidth=0.4)


def _named(best: np.ndarray, target: int) -> list[int]:
    """The class explained, and the others that win most positions."""
    found, counts = np.unique(best, return_counts=True)
    others = [int(k) for k in found[np.argsort(-counts, kind="stable")] if k != target]
    return [target, *others[: _NAMED - 1]]


def _write_names(figure: Figure, axes: Axes, entries: list[tuple[str, str, float]]) -> None:
    wide, tall = figure.get_size_inches()
    box = axes.get_position()
    left = box.x1 + 0.07 / wide
    for line, (name, color, share) in enumerate(entries):
        top = box.y1 - (line + 0.5) * _LINE / tall
        figure.patches.append(
            Rectangle(
                (left, top - 0.04 / tall), 0.08 / wide, 0.08 / tall, transform=figure.transFigure, facecolor=color
            )
        )
        end = f" {share:.0%}" if share >= 0.005 else " <1%"
        room = (_NAMES - 0.25) / style.POINT - style.text_width(end)
        text = style.shorten(name, room) + end
        figure.text(left + 0.12 / wide, top, text, va="center_baseline", size=style.SMALL)
