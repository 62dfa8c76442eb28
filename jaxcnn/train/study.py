"""Training the arms of a study, each from every seed, in a directory that holds them all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from jaxcnn import config
from jaxcnn.config import Experiment
from jaxcnn.errors import CheckpointError
from jaxcnn.run import Metrics
from jaxcnn.study import Scale, Study, require_seeds
from jaxcnn.train import loop
from jaxcnn.train.cluster import termination_requested
from jaxcnn.train.recovery import Diverged

_STUDY = "study.json"


def train(
    study: Study,
    directory: str | Path,
    *,
    scale: Scale = "quick",
    seeds: Sequence[int] | None = None,
    data_directory: str | None = None,
    console: Console | None = None,
) -> bool:
    """Trains every arm from every seed in the run directory ARM/seed-N; what has ended is not trained again.

    A run that diverges is left as it is, with no lower learning rate, and the study goes on.

    Args:
      study: the arms.
      directory: of the study; created if absent, continued if it holds this study at this scale.
      scale: which arms.
      seeds: in place of the study's own.
      data_directory: where the images lie, in place of each arm's `data.directory`.
      console: where progress is shown; None is silent.

    Returns:
      Whether all runs have ended; False after SIGTERM or Ctrl-C.

    Raises:
      InputError: the seeds are not usable, or an arm cannot be run on this data or on these devices.
      CheckpointError: the directory holds something else.
      RunError: a checkpoint cannot be written.
    """
    directory, console = Path(directory), console or Console(quiet=True)
    seeds = study.seeds if seeds is None else tuple(seeds)
    require_seeds(seeds)
    _claim(study, directory, scale)
    # Seed by seed, so that all arms can be compared from early on.
    planned = [(arm, seed) for seed in seeds for arm in study.arms(scale)]
    with termination_requested() as stop:
        for number, (arm, seed) in enumerate(planned, start=1):
            run = run_directory(directory, arm, seed)
            if outcomes(run).read():
                continue
            if stop.is_set():
                return False
            console.print(f"run {number} of {len(planned)}: {arm}, seed {seed}", highlight=False, markup=False)
            experiment = _with_seed(study.arms(scale)[arm], seed, data_directory)
            try:
                result = loop.train(experiment, run, console=console)
            except Diverged as diverged:
                console.print(str(diverged), highlight=False, markup=False, soft_wrap=True)
                outcome = {"step": diverged.step, "outcome": "diverged", "loss": diverged.loss}
            else:
                if not result.finished:
                    return False
                outcome = {"step": result.steps, "outcome": "finished"}
            outcomes(run).append(outcome)
    return True


def run_directory(directory: str | Path, arm: str, seed: int) -> Path:
    """The run directory of one seed of one arm."""
    return Path(directory) / arm / f"seed-{seed}"


def outcomes(run: Path) -> Metrics:
    """How a run ended, "finished" or "diverged", and at which step; no record before it did."""
    return Metrics(run / "outcome.jsonl")


def _with_seed(experiment: Experiment, seed: int, data_directory: str | None) -> Experiment:
    # A rollback would go on with another learning rate, and the arm would not be what its name says.
    training = replace(experiment.training, seed=seed, max_rollbacks=0)
    data = experiment.data if data_directory is None else replace(experiment.data, directory=data_directory)
    return replace(experiment, training=training, data=data)


def _claim(study: Study, directory: Path, scale: Scale) -> None:
    """Writes what the directory holds, if it is new; refuses one that holds something else."""
    file = directory / _STUDY
    try:
        # A process killed while it wrote the file leaves a part of it, under the other name.
        foreign = directory.exists() and (
            not directory.is_dir() or {p.name for p in directory.iterdir()} - {f".{_STUDY}"}
        )
        known = file.exists()
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}") from error
    if known:
        _require_same(file, study, scale)
    elif foreign:
        raise CheckpointError(f"{directory} is no study's; expected a new or empty directory as --run, or this study's")
    directory.mkdir(parents=True, exist_ok=True)
    arms = {name: config.to_json(experiment) for name, experiment in study.arms(scale).items()}
    value = {"name": study.name, "question": study.question, "source": study.source, "scale": scale, "arms": arms}
    write_file(file, (json.dumps(value, indent=2) + "\n").encode())


def _require_same(file: Path, study: Study, scale: Scale) -> None:
    """Refuses a study whose runs are not those of the directory; new arms may come in."""
    try:
        before = json.loads(file.read_bytes())
        name, arms = before["name"], before["arms"]
        held = {arm: config.from_json(Experiment, experiment) for arm, experiment in arms.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    now = study.arms(scale)
    changes = [f"its name was {name!r} and is now {study.name!r}"] if name != study.name else []
    for arm, experiment in held.items():
        changed = config.difference(experiment, now[arm]) if arm in now else "no longer there"
        changes += [f"arm {arm!r}: {changed}"] if changed else []
    if changes:
        raise CheckpointError(f"{file.parent} holds another study: {changes[0]}; choose another --run")


def write_file(file: Path, content: bytes) -> None:
    """The whole file or nothing of it."""
    partial = file.with_name(f".{file.name}")
    partial.write_bytes(content)
    partial.replace(file)
