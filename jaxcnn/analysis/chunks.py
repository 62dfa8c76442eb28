"""A bound on memory: how many images a network evaluates at once, and how many of them memory holds."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

MEMORY = 2 * 2**30
"""Bytes that one evaluation of a network and its derivative may take, by `affordable`'s estimate, without a chunk."""

_MOST = 64
_IMAGES = 4  # noise, the noisy image, its derivative, and what is added up


def pieces(count: int, chunk: int) -> Iterator[np.ndarray]:
    """Indices from 0 to `count`, in arrays of one length of at most `chunk`, so that one program serves all.

    Args:
      count: at least 1.
      chunk: at least 1.

    Returns:
      Arrays of indices; the last array repeats the last index where indices are missing.
    """
    number = -(-count // chunk)
    size = -(-count // number)
    return (np.minimum(np.arange(start, start + size), count - 1) for start in range(0, number * size, size))


def join(parts: Sequence[Any], count: int) -> Any:
    """The results of all pieces as one, without what was repeated.

    Args:
      parts: a pytree of arrays for each piece, indices first.
      count: of the indices.
    """
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays)[:count], *parts)


def affordable(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> int:
    """How many images of a shape a network evaluates, and differentiates, in `MEMORY`: at least 1, at most 64.

    Everything that is computed of an image on the way to the logits is counted twice, as its derivative is as large,
    and the image itself four times, for the copies that methods make. Compilers keep less at a time, and need room to
    compute in. The parameters are not counted.

    Args:
      model: a module called as `model(images, train=...)`.
      variables: its variables.
      image_shape: [H, W, C].
    """
    leaves, structure = jax.tree.flatten(variables)
    shapes = tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves)
    image = 4 * math.prod(image_shape)
    return max(
        1, min(_MOST, MEMORY // (2 * _evaluation_bytes(model, structure, shapes, image_shape) + _IMAGES * image))
    )


@functools.cache
def _evaluation_bytes(model: nn.Module, structure: Any, shapes: tuple[Any, ...], image_shape: tuple[int, ...]) -> int:
    """Bytes of everything that is computed on the way from one image to the logits."""
    variables = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return max(1, _bytes(jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image).jaxpr))


def _bytes(program: Jaxpr) -> int:
    total = 0
    for equation in program.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, "jaxpr") or isinstance(value, Jaxpr)]
        if inner:
            repeats = equation.params.get("length", 1)
            total += repeats * sum(_bytes(getattr(body, "jaxpr", body)) for body in inner)
        else:
            avals: Any = [variable.aval for variable in equation.outvars]
            total += sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals)
    return total
