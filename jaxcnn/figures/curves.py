"""Loss and accuracy against iterations, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style


class Curve(NamedTuple):
    """What was recorded while one run trained; three arrays [T].

    Attributes:
      steps: iterations, not decreasing.
      loss: loss at each of them; NaN leaves a gap.
      accuracy: share of correct examples in [0, 1]; NaN leaves a gap.
    """

    steps: ArrayLike
    loss: ArrayLike
    accuracy: ArrayLike


@style.styled
def history(
    training: Curve,
    evaluation: Curve | None = None,
    *,
    split: str = "validation",
    measure: Literal["accuracy", "error"] = "accuracy",
    log_loss: bool = False,
) -> Figure:
    """Loss above, accuracy below: training as light points, evaluation as a marked line.

    Args:
      training: the records of training batches.
      evaluation: the records of evaluations, if there are any.
      split: what was evaluated, as the legend shall say it: "validation" or "test".
      measure: whether the lower panel shows the accuracy or the error, 1 - accuracy.
      log_loss: logarithmic axis for the loss, for losses that fall over several powers of ten.

    Returns:
      A figure of one column's width.

    Raises:
      InputError: arrays differ in length, are empty or not one-dimensional, or an accuracy lies outside [0, 1].
    """
    figure, panels = _panels(measure, log_loss, height=3.2)
    _plot(
        panels,
        _checked("training", training),
        measure,
        color=style.COLORS[0],
        label="training",
        **_points(np.size(training.steps)),
    )
    if evaluation is not None:
        curve = _checked(split, evaluation)
        _plot(panels, curve, measure, color=style.COLORS[1], label=split, **_marked(curve, 0))
        legend = figure.legend(handles=panels[0].lines, loc="outside upper left", ncols=2)
        sample = legend.legend_handles[0]
        if isinstance(sample, Line2D):  # a single point as light as those of the plot would not be seen
            sample.set(alpha=1, markersize=5)
    _limit(panels, measure, log_loss)
    return figure


@style.styled
def compare(
    training: Mapping[str, Curve],
    evaluation: Mapping[str, Curve],
    *,
    split: str = "validation",
    measure: Literal["accuracy", "error"] = "accuracy",
    log_loss: bool = False,
) -> Figure:
    """Several runs on the same axes: training as thin lines, evaluation as marked ones.

    Args:
      training: records of training batches by the run's name; may be empty.
      evaluation: records of evaluations by the run's name; may be empty.
      split: what was evaluated, as the legend shall say it: "validation" or "test".
      measure: whether the lower panel shows the accuracy or the error, 1 - accuracy.
      log_loss: logarithmic axis for the loss, for losses that fall over several powers of ten.

    Returns:
      A figure of one column's width.

    Raises:
      InputError: no run is given, arrays differ in length, are empty or not one-dimensional, or an accuracy lies
        outside [0, 1].
    """
    names = list(dict.fromkeys([*training, *evaluation]))
    if not names:
        raise InputError("no run to compare was given; expected at least one")
    colors = {name: style.COLORS[i % len(style.COLORS)] for i, name in enumerate(names)}
    entries = [Line2D([], [], color=colors[name], label=name, **_sign(i)) for i, name in enumerate(names)]
    if training:
        entries.append(Line2D([], [], color="0.4", label="thin: training", **_THIN))
    if evaluation:
        entries.append(Line2D([], [], color="0.4", label=f"marked: {split}", marker="o"))
    room = (style.COLUMN / style.POINT - 20) / 2 - 30  # half the width, less the sample line of the legend
    widest = max(style.text_width(str(entry.get_label())) for entry in entries)
    columns = 2 if widest <= room else 1
    rows = -(-len(entries) // columns)
    figure, panels = _panels(measure, log_loss, height=3.2 + rows * 1.5 * style.SMALL * style.POINT)
    for i, name in enumerate(names):
        if name in training:
            _plot(panels, _checked(f"training of {name!r}", training[name]), measure, color=colors[name], **_THIN)
        if name in evaluation:
            curve = _checked(f"{split} of {name!r}", evaluation[name])
            _plot(panels, curve, measure, color=colors[name], label=name, **_marked(curve, i))
    _limit(panels, measure, log_loss)
    figure.legend(handles=entries, loc="outside upper left", ncols=columns, columnspacing=1.2, labelspacing=0.3)
    return figure


def _points(count: int) -> dict[str, Any]:
    """Light where there are many: they are to be seen as a band, and a few as themselves."""
    many = count > 100
    look = {"markersize": 2.5, "alpha": 0.4} if many else {"markersize": 5, "alpha": 0.8}
    return {"linestyle": "none", "marker": ".", "markeredgewidth": 0, **look}


_THIN: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.6}
_MARKS = 12  # more marks than these on one line run together at a column's width


def _sign(index: int) -> dict[str, Any]:
    return {
        "linestyle": style.DASHES[index // len(style.COLORS) % len(style.DASHES)],
        "marker": style.MARKERS[index % len(style.MARKERS)],
    }


def _marked(curve: Curve, index: int) -> dict[str, Any]:
    return {**_sign(index), "markevery": -(-len(np.asarray(curve.steps)) // _MARKS), "zorder": 3}


def _checked(name: str, curve: Curve) -> Curve:
    steps, loss, accuracy = (np.asarray(values) for values in curve)
    if steps.ndim != 1 or not (steps.shape == loss.shape == accuracy.shape) or steps.size == 0:
        raise InputError(
            f"{name}: steps, loss and accuracy have shapes {steps.shape}, {loss.shape} and {accuracy.shape}; "
            "expected three arrays [T] of one length, at least 1"
        )
    if ((accuracy < 0) | (accuracy > 1)).any():
        raise InputError(
            f"{name}: accuracy runs from {np.nanmin(accuracy):g} to {np.nanmax(accuracy):g}; expected shares in [0, 1]"
        )
    return Curve(steps, loss, accuracy)


def _panels(measure: str, log_loss: bool, height: float) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = style.StyledFigure(figsize=(style.COLUMN, height), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.set_ylabel("loss (log scale)" if log_loss else "loss")
    lower.set_ylabel(f"{measure} (%)")
    lower.set_xlabel("iteration")
    if log_loss:
        upper.set_yscale("log")
    lower.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    lower.xaxis.set_major_formatter(FuncFormatter(_thousands))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
    for panel in (upper, lower):
        panel.grid(axis="y", color="0.9", linewidth=0.5)
        panel.set_axisbelow(True)
        panel.set_xmargin(0.02)
    figure.align_ylabels()
    return figure, (upper, lower)


def _thousands(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _plot(panels: tuple[Axes, Axes], curve: Curve, measure: str, **look: Any) -> None:
    accuracy = np.asarray(curve.accuracy)
    panels[0].plot(curve.steps, curve.loss, **look)
    panels[1].plot(curve.steps, accuracy if measure == "accuracy" else 1 - accuracy, **look)


def _limit(panels: tuple[Axes, Axes], measure: str, log_loss: bool) -> None:
    upper, lower = panels
    if log_loss:
        low, high = upper.get_ylim()
        span = high / low  # over few powers of ten, they alone are too few ticks
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1e2 else (1, 3) if span < 1e4 else (1,)))
        upper.yaxis.set_major_formatter(FuncFormatter(style.number))
        upper.yaxis.set_minor_formatter(NullFormatter())
    elif upper.dataLim.y0 >= 0:
        upper.set_ylim(bottom=0)
    bottom, top = lower.get_ylim()
    top = min(top, 1.01)  # a mark at 100% is not cut in half
    lower.set_ylim(0 if measure == "error" else max(bottom, 0), top)
