"""Layer-wise relevance propagation: the score, handed back layer by layer in proportion to what each input added.

A unit z = sum_i z_i, z_i = w_i a_i, hands its relevance R to its inputs as R_i = R z_i / z. So no rule is needed for
each kind of layer. A network is functions that are affine in what came before, whatever they are called, and between
them functions of single units that hand R on as it is. Where s = R / z, the R_i are a_i times the gradient of z with
respect to a_i, times s: between two functions of single units, ordinary differentiation carries s back. Here the
network's computation is therefore run again with other backward rules at the functions of single units: they turn s
at their output into R, and R into s at their input. Batch norm and the standardisation of the image are folded into
the convolution beside them by this, and additions, as of a shortcut, share in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.activations import unrolled
from jaxcnn.analysis.attribution import Method, Score, Targets, ask, finish, logits
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.max_pooling import faster
from jaxcnn.analysis.rewriting import bind, run
from jaxcnn.errors import InputError
from jaxcnn.state import State


def lrp(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    epsilon: float = 1e-6,
    gamma: float = 0.0,
) -> Float[Array, "n h w c"]:
    """The relevance of every pixel for the score, which is handed back from layer to layer.

    R_i = sum_j v_ij R_j / (v_j + epsilon sign v_j), v_ij = z_ij + gamma max(0, z_ij), z_ij = a_i w_ij, v_j = sum_i v_ij

    v_j counts the bias among the inputs, and its share is lost. Max pooling hands all to the maximum. With ReLUs,
    gamma 0 and epsilon towards 0 this is the gradient times the pixel; a greater gamma gives fewer opposing signs.

    Args:
      model: see `saliency.gradient`, as all arguments but the last two.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused.
      chunk: images evaluated at once.
      epsilon: what keeps small sums from dividing, in the units' own unit, at least 0.
      gamma: by how much what speaks for a unit counts more than what speaks against it, at least 0.

    Returns:
      R, signed, in logits. Without biases and with epsilon 0, the sum over the image is the score.

    Raises:
      InputError, RunError: see `saliency.gradient`; or epsilon or gamma is negative, or the network computes something
        for which there is no rule, such as the product of two activations.

    Reference: Bach, Binder, Montavon, Klauschen, Mueller & Samek 2015, "On Pixel-Wise Explanations for Non-Linear
    Classifier Decisions"; the rules as in Montavon, Binder, Lapuschkin, Samek & Mueller 2019, "Layer-Wise Relevance
    Propagation: An Overview".
    """
    if not (epsilon >= 0 and gamma >= 0):
        raise InputError(f"epsilon is {epsilon} and gamma {gamma}; expected numbers of at least 0")
    question = ask(model, state, images, targets, key=key, chunk=chunk)
    relevance = partial(_relevance, question.network, gamma > 0, (epsilon, gamma), question.variables)
    return finish(question.map(relevance))


class _Stream(NamedTuple):
    """An array that depends on the image.

    Attributes:
      value: the array.
      positive: what its positive contributions alone add up to, since the last function of single units; None where
        they do not count more than the others.
      gate: whether it only scales others, as the denominator of a normalisation.
      sources: the arrays of which it is a function unit by unit, the last one first.
    """

    value: Any
    positive: Any
    gate: bool = False
    sources: tuple[Any, ...] = ()

    def scales(self, other: _Stream) -> bool:
        """Whether it is a gate, or the unit's own factor in a product with it, as in x tanh x."""
        return self.gate or (not other.gate and any(source is other for source in self.sources))


class _Rules(NamedTuple):
    """How relevance is handed back; `signed` decides whether positive contributions are followed apart."""

    signed: bool
    epsilon: Any
    gamma: Any

    def unit(self, stream: _Stream, output: Any, gate: bool = False) -> _Stream:
        """What a function of single units gives."""
        total = stream.value if stream.positive is None else stream.value + self.gamma * stream.positive
        value = _unit(total, lax.stop_gradient(output), self.epsilon)
        return _Stream(value, self.positive(value), gate)

    def positive(self, value: Any) -> Any:
        """The positive part, where it is followed."""
        return jnp.maximum(value, 0) if self.signed else None


@jax.custom_vjp
def _unit(total: Array, output: Array, epsilon: Any) -> Array:
    return output


def _unit_forward(total: Array, output: Array, epsilon: Any) -> tuple[Array, Any]:
    return output, (total, output, epsilon)


def _unit_backward(saved: Any, ratio: Array) -> tuple[Array, Any, Any]:
    total, output, epsilon = saved
    below = total + jnp.where(total < 0, -epsilon, epsilon).astype(total.dtype)
    nothing = below == 0
    shared = jnp.where(nothing, 0, output * ratio / jnp.where(nothing, 1, below))
    return shared, jnp.zeros_like(output), jnp.zeros_like(epsilon)


_unit.defvjp(_unit_forward, _unit_backward)


@compiled(static_argnums=(0, 1))
def _relevance(
    network: tuple[nn.Module, Score],
    signed: bool,
    numbers: tuple[ArrayLike, ArrayLike],
    variables: Any,
    images: Array,
    classes: Array | None,
    _: Any,
) -> Float[Array, "n h w c"]:
    model, score = network
    rules = _Rules(signed, *(jnp.asarray(number, jnp.float32) for number in numbers))
    program = jax.make_jaxpr(partial(logits, unrolled(model)))(variables, images)

    def scores(pixels: Array) -> Array:
        start = [*jax.tree.leaves(variables), _Stream(pixels, rules.positive(pixels))]
        (last,) = run(program.jaxpr, program.consts, start, partial(_rule, rules))
        if not isinstance(last, _Stream):  # logits that do not depend on the image
            return score(last, classes).sum()
        return score(rules.unit(last, last.value).value, classes).sum()

    return images * jax.grad(scores)(images)


# Affine functions whose coefficients are zeros and ones: what holds for a value holds for its positive part.
_MOVING = {
    "add", "add_any", "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "cumsum", "dynamic_slice",
    "gather", "pad", "reduce_sum", "reduce_window_sum", "reshape", "rev", "select_n", "slice", "squeeze", "transpose",
}  # fmt: skip
_WEIGHING = {"mul", "div", "dot_general", "convolution", "conv_general_dilated"}
_CHOOSING = {"reduce_window_max", "reduce_max", "max", "min", "reduce_min"}
_ACTIVATING = {"tanh", "max", "min", "clamp", "erf", "abs", "log1p", "expm1"}
_SCALING = {
    "erfc", "exp", "exp2", "floor", "integer_pow", "log", "logistic", "pow", "round", "rsqrt", "sign", "sqrt", "square",
}  # fmt: skip
_UNITWISE = _ACTIVATING | _SCALING | {"add", "add_any", "convert_element_type", "div", "mul", "neg", "select_n", "sub"}
_ASKING = {"gt", "ge", "lt", "le", "eq", "ne", "argmax", "argmin", "stop_gradient"}


def _rule(rules: _Rules, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any] | None:
    name = equation.primitive.name
    streams = [operand for operand in operands if isinstance(operand, _Stream)]
    if not streams:
        return None
    results = _handed_on(rules, name, equation, operands, streams)
    if name not in _UNITWISE:
        return results
    first, *others = ((stream, *stream.sources) for stream in streams)
    sources = tuple(one for one in first if all(any(one is known for known in other) for other in others))
    return [result._replace(sources=sources) for result in results]


def _handed_on(
    rules: _Rules, name: str, equation: JaxprEqn, operands: Sequence[Any], streams: Sequence[_Stream]
) -> list[Any]:
    def apply(select: Any) -> Any:
        return bind(equation, [select(o) if isinstance(o, _Stream) else o for o in operands])[0]

    def value(stream: _Stream) -> Any:
        return stream.value

    if name in _ASKING:
        return [lax.stop_gradient(apply(value))]
    if name == "split":
        (stream,) = streams
        positive = bind(equation, [stream.positive]) if rules.signed else repeat(None)
        return [_Stream(*part, stream.gate) for part in zip(bind(equation, [stream.value]), positive, strict=False)]
    if name in ("mul", "div") and len(streams) == 2:
        return [_product(rules, name, *streams)]
    inverse = name == "div" and isinstance(operands[1], _Stream)
    if inverse or (len(streams) == 1 and name in _ACTIVATING | _SCALING):
        return [rules.unit(streams[0], apply(value), gate=name not in _ACTIVATING)]
    if name in _CHOOSING:
        chosen = [rules.unit(o, o.value) if isinstance(o, _Stream) and rules.signed else o for o in operands]
        values = [o.value if isinstance(o, _Stream) else o for o in chosen]
        (result,) = faster(equation, values) or bind(equation, values)
        return [_Stream(result, rules.positive(result), all(stream.gate for stream in streams))]
    if name not in _MOVING | _WEIGHING | {"sub", "neg"} or (name in _WEIGHING and len(streams) > 1):
        raise InputError(
            f"relevance propagation has no rule for {name} of activations; expected layers that are affine"
        )
    gate = all(stream.gate for stream in streams)
    positive = _positive(name, equation, operands) if rules.signed else None
    return [_Stream(apply(value), positive, gate)]


def _product(rules: _Rules, name: str, one: _Stream, other: _Stream) -> _Stream:
    """Of two activations: one of them only scales the other, and is taken as a number."""
    if one is other and name == "mul":
        return rules.unit(one, one.value**2, gate=True)
    if name == "mul" and one.scales(other) and not other.scales(one):
        one, other = other, one
    if not other.scales(one) or (one.gate and name == "mul"):
        if one.gate and other.gate:  # of two that scale, the product scales
            return rules.unit(one, one.value * other.value, gate=True)
        raise InputError(
            f"relevance propagation has no rule for {name} of two activations; expected one of them to be a gate, a "
            "normalisation or a function of the other"
        )
    factor = lax.stop_gradient(other.value if name == "mul" else 1 / other.value)
    positive = None
    if rules.signed:
        positive = jnp.where(factor > 0, one.positive, one.value - one.positive) * factor
    return _Stream(one.value * factor, positive, one.gate)


def _positive(name: str, equation: JaxprEqn, operands: Sequence[Any]) -> Any:
    """The positive contributions to an affine function of streams and numbers."""

    def apply(stream: Any, number: Any) -> Any:
        return bind(equation, [stream(o) if isinstance(o, _Stream) else number(o) for o in operands])[0]

    def up(stream: _Stream) -> Any:
        return stream.positive

    def down(stream: _Stream) -> Any:
        return stream.value - stream.positive

    if name == "neg":
        return -down(operands[0])
    if name == "sub":
        first, second = operands
        gained = up(first) if isinstance(first, _Stream) else jnp.maximum(first, 0)
        return gained - (down(second) if isinstance(second, _Stream) else jnp.minimum(second, 0))
    if name == "div":
        stream, divisor = operands
        return jnp.where(divisor > 0, stream.positive, stream.value - stream.positive) / divisor
    if name in _WEIGHING:
        return apply(up, lambda weight: jnp.maximum(weight, 0)) + apply(down, lambda weight: jnp.minimum(weight, 0))
    if name in ("add", "add_any", "concatenate"):
        return apply(up, lambda number: jnp.maximum(number, 0))
    return apply(up, lambda number: number)


METHODS = {"lrp": Method(lrp, "LRP", True, "Bach et al. 2015")}
