"""Training from the first line to the last: data, model, steps, evaluation, checkpoints."""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import tree_leaves_with_path
from rich.console import Console

from jaxcnn import models, run
from jaxcnn import state as states
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.data import open_split, pipeline
from jaxcnn.data.spec import Source
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.interop import weights
from jaxcnn.layers import initializers
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.state import State
from jaxcnn.train import diagnostics, optimizers, recovery, schedules
from jaxcnn.train.diagnostics import Timing, make_diagnostics_step
from jaxcnn.train.evaluate import Evaluator
from jaxcnn.train.logging import Display, TensorBoard
from jaxcnn.train.parallel import map_diagnostics_step, map_train_step, replicate
from jaxcnn.train.step import AXIS, make_objective, make_train_step


@dataclass(frozen=True)
class Result:
    """What a call of `train` ended with.

    Attributes:
      run: the run directory.
      steps: optimisation steps done in all.
      top1: accuracy at the last evaluation, or None before the first.
      seconds: wall time of this call.
      images_per_second: training images of this call over the time spent in its steps; 0 if it took none.
      finished: whether the run is complete; False after SIGTERM or Ctrl-C.
    """

    run: str
    steps: int
    top1: float | None
    seconds: float
    images_per_second: float
    finished: bool


def resolve(experiment: Experiment, source: Source, directory: str | Path | None = None) -> ModelSpec:
    """The model that an experiment trains on `source`: its classes, its input shape, how it standardises pixels.

    Args:
      experiment: what to train.
      source: the training images.
      directory: a run directory that may have resolved a start from weights before, and then needs them no more.
    """
    if len(source.class_names) < 2:
        raise InputError(f"{experiment.data.dataset} has the one class {source.class_names}; expected at least two")
    mean, std = experiment.model.mean, experiment.model.std
    if mean is None or std is None:
        start = experiment.model.weights
        if start is None:
            mean, std = pixel_statistics(source)
        elif directory is not None and os.path.isfile(os.path.join(directory, "model.json")):
            known = run.read(directory)[1]
            mean, std = known.mean, known.std
        else:
            mean, std = weights.standardisation(start, experiment.model.name)
    return ModelSpec(
        name=experiment.model.name,
        options=models.options(experiment.model.name) | dict(experiment.model.options),
        num_classes=len(source.class_names),
        input_shape=source.image_shape,
        mean=mean,
        std=std,
        class_names=source.class_names,
        precision=experiment.training.precision,
    )


def pixel_statistics(source: Source, limit: int = 5000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in [0, 1], over `limit` images spread evenly over the split."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int))
    counts = np.zeros((source.image_shape[-1], 256), np.int64)
    for part in np.array_split(chosen, -(-len(chosen) // 256)):
        images, _ = source.read(part)
        counts += [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(len(counts))]
    # Sums of whole numbers are exact, so every machine finds the same statistics and can continue the run.
    values, pixels = np.arange(256), int(counts[0].sum())
    sums, squares = (counts @ values).tolist(), (counts @ values**2).tolist()
    mean = tuple(s / pixels / 255 for s in sums)
    std = tuple(math.sqrt(pixels * q - s * s) / pixels / 255 for s, q in zip(sums, squares, strict=True))
    # A channel that never varies carries nothing, and dividing by its zero deviation would make it NaN.
    return mean, tuple(s or 1.0 for s in std)


@contextmanager
def termination_requested() -> Iterator[threading.Event]:
    """An event that SIGTERM or the first Ctrl-C sets, in place of ending the process (in the main thread alone)."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def request(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous[signal.SIGINT])  # whoever asks twice does not want to wait

    for number in previous:
        signal.signal(number, request)
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _located(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths, so that its run can be continued and evaluated from anywhere."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    return replace(
        experiment,
        data=replace(experiment.data, directory=absolute(experiment.data.directory)),
        model=replace(experiment.model, weights=absolute(experiment.model.weights)),
    )


def _from_weights(experiment: Experiment, spec: ModelSpec, state: State) -> State:
    """The state with the values of the experiment's weight file, but for new last layers."""
    file = experiment.model.weights
    if file is None:
        return state
    contents = weights.read(file, spec.name)
    for option, value in (contents.spec.options if contents.spec else {}).items():
        # Numbers that matter show in the shapes; a word, such as the kind of activation, does not.
        if isinstance(value, str) and spec.options.get(option, value) != value:
            raise InputError(f"{file} has {option} {value!r}; expected {spec.options[option]!r}, as in the experiment")
    heads: set[str] = set()
    if experiment.model.new_head:
        leaves = tree_leaves_with_path(state.params)
        paths = [jax.tree_util.keystr(path[:-1], simple=True, separator="/") for path, _ in leaves]
        heads = {path for path in paths if path.split("/")[-1] == "head"}  # auxiliary classifiers have theirs
    return weights.fit(contents, spec.name, state, skip=sorted(heads))


def _initial(
    experiment: Experiment, model: ImageModel, spec: ModelSpec, optimizer: optax.GradientTransformation
) -> State:
    """The state at step 0, with the distribution of the kernels that the experiment asks for."""
    config, key = experiment.model, jax.random.key(experiment.training.seed)
    state = states.create(model, key, spec.input_shape, optimizer)
    params = state.params
    if config.initializer is not None:
        params = initializers.initialize(params, config.initializer, key)
    if config.zero_gamma:
        params = initializers.zero_gamma(params, model.branch_norms)
    return state if params is state.params else state.replace(params=params, opt_state=optimizer.init(params))


def _require_updates(experiment: Experiment, examples: int, total_steps: int) -> None:
    """Refuses a full batch that leaves examples out, and a run that ends before its first update."""
    if experiment.optimizer.name == "gd":
        optimizers.require_full_batches(examples, experiment.data.batch_size)
    if experiment.optimizer.accumulate > total_steps:
        raise InputError(
            f"optimizer.accumulate is {experiment.optimizer.accumulate}; expected at most the {total_steps} batches of "
            "the run"
        )


def _require_plausible(files: run.Run, step: int, first_save: int) -> None:
    """Refuses to start afresh over the records of a run whose checkpoints have gone."""
    last = max((record["step"] for record in files.metrics.read()), default=0)
    # A kill may come before the first checkpoint is on disk; by the second, the first is.
    if step == 0 and last > 2 * first_save:
        raise CheckpointError(
            f"{files.checkpoints} holds no checkpoint, though metrics.jsonl tells of {last} steps; restore the "
            "checkpoints or choose another --run"
        )


def train(experiment: Experiment, directory: str | Path, *, console: Console | None = None) -> Result:
    """Trains an experiment in a run directory, from its newest whole checkpoint if there is one.

    The outcome is a function of the experiment alone (on one kind of machine with one number of devices): a run that
    was killed at any moment and started again ends with the same bits and the same metrics.jsonl.

    Args:
      experiment: what to train.
      directory: the run directory; created if absent, continued if it holds this experiment.
      console: where progress is shown; None is silent.

    Returns:
      The state of the run at the end, or at SIGTERM or Ctrl-C.

    Raises:
      InputError: the experiment cannot be run on this data or on these devices.
      CheckpointError: the directory holds something else, or a damaged checkpoint.
      RunError: the loss is not finite even after going back to a checkpoint with a lower learning rate, as often as
        the experiment allows, or a checkpoint cannot be written.
    """
    began = time.perf_counter()
    experiment = _located(experiment)
    console = console or Console(quiet=True)
    while True:
        try:
            result = _train(experiment, directory, console)
        except recovery.Diverged as diverged:
            said = recovery.roll_back(experiment, directory, diverged)
            console.print(said, highlight=False, soft_wrap=True)
        else:
            return replace(result, seconds=time.perf_counter() - began)


def _train(experiment: Experiment, directory: str | Path, console: Console) -> Result:
    """Trains from the newest checkpoint, with the learning rate that the rollbacks so far have left."""
    began = time.perf_counter()
    config, devices = experiment.training, jax.local_devices()
    rule = replace(experiment.optimizer, learning_rate=recovery.learning_rate(experiment, directory))

    training = open_split(experiment.data, "train", config.seed)
    held_out = "validation" if experiment.data.validation else "test"
    evaluation = open_split(experiment.data, held_out, config.seed)
    pipeline.require_divisible(experiment.data.batch_size, devices)
    steps_per_epoch = pipeline.steps_per_epoch(len(training), experiment.data.batch_size)
    total_steps = config.epochs * steps_per_epoch

    for source in (training, evaluation):
        pipeline.prepare(source, experiment.data, devices)  # a broken image is found before anything is written
    spec = resolve(experiment, training, directory)
    model = models.from_spec(spec, axis_name=AXIS)
    rates = schedules.schedule(rule, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    optimizer = optimizers.create(rule, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    _require_updates(experiment, len(training), total_steps)
    state = _initial(experiment, model, spec, optimizer)
    saved = os.path.join(directory, "checkpoints")
    continued = os.path.isdir(saved) and any(name.isdigit() for name in os.listdir(saved))
    if not continued:
        state = _from_weights(experiment, spec, state)  # like the images, refused before anything is written
    if experiment.optimizer.ema is not None:
        state = state.replace(ema_params=jax.tree.map(jnp.copy, state.params))
    state = replicate(state, devices)

    with (
        termination_requested() as stop,
        run.open(directory, experiment, spec) as files,
        Checkpoints(files.checkpoints, keep=config.keep) as checkpoints,
    ):
        pending: list[dict[str, Any]] = []  # metrics of the steps since the last training record
        if checkpoints.latest() is not None:
            say = functools.partial(console.print, highlight=False, soft_wrap=True)
            state, progress = recovery.newest(checkpoints, state, say)
            pending = progress["pending"]
            if progress["examples"] != len(training):
                raise CheckpointError(
                    f"{directory} was trained on {progress['examples']} images, and the training split now has "
                    f"{len(training)}; restore the data or choose another --run"
                )
        elif continued and experiment.model.weights is not None:
            raise CheckpointError(f"{files.checkpoints} holds no whole checkpoint; remove what is there to start anew")
        step = int(state.step)
        _require_plausible(files, step, config.checkpoint_every or steps_per_epoch)
        files.metrics.truncate(step)
        records = files.metrics.read()
        scored = [record for record in records if record.get("split") == held_out]
        top1 = scored[-1].get("top1") if scored else None
        first = next((record["loss"] for record in records if record.get("split") == "train"), None)

        train_step = map_train_step(make_train_step(model, optimizer, experiment), devices)
        diagnose = map_diagnostics_step(make_diagnostics_step(make_objective(model, experiment)), devices)
        evaluate = Evaluator(model.clone(axis_name=None), evaluation, experiment.data, devices, experiment.loss.name)
        timing = Timing(files.directory, step=step)
        batches = pipeline.training(
            training, experiment.data, seed=config.seed, start_step=step, stop_step=total_steps, devices=devices
        )
        seconds, trained, since, images_per_second, clock = 0.0, 0, 0, 0.0, began
        with (
            Display(console, step=step, total_steps=total_steps) as display,
            TensorBoard(files.directory / "tensorboard", step=step) as board,
        ):
            for taken, batch in enumerate(batches):
                timing.lap("data")
                every = config.diagnose_every
                due = every is not None and (step == 0 or (step + 1) % every == 0)
                diagnosis = diagnose(state, batch) if due else None  # before the step, which consumes the state
                state, metrics = train_step(state, batch)
                step += 1
                pending.append(metrics)
                # The host may run two steps ahead, no more: queued steps hold their batches in memory.
                jax.block_until_ready(metrics if taken == 0 else pending[-3:][0])
                timing.lap("compilation" if taken == 0 else "step")
                if diagnosis is not None:
                    record = diagnostics.record(step, diagnosis)
                    files.metrics.append(record)
                    board.write({"step": step, "split": record["split"], **diagnostics.scalars(record)})
                    timing.lap("diagnostics")
                if taken == 0:
                    clock = time.perf_counter()  # compiling is not training
                else:
                    since += 1
                epoch_ends = step % steps_per_epoch == 0

                if epoch_ends or step % config.log_every == 0:
                    means = {name: float(np.mean([float(m[name]) for m in pending])) for name in ("loss", "top1")}
                    pending = []
                    timing.lap("step")
                    elapsed = time.perf_counter() - clock
                    seconds, trained = seconds + elapsed, trained + since
                    images = since * experiment.data.batch_size
                    images_per_second, since = images / elapsed, 0
                    record = {
                        "step": step,
                        "split": "train",
                        **means,
                        "learning_rate": float(np.asarray(rates(step - 1))) * schedules.rate_scale(state.opt_state),
                    }
                    files.metrics.append(record)
                    board.write(record, images_per_second=images_per_second)
                    display.trained(step, **means, images_per_second=images_per_second)
                    timing.lap("other")
                    timing.write(step, images)
                    recovery.require_sound(means["loss"], first, step, directory)
                    first = means["loss"] if first is None else first
                    clock = time.perf_counter()

                paused = time.perf_counter()  # evaluation and saving are not training
                scores = None
                if epoch_ends:
                    scores = asdict(evaluate(state))
                    top1 = scores["top1"]
                    record = {"step": step, "split": held_out, **scores}
                    files.metrics.append(record)
                    board.write(record)
                    display.evaluated(step // steps_per_epoch, config.epochs, record, images_per_second)
                    observed = schedules.observe(state.opt_state, experiment.optimizer, scores["loss"])
                    state = replicate(state.replace(opt_state=observed), devices)
                    timing.lap("evaluation")

                due = epoch_ends if config.checkpoint_every is None else step % config.checkpoint_every == 0
                if due or step == total_steps or stop.is_set():
                    pending = [{name: float(value) for name, value in m.items()} for m in pending]
                    timing.lap("step")
                    for values in pending:
                        recovery.require_sound(values["loss"], first, step, directory)
                    checkpoints.save(
                        state,
                        progress={"pending": pending, "examples": len(training)},
                        experiment=experiment,
                        model=spec,
                        metrics=scores and {name: scores[name] for name in ("top1", "top5", "loss")},
                    )
                    timing.lap("checkpoint")
                clock += time.perf_counter() - paused
                if stop.is_set():
                    break
            checkpoints.wait()
            timing.lap("checkpoint")
            timing.write(step, since * experiment.data.batch_size)
    return Result(
        run=str(directory),
        steps=step,
        top1=top1,
        seconds=time.perf_counter() - began,
        images_per_second=trained * experiment.data.batch_size / seconds if seconds else 0.0,
        finished=step == total_steps,
    )
