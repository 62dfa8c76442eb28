"""A computation graph from left to right, with its values, local derivatives and gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from jaxcnn.errors import InputError
from jaxcnn.figures import style

# Lengths in points.
_SIZE = 19.0  # of the outline of an operation
_LINE = 1.3 * style.SMALL  # height of a number
_GAP = 6.0  # between what stands above one another
_ARROW = 6.0  # of an edge, on both sides of its number
_WIDEST = 110.0  # between two layers
_MARGIN = 8.0

_ORDERED = ("−", "/", "^")  # operations of which the upper arrow brings the first operand  # noqa: RUF001

_VALUE, _GRADIENT, _LOCAL = style.COLORS[0], style.COLORS[1], "0.2"
_LEGEND = (("above: value", _VALUE), ("below: ∂ gradient", _GRADIENT), ("edge: local derivative", _LOCAL))

Layers = list[list["_Place"]]


@runtime_checkable
class Node(Protocol):
    """What is drawn of a value of the computation, such as a node of `jaxcnn.ops.graph`.

    Attributes:
      name: of the input, constant or operation.
      kind: "input", "constant" or "operation".
      inputs: places of an operation's inputs, all before its own.
      value: a scalar.
      local: derivative with respect to each of the inputs; None where there is none.
      gradient: derivative of the result with respect to the value; None where there is none.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def inputs(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def value(self) -> Any: ...  # noqa: D102
    @property
    def local(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def gradient(self) -> Any: ...  # noqa: D102


@runtime_checkable
class Graph(Protocol):
    """What has nodes, each after its inputs."""

    @property
    def nodes(self) -> Sequence[Node]: ...  # noqa: D102


@style.styled
def draw(graph: Graph) -> Figure:
    """Inputs and constants as boxes, operations as circles, each as near to those that take it as can be.

    Above a node stands its value, below it the gradient of the result, marked by ∂; the number on an edge is the local
    derivative of the node at the arrow's head. So the gradient of a node is the sum, over the arrows that leave it, of
    the number on the arrow times the gradient at its head.

    Args:
      graph: a traced function, such as one of `jaxcnn.ops.graph.trace`.

    Returns:
      A figure between a column and the page in width, wider only if more than about nine operations follow one another.

    Raises:
      InputError: there is no node, or one has an input that does not come before it.
    """
    layers, edges = _connect(graph.nodes)
    _order(layers)
    gaps = _gaps(layers, edges)
    free = style.PAGE / style.POINT - 2 * _MARGIN - _width(layers[0]) / 2 - _width(layers[-1]) / 2
    wider = max(free / sum(gaps), 1) if gaps else 1
    gaps = [max(gap, min(gap * wider, _WIDEST)) for gap in gaps]
    for x, layer in zip(itertools.accumulate(gaps, initial=_MARGIN + _width(layers[0]) / 2), layers, strict=True):
        for place in layer:
            place.x = x
    for stretch in (1.0, 1.2, 1.5, 2.0, 3.0):
        _spread(layers, stretch)
        labels, clear = _label(edges, layers)
        if clear:
            break
    return _draw(layers, edges, labels)


class _Place:
    """Where a node stands, or where an edge passes a layer that holds neither of its ends."""

    def __init__(self, node: Node | None, layer: int) -> None:
        self.layer = layer
        self.before: list[_Place] = []
        self.after: list[_Place] = []
        self.x = self.y = 0.0
        self.node = node
        self.ordered = node is not None and len(node.inputs) == 2 and node.name in _ORDERED
        self.name = self.value = self.gradient = ""
        self.width = self.above = self.below = 0.0
        # An input stands beside the operation, not the other way round: so a chain of operations is straight.
        self.weight = 1.0 if node is None or node.inputs else 0.05
        if node is not None:
            self.name = style.shorten(node.name, 60.0, style.MEDIUM)
            self.value = "" if node.kind == "constant" else _number(node.value)
            self.gradient = "" if node.gradient is None else f"∂ {_number(node.gradient)}"
            self.width = max(_SIZE, style.text_width(self.name, style.MEDIUM) + 9)
            self.above = _SIZE / 2 + _LINE * bool(self.value)
            self.below = _SIZE / 2 + _LINE * bool(self.gradient)

    def boxes(self) -> Iterator[Bbox]:
        """The outline, the value and the gradient."""
        for text, y, height in (
            (self.name, self.y - _SIZE / 2, _SIZE),
            (self.value, self.y + _SIZE / 2, _LINE),
            (self.gradient, self.y - _SIZE / 2 - _LINE, _LINE),
        ):
            width = self.width if text is self.name else style.text_width(text)
            if text:
                yield Bbox.from_bounds(self.x - width / 2, y, width, height)


class _Edge:
    """An arrow from an input to an operation, by way of the places that it passes."""

    def __init__(self, places: list[_Place], local: Any, bend: float) -> None:
        self.places = places
        self.text = "" if local is None else _number(local)
        self.bend = bend
        for one, other in itertools.pairwise(places):
            one.after.append(other)
            other.before.append(one)

    def curves(self) -> list[np.ndarray]:
        """Cubic Bezier curves [4, 2], one from each place to the next."""
        points = [np.array([place.x, place.y]) for place in self.places]
        head = self.places[-1]
        arriving = head.before[::-1] if head.ordered else sorted(head.before, key=lambda place: place.y)
        same = self.places[-2] if self.bend == 0 else None
        port = (arriving.index(same) if same else (self.bend > 0)) - (len(arriving) - 1) / 2
        rise = 7 * port
        points[0] = points[0] + (self.places[0].width / 2, 0)
        inset = _SIZE / 2 - np.sqrt((_SIZE / 2) ** 2 - rise**2)
        points[-1] = points[-1] + (inset - head.width / 2, rise)
        slopes = [(end[1] - start[1]) / (end[0] - start[0]) for start, end in itertools.pairwise(points)]
        # Level at both ends, and where the edge turns; else the harmonic mean, which keeps a curve from overshooting.
        inner = [2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in itertools.pairwise(slopes)]
        curves = []
        for (start, end), (leaving, entering) in zip(
            itertools.pairwise(points), itertools.pairwise([0.0, *inner, 0.0]), strict=True
        ):
            reach = (end[0] - start[0]) / (2 if leaving == entering == 0 else 3)
            first = start + np.array([reach, reach * leaving + self.bend])
            last = end - np.array([reach, reach * entering - self.bend])
            curves.append(np.array([start, first, last, end]))
        return curves


def _number(value: Any) -> str:
    return style.number(float(value) + 0.0)  # no minus zero


def _width(layer: list[_Place]) -> float:
    return max(max(place.width, *map(style.text_width, (place.value, place.gradient))) for place in layer)


def _connect(nodes: Sequence[Node]) -> tuple[Layers, list[_Edge]]:
    """Places in layers, so that every edge leads to a later one, each as late as those that take it allow."""
    if not nodes:
        raise InputError("the graph has 0 nodes; expected at least one")
    depth: list[int] = []
    for i, node in enumerate(nodes):
        if not all(0 <= j < i for j in node.inputs):
            expected = f"places from 0 to {i - 1}" if i else "none"
            raise InputError(f"node {i} has inputs {tuple(node.inputs)}; expected {expected}")
        depth.append(1 + max((depth[j] for j in node.inputs), default=-1))
    for i in reversed(range(len(nodes))):
        depth[i] = min((depth[k] - 1 for k in range(i, len(nodes)) if i in nodes[k].inputs), default=depth[i])
    places = [_Place(node, layer) for node, layer in zip(nodes, depth, strict=True)]
    layers: Layers = [[] for _ in range(max(depth) + 1)]
    edges: list[_Edge] = []
    seen: set[int] = set()

    def visit(i: int) -> None:
        """Depth first from the result, inputs in their order: a tree comes out with no edge across another."""
        seen.add(i)
        layers[depth[i]].append(places[i])
        for slot, (j, local) in enumerate(zip(nodes[i].inputs, nodes[i].local, strict=True)):
            bends = [_Place(None, layer) for layer in range(depth[j] + 1, depth[i])]
            twice = not bends and list(nodes[i].inputs).count(j) > 1
            edges.append(_Edge([places[j], *bends, places[i]], local, (4.0, -4.0)[slot % 2] if twice else 0.0))
            for bend in bends:
                layers[bend.layer].append(bend)
            if j not in seen:
                visit(j)

    for i in reversed(range(len(nodes))):
        if i not in seen:
            visit(i)
    return layers, edges


def _order(layers: Layers) -> None:
    """Sorts the layers from top to bottom so that few edges cross, by the mean place of each place's neighbours."""

    def crossings() -> int:
        count = 0
        for layer, following in itertools.pairwise(layers):
            rank = {id(place): i for i, place in enumerate(following)}
            ends = [(i, rank[id(after)]) for i, place in enumerate(layer) for after in place.after]
            count += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(ends, 2))
        return count

    best, fewest = [list(layer) for layer in layers], crossings()
    for sweep in range(12):
        forward = sweep % 2
        for layer, beside in itertools.pairwise(layers if forward else reversed(layers)):
            rank = {id(place): i for i, place in enumerate(layer)}
            own = {id(place): i for i, place in enumerate(beside)}

            def middle(place: _Place, rank: dict[int, int] = rank, own: dict[int, int] = own, forward: int = forward):
                return np.mean([rank[id(p)] for p in (place.before if forward else place.after)] or own[id(place)])

            beside.sort(key=middle)
        if crossings() < fewest:
            best, fewest = [list(layer) for layer in layers], crossings()
    layers[:] = best


def _gaps(layers: Layers, edges: list[_Edge]) -> list[float]:
    """From the middle of each layer to that of the next, at least."""
    gaps = []
    for i, (layer, following) in enumerate(itertools.pairwise(layers)):
        numbers = [style.text_width(edge.text) for edge in edges if edge.places[-1].layer == i + 1]
        outlines = sum(max(place.width for place in places) for places in (layer, following)) / 2
        texts = (_width(layer) + _width(following)) / 2 + 3
        gaps.append(max(outlines + max(numbers, default=0) + 2 * _ARROW, texts))
    return gaps


def _spread(layers: Layers, stretch: float) -> None:
    """Heights: every place as near to the mean of its neighbours as those above and below it allow."""
    for layer in layers:
        for place in layer:
            place.y = 0.0
    for sweep in range(60):
        for layer in layers if sweep % 2 else reversed(layers):
            room = [upper.below + _GAP * stretch + lower.above for upper, lower in itertools.pairwise(layer)]
            depth = np.cumsum([0.0, *room])
            wanted = [-_middle(place) for place in layer]
            for place, y in zip(layer, _rising(wanted - depth, [place.weight for place in layer]) + depth, strict=True):
                place.y = -float(y)


def _middle(place: _Place) -> float:
    beside = place.before + place.after
    return float(np.average([p.y for p in beside], weights=[p.weight for p in beside])) if beside else place.y


def _rising(values: np.ndarray, weights: list[float]) -> np.ndarray:
    """The nearest sequence, by weighted squares, that never falls: neighbours in the wrong order share their mean."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight and length
    for value, weight in zip(values, weights, strict=True):
        mean, length = value, 1
        while blocks and blocks[-1][0] > mean:
            other, more, count = blocks.pop()
            mean, weight, length = (mean * weight + other * more) / (weight + more), weight + more, length + count
        blocks.append((mean, weight, length))
    return np.concatenate([[mean] * length for mean, _, length in blocks])


def _label(edges: list[_Edge], layers: Layers) -> tuple[list[tuple[_Edge, Bbox]], bool]:
    """Where on its edge each number stands, and whether all of them are clear of all other text."""
    taken = [box for layer in layers for place in layer for box in place.boxes()]
    lines = {
        id(edge): np.concatenate([_points(curve, np.linspace(0, 1, 25)) for curve in edge.curves()]) for edge in edges
    }
    labels, clear = [], True
    for edge in edges:
        if not edge.text:
            continue
        others = np.concatenate([np.zeros((0, 2)), *(line for key, line in lines.items() if key != id(edge))])
        width, height = style.text_width(edge.text) + 3, style.SMALL + 2

        def boxed(point: np.ndarray, width: float = width, height: float = height) -> Bbox:
            return Bbox.from_bounds(point[0] - width / 2, point[1] - height / 2, width, height)

        def faults(box: Bbox, others: np.ndarray = others) -> tuple[int, int]:
            return box.count_overlaps(taken), int(sum(box.contains(*point) for point in others))

        shares = np.array([0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68])
        boxes = [boxed(point) for curve in reversed(edge.curves()) for point in _points(curve, shares)]
        best = min(boxes, key=faults)
        clear = clear and not best.count_overlaps(taken)
        labels.append((edge, best))
        taken.append(best)
    return labels, clear


def _points(curve: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Points [N, 2] of a Bezier curve at the shares [N] of its way."""
    t = shares.reshape(-1, 1)
    return np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]) @ curve


def _draw(layers: Layers, edges: list[_Edge], labels: list[tuple[_Edge, Bbox]]) -> Figure:
    places = [place for layer in layers for place in layer]
    drawn = [box for place in places for box in place.boxes()] + [box for _, box in labels]
    drawn += [Bbox([curve.min(0), curve.max(0)]) for edge in edges for curve in edge.curves()]
    extent = Bbox.union(drawn)
    width = max(style.COLUMN / style.POINT, extent.width + 2 * _MARGIN)
    lines = _wrapped(width - 2 * _MARGIN)
    height = extent.height + 2 * _MARGIN + len(lines) * 1.2 * _LINE
    left = extent.x0 + extent.width / 2 - width / 2
    figure = style.StyledFigure(figsize=(width * style.POINT, height * style.POINT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(left, left + width), ylim=(extent.y0 - _MARGIN, extent.y0 - _MARGIN + height))
    for edge in edges:
        _arrow(axes, edge)
    for edge, box in labels:
        middle = (box.x0 + box.width / 2, box.y0 + box.height / 2)
        patch = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        axes.annotate(edge.text, middle, ha="center", va="center_baseline", size=style.SMALL, color=_LOCAL, bbox=patch)
    for place in places:
        if place.node is not None:
            _node(axes, place)
    for row, line in enumerate(lines):
        x = left + _MARGIN
        for text, color in line:
            y = extent.y0 - 2 * _MARGIN + height - row * 1.2 * _LINE
            axes.text(x, y, text, va="top", size=style.SMALL, color=color)
            x += style.text_width(text) + 12
    return figure


def _wrapped(room: float) -> list[list[tuple[str, str]]]:
    lines: list[list[tuple[str, str]]] = [[]]
    for entry in _LEGEND:
        if sum(style.text_width(text) + 12 for text, _ in [*lines[-1], entry]) - 12 > room:
            lines.append([])
        lines[-1].append(entry)
    return lines


def _arrow(axes: Axes, edge: _Edge) -> None:
    curves = edge.curves()
    vertices = np.concatenate([curves[0][:1], *(curve[1:] for curve in curves)])
    path = Path(vertices, [Path.MOVETO] + [Path.CURVE4] * (len(vertices) - 1))
    look = {"arrowstyle": "-|>", "mutation_scale": 6, "linewidth": 0.7, "color": "0.55"}
    axes.add_patch(FancyArrowPatch(path=path, zorder=1, **look))


def _node(axes: Axes, place: _Place) -> None:
    operation, constant = (place.node is not None and place.node.kind == kind for kind in ("operation", "constant"))
    look: dict[str, Any] = {
        "facecolor": "white" if operation else "0.93",
        "edgecolor": "none" if constant else "black",
        "linewidth": 0.8,
        "zorder": 2,
    }
    if operation and place.width == _SIZE:
        axes.add_patch(Circle((place.x, place.y), _SIZE / 2, **look))
    else:
        corner = (place.x - place.width / 2, place.y - _SIZE / 2)
        boxstyle = f"round,pad=0,rounding_size={_SIZE / 2 if operation else 3}"
        axes.add_patch(FancyBboxPatch(corner, place.width, _SIZE, boxstyle=boxstyle, **look))
    texts = {"ha": "center", "va": "center_baseline", "zorder": 4}
    axes.text(place.x, place.y, place.name, size=style.MEDIUM, **texts)
    above = place.y + _SIZE / 2 + _LINE / 2
    axes.text(place.x, above, place.value, size=style.SMALL, color=_VALUE, **texts)
    below = place.y - _SIZE / 2 - _LINE / 2
    axes.text(place.x, below, place.gradient, size=style.SMALL, color=_GRADIENT, **texts)
