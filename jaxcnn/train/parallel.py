"""The only `pmap` of the project: one function over all devices, the state unstacked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.data.pipeline import Device, local
from jaxcnn.layers.convolution import compiler_options
from jaxcnn.train.diagnostics import DiagnosticsStep
from jaxcnn.train.step import AXIS, EvaluationStep, TrainStep

_Tree = TypeVar("_Tree")


def replicated(devices: Sequence[Device]) -> NamedSharding:
    """The placement of the state: a full copy on every device of this process, as the mapped steps take and return."""
    return NamedSharding(Mesh(np.array(local(devices)), (AXIS,)), PartitionSpec())


def replicate(tree: _Tree, devices: Sequence[Device]) -> _Tree:
    """The tree on every device of this process; what is there already is shared and goes if the result is donated."""
    return jax.device_put(tree, replicated(devices))


def map_train_step(step: TrainStep, devices: Sequence[Device]) -> TrainStep:
    """Compiles a training step over `devices`.

    Args:
      step: a function of (state, batch) that reduces over the axis `AXIS` itself.
      devices: the devices, of all processes, in the order of the batch's leading dimension.

    Returns:
      A function of (state, batch), where the state is replicated and donated and the batch has a leading device
      dimension, of this process's devices.
    """
    return _compiled(step, devices, (None, None), donate=(0,))


def map_evaluation_step(step: EvaluationStep, devices: Sequence[Device]) -> EvaluationStep:
    """Compiles an evaluation step over `devices`; the sums come back once, the logits with a device dimension."""
    return _compiled(step, devices, (None, 0))


def map_diagnostics_step(step: DiagnosticsStep, devices: Sequence[Device]) -> DiagnosticsStep:
    """Compiles a diagnostics step over `devices`; what it finds comes back once."""
    return _compiled(step, devices, None)


def _compiled(step: Any, devices: Sequence[Device], out_axes: Any, donate: tuple[int, ...] = ()) -> Any:
    mapped = functools.partial(jax.pmap, step, axis_name=AXIS, in_axes=(None, 0), out_axes=out_axes, devices=devices)
    if jax.process_count() > 1:
        # What several processes hold becomes one array in `pmap` itself, which cannot be traced for that.
        return mapped(donate_argnums=donate)
    return jax.jit(mapped(), donate_argnums=donate, compiler_options=compiler_options())
