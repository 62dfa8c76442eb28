"""Transfer without training the network: its features, and the best linear classifier on them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxcnn.analysis.checks import check_chunk, checked_images
from jaxcnn.analysis.chunks import join, pieces
from jaxcnn.errors import InputError, JaxcnnError
from jaxcnn.state import State


class Probe(NamedTuple):
    """A linear classifier on features.

    Attributes:
      kernel: W, [D, k].
      bias: b, [k].
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]

    def logits(self, features: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """z = features W + b."""
        return features @ self.kernel + self.bias[None]


def features(model: nn.Module, state: State, images: ArrayLike, *, chunk: int = 32) -> Float[Array, "n d"]:
    """What the network's last layer sees of each image, in inference; a feature map is averaged over its pixels.

    Args:
      model: a network whose last layer is called `head`.
      state: its state.
      images: [N, H, W, C] in [0, 1].
      chunk: images computed at once.

    Returns:
      [N, D] in float32, D being the inputs of the head.

    Raises:
      InputError: the images are not floats [N, H, W, C] in [0, 1], chunk is not as expected, or the network has no
        layer called head.
    """
    pixels = checked_images(images)
    check_chunk(chunk)
    parts = [_features(model, state.variables, pixels[some]) for some in pieces(len(pixels), chunk)]
    return join(parts, len(pixels))


@partial(jax.jit, static_argnums=0)
def _features(model: nn.Module, variables: Any, images: Array) -> Array:
    seen: list[Array] = []

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.module.path == ("head",):
            seen.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        model.apply(variables, images, train=False)
    if not seen:
        raise InputError(f"{type(model).__name__} has no layer called head; expected the last layer to be")
    x = seen[-1].astype(jnp.float32)
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def linear_probe(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    num_classes: int,
    *,
    penalty: float = 1e-3,
    tolerance: float = 1e-4,
    steps: int = 2000,
) -> Probe:
    """The linear classifier with the least regularised cross-entropy on frozen features.

    W, b = argmin 1/n sum_i l(x_i W + b, y_i) + penalty/2 ||W||_F^2, x_i the features, centred, of unit variance

    The problem is convex, so there is one answer; L-BFGS finds it. What is returned takes features as they are.

    Args:
      features: [n, D].
      labels: [n], in [0, num_classes).
      num_classes: k.
      penalty: weight of the squared norm, positive.
      tolerance: largest component of the gradient at which the answer counts as found.
      steps: L-BFGS steps after which to give up.

    Returns:
      The classifier of the features as they were given.

    Raises:
      InputError: features and labels do not fit together.
      JaxcnnError: the answer was not found in so many steps.

    Reference: Alain & Bengio, "Understanding intermediate layers using linear classifier probes", 2016.
    """
    known = np.asarray(labels)
    if len(features) != len(known) or not len(known) or known.min() < 0 or known.max() >= num_classes:
        raise InputError(
            f"a probe got {len(features)} features and {len(known)} labels; expected as many of both, at least one, "
            f"and labels in [0, {num_classes})"
        )
    mean, deviation = features.mean(0), features.std(0)
    scale = 1 / jnp.where(deviation > 1e-6 * jnp.abs(mean), deviation, 1)
    probe, steepest = _minimise((features - mean[None]) * scale[None], labels, num_classes, penalty, tolerance, steps)
    if not float(steepest) <= tolerance:
        raise JaxcnnError(
            f"the probe's gradient is still {float(steepest):.2g} after {steps} steps; expected {tolerance}"
        )
    kernel = scale[:, None] * probe.kernel
    return Probe(kernel, probe.bias - mean @ kernel)


@partial(jax.jit, static_argnums=(2, 5))
def _minimise(
    x: Array, labels: Array, num_classes: int, penalty: Any, tolerance: Any, steps: int
) -> tuple[Probe, Array]:
    def objective(probe: Probe) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(probe.logits(x), labels)
        return losses.mean() + penalty / 2 * jnp.square(probe.kernel).sum()

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def steepest(gradient: Probe) -> Array:
        return jnp.maximum(jnp.abs(gradient.kernel).max(), jnp.abs(gradient.bias).max())

    def unfinished(carry: Any) -> Array:
        _, state, gradient = carry
        return (optax.tree.get(state, "count") < steps) & (steepest(gradient) > tolerance)

    def step(carry: Any) -> Any:
        probe, state, _ = carry
        value, gradient = value_and_gradient(probe, state=state)
        updates, state = solver.update(gradient, state, probe, value=value, grad=gradient, value_fn=objective)
        probe: Any = optax.apply_updates(probe, updates)
        return probe, state, optax.tree.get(state, "grad")

    start = Probe(jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes))
    probe, _, gradient = jax.lax.while_loop(unfinished, step, (start, solver.init(start), jax.grad(objective)(start)))
    return probe, steepest(gradient)
