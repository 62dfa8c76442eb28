"""The patches of images that units answer to strongest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_pictures, show, wrapped

_GAP = 0.05  # between patches, in inches
_LINE = 0.125  # of the text above them


@style.styled
def patches(
    images: ArrayLike,
    values: ArrayLike,
    units: Sequence[int],
    *,
    layer: str,
    receptive_field: tuple[int, int],
    source: str,
    width: float = style.PAGE,
) -> Figure:
    """A row of framed patches for each unit, the strongest answer first.

    Args:
      images: patches [units, k, h, w, c] with one or three channels; floats in [0, 1] or uint8.
      values: activations [units, k].
      units: their numbers.
      layer: its name.
      receptive_field: height and width in pixels.
      source: how many images were looked through, and which: "10,000 images of the test split of mnist".
      width: of the figure in inches.

    Returns:
      A figure with an axes for each patch; beside each row the unit, its largest and its smallest value.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    array, strength = np.asarray(images), np.asarray(values)
    if array.ndim != 5 or array.shape[:2] != strength.shape or len(units) != len(array):
        raise InputError(
            f"patches have shape {array.shape}, values {strength.shape}, and there are {len(units)} units; "
            "expected [units, k, h, w, c] and [units, k]"
        )
    if not np.isfinite(strength).all():
        raise InputError("values hold NaN or infinity; expected finite activations")
    rows, columns, high, wide = array.shape[:4]
    pictures = as_pictures(array.reshape(-1, *array.shape[2:])).reshape(array.shape)
    labels = [f"unit {unit}\n{_range(row)}" for unit, row in zip(units, strength, strict=True)]
    text = style.POINT * max(style.text_width(line) for label in labels for line in label.split("\n")) + 2 * _GAP

    size = f"{receptive_field[0]}×{receptive_field[1]}"  # noqa: RUF001
    said = (
        f"{layer}: the {columns} of {source} that each unit answers to strongest, its activations beside them; cut to "
        f"the receptive field of {size} pixels, grey where it leaves the image"
    )
    lines = wrapped(said, (width - 2 * _GAP) / style.POINT)
    above = _LINE * len(lines) + 2 * _GAP
    # No wider than tall enough for its label of two lines, nor than an inch where there are few.
    cell = min((width - text - _GAP * columns) / columns, 1.0 * max(1.0, wide / high))
    tall = max(cell * high / wide, 2 * _LINE)
    height = above + rows * (tall + _GAP)
    figure = style.StyledFigure(figsize=(width, height))
    figure.text(_GAP / width, 1 - _GAP / height, "\n".join(lines), va="top", size=style.SMALL, linespacing=1.15)
    for row, label in enumerate(labels):
        base = height - above - (row + 1) * tall - row * _GAP
        figure.text(_GAP / width, (base + tall / 2) / height, label, va="center", size=style.SMALL, linespacing=1.2)
        for column in range(columns):
            left = text + column * (cell + _GAP)
            axes = figure.add_axes((left / width, base / height, cell / width, tall / height))
            show(axes, pictures[row, column])
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(visible=True, color="0.4", linewidth=0.5)
    return figure


def _range(values: np.ndarray) -> str:
    low, high = _number(float(values.min())), _number(float(values.max()))
    return high if low == high else f"{high} to {low}"


def _number(value: float) -> str:
    """Without an exponent up to a million, which activations may well reach."""
    return style.number(float(round(value)), digits=6) if 1000 <= abs(value) < 1e6 else style.number(value)
