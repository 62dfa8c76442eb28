"""What a search for settings has found: the accuracy of its trials in their order, and against every setting."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style

_COLUMNS = 3
_HEIGHT = 1.75  # inches for a row of panels
_LOOKS: dict[str, dict[str, Any]] = {
    "complete": {"marker": "o", "color": style.COLORS[0], "markersize": 3.5},
    "pruned": {"marker": "v", "color": "0.45", "markerfacecolor": "none", "markersize": 3.5},
    "diverged": {"marker": "X", "color": style.WRONG, "markersize": 4},
}
_BEST: dict[str, Any] = {"marker": "*", "color": style.COLORS[2], "markersize": 9, "markeredgecolor": "white"}


@style.styled
def trials(
    numbers: ArrayLike,
    accuracy: ArrayLike,
    states: Sequence[str],
    parameters: Mapping[str, Sequence[Any]],
    *,
    log: Collection[str] = (),
) -> Figure:
    """The accuracy of T trials in their order, with the best so far, and against each setting that was varied.

    Trials far below the others would leave no room for these: they lie under a dotted line, at its label's accuracy.

    Args:
      numbers: of the trials, increasing.
      accuracy: of each after its last epoch, in [0, 1]; NaN where there is none.
      states: of each, "complete", "pruned" or "diverged".
      parameters: by setting, the trials' values: numbers, or names of choices.
      log: settings on a log scale; their values are positive.

    Returns:
      A figure as wide as the page, its height by the number of settings.

    Raises:
      InputError: no trial or no setting, lengths that differ, an unknown state, or an accuracy outside [0, 1] or
        missing in a complete trial.
    """
    numbers, scores = np.asarray(numbers), np.asarray(accuracy, float)
    _require(numbers, scores, states, parameters)
    complete = np.array([state == "complete" for state in states])
    best = int(np.argmax(np.where(complete, scores, -1))) if complete.any() else None
    floor, bottom, top = _limits(scores)
    heights = np.where(scores >= floor, scores, (floor + bottom) / 2)

    panels = 1 + len(parameters)
    columns = 2 if panels == 4 else min(panels, _COLUMNS)
    rows = -(-panels // columns)
    figure = style.StyledFigure(figsize=(style.PAGE, rows * _HEIGHT + 0.35), layout="constrained")
    grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel())
    for axes in grid[panels:]:
        axes.remove()
    xs = {"trial": numbers.astype(float)}
    xs |= {
        name: _positions(grid[i], name, values, name in log) for i, (name, values) in enumerate(parameters.items(), 1)
    }
    for axes, x in zip(grid, xs.values(), strict=False):
        for state, look in _LOOKS.items():
            chosen = np.array([other == state for other in states])
            axes.plot(x[chosen], heights[chosen], linestyle="none", **look)
        if best is not None:
            axes.plot(x[best], heights[best], linestyle="none", zorder=4, **_BEST)
        if bottom < floor:
            axes.axhline(floor, color="0.5", linestyle=":", linewidth=0.6)
        axes.grid(axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    for axes in grid[:panels:columns]:
        axes.set_ylabel("accuracy (%)")
    first = grid[0]
    first.yaxis.set_major_formatter(FuncFormatter(lambda share, _: style.number(100 * share)))
    first.set_ylim(bottom, top)
    ticks = np.asarray(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(floor, top))
    first.set_yticks(ticks[(ticks >= floor) & (ticks <= top)])  # under the line, heights mean nothing
    first.set_xlabel("trial")
    first.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if best is not None:
        so_far = np.maximum.accumulate(np.where(complete, scores, -1))
        begun = so_far >= max(floor, 0)
        first.step(numbers[begun], so_far[begun], where="post", color=style.COLORS[2], linewidth=0.8, zorder=1)
    figure.legend(handles=_entries(states, best is not None, floor, bottom), loc="outside upper left", ncols=6)
    return figure


def _require(
    numbers: np.ndarray, scores: np.ndarray, states: Sequence[str], parameters: Mapping[str, Sequence[Any]]
) -> None:
    count = len(states)
    lengths = {"numbers": numbers.shape, "accuracy": scores.shape}
    lengths |= {name: (len(values),) for name, values in parameters.items()}
    for name, shape in lengths.items():
        if shape != (count,) or not count:
            raise InputError(f"{name} has shape {shape} for {count} trials; expected one value for each, at least one")
    if not parameters:
        raise InputError("no setting was given; expected at least one that was varied")
    if unknown := set(states) - _LOOKS.keys():
        raise InputError(f"a trial's state is {min(unknown)!r}; expected {', '.join(_LOOKS)}")
    if ((scores < 0) | (scores > 1)).any():
        raise InputError(f"accuracies run from {np.nanmin(scores):g} to {np.nanmax(scores):g}; expected [0, 1]")
    if any(state == "complete" and np.isnan(score) for state, score in zip(states, scores, strict=True)):
        raise InputError("a complete trial has no accuracy; expected one in [0, 1]")


def _limits(scores: np.ndarray) -> tuple[float, float, float]:
    """The accuracy below which trials lie under the line, and the limits of the axis."""
    finite = scores[~np.isnan(scores)]
    if not finite.size:
        return 0.0, -0.1, 1.0
    high = finite.max()
    floor = max(0.0, high - 1.5 * (high - np.quantile(finite, 0.25)))
    outside = bool((finite < floor).any()) or finite.size < scores.size
    floor = floor if (finite < floor).any() else finite.min()
    margin = 0.06 * max(high - floor, 0.02)
    return floor, floor - (3 * margin if outside else 0), high + margin


def _positions(axes: Axes, name: str, values: Sequence[Any], log: bool) -> np.ndarray:
    """Where the values lie on the axis, which is set up for them."""
    parts = name.split(".")
    label = " ".join(parts[-2:] if parts[-1] == "name" else parts[-1:]).replace("_", " ")
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        axes.set_xlabel(f"{label} (log scale)" if log else label)
        if log:
            low, high = min(values), max(values)
            margin = max((high / low) ** 0.06, 1.1)
            axes.set_xscale("log")
            axes.set_xlim(low / margin, high * margin)
            span = margin**2 * high / low
            if span < 4:  # too little for round numbers of a log scale
                axes.xaxis.set_major_locator(MaxNLocator(3))
            else:  # over few powers of ten, they alone are too few ticks; over many, too many
                subs = (1, 2, 5) if span < 20 else (1, 3) if span < 300 else (1,)
                axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=5))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            integers = all(isinstance(value, int) for value in values)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=integers))
        axes.xaxis.set_major_formatter(FuncFormatter(style.number))
        return np.asarray(values, float)
    names = sorted(set(map(str, values)))
    room = 0.9 * (style.PAGE / _COLUMNS / style.POINT - 50) / len(names)
    wide = len(names) > 1 and max(map(style.text_width, names)) > room
    prefix = commonprefix(names) if wide else ""  # noqa: RUF071 - letter by letter, as they are no paths
    shown = [f"…{choice.removeprefix(prefix)}" if prefix else choice for choice in names]
    axes.set_xticks(range(len(names)), [style.shorten(text, room) for text in shown])
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel(label)
    return np.array([names.index(str(value)) for value in values], float)


def _entries(states: Sequence[str], best: bool, floor: float, bottom: float) -> list[Line2D]:
    entries = [
        Line2D([], [], linestyle="none", label=state, **look) for state, look in _LOOKS.items() if state in states
    ]
    if best:
        entries.append(Line2D([], [], linewidth=0.8, label="best so far", **_BEST))
    if bottom < floor:
        entries.append(Line2D([], [], color="0.5", linestyle=":", label=f"below the line: under {100 * floor:.3g}%"))
    return entries
