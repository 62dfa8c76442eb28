"""What a search for settings has found: the accuracy of its trials in their order, and against every setting."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style

_COLUMNS = 3
_HEIGHT = 1.75  # inches for a row of panels
_UPRIGHT = 70.0  # points for a choice's name that runs upwards
_CROWD = 12  # choices whose upright names a narrow panel has room for
_LOOKS: dict[str, dict[str, Any]] = {
    "complete": {"marker": "o", "color": style.COLORS[0], "markersize": 3.5},
    "pruned": {"marker": "v", "color": "0.45", "markerfacecolor": "none", "markersize": 3.5},
    "diverged": {"marker": "X", "color": style.WRONG, "markersize": 4},
    "refused": {"marker": "s", "color": style.COLORS[3], "markerfacecolor": "none", "markersize": 3.5},
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

    Trials far below the others would leave those no room: they lie under a dotted line, and the legend says under which
    accuracy; so do trials without any.

    Args:
      numbers: of the trials, increasing.
      accuracy: of each after its last epoch, in [0, 1]; NaN where there is none.
      states: of each, "complete", "pruned", "diverged" or "refused".
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
    below = bool((np.isnan(scores) | (scores < floor)).any())
    heights = np.where(scores >= floor, scores, (floor + bottom) / 2)

    names = {name: sorted(set(map(str, values))) for name, values in parameters.items() if not _numeric(values)}
    panels = 1 + len(parameters)
    columns = 2 if panels == 4 else min(panels, _COLUMNS)
    columns = 1 if any(len(choices) > _CROWD for choices in names.values()) else columns
    rows = -(-panels // columns)
    figure = style.StyledFigure(figsize=(style.PAGE, rows * _HEIGHT + 0.35), layout="constrained")
    grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel())
    for axes in grid[panels:]:
        axes.remove()
    xs = {"trial": numbers.astype(float)}
    taller = [0.0] * rows  # points of each row for names that run upwards
    for i, (name, values) in enumerate(parameters.items(), 1):
        grid[i].set_xlabel(_label(name) + (" (log scale)" if name in log else ""))
        if name in names:
            length = _set_choices(grid[i], names[name], style.PAGE / columns / style.POINT - 50)
            taller[i // columns] = max(taller[i // columns], length)
            xs[name] = np.array([names[name].index(str(value)) for value in values], float)
        else:
            xs[name] = np.asarray(values, float)
            (_set_log_numbers if name in log else _set_numbers)(grid[i], values)
    figure.set_figheight(figure.get_figheight() + sum(taller) * style.POINT)
    for axes, x in zip(grid, xs.values(), strict=False):
        for state, look in _LOOKS.items():
            chosen = np.array([other == state for other in states])
            axes.plot(x[chosen], heights[chosen], linestyle="none", **look)
        if best is not None:
            axes.plot(x[best], heights[best], linestyle="none", zorder=4, **_BEST)
        if below:
            axes.axhline(floor, color="0.5", linestyle=":", linewidth=0.6)
        axes.grid(axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    for axes in grid[:panels:columns]:
        axes.set_ylabel("accuracy (%)")
    first = grid[0]
    first.set_ylim(bottom, top)
    ticks = np.asarray(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(floor if below else bottom, top))
    decimals = max(0, -math.floor(math.log10(100 * (ticks[1] - ticks[0])) + 1e-6))
    ticks = ticks[(ticks >= floor if below else ticks >= max(bottom, 0)) & (ticks <= min(top, 1))]
    first.set_yticks(ticks, [f"{100 * tick:.{decimals}f}" for tick in ticks])  # under the line, heights mean nothing
    first.set_xlabel("trial")
    _set_numbers(first, [int(number) for number in numbers])
    if best is not None:
        so_far = np.maximum.accumulate(np.where(complete, scores, -1))
        begun = so_far >= max(floor, 0)
        first.step(numbers[begun], so_far[begun], where="post", color=style.COLORS[2], linewidth=0.8, zorder=1)
    label = f"below the line: under {100 * floor:.3g}%" + (", or none" if np.isnan(scores).any() else "")
    figure.legend(
        handles=_entries(states, best is not None, label if below else None), loc="outside upper left", ncols=6
    )
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
    below = bool((finite < floor).any()) or finite.size < scores.size
    floor = floor if (finite < floor).any() else finite.min()
    margin = 0.06 * max(high - floor, 0.02) if high > floor else 0.01
    return floor, floor - (3 if below else 1) * margin, high + margin


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _label(name: str) -> str:
    parts = name.split(".")
    return " ".join(parts[-2:] if parts[-1] == "name" else parts[-1:]).replace("_", " ")


def _set_numbers(axes: Axes, values: Sequence[Any]) -> None:
    """Ticks that a linear axis of these values needs, with as many digits as tell them apart."""
    low, high = min(values), max(values)
    if integers := all(isinstance(value, int) for value in values):
        margin = max(0.5, 0.05 * (high - low))
        axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(_few(integers) if low < high else FixedLocator([float(low)]))
    finest = (high - low) / 10 or 1
    digits = max(3, 1 + math.ceil(math.log10(max(abs(low), abs(high), finest) / finest)))
    axes.xaxis.set_major_formatter(FuncFormatter(functools.partial(style.number, digits=digits)))


def _few(integer: bool = False) -> MaxNLocator:
    return MaxNLocator(5 if integer else 4, integer=integer, steps=[1, 2, 5, 10])


def _set_log_numbers(axes: Axes, values: Sequence[Any]) -> None:
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.06, 1.1)
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    span = margin**2 * high / low
    if span < 4:  # too little for round numbers of a log scale
        axes.xaxis.set_major_locator(_few() if low < high else FixedLocator([float(low)]))
    else:  # over few powers of ten, they alone are too few ticks; over many, too many
        subs = (1, 2, 5) if span < 20 else (1, 3) if span < 300 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=5))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(style.number))


def _set_choices(axes: Axes, names: Sequence[str], width: float) -> float:
    """Ticks with names, without what long ones begin with in common, upright where even so they need more room.

    Args:
      axes: of the panel.
      names: of the choices.
      width: of the panel, in points.

    Returns:
      Points that upright names take up, or 0.
    """

    def longest(texts: Sequence[str]) -> float:
        return max(map(style.text_width, texts))

    room, shown = 0.9 * width / len(names), list(names)
    if longest(shown) > room and len(names) > 1:
        prefix = commonprefix(names)  # noqa: RUF071 - letter by letter, as they are no paths
        shown = [f"…{name.removeprefix(prefix)}" for name in names] if prefix else shown
    upright = len(names) > 1 and longest(shown) > room
    if upright:
        shown = list(names) if longest(names) <= _UPRIGHT else shown
    shown = [style.shorten(text, _UPRIGHT if upright else room) for text in shown]
    axes.set_xticks(range(len(names)), shown, rotation=90 if upright else 0)
    axes.set_xlim(-0.5, len(names) - 0.5)
    return longest(shown) if upright else 0.0


def _entries(states: Sequence[str], best: bool, below: str | None) -> list[Line2D]:
    entries = [
        Line2D([], [], linestyle="none", label=state, **look) for state, look in _LOOKS.items() if state in states
    ]
    if best:
        entries.append(Line2D([], [], linewidth=0.8, label="best so far", **_BEST))
    if below:
        entries.append(Line2D([], [], color="0.5", linestyle=":", label=below))
    return entries
