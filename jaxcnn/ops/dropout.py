"""Inverted dropout."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, Key

from jaxcnn.errors import InputError
from jaxcnn.ops.op import Op, check_floating


def dropout_forward(
    x: Float[Array, "*shape"], key: Key[Array, ""], *, rate: float
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Inverted dropout: each value is kept with probability 1 - rate, and what is kept is divided by that.

    mask = 1/(1 - rate) with probability 1 - rate, else 0;  y = mask x

    The mean of y over masks is x, so nothing is left to do in inference: there dropout is the identity, and is not
    called.

    Args:
      x: any shape.
      key: decides the mask; the same key gives the same one.
      rate: probability of dropping a value, in [0, 1); 0 is the identity.

    Returns:
      y as x; saved: the mask, as x.

    Raises:
      InputError: integers, or a rate outside [0, 1).

    Reference: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014, section 10.
    """
    check_floating("dropout", x=x)
    if not 0 <= rate < 1:
        raise InputError(f"dropout got rate {rate} for input {x.shape}; expected a probability in [0, 1)")
    keep = 1 - rate
    mask = jax.random.bernoulli(key, keep, x.shape).astype(x.dtype) / keep
    return mask * x, mask


def dropout_backward(
    saved: Float[Array, "*shape"], dy: Float[Array, "*shape"], *, rate: float
) -> tuple[Float[Array, "*shape"], None]:
    """The gradient passes the same mask.

    dx = mask dy

    Args:
      saved: the mask.
      dy: dL/dy, as x.
      rate: as forward; the mask holds it.

    Returns:
      dx as x; None for the key.
    """
    mask = saved
    return mask * dy, None


dropout = Op(dropout_forward, dropout_backward)
"""The op of `dropout_forward` and `dropout_backward`."""
