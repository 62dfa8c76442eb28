"""What the adversarial attacks share: their goal, a bound on memory, and what is measured of what they find.

An attack is called as `attack(model, state, images, labels, *, targets=None, chunk=None, ...)` and returns images close
to the given ones that the network takes for another class, or for a target. Its module lists it under ATTACKS.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxcnn.analysis.attribution import logits
from jaxcnn.analysis.checks import check_chunk, checked_images, checked_targets
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.errors import InputError, RunError, unknown_name
from jaxcnn.registry import discover
from jaxcnn.state import State

Norm: TypeAlias = Literal["linf", "l2"]
"""How a change of an image is measured: its largest number, or its Euclidean norm."""


class Adversarial(NamedTuple):
    """Images that an attack made.

    Attributes:
      images: in [0, 1].
      success: whether the network takes them for another class than the label, or for the target.
      classes: that the network predicts for them.
      l2: Euclidean norm of the change, over pixels and channels.
      linf: largest magnitude of the change.
    """

    images: Float[Array, "n h w c"]
    success: Bool[Array, " n"]
    classes: Int[Array, " n"]
    l2: Float[Array, " n"]
    linf: Float[Array, " n"]


@dataclass(frozen=True)
class Attack:
    """An adversarial attack.

    Attributes:
      function: called as `function(model, state, images, labels, ...)`; what else it takes is in its signature, and
        `epsilon` if it looks for an image within that distance rather than for the nearest.
      title: as it is called in figures.
      norm: of the change that it bounds or minimises.
      reference: the paper.
    """

    function: Callable[..., Adversarial]
    title: str
    norm: Norm
    reference: str

    @property
    def bounded(self) -> bool:
        """Whether it looks for an image within a given distance; otherwise it looks for the nearest."""
        return self.takes("epsilon")

    def takes(self, option: str) -> bool:
        """Whether it has an option of this name."""
        return option in inspect.signature(self.function).parameters

    def __call__(
        self,
        model: nn.Module,
        state: State,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: Key[Array, ""] | None = None,
        chunk: int | None = None,
        **options: Any,
    ) -> Adversarial:
        """What the attack makes of images.

        Args:
          model: see `attacks.fgsm`, as all arguments.
          state: its state.
          images: floats [N, H, W, C] in [0, 1].
          labels: integers [N].
          key: of what is drawn at random, if anything is.
          chunk: images evaluated at once.
          **options: of the attack, as epsilon, targets and steps; None stands for one that is not given.

        Raises:
          InputError: the attack has no such option, or an argument is not as expected.
          RunError: a gradient is not finite.
        """
        chosen = {name: value for name, value in options.items() if value is not None}
        for name, value in chosen.items():
            if not self.takes(name):
                raise InputError(f"{name} given to {self.title}: {value}; expected none, as this attack has no {name}")
        keys = {"key": key} if self.takes("key") else {}
        return self.function(model, state, images, labels, chunk=chunk, **keys, **chosen)


@cache
def attacks() -> dict[str, Attack]:
    """Every attack by its name, sorted."""
    return discover("jaxcnn.analysis", "ATTACKS")


def attack(name: str) -> Attack:
    """The attack of a name.

    Raises:
      InputError: there is none; the message lists the nearest names.
    """
    if name not in attacks():
        raise unknown_name("attack", name, attacks())
    return attacks()[name]


@dataclass(frozen=True)
class Goal:
    """Images and what the network shall say of them, checked.

    Attributes:
      model: the network.
      variables: its variables.
      images: [N, H, W, C] in [0, 1].
      classes: [N], the targets of a targeted attack, else the labels.
      targeted: whether the network shall say the classes, rather than anything else.
      chunk: images that the network evaluates at once.
    """

    model: nn.Module
    variables: Any
    images: Float[Array, "n h w c"]
    classes: Int[Array, " n"]
    targeted: bool
    chunk: int

    @property
    def network(self) -> tuple[nn.Module, bool]:
        """What programs are compiled for."""
        return self.model, self.targeted

    def reach(self, function: Callable[..., Array], companions: Any = (), *, evaluations: int = 1) -> Adversarial:
        """What a function makes of all images, measured.

        Args:
          function: of the network, its variables, images [n, H, W, C], their classes [n], and their companions; n is
            always the same. Returns images of that shape.
          companions: arrays [N, ...] that go along with the images.
          evaluations: of the network, for each image, that the function makes at once.

        Raises:
          RunError: an image of the function's is not finite.
        """
        parts = []
        for some in pieces(len(self.images), max(1, self.chunk // evaluations)):
            images, classes = self.images[some], self.classes[some]
            beside = (values[some] for values in companions)
            found = function(self.network, self.variables, images, classes, *beside)
            parts.append(_measured(self.network, self.variables, images, classes, found))
        whole = join(parts, len(self.images))
        finite = np.isfinite(np.asarray(whole.linf))
        if not finite.all():
            raise RunError(
                f"what was made of image {int(np.argmin(finite))} is not finite; expected a network with finite "
                "gradients"
            )
        return whole


def aim(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    chunk: int | None = None,
) -> Goal:
    """The goal that an attack's arguments set.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K] of at least two classes.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N], the classes that are right.
      targets: what the network shall say: an integer for all images or integers [N]; None is anything but the labels.
      chunk: images evaluated at once; None takes what `chunks.MEMORY` holds, 64 at most.

    Raises:
      InputError: an argument has another shape, type or range, or the model returns no such logits.
    """
    pixels = checked_images(images)
    check_chunk(chunk)
    count, variables = len(pixels), state.variables
    shape = getattr(jax.eval_shape(partial(logits, model), variables, pixels), "shape", ())
    if len(shape) != 2 or shape[0] != count or shape[1] < 2:
        raise InputError(f"the model returned shape {shape}; expected logits [{count}, K] of at least two classes")
    classes = checked_targets(labels, *shape)
    if targets is not None:
        classes = checked_targets(jnp.full(count, targets) if jnp.ndim(targets) == 0 else targets, *shape)
    size = chunk or affordable(model, variables, pixels.shape[1:])
    return Goal(model, variables, pixels, classes, targets is not None, size)


def check_size(name: str, value: float) -> None:
    """Raises an InputError unless the value is finite and not negative."""
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} is {value}; expected a finite number of at least 0")


def norms(changes: Float[Array, "*n h w c"]) -> Float[Array, "*n"]:
    """Euclidean norms over pixels and channels."""
    return jnp.sqrt((changes**2).sum((-3, -2, -1)))


def broadcast(values: Shaped[Array, "*n"]) -> Shaped[Array, "*n 1 1 1"]:
    """One value for each image, of a shape that goes with images."""
    return values[..., None, None, None]


def rivals(logits: Float[Array, "n k"], classes: Int[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
    """The logits of the classes, and those of all others, in which the classes' own are minus infinity."""
    own = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
    return jnp.where(own, logits, 0).sum(-1), jnp.where(own, -jnp.inf, logits)


@partial(jax.jit, static_argnums=0)
def _measured(
    network: tuple[nn.Module, bool], variables: Any, images: Array, classes: Array, found: Array
) -> Adversarial:
    model, targeted = network
    predicted = logits(model, variables, found).argmax(-1)
    change = found - images
    success = (predicted == classes) if targeted else (predicted != classes)
    return Adversarial(found, success, predicted, norms(change), jnp.abs(change).max((1, 2, 3)))
