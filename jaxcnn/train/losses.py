"""Training losses by name: one for every label, a sum over the classes, of which training takes the mean."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxcnn.config import LossConfig
from jaxcnn.train.optimizers import kernels_only


def cross_entropy(logits: Float[Array, "*n k"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Softmax with categorical cross-entropy, l_i = log sum_j exp(z_ij) - z_{i,y_i}, stable for any finite logits.

    Args:
      logits: z, unnormalised log-probabilities, of examples [N, k] or of their pixels [N, H, W, k].
      labels: y, in [0, k), of the same examples or pixels.

    Returns:
      One loss per label, in nats, at least 0.
    """
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def soft_cross_entropy(logits: Float[Array, "*n k"], targets: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Softmax with categorical cross-entropy, l_i = -sum_j t_ij log softmax(z_i)_j, stable for any finite logits.

    Args:
      logits: z, unnormalised log-probabilities, of examples [N, k] or of their pixels [N, H, W, k].
      targets: t, probabilities of the classes.

    Returns:
      One loss per example or pixel, in nats, at least 0.
    """
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def binary_cross_entropy(logits: Float[Array, "*n k"], targets: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Every class a yes or no of its own: l_i = -sum_j t_ij log s(z_ij) + (1 - t_ij) log(1 - s(z_ij)), s the sigmoid.

    Args:
      logits: z, of examples [N, k] or of their pixels [N, H, W, k].
      targets: t, in [0, 1]; no sum is asked of them.

    Returns:
      One loss per example or pixel, in nats, at least 0; stable for any finite logits.
    """
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.sum(targets * yes + (1 - targets) * no, axis=-1)


def mean_squared_error(outputs: Float[Array, "*n k"], targets: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Squared error of the outputs as they are, without a softmax.

    l_i = sum_j (z_ij - t_ij)^2

    Args:
      outputs: z, of examples [N, k] or of their pixels [N, H, W, k].
      targets: t, as the outputs.

    Returns:
      One loss per example or pixel; PyTorch's is 1/k of it.
    """
    return jnp.sum((outputs - targets) ** 2, axis=-1)


def mean_absolute_error(outputs: Float[Array, "*n k"], targets: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Absolute error of the outputs as they are, without a softmax.

    l_i = sum_j |z_ij - t_ij|

    Args:
      outputs: z, of examples [N, k] or of their pixels [N, H, W, k].
      targets: t, as the outputs.

    Returns:
      One loss per example or pixel; PyTorch's is 1/k of it.
    """
    return jnp.sum(jnp.abs(outputs - targets), axis=-1)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": soft_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
}


def targets(labels: Int[Array, "*n"], num_classes: int, label_smoothing: float = 0.0) -> Float[Array, "*n k"]:
    """1 for the label and 0 elsewhere, but for the share s that all classes get.

    t = (1 - s) onehot(y) + s / k

    Args:
      labels: y, in [0, k).
      num_classes: k.
      label_smoothing: s, in [0, 1).

    Returns:
      Probabilities of the classes.

    Reference: Szegedy et al., "Rethinking the Inception architecture", 2016, section 7.
    """
    return smooth(jax.nn.one_hot(labels, num_classes), label_smoothing)


def smooth(targets: Float[Array, "*n k"], label_smoothing: float) -> Float[Array, "*n k"]:
    """(1 - s) t + s / k, of targets that may be mixtures of classes already."""
    if not label_smoothing:
        return targets
    return (1 - label_smoothing) * targets + label_smoothing / targets.shape[-1]


def loss(config: LossConfig, logits: Float[Array, "*n k"], truth: Array) -> Float[Array, "*n"]:
    """The loss that an experiment asks for, without its penalty.

    Args:
      config: which loss, with how much smoothing.
      logits: the network's outputs, of examples [N, k] or of their pixels [N, H, W, k].
      truth: labels in [0, k), one less dimension than the logits; or targets, as the logits, such as mixup makes.

    Returns:
      One loss per example or pixel.
    """
    labelled = jnp.issubdtype(truth.dtype, jnp.integer)
    if labelled and config.name == "cross_entropy" and not config.label_smoothing:
        return cross_entropy(logits, truth)
    smoothing = config.label_smoothing
    soft = targets(truth, logits.shape[-1], smoothing) if labelled else smooth(truth, smoothing)
    return LOSSES[config.name](logits, soft)


def l1_penalty(params: PyTree, factor: float) -> Float[Array, ""]:
    """factor * sum |w| over the kernels w; biases and batch-norm parameters are free."""
    sums = jax.tree.map(lambda w, kernel: jnp.sum(jnp.abs(w)) if kernel else 0.0, params, kernels_only(params))
    return jnp.asarray(factor * sum(jax.tree.leaves(sums)), jnp.float32)
