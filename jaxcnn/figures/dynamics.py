"""How gradients fare by layer, where ReLUs die, how the loss looks around a minimum, and what pixels a unit uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style


class SeenField(NamedTuple):
    """What a layer's centre sees.

    Attributes:
      heat: [H, W], at least 0.
      box: top, left, bottom and right in pixels, the last two exclusive, of all that it can see.
      side: of a square as large as what matters, in pixels.
    """

    heat: ArrayLike
    box: tuple[int, int, int, int]
    side: float


@style.styled
def gradient_flow(networks: Mapping[str, ArrayLike]) -> Figure:
    """The size of the gradient at every layer, from the first to the last, on a log scale.

    Args:
      networks: norms [L, N] of L layers and N images, at least 0, by what the network is called: its activation.

    Returns:
      A figure of one column: the median of the images, and a band of the middle half of them. A few images that the
      network has wrong have gradients far above all others, so that a mean would be theirs.

    Raises:
      InputError: there is no network, the norms are not [L, N], finite and at least 0, or all medians are 0.
    """
    if not networks:
        raise InputError("no network was given; expected at least one")
    seen = False
    figure = style.StyledFigure(figsize=(style.COLUMN, 2.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(networks.items()):
        norms = np.asarray(values, float)
        if norms.ndim != 2 or 0 in norms.shape or not np.isfinite(norms).all() or norms.min() < 0:
            raise InputError(f"norms of {name} have shape {norms.shape}; expected [L, N], finite and at least 0")
        x = np.arange(1, len(norms) + 1)
        color = style.COLORS[number % len(style.COLORS)]
        mark = style.MARKERS[number % len(style.MARKERS)]
        low, middle, high = np.quantile(norms, (0.25, 0.5, 0.75), axis=1)
        seen |= bool((middle > 0).any())
        every = max(1, -(-len(x) // 12))  # more marks run together
        axes.plot(x, np.where(middle > 0, middle, np.nan), color=color, marker=mark, label=name, markevery=every)
        axes.fill_between(x, np.where(low > 0, low, np.nan), high, color=color, alpha=0.2, linewidth=0)
    if not seen:
        raise InputError("the median of the norms is 0 at every layer; expected one above 0, as their scale is a log")
    axes.set_yscale("log")
    log_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("layer, from the input to the output\nmedian of the images, middle half shaded")
    axes.set_ylabel("|d loss / d layer| (log scale)")
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    _legend(figure, networks)
    return figure


@style.styled
def dead_units(rates: ArrayLike, rectifiers: Sequence[str], shares: ArrayLike) -> Figure:
    """The share of dead units of each ReLU against the learning rate with which the network was trained.

    Args:
      rates: [K] learning rates, above 0, increasing.
      rectifiers: R names in the order of the forward pass.
      shares: [K, R], in [0, 1]; NaN leaves a gap.

    Returns:
      A figure of one column, early ReLUs dark and late ones light.

    Raises:
      InputError: the arrays do not fit together, or a value is out of range.
    """
    steps, values = np.asarray(rates, float), np.asarray(shares, float)
    if steps.ndim != 1 or not steps.size or not rectifiers or values.shape != (len(steps), len(rectifiers)):
        raise InputError(
            f"rates have shape {steps.shape}, shares {values.shape}, and there are {len(rectifiers)} ReLUs; expected "
            "[K] and [K, R]"
        )
    if not (steps.min() > 0 and (np.diff(steps) > 0).all()):
        raise InputError(f"rates are {steps.tolist()}; expected increasing ones above 0")
    if not (np.nanmin(values, initial=0) >= 0 and np.nanmax(values, initial=0) <= 1):
        raise InputError(f"shares reach from {np.nanmin(values):g} to {np.nanmax(values):g}; expected values in [0, 1]")
    rows = -(-len(rectifiers) // 2)
    figure = style.StyledFigure(
        figsize=(style.COLUMN, 2.2 + rows * 1.5 * style.SMALL * style.POINT), layout="constrained"
    )
    axes = figure.subplots()
    shades = colormaps["viridis"](np.linspace(0, 0.85, len(rectifiers)))
    for number, (name, column, shade) in enumerate(zip(rectifiers, values.T, shades, strict=True)):
        mark = style.MARKERS[number % len(style.MARKERS)]
        axes.plot(steps, column, color=shade, marker=mark, label=style.shorten(name, 90.0))
    axes.set_xscale("log")
    log_ticks(axes.xaxis)
    top = min(1.0, max(0.1, 1.2 * float(np.nanmax(values, initial=0))))
    axes.set_ylim(-0.02 * top, 1.02 * top)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xlabel("learning rate (log scale)")
    axes.set_ylabel("dead units")
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.0)
    return figure


@style.styled
def loss_slices(steps: ArrayLike, networks: Mapping[str, ArrayLike]) -> Figure:
    """The loss along lines through the parameters.

    Args:
      steps: [A], increasing; 0 are the parameters themselves.
      networks: losses [D, A] along D directions by what the network is called; what is not finite leaves a gap.

    Returns:
      A figure of one column: a thin line for each direction and a thick one for their mean, on a log scale.

    Raises:
      InputError: there is no network, or the arrays do not fit together.
    """
    x = _increasing("steps", steps)
    if not networks:
        raise InputError("no network was given; expected at least one")
    figure = style.StyledFigure(figsize=(style.COLUMN, 2.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(networks.items()):
        losses = np.asarray(values, float)
        if losses.ndim != 2 or losses.shape[1:] != x.shape or not len(losses):
            raise InputError(f"losses of {name} have shape {losses.shape}; expected [D, {len(x)}]")
        losses = np.where(np.isfinite(losses), losses, np.nan)
        color = style.COLORS[number % len(style.COLORS)]
        axes.plot(x, losses.T, color=color, linewidth=0.5, alpha=0.6)
        axes.plot(x, losses.mean(0), color=color, linewidth=1.5, label=name)
    axes.set_yscale("log")
    log_ticks(axes.yaxis)
    axes.set_xlabel("step along a random direction, in filter norms")
    axes.set_ylabel("cross-entropy (nats, log scale)")
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    _legend(figure, networks)
    return figure


@style.styled
def loss_plane(rows: ArrayLike, columns: ArrayLike, losses: ArrayLike, *, title: str, levels: int = 12) -> Figure:
    """The loss on a plane through the parameters, as contours at equal ratios.

    Args:
      rows: [A], steps along the first direction, increasing.
      columns: [B], along the second.
      losses: [A, B], above 0; what is not finite stays white.
      title: what the network is called.
      levels: at most so many contours.

    Returns:
      A figure of one column; a cross marks the parameters.

    Raises:
      InputError: the arrays do not fit together, or no loss is finite.
    """
    y, x = _increasing("rows", rows), _increasing("columns", columns)
    values = np.asarray(losses, float)
    finite = values[np.isfinite(values) & (values > 0)]
    if values.shape != (len(y), len(x)) or not finite.size:
        raise InputError(f"losses have shape {values.shape}; expected {(len(y), len(x))}, some of them finite")
    low, high = float(finite.min()), float(finite.max())
    edges = np.geomspace(low, high if high > low else 1.1 * low, levels)
    figure = style.StyledFigure(figsize=(style.COLUMN, 3.1), layout="constrained")
    axes = figure.subplots()
    masked = np.ma.masked_where(~(np.isfinite(values) & (values > 0)), values)
    lines = axes.contour(x, y, masked, levels=edges, cmap="viridis", norm=LogNorm(low, edges[-1]), linewidths=0.8)
    axes.clabel(lines, edges[1::2], fmt=style.number, fontsize=style.SMALL)
    axes.plot(0, 0, "x", color=style.WRONG, markersize=6)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(style.number))
    axes.set(xlabel="step along the second direction", ylabel="step along the first")
    axes.set_title(f"{style.shorten(title, 110.0)}: cross-entropy (nats)", loc="left")
    return figure


@style.styled
def effective_fields(layers: Mapping[str, SeenField], *, width: float = style.PAGE) -> Figure:
    """What the centre of each layer's map sees: the size of its derivative by each pixel, and all that it can see.

    Args:
      layers: by their names.
      width: of the figure in inches.

    Returns:
      A figure with a panel for each layer, each scaled to its largest value, roots taken so that small ones are seen;
      the box is the receptive field in closed form, as far as it lies in the image.

    Raises:
      InputError: there is no layer, or a heat map is not [H, W], finite and at least 0.
    """
    if not layers:
        raise InputError("no layer was given; expected at least one")
    columns = min(len(layers), 5)
    rows = math.ceil(len(layers) / columns)
    shapes = [np.shape(field.heat) for field in layers.values()]
    if any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise InputError(f"heat maps have shapes {shapes}; expected [H, W]")
    cell = width / max(columns, 3)
    tall = max(shape[0] / shape[1] for shape in shapes)
    figure = style.StyledFigure(figsize=(cell * columns, rows * (cell * tall + 0.55)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(layers) :]:
        axes.set_axis_off()
    for axes, (name, field) in zip(panels, layers.items(), strict=False):
        heat = np.asarray(field.heat, float)
        if not (np.isfinite(heat).all() and heat.min() >= 0 and heat.max() > 0):
            raise InputError(f"heat of {name} runs from {heat.min():g}; expected finite values of at least 0")
        axes.imshow(np.sqrt(heat / heat.max()), cmap=style.SEQUENTIAL, vmin=0, vmax=1)
        top, left, bottom, right = field.box
        height, wide = heat.shape
        inside = max(top, 0), max(left, 0), min(bottom, height), min(right, wide)
        axes.add_patch(
            Rectangle(
                (inside[1] - 0.5, inside[0] - 0.5),
                inside[3] - inside[1],
                inside[2] - inside[0],
                fill=False,
                edgecolor=style.COLORS[5],
                linewidth=1.0,
                clip_on=False,
            )
        )
        axes.set(xticks=[], yticks=[])
        axes.set_title(style.shorten(name, cell / style.POINT - 8), loc="left")
        sees = f"{bottom - top}×{right - left}"  # noqa: RUF001
        axes.set_xlabel(f"sees {sees},\nuses about {field.side:.0f}×{field.side:.0f}", size=style.SMALL)  # noqa: RUF001
    return figure


def _legend(figure: Figure, names: Iterable[str]) -> None:
    columns = style.legend_columns(names, figure.get_figwidth())
    figure.legend(loc="outside upper left", ncols=columns, columnspacing=1.2)


def log_ticks(axis: Axis) -> None:
    """Numbers at powers of ten, and between them where the axis, whose scale is logarithmic, holds few."""
    low, high = axis.get_view_interval()
    span = high / low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1e2 else (1, 3) if span < 1e4 else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(style.number))
    axis.set_minor_formatter(NullFormatter())


def _increasing(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all() or not (np.diff(array) > 0).all():
        raise InputError(f"{name} are {array.tolist()}; expected at least two increasing numbers")
    return array
