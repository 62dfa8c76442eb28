"""What the attribution methods share: what is explained, a bound on memory, and what becomes of maps that are dead.

A method is called as `method(model, state, images, targets=None, *, key=None, chunk=None)` and returns a map for each
image. Its module lists it under METHODS.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key

from jaxcnn.analysis.checks import check_chunk, checked_images, checked_targets, taking
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.max_pooling import faster
from jaxcnn.analysis.rewriting import rewrite
from jaxcnn.errors import InputError, RunError, unknown_name
from jaxcnn.registry import discover
from jaxcnn.state import State, check_hashable

Targets: TypeAlias = ArrayLike | Sequence[int] | Callable[[Array], Array] | None
"""What is explained: an integer, one class for all images; integers [N], a class for each; a function from logits
[n, K] to a number for each image, [n]; None, the class that the network predicts for each.

The program is compiled for a function, so the same one again costs nothing and a new lambda compiles anew.
"""


class DeadMapWarning(UserWarning):
    """A map is zero everywhere: what is explained does not depend on the image, as far as the method can see.

    Attributes:
      dead: booleans [N], which maps are.
    """

    def __init__(self, dead: Bool[np.ndarray, " n"]) -> None:
        """Says it of the images by their places in the batch.

        Args:
          dead: booleans [N].
        """
        self.dead = dead
        super().__init__(self.said([f"image {i}" for i in range(len(dead))]))

    def said(self, names: Sequence[str]) -> str:
        """It in a sentence.

        Args:
          names: what the images are called.
        """
        which = [name for name, dead in zip(names, self.dead, strict=True) if dead]
        listed = ", ".join(which[:5] + ["..."] * (len(which) > 5))
        return (
            f"{len(which)} of {len(names)} maps are zero everywhere ({listed}): what is explained does not depend on "
            "the image there, or it is saturated"
        )


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
      function: called as `function(model, state, images, targets, key=..., chunk=...)`.
      title: as it is called in figures.
      signed: whether a negative value speaks against what is explained.
      reference: the paper.
    """

    function: Callable[..., Array]
    title: str
    signed: bool
    reference: str

    def heat(self, maps: Float[Array, "n h w *c"]) -> Float[Array, "n h w"]:
        """One number for each pixel: of channels the sum where the method is signed, else the largest magnitude.

        Args:
          maps: what the function returned.
        """
        if maps.ndim == 3:
            return maps
        return maps.sum(-1) if self.signed else jnp.abs(maps).max(-1)


@cache
def methods() -> dict[str, Method]:
    """Every attribution method by its name, sorted."""
    return discover("jaxcnn.analysis", "METHODS")


def method(name: str) -> Method:
    """The attribution method of a name.

    Raises:
      InputError: there is none; the message lists the nearest names.
    """
    if name not in methods():
        raise unknown_name("attribution method", name, methods())
    return methods()[name]


def logits(model: nn.Module, variables: Any, images: Array) -> Any:
    """What a network says of images [n, H, W, C] in inference, [n, K] if it is a classifier."""
    return model.apply(variables, images, train=False)


@dataclass(frozen=True)
class Score:
    """The number that is explained, one for each image: a function of the logits that a program is compiled for.

    Attributes:
      output: whether a class stands for its logit or for its probability.
      function: in place of a class.
    """

    output: Literal["logit", "probability"] = "logit"
    function: Callable[[Array], Array] | None = None

    def __call__(self, logits: Float[Array, "n k"], classes: Array | None) -> Float[Array, " n"]:
        """The scores.

        Args:
          logits: of n images.
          classes: [n], or None for the predicted ones; a function ignores them.

        Raises:
          InputError: the function gives no number for each image.
        """
        if self.function is not None:
            scores = self.function(logits)
            if jnp.shape(scores) != logits.shape[:1]:
                raise InputError(
                    f"the target function gave shape {jnp.shape(scores)} for logits {logits.shape}; expected one "
                    f"number for each image, {logits.shape[:1]}"
                )
            return scores
        values = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if self.output == "probability":
            values = jax.nn.softmax(values)
        chosen = logits.argmax(-1) if classes is None else classes
        return jnp.take_along_axis(values, chosen[:, None], 1)[:, 0]


@dataclass(frozen=True)
class Question:
    """Images and what is asked about them, checked.

    Attributes:
      model: the network.
      variables: its variables.
      images: [N, H, W, C] in [0, 1].
      score: what is explained.
      classes: [N], or None for the predicted ones or where the score is a function.
      companions: pytree of arrays [N, ...] that go along with the images: their keys, which no chunk changes, unless
        a method puts something else there.
      chunk: images that the network evaluates at once.
    """

    model: nn.Module
    variables: Any
    images: Float[Array, "n h w c"]
    score: Score
    classes: Array | None
    companions: Any
    chunk: int

    @property
    def targets(self) -> Targets:
        """What asks the same of other images."""
        return self.classes if self.score.function is None else self.score.function

    @property
    def network(self) -> tuple[nn.Module, Score]:
        """What programs are compiled for."""
        return self.model, self.score

    def map(self, function: Callable[[Array, Array | None, Any], Any]) -> Any:
        """What a function gives for all images, each evaluated once.

        Args:
          function: of images [n, H, W, C], their classes [n] or None, and their companions; n is always the same, and
            the first axis of whatever it returns.
        """
        parts = [function(*self._some(some)) for some in pieces(len(self.images), self.chunk)]
        return join(parts, len(self.images))

    def total(self, samples: int, function: Callable[[Array, Array | None, Any, Array, Array], Any]) -> Any:
        """What a function gives for all images, summed over several evaluations of each.

        Args:
          samples: evaluations of each image.
          function: of images [n, H, W, C], their classes [n] or None, their companions, numbers [s] of samples, and
            the samples' weights [s], 1, or 0 for one that is not to be counted; n s is always the same, and at most
            the chunk. Returns the weighted sums over the s samples, n being the first axis.

        Returns:
          The sums over all samples.
        """
        sums = []
        count = len(self.images)
        for some in pieces(count, max(1, self.chunk // samples)):
            total = None
            seen = -1
            for numbers in pieces(samples, self.chunk):
                weights = np.diff(numbers, prepend=seen) > 0  # what repeats counts once
                seen = numbers[-1]
                part = function(*self._some(some), jnp.asarray(numbers), jnp.asarray(weights, jnp.float32))
                total = part if total is None else jax.tree.map(jnp.add, total, part)
            sums.append(total)
        return join(sums, count)

    def resolved(self) -> Question:
        """The same with the classes that the network predicts, so that they stay when the images are changed."""
        if self.classes is not None or self.score.function is not None:
            return self
        return replace(self, classes=self.map(lambda images, *_: _predicted(self.model, self.variables, images)))

    def scores(self, images: Array) -> Float[Array, " n"]:
        """The score of other images in the place of these.

        Args:
          images: [N, H, W, C].
        """
        return replace(self, images=images).map(
            lambda images, classes, _: _scores(self.network, self.variables, images, classes)
        )

    def take(self, indices: np.ndarray) -> Question:
        """The same about some of the images."""
        images, classes, companions = self._some(indices)
        return replace(self, images=images, classes=classes, companions=companions)

    def _some(self, indices: np.ndarray) -> tuple[Array, Array | None, Any]:
        chosen = jax.tree.map(lambda values: values[indices], self.companions)
        return self.images[indices], None if self.classes is None else self.classes[indices], chosen


def ask(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    output: Literal["logit", "probability"] = "logit",
) -> Question:
    """The question that a method's arguments put.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: see `Targets`.
      key: from which the images' keys are made; None is `jax.random.key(0)`.
      chunk: images evaluated at once; None takes what `chunks.MEMORY` holds, 64 at most.
      output: whether a class stands for its logit or for its probability.

    Raises:
      InputError: images, targets or chunk have another shape, type or range, the model takes other images, returns no
        logits [N, K] or holds what no program can be compiled for.
    """
    check_hashable(model)
    pixels = checked_images(images)
    check_chunk(chunk)
    count, variables = len(pixels), state.variables
    with taking(model, pixels.shape[1:]):
        shape = getattr(_logits.eval_shape(model, variables, pixels), "shape", ())
    if len(shape) != 2 or shape[0] != count:
        raise InputError(f"the model returned shape {shape}; expected logits [{count}, K]")
    function = classes = None
    if callable(targets):
        function = targets
    elif targets is not None:
        classes = checked_targets(targets, *shape)
    return Question(
        model,
        variables,
        pixels,
        Score(output, function),
        classes,
        jax.random.split(jax.random.key(0) if key is None else key, count),
        chunk or affordable(model, variables, pixels.shape[1:]),
    )


def finish(maps: Float[Array, "n h w *c"]) -> Float[Array, "n h w *c"]:
    """The maps, looked at: inside a caller's jit there is nothing to see.

    Raises:
      RunError: a map is not finite.

    Warns:
      DeadMapWarning: maps are zero everywhere.
    """
    if isinstance(maps, Tracer):
        return maps
    axes = tuple(range(1, maps.ndim))
    finite, dead = (np.asarray(values) for values in (jnp.isfinite(maps).all(axes), ~jnp.any(maps, axes)))
    if not finite.all():
        raise RunError(
            f"the map of image {int(np.argmin(finite))} is not finite; expected a network with finite gradients"
        )
    if dead.any():
        warnings.warn(DeadMapWarning(dead), stacklevel=3)
    return maps


@compiled(static_argnums=0)
def derivatives(
    network: tuple[nn.Module, Score], variables: Any, images: Array, classes: Array | None, _: Any = None
) -> Float[Array, "n h w c"]:
    """The derivative of each image's score.

    Args:
      network: `Question.network`.
      variables: of the model.
      images: [n, H, W, C].
      classes: [n], or None.
    """
    model, score = network
    said = rewrite(partial(logits, model), faster)
    return jax.grad(lambda x: score(said(variables, x), classes).sum())(images)


def derivatives_at_copies(
    network: tuple[nn.Module, Score], variables: Any, copies: Float[Array, "n s h w c"], classes: Array | None
) -> Float[Array, "n s h w c"]:
    """The derivative of the score at several copies of each image.

    Args:
      network: `Question.network`.
      variables: of the model.
      copies: s of each of n images.
      classes: [n], or None.
    """
    return derivatives(network, variables, *_flat(copies, classes)).reshape(copies.shape)


def scores_at_copies(
    network: tuple[nn.Module, Score], variables: Any, copies: Float[Array, "n s h w c"], classes: Array | None
) -> tuple[Float[Array, "n s"], Float[Array, "n s k"]]:
    """The scores and the logits of several copies of each image.

    Args:
      network: `Question.network`.
      variables: of the model.
      copies: s of each of n images.
      classes: [n], or None.
    """
    model, score = network
    images, repeated = _flat(copies, classes)
    said = logits(model, variables, images)
    return score(said, repeated).reshape(copies.shape[:2]), said.reshape(*copies.shape[:2], -1)


def _flat(copies: Array, classes: Array | None) -> tuple[Array, Array | None]:
    """All copies of all images, and the class of each."""
    return copies.reshape(-1, *copies.shape[2:]), None if classes is None else jnp.repeat(classes, copies.shape[1])


def normal(keys: Key[Array, " n"], numbers: Array, shape: tuple[int, ...]) -> Float[Array, "n s ..."]:
    """Standard normal noise for some samples of each image, the same whichever other samples are drawn with them.

    Args:
      keys: of the images.
      numbers: [s], of the samples.
      shape: of the noise for one sample.
    """
    return jax.vmap(
        lambda key: jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape))(numbers)
    )(keys)


_logits = jax.jit(logits, static_argnums=0)


@compiled(static_argnums=0)
def _predicted(model: nn.Module, variables: Any, images: Array) -> Array:
    return logits(model, variables, images).argmax(-1)


@compiled(static_argnums=0)
def _scores(network: tuple[nn.Module, Score], variables: Any, images: Array, classes: Array | None) -> Array:
    model, score = network
    return score(logits(model, variables, images), classes)
