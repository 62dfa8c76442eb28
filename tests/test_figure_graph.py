"""The figure of a computation graph: every number at its place, every text legible, equal bytes each time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.nn import sigmoid
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from test_figures import check_legible, drawn, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.graph import draw
from jaxcnn.ops.graph import trace

LEGEND = ["above: value", "below: ∂ gradient", "edge: local derivative"]


@dataclass
class Node:
    name: str
    kind: str = "operation"
    inputs: tuple[int, ...] = ()
    value: float = 0.25
    local: tuple[float | None, ...] = ()
    gradient: float | None = -0.125


@dataclass
class Graph:
    nodes: list[Node] = field(default_factory=list)


def logistic_loss(x, w, b, y):
    s = sigmoid(x * w + b)
    return -y * jnp.log(s) - (1 - y) * jnp.log(1 - s)


def neuron(w0, x0, w1, x1, w2):
    return 1 / (1 + jnp.exp(-(w0 * x0 + w1 * x1 + w2)))


def hidden(x1, x2, w1, w2, w3, w4, v1, v2, y):
    return jnp.square(v1 * jnp.tanh(w1 * x1 + w2 * x2) + v2 * jnp.tanh(w3 * x1 + w4 * x2) - y)


def shared(x, y):
    s = jnp.sin(x * y)
    t = s * s + x
    return t * jnp.exp(-s) / (1 + t**2) + jnp.maximum(s, 0) * jnp.log1p(y**2)


def steep(x):
    return jnp.exp(1e4 * x) * -1.5e-7


SAMPLES = {
    "logistic loss": (logistic_loss, 1.2, 0.5, -0.6, 1.0),
    "sum times factor": (lambda x, y, z: (x + y) * z, -2.0, 5.0, -4.0),
    "neuron": (neuron, 2.0, -1.0, -3.0, -2.0, -3.0),
    "hidden layer": (hidden, 1.0, 2.0, 0.5, -0.25, 0.3, 0.1, 2.0, -1.0, 0.5),
    "shared": (shared, 0.7, -1.3),
    "square": (lambda x: x * x, 3.0),
    "input alone": (lambda x: x, 3.0),
    "unused input": (lambda x, y: jnp.exp(x), 3.0, 4.0),
    "large and small": (steep, 2e-3),
    "long name": (lambda learning_rate_of_the_whole_network: -learning_rate_of_the_whole_network, 0.1),
}


def picture(name: str):
    return draw(trace(SAMPLES[name][0], *SAMPLES[name][1:]))


def middle(box) -> np.ndarray:
    return np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2


def ends(figure) -> list[np.ndarray]:
    """The two ends [2, 2] of every arrow's shaft."""
    paths = [patch.get_path() for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    return [path.vertices[[0, np.flatnonzero(path.codes == path.CURVE4)[-1]]] for path in paths]


def check_drawing(figure, nodes) -> None:
    """Legible; every name inside its outline, the value above it, the gradient below; a number on each edge."""
    check_legible(figure)
    texts = drawn(figure)
    outlines = [p for p in figure.axes[0].patches if isinstance(p, Circle | FancyBboxPatch)]
    edges = [p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]
    assert len(outlines) == len(nodes)
    assert len(edges) == sum(len(node.inputs) for node in nodes)
    boxes = [outline.get_window_extent() for outline in outlines]
    for text in texts[:]:
        here = [box for box in boxes if box.overlaps(text.get_window_extent().padded(-2.5))]
        if here:  # no text touches an outline but the name in it
            assert len(here) == 1
            assert here[0].contains(*middle(text.get_window_extent()))
            texts.remove(text)
    for i, one in enumerate(boxes):
        assert one.count_overlaps(boxes[:i]) == 0

    def said(condition) -> list[str]:
        return sorted(text.get_text() for text in texts if condition(to_hex(text.get_color()), text))

    numbers = {
        style.COLORS[0]: ([node.value for node in nodes if node.kind != "constant"], ""),
        style.COLORS[1]: ([node.gradient for node in nodes if node.gradient is not None], "∂ "),
        "#333333": ([local for node in nodes for local in node.local if local is not None], ""),
    }
    for color, (values, sign) in numbers.items():
        expected = [sign + style.number(float(v) + 0.0) for v in values]
        actual = said(lambda c, text, color=color: c == color.lower() and text.get_text() not in LEGEND)
        assert actual == sorted(expected)
    for text in texts:
        color, at = to_hex(text.get_color()), middle(text.get_window_extent())
        if color in (style.COLORS[0].lower(), style.COLORS[1].lower()) and ":" not in text.get_text():
            nearest = min((middle(box) for box in boxes), key=lambda m, at=at: np.hypot(*(m - at)))
            assert nearest[0] == pytest.approx(at[0], abs=2)
            assert (at[1] > nearest[1]) == (color == style.COLORS[0].lower())


@pytest.mark.parametrize("name", SAMPLES)
def test_every_number_is_legible_at_its_place(name):
    figure = picture(name)
    check_drawing(figure, trace(SAMPLES[name][0], *SAMPLES[name][1:]).nodes)
    assert style.COLUMN - 1e-6 <= figure.get_figwidth() <= style.PAGE + 1e-6


def test_the_logistic_loss_shows_the_lectures_numbers():
    said = words(picture("logistic loss"))
    assert {"x", "w", "b", "y", "σ", "log", "neg", "×", "+", "−"} <= set(said)  # noqa: RUF001
    assert {"1.2", "0.5", "−0.6", "0.693", "0.25", "∂ −0.5", "∂ −0.6", "∂ −0.25", "∂ −2", "∂ 1", "∂ 0"} <= set(said)  # noqa: RUF001
    assert not {"−0", "∂ −0"} & set(said)  # noqa: RUF001
    assert set(LEGEND) <= set(said)


def test_data_flow_from_left_to_right():
    figure = picture("logistic loss")
    assert len(ends(figure)) == 18
    for start, end in ends(figure):
        assert start[0] < end[0]
    names = {text.get_text(): middle(text.get_window_extent())[0] for text in drawn(figure)}
    assert names["x"] < names["+"] < names["σ"]  # noqa: RUF001
    assert names["b"] < names["+"]


def operands(figure, name: str) -> set[tuple[str, ...]]:
    """The names of what the operations of one name take, from the upper arrow to the lower."""
    texts = {text.get_position(): text.get_text() for text in drawn(figure)}
    found = set()
    for at, text in texts.items():
        arrows = [(start, end) for start, end in ends(figure) if np.hypot(*(end - at)) < 12]
        if text == name and arrows:
            starts = [start for start, _ in sorted(arrows, key=lambda arrow: -arrow[1][1])]
            before = [[p for p in texts if abs(p[1] - y) < 0.01 and p[0] < x] for x, y in starts]
            found.add(tuple(texts[max(positions)] for positions in before))
    return found


@pytest.mark.slow
def test_the_first_operand_arrives_above_the_second_where_they_are_not_alike():
    assert operands(picture("logistic loss"), "−") == {("1", "σ"), ("1", "y"), ("×", "×")}  # noqa: RUF001
    assert operands(picture("shared"), "/") == {("×", "+")}  # noqa: RUF001


@pytest.mark.parametrize("name", ["−", "/", "^"])  # noqa: RUF001
@pytest.mark.parametrize("inputs", [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)])
def test_the_order_of_operands_is_drawn_wherever_they_stand(name, inputs):
    """The second of three is an input, the third an operation that another operation takes too."""
    nodes = [Node("x", "input"), Node("y", "input"), Node("exp", inputs=(0,), local=(1.0,))]
    nodes += [Node("log", inputs=(2,), local=(1.0,)), Node(name, inputs=inputs, local=(1.0, 1.0))]
    nodes.append(Node("+", inputs=(3, 4), local=(1.0, 1.0)))
    figure = draw(Graph(nodes))
    check_drawing(figure, nodes)
    assert operands(figure, name) == {tuple(nodes[i].name for i in inputs)}


@st.composite
def graphs(draw_: st.DrawFn) -> Graph:
    """Expressions as they are written: each new operation takes the latest value, and now and then an older one."""
    nodes = [Node(f"x{i}", "input") for i in range(draw_(st.integers(1, 4)))]
    for _ in range(draw_(st.integers(0, 8))):
        other = draw_(st.sampled_from(["none", "new", "constant", "old"]))
        last = len(nodes) - 1
        inputs = (last,)
        if other == "old":
            inputs = (last, draw_(st.integers(0, last)))
        elif other != "none":
            nodes.append(Node("2.5", "constant", gradient=None) if other == "constant" else Node("w", "input"))
            inputs = (last, last + 1)
        local = tuple(None if nodes[i].kind == "constant" else -0.333 for i in inputs)
        nodes.append(Node(draw_(st.sampled_from(["+", "arctan"])), "operation", inputs, local=local))
    return Graph(nodes)


@settings(deadline=None, max_examples=6)
@given(graphs())
def test_graphs_of_up_to_twenty_nodes_are_legible(graph: Graph):
    check_drawing(draw(graph), graph.nodes)


def test_a_chain_grows_beyond_the_page_rather_than_into_itself():
    nodes = [Node("x", "input")] + [Node("arctan", inputs=(i,), local=(-0.333,)) for i in range(15)]
    figure = draw(Graph(nodes))
    check_drawing(figure, nodes)
    assert figure.get_figwidth() > style.PAGE


def test_trees_have_no_edge_across_another():
    """A balanced tree of 15 nodes, its leaves given in the worst order: edges between two layers keep their order."""
    leaves = [Node(f"x{i}", "input") for i in range(8)]
    pairs = [Node("+", inputs=(i, 7 - i), local=(1, 1)) for i in range(4)]
    pairs += [Node("+", inputs=(8, 10), local=(1, 1)), Node("+", inputs=(9, 11), local=(1, 1))]
    nodes = [*leaves, *pairs, Node("+", inputs=(12, 13), local=(1, 1))]
    figure = draw(Graph(nodes))
    check_drawing(figure, nodes)
    for one in ends(figure):
        for other in ends(figure):
            if round(one[0][0]) == round(other[0][0]) and one[0][1] < other[0][1]:
                assert one[1][1] < other[1][1]


def test_only_one_edge_crosses_another_where_a_planar_drawing_would_need_other_layers():
    arrows = [patch.get_path() for patch in picture("shared").axes[0].patches if isinstance(patch, FancyArrowPatch)]
    shafts = [path.to_polygons(closed_only=False)[0] for path in arrows]
    crossing = 0
    for one, other in itertools.combinations(shafts, 2):
        if np.abs(one[0] - other[0]).max() > 3:  # not of the same node
            crossing += Path(one).intersects_path(Path(other), filled=False)
    assert crossing == 1


@pytest.mark.slow
def test_drawing_twice_gives_equal_bytes(tmp_path):
    files = [style.save(picture("shared"), tmp_path / name) for name in ("a", "b")]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_any_object_with_such_nodes_is_drawn():
    node = SimpleNamespace(name="x", kind="input", inputs=(), value=np.float32(2), local=(), gradient=np.ones(()))
    check_drawing(draw(SimpleNamespace(nodes=(node,))), [node])


def test_what_is_no_graph_is_refused():
    with pytest.raises(InputError, match="0 nodes; expected at least one"):
        draw(Graph())
    with pytest.raises(InputError, match=r"node 1 has inputs \(1,\); expected places from 0 to 0"):
        draw(Graph([Node("x", "input"), Node("exp", inputs=(1,), local=(1.0,))]))
    with pytest.raises(InputError, match=r"node 0 has inputs \(2,\); expected none"):
        draw(Graph([Node("exp", inputs=(2,), local=(1.0,))]))
