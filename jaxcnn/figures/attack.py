"""Images that fool a network, with what was changed, and how accurate networks are by how much may be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_pictures, captions, grid, show, wrapped

_LEVELS = 255  # of a pixel in a file
_LINE = 0.13  # inches for a line of text under a picture
_GAP = 0.04
_AXES = {
    "linf": ("largest change of a pixel (1/255)", _LEVELS),
    "l2": ("Euclidean norm of the change", 1),
}


class Under(NamedTuple):
    """How a network fares under one attack.

    Attributes:
      epsilons: [K], not decreasing, how much an image may change: a pixel (linf) or the whole (l2), in units of [0, 1].
      shares: [K], of the images, in [0, 1].
      intervals: [K, 2], lower and upper bounds of the shares.
      norm: which of the two the epsilons are.
      marked: whether each epsilon has a mark; otherwise there are so many that they make a line.
    """

    epsilons: ArrayLike
    shares: ArrayLike
    intervals: ArrayLike
    norm: Literal["linf", "l2"]
    marked: bool = True


@style.styled
def examples(
    images: ArrayLike,
    adversarial: ArrayLike,
    classes: Sequence[str],
    probabilities: ArrayLike,
    taken_for: Sequence[str],
    taken_probabilities: ArrayLike,
    success: ArrayLike,
    *,
    norm: Literal["linf", "l2"],
    width: float = style.PAGE,
) -> Figure:
    """Each picture, what was changed, and what came of it, with the network's answers under them.

    The change is magnified by the largest of 1, 2, 5, 10, ... with which it stays within black and white, and grey
    where nothing was changed; the factor and the size of the change are said under it.

    Args:
      images: [N, H, W, C] with one or three channels; floats in [0, 1] or uint8.
      adversarial: of the same shape.
      classes: N names, what the network takes the images for.
      probabilities: [N], of those classes, in [0, 1].
      taken_for: N names, what it takes the changed images for.
      taken_probabilities: [N], of those.
      success: [N], whether the attack reached its goal, which a cross and another colour mark.
      norm: in which the size of the change is said.
      width: width of the figure in inches; a page's width holds two pictures beside each other.

    Returns:
      A figure with three axes for each picture.

    Raises:
      InputError: the arrays do not fit together, or a value is out of its range.
    """
    pictures, changed = as_pictures(images), as_pictures(adversarial)
    count = len(pictures)
    if changed.shape != pictures.shape:
        raise InputError(
            f"adversarial images have shape {changed.shape}; expected {pictures.shape}, as the images have"
        )
    reached = np.asarray(success)
    if reached.shape != (count,) or reached.dtype != bool:
        raise InputError(f"success is {reached.dtype} of shape {reached.shape}; expected booleans of shape {(count,)}")
    captions(count, classes, probabilities)
    captions(count, taken_for, taken_probabilities)
    before, after = (np.asarray(values, float).tolist() for values in (probabilities, taken_probabilities))
    changes = changed.astype(float) - pictures

    blocks = 2 if width > 1.5 * style.COLUMN and count > 1 else 1
    rows = -(-count // blocks)
    under = 2 * _LINE + 0.05
    figure, axes = grid(
        rows,
        3 * blocks,
        pictures.shape[1:3],
        width=width,
        blocks=blocks,
        gap=_GAP,
        above=under,
        top=_LINE + 0.02 - under,  # nothing stands above the first row but the headings
        bottom=under,
    )
    triples = [row[start : start + 3] for row in axes for start in range(0, 3 * blocks, 3)]
    for number, (original, change, result) in enumerate(triples[:count]):
        factor = _factor(changes[number])
        show(original, pictures[number])
        show(change, np.clip(0.5 + factor * changes[number], 0, 1))
        show(result, changed[number])
        _below(original, classes[number], width, share=float(before[number]))
        _below(change, f"× {factor:g}, {_size(changes[number], norm)}", width)  # noqa: RUF001
        mark, color = ("✗ ", style.WRONG) if reached[number] else ("", "black")
        _below(result, mark + taken_for[number], width, color, share=float(after[number]))
    for unused in triples[count:]:
        for panel in unused:
            panel.remove()
    tall = figure.get_figheight()
    for column, heading in enumerate(("image", "change", "adversarial") * min(blocks, count)):
        left = axes[0][column].get_position().x0
        figure.text(left, 1 - 0.11 / tall, heading, va="baseline", size=style.SMALL, color="0.35")
    return figure


@style.styled
def curves(
    attacks: Mapping[str, Under],
    *,
    images: str,
    quantity: str = "accuracy",
) -> Figure:
    """A share of the images against how much an image may change, a line for each attack.

    Args:
      attacks: by what they are called.
      images: what was attacked, for the legend: "1,000 images of the test split of mnist".
      quantity: the share, for the axis: of images that are classified rightly, or that are taken for a target.

    Returns:
      A figure with a panel for each of the two norms that is there, shades for the intervals.

    Raises:
      InputError: there is no attack, or arrays do not fit together or are out of range.
    """
    if not attacks:
        raise InputError("no attack was given; expected at least one")
    checked = {name: _checked(name, under) for name, under in attacks.items()}
    present = [norm for norm in _AXES if any(under.norm == norm for under in attacks.values())]
    figure = style.StyledFigure(figsize=(style.PAGE if len(present) > 1 else style.COLUMN, 2.6), layout="constrained")
    panels: Any = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
    for axes, norm in zip(panels, present, strict=True):
        label, unit = _AXES[norm]
        for number, (name, (epsilons, shares, intervals)) in enumerate(checked.items()):
            if attacks[name].norm != norm:
                continue
            look: dict[str, Any] = {
                "color": style.COLORS[number % len(style.COLORS)],
                "linestyle": style.DASHES[number // len(style.COLORS) % len(style.DASHES)],
            }
            if attacks[name].marked:
                look["marker"] = style.MARKERS[number % len(style.MARKERS)]
            axes.plot(unit * epsilons, shares, label=name, **look)
            axes.fill_between(unit * epsilons, *intervals.T, color=look["color"], alpha=0.15, linewidth=0)
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
        axes.grid(axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    panels[0].set_ylabel(f"{quantity} (%)")
    room = figure.get_figwidth() / style.POINT - 12
    legend = figure.legend(
        loc="outside upper left",
        ncols=2 * len(present),
        columnspacing=1.2,
        title="\n".join([*wrapped(images, room), "shades: 95% intervals"]),
        alignment="left",
    )
    legend.get_title().set_fontsize(style.SMALL)
    return figure


def _factor(change: np.ndarray) -> float:
    """The largest of 1, 2, 5, 10, ... that keeps the change within a half."""
    largest = np.abs(change).max()
    if not largest or largest > 0.5:
        return 1.0
    power = 10.0 ** np.floor(np.log10(0.5 / largest))
    return float(max(step * power for step in (1, 2, 5) if step * power * largest <= 0.5 * (1 + 1e-6)))


def _size(change: np.ndarray, norm: str) -> str:
    if norm == "linf":
        return f"≤ {style.number(_LEVELS * float(np.abs(change).max()), digits=2)}/255"
    return f"L2 {style.number(float(np.sqrt((change**2).sum())), digits=2)}"


def _below(axes: Axes, text: str, width: float, color: str = "black", *, share: float | None = None) -> None:
    """Text under a picture, and a share after it or, where there is no room for both, on the next line."""
    room = axes.get_position().width * width / style.POINT
    end = "" if share is None else f"{share:.0%}"
    whole = f"{text} ({end})" if end else text
    lines = [whole] if style.text_width(whole) <= room or not end else [style.shorten(text, room), end]
    axes.annotate(
        "\n".join(lines),
        (0, 0),
        (0, -2),
        xycoords="axes fraction",
        textcoords="offset points",
        size=style.SMALL,
        color=color,
        va="top",
        linespacing=1.1,
        annotation_clip=False,
    )


def _checked(name: str, under: Under) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    epsilons, shares, bounds = (np.asarray(values, float) for values in under[:3])
    if epsilons.ndim != 1 or not epsilons.size or shares.shape != epsilons.shape or bounds.shape != (len(shares), 2):
        raise InputError(
            f"{name} has epsilons {epsilons.shape}, shares {shares.shape} and intervals {bounds.shape}; expected [K], "
            "[K] and [K, 2]"
        )
    if not (np.isfinite(epsilons).all() and epsilons[0] >= 0 and (np.diff(epsilons) >= 0).all()):
        raise InputError(f"epsilons of {name} are {epsilons.tolist()}; expected rising finite numbers from 0")
    if not (min(shares.min(), bounds.min()) >= 0 and max(shares.max(), bounds.max()) <= 1):
        raise InputError(f"shares and intervals of {name} leave [0, 1]; expected them within")
    return epsilons, shares, bounds
