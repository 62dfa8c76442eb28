"""Exact evaluation of any split: every example counts once, whatever the batch size and the number of devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from jaxcnn import run
from jaxcnn.config import DataConfig
from jaxcnn.data import open_split, pipeline
from jaxcnn.data.pipeline import Device
from jaxcnn.data.spec import Source, Split
from jaxcnn.errors import InputError
from jaxcnn.loading import Which, load
from jaxcnn.state import State
from jaxcnn.train.parallel import map_evaluation_step, replicate
from jaxcnn.train.step import EvaluationStep, Metrics, make_evaluation_step


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on a split.

    Attributes:
      examples: number of images.
      top1: share of them whose label has the largest logit.
      top5: share of them whose label is among the five largest logits.
      loss: mean cross-entropy in nats.
    """

    examples: int
    top1: float
    top5: float
    loss: float


class Evaluator:
    """Evaluates one split again and again with one compiled step.

    Args:
      model: the network.
      source: the split.
      config: batch size and storage.
      devices: where to compute.
    """

    def __init__(self, model: nn.Module, source: Source, config: DataConfig, devices: Sequence[Device]) -> None:
        self._step: EvaluationStep = map_evaluation_step(make_evaluation_step(model), devices)
        # The last batch is padded anyway, so any batch size can be rounded up to what the devices share equally.
        batch_size = -(-config.batch_size // len(devices)) * len(devices)
        self._source, self._devices = source, devices
        self._config = dataclasses.replace(config, batch_size=batch_size)

    def __call__(self, state: State) -> Evaluation:
        """Scores of `state` on the split."""
        totals = {"loss": 0.0, "top1": 0, "top5": 0, "examples": 0}
        for _, sums, _ in self._batches(state):
            # Float32 sums of single batches are added in double precision, so the mean does not drift with the size.
            totals = {name: totals[name] + sums[name].item() for name in totals}
        count = int(totals["examples"])
        return Evaluation(examples=count, **{name: totals[name] / count for name in ("loss", "top1", "top5")})

    def predict(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """The logits [examples, k] that `state` gives on the split, in its order, and the labels [examples]."""
        kept = [
            (np.asarray(logits)[mask], np.asarray(batch.labels)[mask])
            for batch, _, logits in self._batches(state)
            for mask in (np.asarray(batch.mask),)
        ]
        logits, labels = zip(*kept, strict=True)
        return np.concatenate(logits), np.concatenate(labels)

    def _batches(self, state: State) -> Iterator[tuple[pipeline.Batch, Metrics, Array]]:
        state = replicate(state, self._devices)
        for batch in pipeline.evaluation(self._source, self._config, devices=self._devices):
            yield batch, *self._step(state, batch)


def evaluate_run(
    directory: str | Path,
    *,
    checkpoint: Which = "latest",
    split: Split = "test",
    data_directory: str | None = None,
) -> Evaluation:
    """Scores of a run, from its directory alone.

    Args:
      directory: the run directory.
      checkpoint: the newest, the best, or a step.
      split: which images.
      data_directory: where they lie now, if not where they were in training.

    Returns:
      The same numbers that training wrote at that step.

    Raises:
      InputError: the run, the checkpoint or the data cannot be read.
    """
    model, state = load(directory, checkpoint=checkpoint)
    source, config = open_run_split(directory, split, data_directory)
    devices = jax.local_devices()
    return Evaluator(model, source, config, devices)(state)


def open_run_split(directory: str | Path, split: Split, data_directory: str | None = None) -> tuple[Source, DataConfig]:
    """The images of a run as the run saw them, checked against the classes and the shape its model was built for.

    Args:
      directory: the run directory.
      split: which images.
      data_directory: where they lie now, if not where they were in training.

    Raises:
      InputError: the data cannot be read, or are not what the model was trained on.
    """
    experiment, spec = run.read(directory)
    config = experiment.data
    if data_directory is not None:
        config = dataclasses.replace(config, directory=data_directory)
    source = open_split(config, split, experiment.training.seed)
    for what, found, expected in (
        ("classes", source.class_names, spec.class_names),
        ("images of shape", source.image_shape, spec.input_shape),
    ):
        if tuple(found) != tuple(expected):
            raise InputError(f"{config.dataset} has {what} {found}; expected {expected}, as in {directory}")
    return source, config
