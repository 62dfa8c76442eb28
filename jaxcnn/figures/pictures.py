"""Pictures on a page: what counts as one, how it is shown, and grids of them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
