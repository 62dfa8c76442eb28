"""Exact evaluation of any images: every example counts once, whatever the batch size and the number of devices."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jax import Array
from jaxtyping import Float, Int

from jaxcnn import models, run
from jaxcnn.config import DataConfig, LossName, ModelSpec
from jaxcnn.data import imagenet, open_split, pipeline
from jaxcnn.data.crops import Box, Crops, padding, ten_boxes
from jaxcnn.data.photographs import ViewSource, open_photographs
from jaxcnn.data.pipeline import Device
from jaxcnn.data.spec import Source, Split
from jaxcnn.errors import InputError
from jaxcnn.loading import Which, load, load_named
from jaxcnn.state import State
from jaxcnn.train import views
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
      loss: mean over the images, of a run the one it was trained on and otherwise the cross-entropy in nats.
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
      loss: which one is measured.
      least: images that a step takes, however few a training step has.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        config: DataConfig,
        devices: Sequence[Device],
        loss: LossName = "cross_entropy",
        least: int = 64,
    ) -> None:
        self._step: EvaluationStep = map_evaluation_step(make_evaluation_step(model, loss), devices)
        # The last batch is padded anyway, so any batch size can be raised, to what the devices share equally, and from
        # the few images that a training step may have.
        batch_size = -(-max(config.batch_size, least) // len(devices)) * len(devices)
        self._source, self._devices = source, devices
        self._config = dataclasses.replace(config, batch_size=batch_size)

    @property
    def batch_size(self) -> int:
        """Images at once, of all devices."""
        return self._config.batch_size

    def __call__(self, state: State, seen: Callable[[int, Array], None] | None = None) -> Evaluation:
        """Scores of `state` on the split.

        Args:
          state: of the network.
          seen: called with the number of each batch, from 0, and its logits.
        """

        def sums() -> Iterator[Metrics]:
            for number, (_, summed, logits) in enumerate(self._batches(state)):
                if seen is not None:
                    seen(number, logits)
                yield summed

        return _mean(sums())

    def predict(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """The logits [examples, k] that `state` gives on the split, in its order, and the labels [examples]."""
        return self.score_and_predict(state)[1:]

    def score_and_predict(self, state: State) -> tuple[Evaluation, np.ndarray, np.ndarray]:
        """What calling the evaluator and `predict` give, computed once."""
        kept, sums = [], []
        for batch, summed, logits in self._batches(state):
            mask = np.asarray(batch.mask)
            kept.append((np.asarray(logits)[mask], np.asarray(batch.labels)[mask]))
            sums.append(summed)
        logits, labels = map(np.concatenate, zip(*kept, strict=True))
        return _mean(sums), logits, labels

    def logits(self, state: State) -> Iterator[np.ndarray]:
        """The logits batch by batch, [n, k], for splits whose logits are too many to keep."""
        for batch, _, logits in self._batches(state):
            yield np.asarray(logits)[np.asarray(batch.mask)]

    def _batches(self, state: State) -> Iterator[tuple[pipeline.Batch, Metrics, Array]]:
        state = replicate(state, self._devices)
        for batch in pipeline.evaluation(self._source, self._config, devices=self._devices):
            yield batch, *self._step(state, batch)


def _mean(sums: Iterable[Metrics]) -> Evaluation:
    totals = {"loss": 0.0, "top1": 0, "top5": 0, "examples": 0}
    for each in sums:
        # Float32 sums of single batches are added in double precision, so the mean does not drift with the size.
        totals = {name: totals[name] + each[name].item() for name in totals}
    count = int(totals["examples"])
    return Evaluation(examples=count, **{name: totals[name] / count for name in ("loss", "top1", "top5")})


def score(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Evaluation:
    """Scores of logits, or of log probabilities."""
    z, y = jnp.asarray(logits), jnp.asarray(labels)
    top1, top5 = (float(hits(z, y, top).mean()) for top in (1, 5))
    return Evaluation(len(labels), top1, top5, float(cross_entropy(z, y).mean()))


def evaluate_run(
    directory: str | Path,
    *,
    checkpoint: Which = "latest",
    split: Split = "test",
    data_directory: str | None = None,
    crops: Crops = 1,
) -> Evaluation:
    """Scores of a run, from its directory alone.

    Args:
      directory: the run directory.
      checkpoint: the newest, the best, or a step.
      split: which images.
      data_directory: where they lie now, if not where they were in training.
      crops: views of each image whose probabilities are averaged: 1 is the image, 10 those of `crops.ten_boxes` from
        the image padded with zeros as in training.

    Returns:
      With one crop, the same numbers that training wrote at that step.

    Raises:
      InputError: the run, the checkpoint or the data cannot be read, or its images have no such views.
    """
    evaluator, state = _run_evaluator(directory, checkpoint, split, data_directory, crops)
    return evaluator(state)


def predict_run(
    directory: str | Path,
    *,
    checkpoint: Which = "latest",
    split: Split = "test",
    data_directory: str | None = None,
    crops: Crops = 1,
) -> tuple[Evaluation, Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    """What `evaluate_run` gives, with the logits (log probabilities, for several crops) and the labels behind it."""
    evaluator, state = _run_evaluator(directory, checkpoint, split, data_directory, crops)
    return evaluator.score_and_predict(state)


def _run_evaluator(
    directory: str | Path, checkpoint: Which, split: Split, data_directory: str | None, crops: Crops
) -> tuple[Evaluator, State]:
    if os.path.isfile(directory):
        raise InputError(f"{directory} is a file; expected a run directory, or MODEL --weights {directory}")
    model, state = load(directory, checkpoint=checkpoint)
    source, config = open_run_split(directory, split, data_directory)
    experiment, spec = run.read(directory)
    loss = experiment.loss.name if crops == 1 else "cross_entropy"  # several views give probabilities
    return Evaluator(with_views(model, spec, source, crops), source, config, jax.local_devices(), loss), state


def with_views(model: nn.Module, spec: ModelSpec, source: Source, crops: Crops) -> nn.Module:
    """The network as it looks at the images of a split.

    Ten crops have the size of the network's input where the images are larger; images of that size or smaller are
    padded with zeros by `crops.padding`, and the crops have the images' own size. Dense views are the whole image and
    its mirror image, see `views.class_scores`.

    Args:
      model: the network.
      spec: what it was built for.
      source: the images.
      crops: views of each.

    Returns:
      The network itself for one crop, and otherwise one whose logits are the log of the averaged probabilities.

    Raises:
      InputError: the images have no such views.
    """
    if crops == 1:
        return model
    image, network = source.image_shape[:2], spec.input_shape[:2]
    larger = image != network and image[0] >= network[0] and image[1] >= network[1]
    sizes = f"images of {image[0]}x{image[1]} for a network of {network[0]}x{network[1]}"
    if crops == 144:
        raise InputError(f"crops are 144, with {sizes}; expected photographs of any size for them, and here 1 or 10")
    if crops == "dense":
        if not larger:
            raise InputError(f"crops are dense, with {sizes}; expected larger images for them, and here 1 or 10")
        boxes = (Box(0, 0, False), Box(0, 0, True))
        flattened = models.torch_names(spec.name).flattened
        return views.Views(model, boxes, image, flattened=tuple(flattened.items()))
    if larger:
        return views.Views(model, ten_boxes(image, network), network)
    border = padding(image)
    return views.Views(model, ten_boxes((image[0] + 2 * border, image[1] + 2 * border), image), image, border)


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


def evaluate_dataset(
    name: str, weights: str | Path, config: DataConfig, split: Split = "test", crops: Crops = 1
) -> Evaluation:
    """Scores of a network with weights from a file, on a dataset.

    Args:
      name: of the network.
      weights: see `jaxcnn.load`.
      config: the dataset; its images enter as they are, or scaled to its image size.
      split: which images.
      crops: views of each image whose probabilities are averaged, see `with_views`.

    Raises:
      InputError: the weights do not fit the network, the network does not fit the images and their classes, or the
        images have no such views.
    """
    models.facts(name)  # a mistyped name is found before the dataset is looked for
    source = open_split(config, split, seed=0)
    spec, model, state = load_named(name, weights, num_classes=len(source.class_names))
    if source.image_shape[-1] != spec.input_shape[-1]:
        raise InputError(
            f"{config.dataset} has images of {source.image_shape[-1]} channels; expected {spec.input_shape[-1]}, "
            f"as {name} takes"
        )
    with _taking(name, spec, source):
        return Evaluator(with_views(model, spec, source, crops), source, config, jax.local_devices(), least=1)(state)


@contextlib.contextmanager
def _taking(name: str, spec: ModelSpec, source: Source) -> Iterator[None]:
    """Says that a network which flattens its images takes one size alone."""
    try:
        yield
    except ScopeParamShapeError as error:
        own, given = ("x".join(map(str, shape)) for shape in (spec.input_shape, source.image_shape))
        raise InputError(
            f"{name} with these weights takes images of {own}; expected {given}, as the images have"
        ) from error


def evaluate_photographs(
    name: str,
    weights: str | Path,
    folder: str | Path,
    config: DataConfig,
    *,
    crops: Crops = 1,
    scales: Sequence[int] = views.SCALES,
) -> PhotographEvaluation:
    """What a network trained on ImageNet, with weights from a file, sees in a folder of photographs.

    Each is scaled and cut as in the published evaluation of the network, or looked at in several views whose
    probabilities are averaged.

    Args:
      name: of the network.
      weights: see `jaxcnn.load`.
      folder: see `jaxcnn.data.photographs.open_photographs`.
      config: batch size, storage, and height and width in pixels of the central crop, by default those that the file
        notes, or the published input's; it is the size of the 10 and 144 views too, and the least scale of dense ones.
      crops: 1 is the central crop; 10 and 144 are `crops.ten_of_photograph` and `crops.many_of_photograph`, and dense
        `views.dense_photographs`.
      scales: of dense views: the photograph's shorter sides in pixels.

    Raises:
      InputError: the weights do not fit the network, the network is not for ImageNet's classes, the folder does not
        hold what it should, or the photographs have no such views.
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
    labels = jnp.asarray(source.labels)
    if crops == "dense":
        flattened = models.torch_names(name).flattened
        logits = jnp.asarray(
            views.dense_photographs(model, state, source, flattened, scales=scales, batch_size=config.batch_size)
        )
    elif crops == 1:
        config = dataclasses.replace(config, batch_size=min(config.batch_size, len(source)))
        with _taking(name, spec, source):
            logits = jnp.asarray(Evaluator(model, source, config, jax.local_devices(), least=1).predict(state)[0])
    else:
        logits = jnp.asarray(_averaged(model, state, ViewSource(source, crops), config))
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
    scores = score(np.asarray(logits), np.asarray(labels))
    return PhotographEvaluation(len(source), scores.top1, scores.top5, scores.loss, predictions)


def _averaged(model: nn.Module, state: State, source: ViewSource, config: DataConfig) -> Float[np.ndarray, "n k"]:
    # The views of all photographs are too many to keep, so they are streamed and their probabilities added up.
    config = dataclasses.replace(config, batch_size=min(config.batch_size, len(source)), storage="stream")
    mean, first = views.LogMean(len(source.photographs)), 0
    for logits in Evaluator(model, source, config, jax.local_devices(), least=1).logits(state):
        mean.add((np.arange(first, first + len(logits)) // source.views).tolist(), logits)
        first += len(logits)
    return mean.result()
