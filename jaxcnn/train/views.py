"""Predictions averaged over several views of an image: ten crops, or a network slid over the whole image."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float, Float64

from jaxcnn.data import crops, images
from jaxcnn.data.crops import Box
from jaxcnn.data.photographs import PhotographSource
from jaxcnn.errors import InputError
from jaxcnn.layers.convolution import convolve
from jaxcnn.layers.pooling import AdaptiveAveragePool
from jaxcnn.state import State

Pair = tuple[int, int]

SCALES = (256, 384, 512)
"""Shorter sides in pixels at which VGG's authors test a network trained at scales from 256 to 512."""


def class_scores(
    model: nn.Module, variables: Any, pixels: Float[Array, "n h w c"], flattened: Mapping[str, Pair]
) -> Float[Array, "n p q k"]:
    """The logits at every place of a whole image, the dense layers applied as convolutions.

    A dense layer that sees a flattened map of 7x7 becomes a 7x7 convolution without padding, and those after it 1x1
    convolutions; the pooling that would make the map 7x7 is left out. An image of the network's own size gives the
    ordinary logits at one place. A larger one gives, at place (p, q), the logits of the window that begins
    (p, q) strides of the map from its corner, except that the convolutions see pixels beyond that window's edges
    where the window alone would have zeros.

    Args:
      model: the network.
      variables: its parameters and batch statistics.
      pixels: [N, H, W, C] in [0, 1].
      flattened: the dense layers that see a flattened map, each with its height and width, as `TorchNames` lists
        them; with none, as where the map is averaged over the whole image, there is one place.

    Returns:
      [N, P, Q, k].

    Raises:
      InputError: the image is smaller than what the dense layers see, or the network takes images of one size alone.

    Reference: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015,
    section 3.2.
    """
    last: list[Array] = []

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if isinstance(module, AdaptiveAveragePool) and flattened and context.method_name == "__call__":
            output = args[0]
        elif isinstance(module, nn.Dense) and "/".join(module.path) in flattened:
            params = module.variables["params"]
            kernel = params["kernel"].reshape(*flattened["/".join(module.path)], last[-1].shape[-1], -1)
            x, kernel, bias = promote_dtype(last[-1], kernel, params["bias"], dtype=module.dtype)
            output = convolve(x, kernel) + bias.reshape(1, 1, 1, -1)
        else:
            output = call(*args, **kwargs)
        if isinstance(output, jax.Array) and output.ndim == 4:
            last[:] = [output]
        return output

    try:
        with nn.intercept_methods(intercept):
            logits: Any = model.apply(variables, pixels, train=False)
    except flax.errors.ScopeParamShapeError:
        size = "x".join(map(str, pixels.shape[1:3]))
        raise InputError(
            f"images are {size}, and {type(model).__name__} has dense layers for one size alone; expected a network "
            "that can be slid over larger images"
        ) from None
    return logits.reshape(len(pixels), *(logits.shape[1:3] if logits.ndim == 4 else (1, 1)), -1)


class Views(nn.Module):
    """A network that looks at several views of each image.

    z(image) = log mean over views of softmax(model(view))

    The views pass one after the other, so they take no more memory than one; a class's softmax is that of its scores
    averaged over the places where the view has them.

    Attributes:
      model: the network.
      boxes: the views.
      size: height and width in pixels of a view.
      padding: zeros on every side of the image before the views are taken.
      flattened: the items of what `class_scores` takes, for views larger than the input; None for ordinary logits.
    """

    model: nn.Module
    boxes: tuple[Box, ...]
    size: Pair
    padding: int = 0
    flattened: tuple[tuple[str, Pair], ...] | None = None

    def __call__(self, pixels: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n k"]:
        """Maps images [N, H, W, C] in [0, 1] to log probabilities [N, num_classes]."""
        del train  # views are for testing
        variables, model = self.variables, self.model.clone(parent=None)
        sides = (self.padding, self.padding)
        padded = jnp.pad(pixels, ((0, 0), sides, sides, (0, 0)))

        def log_probabilities(box: tuple[Array, Array, Array]) -> Array:
            view = crops.take(padded, *box, self.size)
            if self.flattened is None:
                scores: Any = model.apply(variables, view, train=False)
            else:
                scores = class_scores(model, variables, view, dict(self.flattened)).mean((1, 2))
            return jax.nn.log_softmax(scores)

        tops, lefts, mirrored = zip(*self.boxes, strict=True)
        places = (jnp.array(tops), jnp.array(lefts), jnp.array(mirrored))
        each = jax.lax.map(log_probabilities, places)
        return jax.nn.logsumexp(each, axis=0) - math.log(len(self.boxes))


class LogMean:
    """log of the mean of probabilities that arrive one after the other as logits, for examples 0, 1, ...

    Args:
      examples: how many there are.
    """

    def __init__(self, examples: int) -> None:
        self._sums: Float64[np.ndarray, "examples k"] | None = None
        self._counts = np.zeros(examples, np.int64)

    def add(self, rows: Iterable[int], logits: Float[np.ndarray, "n k"]) -> None:
        """Adds the softmax of each row of logits to the example of its number; several may be of one example."""
        wide = logits.astype(np.float64)
        logs = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
        if self._sums is None:
            self._sums = np.full((len(self._counts), logs.shape[1]), -np.inf)
        for row, log in zip(rows, logs, strict=True):
            self._sums[row] = np.logaddexp(self._sums[row], log)
            self._counts[row] += 1

    def result(self) -> Float[np.ndarray, "examples k"]:
        """The logs, in float32."""
        assert self._sums is not None
        assert self._counts.all()
        return (self._sums - np.log(self._counts)[:, None]).astype(np.float32)


def dense_photographs(
    model: nn.Module,
    state: State,
    photographs: PhotographSource,
    flattened: Mapping[str, Pair],
    *,
    scales: Sequence[int] = SCALES,
    batch_size: int = 128,
) -> Float[np.ndarray, "n k"]:
    """log of the mean, over scales and mirror images, of the softmax of the class scores averaged over the photograph.

    Photographs of one shape share a batch, on one device; every shape is compiled once.

    Args:
      model: the network.
      state: its state.
      photographs: the photographs, scaled whole and not cropped; their `image_shape` is the network's input.
      flattened: see `class_scores`.
      scales: shorter sides in pixels.
      batch_size: photographs at once.

    Raises:
      InputError: there is no scale, or one is smaller than the network's input, or a photograph cannot be read.

    Reference: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015,
    section 3.2.
    """
    height, width, channels = photographs.image_shape
    if not scales or min(scales) < max(height, width):
        raise InputError(f"scales are {tuple(scales)}; expected some of at least the network's {max(height, width)}")
    mean = LogMean(len(photographs))
    shapes = [images.inspect(path)[0] for path in photographs.paths]
    for scale in scales:
        groups: dict[Pair, list[int]] = defaultdict(list)
        for index, shape in enumerate(shapes):
            groups[crops.scaled_shape(shape, scale)].append(index)
        for shape, members in groups.items():
            size = min(batch_size, len(members))
            for first in range(0, len(members), size):
                rows = members[first : first + size]
                batch = np.zeros((size, *shape, channels), np.uint8)
                for place, row in enumerate(rows):
                    whole = images.decode(photographs.paths[row], channels, None, upright=True)
                    batch[place] = crops.resized(whole, *shape)
                logits = np.asarray(_both_ways(model, tuple(flattened.items()), state.variables, batch))
                for one in logits:
                    mean.add(rows, one[: len(rows)])
    return mean.result()


@partial(jax.jit, static_argnums=(0, 1))
def _both_ways(model: nn.Module, flattened: tuple[tuple[str, Pair], ...], variables: Any, pixels: Array) -> Array:
    pictures = pixels.astype(jnp.float32) / 255
    both = [class_scores(model, variables, way, dict(flattened)) for way in (pictures, pictures[:, :, ::-1])]
    return jnp.stack([scores.mean((1, 2)) for scores in both])
