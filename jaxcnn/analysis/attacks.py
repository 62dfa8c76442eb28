"""Attacks within a given distance: the fast gradient sign, iterated, and from a random start.

All follow the gradient of the cross-entropy, of which they need the direction alone. With m = logsumexp_{k != y} z_k -
z_y, the cross-entropy of a class y is softplus(m), so that its gradient has the direction of m's; m is followed, for in
single precision the gradient of the cross-entropy itself is zero where the network is very sure.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxcnn.analysis.adversarial import Adversarial, Attack, Norm, aim, broadcast, check_size, norms, rivals
from jaxcnn.analysis.attribution import logits
from jaxcnn.errors import InputError
from jaxcnn.state import State

_SMALLEST = 1e-12  # norm that a change is divided by


def fgsm(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float,
    targets: ArrayLike | None = None,
    chunk: int | None = None,
) -> Adversarial:
    """Fast gradient sign method: one step to a corner of the cube around each image.

    X' = clip(X + epsilon sign(d/dX L(f(X), y)), 0, 1), L the cross-entropy; with targets t, X - epsilon sign(d/dX
    L(f(X), t))

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N], the classes that are right.
      epsilon: how much each number of an image may change, at least 0; commonly 8/255 of colour images.
      targets: the classes that the network shall say, an integer for all images or integers [N]; None is any other
        than the labels.
      chunk: images evaluated at once; None takes what `chunks.MEMORY` holds, 64 at most.

    Returns:
      Images within epsilon of the given ones, up to rounding, whether or not they fool the network.

    Raises:
      InputError: an argument has another shape, type or range.
      RunError: a gradient is not finite.

    Reference: Goodfellow, Shlens & Szegedy 2015, "Explaining and harnessing adversarial examples", section 4.
    """
    check_size("epsilon", epsilon)
    goal = aim(model, state, images, labels, targets, chunk=chunk)
    return goal.reach(partial(_climb, "linf", epsilon, epsilon, 1), (goal.images,))


def bim(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float,
    steps: int = 10,
    step_size: float | None = None,
    targets: ArrayLike | None = None,
    chunk: int | None = None,
) -> Adversarial:
    """Basic iterative method: the fast gradient sign in small steps.

    X_0 = X, X_(i+1) = clip(X_i + a sign(d/dX L(f(X_i), y)), X - epsilon, X + epsilon), and into [0, 1]

    Args:
      model: see `fgsm`, as all arguments but the next two.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N].
      epsilon: how much each number of an image may change.
      steps: at least 1.
      step_size: a, at least 0; None is 2.5 epsilon / steps, with which an edge of the cube can be reached and left.
      targets: classes that the network shall say.
      chunk: images evaluated at once.

    Returns:
      See `fgsm`.

    Raises:
      InputError, RunError: see `fgsm`.

    Reference: Kurakin, Goodfellow & Bengio 2017, "Adversarial examples in the physical world", section 2.2.
    """
    size = _step_size(epsilon, steps, step_size)
    goal = aim(model, state, images, labels, targets, chunk=chunk)
    return goal.reach(partial(_climb, "linf", epsilon, size, steps), (goal.images,))


def pgd(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    random_start: bool = True,
    targets: ArrayLike | None = None,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Adversarial:
    """Projected gradient descent: steps along the gradient from a random point near each image, never leaving the ball.

    X_(i+1) = clip(P(X_i + a g(d/dX L(f(X_i), y))), 0, 1); P projects onto the ball of radius epsilon around X, g is the
    sign in the maximum norm and g(d) = d / |d| in the Euclidean one

    Args:
      model: see `fgsm`, as all arguments that are not explained here.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N].
      epsilon: radius of the ball, in that norm.
      norm: which makes the ball a cube (linf) or a sphere (l2).
      steps: at least 1.
      step_size: a, at least 0; None is 2.5 epsilon / steps.
      random_start: whether X_0 is uniform in the ball; otherwise it is X.
      targets: classes that the network shall say.
      key: from which the images' random starts are made; None is `jax.random.key(0)`.
      chunk: images evaluated at once, which does not change the starts.

    Returns:
      See `fgsm`.

    Raises:
      InputError, RunError: see `fgsm`; or the norm is none of those.

    Reference: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", section 2.1.
    """
    size = _step_size(epsilon, steps, step_size)
    if norm not in ("linf", "l2"):
        raise InputError(f"norm is {norm!r}; expected linf or l2")
    goal = aim(model, state, images, labels, targets, chunk=chunk)
    starts = goal.images
    if random_start:
        starts = _starts(norm, jax.random.key(0) if key is None else key, starts, epsilon)
    return goal.reach(partial(_climb, norm, epsilon, size, steps), (starts,))


def excess(logits: Float[Array, "n k"], classes: Int[Array, " n"]) -> Float[Array, " n"]:
    """How far the logits of all other classes together exceed that of the class.

    m = logsumexp_{k != y} z_k - z_y = softplus^-1(cross-entropy)

    Args:
      logits: of at least two classes.
      classes: y.
    """
    own, others = rivals(logits, classes)
    return jax.nn.logsumexp(others, axis=-1) - own


def _step_size(epsilon: float, steps: int, step_size: float | None) -> float:
    check_size("epsilon", epsilon)
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")
    size = 2.5 * epsilon / steps if step_size is None else step_size
    check_size("step size", size)
    return size


def _climb(
    norm: Norm,
    epsilon: float,
    step_size: float,
    steps: int,
    network: tuple[nn.Module, bool],
    variables: Any,
    images: Array,
    classes: Array,
    starts: Array,
) -> Float[Array, "n h w c"]:
    return _climbed(network, norm, variables, images, classes, starts, epsilon, step_size, steps)


@partial(jax.jit, static_argnums=(0, 1))
def _climbed(
    network: tuple[nn.Module, bool],
    norm: Norm,
    variables: Any,
    images: Array,
    classes: Array,
    starts: Array,
    epsilon: Array,
    step_size: Array,
    steps: Array,
) -> Float[Array, "n h w c"]:
    """The images after some steps; radius, step and their number are not compiled in."""
    model, targeted = network

    def total(x: Array) -> Array:
        return excess(logits(model, variables, x), classes).sum()

    def step(_: Any, x: Array) -> Array:
        slope = jax.grad(total)(x)
        way = jnp.sign(slope) if norm == "linf" else slope / broadcast(jnp.maximum(norms(slope), _SMALLEST))
        change = x + (-step_size if targeted else step_size) * way - images
        return jnp.clip(images + _projected(norm, change, epsilon), 0, 1)

    return lax.fori_loop(0, steps, step, starts)


def _projected(norm: Norm, changes: Array, epsilon: Array) -> Float[Array, "n h w c"]:
    """The nearest changes within the ball."""
    if norm == "linf":
        return jnp.clip(changes, -epsilon, epsilon)
    return changes * broadcast(jnp.minimum(1, epsilon / jnp.maximum(norms(changes), _SMALLEST)))


@partial(jax.jit, static_argnums=0)
def _starts(norm: Norm, key: Key[Array, ""], images: Array, epsilon: ArrayLike) -> Float[Array, "n h w c"]:
    """Images uniform in the ball around the given ones, clipped to [0, 1]."""
    shape, dtype = images.shape[1:], images.dtype

    def change(key: Array) -> Array:
        if norm == "linf":
            return jax.random.uniform(key, shape, dtype, -1, 1)
        return jax.random.ball(key, images[0].size, dtype=dtype).reshape(shape)

    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(images)))
    return jnp.clip(images + epsilon * jax.vmap(change)(keys), 0, 1)


ATTACKS = {
    "fgsm": Attack(fgsm, "FGSM", "linf", "Goodfellow et al. 2015"),
    "bim": Attack(bim, "BIM", "linf", "Kurakin et al. 2017"),
    "pgd": Attack(pgd, "PGD", "linf", "Madry et al. 2018"),
    "pgd_l2": Attack(partial(pgd, norm="l2"), "PGD (L2)", "l2", "Madry et al. 2018"),
}
