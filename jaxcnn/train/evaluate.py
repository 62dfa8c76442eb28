"""Exact evaluation of any images: every example counts once, whatever the batch size and the number of devices."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcnn import models, run
from jaxcnn.config import DataConfig
from jaxcnn.data import imagenet, open_split, pipeline
from jaxcnn.data.photographs import open_photographs
from jaxcnn.data.pipeline import Device
from jaxcnn.data.spec import Source, Split
from jaxcnn.errors import InputError
from jaxcnn.loading import Which, load, load_named
from jaxcnn.state import State
from jaxcnn.train.losses import cross_entropy
from jaxcnn.train.parallel import map_evaluation_step, replicate
from jaxcnn.train.step import EvaluationStep, Metrics, hits, make_evaluation_step


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


@dataclass(frozen=True)
class Prediction:
    """What a model sees in one picture.

    Attributes:
      file: the picture.
      label: name of its class, or None where nobody says.
      names: of the five likeliest classes, the likeliest first.
      probabilities: of those classes, in [0, 1].
      position: of the photograph's class among those names, from 0; None where it is not, or nobody says.
    """

    file: str
    label: str | None
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    position: int | None


@dataclass(frozen=True)
class PhotographEvaluation:
    """What a model scores on a folder of photographs.

    Attributes:
      examples: number of photographs.
      top1: see `Evaluation`; None, as the next two, where the photographs have no labels.
      top5: see `Evaluation`.
      loss: see `Evaluation`.
      predictions: one for each photograph, in the order of the files.
    """

    examples: int
    top1: float | None
    top5: float | None
    loss: float | None
    predictions: tuple[Prediction, ...]


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
    if os.path.isfile(directory):
        raise InputError(f"{directory} is a file; expected a run directory, or MODEL --weights {directory}")
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


def evaluate_dataset(name: str, weights: str | Path, config: DataConfig, split: Split = "test") -> Evaluation:
    """Scores of a network with weights from a file, on a dataset.

    Args:
      name: of the network.
      weights: see `jaxcnn.load`.
      config: the dataset; its images enter as they are, or scaled to its image size.
      split: which images.

    Raises:
      InputError: the weights do not fit the network, or the network does not fit the images and their classes.
    """
    models.facts(name)  # a mistyped name is found before the dataset is looked for
    source = open_split(config, split, seed=0)
    spec, model, state = load_named(name, weights, num_classes=len(source.class_names))
    if source.image_shape[-1] != spec.input_shape[-1]:
        raise InputError(
            f"{config.dataset} has images of {source.image_shape[-1]} channels; expected {spec.input_shape[-1]}, "
            f"as {name} takes"
        )
    return Evaluator(model, source, config, jax.local_devices())(state)


def evaluate_photographs(
    name: str, weights: str | Path, folder: str | Path, config: DataConfig
) -> PhotographEvaluation:
    """What a network trained on ImageNet, with weights from a file, sees in a folder of photographs.

    Each is scaled and cut as in the published evaluation of the network.

    Args:
      name: of the network.
      weights: see `jaxcnn.load`.
      folder: see `jaxcnn.data.photographs.open_photographs`.
      config: batch size, storage, and height and width in pixels of the central crop, by default those that the file
        notes, or the published input's.

    Raises:
      InputError: the weights do not fit the network, the network is not for ImageNet's classes, or the folder does
        not hold what it should.
    """
    spec, model, state = load_named(name, weights)
    height, width, channels = spec.input_shape
    shape = (config.image_size or height, config.image_size or width, channels)
    classes = len(imagenet.classes())
    if model.num_classes != classes:
        raise InputError(f"{name} has {model.num_classes} classes; expected ImageNet's {classes} for photographs")
    if spec.class_names not in ((), imagenet.names(), tuple(entry.synset for entry in imagenet.classes())):
        raise InputError(f"{weights} is for the classes {', '.join(spec.class_names[:3])}, ...; expected ImageNet's")
    source = open_photographs(folder, shape, models.facts(name).preprocessing.resize)
    config = dataclasses.replace(config, batch_size=min(config.batch_size, len(source)))
    logits, labels = map(jnp.asarray, Evaluator(model, source, config, jax.local_devices()).predict(state))
    shares, best = map(np.asarray, jax.lax.top_k(jax.nn.softmax(logits), 5))
    predictions = tuple(
        Prediction(
            file=str(path),
            label=source.class_names[label] if source.labelled else None,
            names=tuple(source.class_names[i] for i in top),
            probabilities=tuple(row.tolist()),
            position=top.tolist().index(label) if source.labelled and label in top else None,
        )
        for path, label, row, top in zip(source.paths, source.labels, shares, best, strict=True)
    )
    if not source.labelled:
        return PhotographEvaluation(len(source), None, None, None, predictions)
    top1, top5 = (float(hits(logits, labels, top).mean()) for top in (1, 5))
    return PhotographEvaluation(len(source), top1, top5, float(cross_entropy(logits, labels).mean()), predictions)
