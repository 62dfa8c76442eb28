"""Losses, each with its gradient: sums over classes or outputs, means over the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Num

from jaxcnn.errors import InputError
from jaxcnn.ops.activation import sigmoid
from jaxcnn.ops.op import Op, check_floating


def _check_same(name: str, **pair: Array) -> None:
    check_floating(name, **pair)
    (first, a), (second, b) = pair.items()
    if a.shape != b.shape:
        raise InputError(f"{name} got {first} {a.shape} and {second} {b.shape}; expected one shape for both")
    if a.ndim == 0 or a.size == 0:
        raise InputError(f"{name} got {first} {a.shape} and {second} {b.shape}; expected at least one example")


def _onehot(labels: Array, scores: Array) -> Array:
    """1 at the class of every label and 0 at the others; NaN at all of them where there is no such class."""
    onehot = jax.nn.one_hot(labels.astype(int), scores.shape[-1], dtype=scores.dtype)
    return jnp.where(jnp.any(onehot, -1, keepdims=True), onehot, jnp.nan)


def softmax_cross_entropy_forward(
    logits: Num[Array, "*n"], labels: Num[Array, "*m"]
) -> tuple[Float[Array, ""], tuple[Array, Array]]:
    """Cross-entropy of the softmax of z with the right class y, stable for any finite logits.

    L = -1/N sum_i log softmax(z_i)_{y_i},  where log softmax(z)_k = z_k - max z - log sum_j exp(z_j - max z)

    dz = (softmax(z) - onehot(y)) / N

    Args:
      logits: z [N, K], unnormalised log-probabilities; or [..., K], such as those of N pixels.
      labels: y [N] or [...], integers in [0, K). A value in compiled code cannot raise an error: any other label makes
        the loss NaN, and the gradient of its own logits.

    Returns:
      The mean loss in nats, at least 0; what the backward pass needs.

    Raises:
      InputError: logits are not floating point or labels not integers, the shapes do not fit, or there is no example.

    Examples:
      >>> loss, _ = softmax_cross_entropy_forward(jnp.zeros((1, 10)), jnp.array([3]))
      >>> f"{loss:.4f}"  # ln 10
      '2.3026'

    Reference: Goodfellow, Bengio and Courville, "Deep learning", 2016, section 6.2.2.3.
    """
    check_floating("softmax cross-entropy", logits=logits)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"softmax cross-entropy got labels {labels.shape} of {labels.dtype}; expected integers")
    if logits.ndim == 0 or logits.shape[:-1] != labels.shape:
        raise InputError(
            f"softmax cross-entropy got logits {logits.shape} and labels {labels.shape}; "
            "expected one label for each row of logits"
        )
    if logits.size == 0:
        raise InputError(f"softmax cross-entropy got logits {logits.shape}; expected at least one example and class")
    shifted = logits - jnp.max(logits, -1, keepdims=True)
    log_probabilities = shifted - jnp.log(jnp.sum(jnp.exp(shifted), -1, keepdims=True))
    onehot = _onehot(labels, logits)
    # A product with 0 would be NaN where a probability is too small for its logarithm.
    picked = jnp.sum(onehot * log_probabilities, -1, where=onehot != 0)
    return -jnp.mean(picked), (jnp.exp(log_probabilities), labels)


def softmax_cross_entropy_backward(
    saved: tuple[Float[Array, "*n k"], Integer[Array, "*n"]], dloss: Float[Array, ""]
) -> tuple[Float[Array, "*n k"], None]:
    """The gradient dz that `softmax_cross_entropy_forward` writes down, times dloss; labels have none.

    Args:
      saved: what `softmax_cross_entropy_forward` kept.
      dloss: dL/dloss, a number.

    Returns:
      dz as logits, and None.
    """
    probabilities, labels = saved
    return dloss * (probabilities - _onehot(labels, probabilities)) / labels.size, None


softmax_cross_entropy = Op(softmax_cross_entropy_forward, softmax_cross_entropy_backward)
"""The op of `softmax_cross_entropy_forward` and `softmax_cross_entropy_backward`."""


def sigmoid_binary_cross_entropy_forward(
    logits: Num[Array, "*n"], targets: Num[Array, "*m"]
) -> tuple[Float[Array, ""], tuple[Array, Array]]:
    """Binary cross-entropy of sigma(z) with y, each class a yes or no of its own, stable for any finite logits.

    L = -1/N sum y log sigma(z) + (1 - y) log(1 - sigma(z)) = 1/N sum max(z, 0) - z y + log(1 + exp(-|z|))

    dz = (sigma(z) - y) / N;  dy = -z / N

    Args:
      logits: z [N, K], or [N] of one class; the first dimension is the batch, the sum is over all others.
      targets: y as z, floating point in [0, 1].

    Returns:
      The loss in nats, at least 0; what the backward pass needs.

    Raises:
      InputError: an array is not floating point, the shapes differ, or there is no example.

    Reference: Goodfellow, Bengio and Courville, "Deep learning", 2016, section 6.2.2.2.
    """
    _check_same("sigmoid binary cross-entropy", logits=logits, targets=targets)
    losses = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(losses) / len(logits), (logits, targets)


def sigmoid_binary_cross_entropy_backward(
    saved: tuple[Float[Array, "*n"], Float[Array, "*n"]], dloss: Float[Array, ""]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The gradients that `sigmoid_binary_cross_entropy_forward` writes down, times dloss.

    Args:
      saved: what `sigmoid_binary_cross_entropy_forward` kept.
      dloss: dL/dloss, a number.

    Returns:
      dz and dy as logits and targets.
    """
    logits, targets = saved
    dlogits = dloss * (sigmoid(logits) - targets) / len(logits)
    dtargets = dloss * -logits / len(logits)
    return dlogits.astype(logits.dtype), dtargets.astype(targets.dtype)


sigmoid_binary_cross_entropy = Op(sigmoid_binary_cross_entropy_forward, sigmoid_binary_cross_entropy_backward)
"""The op of `sigmoid_binary_cross_entropy_forward` and `sigmoid_binary_cross_entropy_backward`."""


def mean_squared_error_forward(
    predictions: Num[Array, "*n"], targets: Num[Array, "*m"]
) -> tuple[Float[Array, ""], tuple[Array, Array]]:
    """Squared error of the outputs, summed over an example's outputs and averaged over the examples.

    L = 1/N sum (y_hat - y)^2;  dy_hat = 2 (y_hat - y) / N;  dy = -dy_hat

    PyTorch's default divides by the number of outputs too.

    Args:
      predictions: y_hat [N, K], or [N] or [N, ...]; the first dimension is the batch.
      targets: y as y_hat.

    Returns:
      The loss in the squared unit of the outputs; what the backward pass needs.

    Raises:
      InputError: an array is not floating point, the shapes differ, or there is no example.

    Reference: Goodfellow, Bengio and Courville, "Deep learning", 2016, section 5.1.4.
    """
    _check_same("mean squared error", predictions=predictions, targets=targets)
    return jnp.sum((predictions - targets) ** 2) / len(predictions), (predictions, targets)


def mean_squared_error_backward(
    saved: tuple[Float[Array, "*n"], Float[Array, "*n"]], dloss: Float[Array, ""]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The gradients that `mean_squared_error_forward` writes down, times dloss.

    Args:
      saved: what `mean_squared_error_forward` kept.
      dloss: dL/dloss, a number.

    Returns:
      dy_hat and dy as predictions and targets.
    """
    predictions, targets = saved
    gradient = dloss * 2 * (predictions - targets) / len(predictions)
    return gradient.astype(predictions.dtype), -gradient.astype(targets.dtype)


mean_squared_error = Op(mean_squared_error_forward, mean_squared_error_backward)
"""The op of `mean_squared_error_forward` and `mean_squared_error_backward`."""


def mean_absolute_error_forward(
    predictions: Num[Array, "*n"], targets: Num[Array, "*m"]
) -> tuple[Float[Array, ""], tuple[Array, Array]]:
    """Absolute error of the outputs, summed over an example's outputs and averaged over the examples.

    L = 1/N sum |y_hat - y|;  dy_hat = sign(y_hat - y) / N, which is 0 where both are equal;  dy = -dy_hat

    PyTorch's default divides by the number of outputs too.

    Args:
      predictions: y_hat [N, K], or [N] or [N, ...]; the first dimension is the batch.
      targets: y as y_hat.

    Returns:
      The loss in the unit of the outputs; what the backward pass needs.

    Raises:
      InputError: an array is not floating point, the shapes differ, or there is no example.

    Reference: Goodfellow, Bengio and Courville, "Deep learning", 2016, section 6.2.1.2.
    """
    _check_same("mean absolute error", predictions=predictions, targets=targets)
    return jnp.sum(jnp.abs(predictions - targets)) / len(predictions), (predictions, targets)


def mean_absolute_error_backward(
    saved: tuple[Float[Array, "*n"], Float[Array, "*n"]], dloss: Float[Array, ""]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The gradients that `mean_absolute_error_forward` writes down, times dloss.

    Args:
      saved: what `mean_absolute_error_forward` kept.
      dloss: dL/dloss, a number.

    Returns:
      dy_hat and dy as predictions and targets.
    """
    predictions, targets = saved
    gradient = dloss * jnp.sign(predictions - targets) / len(predictions)
    return gradient.astype(predictions.dtype), -gradient.astype(targets.dtype)


mean_absolute_error = Op(mean_absolute_error_forward, mean_absolute_error_backward)
"""The op of `mean_absolute_error_forward` and `mean_absolute_error_backward`."""


def euclidean_loss_forward(
    predictions: Num[Array, "*n"], targets: Num[Array, "*m"]
) -> tuple[Float[Array, ""], tuple[Array, Array, Array]]:
    """Root of half the squared error of an example, averaged over the examples.

    L = 1/N sum_i L_i,  where L_i = sqrt(1/2 sum_j (y_hat_ij - y_ij)^2)

    dy_hat_ij = (y_hat_ij - y_ij) / (2 L_i N), 0 where L_i is 0, at which the root has no derivative;  dy = -dy_hat

    Args:
      predictions: y_hat [K] of one example, or [N, K].
      targets: y as y_hat.

    Returns:
      The loss in the unit of the outputs; what the backward pass needs.

    Raises:
      InputError: an array is not floating point, the shapes differ, or there is no example.
    """
    _check_same("Euclidean loss", predictions=predictions, targets=targets)
    losses = jnp.sqrt(jnp.sum((predictions - targets) ** 2, -1, keepdims=True) / 2)
    return jnp.mean(losses), (predictions, targets, losses)


def euclidean_loss_backward(
    saved: tuple[Float[Array, "*n k"], Float[Array, "*n k"], Float[Array, "*n 1"]], dloss: Float[Array, ""]
) -> tuple[Float[Array, "*n k"], Float[Array, "*n k"]]:
    """The gradients that `euclidean_loss_forward` writes down, times dloss.

    Args:
      saved: what `euclidean_loss_forward` kept.
      dloss: dL/dloss, a number.

    Returns:
      dy_hat and dy as predictions and targets.
    """
    predictions, targets, losses = saved
    # Where a loss is 0 so is the difference, which any other number may divide.
    gradient = dloss * (predictions - targets) / (2 * jnp.where(losses == 0, 1, losses) * losses.size)
    return gradient.astype(predictions.dtype), -gradient.astype(targets.dtype)


euclidean_loss = Op(euclidean_loss_forward, euclidean_loss_backward)
"""The op of `euclidean_loss_forward` and `euclidean_loss_backward`."""
