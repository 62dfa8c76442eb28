"""The fully connected layer."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import InputError
from jaxcnn.ops.op import Op, check_floating


def dense_forward(
    x: Float[Array, "n inputs"], weights: Float[Array, "inputs outputs"], bias: Float[Array, " outputs"]
) -> tuple[Float[Array, "n outputs"], tuple[Float[Array, "n inputs"], Float[Array, "inputs outputs"]]]:
    """A fully connected layer: every output is a weighted sum of every input.

    Y = X W + b

    Args:
      x: one example per row, [N, inputs]; images are flattened first.
      weights: [inputs, outputs].
      bias: [outputs].

    Returns:
      Y [N, outputs]; saved: x and weights.

    Raises:
      InputError: integers, or shapes that do not fit one another.

    Reference: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986.
    """
    check_floating("dense", x=x, weights=weights, bias=bias)
    if x.ndim != 2 or weights.ndim != 2 or x.shape[1] != weights.shape[0] or bias.shape != weights.shape[1:]:
        raise InputError(
            f"dense got x {x.shape}, weights {weights.shape} and bias {bias.shape}; expected [N, inputs], "
            "[inputs, outputs] and [outputs]"
        )
    return x @ weights + bias.reshape(1, -1), (x, weights)


def dense_backward(
    saved: tuple[Float[Array, "n inputs"], Float[Array, "inputs outputs"]], dy: Float[Array, "n outputs"]
) -> tuple[Float[Array, "n inputs"], Float[Array, "inputs outputs"], Float[Array, " outputs"]]:
    """Each gradient is again a product of matrices.

    dX = dY W^T;  dW = X^T dY;  db = sum of dY over the examples

    Args:
      saved: x and weights.
      dy: dL/dY, [N, outputs].

    Returns:
      dX as x, dW as weights and db as bias.
    """
    x, weights = saved
    return dy @ weights.T, x.T @ dy, jnp.sum(dy, axis=0)


dense = Op(dense_forward, dense_backward)
"""The op of `dense_forward` and `dense_backward`."""
