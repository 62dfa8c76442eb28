"""Batch normalisation as a pure function with a closed-form backward pass, and as a linen module."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.errors import InputError


def _per_channel(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _moments(x: Array, axis_name: str | None) -> tuple[Array, Array]:
    """Mean and biased variance [C] of every channel of `x`, over all devices of `axis_name`."""
    axes = tuple(range(x.ndim - 1))
    # E[x^2] - E[x]^2 loses every digit where the mean is large against the deviation. Measured from the mean of the
    # first of N examples it is safe: that lies within sqrt(N) deviations of the batch's. It needs no second pass.
    shift = jnp.mean(x[:1], axes)
    shifted = x - _per_channel(shift, x)
    mean = jnp.mean(shifted, axes)
    variance = jnp.maximum(jnp.mean(jnp.square(shifted), axes) - jnp.square(mean), 0)
    mean = mean + shift
    if axis_name is None:
        return mean, variance
    means, variances = lax.all_gather(jnp.stack([mean, variance]), axis_name, axis=1)
    mean = jnp.mean(means, 0)
    return mean, jnp.mean(variances + jnp.square(means - mean[None]), 0)


def normalize(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "*batch c"], Float[Array, " c"], Float[Array, " c"]]:
    """Normalise every channel by its own mean and variance over the batch.

    x_hat = (x - mean) / sqrt(variance + epsilon);  y = scale x_hat + bias

    and backward, with the means over the batch of all devices and the sums over this device's:

    dx = scale (dy - mean(dy) - x_hat mean(dy x_hat)) / sqrt(variance + epsilon)
    dscale = sum dy x_hat;  dbias = sum dy

    Gradients are by reverse mode alone, to any order; none flows back from the mean and the variance returned.

    Args:
      x: [..., C]; in half precision, the arithmetic is float32.
      scale: [C].
      bias: [C].
      epsilon: added to the variance, positive.
      axis_name: mapped axis whose devices hold one batch together, each an equal share; None for this device alone.
        The gradients are then those of the sum of the devices' losses.

    Returns:
      y as x, in at least float32; the mean [C] and the biased variance [C] over the batch of all devices.

    Reference: Ioffe and Szegedy, "Batch Normalization", 2015, section 3.
    """
    return _normalize(x, scale, bias, epsilon, axis_name)


def _primal(x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None) -> tuple[Array, Array, Array]:
    return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None) -> tuple[Any, Any]:
    mean, variance = _moments(_wide(x), axis_name)
    rate = lax.rsqrt(variance + epsilon)
    y = (_wide(x) - _per_channel(mean, x)) * _per_channel(rate * scale, x) + _per_channel(bias, x)
    return (y, mean, variance), (x, scale, mean, rate)


def _backward(epsilon: float, axis_name: str | None, saved: Any, cotangents: Any) -> tuple[Array, Array, Array]:
    x, scale, mean, rate = saved
    dy, _, _ = cotangents
    axes = tuple(range(x.ndim - 1))
    x_hat = (_wide(x) - _per_channel(mean, x)) * _per_channel(rate, x)
    dscale, dbias = jnp.sum(dy * x_hat, axes), jnp.sum(dy, axes)
    sums = jnp.stack([dscale, dbias])
    if axis_name is not None:
        sums = lax.pmean(sums, axis_name)
    along_x_hat, along_one = sums * (scale.size / x.size)
    dx = _per_channel(scale * rate, x) * (dy - _per_channel(along_one, x) - x_hat * _per_channel(along_x_hat, x))
    return dx.astype(x.dtype), dscale, dbias


_normalize = jax.custom_vjp(_primal, nondiff_argnums=(3, 4))
_normalize.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
    """Batch normalisation over N, H and W.

    y = scale (x - mean) / sqrt(variance + epsilon) + bias

    with the batch's own statistics in training and their running averages in inference, where
    running = momentum running + (1 - momentum) batch.

    Attributes:
      momentum: weight of the old running average; PyTorch's momentum 0.1 is 0.9 here.
      epsilon: added to the variance, positive.
      unbiased: the running variance averages variance n / (n - 1), as in the paper and in PyTorch; linen's does not.
        The batch itself is always normalised by the biased one.
      use_scale: multiply by a learned number per channel.
      use_bias: add a learned number per channel.
      scale_init: initialiser of `scale` [C].
      bias_init: initialiser of `bias` [C].
      dtype: of the result; None promotes the input's with float32, in which parameters and statistics always are.
      axis_name: mapped axis whose devices hold one batch together; training on them equals training on one device
        when the gradients of the devices' mean losses are averaged. Initialisation and inference need no axis.

    Reference: Ioffe and Szegedy, "Batch Normalization", 2015, algorithms 1 and 2.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = True
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"], *, train: bool) -> Float[Array, "*batch c"]:
        """Normalise the last dimension's channels over all other dimensions.

        Args:
          x: [N, H, W, C], or [..., C].
          train: use the batch's statistics and move the running averages.

        Returns:
          As `x`, in `dtype`.

        Raises:
          InputError: in training, one value per channel, which has no variance.
        """
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, jnp.float32) if self.use_scale else jnp.ones(shape)
        bias = self.param("bias", self.bias_init, shape, jnp.float32) if self.use_bias else jnp.zeros(shape)
        dtype = self.dtype or jnp.promote_types(x.dtype, jnp.float32)
        if not train:
            rate = lax.rsqrt(running_var.value + self.epsilon)
            y = (_wide(x) - _per_channel(running_mean.value, x)) * _per_channel(rate * scale, x)
            return (y + _per_channel(bias, x)).astype(dtype)
        if self.is_initializing():
            return normalize(x, scale, bias, self.epsilon, None)[0].astype(dtype)

        n = x.size // x.shape[-1] * (1 if self.axis_name is None else lax.axis_size(self.axis_name))
        if n < 2:
            raise InputError(f"batch norm got input {x.shape} in training; expected more than 1 value per channel")
        y, mean, variance = normalize(x, scale, bias, self.epsilon, self.axis_name)
        if self.unbiased:
            variance = variance * (n / (n - 1))
        running_mean.value = self._average(running_mean.value, mean)
        running_var.value = self._average(running_var.value, variance)
        return y.astype(dtype)

    def _average(self, running: Array, batch: Array) -> Array:
        return self.momentum * running + (1 - self.momentum) * batch.astype(running.dtype)
