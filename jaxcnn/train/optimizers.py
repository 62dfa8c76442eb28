"""Update rules from Optax by name, learning rates by part, and averages of gradients and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_leaves_with_path
from jaxtyping import Array, Float, PyTree

from jaxcnn.config import OptimizerConfig
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.train.schedules import batches_per_update, of_updates, plateau

REST = "rest"
"""In `OptimizerConfig.rates`: every parameter that no other entry names."""


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


def _as_matrices(params: PyTree) -> PyTree:
    """For Muon: a kernel [..., inputs, outputs] is the matrix of all its inputs by its outputs, a vector is none."""

    def matrix(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if getattr(path[-1], "key", None) != "kernel" or leaf.ndim < 2:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(matrix, params)


def _lars(weight_decay: float) -> optax.GradientTransformation:
    """0.001 |w| / (|g| + weight_decay |w|) (g + weight_decay w) for every kernel w, and g for all else."""

    def scaled(gradient: Any, weight: Any) -> Array:
        size, slope = jnp.linalg.norm(weight.ravel()), jnp.linalg.norm(gradient.ravel())
        moved = (size > 0) & (slope > 0)
        ratio = jnp.where(moved, 0.001 * size / jnp.where(moved, slope + weight_decay * size, 1), 1)
        return ratio * (gradient + weight_decay * weight)

    return optax.masked(optax.stateless(partial(jax.tree.map, scaled)), kernels_only)


def _lamb(weight_decay: float) -> optax.GradientTransformation:
    """|w| / |u| u with u = r + weight_decay w for every kernel w, r being Adam's direction, and r for all else."""
    return optax.chain(
        optax.scale_by_adam(eps=1e-6),
        optax.add_decayed_weights(weight_decay, mask=kernels_only),
        optax.masked(optax.scale_by_trust_ratio(), kernels_only),
    )


# The direction that a rule goes, before the learning rate.
_DIRECTIONS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "gd": lambda config: optax.identity(),
    "sgd": lambda config: optax.identity(),
    "momentum": lambda config: optax.trace(config.momentum),
    "nesterov": lambda config: optax.trace(config.momentum, nesterov=True),
    # PyTorch's sum of squares starts at 0 and divides by sqrt(sum) + 1e-10.
    "adagrad": lambda config: optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-20),
    "rmsprop": lambda config: optax.scale_by_rms(0.9, eps_in_sqrt=False),
    "adam": lambda config: optax.scale_by_adam(),
    "adamw": lambda config: optax.scale_by_adam(),
    "lars": lambda config: _lars(config.weight_decay),
    "lamb": lambda config: _lamb(config.weight_decay),
    "muon": lambda config: optax.chain(
        optax.contrib.muon(1.0, muon_weight_dimension_numbers=_as_matrices), optax.scale(-1.0)
    ),
}


def _rule(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """The rule with its weight decay and its learning rate."""
    direction = _DIRECTIONS[config.name](config)
    if config.name == "lars":  # the velocity holds steps, not gradients: the rate is inside
        return optax.chain(direction, optax.scale_by_learning_rate(rate), optax.trace(config.momentum))
    decoupled = config.name in ("adamw", "muon") if config.decoupled is None else config.decoupled
    decay = optax.add_decayed_weights(config.weight_decay, mask=kernels_only)
    if decoupled:
        return optax.chain(direction, decay, optax.scale_by_learning_rate(rate))
    rule = optax.chain(direction, optax.scale_by_learning_rate(rate))
    return optax.chain(decay, rule) if config.weight_decay and config.name != "lamb" else rule


def create(config: OptimizerConfig, *, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The transformation that turns gradients into parameter updates.

    In this order: the gradients of `accumulate` batches (`gd`: of all batches of an epoch) are averaged, and the
    updates in between are zero; gradients whose norm over all parameters that learn is above `clip` are scaled down
    to it; weight decay is added to the gradient of every kernel (the L2 penalty lambda/2 ||W||^2); the rule of every
    part gives the update; `plateau` scales it.

    Decoupled weight decay adds lambda W to the direction that the rule goes, past its moments (Loshchilov & Hutter
    2019). That of LARS and LAMB is part of their trust ratio, which biases and batch-norm parameters do without. Muon
    takes a convolution's kernel as the matrix of its inputs by its filters, and leaves vectors to Adam with Nesterov's
    momentum.

    Parts with a factor of their own take the learning rate times it, and those with the factor 0 stay as they are;
    their rule remembers nothing.

    Args:
      config: which rule, with its numbers.
      total_steps: optimisation steps of the whole run, in batches.
      steps_per_epoch: optimisation steps of one epoch, in batches.

    Returns:
      An Optax transformation; its `init` raises InputError where `config.rates` names a part that is not there. The
      structure of its state does not depend on the length of the run.

    References: Duchi, Hazan & Singer 2011 (Adagrad); Tieleman & Hinton 2012 (RMSProp, with decay 0.9); Kingma & Ba
    2015 (Adam); You, Gitman & Ginsburg 2017, equation 6 (LARS); You et al. 2020, algorithm 2 (LAMB); Jordan et al.
    2024 (Muon).
    """
    rate = of_updates(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)

    def rule(factor: float) -> optax.GradientTransformation:
        if not factor:
            return optax.set_to_zero()
        return _rule(config, rate if factor == 1 else lambda step: factor * rate(step))

    groups = partial(_groups, config.rates)
    parts: list[optax.GradientTransformation] = [rule(1.0)]
    if config.rates:
        parts = [optax.partition({factor: rule(factor) for factor in {1.0, *config.rates.values()}}, groups)]
    if config.clip is not None:
        # What is frozen has no gradient: its share of the norm would shrink the others' for nothing.
        clip = optax.clip_by_global_norm(config.clip)
        parts.insert(0, optax.masked(clip, lambda params: jax.tree.map(bool, groups(params))))
    if config.schedule == "plateau":
        parts.append(plateau())
    optimizer = parts[0] if len(parts) == 1 else optax.chain(*parts)
    if config.name != "gd" and config.accumulate == 1:
        return optimizer
    batches = batches_per_update(config, steps_per_epoch)
    return optax.MultiSteps(optimizer, batches).gradient_transformation()


def require_full_batches(examples: int, batch_size: int) -> None:
    """Refuses a split that is not made of whole batches, whose mean gradient is that of all its examples.

    Args:
      examples: in the training split.
      batch_size: in examples.

    Raises:
      InputError: some examples would be left out.
    """
    if examples % batch_size:
        nearest = max(n for n in range(1, min(batch_size, examples) + 1) if not examples % n)
        raise InputError(
            f"data.batch_size is {batch_size}; expected a divisor of the {examples} training images, such as "
            f"{nearest}, as gd takes the gradient of them all"
        )


def update_average(average: PyTree, params: PyTree, decay: float | Float[Array, ""]) -> PyTree:
    """The moving average of the parameters after a step, decay * average + (1 - decay) * params.

    Args:
      average: of the steps before, at first the initial parameters.
      params: after the step.
      decay: in (0, 1).

    Returns:
      The next average.

    Reference: Polyak & Juditsky 1992; Szegedy et al., "Rethinking the Inception architecture", 2016, section 8.
    """
    return jax.tree.map(lambda mean, value: decay * mean + (1 - decay) * value, average, params)
