"""The arms of a study side by side: curves over training, means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style


class Band(NamedTuple):
    """A mean over seeds and its interval; four arrays [T].

    Attributes:
      epochs: where, not decreasing.
      mean: NaN leaves a gap.
      low: lower end of the interval; NaN draws none.
      high: upper end.
    """

    epochs: ArrayLike
    mean: ArrayLike
    low: ArrayLike
    high: ArrayLike


_MARKS = 8  # more marks than these on one line run together


@style.styled
def learning_curves(
    training_loss: Mapping[str, Band],
    held_out_loss: Mapping[str, Band],
    accuracy: Mapping[str, Band],
    *,
    split: str = "test",
    diverged: Collection[str] = (),
) -> Figure:
    """The training loss, the held-out loss on the same scale, and the held-out accuracy of every arm against epochs.

    Args:
      training_loss: by arm, above 0.
      held_out_loss: of the same arms, above 0.
      accuracy: of the same arms on the held-out split, in [0, 1].
      split: what was held out, as the labels shall say it: "validation" or "test".
      diverged: arms of which a seed diverged; a cross ends their curves, and the legend says it.

    Returns:
      A figure as wide as the page.

    Raises:
      InputError: no arm is given, the arms differ, arrays differ in length, or a value is out of range.
    """
    panels = {"training loss": training_loss, f"{split} loss": held_out_loss, f"{split} accuracy": accuracy}
    if not training_loss:
        raise InputError("no arm was given; expected at least one")
    checked = {
        title: {arm: _checked(title, arm, band) for arm, band in bands.items()} for title, bands in panels.items()
    }
    for title, bands in checked.items():
        if bands.keys() != training_loss.keys():
            raise InputError(f"{title} has the arms {list(bands)}; expected {list(training_loss)}, as in training loss")
    shares = np.concatenate([band.mean for band in checked[f"{split} accuracy"].values()])
    if ((shares < 0) | (shares > 1)).any():
        raise InputError(
            f"accuracy runs from {np.nanmin(shares):g} to {np.nanmax(shares):g}; expected shares in [0, 1]"
        )

    looks = {arm: _look(number) for number, arm in enumerate(training_loss)}
    entries = [
        Line2D([], [], label=f"{arm} (diverged)" if arm in diverged else arm, **look) for arm, look in looks.items()
    ]
    widest = max(style.text_width(str(entry.get_label())) for entry in entries) + 34
    columns = min(len(entries), max(1, int((style.PAGE / style.POINT - 10) / widest)))
    height = 2.3 + -(-len(entries) // columns) * 1.5 * style.SMALL * style.POINT
    figure = style.StyledFigure(figsize=(style.PAGE, height), layout="constrained")
    axes = figure.subplots(1, 3)
    for panel, (title, bands) in zip(axes, checked.items(), strict=True):
        for arm, band in bands.items():
            panel.plot(band.epochs, band.mean, markevery=max(1, -(-len(band.mean) // _MARKS)), **looks[arm])
            panel.fill_between(band.epochs, band.low, band.high, color=looks[arm]["color"], alpha=0.2, linewidth=0)
            drawn = np.flatnonzero(np.isfinite(band.mean))
            if arm in diverged and drawn.size:
                end = drawn[-1]
                panel.plot(band.epochs[end], band.mean[end], "x", color=looks[arm]["color"], markersize=6, zorder=4)
        panel.set_ylabel(title)
        panel.set_xlabel("epoch")
        panel.grid(axis="y", color="0.9", linewidth=0.5)
        panel.set_axisbelow(True)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    losses = [band.mean for title in list(checked)[:2] for band in checked[title].values()]
    for panel in axes[:2]:
        _scale_loss(panel, np.concatenate(losses))
    axes[2].yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    axes[2].set_ylabel(f"{split} accuracy (%)")
    bottom, top = axes[2].get_ylim()
    axes[2].set_ylim(max(bottom, 0), min(top, 1.01))
    figure.legend(handles=entries, loc="outside upper left", ncols=columns, columnspacing=1.2)
    return figure


def _look(number: int) -> dict[str, Any]:
    return {
        "color": style.COLORS[number % len(style.COLORS)],
        "marker": style.MARKERS[number % len(style.MARKERS)],
        "linestyle": style.DASHES[number // len(style.COLORS) % len(style.DASHES)],
    }


class _Checked(NamedTuple):
    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _checked(title: str, arm: str, band: Band) -> _Checked:
    arrays = _Checked(*(np.asarray(values, float) for values in band))
    shapes = [values.shape for values in arrays]
    if len(set(shapes)) > 1 or arrays.mean.ndim != 1:
        raise InputError(f"{title} of {arm!r}: arrays have shapes {shapes}; expected four arrays [T] of one length")
    return arrays


def _scale_loss(panel: Axes, means: np.ndarray) -> None:
    """One logarithmic scale for both losses, from the means: an interval may reach below zero."""
    means = means[np.isfinite(means) & (means > 0)]
    means = means if means.size else np.ones(1)
    panel.set_ylabel(f"{panel.get_ylabel()} (log scale)")
    panel.set_yscale("log")
    low, high = means.min() / 1.15, means.max() * 1.15
    panel.set_ylim(low, high)
    span = high / low
    subs = (1, 1.5, 2, 3, 5, 7) if span < 1e1 else (1, 2, 5) if span < 1e2 else (1, 3) if span < 1e4 else (1,)
    panel.yaxis.set_major_locator(LogLocator(subs=subs))
    panel.yaxis.set_major_formatter(FuncFormatter(style.number))
    panel.yaxis.set_minor_formatter(NullFormatter())
