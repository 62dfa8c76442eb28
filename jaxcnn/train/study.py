"""Training the arms of a study, each from every seed, in a directory that holds them all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from jax import ShapeDtypeStruct
from rich.console import Console

from jaxcnn import config, models
from jaxcnn.config import Experiment
from jaxcnn.data import open_split, pipeline, plan
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.run import Metrics, make_directory, write_file
from jaxcnn.study import Axis, Measure, Scale, Study, require_seeds
from jaxcnn.train import loop, optimizers, start
from jaxcnn.train.cluster import termination_requested
from jaxcnn.train.parallel import map_train_step
from jaxcnn.train.recovery import Diverged
from jaxcnn.train.step import AXIS, make_train_step

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

    Arms that have no run yet are checked before anything is trained or written. A run that diverges is left as it is,
    with no lower learning rate, and the study goes on.

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
    _require_own(study, directory, scale)
    for arm, experiment in study.arms(scale).items():
        if not _begun(directory, arm):
            try:
                _require_trainable(_with_seed(experiment, seeds[0], data_directory))
            except InputError as error:
                raise InputError(f"arm {arm!r} cannot be trained: {error}") from error
    _claim(study, directory, scale)
    # Seed by seed, so that all arms can be compared from early on.
    planned = [(arm, seed) for seed in seeds for arm in study.arms(scale)]
    with termination_requested() as stop:
        for number, (arm, seed) in enumerate(planned, start=1):
            run = run_directory(directory, arm, seed)
            if ended(run):
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
            _outcomes(run).append(outcome)
    return True


def run_directory(directory: str | Path, arm: str, seed: int) -> Path:
    """The run directory of one seed of one arm."""
    return Path(directory) / arm / f"seed-{seed}"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
      step: optimisation steps done.
      diverged: whether the loss was not finite there, or exploded.
    """

    step: int
    diverged: bool


def ended(run: Path) -> Ended | None:
    """How a run of a study ended; None before it did.

    Raises:
      CheckpointError: the record is damaged.
    """
    file = _outcomes(run)
    if not (records := file.read()):
        return None
    last = records[-1]
    if last.get("outcome") not in ("finished", "diverged") or last["step"] < 1:
        raise CheckpointError(f'{file.path} is damaged: it ends with {last}; expected "finished" or "diverged"')
    return Ended(last["step"], last["outcome"] == "diverged")


def _outcomes(run: Path) -> Metrics:
    return Metrics(run / "outcome.jsonl")


def is_study(directory: Path) -> bool:
    """Whether a directory is a study's."""
    return (directory / _STUDY).is_file()


def read(directory: Path) -> tuple[Study, Scale]:
    """The study that a directory holds, whose measures cannot be asked, and the scale.

    Raises:
      CheckpointError: its file is missing or damaged.
    """
    file = directory / _STUDY
    try:
        known = json.loads(file.read_bytes())
        if not isinstance(known, dict):
            raise TypeError(f"it holds {type(known).__name__}; expected an object")
        arms = {arm: config.from_json(Experiment, experiment) for arm, experiment in known["arms"].items()}
        name, question, source = (str(known[field]) for field in ("name", "question", "source"))
        measures = {name: Measure(of=_unknown, **asked) for name, asked in known.get("measures", {}).items()}
        caption, own, axis = str(known.get("caption", "")), known.get("file"), known.get("axis")
        if axis is not None:
            axis = Axis(str(axis["title"]), {arm: (str(curve), float(x)) for arm, (curve, x) in axis["points"].items()})
        study = Study(
            name,
            question,
            source,
            arms,
            arms,
            caption,
            measures=measures,
            axis=axis,
            file=None if own is None else str(own),
        )
        scale: Scale = known["scale"]
        if scale not in get_args(Scale):
            raise ValueError(f"scale is {scale!r}; expected {' or '.join(get_args(Scale))}")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise CheckpointError(f"{file} is damaged: it has no {error}") from error
    except (InputError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    return study, scale


def _unknown(*_: object) -> dict[str, float]:
    raise AssertionError("a study read from its directory measures nothing")


def _with_seed(experiment: Experiment, seed: int, data_directory: str | None) -> Experiment:
    # A rollback would go on with another learning rate, and the arm would not be what its name says.
    training = replace(experiment.training, seed=seed, max_rollbacks=0)
    data = experiment.data if data_directory is None else replace(experiment.data, directory=data_directory)
    return replace(experiment, training=training, data=data)


def _require_trainable(experiment: Experiment) -> None:
    """Refuses what training would refuse, when its turn comes, hours later perhaps; it computes nothing."""
    experiment = loop.located(experiment)
    data, devices, seed = experiment.data, jax.devices(), experiment.training.seed
    training, _ = (open_split(data, split, seed) for split in ("train", "validation" if data.validation else "test"))
    share = pipeline.require_divisible(data.batch_size, devices) // len(devices)
    steps_per_epoch = plan.steps_per_epoch(len(training), data.batch_size)
    total_steps = experiment.training.epochs * steps_per_epoch
    loop.require_updates(experiment, len(training), total_steps)
    images, labels = training.read(np.array([0]))

    network = experiment.model
    if network.mean is None and network.weights is None:  # measuring them takes time, and no network refuses them
        channels = images.shape[-1]
        network = replace(network, mean=(0.5,) * channels, std=(1.0,) * channels)
    spec = start.resolve(replace(experiment, model=network), training)
    model = models.from_spec(spec, axis_name=AXIS)
    optimizer = optimizers.create(experiment.optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    state = jax.eval_shape(lambda: start.initial(experiment, model, spec, optimizer))
    start.from_weights(experiment, spec, state)  # shapes are all that it compares
    if experiment.optimizer.ema is not None:
        state = state.replace(ema_params=state.params)

    def of(shape: tuple[int, ...], kind: Any) -> Any:
        return ShapeDtypeStruct((len(devices), share, *shape), kind)

    batch = pipeline.Batch(of(images.shape[1:], np.uint8), of(labels.shape[1:], np.int32), of((), bool))
    jax.eval_shape(map_train_step(make_train_step(model, optimizer, experiment), devices), state, batch)


def _begun(directory: Path, arm: str) -> bool:
    return (directory / arm).exists()


def _require_own(study: Study, directory: Path, scale: Scale) -> None:
    """Refuses a directory that holds something else than this study."""
    try:
        # A process killed while it wrote the file leaves a part of it, under the other name.
        foreign = directory.exists() and (
            not directory.is_dir() or {p.name for p in directory.iterdir()} - {f".{_STUDY}.tmp"}
        )
        known = is_study(directory)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}") from error
    if known:
        _require_same(directory, study, scale)
    elif foreign:
        raise CheckpointError(f"{directory} is no study's; expected a new or empty directory as --run, or this study's")


def _claim(study: Study, directory: Path, scale: Scale) -> None:
    """Writes what the directory holds."""
    make_directory(directory)
    arms = {name: config.to_json(experiment) for name, experiment in study.arms(scale).items()}
    texts = {name: getattr(study, name) for name in ("name", "question", "source", "caption")}
    # What a report needs to read what was measured; the functions stay in the study's file.
    asked = {
        name: {key: value for key, value in vars(measure).items() if key != "of"}
        for name, measure in study.measures.items()
    }
    axis = study.axis and {"title": study.axis.title, "points": {arm: study.axis.points[arm] for arm in arms}}
    value = {**texts, "file": study.file, "scale": scale, "arms": arms, "measures": asked, "axis": axis}
    write_file(directory / _STUDY, (json.dumps(value, indent=2) + "\n").encode())


def _require_same(directory: Path, study: Study, scale: Scale) -> None:
    """Refuses a study whose runs are not those of the directory; arms that have no run may come, change and go."""
    before, scale_before = read(directory)
    now = study.arms(scale)
    changes = [f"its name was {before.name!r} and is now {study.name!r}"] if before.name != study.name else []
    for arm, experiment in before.arms(scale_before).items():
        if not _begun(directory, arm):
            continue
        changed = config.difference(experiment, now[arm]) if arm in now else "no longer there"
        changes += [f"arm {arm!r}: {changed}"] if changed else []
    if changes:
        raise CheckpointError(f"{directory} holds another study: {changes[0]}; choose another --run")
