"""DeepFool: the nearest boundary of the network made linear, again and again until it is crossed."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcnn.analysis.adversarial import Adversarial, Attack, aim, broadcast, check_size, norms
from jaxcnn.analysis.attribution import logits
from jaxcnn.errors import InputError
from jaxcnn.state import State

_BEYOND = 1e-4  # L2 distance added to each step, lest steps vanish before the boundary
_SMALLEST = 1e-8  # added to the norm that is divided by


def deep_fool(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    candidates: int = 10,
    steps: int = 50,
    overshoot: float = 0.02,
    chunk: int | None = None,
) -> Adversarial:
    """An image near each one, across the nearest of the boundaries to the likeliest other classes.

    X_(i+1) = clip(X + (1 + overshoot) sum_(j <= i) r_j, 0, 1), r_i = (|f_k| / |w_k| + 1e-4) w_k / |w_k|, where f_k =
    z_k(X_i) - z_0(X_i), w_k = d/dX f_k, z_0 is the logit of the class predicted for X, and k the candidate whose
    |f_k| / |w_k| is least; for a linear network within [0, 1] that is the nearest image of another class

    An image stays as it is from the step on in which it is taken for another class than its label.

    Args:
      model: see `attacks.fgsm`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N], the classes that are right.
      candidates: likeliest classes, the predicted one among them, that are considered, at least 2; all K at most.
      steps: at most so many.
      overshoot: by what share each way is longer than to the boundary, at least 0.
      chunk: gradients computed at once, of which an image takes one for each candidate but the first; None as in
        `attacks.fgsm`.

    Returns:
      Images at short Euclidean distances.

    Raises:
      InputError: an argument has another shape, type or range.
      RunError: a gradient is not finite.

    Reference: Moosavi-Dezfooli, Fawzi & Frossard 2016, "DeepFool: a simple and accurate method to fool deep neural
    networks", algorithm 2, and its authors' program for the 1e-4.
    """
    if candidates < 2 or steps < 1:
        raise InputError(f"candidates is {candidates} and steps {steps}; expected at least 2 and at least 1")
    check_size("overshoot", overshoot)
    goal = aim(model, state, images, labels, chunk=chunk)

    def function(network: Any, *arguments: Any) -> Array:
        return _crossed((*network, candidates), *arguments, steps, overshoot)

    return goal.reach(function, evaluations=candidates - 1)


@partial(jax.jit, static_argnums=0)
def _crossed(
    network: tuple[nn.Module, bool, int],
    variables: Any,
    images: Array,
    labels: Array,
    steps: Array,
    overshoot: Array,
) -> Float[Array, "n h w c"]:
    model, _, candidates = network
    said = partial(logits, model, variables)
    first: Array = said(images)
    count = min(candidates, first.shape[-1])
    _, classes = lax.top_k(first, count)
    chosen = jax.nn.one_hot(classes.T, first.shape[-1], dtype=first.dtype)
    seeds = chosen[1:] - chosen[:1]  # [candidates - 1, n, K], whose product with the logits is f

    def unfinished(carry: Any) -> Array:
        step, _, _, done = carry
        return (step < steps) & ~done.all()

    def advance(carry: Any) -> Any:
        step, x, way, _ = carry
        now, pull = jax.vjp(said, x)
        done = now.argmax(-1) != labels
        slopes = jax.vmap(lambda seed: pull(seed)[0])(seeds)
        lengths = norms(slopes) + _SMALLEST
        distances = jnp.abs(jnp.einsum("mnk,nk->mn", seeds, now, precision="highest")) / lengths
        nearest = distances.argmin(0)[None]
        length, distance = (jnp.take_along_axis(values, nearest, 0)[0] for values in (lengths, distances))
        slope = jnp.take_along_axis(slopes, broadcast(nearest), 0)[0]
        way = way + broadcast((distance + _BEYOND) / length) * slope
        further = jnp.clip(images + (1 + overshoot) * way, 0, 1)
        return step + 1, jnp.where(broadcast(done), x, further), way, done

    start = 0, images, jnp.zeros_like(images), jnp.zeros(len(images), bool)
    return lax.while_loop(unfinished, advance, start)[1]


ATTACKS = {"deepfool": Attack(deep_fool, "DeepFool", "l2", "Moosavi-Dezfooli et al. 2016")}
