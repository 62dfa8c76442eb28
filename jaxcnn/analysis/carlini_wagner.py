"""The attack of Carlini and Wagner: the least Euclidean change, found by gradient descent in a space without bounds."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcnn.analysis.adversarial import Adversarial, Attack, aim, broadcast, check_size, norms, rivals
from jaxcnn.analysis.attribution import logits
from jaxcnn.errors import InputError
from jaxcnn.state import State

_INSIDE = 0.999999  # of the way from grey to black and white, whose inverse tanh would be infinite


def carlini_wagner(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    targets: ArrayLike | None = None,
    searches: int = 9,
    steps: int = 1000,
    learning_rate: float = 0.01,
    constant: float = 1e-3,
    confidence: float = 0.0,
    chunk: int | None = None,
) -> Adversarial:
    """The image of another class nearest to each, of all that Adam passes through with several weights of the goal.

    w = argmin |X(w) - X|^2 + c max(z_y(X(w)) - max_(k != y) z_k(X(w)) + confidence, 0), X(w) = (1 + tanh w) / 2; with
    targets t, max_(k != t) z_k - z_t in the place of z_y - max z_k

    For each image c grows tenfold until an image of another class is passed, and is then found by bisection: the least
    that succeeds gives the least distance. Every image takes all steps, so that no image depends on those beside it.

    Args:
      model: see `attacks.fgsm`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N], the classes that are right.
      targets: see `attacks.fgsm`.
      searches: values of c, at least 1.
      steps: of Adam with each, at least 1; the first sees the image itself. A black or white pixel changes only after
        some 5 / learning_rate of them, as tanh is flat there.
      learning_rate: of Adam, above 0.
      constant: the first c, above 0.
      confidence: by how much the logit of the other class shall exceed, at least 0.
      chunk: see `attacks.fgsm`.

    Returns:
      Images at short Euclidean distances; those of which no image of another class was passed are as given.

    Raises:
      InputError: an argument has another shape, type or range.
      RunError: a gradient is not finite.

    Reference: Carlini & Wagner 2017, "Towards evaluating the robustness of neural networks", section VI.A.
    """
    if searches < 1 or steps < 1:
        raise InputError(f"searches is {searches} and steps {steps}; expected at least 1 each")
    if not (0 < learning_rate < jnp.inf and 0 < constant < jnp.inf):
        raise InputError(f"learning rate is {learning_rate} and constant {constant}; expected numbers above 0")
    check_size("confidence", confidence)
    goal = aim(model, state, images, labels, targets, chunk=chunk)
    numbers = searches, steps, learning_rate, constant, confidence
    return goal.reach(lambda network, *arguments: _searched(network, *arguments, *numbers))


@partial(jax.jit, static_argnums=0)
def _searched(
    network: tuple[nn.Module, bool],
    variables: Any,
    images: Array,
    classes: Array,
    searches: Array,
    steps: Array,
    learning_rate: Array,
    constant: Array,
    confidence: Array,
) -> Float[Array, "n h w c"]:
    model, targeted = network
    adam = optax.adam(learning_rate)
    center = jnp.arctanh((2 * images - 1) * _INSIDE)
    origin = _pixels(center)
    count, dtype = len(images), images.dtype

    def cost(shift: Array, constants: Array) -> tuple[Array, tuple[Array, Array]]:
        x = _pixels(center + shift)
        own, others = rivals(logits(model, variables, x), classes)
        gap = others.max(-1) - own if targeted else own - others.max(-1)
        missing = gap + confidence
        return (constants * jnp.maximum(missing, 0)).sum() + ((x - origin) ** 2).sum(), (x, missing < 0)

    def step(_: Any, carry: Any) -> Any:
        shift, moments, constants, found, best, least = carry
        slope, (x, fooled) = jax.grad(cost, has_aux=True)(shift, constants)
        change, moments = adam.update(slope, moments)
        distance = norms(x - images)
        better = fooled & (distance < least)
        best = jnp.where(broadcast(better), x, best)
        return shift + change, moments, constants, found | fooled, best, jnp.where(better, distance, least)

    def search(_: Any, carry: Any) -> Any:
        constants, low, high, best, least = carry
        shift = jnp.zeros_like(images)
        start = shift, adam.init(shift), constants, jnp.zeros(count, bool), best, least
        last, *_, found, best, least = lax.fori_loop(0, steps, step, start)
        best = jnp.where(jnp.isfinite(last), best, jnp.nan)  # so that a gradient that is not finite is seen
        low, high = jnp.where(found, low, constants), jnp.where(found, constants, high)
        return jnp.where(jnp.isinf(high), 10 * constants, (low + high) / 2), low, high, best, least

    unknown = jnp.full(count, jnp.inf, dtype)
    start = jnp.full(count, constant, dtype), jnp.zeros(count, dtype), unknown, images, unknown
    return lax.fori_loop(0, searches, search, start)[3]


def _pixels(w: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    return (1 + jnp.tanh(w)) / 2


ATTACKS = {"carlini_wagner": Attack(carlini_wagner, "Carlini & Wagner", "l2", "Carlini & Wagner 2017")}
