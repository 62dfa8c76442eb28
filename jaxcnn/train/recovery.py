"""What to do when training goes wrong: back to a checkpoint that is whole and finite, with a lower learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import loading
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import Experiment
from jaxcnn.errors import DamagedCheckpoint, RunError
from jaxcnn.run import Metrics
from jaxcnn.state import State

FACTOR = 0.1
"""What a rollback multiplies the learning rate by."""

EXPLOSION = 1000
"""A loss of so many times the first one is as good as none."""


class Diverged(RunError):
    """The training loss is not a number any more, or has exploded.

    Attributes:
      loss: what it is.
      step: where that was seen.
    """

    def __init__(self, loss: float, step: int, directory: str | Path) -> None:
        super().__init__(
            f"the training loss is {loss:g} at step {step} of {directory}; try a smaller optimizer.learning_rate"
        )
        self.loss: float = loss
        self.step: int = step


def require_sound(
    metrics: Sequence[Mapping[str, float]], first: float | None, step: int, directory: str | Path
) -> None:
    """Refuses losses of which one is not finite, or is `EXPLOSION` times the run's first one.

    Args:
      metrics: of training steps, `loss` among them.
      first: the loss of the run's first step, or None where it is not known.
      step: optimisation steps done.
      directory: of the run.

    Raises:
      Diverged: a loss is no good.
    """
    for loss in (values["loss"] for values in metrics):
        if not math.isfinite(loss) or (first is not None and loss > EXPLOSION * abs(first)):
            raise Diverged(loss, step, directory)


def rollbacks(directory: str | Path) -> Metrics:
    """The run's file of rollbacks: one record for each, which a restart heeds as the run itself did."""
    return Metrics(Path(directory) / "rollbacks.jsonl")


def learning_rate(experiment: Experiment, directory: str | Path) -> float:
    """The peak learning rate after the rollbacks so far."""
    return experiment.optimizer.learning_rate * FACTOR ** len(rollbacks(directory).read())


def roll_back(experiment: Experiment, directory: str | Path, diverged: Diverged) -> str:
    """Takes a run back to its newest checkpoint whose parameters are finite, or to its beginning.

    A checkpoint from which training diverged before is passed over: what went wrong may lie before it.

    Args:
      experiment: of the run.
      directory: the run directory.
      diverged: what went wrong.

    Returns:
      A sentence that says what was done.

    Raises:
      Diverged: the run has been taken back `training.max_rollbacks` times already.
    """
    file = rollbacks(directory)
    before = file.read()
    if len(before) >= experiment.training.max_rollbacks:
        if before:
            diverged.args = (f"{diverged.args[0]} (it went back {len(before)} times already, as rollbacks.jsonl says)",)
        raise diverged
    tried = {record["step"] for record in before}
    with Checkpoints(Path(directory) / "checkpoints", keep=experiment.training.keep) as checkpoints:
        steps = [step for step in reversed(checkpoints.steps()) if step < diverged.step and step not in tried]
        good = next((step for step in steps if _finite(directory, step)), 0)
        # The records first: killed in between, the run goes on from a checkpoint as if nothing had been tried, while
        # records without any checkpoint look like a run whose checkpoints were lost.
        Metrics(Path(directory) / "metrics.jsonl").truncate(good)
        checkpoints.discard_after(good)
    rate = learning_rate(experiment, directory) * FACTOR
    file.append({"step": good, "failed_step": diverged.step, "loss": diverged.loss, "learning_rate": rate})
    where = f"step {good}" if good else "the beginning"
    return (
        f"the training loss is {diverged.loss:g} at step {diverged.step}: back to {where}, with the learning rate "
        f"{rate:g} (rollback {len(before) + 1} of {experiment.training.max_rollbacks})"
    )


def _finite(directory: str | Path, step: int) -> bool:
    try:
        _, state = loading.load(directory, checkpoint=step)
    except DamagedCheckpoint:
        return False
    leaves = jax.tree.leaves((state.params, state.batch_stats))
    return all(bool(jnp.isfinite(leaf).all()) for leaf in leaves if jnp.issubdtype(leaf.dtype, np.inexact))


def newest(checkpoints: Checkpoints, template: State, say: Callable[[str], None]) -> tuple[State, dict[str, Any]]:
    """The newest checkpoint that is whole; damaged ones after it are removed, and that is said.

    Args:
      checkpoints: of the run, at least one.
      template: see `Checkpoints.restore`.
      say: takes a sentence for each damaged checkpoint.

    Returns:
      The state and its progress.

    Raises:
      CheckpointError: every checkpoint is damaged, or the newest whole one is of another shape.
    """
    steps = checkpoints.steps()[::-1]
    for number, step in enumerate(steps):
        try:
            restored = checkpoints.restore(template, step)
        except DamagedCheckpoint as error:
            if number == len(steps) - 1:
                raise
            say(f"{error}; going back to step {steps[number + 1]}")
        else:
            checkpoints.discard_after(step)
            return restored
    raise AssertionError("there is no checkpoint")
