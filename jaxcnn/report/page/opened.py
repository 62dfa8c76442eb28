"""A run as its page sees it: what it was, what it wrote, and what its network says of the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcnn import run
from jaxcnn.analysis import summary
from jaxcnn.config import DataConfig, Experiment
from jaxcnn.data.spec import Source
from jaxcnn.errors import InputError
from jaxcnn.report.subject import Network, open_network
from jaxcnn.train import diagnostics
from jaxcnn.train.evaluate import Evaluation, Evaluator, open_run_split

SMALL = 50_000_000
"""Multiply-adds of an image up to which a page waits for what takes hundreds of gradients."""


@dataclass(frozen=True)
class Answers:
    """What a network says of all test images.

    Attributes:
      source: the images.
      scores: of the network.
      probabilities: of every class.
      labels: the true classes.
    """

    source: Source
    scores: Evaluation
    probabilities: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, " n"]

    @cached_property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """The likeliest class of each image."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """Its probability."""
        return self.probabilities.max(axis=1)

    def surest(self, chosen: Sequence[bool] | np.ndarray) -> Int[np.ndarray, " m"]:
        """Indices of the images where `chosen` is true, the one with the most confident answer first."""
        indices = np.flatnonzero(chosen)
        return indices[np.argsort(-self.confidence[indices], kind="stable")]


@dataclass(frozen=True)
class Opened:
    """A run directory, read.

    Attributes:
      network: at its newest checkpoint.
      experiment: what was trained.
      records: of metrics.jsonl that are scores: `step`, `split`, `loss`, `top1`.
      environments: see `run.environments`.
      seconds: wall time of training by what it was spent on, the longest first; empty where nobody wrote it down.
      images_per_second: in training; 0 where nobody wrote it down.
      images: the test split and how it is read, or in a sentence why it cannot be.
    """

    network: Network
    experiment: Experiment
    records: list[dict[str, Any]]
    environments: list[dict[str, Any]]
    seconds: dict[str, float]
    images_per_second: float
    images: tuple[Source, DataConfig] | str

    @property
    def directory(self) -> Path:
        """Of the run."""
        return Path(self.network.name)

    @property
    def title(self) -> str:
        """The directory's name."""
        return self.network.title

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the logits stand for."""
        return self.network.spec.class_names

    @property
    def held_out(self) -> str:
        """The split that was evaluated after every epoch."""
        return "validation" if self.experiment.data.validation else "test"

    @cached_property
    def costs(self) -> summary.Table:
        """The network's table."""
        spec = self.network.spec
        return summary.table(self.network.model, spec.input_shape, name=spec.title)

    def require_small(self, command: str) -> None:
        """Refuses a network for which the page would have to be waited for.

        Args:
          command: that does what the page does not.

        Raises:
          InputError: it has more than `SMALL` multiply-adds.
        """
        cost = self.costs.totals.multiply_adds
        if cost > SMALL:
            raise InputError(
                f"the network has {cost:,} multiply-adds; expected at most {SMALL:,} on a page, and of any number "
                f"`{command} {self.directory}` takes its time"
            )

    @cached_property
    def answers(self) -> Answers:
        """The network on the test split.

        Raises:
          InputError: the images cannot be read.
        """
        if isinstance(self.images, str):
            raise InputError(self.images)
        source, config = self.images
        network = self.network
        evaluator = Evaluator(network.model, source, config, jax.local_devices(), self.experiment.loss.name)
        scores, logits, labels = evaluator.score_and_predict(network.state)
        return Answers(source, scores, np.asarray(jax.nn.softmax(logits)), labels)


def open_run(directory: str | Path, data_directory: str | None = None) -> Opened:
    """Reads a run; images that are not there are no error yet.

    Args:
      directory: the run directory.
      data_directory: where the images lie now, if not where they were in training.

    Raises:
      InputError: it is not a run directory, has no checkpoint, or a file of it is damaged.
    """
    experiment, _ = run.read(directory)
    network = open_network(str(directory))
    records = run.scores(directory)
    seconds, images_per_second = diagnostics.read_timing(Path(directory))
    images: tuple[Source, DataConfig] | str
    try:
        images = open_run_split(directory, "test", data_directory)
    except InputError as error:
        images = str(error)
    return Opened(network, experiment, records, run.environments(directory), seconds, images_per_second, images)
