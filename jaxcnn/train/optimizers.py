"""Update rules and learning-rate schedules, from Optax by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import optax
from jax.tree_util import tree_leaves_with_path
from jaxtyping import PyTree

from jaxcnn.config import OptimizerConfig
from jaxcnn.errors import unknown_name

REST = "rest"
"""In `OptimizerConfig.rates`: every parameter that no other entry names."""


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


def rate_factor(rates: Mapping[str, float], path: str) -> float:
    """The factor of the learning rate of the parameter or module `path`, such as "stage1/block1/conv1/kernel".

    Args:
      rates: factors by path, each for everything below it; the longest that fits counts, and where none does, the
        factor of "rest" or else 1.
      path: names joined by slashes.
    """
    parts = path.split("/")
    for length in range(len(parts), 0, -1):
        if (prefix := "/".join(parts[:length])) in rates:
            return rates[prefix]
    return rates.get(REST, 1.0)


def _groups(rates: Mapping[str, float], params: PyTree) -> PyTree:
    """The factor of every leaf.

    Raises:
      InputError: a part that `rates` names is not there.
    """
    paths = {path: jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in tree_leaves_with_path(params)}
    for part in rates:
        if part != REST and not any(f"{path}/".startswith(f"{part}/") for path in paths.values()):
            raise unknown_name("part in optimizer.rates", part, {path.split("/")[0] for path in paths.values()})
    return jax.tree_util.tree_map_with_path(lambda path, _: rate_factor(rates, paths[path]), params)


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
    decouples it (Loshchilov & Hutter 2019). Parts with a factor of their own take the learning rate times it, and
    those with the factor 0 stay as they are and keep no optimiser state.

    Args:
      config: which rule, with its numbers.
      total_steps: optimisation steps of the whole run.
      steps_per_epoch: optimisation steps of one epoch.

    Returns:
      An Optax transformation; its `init` raises InputError where `config.rates` names a part that is not there.
    """
    rate = schedule(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)

    def rule(factor: float) -> optax.GradientTransformation:
        if not factor:
            return optax.set_to_zero()
        rule = _RULES[config.name](config, rate if factor == 1 else lambda step: factor * rate(step))
        if not config.weight_decay or config.name == "adamw":
            return rule
        return optax.chain(optax.add_decayed_weights(config.weight_decay, mask=kernels_only), rule)

    if not config.rates:
        return rule(1.0)
    factors = {1.0, *config.rates.values()}
    return optax.partition({factor: rule(factor) for factor in factors}, partial(_groups, config.rates))
