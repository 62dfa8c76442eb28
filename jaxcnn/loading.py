"""A trained network from its run directory alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import jax

from jaxcnn import models, run
from jaxcnn import state as states
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.errors import CheckpointError
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.state import State
from jaxcnn.train import optimizers

Which: TypeAlias = Literal["latest", "best"] | int


def load(directory: str | Path, *, checkpoint: Which = "latest") -> tuple[ImageModel, State]:
    """The model of a run and its state.

    Args:
      directory: a run directory; no dataset is needed.
      checkpoint: the newest, the one with the best accuracy, or a step.

    Returns:
      The module, and the state on the default device.

    Raises:
      CheckpointError: the directory is not a run, has no such checkpoint, or the checkpoint is damaged.
    """
    experiment, spec = run.read(directory)
    model = models.from_spec(spec)
    # Only the structure of the optimiser's state matters here, and the length of the run does not change it.
    optimizer = optimizers.create(experiment.optimizer, total_steps=1, steps_per_epoch=1)
    template = jax.eval_shape(lambda: states.create(model, jax.random.key(0), spec.input_shape, optimizer))
    with Checkpoints(Path(directory) / "checkpoints", read_only=True) as checkpoints:
        step = (
            {"latest": checkpoints.latest, "best": checkpoints.best}[checkpoint]()
            if isinstance(checkpoint, str)
            else checkpoint
        )
        if step is None:
            raise CheckpointError(f"{directory} has no {checkpoint} checkpoint yet")
        return model, checkpoints.restore(template, step)[0]
