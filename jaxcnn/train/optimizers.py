"""Update rules and learning-rate schedules, from Optax by name."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree

from jaxcnn.config import OptimizerConfig


def schedule(config: OptimizerConfig, *, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
      config: name, peak rate, warm-up and milestones.
      total_steps: optimisation steps of the whole run.
      steps_per_epoch: optimisation steps of one epoch.

    Returns:
      A function from the step, starting at 0, to the learning rate.
    """
    peak = config.learning_rate
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
    remaining = max(total_steps - warmup, 1)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, remaining)
    elif config.schedule == "steps":
        # Milestones are shares of the whole run; the joined schedule counts from the end of the warm-up.
        drops = {round(share * total_steps) - warmup: 0.1 for share in config.milestones}
        after = optax.piecewise_constant_schedule(peak, drops)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def kernels_only(params: PyTree) -> PyTree:
    """True at every kernel and False at biases and batch-norm parameters: what weight decay acts on."""
    return jax.tree_util.tree_map_with_path(lambda path, _: getattr(path[-1], "key", None) == "kernel", params)


_RULES: dict[str, Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]] = {
    "sgd": lambda config, rate: optax.sgd(rate),
    "momentum": lambda config, rate: optax.sgd(rate, momentum=config.momentum),
    "nesterov": lambda config, rate: optax.sgd(rate, momentum=config.momentum, nesterov=True),
    "adam": lambda config, rate: optax.adam(rate),
    "adamw": lambda config, rate: optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels_only),
}


def create(config: OptimizerConfig, *, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The transformation that turns gradients into parameter updates.

    Weight decay is added to the gradient of every kernel (the L2 penalty lambda/2 ||W||^2), except in adamw, which
    decouples it (Loshchilov & Hutter 2019).

    Args:
      config: which rule, with its numbers.
      total_steps: optimisation steps of the whole run.
      steps_per_epoch: optimisation steps of one epoch.

    Returns:
      An Optax transformation.
    """
    rule = _RULES[config.name](config, schedule(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch))
    if not config.weight_decay or config.name == "adamw":
        return rule
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask=kernels_only), rule)
