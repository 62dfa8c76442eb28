"""A network as a table, layer by layer: shapes, memory, parameters, arithmetic and receptive field, in closed form.

What is counted:

- A row is a layer that has parameters or changes the size of its input: convolutions, dense layers, normalisation,
  pooling. Activation functions, additions, concatenations, dropout, and adaptive pooling that finds its input of the
  right size have none.
- Activation values are the outputs of the rows, for one image; the image itself is the first row.
- A multiply-add is a product with its addition. Convolutions and dense layers have them, one for each weight at each
  output (a transposed convolution: at each input), zero padding included; biases, pooling and normalisation, which
  inference folds into the convolution before it, count as none.
- Bytes assume that nothing is stored twice and nothing used again: forward, all activations and parameters; backward,
  in addition a gradient for each of them.
- Parameters are float32, activations of the model's dtype.

Nothing is computed and nothing allocated: the network is only traced.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcnn.analysis.activations import unrolled
from jaxcnn.analysis.receptive_field import Field, Reach, enter, follow, leave, of_layer
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.pooling import AveragePool, MaxPool
from jaxcnn.layers.up_convolution import UpConv

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One row.

    Attributes:
      name: names of the modules that lead to the layer, joined by slashes.
      kind: "input", "convolution", "max_pool", ...
      kernel: height and width in pixels of the kernel or the pooling window; None where there is none.
      stride: pixels between two windows, vertically and horizontally; in an up-convolution, outputs for each input;
        None where there is none.
      groups: runs of channels convolved apart from each other; None but for convolutions.
      output_shape: of one image; empty if the layer is not run in inference.
      activation_values: numbers in the output of one image.
      activation_bytes: of them.
      weights: trainable numbers but biases.
      biases: trainable numbers called bias.
      multiply_adds: for one image.
      receptive_field: height and width in pixels of the part of the image that one output sees, the padding around
        the image included; None if the layer is not run in inference.
      whole_image: whether every output sees the whole image.
    """

    name: str
    kind: str
    kernel: Pair | None = None
    stride: Pair | None = None
    groups: int | None = None
    output_shape: tuple[int, ...] = ()
    activation_values: int = 0
    activation_bytes: int = 0
    weights: int = 0
    biases: int = 0
    multiply_adds: int = 0
    receptive_field: Pair | None = None
    whole_image: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases


@dataclass(frozen=True)
class Totals:
    """Sums over the layers, and what follows for memory.

    Attributes:
      parameters: trainable numbers.
      weights: those that are not biases.
      biases: the rest.
      multiply_adds: for one image, forward.
      activation_values: for one image.
      activation_bytes: of them.
      parameter_bytes: of the parameters.
      forward_bytes: parameters, and the activations of the batch.
      forward_backward_bytes: the same with a gradient for each.
      optimizer_bytes: the optimiser's state.
    """

    parameters: int
    weights: int
    biases: int
    multiply_adds: int
    activation_values: int
    activation_bytes: int
    parameter_bytes: int
    forward_bytes: int
    forward_backward_bytes: int
    optimizer_bytes: int


@dataclass(frozen=True)
class Table:
    """The layers of a network in order of execution; iterating gives them.

    Attributes:
      model: its name.
      input: height and width in pixels, and channels of one image.
      layers: the rows; parameters of parts that only run in training are in a last one.
      totals: sums over the rows.
      batch_size: images in the batch whose memory `totals` states.
    """

    model: str
    input: tuple[int, int, int]
    layers: tuple[Layer, ...]
    totals: Totals
    batch_size: int

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]


def table(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str | None = None,
    batch_size: int = 1,
    optimizer: optax.GradientTransformation | None = None,
) -> Table:
    """The table of a network in inference.

    Args:
      model: a module called as `model(images, train=...)`.
      input_shape: height and width in pixels, and channels of one image.
      name: what the table calls the model; None for its class.
      batch_size: images in the batch for the memory in `totals`; all else is for one image.
      optimizer: the transformation whose state is counted; None for gradient descent with momentum.

    Returns:
      The rows and their sums.

    Raises:
      InputError: the input is too small for the model, or the model mixes positions outside of its layers.

    Examples:
      >>> from jaxcnn import models
      >>> totals = table(models.create("cifar_resnet20"), (32, 32, 3)).totals
      >>> totals.parameters, totals.multiply_adds
      (269722, 40551040)
    """
    single = unrolled(model)  # blocks that are scanned or recomputed would be one row for many
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(lambda key, x: single.init(key, x, train=False), key, images)
    params = variables.get("params", {})

    with nn.intercept_methods(_recorder(params)):
        program = jax.make_jaxpr(lambda variables, x: single.apply(variables, x, train=False))(variables, images)
    dtype = jnp.dtype(getattr(model, "dtype", None) or jnp.float32)
    size = math.prod(input_shape)
    image = Layer("input", "input", None, None, None, input_shape, size, size * dtype.itemsize, receptive_field=(1, 1))
    layers = [image]
    seen: set[str] = set()

    def apply(call: _Call, field: Field) -> Field:
        after = field.seen_by(call.reach)
        if len(call.row.output_shape) < 3:
            after = after._replace(axes=None)
        extent = (after.reach[0].size, after.reach[1].size)
        whole = after.covers(call.row.output_shape[:2], input_shape[:2])
        row = dataclasses.replace(call.row, receptive_field=extent, whole_image=whole)
        # A layer called twice has its parameters once.
        layers.append(dataclasses.replace(row, weights=0, biases=0) if row.name in seen else row)
        seen.add(row.name)
        return after

    inputs = [None] * len(jax.tree.leaves(variables))
    follow(program, [*inputs, Field()], apply)
    weights, biases = _count(jax.tree_util.tree_leaves_with_path(params))
    rest = weights - sum(row.weights for row in layers), biases - sum(row.biases for row in layers)
    if any(rest):
        layers.append(Layer("training only", "training_only", weights=rest[0], biases=rest[1]))
    state = jax.eval_shape((optimizer or optax.sgd(0.1, momentum=0.9)).init, params)
    totals = _totals(layers, _bytes(params), _bytes(state), batch_size)
    return Table(name or type(model).__name__, input_shape, tuple(layers), totals, batch_size)


def groups(table: Table, limit: int) -> list[Layer]:
    """The rows, those of one module summed into one where there would be too many.

    Args:
      table: of a network.
      limit: the most rows wanted; the deepest level of modules that keeps it is shown, or else the first.

    Returns:
      Rows in order of execution; a sum has the kind "module" and counts only.
    """
    for depth in range(max(row.name.count("/") for row in table) + 1, 1, -1):
        if len(rows := _level(table, depth)) <= limit:
            return rows
    return _level(table, 1)


def _level(table: Table, depth: int) -> list[Layer]:
    """The rows, summed over the modules whose path has so many names."""
    parts: dict[str, list[Layer]] = {}
    for row in table:
        parts.setdefault("/".join(row.name.split("/")[:depth]), []).append(row)
    return [rows[0] if len(rows) == 1 else _sum(name, rows) for name, rows in parts.items()]


def _sum(name: str, rows: list[Layer]) -> Layer:
    counts = ("activation_values", "activation_bytes", "weights", "biases", "multiply_adds")
    sums: dict[str, Any] = {count: sum(getattr(row, count) for row in rows) for count in counts}
    return Layer(name, "module", **sums)


def _totals(layers: list[Layer], parameters: int, optimizer: int, batch_size: int) -> Totals:
    counts = ("parameters", "weights", "biases", "multiply_adds", "activation_values", "activation_bytes")
    sums = {name: sum(getattr(row, name) for row in layers) for name in counts}
    forward = parameters + batch_size * sums["activation_bytes"]
    return Totals(
        **sums,
        parameter_bytes=parameters,
        forward_bytes=forward,
        forward_backward_bytes=2 * forward,
        optimizer_bytes=optimizer,
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _count(leaves: Any) -> tuple[int, int]:
    """Weights and biases among parameters with their paths."""
    sizes = [(getattr(path[-1], "key", None) == "bias", leaf.size) for path, leaf in leaves]
    return sum(size for bias, size in sizes if not bias), sum(size for bias, size in sizes if bias)


@dataclass(eq=False)
class _Call:
    """One call of a layer: its row, which the output's shape completes, and what an output sees of the input."""

    row: Layer
    reach: tuple[Reach, Reach]


def _recorder(params: Mapping[str, Any]) -> Callable[..., Any]:
    """An interceptor that marks the layers in the computation, each with its `_Call`."""

    def intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return method(*args, **kwargs)
        own = {name: leaf for name, leaf in _at(params, module.path).items() if not isinstance(leaf, Mapping)}
        reach = of_layer(module, args)
        if reach is None and not own:
            return method(*args, **kwargs)
        if reach is None:  # has parameters of its own, and maybe layers: a row, but what it computes is followed
            y = method(*args, **kwargs)
            call = _Call(_row(module, own, y, y), (Reach(), Reach()))
            return leave(enter(y, call), call)
        x, *others = args
        call = _Call(Layer("", ""), reach)
        y = method(enter(x, call), *others, **kwargs)
        call.row = _row(module, own, x, y)
        return leave(y, call)

    return intercept


def _at(params: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    for name in path:
        params = params.get(name, {})
    return params


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _row(module: nn.Module, own: Mapping[str, Any], x: Any, y: Any) -> Layer:
    kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(module).__name__).lstrip("_")
    kernel = stride = channel_groups = None
    multiply_adds = 0
    match module:
        case Conv():
            kind = "convolution"
            kernel, stride, channel_groups = _pair(module.kernel_size), _pair(module.strides), module.groups
            multiply_adds = own["kernel"].size * math.prod(y.shape[1:3])
        case UpConv():
            kind, kernel, stride = "up_convolution", (2, 2), (2, 2)
            multiply_adds = own["kernel"].size * math.prod(x.shape[1:3])
        case nn.Dense():
            multiply_adds = own["kernel"].size * math.prod(y.shape[1:-1])
        case MaxPool() | AveragePool():
            kernel = _pair(module.window)
            stride = kernel if module.strides is None else _pair(module.strides)
    weights, biases = _count(jax.tree_util.tree_leaves_with_path(dict(own)))
    return Layer(
        "/".join(module.path) or kind,
        kind,
        kernel,
        stride,
        channel_groups,
        tuple(y.shape[1:]),
        math.prod(y.shape[1:]),
        math.prod(y.shape[1:]) * y.dtype.itemsize,
        weights,
        biases,
        multiply_adds,
    )
