"""What an image is asked to be: numbers to maximise, read from a network's layers, its logits or the image itself.

An objective is a value: it knows the places that it reads, so that one forward pass serves all of them, and gives a
number for each image. Objectives add, subtract and multiply, with each other and with numbers:

    channel("fire4", 17) + 2 * logit(3) - penalties.l2(0.1)

What an objective asks for may differ from image to image: a unit or a target is one integer for all, or integers [N].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcnn.analysis.activations import check_layer
from jaxcnn.analysis.checks import as_array
from jaxcnn.analysis.requirements import (
    LOGITS,
    Shapes,
    has_direction,
    has_gram,
    has_level,
    has_maps,
    has_position,
    has_shape,
    has_units,
)
from jaxcnn.errors import InputError

IMAGE = "(image)"
"""The place where the image [n, H, W, C] is, before any transform."""
PARAMETERS = "(parameters)"
"""The place where the numbers [n, d] are by which the image is parametrised."""

Seen: TypeAlias = Mapping[str, Array]
"""What is there at each place: layers' names, `LOGITS`, `IMAGE` and `PARAMETERS`."""
Numbers: TypeAlias = ArrayLike | Sequence[int] | Sequence[float]
"""One for all images, or one for each."""


class Objective:
    """A number for each image, to be maximised."""

    __array_ufunc__ = None  # an array of NumPy's to the left leaves the product to the objective

    @property
    def places(self) -> frozenset[str]:
        """Where it reads."""
        raise NotImplementedError

    def __call__(self, seen: Seen) -> Float[Array, " n"]:
        """The numbers.

        Args:
          seen: what is there at its places.
        """
        raise NotImplementedError

    def check(self, shapes: Shapes) -> None:
        """Refuses what a network does not have.

        Args:
          shapes: of all places of the network.

        Raises:
          InputError: there is no such layer, or no such unit in it.
        """
        raise NotImplementedError

    def __add__(self, other: Operand) -> Objective:
        return Combination(operator.add, self, other)

    def __radd__(self, other: Numbers) -> Objective:
        return Combination(operator.add, other, self)

    def __sub__(self, other: Operand) -> Objective:
        return Combination(operator.sub, self, other)

    def __rsub__(self, other: Numbers) -> Objective:
        return Combination(operator.sub, other, self)

    def __mul__(self, other: Operand) -> Objective:
        return Combination(operator.mul, self, other)

    def __rmul__(self, other: Numbers) -> Objective:
        return Combination(operator.mul, other, self)

    def __neg__(self) -> Objective:
        return -1 * self


Operand: TypeAlias = Objective | Numbers


@partial(register_dataclass, data_fields=["left", "right"], meta_fields=["function"])
@dataclass(frozen=True)
class Combination(Objective):
    """A sum, a difference or a product.

    Attributes:
      function: of the two sides' numbers.
      left: an objective, a number, or numbers [N].
      right: the same.
    """

    function: Callable[[Any, Any], Any]
    left: Any  # JAX rebuilds pytrees around placeholders
    right: Any

    @property
    def places(self) -> frozenset[str]:
        """Where either side reads."""
        return frozenset().union(*(part.places for part in self._parts))

    def __call__(self, seen: Seen) -> Float[Array, " n"]:
        """The function of the two sides."""
        return self.function(_side(self.left, seen), _side(self.right, seen))

    def check(self, shapes: Shapes) -> None:
        """Checks both sides."""
        for part in self._parts:
            part.check(shapes)

    @property
    def _parts(self) -> list[Objective]:
        return [part for part in (self.left, self.right) if isinstance(part, Objective)]


@partial(register_dataclass, data_fields=["arguments"], meta_fields=["function", "place", "requires"])
@dataclass(frozen=True)
class Term(Objective):
    """A function of what is at one place.

    Attributes:
      function: of that and the arguments; a program is compiled for it.
      place: where.
      arguments: arrays.
      requires: raises an InputError unless a place of some shape, named, has what the arguments ask for.
    """

    function: Callable[..., Array]
    place: str
    arguments: tuple[Any, ...] = ()
    requires: Callable[..., None] | None = None

    @property
    def places(self) -> frozenset[str]:
        """The one place."""
        return frozenset({self.place})

    def __call__(self, seen: Seen) -> Float[Array, " n"]:
        """The function's values."""
        return self.function(seen[self.place], *self.arguments)

    def check(self, shapes: Shapes) -> None:
        """Checks that the place is there, and has what is asked for."""
        check_layer(self.place, dict(shapes))
        if self.requires is not None:
            self.requires(self.place, shapes[self.place], *self.arguments)


def channel(layer: str, unit: Numbers) -> Objective:
    """A filter's answer everywhere.

    f = sum_ij a^k_ij

    Args:
      layer: one of `activations.layers`.
      unit: k, one integer for all images or integers [N].

    Examples:
      >>> sorted((channel("fire4", 17) + 2 * logit(3)).places)
      ['(logits)', 'fire4']

    Reference: Erhan, Bengio, Courville & Vincent, "Visualizing higher-layer features of a deep network", 2009.
    """
    return Term(_channel, layer, (as_array("units", unit),), has_units)


def neuron(layer: str, unit: Numbers, position: tuple[int, int] | None = None) -> Objective:
    """A filter's answer at one position.

    f = a^k_ij

    Args:
      layer: one of `activations.layers`, of maps.
      unit: k, see `channel`.
      position: row i and column j in the layer's map; None is its middle.

    Reference: see `channel`.
    """
    place = None if position is None else as_array("positions", position)
    return Term(_neuron, layer, (as_array("units", unit), place), has_position)


def logit(target: Numbers) -> Objective:
    """A class's logit.

    Args:
      target: one class for all images, or integers [N].

    Reference: Simonyan, Vedaldi & Zisserman, "Deep inside convolutional networks", 2014, section 2.
    """
    return channel(LOGITS, target)


def sufficient_logit(target: Numbers, level: Numbers) -> Objective:
    """A class's logit until it is as large as needed, from where on more of it hardly counts.

    f = -log(1 + exp(level - logit_k))

    Args:
      target: see `logit`.
      level: that is needed, a number, or one for each of the targets [N], as the logit is in real images.
    """
    levels = np.asarray(as_array("levels", level), np.float32)
    return Term(_sufficient_logit, LOGITS, (as_array("targets", target), levels), has_level)


def log_probability(target: Numbers) -> Objective:
    """The logarithm of a class's probability, whose gradient does not vanish where the probability is small.

    f = log softmax(logits)_k

    Args:
      target: see `logit`.

    Reference: see `logit`.
    """
    return Term(_log_probability, LOGITS, (as_array("targets", target),), has_units)


def probability(target: Numbers) -> Objective:
    """A class's probability; from a small one there is hardly a gradient to follow, see `log_probability`.

    f = softmax(logits)_k

    Args:
      target: see `logit`.

    Reference: Nguyen, Yosinski & Clune, "Deep neural networks are easily fooled", 2015.
    """
    return Term(_probability, LOGITS, (as_array("targets", target),), has_units)


def direction(layer: str, vector: Numbers) -> Objective:
    """A layer's answers in one direction of its space; of a unit vector it is `channel`.

    f = sum_ij <a_ij, v>

    Args:
      layer: one of `activations.layers`, of c units.
      vector: v, [c] for all images or [N, c].

    Reference: Olah, Mordvintsev & Schubert, "Feature visualization", 2017, section "Interaction between neurons".
    """
    return Term(_direction, layer, (as_array("vectors", vector),), has_direction)


def deep_dream(layer: str) -> Objective:
    """More of whatever a layer answers to.

    f = mean of a^2

    Args:
      layer: one of `activations.layers`.

    Reference: Mordvintsev, Olah & Tyka, "Inceptionism: going deeper into neural networks", 2015.
    """
    return Term(_mean_square, layer)


def diversity(layer: str) -> Objective:
    """How little the images of a batch are alike, by the Gram matrices of a layer; at least two images.

    f_n = - mean over m != n of <G_n, G_m> / (|G_n| |G_m|)

    Args:
      layer: one of `activations.layers`, of maps.

    Reference: see `direction`; section "Diversity".
    """
    return Term(_diversity, layer, (), has_maps)


def style(layer: str, wanted: ArrayLike) -> Objective:
    """How near a layer's Gram matrix is to one that is wanted.

    f = - sum (G - G*)^2 / (4 c^2)

    Args:
      layer: one of `activations.layers`, of maps of c channels.
      wanted: G*, [c, c] for all images or [N, c, c]; see `gram`.

    Reference: Gatys, Ecker & Bethge, "Image style transfer using convolutional neural networks", 2016, equation 4.
    """
    return Term(_style, layer, (as_array("Gram matrices", wanted),), has_gram)


def content(layer: str, wanted: ArrayLike) -> Objective:
    """How near a layer's activations are to those that are wanted.

    f = - 1/2 sum (a - a*)^2

    Args:
      layer: one of `activations.layers`.
      wanted: a*, as the layer computes them for one image, or for N.

    Reference: see `style`; equation 1.
    """
    return Term(_content, layer, (as_array("activations", wanted),), has_shape)


def gram(activations: Float[Array, "n h w c"]) -> Float[Array, "n c c"]:
    """Which channels answer together, wherever it is.

    G = 1/(h w) sum_ij a_ij a_ij^T

    Args:
      activations: of maps.

    Reference: see `style`; equation 3, divided by the number of positions, so that images of any size compare.
    """
    _, height, width, _ = activations.shape
    return jnp.einsum("nijk,nijl->nkl", activations, activations, precision="highest") / (height * width)


# ---- the functions


def _side(part: Any, seen: Seen) -> Any:
    if isinstance(part, Objective):
        return part(seen)
    return jnp.asarray(part) if isinstance(part, list | tuple) else part


def _channel(values: Array, unit: Array) -> Array:
    return _pick(values.reshape(len(values), -1, values.shape[-1]).sum(1), unit)


def _neuron(values: Array, unit: Array, position: Array | None) -> Array:
    row, column = (size // 2 for size in values.shape[1:3]) if position is None else position
    return _pick(values[:, row, column], unit)


def _sufficient_logit(logits: Array, target: Array, level: Array) -> Array:
    return -jax.nn.softplus(level - _pick(logits, target))


def _log_probability(logits: Array, target: Array) -> Array:
    return _pick(jax.nn.log_softmax(logits), target)


def _probability(logits: Array, target: Array) -> Array:
    return _pick(jax.nn.softmax(logits), target)


def _pick(values: Float[Array, "n c"], unit: Array) -> Float[Array, " n"]:
    return jnp.take_along_axis(values, jnp.broadcast_to(unit, len(values))[:, None], 1)[:, 0]


def _direction(values: Array, vector: Array) -> Array:
    total = values.reshape(len(values), -1, values.shape[-1]).sum(1)
    return (total * jnp.broadcast_to(vector, total.shape)).sum(1)


def _mean_square(values: Array) -> Array:
    return jnp.square(values).mean(range(1, values.ndim))


def _diversity(values: Array) -> Array:
    count = len(values)
    if count < 2:
        raise InputError("diversity has 1 image; expected at least 2, which are to differ")
    grams = gram(values).reshape(count, -1)
    # A layer that is silent has no direction, and no gradient of its norm either.
    units = grams * jax.lax.rsqrt(jnp.square(grams).sum(1, keepdims=True) + 1e-12)
    alike = jnp.einsum("nd,md->nm", units, units, precision="highest")
    return (jnp.diagonal(alike) - alike.sum(1)) / (count - 1)


def _style(values: Array, wanted: Array) -> Array:
    found = gram(values)
    return -jnp.square(found - jnp.broadcast_to(wanted, found.shape)).sum((1, 2)) / (4 * values.shape[-1] ** 2)


def _content(values: Array, wanted: Array) -> Array:
    return -jnp.square(values - jnp.broadcast_to(wanted, values.shape)).sum(range(1, values.ndim)) / 2
