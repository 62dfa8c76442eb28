"""A data set as a stream of labelled batches, of which any number of programs are asked the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.analysis.checks import check_chunk, checked_images, checked_targets
from jaxcnn.analysis.chunks import affordable
from jaxcnn.errors import InputError
from jaxcnn.state import State

Batches: TypeAlias = Iterable[tuple[ArrayLike, ArrayLike]]
"""Images, floats [n, H, W, C] in [0, 1], with their labels, integers [n]; n may change from batch to batch."""

REPEATED = -1
"""The label of an image that only fills up a piece and does not count."""


def read(
    model: nn.Module, state: State, batches: Batches, chunk: int | None = None
) -> tuple[tuple[int, int, int], Iterator[tuple[Array, Array]]]:
    """The shape of the images, and all of them once in pieces of one size, so that one program serves all pieces.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [n, K].
      state: its state.
      batches: see `Batches`; only the first is read before the pieces are asked for.
      chunk: images in a piece; None takes as many as `chunks.MEMORY` holds, and a smaller first batch decides too.

    Returns:
      Height, width and channels; and pieces, images [size, H, W, C] with labels [size], `REPEATED` of what fills up.

    Raises:
      InputError: there are no images, or chunk or a batch is not as expected.
    """
    check_chunk(chunk)
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise InputError("the stream holds no images; expected at least one")
    pixels = checked_images(first[0])
    height, width, channels = pixels.shape[1:]
    size = min(len(pixels), chunk or affordable(model, state.variables, pixels.shape[1:]))
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), state.variables, pixels)

    def pieces() -> Iterator[tuple[Array, Array]]:
        for batch, targets in itertools.chain([first], rest):
            images = checked_images(batch)
            if images.shape[1:] != pixels.shape[1:]:
                raise InputError(
                    f"the images of a batch have shape {images.shape[1:]}; expected {pixels.shape[1:]}, as before"
                )
            labels = np.asarray(checked_targets(targets, len(images), logits.shape[-1]))
            for start in range(0, len(images), size):
                some = np.arange(start, start + size)
                inside = np.minimum(some, len(images) - 1)
                yield images[inside], jnp.asarray(np.where(some < len(images), labels[inside], REPEATED))

    return (height, width, channels), pieces()
