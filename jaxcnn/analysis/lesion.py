"""Lesions: what becomes of a network's error when blocks are deleted or change places.

A lesion is a change of the variables alone, so that it needs nothing of the network, and what remains is an ordinary
state. A residual block loses its branch: the last layer of the branch becomes zero, and the shortcut stays, projection
and all. A layer of a network without shortcuts becomes the identity: its kernel hands on each channel, its batch norm
changes nothing, and its activation, which has nothing left to do if it is a ReLU, stays. Blocks change places as their
parameters and statistics do. Lesions are arrays, so one compiled program measures all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Key

from jaxcnn.analysis.batches import REPEATED, Batches, read
from jaxcnn.analysis.blocks import Block, Part, interchangeable, owned, parts
from jaxcnn.analysis.blocks import blocks as blocks
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.state import State


class Single(NamedTuple):
    """Errors with one block deleted.

    Attributes:
      blocks: in the order of execution.
      intact: error of the network as it is, in [0, 1].
      errors: without each block, in [0, 1]; NaN of a block that cannot be deleted.
    """

    blocks: tuple[Block, ...]
    intact: float
    errors: Float[np.ndarray, " b"]


class Several(NamedTuple):
    """Errors with several blocks deleted at random.

    Attributes:
      blocks: in the order of execution.
      intact: error of the network as it is, in [0, 1].
      counts: blocks deleted.
      deleted: which, of each count and repeat.
      errors: in [0, 1].
    """

    blocks: tuple[Block, ...]
    intact: float
    counts: Int[np.ndarray, " k"]
    deleted: Bool[np.ndarray, "k r b"]
    errors: Float[np.ndarray, "k r"]


class Shuffled(NamedTuple):
    """Errors with blocks in another order.

    Attributes:
      blocks: in their own order.
      intact: error of the network as it is, in [0, 1].
      swaps: of two random blocks of equal shapes, one after another.
      orders: of each number of swaps and repeat, the number of the block in each place.
      tau: Kendall's rank correlation of that order with their own, in [-1, 1].
      errors: in [0, 1].
    """

    blocks: tuple[Block, ...]
    intact: float
    swaps: Int[np.ndarray, " k"]
    orders: Int[np.ndarray, "k r b"]
    tau: Float[np.ndarray, "k r"]
    errors: Float[np.ndarray, "k r"]


def delete(model: nn.Module, state: State, image_shape: tuple[int, int, int], names: Sequence[str]) -> State:
    """The state of the network without some of its blocks.

    y = a(F(x) + shortcut(x)) becomes a(shortcut(x)); a layer without a shortcut becomes y = a(x)

    Args:
      model: see `blocks`.
      state: its state.
      image_shape: height and width in pixels, and channels of one image.
      names: of the blocks.

    Returns:
      The state with other numbers in the parameters, the averaged ones where an average is kept, and statistics.

    Raises:
      InputError: there is no such block, or it cannot be deleted.

    Reference: Veit, Wilber & Belongie, "Residual networks behave like ensembles of relatively shallow networks", 2016,
    section 4.1.
    """
    known = parts(model, state, image_shape)
    numbers = {part.block.name: number for number, part in enumerate(known)}
    for name in names:
        if name not in numbers:
            raise unknown_name("block", name, numbers)
        block = known[numbers[name]].block
        if not block.deletable:
            raise InputError(
                f"{name} maps {block.input_shape} to {block.output_shape}; expected a layer of one shape, without "
                "groups or strides and with an odd kernel, which can become the identity"
            )
    mask = np.zeros(len(known), bool)
    mask[[numbers[name] for name in names]] = True
    return _with(state, _lesioned(known, state.variables, jnp.asarray(mask)))


def reorder(model: nn.Module, state: State, image_shape: tuple[int, int, int], order: ArrayLike) -> State:
    """The state of the network whose blocks have changed places.

    Args:
      model: see `blocks`.
      state: its state.
      image_shape: height and width in pixels, and channels of one image.
      order: integers [B], for each place the number of the block that it gets; a survival probability of stochastic
        depth belongs to the place.

    Returns:
      The state with the numbers of parameters, the averaged ones where an average is kept, and statistics elsewhere.

    Raises:
      InputError: it is no order of the blocks, or a block gets the place of one of other shapes.

    Reference: see `delete`; section 4.3.
    """
    known = parts(model, state, image_shape)
    places = np.asarray(order)
    if places.dtype.kind not in "iu" or not np.array_equal(np.sort(places, None), np.arange(len(known))):
        raise InputError(f"order is {places.tolist()}; expected the numbers from 0 to {len(known) - 1}, each once")
    group = {number: i for i, numbers in enumerate(interchangeable(known, state.variables)) for number in numbers}
    for place, number in enumerate(places.tolist()):
        if number != place and group.get(number, -1) != group.get(place, -2):
            raise InputError(
                f"{known[number].block.name} takes the place of {known[place].block.name}; expected a block of the "
                "same shapes, which maps its input to an output of the same shape"
            )
    return _with(state, _lesioned(known, state.variables, jnp.asarray(places, jnp.int32)))


def single(model: nn.Module, state: State, batches: Batches, *, chunk: int | None = None) -> Single:
    """The error without each block, one at a time.

    Args:
      model: see `blocks`; it returns logits [n, K].
      state: its state.
      batches: images and labels, read once.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Raises:
      InputError: an argument or a batch is not as expected, there are no images, or no block can be deleted.

    Reference: see `delete`.
    """
    known, stream = _begin(model, state, batches, chunk)
    numbers = _deletable(model, known)
    masks = np.zeros((len(numbers), len(known)), bool)
    masks[range(len(numbers)), numbers] = True
    intact, found = _errors(model, state, known, stream, masks)
    errors = np.full(len(known), np.nan)
    errors[numbers] = found
    return Single(tuple(part.block for part in known), intact, errors)


def several(
    model: nn.Module,
    state: State,
    batches: Batches,
    counts: Sequence[int],
    repeats: int,
    key: Key[Array, ""],
    *,
    chunk: int | None = None,
) -> Several:
    """The error without several blocks drawn at random.

    Args:
      model: see `single`.
      state: its state.
      batches: images and labels, read once.
      counts: numbers of blocks, each at most as many as can be deleted.
      repeats: draws of each, at least 1.
      key: decides the draws; those of one count do not depend on the other counts.
      chunk: see `single`.

    Raises:
      InputError: see `single`; or a count or the repeats are out of range.

    Reference: see `delete`; section 4.2.
    """
    known, stream = _begin(model, state, batches, chunk)
    numbers = _deletable(model, known)
    _check_counts("counts", counts, repeats, len(numbers))
    deleted = np.zeros((len(counts), repeats, len(known)), bool)
    for row, count in zip(deleted, counts, strict=True):
        drawn = np.asarray(jax.random.uniform(jax.random.fold_in(key, count), (repeats, len(numbers)))).argsort(-1)
        np.put_along_axis(row, np.array(numbers)[drawn[:, :count]], True, -1)
    intact, errors = _errors(model, state, known, stream, deleted.reshape(-1, len(known)))
    named = tuple(part.block for part in known)
    return Several(named, intact, np.array(counts, np.int64), deleted, errors.reshape(len(counts), repeats))


def shuffle(
    model: nn.Module,
    state: State,
    batches: Batches,
    swaps: Sequence[int],
    repeats: int,
    key: Key[Array, ""],
    *,
    chunk: int | None = None,
) -> Shuffled:
    """The error after swaps of two blocks of equal shapes, drawn at random from all such pairs.

    Args:
      model: see `single`.
      state: its state.
      batches: images and labels, read once.
      swaps: numbers of swaps, each at least 0.
      repeats: draws of each, at least 1.
      key: decides the draws; those of one number do not depend on the other numbers.
      chunk: see `single`.

    Raises:
      InputError: see `single`; or a number or the repeats are out of range, or no two blocks have equal shapes.

    Reference: see `delete`; section 4.3.
    """
    known, stream = _begin(model, state, batches, chunk)
    pairs = [pair for group in interchangeable(known, state.variables) for pair in itertools.combinations(group, 2)]
    if not pairs:
        raise InputError(f"{type(model).__name__} has no two blocks of equal shapes; expected some to change places")
    _check_counts("swaps", swaps, repeats, None)
    orders = np.tile(np.arange(len(known)), (len(swaps), repeats, 1))
    for row, count in zip(orders, swaps, strict=True):
        drawn = np.asarray(jax.random.randint(jax.random.fold_in(key, count), (repeats, count), 0, len(pairs)))
        for order, chosen in zip(row, drawn, strict=True):
            for a, b in (pairs[i] for i in chosen):
                order[[a, b]] = order[[b, a]]
    intact, errors = _errors(model, state, known, stream, orders.reshape(-1, len(known)))
    errors = errors.reshape(len(swaps), repeats)
    named = tuple(part.block for part in known)
    return Shuffled(named, intact, np.array(swaps, np.int64), orders, kendall_tau(orders), errors)


def kendall_tau(orders: Int[np.ndarray, "*n b"]) -> Float[np.ndarray, "*n"]:
    """Kendall's rank correlation of orders with 0, 1, 2, ...

    tau = (pairs in order - pairs out of order) / all pairs

    Args:
      orders: permutations of at least two numbers from 0.

    Returns:
      In [-1, 1]; 1 of the order itself.

    Examples:
      >>> kendall_tau(np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]])).round(2).tolist()
      [1.0, -1.0, 0.33]

    Reference: Kendall, "A new measure of rank correlation", Biometrika, 1938.
    """
    first, second = np.triu_indices(orders.shape[-1], 1)
    return np.sign(orders[..., second] - orders[..., first]).mean(-1)


# ---- the lesions


@partial(jax.jit, static_argnums=0)
def _lesioned(known: tuple[Part, ...], variables: Any, lesion: Array) -> dict[str, Any]:
    """The variables after a lesion.

    Args:
      known: the blocks.
      variables: of the network.
      lesion: booleans [B], which blocks are deleted; or integers [B], which block is in each place.
    """
    flat: Any = flatten_dict(variables, sep="/")
    if lesion.dtype != bool:
        for group in interchangeable(known, flat):
            local = np.zeros(len(known), np.int32)
            local[group] = range(len(group))
            paths = [[path for module in known[number].modules for path in owned(module, flat)] for number in group]
            stacks = [jnp.stack([flat[path] for path in column]) for column in zip(*paths, strict=True)]
            for number, own in zip(group, paths, strict=True):
                place = jnp.asarray(local)[lesion[number]]
                flat |= {path: stack[place] for path, stack in zip(own, stacks, strict=True)}
    else:
        for number, part in enumerate(known):
            for path in (path for module in part.ends if part.block.deletable for path in owned(module, flat)):
                flat[path] = jnp.where(lesion[number], _absent(part, path, flat[path]), flat[path])
    return {**variables, **unflatten_dict(flat, sep="/")}


def _absent(part: Part, path: str, value: Array) -> Array:
    """What a number of a deleted block's becomes."""
    leaf = path.rpartition("/")[2]
    if part.block.residual or leaf in ("bias", "mean"):  # a layer all of whose numbers are zero gives zero
        return jnp.zeros_like(value)
    if leaf == "kernel":
        centre = tuple(side // 2 for side in value.shape[:-2])
        return jnp.zeros_like(value).at[centre].set(jnp.eye(value.shape[-1], dtype=value.dtype))
    return jnp.full_like(value, 1 - part.epsilon if leaf == "var" else 1)


def _with(state: State, variables: dict[str, Any]) -> State:
    name = "params" if state.ema_params is None else "ema_params"
    return state.replace(batch_stats=variables["batch_stats"], **{name: variables["params"]})


# ---- the errors


def _begin(
    model: nn.Module, state: State, batches: Batches, chunk: int | None
) -> tuple[tuple[Part, ...], Iterator[tuple[Array, Array]]]:
    """The blocks, and the images."""
    shape, stream = read(model, state, batches, chunk)
    return parts(model, state, shape), stream


def _errors(
    model: nn.Module,
    state: State,
    known: tuple[Part, ...],
    stream: Iterator[tuple[Array, Array]],
    lesions: np.ndarray,
) -> tuple[float, Float[np.ndarray, " m"]]:
    """The errors of the network as it is, and after each lesion, [M, B] as `_lesioned` takes them."""
    none = np.zeros(len(known), bool) if lesions.dtype == bool else np.arange(len(known))
    lesions = np.concatenate([none[None], lesions])
    different, number = np.unique(lesions, axis=0, return_inverse=True)  # the same lesion is often drawn again
    wrong: list[Array] = []
    count = 0
    for images, labels in stream:
        counted = [_wrong(model, known, state.variables, jnp.asarray(one), images, labels) for one in different]
        wrong.append(jnp.stack(counted))
        count += int((labels != REPEATED).sum())
    errors = (np.sum([np.asarray(part, np.int64) for part in wrong], axis=0) / count)[number.ravel()]
    return float(errors[0]), errors[1:]


@partial(jax.jit, static_argnums=(0, 1))
def _wrong(
    model: nn.Module,
    known: tuple[Part, ...],
    variables: Any,
    lesion: Array,
    images: Array,
    labels: Array,
) -> Int[Array, ""]:
    """How many images are not classified as labelled; logits that are not finite classify none."""
    logits: Any = model.apply(_lesioned(known, variables, lesion), images, train=False)
    right = (logits.argmax(-1) == labels) & jnp.isfinite(logits).all(-1)
    return jnp.sum(~right & (labels != REPEATED))


def _deletable(model: nn.Module, known: Sequence[Part]) -> list[int]:
    numbers = [number for number, part in enumerate(known) if part.block.deletable]
    if not numbers:
        raise InputError(
            f"{type(model).__name__} has neither residual blocks called stage1/block1 and so on that hold conv1, nor "
            "convolutions or dense layers without groups whose input and output have one shape; expected one to delete"
        )
    return numbers


def _check_counts(what: str, counts: Sequence[int], repeats: int, most: int | None) -> None:
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; expected at least 1")
    if not counts or min(counts) < 0 or (most is not None and max(counts) > most):
        upper = "of at least 0" if most is None else f"from 0 to {most}, as many blocks as can be deleted"
        raise InputError(f"{what} are {tuple(counts)}; expected whole numbers {upper}")
