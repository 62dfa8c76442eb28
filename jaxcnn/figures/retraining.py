"""How easily networks are fooled that were trained with the images that fooled those before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style


class Line(NamedTuple):
    """How N networks were fooled in one way.

    Attributes:
      median: [N], of the confidences in images that were evolved for each network.
      lower: [N], quartile.
      upper: [N], quartile.
      recognised: [N], median of the confidences in images that were evolved for the network before; NaN of the first.
    """

    median: ArrayLike
    lower: ArrayLike
    upper: ArrayLike
    recognised: ArrayLike


@style.styled
def retraining(
    lines: Mapping[str, Line], top1: ArrayLike, *, published: float | None = None, width: float = style.PAGE
) -> Figure:
    """How sure each network is of images evolved for it and of those evolved for the one before, and its errors.

    Args:
      lines: by the names of the ways.
      top1: [N], accuracies on the test images.
      published: median that a paper found for every network, to be compared with.
      width: of the figure in inches.

    Returns:
      A figure of two panels: medians with the middle half of runs and classes, and the test error.

    Raises:
      InputError: there is nothing to show, or the arrays do not fit together.
    """
    errors = 100 * (1 - np.asarray(top1, float))
    numbers = np.arange(1, len(errors) + 1)
    if not lines or not len(errors):
        raise InputError("no network was fooled; expected at least one")
    for way, line in lines.items():
        if shapes := {np.shape(values) for values in line} - {errors.shape}:
            raise InputError(f"arrays of {way} have shapes {shapes}; expected {errors.shape}, as the accuracies")
    figure = style.StyledFigure(figsize=(width, 2.6), layout="constrained")
    confidence, error = figure.subplots(1, 2, width_ratios=(2, 1))
    entries = []
    for number, (way, line) in enumerate(lines.items()):
        color, marker = style.COLORS[number], style.MARKERS[number]
        confidence.fill_between(numbers, line.lower, line.upper, color=color, alpha=0.2, linewidth=0)
        confidence.plot(numbers, line.median, color=color, marker=marker)
        confidence.plot(numbers, line.recognised, color=color, marker=marker, linestyle=":")
        entries.append(Line2D([], [], color=color, marker=marker, label=f"{way}: evolved for it"))
        entries.append(Line2D([], [], color=color, marker=marker, linestyle=":", label="evolved for the one before"))
    if published is not None:
        line = confidence.axhline(published, color="black", linestyle="--", linewidth=0.8)
        entries.append(Line2D([], [], color="black", linestyle="--", label=f"published: {published:g} for all"))
        line.set_zorder(1)
    confidence.set_ylim(-0.03, 1.03)
    confidence.set_ylabel("confidence")
    error.plot(numbers, errors, color="0.3", marker="o")
    error.set_ylim(0, 1.3 * max(errors.max(), 0.01))
    error.set_ylabel("test error (%)")
    for panel in (confidence, error):
        panel.set_xlabel("network")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(axis="y", color="0.9", linewidth=0.5)
        panel.set_axisbelow(True)
    figure.legend(handles=entries, loc="outside upper left", ncols=3, columnspacing=1.2)
    return figure
