"""The blocks of a network, which can be deleted and change places, and where their numbers are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array

from jaxcnn.analysis.activations import unrolled
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.state import State

_CONVOLUTIONS, _NORMS = (Conv, nn.Conv), (BatchNorm, nn.BatchNorm)


class Block(NamedTuple):
    """A residual block, or a layer of a network that has none.

    Attributes:
      name: as in `activations.layers`.
      stage: from 1; it counts the sizes that maps have on their way.
      input_shape: (h, w, c), or (units,).
      output_shape: likewise.
      residual: whether a shortcut stays when it is deleted.
      deletable: whether it can be deleted; a layer that changes the shape, has groups or a kernel without a centre
        cannot.
    """

    name: str
    stage: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    residual: bool
    deletable: bool

    @property
    def downsamples(self) -> bool:
        """Whether its maps have at most half the height of what it takes."""
        before, after = self.input_shape[0], self.output_shape[0]
        return len(self.output_shape) == 3 and after < before and 2 * after <= before + 1


@dataclass(frozen=True)
class Part:
    """A block, and where its numbers are.

    Attributes:
      block: the block.
      modules: that move when it changes places, by their paths.
      ends: that change when it is deleted: the last layer of the branch, or the layer and its batch norm.
      epsilon: of that batch norm; 0 without one.
    """

    block: Block
    modules: tuple[str, ...]
    ends: tuple[str, ...]
    epsilon: float = 0.0


def blocks(model: nn.Module, state: State, image_shape: tuple[int, int, int]) -> tuple[Block, ...]:
    """The blocks of a network that can be deleted or moved, and the others between them.

    A residual block is a module stage1/block1 (by its path) that holds conv1, conv2 and so on. In a network without
    such blocks, or whose field `residual` is False, the convolutions and dense layers count, each with its batch norm;
    flax's own as well as those of `jaxcnn.layers`.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      image_shape: height and width in pixels, and channels of one image.

    Returns:
      In the order of execution.
    """
    return tuple(part.block for part in parts(model, state, image_shape))


def parts(model: nn.Module, state: State, image_shape: tuple[int, int, int]) -> tuple[Part, ...]:
    """The blocks of `blocks`, and where their numbers are."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: state.variables))
    return _parts(model, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), image_shape)


class _Call(NamedTuple):
    name: str
    module: nn.Module
    input: Array
    output: Array


@cache
def _parts(
    model: nn.Module, structure: Any, shapes: tuple[Any, ...], image_shape: tuple[int, int, int]
) -> tuple[Part, ...]:
    variables = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    calls: dict[str, _Call] = {}

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        name = "/".join(context.module.path)
        if name and args and context.method_name == "__call__" and isinstance(output, jax.Array):
            calls.setdefault(name, _Call(name, context.module, args[0], output))
        return output

    with nn.intercept_methods(intercept):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(lambda v, x: unrolled(model).apply(v, x, train=False), variables, images)
    owners = {path.rpartition("/")[0] for path in flatten_dict(variables["params"], sep="/")}
    found = _residual(calls, owners) if getattr(model, "residual", True) else []
    return tuple(_staged(found or _layers(calls)))


def _residual(calls: dict[str, _Call], owners: set[str]) -> list[Part]:
    found = []
    for name, call in calls.items():
        if re.fullmatch(r"stage\d+/block\d+", name) and f"{name}/conv1" in calls:
            # The calls are in the order in which they finish.
            inside = [other for other in calls if re.fullmatch(rf"{name}/(?!project)[^/]+", other) and other in owners]
            found.append(Part(_block(call, residual=True, deletable=True), (name,), (inside[-1],)))
    return found


def _layers(calls: dict[str, _Call]) -> list[Part]:
    found = []
    for name, call in calls.items():
        if not isinstance(call.module, (*_CONVOLUTIONS, nn.Dense)):
            continue
        same = call.input.shape == call.output.shape and (isinstance(call.module, nn.Dense) or _centred(call.module))
        followers = (other for other in calls.values() if other.input is call.output)
        norms = [(other.name, other.module.epsilon) for other in followers if isinstance(other.module, _NORMS)]
        norm, epsilon = norms[0] if norms else (None, 0.0)
        both = (name,) if norm is None else (name, norm)
        found.append(Part(_block(call, residual=False, deletable=same), both, both, epsilon))
    return found


def _centred(module: Any) -> bool:
    """Whether a convolution that keeps the shape hands its input on if its kernel is 1 in the centre."""
    groups = module.groups if isinstance(module, Conv) else module.feature_group_count
    whole = groups == 1 and getattr(module, "mask", None) is None
    padding = (module.padding,) if isinstance(module.padding, int | str) else module.padding
    even = all(side[0] == side[-1] for side in padding if not isinstance(side, int | str)) and padding != ("CAUSAL",)
    odd = np.all(np.mod(module.kernel_size, 2) == 1)
    return bool(whole and even and odd and np.all(np.equal(module.strides or 1, 1)))


def _block(call: _Call, **fields: bool) -> Block:
    return Block(call.name, 0, call.input.shape[1:], call.output.shape[1:], **fields)


def _staged(found: list[Part]) -> Iterator[Part]:
    stage, before = 0, None
    for part in found:
        size = part.block.output_shape[:-1]
        stage += size != before
        before = size
        yield Part(part.block._replace(stage=stage), part.modules, part.ends, part.epsilon)


def owned(module: str, flat: Any) -> list[str]:
    """The paths of a module's numbers, those of one module in the same order as those of another of its kind."""
    return sorted(path for path in flat if path.partition("/")[2].startswith(f"{module}/"))


def interchangeable(known: Sequence[Part], variables: Any) -> list[list[int]]:
    """Numbers of the blocks that can change places with each other."""
    flat: Any = flatten_dict(variables, sep="/")
    groups: dict[Any, list[int]] = {}
    for number, part in enumerate(known):
        if part.block.input_shape == part.block.output_shape:
            shapes = tuple(
                (path.partition("/")[0], path.partition(f"/{module}/")[2], np.shape(flat[path]))
                for module in part.modules
                for path in owned(module, flat)
            )
            groups.setdefault((part.block.input_shape, shapes), []).append(number)
    return [group for group in groups.values() if len(group) > 1]
