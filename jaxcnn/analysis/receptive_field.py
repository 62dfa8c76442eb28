"""Receptive fields in closed form, followed through the data flow of a network.

A `Reach` says for every output position of a layer, along one dimension, which input positions it sees: from `first`
to `last`. Both repeat with a period: the output `period` positions on sees inputs `step` positions on. Convolutions
and pooling have period 1 and step = stride, a transposed convolution of stride 2 has period 2 and step 1, and what
sees everything has step 0. Reaches compose, so the receptive field of any layer is exact. It is not cut off at the
borders of the image: positions below 0 and beyond the end lie in the padding.

References: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016; Araujo, Norris & Sim,
"Computing receptive fields of convolutional neural networks", Distill, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive
from jax.interpreters import batching

from jaxcnn.errors import InputError
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.local_response_norm import LocalResponseNorm
from jaxcnn.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.layers.up_convolution import UpConv


class Reach(NamedTuple):
    """The inputs that each output sees along one dimension.

    Attributes:
      first: least input position seen by output 0, 1, ..., period - 1; it never decreases.
      last: greatest input position seen by each of them; it never decreases.
      step: how many inputs further the output `period` positions on looks.
    """

    first: tuple[int, ...] = (0,)
    last: tuple[int, ...] = (0,)
    step: int = 1

    @property
    def size(self) -> int:
        """Input positions from the first to the last that one output sees, the most over all outputs."""
        return max(last - first + 1 for first, last in zip(self.first, self.last, strict=True))

    def interval(self, position: int) -> tuple[int, int]:
        """First and last input of any output, inside or outside the map."""
        periods, phase = divmod(position, len(self.first))
        return self.first[phase] + periods * self.step, self.last[phase] + periods * self.step

    def of(self, inner: Reach) -> Reach:
        """What the outputs of this layer see through the layers before it, which reach `inner`."""
        repeats = len(inner.first) // math.gcd(self.step, len(inner.first))
        period = len(self.first) * repeats
        ends = [self.interval(position) for position in range(period)]
        return Reach(
            tuple(inner.interval(first)[0] for first, _ in ends),
            tuple(inner.interval(last)[1] for _, last in ends),
            self.step * repeats // len(inner.first) * inner.step,
        )

    def union(self, other: Reach, positions: int) -> Reach:
        """What an elementwise function of two maps, of so many positions, sees."""
        period = math.lcm(len(self.first), len(other.first))
        steps = [reach.step * (period // len(reach.first)) for reach in (self, other)]
        if steps[0] != steps[1]:  # one of the two looks at the same inputs from everywhere
            whole = everything(positions)
            return whole.of(self).union(whole.of(other), positions)
        ends = [(*self.interval(p), *other.interval(p)) for p in range(period)]
        return Reach(tuple(min(e[0], e[2]) for e in ends), tuple(max(e[1], e[3]) for e in ends), steps[0])


def window(size: int, stride: int = 1, low: int = 0, dilation: int = 1, spread: int = 1) -> Reach:
    """Of a convolution or a pooling layer with `low` positions of padding before the first.

    Args:
      size: positions under the window.
      stride: positions between two windows.
      low: positions of padding.
      dilation: distance between neighbours under the window.
      spread: distance that the inputs are set apart to, with zeros between them.
    """
    starts = [p * stride - low for p in range(spread // math.gcd(stride, spread))]
    return Reach(
        tuple(-(-start // spread) for start in starts),
        tuple((start + dilation * (size - 1)) // spread for start in starts),
        len(starts) * stride // spread,
    )


def transposed(size: int, stride: int) -> Reach:
    """Of a transposed convolution: input i reaches the outputs i stride, ..., i stride + size - 1."""
    return window(size, low=size - 1, spread=stride)


def adaptive(inputs: int, outputs: int) -> Reach:
    """Of adaptive pooling: output p sees floor(p n / m) to ceil((p + 1) n / m) - 1."""
    period = outputs // math.gcd(inputs, outputs)
    return Reach(
        tuple(p * inputs // outputs for p in range(period)),
        tuple(-(-(p + 1) * inputs // outputs) - 1 for p in range(period)),
        inputs // math.gcd(inputs, outputs),
    )


def everything(inputs: int) -> Reach:
    """Of whatever sees all positions of its input at once."""
    return Reach((0,), (inputs - 1,), 0)


_LAYERS = (
    Conv,
    UpConv,
    nn.Dense,
    MaxPool,
    AveragePool,
    AdaptiveAveragePool,
    GlobalAveragePool,
    BatchNorm,
    LocalResponseNorm,
)


def of_layer(module: nn.Module, inputs: Sequence[Any]) -> tuple[Reach, Reach] | None:
    """What an output of a layer sees of its input along height and width.

    Args:
      module: any module.
      inputs: what it is called with.

    Returns:
      None if the module is not one of the layers that have a rule here, so that what it computes says it.
    """
    if not isinstance(module, _LAYERS):
        return None
    shape = inputs[0].shape
    match module:
        case Conv():
            size, stride, dilation = map(_pair, (module.kernel_size, module.strides, module.kernel_dilation))
        case MaxPool() | AveragePool():
            size, dilation = _pair(module.window), (1, 1)
            stride = _pair(module.window if module.strides is None else module.strides)
        case UpConv():
            return transposed(2, 2), transposed(2, 2)
        case AdaptiveAveragePool():
            outputs = _pair(module.output_size)
            if shape[1:3] == outputs:  # it hands on a map that has its output's size
                return None
            return adaptive(shape[1], outputs[0]), adaptive(shape[2], outputs[1])
        case GlobalAveragePool():
            return everything(shape[1]), everything(shape[2])
        case _:
            return Reach(), Reach()
    sides = module.padding
    lows = (sides, sides) if isinstance(sides, int) else (sides[0][0], sides[1][0])
    height, width = (window(*along) for along in zip(size, stride, lows, dilation, strict=True))
    return height, width


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


class Field(NamedTuple):
    """What the positions of an array see of the image.

    Attributes:
      reach: along the image's height and along its width.
      axes: the array's axes that are height and width; None for a vector, all of which sees the same.
    """

    reach: tuple[Reach, Reach] = (Reach(), Reach())
    axes: tuple[int, int] | None = (1, 2)

    def seen_by(self, layer: tuple[Reach, Reach]) -> Field:
        """The field of the output of a layer whose input has this one."""
        if self.axes is None:
            return self
        return Field((layer[0].of(self.reach[0]), layer[1].of(self.reach[1])), self.axes)

    def flat(self, shape: Sequence[int]) -> Field:
        """The field of a vector that is made of the whole array."""
        if self.axes is None:
            return self
        return self.seen_by((everything(shape[self.axes[0]]), everything(shape[self.axes[1]])))._replace(axes=None)

    def covers(self, output: tuple[int, ...], image: tuple[int, ...]) -> bool:
        """Whether each output sees all of the image; both sizes are height and width."""
        positions = output if self.axes is not None else (1, 1)
        return all(
            reach.interval(n - 1)[0] <= 0 and reach.interval(0)[1] >= size - 1
            for reach, n, size in zip(self.reach, positions, image, strict=True)
        )


_enter_p, _leave_p = Primitive("enter_layer"), Primitive("leave_layer")
for _primitive in (_enter_p, _leave_p):
    _primitive.def_impl(lambda x, *, rule: x)
    _primitive.def_abstract_eval(lambda x, *, rule: x)
    batching.defvectorized(_primitive)


def enter(x: Array, rule: Any) -> Array:
    """Marks the input of a layer, whose computation is then its `rule`'s alone."""
    return _enter_p.bind(x, rule=rule)


def leave(y: Array, rule: Any) -> Array:
    """Marks the output of the layer that was entered with the same `rule`, a hashable object."""
    return _leave_p.bind(y, rule=rule)


# A value inside a layer: what it sees does not matter.
_INSIDE = "inside"

# Functions that mix positions but belong into layers, so that they have a row and a rule; and loops.
_REFUSED = {"convolution", "conv_general_dilated", "dot_general", "scan", "while", "cond"}

# Functions of any positions to any positions, even where the shape stays the same.
_MIXING = {"rev", "sort", "gather", "scatter", "cumsum", "cumprod", "cummax", "dynamic_slice", "dynamic_update_slice"}


def follow(
    program: ClosedJaxpr,
    inputs: Sequence[Field | None],
    apply: Callable[[Any, Field], Field],
    *,
    loose: bool = False,
) -> list[Field]:
    """Walks through a network's computation.

    Args:
      program: the computation, its layers marked by `enter` and `leave`.
      inputs: the field of every input; None for what does not depend on the image.
      apply: called with every marked layer's rule and its input's field, in order of execution; gives the output's.
      loose: whether convolutions and pooling may stand outside of the marked layers, too.

    Returns:
      The field of every output.

    Raises:
      InputError: positions are mixed outside of the layers in a way that has no closed form.
    """
    entered: dict[Any, Any] = {}

    def run(jaxpr: Jaxpr, values: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.invars, values, strict=True))
        for equation in jaxpr.eqns:
            name, parameters = equation.primitive.name, equation.params
            arguments = [None if isinstance(v, Literal) else known.get(v) for v in equation.invars]
            inner = next((parameters[key] for key in ("jaxpr", "call_jaxpr") if key in parameters), None)
            seen = [(a, _shape(v)) for a, v in zip(arguments, equation.invars, strict=True) if a is not None]
            if equation.primitive is _leave_p:
                # What was not entered lies inside another layer, or does not depend on the image.
                field = entered.pop(parameters["rule"], arguments[0])
                results = [apply(parameters["rule"], field) if isinstance(field, Field) else field]
            elif not seen:
                continue
            elif any(a is _INSIDE for a, _ in seen):
                results = [_INSIDE] * len(equation.outvars)
            elif equation.primitive is _enter_p:
                entered[parameters["rule"]] = arguments[0]
                results = [_INSIDE]
            elif loose and len(seen) == 1 and isinstance(arguments[0], Field) and _slides(name):
                results = [_slid(equation, *seen[0])]
            elif name in _REFUSED or name.startswith("reduce_window"):
                raise InputError(f"the model computes {name} outside of its layers; expected it inside of one")
            elif inner is not None:
                results = run(getattr(inner, "jaxpr", inner), arguments)
            else:
                results = [_through(name, parameters, seen, _shape(v)) for v in equation.outvars]
            known.update(zip(equation.outvars, results, strict=True))
        return [known.get(v) if not isinstance(v, Literal) else None for v in jaxpr.outvars]

    return run(program.jaxpr, inputs)


def _slides(name: str) -> bool:
    return name == "conv_general_dilated" or name.startswith("reduce_window")


def _slid(equation: JaxprEqn, field: Field, shape: tuple[int, ...]) -> Field:
    """The field of what a window gives that slides over an array."""
    p = equation.params
    if "dimension_numbers" in p:
        (_, _, *before), (_, _, *kernel), (_, _, *after) = p["dimension_numbers"]
        sizes = [_shape(equation.invars[1])[axis] for axis in kernel]
        steps = p["window_strides"], [low for low, _ in p["padding"]], p["rhs_dilation"], p["lhs_dilation"]
    else:
        sizes, before, after = p["window_dimensions"], range(len(shape)), range(len(shape))
        steps = p["window_strides"], [low for low, _ in p["padding"]], p["window_dilation"], p["base_dilation"]
    reaches, moved = dict(zip(before, map(window, sizes, *steps), strict=True)), dict(zip(before, after, strict=True))
    if field.axes is None or not reaches.keys() >= {*field.axes}:
        return field.flat(shape)
    height, width = field.axes
    return field.seen_by((reaches[height], reaches[width]))._replace(axes=(moved[height], moved[width]))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _through(
    name: str, parameters: Any, seen: Sequence[tuple[Field, tuple[int, ...]]], shape: tuple[int, ...]
) -> Field:
    """The field of the result of one function of arrays, outside of the layers."""
    if len(seen) > 1:
        return _merged(name, parameters, seen)
    field, before = seen[0]
    if field.axes is None:
        return field
    axes = field.axes
    moved: Sequence[int | None] = [None] * len(before)
    if name == "broadcast_in_dim":
        moved = targets = parameters["broadcast_dimensions"]
        # A map of one position that is spread over many is seen by all of them.
        height, width = (Reach() if shape[targets[a]] == before[a] else everything(1) for a in axes)
        field = field.seen_by((height, width))
    elif name == "transpose":
        moved = [parameters["permutation"].index(axis) for axis in range(len(before))]
    elif name == "reshape":
        moved = _kept(before, shape)
    elif len(shape) < len(before) and (name == "squeeze" or name.startswith(("reduce_", "arg"))):
        gone = parameters["dimensions" if name == "squeeze" else "axes"]
        moved = [None if axis in gone else axis - sum(g < axis for g in gone) for axis in range(len(before))]
    elif name == "slice":
        strides = parameters["strides"] or (1,) * len(before)
        height, width = (window(1, strides[axis], -parameters["start_indices"][axis]) for axis in axes)
        return field.seen_by((height, width))
    elif name == "pad":
        (top, _, rows), (left, _, columns) = (parameters["padding_config"][axis] for axis in axes)
        if not rows and not columns:
            return field.seen_by((window(1, 1, int(top)), window(1, 1, int(left))))
    elif shape == before and name not in _MIXING:
        return field
    height, width = moved[axes[0]], moved[axes[1]]
    if height is None or width is None:
        return field.flat(before)
    return field._replace(axes=(height, width))


def _merged(name: str, parameters: Any, seen: Sequence[tuple[Field, tuple[int, ...]]]) -> Field:
    """The field of an elementwise function of several arrays, or of their concatenation."""
    axes = {field.axes for field, _ in seen}
    common = axes.pop()
    positions = seen[0][1]
    along = parameters["dimension"] if name == "concatenate" else None
    if axes or common is None or name in _MIXING or along in common:
        return Field(_union([field.flat(shape) for field, shape in seen], (1, 1)), None)
    return Field(_union([field for field, _ in seen], (positions[common[0]], positions[common[1]])), common)


def _union(fields: Sequence[Field], positions: tuple[int, int]) -> tuple[Reach, Reach]:
    height, width = fields[0].reach
    for field in fields[1:]:
        height = height.union(field.reach[0], positions[0])
        width = width.union(field.reach[1], positions[1])
    return height, width


def _kept(before: tuple[int, ...], after: tuple[int, ...]) -> list[int | None]:
    """Where the axes of an array are after a reshape: those from the front, or from the end, that stay as they are."""
    front = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(map(len, (before, after)))
    )
    back = next((i for i, (a, b) in enumerate(zip(before[::-1], after[::-1], strict=False)) if a != b), len(before))
    shift = len(after) - len(before)
    return [i if i < front else i + shift if i >= len(before) - back else None for i in range(len(before))]
