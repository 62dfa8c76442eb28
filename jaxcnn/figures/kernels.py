"""Kernels of image processing: their numbers, and what each makes of a photograph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.matrices import write
from jaxcnn.figures.pictures import as_pictures, caption, show

_NUMBER = 0.165  # inches for one number of a kernel
_GAP = 0.05
_ABOVE = 0.17  # for the title
_BAR = 0.31  # for the colour bar
_LINE = 0.13  # for a line below it
_LARGEST_DIVISOR = 256


@style.styled
def sheet(
    image: ArrayLike,
    titles: Sequence[str],
    weights: Sequence[ArrayLike],
    responses: ArrayLike,
    *,
    percentile: float = 97.0,
    columns: int = 3,
    width: float = style.PAGE,
) -> Figure:
    """The photograph, then for each kernel its numbers beside its response.

    The response z of a kernel w whose weights sum to 0 is signed. Shown is its mean over the channels as a share of
    the largest that images in [0, 1] could give,

        shown = mean z / sum max(w, 0),

    blue below zero, white at zero and red above, all such kernels on one scale that the colour bar states. Any other
    response is a picture and is clipped to [0, 1]. A kernel of fractions shows whole numbers, its title their divisor.

    Args:
      image: [H, W, C] with one or three channels; floats in [0, 1] or uint8.
      titles: K names.
      weights: K kernels, each [kh, kw].
      responses: [K, H, W, C], in the units of the image.
      percentile: of all that is shown signed, by magnitude, in (0, 100]: there the colours end; 100 clips nothing.
      columns: kernels in a row.
      width: width of the figure in inches.

    Returns:
      A figure with two axes for each kernel, its numbers and its response, after those of the photograph.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    picture = as_pictures(np.asarray(image)[None])[0]
    kernels = _checked(titles, weights)
    values = np.asarray(responses)
    if values.shape != (len(kernels), *picture.shape):
        raise InputError(f"responses have shape {values.shape}; expected {(len(kernels), *picture.shape)}")
    if not np.isfinite(values).all():
        raise InputError("responses hold NaN or infinite values; expected finite ones")
    if not 0 < percentile <= 100:
        raise InputError(f"percentile is {percentile:g}; expected a number in (0, 100]")
    if columns < 1:
        raise InputError(f"{columns} columns were asked for; expected at least 1")
    signed = [math.isclose(kernel.sum(), 0, abs_tol=1e-6 * np.abs(kernel).max()) for kernel in kernels]
    shares = [z.mean(-1) / (kernel.clip(0).sum() or 1) for z, kernel in zip(values, kernels, strict=True)]
    shown = [share for share, sign in zip(shares, signed, strict=True) if sign]
    limit = (float(np.percentile(np.abs(shown), percentile)) if shown else 0.0) or 1.0

    numbers = _NUMBER * max(kernel.shape[1] for kernel in kernels)
    wide = (width - _GAP) / columns - numbers - 2 * _GAP - 0.03
    if wide < numbers / 2:
        raise InputError(f"{columns} columns of kernels up to {numbers / _NUMBER:g} wide; expected fewer columns")
    tall = max(wide * picture.shape[0] / picture.shape[1], _NUMBER * max(kernel.shape[0] for kernel in kernels))
    rows = -(-(len(kernels) + 1) // columns)
    notes = _notes(bool(shown), percentile, width / style.POINT - 10)
    below = len(notes) * _LINE + 0.04
    height = rows * (_ABOVE + tall + _GAP) + (_BAR if shown else 0) + below
    figure = style.StyledFigure(figsize=(width, height))

    def place(index: int, left: float, size: tuple[float, float]) -> Axes:
        row, column = divmod(index, columns)
        x = _GAP + column * (width - _GAP) / columns + left
        y = height - (row + 1) * (_ABOVE + tall) - row * _GAP + tall - size[1]
        axes = figure.add_axes((x / width, y / height, size[0] / width, size[1] / height))
        axes.set_axis_off()
        return axes

    size = (wide, wide * picture.shape[0] / picture.shape[1])
    room = (numbers + _GAP + wide) / style.POINT
    photograph = place(0, numbers + _GAP, size)
    show(photograph, picture)
    caption(photograph, style.shorten("photograph", wide / style.POINT))
    norm = Normalize(-limit, limit)
    for i, (title, kernel) in enumerate(zip(titles, kernels, strict=True)):
        matrix = place(i + 1, 0.0, (_NUMBER * kernel.shape[1], _NUMBER * kernel.shape[0]))
        divisor = _divisor(kernel)
        write(matrix, kernel, _NUMBER, kernel * divisor)
        suffix = f", numbers / {divisor}" if divisor > 1 else ""
        caption(matrix, style.shorten(title, room - style.text_width(suffix)) + suffix)
        response = place(i + 1, numbers + _GAP, size)
        if signed[i]:
            response.imshow(shares[i], cmap=style.DIVERGING, norm=norm)
        else:
            show(response, values[i].clip(0, 1))
    if shown:
        _bar(figure, norm, below, clipped=percentile < 100)
    figure.text(0.5, 0.05 / height, "\n".join(notes), ha="center", size=style.SMALL, linespacing=1.1)
    return figure


def _checked(titles: Sequence[str], weights: Sequence[ArrayLike]) -> list[np.ndarray]:
    kernels = [np.asarray(kernel, float) for kernel in weights]
    if len(titles) != len(kernels) or not kernels:
        raise InputError(f"{len(titles)} titles and {len(kernels)} kernels; expected a title for each of one or more")
    for title, kernel in zip(titles, kernels, strict=True):
        if kernel.ndim != 2 or 0 in kernel.shape or not np.isfinite(kernel).all():
            raise InputError(f"kernel {title!r} has shape {kernel.shape}; expected [kh, kw], finite and not empty")
    return kernels


def _divisor(kernel: np.ndarray) -> int:
    """What whole numbers are to be divided by to give the weights; 1 if that would be more than the largest allowed."""
    divisor = math.lcm(*(Fraction(w).limit_denominator(_LARGEST_DIVISOR).denominator for w in kernel.flat))
    whole = divisor <= _LARGEST_DIVISOR and np.allclose(kernel * divisor, np.rint(kernel * divisor), atol=1e-6)
    return divisor if whole else 1


def _notes(signed: bool, percentile: float, width: float) -> list[str]:
    """What the colours mean, in lines of at most `width` points."""
    end = f", clipped at the {percentile:g}% quantile" if percentile < 100 else ""
    notes = [f"weights that sum to 0: mean response, as share of the largest possible{end}"] if signed else []
    lines = []
    for note in (*notes, "others: a picture, clipped to [0, 1]"):
        lines.append("")
        for word in note.split():
            longer = f"{lines[-1]} {word}".lstrip()
            if style.text_width(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
    return lines


def _bar(figure: Figure, norm: Normalize, bottom: float, *, clipped: bool) -> None:
    height = figure.get_figheight()
    axes = figure.add_axes((0.35, (bottom + _BAR - 0.1) / height, 0.3, 0.08 / height))
    figure.colorbar(
        ScalarMappable(norm, style.DIVERGING),
        cax=axes,
        orientation="horizontal",
        extend="both" if clipped else "neither",
        ticks=[norm.vmin, 0, norm.vmax],
        format=FuncFormatter(style.number),
    )
