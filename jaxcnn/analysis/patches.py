"""What excites a unit most: the images of a stream that it answers to strongest, cut to what it sees of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from jaxcnn.analysis.activations import activation, check_layer, layers, unrolled
from jaxcnn.analysis.checks import check_chunk, check_whole, checked_images
from jaxcnn.analysis.chunks import affordable
from jaxcnn.analysis.receptive_field import Field, Reach, enter, follow, leave, of_layer
from jaxcnn.errors import InputError, RunError
from jaxcnn.state import State

Box: TypeAlias = tuple[int, int, int, int]
"""Top, left, bottom and right in pixels, the last two exclusive: the pixels image[top:bottom, left:right]."""

GREY = 0.5
"""What a patch shows where its receptive field leaves the image; the same for every data set."""


class Patches(NamedTuple):
    """The strongest answers of some units to a stream of images, the strongest first.

    Attributes:
      values: activations.
      indices: of the images in the stream, from 0.
      positions: row and column of the activation in the layer's map; 0 and 0 where the layer has no map.
      boxes: what the unit sees there, see `Box`, not cut off at the image's borders.
      patches: those pixels in [0, 1], see `top_patches`.
      receptive_field: height and width in pixels of what one activation sees, padding around the image included.
    """

    values: Float[np.ndarray, "units k"]
    indices: Int[np.ndarray, "units k"]
    positions: Int[np.ndarray, "units k 2"]
    boxes: Int[np.ndarray, "units k 4"]
    patches: Float[np.ndarray, "units k h w c"]
    receptive_field: tuple[int, int]


def receptive_fields(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Field]:
    """What every layer sees of the image, in closed form.

    Args:
      model: a module called as `model(images, train=...)`.
      image_shape: height and width in pixels, and channels of one image.

    Returns:
      By the names of `activations.layers`, in order of execution; of a module called twice that of its first call.

    Raises:
      InputError: the image is too small for the model, or the model mixes positions in a way that has no closed form.

    Examples:
      >>> from jaxcnn import models
      >>> field = receptive_fields(models.create("lenet5"), (28, 28, 1))["c3"]
      >>> [reach.size for reach in field.reach]
      [14, 14]
    """
    single = unrolled(model)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda key, x: single.init(key, x, train=False), key, images)
    with nn.intercept_methods(_mark):
        program = jax.make_jaxpr(lambda variables, x: single.apply(variables, x, train=False))(variables, images)
    fields: dict[str, Field] = {}

    def apply(layer: _Layer, field: Field) -> Field:
        after = field.seen_by(layer.reach)
        if layer.rank < 4:
            after = after._replace(axes=None)
        if layer.name:
            fields.setdefault(layer.name, after)
        return after

    follow(program, [*[None] * len(jax.tree.leaves(variables)), Field()], apply, loose=True)
    return fields


def box(field: Field, row: int, column: int, image_size: tuple[int, int] | None = None) -> Box:
    """The pixels that a position of a layer sees.

    Args:
      field: of the layer, from `receptive_fields`.
      row: of the position; any for a layer without a map.
      column: of the position.
      image_size: height and width of the image at whose borders the box is cut off; None leaves it as it is, and
        what lies above 0 or beyond the image is padding.
    """
    top, bottom = field.reach[0].interval(row)
    left, right = field.reach[1].interval(column)
    if image_size is None:
        return top, left, bottom + 1, right + 1
    height, width = image_size
    top, left = min(max(top, 0), height), min(max(left, 0), width)
    return top, left, max(top, min(bottom + 1, height)), max(left, min(right + 1, width))


def top_patches(
    model: nn.Module,
    state: State,
    batches: Iterable[ArrayLike],
    layer: str,
    units: Sequence[int] | np.ndarray | None = None,
    *,
    k: int = 9,
    chunk: int | None = None,
) -> Patches:
    """The images that units of a layer answer to strongest, each cut to the unit's receptive field.

    An image counts once for each unit, where its activation is largest: at the first such position, row by row. Of
    images with equal activations the earlier is stronger. The stream is read once, a batch at a time, and of it no more
    is kept than the result, units x k x h x w x C numbers.

    A patch has the height of the receptive field, or of the image where the field is no smaller, whose rows it then
    shows in their places; likewise its width. What the unit does not see, and what is outside of the image, is `GREY`.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      batches: floats [n, H, W, C] in [0, 1]; n may change from batch to batch.
      layer: one of `activations.layers`, of shape (h, w, units) or (units,), which sees the whole image.
      units: numbers of those that are asked about; None takes all.
      k: images for each unit; of a shorter stream all are returned.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Returns:
      Arrays on the host.

    Raises:
      InputError: an argument or a batch is not as expected, there are no images, or the layer's receptive field has no
        closed form.
      RunError: an activation is not finite.

    References: Zeiler & Fergus, "Visualizing and understanding convolutional networks", 2014; Girshick et al., "Rich
    feature hierarchies for accurate object detection and semantic segmentation", 2014.
    """
    check_whole(k=k)
    check_chunk(chunk)
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    best: _Best | None = None
    size = count = 0
    for batch in batches:
        images = checked_images(batch)
        shape = images.shape[1:]
        if best is None:
            best = _begin(model, state, layer, units, k, shape)
            size = min(len(images), chunk or affordable(model, state.variables, shape))
        elif shape != best.image_shape:
            raise InputError(f"images {count} and on have shape {shape}; expected {best.image_shape}, as those before")
        for start in range(0, len(images), size):
            # One size for all, so that one program serves them: what is missing at the end is repeated.
            some = images[np.minimum(np.arange(start, start + size), len(images) - 1)]
            found = _strongest(model, layer, state.variables, some, best.units)
            values, where = (np.asarray(array)[: len(images) - start].T for array in found)
            if not np.isfinite(values).all():
                bad = count + int(np.argmin(np.isfinite(values).all(0)))
                raise RunError(f"{layer} gives NaN or infinity for image {bad}; expected finite activations")
            best.add(values, where, some, count)
            count += values.shape[1]
    if best is None:
        raise InputError("the stream holds no images; expected at least one")
    return best.result()


def _begin(
    model: nn.Module, state: State, layer: str, units: Sequence[int] | np.ndarray | None, k: int, shape: tuple[int, ...]
) -> _Best:
    height, width, channels = shape
    known = layers(model, state, (height, width, channels))
    check_layer(layer, known)
    fields = receptive_fields(model, (height, width, channels))
    output, field = known[layer], fields.get(layer)
    if field is None or len(output) not in (1, 3) or (len(output) == 3 and field.axes not in (None, (1, 2))):
        raise InputError(f"{layer} has the output {output}; expected (h, w, units) or (units,) that sees the image")
    chosen = np.arange(output[-1]) if units is None else np.asarray(units)
    inside = chosen.ndim == 1 and chosen.size > 0 and chosen.min() >= 0 and chosen.max() < output[-1]
    if not inside or chosen.dtype.kind not in "iu":
        raise InputError(f"units are {units}; expected integers in [0, {output[-1]}), as {layer} has")
    columns = output[1] if len(output) == 3 else 1
    sides = [min(reach.size, side) for reach, side in zip(field.reach, shape[:2], strict=True)]
    return _Best(chosen.astype(np.int32), k, field, columns, (height, width, channels), (sides[0], sides[1]))


class _Best:
    """The k strongest answers of each unit so far."""

    def __init__(
        self,
        units: np.ndarray,
        k: int,
        field: Field,
        columns: int,
        image_shape: tuple[int, int, int],
        patch: tuple[int, int],
    ) -> None:
        self.units, self.image_shape = units, image_shape
        self._k, self._field, self._columns, self._patch = k, field, columns, patch
        self._values = np.empty((len(units), 0), np.float32)
        self._images, self._where = (np.empty((len(units), 0), np.int64) for _ in range(2))
        self._patches: list[list[np.ndarray]] = [[] for _ in units]

    def add(self, values: np.ndarray, where: np.ndarray, pixels: Array, first: int) -> None:
        """Takes what is stronger from n images.

        Args:
          values: the strongest activations, [units, n].
          where: their positions in the map, counted row by row.
          pixels: the images, [n or more, H, W, C].
          first: position of the first of them in the stream.
        """
        held = self._values.shape[1]
        images = np.broadcast_to(np.arange(first, first + values.shape[1]), values.shape)
        both = np.concatenate([self._values, values], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, : self._k]  # stable, so that the earlier image is first
        where, images = (np.concatenate(pair, axis=1) for pair in ((self._where, where), (self._images, images)))
        changed = np.flatnonzero((order >= held).any(axis=1))
        # Later in a long stream there is seldom anything to fetch from the device.
        shown = np.asarray(pixels) if len(changed) else np.empty(0)
        for unit in changed:
            before = self._patches[unit]
            self._patches[unit] = [
                before[i] if i < held else self._crop(shown[i - held], int(where[unit, i])) for i in order[unit]
            ]
        self._values, self._where, self._images = (np.take_along_axis(a, order, 1) for a in (both, where, images))

    def result(self) -> Patches:
        """All of them."""
        positions = np.stack(np.divmod(self._where, self._columns), axis=-1)
        boxes = [box(self._field, int(row), int(column)) for row, column in positions.reshape(-1, 2)]
        return Patches(
            self._values,
            self._images,
            positions,
            np.array(boxes, np.int64).reshape(*positions.shape[:2], 4),
            np.array(self._patches, np.float32),
            (self._field.reach[0].size, self._field.reach[1].size),
        )

    def _crop(self, image: np.ndarray, where: int) -> np.ndarray:
        """A copy of what a position sees, so that the image can be forgotten."""
        row, column = divmod(where, self._columns)
        whole = box(self._field, row, column)
        top, left, bottom, right = box(self._field, row, column, self.image_shape[:2])
        patch = np.full((*self._patch, self.image_shape[2]), GREY, np.float32)
        # A field larger than the image is shown where it lies in the image.
        y, x = (
            start if side < full else 0
            for start, side, full in zip(whole[:2], self._patch, self.image_shape[:2], strict=True)
        )
        patch[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
        return patch


@dataclass(eq=False)
class _Layer:
    """A call of a module: its name, what an output sees of the input, and the output's rank, known when it is done."""

    name: str
    reach: tuple[Reach, Reach]
    rank: int = 0


def _mark(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Marks what a module computes if it has a rule, and else only its output."""
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    reach = of_layer(context.module, args)
    layer = _Layer("/".join(context.module.path), (Reach(), Reach()) if reach is None else reach)
    if reach is None:
        output = call(*args, **kwargs)
        if not isinstance(output, jax.Array):
            return output
        output = enter(output, layer)
    else:
        output = call(enter(args[0], layer), *args[1:], **kwargs)
    layer.rank = output.ndim
    return leave(output, layer)


@partial(jax.jit, static_argnums=(0, 1))
def _strongest(
    model: nn.Module, layer: str, variables: Any, images: Array, units: Array
) -> tuple[Float[Array, "n units"], Int[Array, "n units"]]:
    """Each unit's largest activation in every image, and its position in the map, counted row by row."""
    maps = activation(model, layer, variables, images)[..., units].reshape(len(images), -1, len(units))
    return maps.max(1), maps.argmax(1)
