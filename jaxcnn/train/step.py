"""One optimisation step and one evaluation step, as pure functions of one device's share of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxcnn.config import Experiment, LossConfig, LossName
from jaxcnn.data.augment import make as make_augment
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.image_model import Auxiliary
from jaxcnn.layers.stochastic_depth import BATCH_RNG
from jaxcnn.state import State
from jaxcnn.train import losses
from jaxcnn.train.optimizers import rate_factor, update_average

AXIS = "batch"

_AUGMENT = 2**32 - 1  # what separates the augmentation's key from those of the devices, which have small numbers

Metrics: TypeAlias = dict[str, Array]
Objective: TypeAlias = Callable[[Any, State, Any], tuple[Array, tuple[Array, Any]]]
TrainStep: TypeAlias = Callable[[State, Any], tuple[State, Metrics]]
EvaluationStep: TypeAlias = Callable[[State, Any], tuple[Metrics, Array]]


def to_float(images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Pixels 0..255 as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def hits(logits: Float[Array, "*n k"], labels: Int[Array, "*n"], top: int) -> Bool[Array, "*n"]:
    """Whether the label is among the `top` largest logits; equal logits count against the example.

    A network that gives every class the same logit therefore scores 0 and not 1; a logit that is not a number is
    never a hit.
    """
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return (jnp.sum(logits >= picked, axis=-1) <= min(top, logits.shape[-1])) & jnp.isfinite(picked[..., 0])


def _frozen_in_inference(rates: Mapping[str, float]) -> AbstractContextManager[None]:
    """Makes every frozen batch norm use its running statistics and leave them alone."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, BatchNorm) and not rate_factor(rates, "/".join(context.module.path)):
            kwargs = {**kwargs, "train": False}
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def make_objective(model: nn.Module, experiment: Experiment | None = None) -> Objective:
    """What training minimises on one device's share of a batch, under a mapped axis named `AXIS`.

    Images are augmented, and their targets with them; auxiliary classifiers add their weighted losses, and kernels
    their penalty. Every random choice is a function of the state's key and step.

    Args:
      model: a module whose `axis_name` is `AXIS`.
      experiment: `loss`, `data.augment` and `optimizer.rates` count, by whose factor 0 a part's batch norms stay in
        inference; None takes the defaults.

    Returns:
      A function from (params, state, batch) to the mean loss, and the logits with the collection of batch statistics.
    """
    experiment = experiment or Experiment()
    config, rates = experiment.loss, experiment.optimizer.rates
    augment = make_augment(experiment.data.augment)

    def objective(params: Any, state: State, batch: Any) -> tuple[Array, tuple[Array, Any]]:
        images, truth = to_float(batch.images), batch.labels
        key = jax.random.fold_in(state.key, state.step)
        device = jax.lax.axis_index(AXIS)
        if experiment.data.augment:
            targets = jax.nn.one_hot(truth, model.num_classes)  # type: ignore[attr-defined]
            own = jax.random.fold_in(key, _AUGMENT)
            images, truth = augment(own, images, targets, device * len(images))
        rngs = {"dropout": jax.random.fold_in(key, device), BATCH_RNG: key}
        variables = {"params": params, "batch_stats": state.batch_stats}
        with _frozen_in_inference(rates):
            output: Any = model.apply(variables, images, train=True, mutable=["batch_stats", "auxiliary"], rngs=rngs)
        logits, updates = output
        total = losses.loss(config, logits, truth).mean()
        for auxiliary in jax.tree.leaves(updates.get("auxiliary"), is_leaf=lambda x: isinstance(x, Auxiliary)):
            total += auxiliary.weight * losses.loss(config, auxiliary.logits, truth).mean()
        if config.l1:
            total += losses.l1_penalty(params, config.l1)
        return total, (logits, updates.get("batch_stats", {}))

    return objective


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation, experiment: Experiment | None = None
) -> TrainStep:
    """The step theta <- theta - update(grad of the objective), for one device under a mapped axis named `AXIS`.

    Gradients and batch statistics are averaged over the axis, so the step on any number of devices is the step on
    one with the same global batch; only dropout draws other masks, and mixtures find other partners.

    Args:
      model: a module whose `axis_name` is `AXIS`.
      optimizer: turns the averaged gradients into updates.
      experiment: what `make_objective` takes, and `optimizer.ema`.

    Returns:
      A function from (state, batch) to the next state and the batch's mean `loss` and `top1`.
    """
    objective = make_objective(model, experiment)
    decay = experiment.optimizer.ema if experiment else None

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        (loss, (logits, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params, state, batch
        )
        metrics = {"loss": loss, "top1": hits(logits, batch.labels, 1).mean()}
        gradients, batch_stats, metrics = jax.lax.pmean((gradients, batch_stats, metrics), AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema_params
        if decay is not None:
            # Between the batches of one update nothing moves, and neither does the average.
            updated = getattr(opt_state, "mini_step", 0) == 0
            average = update_average(average, params, jnp.where(updated, decay, 1.0))
        state = state.replace(
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema_params=average
        )
        return state, metrics

    return step


def make_evaluation_step(model: nn.Module, loss: LossName = "cross_entropy") -> EvaluationStep:
    """The forward pass in inference and its sums over the examples that the mask keeps, over all devices.

    Args:
      model: the network.
      loss: which one, of the labels as they are.

    Returns:
      A function from (state, batch) to the sums `loss`, `top1`, `top5` and `examples`, and the logits [n, k].
    """

    config = LossConfig(loss)

    def step(state: State, batch: Any) -> tuple[Metrics, Array]:
        logits: Any = model.apply(state.variables, to_float(batch.images), train=False)
        values = {
            "loss": losses.loss(config, logits, batch.labels),
            "top1": hits(logits, batch.labels, 1),
            "top5": hits(logits, batch.labels, 5),
            "examples": jnp.ones_like(batch.mask),
        }
        # A padded row may hold anything, so it is replaced and not multiplied by zero.
        sums = {name: jnp.where(batch.mask, value, 0).sum() for name, value in values.items()}
        return jax.lax.psum(sums, AXIS), logits

    return step
