"""What came out of a study whose runs have ended: curves over training, means with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from jaxcnn.errors import CheckpointError
from jaxcnn.run import metrics, scores
from jaxcnn.study import Axis, Scale, Study
from jaxcnn.train.study import ended, run_directory

CONFIDENCE = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Series:
    """What was recorded of one split while the seeds of an arm trained.

    Attributes:
      steps: optimisation steps (batches), increasing.
      epochs: the same in epochs; NaN if no seed came to the end of its first.
      loss: of every seed; NaN from where it diverged.
      top1: accuracy, likewise.
    """

    steps: Int[np.ndarray, " t"]
    epochs: Float[np.ndarray, " t"]
    loss: Float[np.ndarray, "s t"]
    top1: Float[np.ndarray, "s t"]


@dataclass(frozen=True)
class Arm:
    """One arm of a study when all its runs have ended.

    Attributes:
      training: means over the batches since the record before.
      held_out: after every epoch, on the split that is evaluated.
      diverged: the step at which each seed that diverged did.
    """

    training: Series
    held_out: Series
    diverged: Mapping[int, int]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its interval; NaN where there is no seed, or one alone for the interval.

    Attributes:
      mean: over the seeds.
      low: lower end of the interval.
      high: its upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      arm: its name.
      finished: seeds that the estimates are of.
      diverged: seeds that they are not of.
      training_loss: mean over the batches of the last epoch.
      held_out_loss: after the last epoch.
      held_out_top1: accuracy after the last epoch.
    """

    arm: str
    finished: int
    diverged: int
    training_loss: Estimate
    held_out_loss: Estimate
    held_out_top1: Estimate


def collect(study: Study, directory: str | Path, *, scale: Scale, seeds: Sequence[int] | None = None) -> dict[str, Arm]:
    """The curves of every arm, read from its runs' metrics.jsonl.

    Args:
      study: the arms.
      directory: of the study.
      scale: which arms.
      seeds: in place of the study's own.

    Returns:
      Arms by name, in the study's order.

    Raises:
      CheckpointError: a run has not ended, or its records are damaged.
    """
    seeds = study.seeds if seeds is None else seeds
    return {arm: _arm(directory, arm, seeds, held_out(study, scale)) for arm in study.arms(scale)}


def held_out(study: Study, scale: Scale) -> str:
    """The split that the arms are evaluated on, "validation" or "test"."""
    return "validation" if any(arm.data.validation for arm in study.arms(scale).values()) else "test"


def _arm(directory: str | Path, arm: str, seeds: Sequence[int], split: str) -> Arm:
    records, diverged = [], {}
    for seed in seeds:
        run = run_directory(directory, arm, seed)
        end, seen = ended(run), scores(run)
        if end is None:
            raise CheckpointError(f"{run} has not ended; the same command with the study's seeds continues it")
        if end.diverged:
            diverged[seed] = end.step
            seen = [record for record in seen if record["step"] < diverged[seed]]  # the rest is what went wrong
        elif not any(r["step"] == end.step and r["split"] == split for r in seen):
            raise CheckpointError(f"{metrics(run).path} has no record of the {split} split at the end of the run")
        records.append(seen)
    evaluated = [record["step"] for seen in records for record in seen if record.get("split") == split]
    steps_per_epoch = float(min(evaluated, default=math.nan))
    return Arm(_series(records, "train", steps_per_epoch), _series(records, split, steps_per_epoch), diverged)


def _series(records: Sequence[Sequence[Mapping[str, Any]]], split: str, steps_per_epoch: float) -> Series:
    by_step = [{record["step"]: record for record in seen if record.get("split") == split} for seen in records]
    steps = np.array(sorted({step for seen in by_step for step in seen}), np.int64)

    def values(name: str) -> Float[np.ndarray, "s t"]:
        rows = [[seen[step][name] if step in seen else math.nan for step in steps.tolist()] for seen in by_step]
        return np.array(rows, np.float64).reshape(len(records), len(steps))

    return Series(steps, steps / steps_per_epoch, values("loss"), values("top1"))


def interval(
    values: Float[np.ndarray, "s t"],
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """The mean over seeds and its t-interval, mean -+ t(s - 1) sigma / sqrt(s), sigma^2 = sum (x - mean)^2 / (s - 1).

    Args:
      values: of s seeds, at least one; NaN makes NaN.

    Returns:
      Mean, lower and upper end of the interval of `CONFIDENCE`; of one seed the ends are NaN.
    """
    count, mean = len(values), values.mean(axis=0)
    if count == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(axis=0, ddof=1) / math.sqrt(count)
    return mean, mean - half, mean + half


def curves(arms: Mapping[str, Arm]) -> dict[str, dict[str, tuple[Float[np.ndarray, " t"], ...]]]:
    """For a figure: `training_loss`, `held_out_loss` and `accuracy`, each by arm: epochs, mean, and ends of `interval`.

    A curve ends where the first of its seeds diverged.
    """

    def of(series: Series, values: Float[np.ndarray, "s t"]) -> tuple[Float[np.ndarray, " t"], ...]:
        return (series.epochs, *interval(values))

    return {
        "training_loss": {name: of(arm.training, arm.training.loss) for name, arm in arms.items()},
        "held_out_loss": {name: of(arm.held_out, arm.held_out.loss) for name, arm in arms.items()},
        "accuracy": {name: of(arm.held_out, arm.held_out.top1) for name, arm in arms.items()},
    }


def rows(arms: Mapping[str, Arm], seeds: Sequence[int]) -> list[Row]:
    """The table: what every arm had come to at the end of training, over the seeds that came there."""
    table = []
    for name, arm in arms.items():
        sound = np.array([seed not in arm.diverged for seed in seeds])
        estimates = [Estimate(math.nan, math.nan, math.nan)] * 3
        if sound.any():
            training, held_out = arm.training, arm.held_out
            last = training.epochs > training.epochs[-1] - 1
            batches = np.diff(training.steps, prepend=0)[last]  # that each record is the mean of
            loss = np.average(training.loss[sound][:, last], axis=1, weights=batches)
            final = np.stack([loss, held_out.loss[sound, -1], held_out.top1[sound, -1]], axis=1)
            estimates = [Estimate(*map(float, ends)) for ends in zip(*interval(final), strict=True)]
        table.append(Row(name, int(sound.sum()), len(arm.diverged), *estimates))
    return table


def along(axis: Axis, arms: Sequence[str], estimates: Sequence[Estimate]) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Estimates of arms along the axis of a study: by curve the positions, the means, and the ends of the interval."""
    curves: dict[str, list[tuple[float, ...]]] = {}
    for arm, estimate in zip(arms, estimates, strict=True):
        curve, position = axis.points[arm]
        curves.setdefault(curve, []).append((position, *astuple(estimate)))
    return {curve: tuple(zip(*points, strict=True)) for curve, points in curves.items()}
