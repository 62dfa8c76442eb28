"""The arms of a study side by side: curves over training, means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
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


_TALL = 115  # points of a panel's height for its label, which would otherwise reach into the legend
_ASIDE = 0.03  # of an epoch between the marks of arms that have one place
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
    legend = _Legend({f"{arm} (diverged)" if arm in diverged else arm: look for arm, look in looks.items()}, style.PAGE)
    figure = style.StyledFigure(figsize=(style.PAGE, 2.3 + legend.height), layout="constrained")
    axes = figure.subplots(1, 3)
    for panel, (title, bands) in zip(axes, checked.items(), strict=True):
        for number, (arm, band) in enumerate(bands.items()):
            look, x = looks[arm], band.epochs
            if len(x) > 1:
                panel.plot(x, band.mean, markevery=max(1, -(-len(x) // _MARKS)), **look)
                panel.fill_between(x, band.low, band.high, color=look["color"], alpha=0.2, linewidth=0)
            else:  # a band of one place would not be seen
                x = x * (1 + _ASIDE * (number - (len(bands) - 1) / 2))
                panel.errorbar(x, band.mean, _spread(band), capsize=2, elinewidth=0.8, **look)
            drawn = np.flatnonzero(np.isfinite(band.mean))
            if arm in diverged and drawn.size:
                end = drawn[-1]
                panel.plot(x[end], band.mean[end], "x", color=look["color"], markersize=6, zorder=4)
        panel.set_ylabel(title)
        panel.set_xlabel("epoch")
        panel.grid(axis="y", color="0.9", linewidth=0.5)
        panel.set_axisbelow(True)
        panel.set_xlim(0, max(panel.get_xlim()[1], *(1.05 * band.epochs.max(initial=0) for band in bands.values())))
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    losses = [band.mean for title in list(checked)[:2] for band in checked[title].values()]
    for panel in axes[:2]:
        _scale_logarithmically(panel, np.concatenate(losses))
    axes[2].yaxis.set_major_formatter(FuncFormatter(lambda share, _: style.number(round(100 * share, 6))))
    axes[2].set_ylabel(f"{split} accuracy (%)")
    bottom, top = axes[2].get_ylim()
    axes[2].set_ylim(max(bottom, 0), min(top, 1.01))
    legend.draw(figure)
    return figure


class Points(NamedTuple):
    """Means over seeds at some positions and their intervals; N positions and three arrays [N].

    Attributes:
      positions: texts, or numbers.
      mean: NaN, where all seeds diverged, is a cross at the foot of the panel.
      low: lower end of the interval; NaN draws none.
      high: upper end.
    """

    positions: Sequence[str] | Sequence[float]
    mean: ArrayLike
    low: ArrayLike
    high: ArrayLike


class Panel(NamedTuple):
    """One quantity.

    Attributes:
      label: what is measured, with its unit.
      position: what the positions are.
      arms: by name, at least one, with positions that are all texts or all numbers.
      log: whether the scale is logarithmic.
    """

    label: str
    position: str
    arms: Mapping[str, Points]
    log: bool


@style.styled
def measures(panels: Sequence[Panel]) -> Figure:
    """Every quantity against its positions, a line for each arm; if there is one position, against the arms.

    Args:
      panels: at least one.

    Raises:
      InputError: no panel is given, one has no arm, arrays differ in length, or texts and numbers are mixed.
    """
    if not panels:
        raise InputError("no panel was given; expected at least one")
    placed = [_placed(panel) for panel in panels]
    arms = dict.fromkeys(arm for panel in placed for arm in panel.arms if arm)
    looks = {"": _look(0)} | {arm: _look(number) for number, arm in enumerate(arms)}
    crowded = max(len(_positions(panel)) for panel in placed) > _CROWD
    columns = 1 if crowded else min(3, len(placed))
    rows = -(-len(placed) // columns)
    width = style.PAGE if crowded or columns > 1 else _ALONE
    gone = any(np.isnan(points.mean).any() for panel in placed for points in panel.arms.values())
    legend = _Legend({arm: looks[arm] for arm in arms} | ({"diverged": _DIVERGED} if gone else {}), width)
    room = width / style.POINT / columns - 50
    names = max(_height_of_names(panel, room) for panel in placed)
    figure = style.StyledFigure(figsize=(width, (2.3 + names) * rows + legend.height), layout="constrained")
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, placed, strict=False):
        _draw(axes, panel, looks, room)
    for axes in figure.axes[len(placed) :]:
        axes.remove()
    legend.draw(figure)
    return figure


_DIVERGED = {"color": "0.3", "marker": "x", "linestyle": "none", "markersize": 5}
_ALONE = 4.6  # width of a panel by itself, in inches
_CROWD = 9  # more positions than these need the page's width
_DODGE = 0.08  # between the marks of arms at one position, so that their intervals can be told apart


def _placed(panel: Panel) -> Panel:
    """The panel with arrays, and with the arms in place of the positions where there is only one of these."""
    if not panel.arms:
        raise InputError(f"{panel.label} has no arm; expected at least one")
    arms = {}
    for arm, points in panel.arms.items():
        arrays = [np.asarray(values, float) for values in points[1:]]
        shapes = [(len(points.positions),), *(values.shape for values in arrays)]
        if len(set(shapes)) > 1:
            raise InputError(f"{panel.label} of {arm!r}: shapes are {shapes}; expected as many numbers as positions")
        arms[arm] = Points(points.positions, *arrays)
    positions = _positions(panel)
    if len({isinstance(position, str) for position in positions}) > 1:
        raise InputError(f"{panel.label} has the positions {positions}; expected all texts or all numbers")
    if len(positions) > 1 or len(arms) == 1:
        return panel._replace(arms=arms)
    joined = [np.concatenate([points[i] for points in arms.values()]) for i in (1, 2, 3)]
    return panel._replace(position="", arms={"": Points(tuple(arms), *joined)})


def _positions(panel: Panel) -> list[Any]:
    found = list(dict.fromkeys(position for points in panel.arms.values() for position in points.positions))
    return found if any(isinstance(position, str) for position in found) else sorted(found)


def _draw(axes: Axes, panel: Panel, looks: Mapping[str, dict[str, Any]], room: float) -> None:
    positions, named = _positions(panel), isinstance(_positions(panel)[0], str)
    for number, (arm, points) in enumerate(panel.arms.items()):
        mean = np.asarray(points.mean)
        shift = _DODGE * (number - (len(panel.arms) - 1) / 2)
        x = np.array([positions.index(p) + shift for p in points.positions]) if named else np.array(points.positions)
        order = np.argsort(x)
        spread = _spread(points)
        look: dict[str, Any] = {**looks[arm], **({} if arm else {"linestyle": "none"})}
        axes.errorbar(x[order], mean[order], spread[:, order], capsize=2, elinewidth=0.8, **look)
        if (gone := np.isnan(mean)).any():
            cross = {**_DIVERGED, "color": look["color"], "clip_on": False}
            axes.plot(x[gone], np.zeros(gone.sum()), transform=axes.get_xaxis_transform(), **cross)
    if named:
        axes.set_xticks(range(len(positions)), positions, rotation=0 if _fit(positions, room) else 90)
        axes.set_xlim(-0.5, len(positions) - 0.5)
    else:
        steps = np.diff(positions)
        if positions[0] > 0 and positions[-1] >= 10 * positions[0] and steps.max() > 2 * steps.min():
            axes.set_xscale("log")  # not of numbers that count on, as layers do
        if len(positions) <= _CROWD:
            axes.set_xticks(positions, [style.number(float(position)) for position in positions])
            axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(panel.position)
    axes.set_ylabel(panel.label)
    if panel.log:
        seen = np.concatenate([np.asarray(points.mean) for points in panel.arms.values()])
        _scale_logarithmically(axes, seen)
    elif "" in panel.arms and axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)  # arms side by side are compared by their height
    if not panel.log and axes.get_ylim()[1] >= 10_000:
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)


def _spread(place: _Checked | Points) -> np.ndarray:
    """How far an interval reaches below and above its mean; NaN, which is not drawn, where it has no width."""
    mean, low, high = (np.asarray(values) for values in place[1:])
    spread = np.abs(np.stack([mean - low, high - mean]))
    return np.where(spread > 0, spread, np.nan)


def _fit(names: Sequence[str], room: float) -> bool:
    """Whether the names fit side by side; otherwise they stand upright."""
    return max(map(style.text_width, names)) + 4 <= room / len(names)


def _height_of_names(panel: Panel, room: float) -> float:
    """What upright names take, in inches."""
    names = [position for position in _positions(panel) if isinstance(position, str)]
    return 0.0 if not names or _fit(names, room) else max(map(style.text_width, names)) * style.POINT


class _Legend:
    """One legend of all arms above the panels, in as many columns as fit."""

    def __init__(self, looks: Mapping[str, dict[str, Any]], width: float) -> None:
        self._entries = [Line2D([], [], label=label, **look) for label, look in looks.items()]
        widest = max((style.text_width(label) for label in looks), default=0) + 34
        self._columns = min(len(looks), max(1, int((width / style.POINT - 10) / widest)))
        lines = -(-len(looks) // self._columns) if looks else 0
        self.height = lines * 1.5 * style.SMALL * style.POINT
        """In inches."""

    def draw(self, figure: Figure) -> None:
        """Draws the legend; of no arms, none."""
        if self._entries:
            figure.legend(handles=self._entries, loc="outside upper left", ncols=self._columns, columnspacing=1.2)


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


def _scale_logarithmically(panel: Axes, means: np.ndarray) -> None:
    """A logarithmic scale from the means: an interval may reach below zero."""
    means = means[np.isfinite(means) & (means > 0)]
    means = means if means.size else np.ones(1)
    label = panel.get_ylabel()
    long = style.text_width(f"{label} (log scale)", style.RC["axes.labelsize"]) > _TALL
    panel.set_ylabel(f"{label}{chr(10) if long else ' '}(log scale)")
    panel.set_yscale("log")
    low, high = means.min() / 1.15, means.max() * 1.15
    panel.set_ylim(low, high)
    span = high / low
    subs = (1, 1.5, 2, 3, 5, 7) if span < 1e1 else (1, 2, 5) if span < 1e2 else (1, 3) if span < 1e4 else (1,)
    panel.yaxis.set_major_locator(LogLocator(subs=subs))
    powers = low < 1e-3 and span >= 1e4  # 0.0001 above 1e-5 is hard to compare
    panel.yaxis.set_major_formatter(FuncFormatter(_power if powers else style.number))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _power(value: float, _: object = None) -> str:
    return "10" + str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
