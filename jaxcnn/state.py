"""The one state that training returns and every analysis takes: a pytree of arrays."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from jaxcnn.errors import InputError


class State(flax.struct.PyTreeNode):
    """Parameters and everything else that training carries from step to step; arrays only.

    Attributes:
      step: optimisation steps taken, an int32 scalar.
      params: trainable parameters, float32.
      batch_stats: running statistics of batch norm; an empty dict for models without it.
      opt_state: state of the optimiser; an empty tuple where there is none.
      ema_params: averaged parameters, or None where no average is kept.
      key: the typed key, a scalar, from which every random choice of the run is derived.
    """

    # Not array types: JAX rebuilds pytrees around shapes, shardings and other placeholders.
    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    key: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes: the parameters (averaged ones where kept) and the batch statistics."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.batch_stats}


@partial(jax.jit, static_argnums=(0, 2))
def _initialise(model: nn.Module, key: Key[Array, ""], input_shape: tuple[int, int, int]) -> dict[str, Any]:
    return dict(model.init(key, jnp.zeros((1, *input_shape)), train=False))


def create(
    model: nn.Module,
    key: Key[Array, ""],
    input_shape: tuple[int, int, int],
    optimizer: optax.GradientTransformation | None = None,
) -> State:
    """A fresh state for `model`.

    Args:
      model: a module called as `model(images, train=...)`.
      key: a typed key, `jax.random.key(seed)`; it decides the initial parameters and all later randomness.
      input_shape: height and width in pixels, and channels of one image.
      optimizer: the transformation whose state is kept; None for analysis only.

    Returns:
      A state at step 0.

    Raises:
      InputError: a field of the model cannot be hashed, so that no program can be compiled for the model.
    """
    check_hashable(model)
    params_key, run_key = jax.random.split(key)
    variables = _initialise(model, params_key, input_shape)
    params = variables["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=() if optimizer is None else optimizer.init(params),
        ema_params=None,
        key=run_key,
    )


def check_hashable(model: nn.Module) -> None:
    """Refuses a model that no program can be compiled for.

    Raises:
      InputError: a field of it, or of a module that it holds, cannot be hashed.
    """
    try:
        hash(model)
    except TypeError as error:
        name, value = _unhashable(model)
        raise InputError(
            f"{type(model).__name__} holds {type(value).__name__} as {name}; expected tuples, numbers and other values "
            "that do not change, for which a program can be compiled"
        ) from error


def _unhashable(value: Any) -> tuple[str, Any]:
    """What in a value cannot be hashed, and the name that leads to it."""
    inside: dict[str, Any] = {}
    if isinstance(value, nn.Module):
        inside = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple):
        inside = {str(place): inner for place, inner in enumerate(value)}
    for name, inner in inside.items():
        try:
            hash(inner)
        except TypeError:
            rest, found = _unhashable(inner)
            return f"{name}.{rest}" if rest else name, found
    return "", value
