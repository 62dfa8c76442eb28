"""Batch normalisation in training and in inference, its running averages, and local response normalisation."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import InputError
from jaxcnn.ops.im2col import wide
from jaxcnn.ops.op import Op, check_floating


def _batch_axes(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _aligned(x: Array, *vectors: Array) -> list[Array]:
    """Vectors [C] as [1, ..., 1, C], which go with `x` elementwise."""
    return [vector.reshape((1,) * (x.ndim - 1) + vector.shape) for vector in vectors]


def _check_channels(name: str, epsilon: float, x: Array, **vectors: Array) -> None:
    check_floating(name, x=x, **vectors)
    if x.ndim == 0 or any(vector.shape != x.shape[-1:] for vector in vectors.values()):
        given = ", ".join(f"{key} {vector.shape}" for key, vector in vectors.items())
        raise InputError(f"{name} got input {x.shape} and {given}; expected one value per channel, the last dimension")
    if epsilon <= 0:
        raise InputError(f"{name} got epsilon {epsilon} for input {x.shape}; expected a positive number")


def batch_norm_forward(
    x: Float[Array, "*batch c"],
    gamma: Float[Array, " c"],
    beta: Float[Array, " c"],
    *,
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*batch c"], tuple[Array, Array, Array, Array]]:
    """Batch normalisation in training: every channel by its own mean and variance over the batch.

    mu = 1/m sum x;  sigma2 = 1/m sum (x - mu)^2;  x_hat = (x - mu) / sqrt(sigma2 + epsilon);  y = gamma x_hat + beta

    with sums over the m values of a channel: all dimensions but the last.

    Args:
      x: [N, H, W, C], or [..., C], with m > 1.
      gamma: [C].
      beta: [C].
      epsilon: added to the variance, positive.

    Returns:
      y as x; saved: x, gamma, mu and sigma2, the last three [1, ..., 1, C], the last two in at least float32. For
      `running_average` take mu and m/(m - 1) sigma2.

    Raises:
      InputError: integers; vectors that do not fit the channels; one value per channel, which has no variance; or
        an epsilon that is not positive.

    Reference: Ioffe & Szegedy, "Batch Normalization", 2015, algorithm 1.
    """
    _check_channels("batch norm", epsilon, x, gamma=gamma, beta=beta)
    if x.size <= x.shape[-1]:
        raise InputError(f"batch norm got input {x.shape} in training; expected more than 1 value per channel")
    dtype = jnp.result_type(x, gamma, beta)
    gamma, beta = _aligned(x, gamma, beta)
    mu = jnp.mean(wide(x), _batch_axes(x), keepdims=True)
    sigma2 = jnp.mean((x - mu) ** 2, _batch_axes(x), keepdims=True)
    x_hat = (x - mu) / jnp.sqrt(sigma2 + epsilon)
    return (gamma * x_hat + beta).astype(dtype), (x, gamma, mu, sigma2)


def batch_norm_backward(
    saved: tuple[Array, Array, Array, Array], dy: Float[Array, "*batch c"], *, epsilon: float = 1e-5
) -> tuple[Float[Array, "*batch c"], Float[Array, " c"], Float[Array, " c"]]:
    """The chain rule along y, x_hat, sigma2, mu and x, term by term.

    dx_hat = dy gamma
    dsigma2 = sum dx_hat (x - mu) (-1/2) (sigma2 + epsilon)^(-3/2)
    dmu = sum dx_hat (-1/sqrt(sigma2 + epsilon)) + dsigma2 1/m sum -2 (x - mu)
    dx = dx_hat / sqrt(sigma2 + epsilon) + dsigma2 2 (x - mu)/m + dmu/m
    dgamma = sum dy x_hat;  dbeta = sum dy

    A lecture prints a minus before the first term of dx; x_hat grows with x, so the plus here is right.

    Args:
      saved: x, gamma, mu, sigma2.
      dy: dL/dy, as x.
      epsilon: as forward.

    Returns:
      dx as x, dgamma [C] and dbeta [C].

    Reference: Ioffe & Szegedy, "Batch Normalization", 2015, section 3.
    """
    x, gamma, mu, sigma2 = saved
    dtype, dy = dy.dtype, wide(dy)
    axes, m = _batch_axes(x), x.size // x.shape[-1]
    root = jnp.sqrt(sigma2 + epsilon)
    dx_hat = dy * gamma
    dsigma2 = jnp.sum(dx_hat * (x - mu) * (-1 / 2) * (sigma2 + epsilon) ** (-3 / 2), axes, keepdims=True)
    dmu = jnp.sum(dx_hat * (-1 / root), axes, keepdims=True)
    dmu += dsigma2 * jnp.sum(-2 * (x - mu), axes, keepdims=True) / m  # zero but for rounding
    dx = dx_hat / root + dsigma2 * 2 * (x - mu) / m + dmu / m
    x_hat = (x - mu) / root
    dgamma, dbeta = jnp.sum(dy * x_hat, axes), jnp.sum(dy, axes)
    return dx.astype(x.dtype), dgamma.astype(dtype), dbeta.astype(dtype)


batch_norm = Op(batch_norm_forward, batch_norm_backward)
"""The op of `batch_norm_forward` and `batch_norm_backward`."""


def batch_norm_inference_forward(
    x: Float[Array, "*batch c"],
    gamma: Float[Array, " c"],
    beta: Float[Array, " c"],
    mean: Float[Array, " c"],
    variance: Float[Array, " c"],
    *,
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*batch c"], tuple[Array, Array, Array, Array]]:
    """Batch normalisation in inference: every channel by a mean and a variance that are given.

    x_hat = (x - mean) / sqrt(variance + epsilon);  y = gamma x_hat + beta

    Args:
      x: [N, H, W, C], or [..., C].
      gamma: [C].
      beta: [C].
      mean: running average of the batches' means, [C].
      variance: running average of the batches' variances, [C], not negative.
      epsilon: added to the variance, positive.

    Returns:
      y as x; saved: x, and gamma, mean and variance as [1, ..., 1, C].

    Raises:
      InputError: integers; vectors that do not fit the channels; or an epsilon that is not positive.

    Reference: Ioffe & Szegedy, "Batch Normalization", 2015, algorithm 2.
    """
    vectors = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    _check_channels("batch norm", epsilon, x, **vectors)
    dtype = jnp.result_type(x, *vectors.values())
    gamma, beta, mean, variance = _aligned(x, gamma, beta, mean, variance)
    x_hat = (wide(x) - mean) / jnp.sqrt(wide(variance) + epsilon)
    return (gamma * x_hat + beta).astype(dtype), (x, gamma, mean, variance)


def batch_norm_inference_backward(
    saved: tuple[Array, Array, Array, Array], dy: Float[Array, "*batch c"], *, epsilon: float = 1e-5
) -> tuple[Float[Array, "*batch c"], Float[Array, " c"], Float[Array, " c"], Float[Array, " c"], Float[Array, " c"]]:
    """The chain rule with a mean and a variance that do not depend on x.

    dx_hat = dy gamma;  dx = dx_hat / sqrt(variance + epsilon);  dgamma = sum dy x_hat;  dbeta = sum dy
    dmean = -sum dx;  dvariance = sum dx_hat (x - mean) (-1/2) (variance + epsilon)^(-3/2)

    Args:
      saved: x, gamma, mean, variance.
      dy: dL/dy, as x.
      epsilon: as forward.

    Returns:
      dx as x, and dgamma, dbeta, dmean and dvariance, each [C].
    """
    dtype, dy = dy.dtype, wide(dy)
    x, gamma, mean, variance = map(wide, saved)
    axes, root = _batch_axes(x), jnp.sqrt(variance + epsilon)
    x_hat = (x - mean) / root
    dx_hat = dy * gamma
    dx = dx_hat / root
    dvariance = jnp.sum(dx_hat * (x - mean) * (-1 / 2) * (variance + epsilon) ** (-3 / 2), axes)
    dgamma, dbeta, dmean = jnp.sum(dy * x_hat, axes), jnp.sum(dy, axes), -jnp.sum(dx, axes)
    dgamma, dbeta, dmean, dvariance = (vector.astype(dtype) for vector in (dgamma, dbeta, dmean, dvariance))
    return dx.astype(saved[0].dtype), dgamma, dbeta, dmean, dvariance


batch_norm_inference = Op(batch_norm_inference_forward, batch_norm_inference_backward)
"""The op of `batch_norm_inference_forward` and `batch_norm_inference_backward`."""


def running_average(
    running: Float[Array, "*shape"], batch: Float[Array, "*shape"], *, momentum: float = 0.9
) -> Float[Array, "*shape"]:
    """What inference knows of the batches seen in training.

    running = momentum running + (1 - momentum) batch

    PyTorch's momentum 0.1 is 0.9 here, and its running variance averages the unbiased m/(m - 1) sigma2 while each
    batch is normalised by the biased sigma2; give that here for the same.

    Args:
      running: the average so far, any shape.
      batch: the batch's own mean or variance, as running.
      momentum: weight of the average so far, in [0, 1].

    Returns:
      The new average, as running.

    Raises:
      InputError: integers, two shapes, or a momentum outside [0, 1].

    Reference: Ioffe & Szegedy, "Batch Normalization", 2015, algorithm 2.
    """
    check_floating("running average", running=running, batch=batch)
    if running.shape != batch.shape:
        raise InputError(f"running average got running {running.shape} and batch {batch.shape}; expected one shape")
    if not 0 <= momentum <= 1:
        raise InputError(f"running average got momentum {momentum}; expected a number in [0, 1]")
    average = momentum * wide(running) + (1 - momentum) * wide(batch)
    return average.astype(jnp.result_type(running, batch))


def _sum_over_neighbours(x: Array, size: int) -> Array:
    """For every channel, the sum over the `size` channels around it; beyond the ends there is nothing."""
    sides = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    padded = jnp.pad(x, sides)
    return sum((padded[..., i : i + x.shape[-1]] for i in range(size)), jnp.zeros_like(x))


def local_response_norm_forward(
    x: Float[Array, "*batch c"], *, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> tuple[Float[Array, "*batch c"], tuple[Float[Array, "*batch c"], Float[Array, "*batch c"]]]:
    """Local response normalisation: every channel is damped by the squares of its neighbours at the same pixel.

    s_c = k + alpha sum of x_j^2 over the `size` channels j around c;  y_c = x_c / s_c^beta

    Channels beyond the ends are left out. PyTorch divides its alpha by the size first: its 5e-4 is 1e-4 here.

    Args:
      x: [N, H, W, C], or [..., C].
      size: channels summed over, an odd number.
      k: added to the sum, positive.
      alpha: weight of the sum, not negative.
      beta: exponent.

    Returns:
      y as x; saved: x, and s in at least float32.

    Raises:
      InputError: integers, a size that is not odd and positive, a k that is not positive, or a negative alpha.

    Reference: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 3.3, whose constants are the defaults.
    """
    check_floating("local response norm", x=x)
    if size < 1 or size % 2 == 0:
        raise InputError(f"local response norm got size {size} for input {x.shape}; expected an odd number of channels")
    if k <= 0 or alpha < 0:
        raise InputError(f"local response norm got k {k} and alpha {alpha}; expected k above 0 and alpha of at least 0")
    s = k + alpha * _sum_over_neighbours(wide(x) ** 2, size)
    return (x / s**beta).astype(x.dtype), (x, s)


def local_response_norm_backward(
    saved: tuple[Float[Array, "*batch c"], Float[Array, "*batch c"]],
    dy: Float[Array, "*batch c"],
    *,
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
) -> tuple[Float[Array, "*batch c"]]:
    """A channel acts on its own numerator and on the denominators of its neighbours.

    dy_j/dx_c = [j = c] / s_c^beta - 2 alpha beta x_c x_j / s_j^(beta + 1) [j near c]
    dx_c = dy_c / s_c^beta - 2 alpha beta x_c sum over j near c of dy_j x_j / s_j^(beta + 1)

    "Near" is symmetric since the size is odd, so the second sum runs over the channels of the first.

    Args:
      saved: x and s.
      dy: dL/dy, as x.
      size: as forward.
      k: as forward; s holds it.
      alpha: as forward.
      beta: as forward.

    Returns:
      dx as x.
    """
    dtype, (x, s), dy = saved[0].dtype, map(wide, saved), wide(dy)
    through_neighbours = _sum_over_neighbours(dy * x / s ** (beta + 1), size)
    return ((dy / s**beta - 2 * alpha * beta * x * through_neighbours).astype(dtype),)


local_response_norm = Op(local_response_norm_forward, local_response_norm_backward)
"""The op of `local_response_norm_forward` and `local_response_norm_backward`."""
