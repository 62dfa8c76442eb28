"""Fooling images by evolution: MAP-Elites, which keeps the best image of every class and breeds from all of them."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxcnn.analysis.attribution import logits
from jaxcnn.analysis.checks import check_chunk, check_whole, checked_targets
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.cppn import Cppn
from jaxcnn.analysis.direct import Direct
from jaxcnn.analysis.fooling import classes
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.state import State

Encoding: TypeAlias = Direct | Cppn
EncodingName: TypeAlias = Literal["cppn", "direct"]
"""How images are written: as graphs (CPPNs), or pixel by pixel."""

ENCODINGS: dict[str, type[Encoding]] = {"cppn": Cppn, "direct": Direct}


_DRAWN = 64
"""Images of an archive that are drawn at once."""


class Archive(NamedTuple):
    """The best that evolution has found, which is all that it goes on from.

    Attributes:
      genomes: pytree of arrays [K, ...], one genome for each class.
      confidences: probability of the class that each is kept for, in [0, 1].
      generation: generations so far; the first one is the random start.
    """

    genomes: Any
    confidences: Float[Array, " k"]
    generation: Int[Array, ""]


class Evolution(NamedTuple):
    """An evolution, or a part of one.

    Attributes:
      archive: at its end.
      history: confidences after each generation of this part.
    """

    archive: Archive
    history: Float[np.ndarray, "g k"]


def map_elites(
    model: nn.Module,
    state: State,
    image_shape: tuple[int, int, int],
    *,
    key: Key[Array, ""],
    encoding: EncodingName = "cppn",
    generations: int = 200,
    population: int = 200,
    archive: Archive | None = None,
    chunk: int | None = None,
) -> Evolution:
    """Evolves images of which a network is sure that they show its classes, all classes at once.

    Every generation makes a population of children, each of a parent drawn from the archive and mutated, and each
    takes the place of those kept images whose class the network is less sure of. The first population is random.
    Published for MNIST: 200 children a generation, 200 generations; for ImageNet: 5,000 generations with CPPNs and
    20,000 with the direct encoding.

    Generation g depends on the archive before it and on fold_in(key, g) alone, so an evolution that is interrupted and
    goes on from its archive gives the same bits as one that is not, with the same chunk on the same kind of device.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [n, K].
      state: its state.
      image_shape: height and width in pixels, and channels.
      key: of everything that is drawn.
      encoding: how images are written and changed: as graphs (CPPNs), or pixel by pixel.
      generations: after which to end, counted from the random start, at least 1.
      population: children of a generation, at least 1.
      archive: to go on from; the memory that it takes is used again, so that it is gone afterwards.
      chunk: images that are drawn and evaluated at once; None takes as many as `chunks.MEMORY` holds.

    Raises:
      InputError: an argument is out of range, the model returns no logits [n, K], or the archive is another network's
        or another encoding's.

    Reference: Nguyen, Yosinski & Clune, "Deep neural networks are easily fooled", 2015; Mouret & Clune, "Illuminating
    search spaces by mapping elites", 2015.
    """
    written = encoding_of(encoding, image_shape)
    begun = 0 if archive is None else int(archive.generation)
    check_whole(population=population, generations=generations)
    check_chunk(chunk)
    for name, value, ok, expected in (
        ("population", population, population >= 1, "at least 1"),
        ("generations", generations, generations > begun, f"more than the {begun} that there were"),
    ):
        if not ok:
            raise InputError(f"{name} is {value}; expected {expected}")
    best = begin(model, state, image_shape, encoding) if archive is None else archive
    asked = jax.eval_shape(lambda: begin(model, state, image_shape, encoding))
    shapes, expected = (jax.tree.map(jnp.shape, archive) for archive in (best, asked))
    if shapes != expected:
        raise InputError(f"the archive holds {shapes}; expected {expected}, for this network and encoding")
    size = min(population, chunk or affordable(model, state.variables, image_shape))
    history = []
    for _ in range(begun, generations):
        best = _generation(model, written, population, size, state.variables, best, key)
        history.append(best.confidences + 0)  # a copy: the next generation writes over the archive
    return Evolution(best, np.stack(history))


def begin(
    model: nn.Module, state: State, image_shape: tuple[int, int, int], encoding: EncodingName = "cppn"
) -> Archive:
    """An archive before the first generation, in which nothing is kept yet: any child is better than what it holds.

    Args:
      model: see `map_elites`.
      state: its state.
      image_shape: height and width in pixels, and channels.
      encoding: of the images.

    Raises:
      InputError: there is no such encoding, or the model returns no logits [n, K].
    """
    written, count = encoding_of(encoding, image_shape), classes(model, state, image_shape)
    genomes = jax.vmap(written.create)(jax.random.split(jax.random.key(0), count))
    return Archive(genomes, jnp.full(count, -1.0), jnp.zeros((), jnp.int32))


def images(
    archive: Archive, encoding: EncodingName, image_shape: tuple[int, int, int], *, targets: ArrayLike | None = None
) -> Float[Array, "n h w c"]:
    """The images that an archive keeps, in [0, 1].

    Args:
      archive: of an evolution.
      encoding: of its genomes.
      image_shape: height and width in pixels, and channels.
      targets: integers [N], for which classes; None for all.

    Raises:
      InputError: there is no such encoding or class.
    """
    written, count = encoding_of(encoding, image_shape), len(archive.confidences)
    asked = np.arange(count) if targets is None else targets
    chosen = checked_targets(asked, np.size(asked), count)
    parts = [_render(written, archive.genomes, chosen[some]) for some in pieces(len(chosen), _DRAWN)]
    return join(parts, len(chosen))


def encoding_of(name: str, image_shape: tuple[int, int, int]) -> Encoding:
    """The encoding of a name.

    Raises:
      InputError: there is none, or it does not draw images of that shape.
    """
    if name not in ENCODINGS:
        raise unknown_name("encoding", name, ENCODINGS)
    if len(image_shape) != 3 or image_shape[2] not in (1, 3) or min(image_shape) < 1:
        raise InputError(f"image_shape is {image_shape}; expected height, width and 1 or 3 channels")
    return ENCODINGS[name](image_shape)


@partial(jax.jit, static_argnums=0)
def _render(encoding: Encoding, genomes: Any, some: Array) -> Array:
    return encoding.render(jax.tree.map(lambda leaf: leaf[some], genomes))


@compiled(static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _generation(
    model: nn.Module,
    encoding: Encoding,
    population: int,
    chunk: int,
    variables: Any,
    archive: Archive,
    key: Key[Array, ""],
) -> Archive:
    """The archive after one more generation."""
    key = jax.random.fold_in(key, archive.generation)
    numbers = jnp.asarray(np.stack(list(pieces(population, chunk))))  # the last child again where one is missing

    def evaluated(numbers: Array) -> tuple[Any, Array]:
        """Some children, and how sure the network is of every class, [n, K]."""

        def child(number: Array) -> Any:
            create_key, parent_key, mutate_key = jax.random.split(jax.random.fold_in(key, number), 3)
            parent = jax.random.randint(parent_key, (), 0, len(archive.confidences))
            genome = jax.tree.map(lambda leaf: leaf[parent], archive.genomes)
            born = encoding.mutate(mutate_key, genome, archive.generation)
            random = encoding.create(create_key)
            return jax.tree.map(partial(jnp.where, archive.generation == 0), random, born)

        children = jax.vmap(child)(numbers)
        said = logits(model, variables, encoding.render(children))
        sure = jax.nn.softmax(said.astype(jnp.float32))
        return children, jnp.where(jnp.isnan(sure), -1, sure)

    children, sure = jax.lax.map(evaluated, numbers)
    children, sure = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (children, sure))
    best = sure.argmax(0)
    highest = sure.max(0)
    better = highest > archive.confidences

    def replaced(kept: Array, born: Array) -> Array:
        return jnp.where(better.reshape(-1, *(1,) * (kept.ndim - 1)), born[best], kept)

    genomes = jax.tree.map(replaced, archive.genomes, children)
    return Archive(genomes, jnp.maximum(highest, archive.confidences), archive.generation + 1)
