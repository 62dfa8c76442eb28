"""The computation graph of a scalar function: values forward, local derivatives at every node, gradients backward."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.scipy.special import xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcnn.errors import InputError


class Rule(NamedTuple):
    """What a node shows of one operation.

    Attributes:
      symbol: the operation's name; braces hold an option.
      local: from the inputs, the derivative with respect to each of them.
      options: parameters of the operation that `symbol` and `local` take too.
      function: for an operation that jax composes of others, the function that stands for all of them.
    """

    symbol: str
    local: Callable[..., tuple[Any, ...]]
    options: tuple[str, ...] = ()
    function: Callable[..., Array] | None = None


RULES: dict[str, Rule] = {
    "add": Rule("+", lambda x, y: (1, 1)),
    "sub": Rule("−", lambda x, y: (1, -1)),  # noqa: RUF001
    "mul": Rule("×", lambda x, y: (y, x)),  # noqa: RUF001
    "div": Rule("/", lambda x, y: (1 / y, -x / y**2)),
    "neg": Rule("neg", lambda x: (-1,)),
    "abs": Rule("abs", lambda x: (jnp.sign(x),)),
    "max": Rule("max", lambda x, y: (_share(x > y, x == y), _share(y > x, x == y))),
    "min": Rule("min", lambda x, y: (_share(x < y, x == y), _share(y < x, x == y))),
    "square": Rule("^2", lambda x: (2 * x,)),
    "integer_pow": Rule("^{y}", lambda x, y: (y * x ** (y - 1),), options=("y",)),
    "pow": Rule("^", lambda x, y: (y * x ** (y - 1), xlogy(x**y, x))),
    "sqrt": Rule("sqrt", lambda x: (1 / (2 * jnp.sqrt(x)),)),
    "rsqrt": Rule("1/sqrt", lambda x: (-1 / (2 * x * jnp.sqrt(x)),)),
    "exp": Rule("exp", lambda x: (jnp.exp(x),)),
    "expm1": Rule("expm1", lambda x: (jnp.exp(x),)),
    "log": Rule("log", lambda x: (1 / x,)),
    "log1p": Rule("log1p", lambda x: (1 / (1 + x),)),
    "logistic": Rule("σ", lambda x: (_sigmoid(x) * (1 - _sigmoid(x)),)),  # noqa: RUF001
    "sin": Rule("sin", lambda x: (jnp.cos(x),)),
    "cos": Rule("cos", lambda x: (-jnp.sin(x),)),
    "tan": Rule("tan", lambda x: (1 / jnp.cos(x) ** 2,)),
    "atan": Rule("arctan", lambda x: (1 / (1 + x**2),)),
    "sinh": Rule("sinh", lambda x: (jnp.cosh(x),)),
    "cosh": Rule("cosh", lambda x: (jnp.sinh(x),)),
    "tanh": Rule("tanh", lambda x: (1 - jnp.tanh(x) ** 2,)),
    "erf": Rule("erf", lambda x: (2 / jnp.sqrt(jnp.pi) * jnp.exp(-(x**2)),)),
    "stop_gradient": Rule("stop", lambda x: (0,)),
    "relu": Rule("ReLU", lambda x: (x > 0,), function=jax.nn.relu),
    "logaddexp": Rule(
        "logaddexp", lambda x, y: (_sigmoid(x - y), _sigmoid(y - x)), function=lambda x, y: jnp.logaddexp(x, y)
    ),
}
"""The derivative of every operation that a graph may hold, by the name of jax's primitive."""


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + jnp.exp(-x))


def _share(wins: Array, ties: Array) -> Array:
    """The derivative of max or min: all to the one that is taken, half to each of two equals."""
    return jnp.where(ties, 0.5, wins)


class Node(NamedTuple):
    """A value of the computation.

    Attributes:
      name: the parameter's name, the constant's number or the operation's symbol.
      kind: what the node is.
      inputs: places in the graph's nodes of an operation's inputs, all of them earlier; one may occur twice.
      value: from the forward pass.
      local: derivative of the value with respect to each of the inputs; None for constants.
      gradient: derivative of the graph's output with respect to this value, from the backward pass; None for constants.
    """

    name: str
    kind: Literal["input", "constant", "operation"]
    inputs: tuple[int, ...]
    value: Float[Array, ""]
    local: tuple[Float[Array, ""] | None, ...] = ()
    gradient: Float[Array, ""] | None = None


class Row(NamedTuple):
    """A line of the written walk.

    Attributes:
      label: the name of an input; v1, v2, ... of operations.
      expression: an operation in terms of its inputs' labels; empty for an input.
      value: from the forward pass.
      chain: the chain rule that gives the gradient, in terms of labels, L being the output.
      gradient: dL/dlabel.
    """

    label: str
    expression: str
    value: float
    chain: str
    gradient: float


@dataclass(frozen=True)
class Graph:
    """A scalar function at one point, as `trace` makes it; printed, it is the walk forward and backward.

    Attributes:
      nodes: inputs first, then constants and operations, each after its inputs.
      output: the place of the function's value in `nodes`.
    """

    nodes: tuple[Node, ...]
    output: int

    @property
    def gradients(self) -> dict[str, Float[Array, ""]]:
        """The derivative of the output with respect to every input, by name."""
        return {node.name: node.gradient for node in self.nodes if node.kind == "input" and node.gradient is not None}

    @property
    def rows(self) -> tuple[Row, ...]:
        """The inputs and operations in the order of the forward pass."""
        labels = self._labels()
        chains: list[list[str]] = [[] for _ in self.nodes]
        for label, node in zip(labels, self.nodes, strict=True):
            for source, local in zip(node.inputs, node.local, strict=True):
                chains[source].append(f"dL/d{label} · {local:.6g}" if local is not None else "")
        chains[self.output].insert(0, "1")
        return tuple(
            Row(label, _expression(node, labels), float(node.value), " + ".join(chain) or "0", float(node.gradient))
            for label, node, chain in zip(labels, self.nodes, chains, strict=True)
            if node.gradient is not None
        )

    def __str__(self) -> str:
        """The values from the inputs to the output, then the gradients from the output to the inputs."""
        forward = [" = ".join(filter(None, (row.label, row.expression, f"{row.value + 0.0:.6g}"))) for row in self.rows]
        chains = [(f"dL/d{row.label}", row.chain, f"{row.gradient + 0.0:.6g}") for row in reversed(self.rows)]
        backward = [" = ".join(dict.fromkeys(chain)) for chain in chains]  # once, where the chain is but a number
        return "\n  ".join(["forward", *forward]) + "\n" + "\n  ".join(["backward", *backward])

    def _labels(self) -> list[str]:
        taken = {node.name for node in self.nodes}
        free = (label for label in map("v{}".format, itertools.count(1)) if label not in taken)
        return [next(free) if node.kind == "operation" else node.name for node in self.nodes]


def _expression(node: Node, labels: list[str]) -> str:
    inputs = [labels[i] for i in node.inputs]
    if node.name in _INFIX:
        return f" {node.name} ".join(inputs)
    if node.name.startswith("^"):
        return inputs[0] + node.name
    return f"{node.name}({', '.join(inputs)})" if inputs else ""


_INFIX = {RULES[name].symbol for name in ("add", "sub", "mul", "div", "pow")}


def trace(function: Callable[..., Array], *values: ArrayLike) -> Graph:
    """Every operation of a scalar function at the given values, with its local derivatives and its gradient.

    forward:  z = f(x, y) at every node, in the order of execution
    backward: dL/dL = 1;  dL/dx = sum over the nodes z that take x of dL/dz dz/dx, in the opposite order

    Functions that are called, and what `jax.jit` compiled, are opened up to the operations of `RULES`. A derivative is
    that of these operations: one that a function defines for itself is not asked for. Numbers are of jax's default
    floating-point type.

    Args:
      function: of scalars, all of them positional; its value is a scalar that jax computes.
      values: one number for each parameter, which gives the node its name.

    Returns:
      The graph, walked in both directions.

    Raises:
      InputError: an argument, an intermediate value or the result is no scalar, or an operation has no rule.

    Examples:
      >>> graph = trace(lambda x, w: x * w, 3.0, 2.0)
      >>> float(graph.gradients["w"])
      3.0

    Reference: Baydin et al., "Automatic differentiation in machine learning: a survey", 2018, section 3.2.
    """
    nodes = []
    for name, value in zip(_names(function, values), values, strict=True):
        if np.shape(value):
            raise InputError(f"{name} has shape {np.shape(value)}; expected a scalar")
        nodes.append(Node(name, "input", (), jnp.asarray(value, float)))
    closed = jax.make_jaxpr(function)(*(node.value for node in nodes))
    shapes = [aval.shape for aval in closed.out_avals]
    if shapes != [()]:
        raise InputError(f"the function's result has shape {', '.join(map(str, shapes))}; expected one scalar")
    (output,) = _forward(closed, list(range(len(nodes))), nodes)
    return Graph(tuple(_backward(nodes, output)), output)


def _names(function: Callable[..., Array], values: tuple[Any, ...]) -> list[str]:
    names = []
    for name, given in inspect.signature(function).bind(*values).arguments.items():
        several = inspect.signature(function).parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}{i}" for i in range(len(given))] if several else [name]
    return names


_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"}
_UNCHANGED = {"convert_element_type", "copy", "copy_p", "reduce_sum", "reshape", "squeeze", "broadcast_in_dim"}


def _forward(closed: Any, inputs: list[int], nodes: list[Node]) -> list[int]:
    """Appends the operations of a jaxpr whose inputs are the given nodes; returns the places of its results."""
    jaxpr = getattr(closed, "jaxpr", closed)
    place = dict(zip(jaxpr.invars, inputs, strict=True))
    place.update({v: _constant(c, nodes) for v, c in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True)})

    def read(atom: Any) -> int:
        return _constant(atom.val, nodes) if isinstance(atom, core.Literal) else place[atom]

    for equation in jaxpr.eqns:
        name = equation.primitive.name
        for variable in equation.outvars:
            if variable.aval.shape:
                raise InputError(f"{name} gives an array of shape {variable.aval.shape}; expected scalars throughout")
        arguments = [read(atom) for atom in equation.invars]
        dtype = equation.outvars[0].aval.dtype
        floating = jnp.issubdtype(dtype, jnp.floating)
        rule = _rule(equation) if floating else None  # a rule's derivative is that of the operation on real numbers
        if rule is not None:
            results = [_operation(rule, equation, arguments, nodes)]
        elif name in _CALLS:
            inner = equation.params.get("call_jaxpr", equation.params.get("jaxpr"))
            results = _forward(inner, arguments, nodes)
        elif name in _UNCHANGED and (floating or name != "convert_element_type"):
            results = arguments
        else:
            raise InputError(f"the graph has no rule for {name!r} giving {dtype}; known: {', '.join(sorted(RULES))}")
        place.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _constant(value: Any, nodes: list[Node]) -> int:
    if np.shape(value):
        raise InputError(f"a constant has shape {np.shape(value)}; expected a scalar")
    nodes.append(Node(f"{float(value):.4g}".replace("-", "−"), "constant", (), jnp.asarray(value, float)))  # noqa: RUF001
    return len(nodes) - 1


def _rule(equation: Any) -> Rule | None:
    if equation.primitive.name != "custom_jvp_call":
        return RULES.get(equation.primitive.name)
    return next((rule for rule in RULES.values() if rule.function and _computes(equation, rule.function)), None)


def _computes(equation: Any, function: Callable[..., Array]) -> bool:
    """Whether a call is one of the function; its name would not tell, for anyone may call a function relu."""
    arguments = [atom.aval for atom in equation.invars]
    if len(inspect.signature(function).parameters) != len(arguments):
        return False
    (expected,) = jax.make_jaxpr(function)(*arguments).eqns
    return str(expected.params["call_jaxpr"]) == str(equation.params["call_jaxpr"])


def _operation(rule: Rule, equation: Any, inputs: list[int], nodes: list[Node]) -> int:
    values = [nodes[i].value for i in inputs]
    options = {name: equation.params[name] for name in rule.options}
    value = rule.function(*values) if rule.function else equation.primitive.bind(*values, **equation.params)
    derivatives = [jnp.asarray(local, value.dtype) for local in rule.local(*values, **options)]
    local = tuple(None if nodes[i].kind == "constant" else d for i, d in zip(inputs, derivatives, strict=True))
    name = rule.symbol.format(**options).replace("-", "−")  # noqa: RUF001
    nodes.append(Node(name, "operation", tuple(inputs), value, local))
    return len(nodes) - 1


def _backward(nodes: list[Node], output: int) -> Iterator[Node]:
    """The nodes with the gradients of the output."""
    gradients = [jnp.zeros_like(node.value) for node in nodes]
    gradients[output] = jnp.ones_like(nodes[output].value)
    for i in reversed(range(len(nodes))):
        for source, local in zip(nodes[i].inputs, nodes[i].local, strict=True):
            if local is not None:
                gradients[source] += gradients[i] * local
    for node, gradient in zip(nodes, gradients, strict=True):
        yield node._replace(gradient=None if node.kind == "constant" else gradient)
