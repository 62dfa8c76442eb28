"""The page's charts, as Vega-Lite specifications; colours and fonts are the page's, so that they follow its scheme.

Every chart over training has the parameter "zoom", whose x the page sets from its buttons and shares between charts;
the other axis follows what is shown. The page names the lines beside the charts, in the order of its colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

Point = Mapping[str, Any]

POINTS = 400
"""Points of one line at most."""
_HEIGHT = 240
_SHADES = 7  # colours that the page has; lines beyond them are dashed
# What is shown of a line reaches to the next points outside, so that few points can be zoomed too.
_SHOWN = (
    "!isArray(zoom.x) || ((isValid(datum.before) ? datum.before : datum.x) <= zoom.x[1]"
    " && (isValid(datum.after) ? datum.after : datum.x) >= zoom.x[0])"
)


def learning(points: Sequence[Point], quantity: str, *, x: str, series: Sequence[str], thin: str | None = None) -> Any:
    """One quantity over training, a line for each series.

    Args:
      points: each with `series`, `x`, `step`, and the quantity, which may be None.
      quantity: "loss" or "accuracy".
      x: what x is, "epoch" or "step".
      series: in the order of the colours.
      thin: a series that is drawn as a light line with no marks.

    Returns:
      The specification as JSON values.
    """
    shown = [point for point in points if point.get(quantity) is not None]
    base = _base(shown, series)
    y = alt.Y(f"{quantity}:Q", scale=_scale(quantity, [p[quantity] for p in shown]), axis=_axis(quantity), title=None)
    lines = base.mark_line(strokeWidth=1.75, interpolate="linear", clip=True).encode(y=y)
    light = alt.condition(f"datum.series === {thin!r}", alt.value(0.55), alt.value(1)) if thin else alt.value(1)
    nearest = alt.selection_point(
        name="nearest", nearest=True, on="pointerover", clear="pointerout", fields=["x", "series"], empty=False
    )
    marks = base.mark_point(filled=True, size=64, clip=True).encode(
        y=y,
        opacity=_visible(nearest),
        tooltip=[
            alt.Tooltip("series:N", title="series"),
            alt.Tooltip("x:Q", title=x, format=".4~r"),
            alt.Tooltip("step:Q", title="step", format=",d"),
            alt.Tooltip(f"{quantity}:Q", title=quantity, format=".2%" if quantity == "accuracy" else ".4~r"),
        ],
    )
    chart = alt.layer(
        lines.encode(opacity=light, strokeDash=_dashes(series)).add_params(_zoom()), marks.add_params(nearest)
    )
    return _finished(chart, f"{quantity.capitalize()} over {x}s, a line for each of: {', '.join(series)}.")


def bands(points: Sequence[Point], quantity: str, *, series: Sequence[str]) -> Any:
    """Means over seeds with their intervals over the epochs, a band for each series.

    Args:
      points: each with `series`, `x`, `mean`, `low` and `high`; those of the interval may be None.
      quantity: "accuracy", or one in whose name is "loss".
      series: in the order of the colours.

    Returns:
      The specification as JSON values.
    """
    shown = [point for point in points if point["mean"] is not None]
    base = _base(shown, series)
    scale = _scale(quantity, [p["mean"] for p in shown])
    y = alt.Y("mean:Q", scale=scale, axis=_axis(quantity), title=None)
    # Where the axis is logarithmic, an interval that reaches below zero ends at the smallest mean.
    floor = min((p["mean"] for p in shown), default=0.0)
    low = f"max(datum.low, {floor!r})" if scale.to_dict().get("type") == "log" else "datum.low"
    band = (
        base.transform_filter("isValid(datum.low)")
        .transform_calculate(bottom=low)
        .mark_area(opacity=0.16, clip=True)
        .encode(y=alt.Y("bottom:Q", scale=scale, axis=_axis(quantity), title=None), y2="high:Q")
    )
    lines = base.mark_line(strokeWidth=1.75, clip=True).encode(y=y, strokeDash=_dashes(series))
    nearest = alt.selection_point(
        name="nearest", nearest=True, on="pointerover", clear="pointerout", fields=["x", "series"], empty=False
    )
    form = ".2%" if quantity == "accuracy" else ".4~r"
    marks = base.mark_point(filled=True, size=64, clip=True).encode(
        y=y,
        opacity=_visible(nearest),
        tooltip=[
            alt.Tooltip("series:N", title="arm"),
            alt.Tooltip("x:Q", title="epoch", format=".4~r"),
            alt.Tooltip("mean:Q", title=f"mean {quantity}", format=form),
            alt.Tooltip("low:Q", title="interval from", format=form),
            alt.Tooltip("high:Q", title="to", format=form),
        ],
    )
    chart = alt.layer(lines.add_params(_zoom()), band, marks.add_params(nearest))
    return _finished(chart, f"{quantity.capitalize()} over epochs, a band for each of: {', '.join(series)}.")


def against(
    points: Sequence[Point], quantity: str, *, position: str, series: Sequence[str], logarithmic: bool = False
) -> Any:
    """Means with their intervals against positions: a line for each series, and of texts points beside each other.

    Args:
      points: each with `series`, `x`, `mean`, `low` and `high`; NaN has no place and is a cross at the foot.
      quantity: "accuracy", which is shown in percent, or another.
      position: what x is, numbers or texts.
      series: in the order of the colours.
      logarithmic: whether the quantity's axis is, unless no mean is above 0.

    Returns:
      The specification as JSON values.
    """
    places = list(dict.fromkeys(point["x"] for point in points))
    scale = _scale(quantity, [p["mean"] for p in points if math.isfinite(p["mean"])])
    above = [p["mean"] for p in points if p["mean"] > 0]
    if logarithmic and above:
        scale = alt.Scale(type="log", nice=False, padding=6)
    floor = min(above) if above and scale.to_dict().get("type") == "log" else -math.inf
    # An interval that reaches below zero ends at the smallest mean where the axis is logarithmic.
    rows = [
        {**point, "low": max(point["low"], floor), "there": math.isfinite(point["mean"]) and point["mean"] >= floor}
        for point in points
    ]
    percent = quantity == "accuracy"
    form = ".2%" if percent else ".4~r"
    texts = any(isinstance(place, str) for place in places)
    across = _texts(places, position) if texts else _numbers(places, position)
    base = alt.Chart(alt.Data(values=[_row(row) for row in rows])).encode(
        x=across,
        color=alt.Color("series:N", scale=alt.Scale(domain=list(series)), legend=None),
        tooltip=[
            *([alt.Tooltip("series:N", title="of")] if len(series) > 1 else []),
            alt.Tooltip("x:N" if texts else "x:Q", title=position or "position", **({} if texts else _GROUPED)),
            alt.Tooltip("mean:Q", title="mean", format=form),
            alt.Tooltip("low:Q", title="interval from", format=form),
            alt.Tooltip("high:Q", title="to", format=form),
        ],
    )
    if texts and len(series) > 1:
        base = base.encode(xOffset=alt.XOffset("series:N", sort=list(series)))
    axis = _axis(quantity)
    drawn = base.transform_filter("datum.there")
    y = alt.Y("mean:Q", scale=scale, axis=axis, title=None)
    ends = alt.Y("low:Q", scale=scale, axis=axis, title=None)
    layers = [drawn.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5).encode(y=ends, y2="high:Q")]
    if not texts:
        layers.append(drawn.mark_line(strokeWidth=1.75).encode(y=y, strokeDash=_dashes(series)))
    size = 64 if len(places) * (len(series) if texts else 1) <= _MARKS else 24
    layers.append(drawn.mark_point(filled=True, size=size, opacity=1).encode(y=y))
    if not all(row["there"] for row in rows):
        layers.append(
            base.transform_filter("!datum.there").mark_point(shape=_CROSS, size=140).encode(y=alt.value("height"))
        )
    described = f"{quantity.capitalize()} against {position or 'names'}, with intervals, of: {', '.join(series)}."
    return _finished(alt.layer(*layers), described)


_MARKS = 40  # of one size, before they run together
_CROSS = "M-0.6,-0.6L0.6,0.6M0.6,-0.6L-0.6,0.6"
_GROUPED: dict[str, Any] = {"format": ",.4~r"}


def _texts(places: Sequence[str], title: str) -> alt.X:
    upright = sum(map(len, places)) > 40
    axis = alt.Axis(labelAngle=-90 if upright else 0, labelLimit=140, labelOverlap=True, ticks=False)
    return alt.X("x:N", sort=list(places), title=title or None, axis=axis)


def _numbers(places: Sequence[float], title: str) -> alt.X:
    """The axis of numbers; logarithmic where they grow by factors, and not where they count on, as layers do."""
    ordered = sorted(places)
    steps = np.diff(ordered)
    factors = ordered[0] > 0 and ordered[-1] >= 10 * ordered[0] and steps.max() > 2 * steps.min()
    ticks: dict[str, Any] = {"values": ordered} if len(ordered) <= 9 else {"tickCount": 8}
    axis = alt.Axis(**_GROUPED, **ticks, labelOverlap=True)
    scale = alt.Scale(type="log", nice=False, padding=12) if factors else alt.Scale(nice=False, zero=False, padding=12)
    return alt.X("x:Q", title=title or None, scale=scale, axis=axis)


def estimates(points: Sequence[Point], *, series: Sequence[str], title: str, percent: bool = True) -> Any:
    """A mean with its interval for each series, in a row of its own.

    Args:
      points: each with `series`, `mean`, `low` and `high`; those of the interval may be None.
      series: from above.
      title: of the axis.
      percent: whether the means are shares, shown in percent.

    Returns:
      The specification as JSON values.
    """
    form = ".2%" if percent else ".4~r"
    base = alt.Chart(alt.Data(values=[_row(point) for point in points])).encode(
        y=alt.Y("series:N", sort=list(series), title=None, axis=alt.Axis(labelLimit=180, ticks=False, domain=False)),
        color=alt.Color("series:N", scale=alt.Scale(domain=list(series)), legend=None),
        tooltip=[
            alt.Tooltip("series:N", title="series"),
            alt.Tooltip("mean:Q", title=title, format=form),
            alt.Tooltip("low:Q", title="interval from", format=form),
            alt.Tooltip("high:Q", title="to", format=form),
        ],
    )
    axis = alt.Axis(format=".4~%" if percent else "~s", tickCount=5)
    x = alt.X("mean:Q", title=title, scale=alt.Scale(zero=False, padding=12), axis=axis)
    rules = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(x=x.copy(), x2="high:Q")
    rules.encoding.x.shorthand = "low:Q"
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x=x)
    description = f"{title}, with its interval, for each of: {', '.join(series)}."
    return _finished(alt.layer(rules, dots), description, height=44 + 30 * len(series))


def averaged(points: Sequence[Point], quantities: Sequence[str]) -> list[dict[str, Any]]:
    """At most `POINTS` points, each the mean of equally many neighbours, at the last one's place."""
    width = math.ceil(len(points) / POINTS)
    groups = [points[start : start + width] for start in range(0, len(points), width or 1)]
    return [{**group[-1], **{q: _mean([point[q] for point in group]) for q in quantities}} for group in groups]


def _mean(values: Sequence[float | None]) -> float | None:
    mean = float(np.mean([math.nan if value is None else value for value in values]))
    return mean if math.isfinite(mean) else None


def _row(point: Point) -> dict[str, Any]:
    """The point in JSON, which knows no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in point.items()}


def _base(points: Sequence[Point], series: Sequence[str]) -> alt.Chart:
    rows = [_row(point) for point in points]
    return (
        alt.Chart(alt.Data(values=rows))
        .transform_window(before="lag(x)", after="lead(x)", sort=[alt.SortField("x")], groupby=["series"])
        .transform_joinaggregate(points="count()", groupby=["series"])
        .transform_filter(_SHOWN)
        .encode(
            x=alt.X("x:Q", title=None, scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=6)),
            color=alt.Color("series:N", scale=alt.Scale(domain=list(series)), legend=None),
        )
    )


def _visible(nearest: alt.Parameter) -> Any:
    """A point is seen where the mouse is near, and where it is the only one, of which there is no line."""
    return alt.when(nearest).then(alt.value(1)).when("datum.points === 1").then(alt.value(1)).otherwise(alt.value(0))


def _zoom() -> Any:
    # The wheel alone scrolls the page; with Ctrl, as pinching does, it zooms.
    return alt.selection_interval(name="zoom", bind="scales", encodings=["x"], zoom="wheel![event.ctrlKey]")


def _dashes(series: Sequence[str]) -> Any:
    if len(series) <= _SHADES:
        return alt.Undefined
    dashes = [[1, 0], [5, 3], [1.5, 2.5]]
    scale = alt.Scale(domain=list(series), range=[dashes[i // _SHADES % 3] for i in range(len(series))])
    return alt.StrokeDash("series:N", scale=scale, legend=None)


def _scale(quantity: str, values: Sequence[float]) -> alt.Scale:
    if "loss" in quantity and values and min(values) > 0 and max(values) > 20 * min(values):
        return alt.Scale(type="log", nice=False, padding=6)
    return alt.Scale(zero=False, nice=False, padding=6)


def _axis(quantity: str) -> alt.Axis:
    if quantity == "accuracy":
        return alt.Axis(format=".4~%", tickCount=5)
    # Of the many lines of a logarithmic axis those at powers of ten stand out.
    power = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 0.001"
    return alt.Axis(format=".3~r", tickCount=5, gridOpacity={"condition": {"test": power, "value": 0.9}, "value": 0.3})


def _finished(chart: Any, description: str, height: int = _HEIGHT) -> dict[str, Any]:
    fitted = alt.AutoSizeParams(type="fit", contains="padding")
    sized = chart.properties(description=description, autosize=fitted, width="container", height=height)
    return sized.to_dict()
