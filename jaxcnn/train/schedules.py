"""Learning rates: functions of the step by name, and the one that follows the held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxcnn.config import OptimizerConfig


def batches_per_update(config: OptimizerConfig, steps_per_epoch: int) -> int:
    """Batches whose mean gradient makes one update: all of an epoch in `gd`."""
    return steps_per_epoch if config.name == "gd" else config.accumulate


def schedule(config: OptimizerConfig, *, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    A step is one batch here. Where several make an update they share its rate, and warm-up, milestones and cycles are
    laid out in updates: 4 batches of 32 see the rate of one batch of 128. What `plateau` has found is not part of it
    (`rate_scale`).

    Args:
      config: name, peak rate, warm-up and milestones.
      total_steps: optimisation steps of the whole run.
      steps_per_epoch: optimisation steps of one epoch.

    Returns:
      A function from the step, starting at 0, to the learning rate.
    """
    rate = of_updates(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    batches = batches_per_update(config, steps_per_epoch)
    return rate if batches == 1 else lambda count: rate(jnp.asarray(count) // batches)


def of_updates(config: OptimizerConfig, *, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """As `schedule`, but a function from the number of the update, starting at 0."""
    peak, batches = config.learning_rate, batches_per_update(config, steps_per_epoch)
    total = max(total_steps // batches, 1)
    warmup = min(round(config.warmup_epochs * steps_per_epoch / batches), total)
    remaining = max(total - warmup, 1)
    first = peak
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, remaining)
    elif config.schedule == "steps":
        # Milestones are shares of the whole run; the joined schedule counts from the end of the warm-up.
        drops = {round(share * total) - warmup: config.drop for share in config.milestones}
        after = optax.piecewise_constant_schedule(peak, drops)
    elif config.schedule == "exponential":
        after = _exponential(peak, config.decay, lambda count: jnp.asarray(count) * batches // steps_per_epoch)
    elif config.schedule == "one_cycle":
        first, after = peak / 25, one_cycle(peak, remaining)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, first, warmup), after], [warmup])


def _exponential(peak: float, decay: float, epoch: Callable[[Any], Array]) -> optax.Schedule:
    return lambda count: peak * decay ** epoch(count)


def one_cycle(peak: float, total: int) -> optax.Schedule:
    """From peak / 25 up to the peak in the first 30% of the run and down to peak / 250,000, both along a cosine.

    Args:
      peak: the largest rate.
      total: updates of the run; the last one has the smallest rate, as in PyTorch's OneCycleLR.

    Returns:
      A function from the update, starting at 0, to the rate.

    Reference: Smith & Topin, "Super-convergence", 2018, section 3; the numbers are those of fast.ai.
    """
    first, last = peak / 25, peak / 25e4
    top = max(0.3 * total - 1, 1e-6)
    ends = jnp.array([0.0, top, max(total - 1, top + 1e-6)])

    def rate(count: Any) -> Array:
        phase = jnp.interp(jnp.asarray(count, jnp.float32), ends, jnp.array([0.0, 1.0, 2.0]))
        edge = jnp.where(phase < 1, first, last)
        return edge + (peak - edge) * (1 - jnp.cos(math.pi * phase)) / 2

    return rate


class PlateauState(NamedTuple):
    """What `plateau` remembers.

    Attributes:
      scale: the factor of the learning rate so far.
      best: the lowest held-out loss so far.
      bad: evaluations since then, or since the last reduction.
    """

    # Not array types: JAX rebuilds pytrees around shapes, shardings and other placeholders.
    scale: Any
    best: Any
    bad: Any


def plateau() -> optax.GradientTransformation:
    """Multiplies updates by the scale that `observe` lowers."""

    def init(params: PyTree) -> PlateauState:
        return PlateauState(jnp.ones(()), jnp.full((), jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, PlateauState]:
        return jax.tree.map(lambda update: state.scale * update, updates), state

    return optax.GradientTransformation(init, update)


def observe(opt_state: PyTree, config: OptimizerConfig, loss: float | Float[Array, ""]) -> PyTree:
    """The optimiser's state after an evaluation: `plateau` lowers its learning rate if the loss has stopped falling.

    A loss is lower if it is below (1 - 10^-4) times the lowest one. After more than `patience` evaluations that were
    not, the rate is multiplied by `plateau_factor` and the count of them starts anew; a loss that is not a number is
    never lower. Reducing is PyTorch's ReduceLROnPlateau.

    Args:
      opt_state: of any optimiser; without a `plateau` in it, it is returned as it is.
      config: factor and patience.
      loss: of the held-out images.

    Returns:
      The next state.
    """

    def after(leaf: Any) -> Any:
        if not isinstance(leaf, PlateauState):
            return leaf
        better = loss < leaf.best * (1 - 1e-4)
        bad: Int[Array, ""] = jnp.where(better, 0, leaf.bad + 1)
        reduce = bad > config.patience
        scale = jnp.where(reduce, leaf.scale * config.plateau_factor, leaf.scale)
        return PlateauState(scale, jnp.where(better, loss, leaf.best), jnp.where(reduce, 0, bad))

    return jax.tree.map(after, opt_state, is_leaf=_is_plateau)


def rate_scale(opt_state: PyTree) -> float:
    """The factor that `plateau` puts on the scheduled learning rate, 1 in any other schedule."""
    states = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=_is_plateau) if isinstance(leaf, PlateauState)]
    return float(states[0].scale) if states else 1.0


def _is_plateau(node: Any) -> bool:
    return isinstance(node, PlateauState)
