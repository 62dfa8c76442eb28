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

from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.image_model import Auxiliary
from jaxcnn.layers.stochastic_depth import BATCH_RNG
from jaxcnn.state import State
from jaxcnn.train.losses import cross_entropy
from jaxcnn.train.optimizers import rate_factor

AXIS = "batch"

Metrics: TypeAlias = dict[str, Array]
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


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation, rates: Mapping[str, float] | None = None
) -> TrainStep:
    """The step theta <- theta - update(grad of the mean loss), for one device under a mapped axis named `AXIS`.

    Gradients and batch statistics are averaged over the axis, so the step on any number of devices is the step on
    one with the same global batch; only dropout draws other masks. Auxiliary classifiers add their weighted losses.

    Args:
      model: a module whose `axis_name` is `AXIS`.
      optimizer: turns the averaged gradients into updates.
      rates: factors of the learning rate by part (`OptimizerConfig.rates`); batch norms of parts whose factor is 0 stay
        in inference.

    Returns:
      A function from (state, batch) to the next state and the batch's mean `loss` and `top1`.
    """

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        images, labels = to_float(batch.images), batch.labels
        key = jax.random.fold_in(state.key, state.step)
        rngs = {"dropout": jax.random.fold_in(key, jax.lax.axis_index(AXIS)), BATCH_RNG: key}

        def objective(params: Any) -> tuple[Array, tuple[Array, Any]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            with _frozen_in_inference(rates or {}):
                output: Any = model.apply(
                    variables, images, train=True, mutable=["batch_stats", "auxiliary"], rngs=rngs
                )
            logits, updates = output
            loss = cross_entropy(logits, labels).mean()
            for auxiliary in jax.tree.leaves(updates.get("auxiliary"), is_leaf=lambda x: isinstance(x, Auxiliary)):
                loss += auxiliary.weight * cross_entropy(auxiliary.logits, labels).mean()
            return loss, (logits, updates.get("batch_stats", {}))

        (loss, (logits, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        metrics = {"loss": loss, "top1": hits(logits, labels, 1).mean()}
        gradients, batch_stats, metrics = jax.lax.pmean((gradients, batch_stats, metrics), AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        return state, metrics

    return step


def make_evaluation_step(model: nn.Module) -> EvaluationStep:
    """The forward pass in inference and its sums over the examples that the mask keeps, over all devices.

    Args:
      model: the network.

    Returns:
      A function from (state, batch) to the sums `loss`, `top1`, `top5` and `examples`, and the logits [n, k].
    """

    def step(state: State, batch: Any) -> tuple[Metrics, Array]:
        logits: Any = model.apply(state.variables, to_float(batch.images), train=False)
        values = {
            "loss": cross_entropy(logits, batch.labels),
            "top1": hits(logits, batch.labels, 1),
            "top5": hits(logits, batch.labels, 5),
            "examples": jnp.ones_like(batch.mask),
        }
        # A padded row may hold anything, so it is replaced and not multiplied by zero.
        sums = {name: jnp.where(batch.mask, value, 0).sum() for name, value in values.items()}
        return jax.lax.psum(sums, AXIS), logits

    return step
