"""Training losses: means over the batch of sums over the classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "*n k"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Softmax with categorical cross-entropy, l_i = log sum_j exp(z_ij) - z_i,y_i, stable for any finite logits.

    Args:
      logits: z, unnormalised log-probabilities, of examples [N, k] or of their pixels [N, H, W, k].
      labels: y, in [0, k), of the same examples or pixels.

    Returns:
      One loss per label, in nats, at least 0.
    """
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked
