"""Branches that are dropped in training: stochastic depth, and the drop-path of fractal networks."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BATCH_RNG = "drop_path"
"""The random stream of decisions that hold for the whole batch: the same on every device."""


class StochasticDepth(nn.Module):
    """y = b F with b ~ Bernoulli(p) in training and y = p F in inference, F being a residual branch's output.

    Attributes:
      survival: p, the probability with which the branch stays.
      per_sample: decide for every example instead of once for the batch, which is the published form.

    Reference: Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic depth", 2016, equations 2 and 5.
    """

    survival: float
    per_sample: bool = False

    @nn.compact
    def __call__(self, branch: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h w c"]:
        """Keeps, drops or scales the branch [N, H, W, C]."""
        if not train:
            return branch * self.survival
        if self.survival >= 1:
            return branch
        if self.per_sample:
            keep = jax.random.bernoulli(self.make_rng("dropout"), self.survival, (branch.shape[0], 1, 1, 1))
        else:
            keep = jax.random.bernoulli(self.make_rng(BATCH_RNG), self.survival)
        return jnp.where(keep, branch, jnp.zeros_like(branch))
