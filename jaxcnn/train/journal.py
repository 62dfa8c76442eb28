"""What a run writes while it goes on: records, times, TensorBoard files, progress and checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict
from rich.console import Console

from jaxcnn import run
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.errors import CheckpointError
from jaxcnn.layers.first_layer import as_pictures, first_kernel
from jaxcnn.state import State
from jaxcnn.train import cluster, diagnostics, recovery
from jaxcnn.train.board import TensorBoard, kernels_sheet, predictions_sheet
from jaxcnn.train.diagnostics import Diagnosis, Part, Timing
from jaxcnn.train.evaluate import Evaluation
from jaxcnn.train.logging import Display
from jaxcnn.train.samples import Samples


@dataclass(frozen=True)
class Progress:
    """Where a run stands when it starts or is continued.

    Attributes:
      pending: metrics of the steps since the last training record.
      top1: accuracy at the last evaluation, or None before the first.
      first_loss: of the first step, or None before it.
      scores: the evaluations so far.
    """

    pending: list[dict[str, float]]
    top1: float | None
    first_loss: float | None
    scores: list[Evaluation]


class Journal:
    """A run directory while training writes in it; of several processes the first one does, for all of them.

    Entering it owns the directory; `resume` says where the run stands, and everything else follows.

    Args:
      directory: the run directory.
      experiment: what is trained.
      spec: its model.
      console: where progress is shown.
    """

    def __init__(self, directory: str | Path, experiment: Experiment, spec: ModelSpec, console: Console) -> None:
        self._directory, self._experiment, self._spec, self._console = Path(directory), experiment, spec, console
        self._stack = ExitStack()
        self._writes = cluster.first()

    def __enter__(self) -> Journal:
        cluster.tell(self._own)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _own(self) -> None:
        experiment = self._experiment
        self._files = self._stack.enter_context(run.open(self._directory, experiment, self._spec))
        keep = experiment.training.keep
        self._checkpoints = self._stack.enter_context(Checkpoints(self._files.checkpoints, keep=keep))

    def resume(self, state: State, *, examples: int, steps_per_epoch: int) -> tuple[State, Progress]:
        """The state and the progress at the newest whole checkpoint; of a new run, what is given and none.

        Records that were written after it are dropped: the run goes there again.

        Args:
          state: at step 0.
          examples: in the training split.
          steps_per_epoch: optimisation steps of an epoch.

        Raises:
          CheckpointError: the checkpoints are damaged, missing, or of other images.
        """
        restored = [state]

        def read() -> dict[str, Any]:
            pending: list[dict[str, float]] = []
            first_loss: float | None = None
            if self._checkpoints.latest() is not None:
                restored[0], progress = recovery.newest(self._checkpoints, state, self._say)
                pending, first_loss = progress["pending"], progress.get("first_loss")
                if progress["examples"] != examples:
                    raise CheckpointError(
                        f"{self._directory} was trained on {progress['examples']} images, and the training split now "
                        f"has {examples}; restore the data or choose another --run"
                    )
            elif has_checkpoints(self._directory) and self._experiment.model.weights is not None:
                raise CheckpointError(
                    f"{self._files.checkpoints} holds no whole checkpoint; remove what is there to start anew"
                )
            step = int(restored[0].step)
            self._require_plausible(step, self._experiment.training.checkpoint_every or steps_per_epoch)
            self._files.metrics.truncate(step)
            records = self._files.metrics.read()
            fields = tuple(Evaluation.__dataclass_fields__)
            scored = [record for record in records if record.get("split") == self.held_out]
            return {
                "pending": pending,
                "top1": scored[-1].get("top1") if scored else None,
                "first_loss": first_loss,
                "scores": [{name: record[name] for name in fields} for record in scored],
            }

        told = cluster.tell(read)
        scores = [Evaluation(**scores) for scores in told.pop("scores")]
        state = cluster.broadcast(restored[0])
        self._open(int(state.step), steps_per_epoch)
        return state, Progress(scores=scores, **told)

    @property
    def held_out(self) -> str:
        """The split that is evaluated after every epoch."""
        return "validation" if self._experiment.data.validation else "test"

    def _open(self, step: int, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        self._timing = Timing(self._files.directory if self._writes else None, step=step)
        if not self._writes:
            return
        epochs = self._experiment.training.epochs
        display = Display(self._console, step=step, epochs=epochs, steps_per_epoch=steps_per_epoch)
        self._display = self._stack.enter_context(display)
        self._board = self._stack.enter_context(TensorBoard(self._files.directory / "tensorboard", step=step))

    def _require_plausible(self, step: int, first_save: int) -> None:
        """Refuses to start afresh over the records of a run whose checkpoints have gone."""
        last = max((record["step"] for record in self._files.metrics.read()), default=0)
        # A kill may come before the first checkpoint is on disk; by the second, the first is.
        if step == 0 and last > 2 * first_save:
            raise CheckpointError(
                f"{self._files.checkpoints} holds no checkpoint, though metrics.jsonl tells of {last} steps; restore "
                "the checkpoints or choose another --run"
            )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def lap(self, part: Part) -> None:
        """Counts the time since the last lap for `part`, see `Timing`."""
        self._timing.lap(part)

    @property
    def images_per_second(self) -> float:
        """Training images over the time spent in training since `resume`; 0 before the first record."""
        return self._timing.images_per_second

    def diagnosed(self, step: int, diagnosis: Diagnosis) -> None:
        """Writes a diagnosis of the state before `step`."""
        if self._writes:
            record = diagnostics.record(step, diagnosis)
            self._files.metrics.append(record)
            self._board.write({"step": step, "split": record["split"], **diagnostics.scalars(record)})
            gradients = zip(diagnosis.parameters, diagnosis.gradients, strict=True)
            self._board.histograms(step, "gradients", dict(gradients))

    def stepped(self, step: int) -> None:
        """Shows that a step is under way."""
        if self._writes:
            self._display.stepped(step)

    def trained(self, step: int, means: Mapping[str, float], learning_rate: float, images: int) -> None:
        """Writes a training record.

        Args:
          step: optimisation steps done.
          means: `loss` and `top1` over the steps since the last record.
          learning_rate: of the last of them.
          images: training images since then, without those of a step that was compiled.
        """
        rate = self._timing.write(step, images)
        if self._writes:
            record = {"step": step, "split": "train", **means, "learning_rate": learning_rate}
            self._files.metrics.append(record)
            self._board.write(record, images_per_second=rate)
            self._display.trained(**means, images_per_second=rate)

    def evaluated(self, step: int, scores: Evaluation, model: nn.Module, state: State, samples: Samples) -> None:
        """Writes the scores on the held-out split at the end of an epoch, and pictures of what was evaluated.

        Args:
          step: optimisation steps done.
          scores: of the held-out split.
          model: the network, under no mapped axis.
          state: its state.
          samples: what it sees in some of the images.
        """
        if self._writes:
            record = {"step": step, "split": self.held_out, **asdict(scores)}
            self._files.metrics.append(record)
            self._board.write(record)
            self._display.evaluated(step, record, self._timing.images_per_second)
            if is_silent(scores, self._spec.num_classes):
                self._display.say(
                    "the network gives every class the same logit, and may have died: expected different ones; another "
                    "optimizer.name or a lower optimizer.learning_rate may help, in a new --run"
                )
            self._board.histograms(step, "parameters", flatten_dict(state.params, sep="/"))
            shown = (samples.images, samples.probabilities, samples.labels, self._spec.class_names)
            self._board.image(step, "predictions", predictions_sheet(*shown))
            found = first_kernel(model, state.variables, self._spec.input_shape)
            pictures = None if found is None else as_pictures(found[1], self._spec.input_shape)
            if pictures is not None:
                self._board.image(step, "first_layer", kernels_sheet(np.asarray(pictures)))

    def save(self, state: State, progress: Mapping[str, Any], scores: Evaluation | None) -> None:
        """Saves the state in the background, with what the input and the records continue from."""
        if self._writes:
            metrics = scores and {name: getattr(scores, name) for name in ("top1", "top5", "loss")}
            model = self._spec
            self._checkpoints.save(state, progress=progress, experiment=self._experiment, model=model, metrics=metrics)

    def finish(self, step: int, images: int) -> None:
        """Waits for the last checkpoint, and writes where the rest of the time went."""
        # All wait for it: JAX ends processes that wait for one another's end for longer than a minute.
        cluster.tell(lambda: self._checkpoints.wait())
        self.lap("checkpoint")
        self._timing.write(step, images)


def is_silent(scores: Evaluation, num_classes: int) -> bool:
    """Whether a network gives all classes the same logit: its loss is that of guessing, and a tie is a mistake."""
    return scores.top1 == 0 and math.isclose(scores.loss, math.log(num_classes), rel_tol=1e-5)


def has_checkpoints(directory: str | Path) -> bool:
    """Whether a run directory has checkpoints, whole or not."""
    saved = os.path.join(directory, "checkpoints")
    return os.path.isdir(saved) and any(name.isdigit() for name in os.listdir(saved))
