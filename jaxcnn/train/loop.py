"""Training from the first line to the last: data, model, steps, evaluation, checkpoints."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxcnn import models
from jaxcnn.config import Experiment, ModelSpec, absolute_name, from_json, to_json
from jaxcnn.data import augment, open_split, pipeline, plan
from jaxcnn.errors import InputError
from jaxcnn.train import cluster, optimizers, recovery, schedules, start
from jaxcnn.train.diagnostics import make_diagnostics_step
from jaxcnn.train.evaluate import Evaluation, Evaluator
from jaxcnn.train.journal import Journal, has_checkpoints
from jaxcnn.train.parallel import map_diagnostics_step, map_train_step, replicate
from jaxcnn.train.samples import Samples
from jaxcnn.train.step import AXIS, make_objective, make_train_step


@dataclass(frozen=True)
class Result:
    """What a call of `train` ended with.

    Attributes:
      run: the run directory.
      steps: optimisation steps done in all.
      top1: accuracy at the last evaluation, or None before the first.
      seconds: wall time of this call.
      images_per_second: training images over the time spent in their steps, of this call since its last rollback; 0
        if it took none.
      finished: whether the run is complete; False after SIGTERM or Ctrl-C.
    """

    run: str
    steps: int
    top1: float | None
    seconds: float
    images_per_second: float
    finished: bool


def located(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths, so that its run can be continued and evaluated from anywhere."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(os.path.expanduser(path)).absolute())

    return replace(
        experiment,
        data=replace(
            experiment.data,
            directory=absolute(experiment.data.directory),
            extra_class=absolute(experiment.data.extra_class),
        ),
        model=replace(
            experiment.model,
            name=absolute_name(experiment.model.name),
            weights=absolute(experiment.model.weights),
        ),
    )


def _nowhere(experiment: Experiment) -> Experiment:
    """The experiment without its paths, which may differ from machine to machine."""
    return replace(
        experiment,
        data=replace(experiment.data, directory=None, extra_class=None),
        model=replace(experiment.model, weights=None),
    )


def require_updates(experiment: Experiment, examples: int, total_steps: int) -> None:
    """Refuses a full batch that leaves examples out, and a run that ends before its first update."""
    if experiment.optimizer.name == "gd":
        optimizers.require_full_batches(examples, experiment.data.batch_size)
    if experiment.optimizer.accumulate > total_steps:
        raise InputError(
            f"optimizer.accumulate is {experiment.optimizer.accumulate}; expected at most the {total_steps} batches of "
            "the run"
        )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def train(
    experiment: Experiment,
    directory: str | Path,
    *,
    console: Console | None = None,
    evaluated: Callable[[int, Evaluation], None] | None = None,
) -> Result:
    """Trains an experiment in a run directory, from its newest whole checkpoint if there is one.

    The outcome is a function of the experiment alone (on one kind of machine with one number of devices): a run that
    was killed at any moment and started again ends with the same bits and the same metrics.jsonl. Several processes
    that `cluster.connect` has joined call this alike and train as one, each on its share of every batch.

    Args:
      experiment: what to train.
      directory: the run directory; created if absent, continued if it holds this experiment. Of several processes the
        first alone needs and has it.
      console: where progress is shown; None is silent.
      evaluated: called with the epoch, from 1, and the scores on the held-out split, once for every epoch, when its
        checkpoint is being written; of a run that is continued first for the epochs of its past. What it raises ends
        the training.

    Returns:
      The state of the run at the end, or at SIGTERM or Ctrl-C.

    Raises:
      InputError: the experiment cannot be run on this data or on these devices.
      CheckpointError: the directory holds something else, or a damaged checkpoint.
      RunError: the loss is not finite even after going back to a checkpoint with a lower learning rate, as often as
        the experiment allows; a checkpoint cannot be written; another process has gone.
    """
    began = time.perf_counter()
    experiment = located(experiment)
    if console is None or not cluster.first():
        console = Console(quiet=True)
    told = 0

    def tell(epoch: int, scores: Evaluation) -> None:
        nonlocal told
        if evaluated is not None and epoch > told:
            told = epoch
            evaluated(epoch, scores)

    with cluster.together(), cluster.stop_after_step() as stop:
        while True:
            try:
                result = _train(experiment, directory, console, tell, stop)
            except recovery.Diverged as diverged:
                said = cluster.tell(functools.partial(recovery.roll_back, experiment, directory, diverged))
                console.print(said, highlight=False, soft_wrap=True)
            else:
                return replace(result, seconds=time.perf_counter() - began)


def _train(
    experiment: Experiment,
    directory: str | Path,
    console: Console,
    evaluated: Callable[[int, Evaluation], None],
    stop: Callable[[int], bool],
) -> Result:
    """Trains from the newest checkpoint, with the learning rate that the rollbacks so far have left."""
    began = time.perf_counter()
    config, devices = experiment.training, jax.devices()
    cluster.require_same({"settings": to_json(_nowhere(experiment))})
    rate = cluster.tell(lambda: recovery.learning_rate(experiment, directory))
    rule = replace(experiment.optimizer, learning_rate=rate)

    held_out = "validation" if experiment.data.validation else "test"
    training, evaluation = cluster.in_turn(
        lambda: [open_split(experiment.data, split, config.seed) for split in ("train", held_out)]
    )
    sizes = {"training images": len(training), f"{held_out} images": len(evaluation)}
    cluster.require_same(sizes | {"classes": training.class_names})
    pipeline.require_divisible(experiment.data.batch_size, devices)
    steps_per_epoch = plan.steps_per_epoch(len(training), experiment.data.batch_size)
    total_steps = config.epochs * steps_per_epoch

    for source in (training, evaluation):
        pipeline.prepare(source, experiment.data, devices)  # a broken image is found before anything is written
    spec = from_json(ModelSpec, cluster.tell(lambda: to_json(start.resolve(experiment, training, directory))))
    augment.check(experiment.data.augment, spec.input_shape, spec.num_classes)
    model = models.from_spec(spec, axis_name=AXIS)
    rates = schedules.schedule(rule, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    optimizer = optimizers.create(rule, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    require_updates(experiment, len(training), total_steps)
    state = start.initial(experiment, model, spec, optimizer)
    if not cluster.tell(lambda: has_checkpoints(directory)):
        # Like the images, refused before anything is written; the journal hands it on.
        state = cluster.first_alone(lambda: start.from_weights(experiment, spec, state)) or state
    if experiment.optimizer.ema is not None:
        state = state.replace(ema_params=jax.tree.map(jnp.copy, state.params))
    state = replicate(state, devices)

    np.asarray(rates(0))  # compiled before the clock starts
    with Journal(directory, experiment, spec, console) as journal:
        state, progress = journal.resume(state, examples=len(training), steps_per_epoch=steps_per_epoch)
        state = replicate(state, devices)
        step, top1, first = int(state.step), progress.top1, progress.first_loss
        pending: list[dict[str, Any]] = [*progress.pending]  # metrics of the steps since the last training record
        for epoch, scores in enumerate(progress.scores, start=1):
            evaluated(epoch, scores)

        train_step = map_train_step(make_train_step(model, optimizer, experiment), devices)
        diagnose = map_diagnostics_step(make_diagnostics_step(make_objective(model, experiment)), devices)
        alone = model.clone(axis_name=None)
        evaluate = Evaluator(alone, evaluation, experiment.data, devices, experiment.loss.name)
        samples = Samples(evaluation, evaluate.batch_size, devices)
        batches = pipeline.training(
            training, experiment.data, seed=config.seed, start_step=step, stop_step=total_steps, devices=devices
        )
        images = 0  # trained since the last record, but for those of the step that was compiled
        diagnosed = 0
        for taken, batch in enumerate(batches):
            journal.lap("data" if taken else "compilation")
            every = config.diagnose_every
            if every is not None and (step == 0 or (step + 1) % every == 0):
                pending = [_numbers(metrics) for metrics in pending]  # steps under way are no diagnostics
                journal.lap("step")
                diagnosis = jax.block_until_ready(diagnose(state, batch))  # before the step, which consumes the state
                journal.diagnosed(step + 1, diagnosis)
                journal.lap("compilation" if diagnosed == 0 else "diagnostics")
                diagnosed += 1
            state, metrics = train_step(state, batch)
            step += 1
            pending.append(metrics)
            if taken == 0:
                jax.block_until_ready(metrics)
                first = float(metrics["loss"]) if first is None else first
            elif len(pending) > 2:
                # The host may run two steps ahead, no more: queued steps hold their batches in memory. So it waits here
                # for the numbers of the last but two.
                pending[-3] = _numbers(pending[-3])
            journal.stepped(step)
            journal.lap("step" if taken else "compilation")
            images += experiment.data.batch_size if taken else 0
            epoch_ends = step % steps_per_epoch == 0

            if epoch_ends or step % config.log_every == 0:
                pending = [_numbers(metrics) for metrics in pending]
                means = {name: float(np.mean([m[name] for m in pending])) for name in ("loss", "top1")}
                journal.lap("step")
                rate = float(np.asarray(rates(step - 1))) * schedules.rate_scale(state.opt_state)
                journal.trained(step, means, rate, images)
                journal.lap("other")
                recovery.require_sound(pending, first, step, directory)
                pending, images = [], 0

            scores = None
            if epoch_ends:
                scores = evaluate(state, samples.see)
                top1 = scores.top1
                journal.evaluated(step, scores, alone, state, samples)
                observed = schedules.observe(state.opt_state, experiment.optimizer, scores.loss)
                state = replicate(state.replace(opt_state=observed), devices)
                journal.lap("evaluation")

            due = epoch_ends if config.checkpoint_every is None else step % config.checkpoint_every == 0
            stopping = stop(step)
            if due or step == total_steps or stopping:
                pending = [_numbers(metrics) for metrics in pending]
                journal.lap("step")
                recovery.require_sound(pending, first, step, directory)
                journal.save(state, {"pending": pending, "first_loss": first, "examples": len(training)}, scores)
                journal.lap("checkpoint")
            if scores is not None:
                evaluated(step // steps_per_epoch, scores)
                journal.lap("evaluation")
            if stopping:
                break
        journal.finish(step, images)
        return Result(
            run=str(directory),
            steps=step,
            top1=top1,
            seconds=time.perf_counter() - began,
            images_per_second=journal.images_per_second,
            finished=step == total_steps,
        )
