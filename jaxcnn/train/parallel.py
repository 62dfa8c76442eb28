"""The only `pmap` of the project: one function over all local devices, the state unstacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.data.pipeline import Device
from jaxcnn.layers.convolution import compiler_options
from jaxcnn.train.diagnostics import DiagnosticsStep
from jaxcnn.train.step import AXIS, EvaluationStep, TrainStep

_Tree = TypeVar("_Tree")


def replicated(devices: Sequence[Device]) -> NamedSharding:
    """The placement of the state: a full copy on every device, as the mapped steps take and return it."""
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())


def replicate(tree: _Tree, devices: Sequence[Device]) -> _Tree:
    """The tree with every leaf on every device; what is there already is shared and goes if the result is donated."""
    return jax.device_put(tree, replicated(devices))


def map_train_step(step: TrainStep, devices: Sequence[Device]) -> TrainStep:
    """Compiles a training step over `devices`.

    Args:
      step: a function of (state, batch) that reduces over the axis `AXIS` itself.
      devices: the devices, in the order of the batch's leading dimension.

    Returns:
      A function of (state, batch), where the state is replicated and donated and the batch has a leading device
      dimension.
    """
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, None), devices=devices)
    return jax.jit(mapped, donate_argnums=0, compiler_options=compiler_options())


def map_evaluation_step(step: EvaluationStep, devices: Sequence[Device]) -> EvaluationStep:
    """Compiles an evaluation step over `devices`; the sums come back once, the logits with a device dimension."""
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, 0), devices=devices)
    return jax.jit(mapped, compiler_options=compiler_options())


def map_diagnostics_step(step: DiagnosticsStep, devices: Sequence[Device]) -> DiagnosticsStep:
    """Compiles a diagnostics step over `devices`; what it finds comes back once."""
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
    return jax.jit(mapped, compiler_options=compiler_options())
