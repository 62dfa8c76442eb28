"""What becomes of networks of which blocks were deleted or moved, and along which paths their gradients go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.dynamics import log_ticks
from jaxcnn.figures.pictures import wrapped

_NAME = 1.35 * style.SMALL * style.POINT  # inches for a name that stands upright
_LONGEST = 100.0  # points for a name
_FORBIDDEN = "0.9"
_WHOLE, _CHANCE = "0.35", "0.6"


class Deletions(NamedTuple):
    """Errors of some networks of one kind with one block deleted.

    Attributes:
      names: of the B blocks.
      downsampling: [B], which of them halve the map.
      errors: [S, B] of S networks, in [0, 1]; NaN of a block that cannot be deleted.
      intact: [S], of the whole networks.
      low: [B], lower end of the interval of the mean; NaN draws none.
      high: [B], upper end.
    """

    names: Sequence[str]
    downsampling: ArrayLike
    errors: ArrayLike
    intact: ArrayLike
    low: ArrayLike
    high: ArrayLike


class Draws(NamedTuple):
    """Errors of some networks of one kind after random lesions.

    Attributes:
      sizes: [K], of the lesions: blocks deleted.
      errors: [K, R], of all networks and repeats, in [0, 1].
    """

    sizes: ArrayLike
    errors: ArrayLike


class Orders(NamedTuple):
    """Errors of some networks of one kind with their blocks in another order.

    Attributes:
      tau: [M], Kendall's rank correlation with the order in which they were trained.
      errors: [M], in [0, 1].
    """

    tau: ArrayLike
    errors: ArrayLike


class PathGradients(NamedTuple):
    """Gradients along single paths through networks of one kind.

    Attributes:
      lengths: [K] of the paths, in blocks.
      norms: [K, R], of all networks and repeats.
      shares: [K], of all paths those of each length.
      contributions: [K], shares times mean norms, their sum 1.
    """

    lengths: ArrayLike
    norms: ArrayLike
    shares: ArrayLike
    contributions: ArrayLike


@style.styled
def single(networks: Mapping[str, Deletions], *, chance: float, images: str, width: float = style.PAGE) -> Figure:
    """The error without each block, one at a time: a panel for each kind of network, all on one scale.

    Args:
      networks: by what they are called.
      chance: error of guessing, in [0, 1].
      images: what was classified, for the axis: "10,000 test images".
      width: of the figure in inches.

    Returns:
      A figure with a small mark for every network and a large one for their mean with its interval, squares where the
      block halves the map, grey where the block cannot be deleted, and dashed the whole network's error.

    Raises:
      InputError: there is no network, or arrays do not fit together or hold what is no error.
    """
    _some(networks)
    checked = {}
    for name, one in networks.items():
        errors, intact = np.asarray(one.errors, float), np.asarray(one.intact, float)
        marks, ends = np.asarray(one.downsampling, bool), np.array([one.low, one.high], float)
        wrong = errors.ndim != 2 or errors.shape != (len(intact), len(one.names))
        if wrong or marks.shape != errors.shape[1:] or ends.shape[1:] != errors.shape[1:]:
            raise InputError(
                f"{name} has errors {errors.shape} of {len(intact)} networks and {len(one.names)} blocks, and an "
                f"interval {ends.shape[1:]}; expected [S, B] and [B]"
            )
        _shares(f"errors of {name}", errors)
        _shares(f"errors of {name}", intact)
        checked[name] = one.names, marks, errors, intact, ends.clip(0, 1)
    labels = {name: [style.shorten(text, _LONGEST) for text in names] for name, (names, *_) in checked.items()}
    longest = max(style.text_width(text) for texts in labels.values() for text in texts) * style.POINT
    figure = style.StyledFigure(figsize=(width, 2.5 + longest), layout="constrained")
    sizes = [max(len(names) + 1, 14) for names, *_ in checked.values()]  # a title has its room
    whole: dict[str, Any] = {"clip_on": False, "in_layout": False}  # marks on the axes' ends
    panels = figure.subplots(1, len(checked), sharey=True, squeeze=False, width_ratios=sizes)[0]
    for number, (axes, (name, one)) in enumerate(zip(panels, checked.items(), strict=True)):
        names, marks, errors, intact, ends = one
        color = style.COLORS[number % len(style.COLORS)]
        places = np.arange(len(names))
        for place in places[np.isnan(errors).all(0)]:
            axes.axvspan(place - 0.4, place + 0.4, color=_FORBIDDEN, linewidth=0)
        axes.axhline(chance, color=_CHANCE, linestyle=":")
        axes.axhline(intact.mean(), color=_WHOLE, linestyle="--")
        drawn = ~np.isnan(errors).any(0)
        for chosen, marker in ((drawn & ~marks, "o"), (drawn & marks, "s")):
            if len(errors) > 1:
                for row in errors:
                    small: dict[str, Any] = {"markersize": 2, "alpha": 0.5, "zorder": 3, **whole}
                    axes.plot(places[chosen], row[chosen], marker, color=color, **small)
            large: dict[str, Any] = {"markersize": 5, "fillstyle": "none", "zorder": 4, **whole}
            axes.plot(places[chosen], errors[:, chosen].mean(0), marker, color=color, **large)
        axes.vlines(places[drawn], *ends[:, drawn], color=color, linewidth=0.8)
        room = (width - 0.8) * sizes[number] / sum(sizes)
        every = -(-len(names) // max(1, int(room / _NAME)))
        axes.set_xticks(places[::every], labels[name][::every], rotation=90)
        axes.set_xlim(-0.8, len(names) - 0.2)
        axes.set_title(name, loc="left", color=color)
        _percent(axes)
    panels[0].set_ylabel("error (%)")
    panels[0].set_ylim(0, 1)
    figure.supxlabel("block or layer deleted", size=style.MEDIUM)
    seeds = sorted({len(errors) for _, _, errors, *_ in checked.values()})
    _legend(figure, images, 3, handles=_entries(checked, seeds))
    return figure


def _entries(checked: Mapping[str, Any], seeds: Sequence[int]) -> list[Any]:
    large: dict[str, Any] = {"linestyle": "none", "markersize": 5, "color": "black", "fillstyle": "none"}
    some = " or ".join(map(str, seeds))
    mean = f"mean of {some} networks, 95% interval" if seeds[-1] > 1 else "without the block"
    entries: list[Any] = [Line2D([], [], marker="o", label=mean, **large)]
    if any(marks.any() for _, marks, *_ in checked.values()):
        entries.append(Line2D([], [], marker="s", label="halves the map", **large))
    if seeds[-1] > 1:
        entries.append(Line2D([], [], marker="o", linestyle="none", markersize=2, color="black", label="each network"))
    if any(np.isnan(errors).all(0).any() for _, _, errors, *_ in checked.values()):
        entries.append(Patch(color=_FORBIDDEN, label="changes the shape, so it stays"))
    entries.append(Line2D([], [], color=_WHOLE, linestyle="--", label="nothing deleted"))
    entries.append(Line2D([], [], color=_CHANCE, linestyle=":", label="guessing"))
    return entries


@style.styled
def several(networks: Mapping[str, Draws], *, images: str, what: str = "deleted at random") -> Figure:
    """The error against how many blocks are deleted at random.

    Args:
      networks: by what they are called.
      images: what was classified: "10,000 test images".
      what: was done to the blocks.

    Returns:
      A figure of one column: medians joined by lines, thick the middle half of all draws, thin 95 % of them.

    Raises:
      InputError: there is no network, or arrays do not fit together or hold what is no error.
    """
    _some(networks)
    figure = style.StyledFigure(figsize=(style.COLUMN, 2.8), layout="constrained")
    axes = figure.subplots()
    shift = 0.5 / len(networks)
    for number, (name, draws) in enumerate(networks.items()):
        sizes, errors = np.asarray(draws.sizes, float), np.asarray(draws.errors, float)
        if errors.ndim != 2 or sizes.shape != errors.shape[:1] or 0 in errors.shape:
            raise InputError(f"{name} has sizes {sizes.shape} and errors {errors.shape}; expected [K] and [K, R]")
        _shares(f"errors of {name}", errors)
        low, lower, middle, upper, high = np.quantile(errors, (0.025, 0.25, 0.5, 0.75, 0.975), axis=1)
        x = sizes + shift * (number - (len(networks) - 1) / 2)
        look = _look(number)
        axes.plot(x, middle, label=name, **look)
        axes.vlines(x, low, high, color=look["color"], linewidth=0.6)
        axes.vlines(x, lower, upper, color=look["color"], linewidth=2.5, alpha=0.6)
    axes.set_xlabel(f"blocks {what}")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    _error_axis(axes)
    _legend(figure, images, 2, "median, middle half and 95% of draws")
    return figure


@style.styled
def shuffled(networks: Mapping[str, Orders], *, images: str, bins: int = 8) -> Figure:
    """The error against how much of the order of the blocks is left.

    Args:
      networks: by what they are called.
      images: what was classified: "10,000 test images".
      bins: of Kendall's tau, whose medians are joined.

    Returns:
      A figure of one column: a light mark for each draw, and medians joined by lines.

    Raises:
      InputError: there is no network, or arrays do not fit together or are out of range.
    """
    _some(networks)
    figure = style.StyledFigure(figsize=(style.COLUMN, 2.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, orders) in enumerate(networks.items()):
        tau, errors = np.asarray(orders.tau, float), np.asarray(orders.errors, float)
        if tau.ndim != 1 or tau.shape != errors.shape or not tau.size:
            raise InputError(f"{name} has tau {tau.shape} and errors {errors.shape}; expected [M] each")
        if not (tau.min() >= -1 and tau.max() <= 1):
            raise InputError(f"tau of {name} runs from {tau.min():g} to {tau.max():g}; expected values in [-1, 1]")
        _shares(f"errors of {name}", errors)
        look = _look(number)
        light = {"linestyle": "none", "markersize": 2.5, "alpha": 0.3, "markeredgewidth": 0}
        axes.plot(tau, errors, **(look | light))
        edges = np.linspace(tau.min(), tau.max(), bins + 1)
        member = np.clip(np.digitize(tau, edges) - 1, 0, bins - 1)
        medians = [(np.median(tau[member == i]), np.median(errors[member == i])) for i in range(bins) if i in member]
        axes.plot(*np.array(medians).T, label=name, **look)
    axes.invert_xaxis()
    axes.set_xlabel("Kendall's tau with the trained order")
    _error_axis(axes)
    _legend(figure, images, 2, "a point for each order, and medians")
    return figure


@style.styled
def paths(networks: Mapping[str, PathGradients]) -> Figure:
    """How many paths there are of each length, the gradient along one, and what all of them bring.

    Args:
      networks: by what they are called.

    Returns:
      A figure as wide as the page with three panels; the last tells the mean length by what paths bring, if all
      lengths are there.

    Raises:
      InputError: there is no network, arrays do not fit together or are negative, or all norms are 0.
    """
    _some(networks)
    if not any(np.any(np.asarray(one.norms, float)) for one in networks.values()):
        raise InputError("the norms are 0 on every path; expected one above 0, as their scale is a log")
    figure = style.StyledFigure(figsize=(style.PAGE, 2.4), layout="constrained")
    shares, gradient, brought = figure.subplots(1, 3)
    for number, (name, one) in enumerate(networks.items()):
        lengths, norms = np.asarray(one.lengths), np.asarray(one.norms, float)
        of_all, contributions = np.asarray(one.shares, float), np.asarray(one.contributions, float)
        if norms.ndim != 2 or not lengths.shape == of_all.shape == contributions.shape == norms.shape[:1]:
            raise InputError(
                f"{name} has lengths {lengths.shape}, norms {norms.shape}, shares {of_all.shape} and contributions "
                f"{contributions.shape}; expected [K], [K, R], [K] and [K]"
            )
        if not (norms.min() >= 0 and np.isfinite(norms).all()):
            raise InputError(f"norms of {name} run from {norms.min():g}; expected finite ones of at least 0")
        look = _look(number)
        shares.plot(lengths, of_all, **look)
        positive = np.where(norms > 0, norms, np.nan)
        passed = norms.any(1)
        gradient.plot(lengths, np.where(passed, norms.mean(1), np.nan), **look)
        ends = np.full((2, len(norms)), np.nan)
        ends[:, passed] = np.nanquantile(positive[passed], (0.025, 0.975), axis=1)
        gradient.fill_between(lengths, *ends, color=look["color"], alpha=0.2, linewidth=0)
        mean = float((lengths * contributions).sum())
        whole = bool(passed.any() and np.isclose(of_all.sum(), 1))  # else paths of some lengths alone
        label = f"{name}: mean length {style.number(mean)}" if whole else name
        brought.plot(lengths, contributions, label=label, **look)
        if whole:
            brought.axvline(mean, color=look["color"], linestyle=":")
    gradient.set_yscale("log")
    log_ticks(gradient.yaxis)
    titles = ("share of all paths", "gradient on a path (log)", "share of the gradient")
    for axes, title in zip((shares, gradient, brought), titles, strict=True):
        axes.set_title(title, loc="left")
        axes.set_xlabel("branches on the path")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    for axes in (shares, brought):
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    said: dict[str, Any] = {
        "title": "mean of random paths, and 95% of them",
        "title_fontsize": style.SMALL,
        "alignment": "left",
    }
    figure.legend(loc="outside upper left", ncols=2, **said)
    return figure


def _look(number: int) -> dict[str, Any]:
    return {
        "color": style.COLORS[number % len(style.COLORS)],
        "marker": style.MARKERS[number % len(style.MARKERS)],
        "linestyle": style.DASHES[number // len(style.COLORS) % len(style.DASHES)],
    }


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)


def _legend(figure: Figure, images: str, columns: int, more: str = "", **fields: Any) -> None:
    room = figure.get_figwidth() / style.POINT - 12
    lines = [*wrapped(f"error on {images}", room), *([more] if more else [])]
    legend = figure.legend(
        loc="outside upper left", ncols=columns, columnspacing=1.2, title="\n".join(lines), alignment="left", **fields
    )
    legend.get_title().set_fontsize(style.SMALL)


def _error_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.set_ylabel("error (%)")
    _percent(axes)


def _some(networks: Mapping[str, Any]) -> None:
    if not networks:
        raise InputError("no network was given; expected at least one")


def _shares(what: str, values: np.ndarray) -> None:
    if not (np.nanmin(values, initial=1) >= 0 and np.nanmax(values, initial=0) <= 1):
        raise InputError(f"{what} run from {np.nanmin(values):g} to {np.nanmax(values):g}; expected shares in [0, 1]")
