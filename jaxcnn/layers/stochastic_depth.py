"""Residual branches that are dropped at random in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BATCH_RNG = "drop_path"
"""The random stream of decisions that hold for the whole batch: the same on every device."""

_Module = TypeVar("_Module", bound=nn.Module)


def stochastic_depth(
    block: _Module,
    branch: Callable[[_Module, Array], Array],
    x: Float[Array, "n h w c"],
    shortcut: Float[Array, "n h_out w_out features"],
    *,
    survival: float,
    per_sample: bool,
    train: bool,
) -> Float[Array, "n h_out w_out features"]:
    """y = shortcut + b F(x) with b ~ Bernoulli(p) in training, y = shortcut + p F(x) in inference.

    Decided once for the batch, which is the published form, a dropped branch is not executed: it costs nothing and its
    batch statistics stay as they are. Decided for every example, it is executed for the whole batch.

    Args:
      block: the module that owns the branch's parameters.
      branch: F, a function of the module and of x.
      x: [N, H, W, C].
      shortcut: [N, H', W', features], of the dtype of F(x).
      survival: p, the probability with which the branch stays, in (0, 1].
      per_sample: decide for every example, from the stream "dropout", instead of once from the stream `BATCH_RNG`.
      train: drop at random instead of scaling.

    Returns:
      y as `shortcut`.

    Reference: Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic depth", 2016, equations 2 and 5.
    """
    if not train or block.is_initializing():
        return shortcut + survival * branch(block, x)
    if per_sample:
        keep = jax.random.bernoulli(block.make_rng("dropout"), survival, (x.shape[0], 1, 1, 1))
        return shortcut + jnp.where(keep, branch(block, x), 0)
    keep = jax.random.bernoulli(block.make_rng(BATCH_RNG), survival)
    return nn.cond(
        keep,
        lambda block, x, shortcut: shortcut + branch(block, x),
        lambda block, x, shortcut: shortcut,
        block,
        x,
        shortcut,
    )
