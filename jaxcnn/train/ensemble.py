"""Several runs asked the same questions: what each scores, and what the mean of their probabilities scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcnn import run
from jaxcnn.config import Experiment
from jaxcnn.data.crops import Crops
from jaxcnn.data.spec import Split
from jaxcnn.errors import InputError
from jaxcnn.loading import Which
from jaxcnn.train.evaluate import Evaluation, predict_run, score
from jaxcnn.train.views import LogMean


@dataclass(frozen=True)
class Member:
    """One run of an ensemble.

    Attributes:
      run: its directory.
      scores: of the run alone.
    """

    run: str
    scores: Evaluation


@dataclass(frozen=True)
class EnsembleEvaluation:
    """What runs score alone and together.

    Attributes:
      members: the runs, in the order given.
      ensemble: scores of the mean of their probabilities.
    """

    members: tuple[Member, ...]
    ensemble: Evaluation


def evaluate_ensemble(
    directories: Sequence[str | Path],
    *,
    checkpoint: Which = "latest",
    split: Split = "test",
    data_directory: str | None = None,
    crops: Crops = 1,
) -> EnsembleEvaluation:
    """Scores of several runs and of p(image) = 1/M sum over runs m of softmax(z_m(image)).

    The runs may differ in architecture, initialisation, the images they were trained on, and the size to which those
    are scaled; their classes and the images they are asked about are the same.

    Args:
      directories: the run directories.
      checkpoint: of each: the newest, the best, or a step.
      split: which images.
      data_directory: where they lie now, if not where they were in training.
      crops: views of each image, see `jaxcnn.train.evaluate.evaluate_run`.

    Returns:
      The table of single against ensemble.

    Raises:
      InputError: a run, its checkpoint or its data cannot be read, fewer than two are given, one is given twice, or
        they differ in their classes or images.

    Reference: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 6.1.
    """
    places = [Path(directory).resolve() for directory in directories]
    if len(places) < 2 or len(set(places)) < len(places):
        raise InputError(f"the runs are {', '.join(map(str, directories))}; expected at least two, each once")
    first, *others = directories
    for other in others:
        _require_alike(first, other, split, data_directory)
    members, mean, known = [], None, np.empty(0)
    for directory in directories:
        scores, logits, labels = predict_run(
            directory, checkpoint=checkpoint, split=split, data_directory=data_directory, crops=crops
        )
        if mean is None:
            mean, known = LogMean(len(labels)), labels
        elif not np.array_equal(known, labels):
            raise InputError(f"{directory} and {first} have other images to be asked about; expected the same")
        mean.add(range(len(labels)), logits)
        members.append(Member(str(directory), scores))
    assert mean is not None
    return EnsembleEvaluation(tuple(members), score(mean.result(), known))


def _require_alike(first: str | Path, other: str | Path, split: Split, data_directory: str | None) -> None:
    (one, one_model), (two, two_model) = run.read(first), run.read(other)
    if one_model.class_names != two_model.class_names:
        names = [", ".join(model.class_names[:3]) for model in (two_model, one_model)]
        raise InputError(f"{other} has the classes {names[0]}, ...; expected those of {first}, {names[1]}, ...")
    asked = [_asked(experiment, split, data_directory) for experiment in (one, two)]
    for name, expected in asked[0].items():
        if asked[1][name] != expected:
            raise InputError(
                f"{other} has data of another {name}, {asked[1][name]!r}; expected {expected!r}, as in {first}"
            )


def _asked(experiment: Experiment, split: Split, data_directory: str | None) -> dict[str, object]:
    """What decides which images a run is asked about."""
    data = experiment.data
    asked: dict[str, object] = {"dataset": data.dataset}
    if data.dataset == "folder":  # any other dataset's name says what it holds, wherever it lies
        asked["directory"] = data_directory or data.directory
    if split != "test":
        asked["validation share"] = data.validation
        asked["seed of the validation split"] = experiment.training.seed if data.validation else None
    return asked
