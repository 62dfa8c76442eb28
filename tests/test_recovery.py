"""Training that goes wrong: back to a good checkpoint with a lower learning rate, said, and as often as allowed."""

from __future__ import annotations

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxcnn import loading, run
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.errors import CheckpointError, RunError
from jaxcnn.train import recovery
from jaxcnn.train.loop import train


def experiment(rate: float, rollbacks: int = 3, epochs: int = 3) -> Experiment:
    return Experiment(
        model=ModelConfig("mlp"),
        data=DataConfig("digits", batch_size=128),
        optimizer=OptimizerConfig("sgd", learning_rate=rate),
        training=TrainingConfig(epochs=epochs, log_every=5, max_rollbacks=rollbacks, keep=3),
    )


def console() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=200), written


@pytest.mark.slow
def test_a_run_that_explodes_begins_again_with_a_tenth_of_the_rate(tmp_path):
    screen, written = console()
    result = train(experiment(1e3), tmp_path, console=screen)
    assert result.finished
    taken = recovery.rollbacks(tmp_path).read()
    assert 1 <= len(taken) <= 3
    assert taken[-1]["step"] == 0  # whatever was saved before is from an exploding run too
    rates = 1e3 * 0.1 ** np.arange(1, len(taken) + 1)
    np.testing.assert_allclose([record["learning_rate"] for record in taken], rates)
    for number in range(1, len(taken) + 1):
        assert f", with the learning rate {rates[number - 1]:g} (rollback {number} of 3)" in written.getvalue()
    assert "back to the beginning, with" in written.getvalue()
    # The records are those of the run that went well.
    records = run.Metrics(tmp_path / "metrics.jsonl").read()
    assert [record["step"] for record in records] == sorted(record["step"] for record in records)
    assert all(np.isfinite(record["loss"]) for record in records)
    written_rates = {record["learning_rate"] for record in records if record["split"] == "train"}
    np.testing.assert_allclose(list(written_rates), [rates[-1]], rtol=1e-6)


@pytest.mark.slow
def test_an_explosion_before_the_first_record_is_no_yardstick(tmp_path):
    once_an_epoch = experiment(1e3)
    once_an_epoch = dataclasses.replace(
        once_an_epoch, training=dataclasses.replace(once_an_epoch.training, log_every=1000)
    )
    train(once_an_epoch, tmp_path)
    assert recovery.rollbacks(tmp_path).read()
    losses = [record["loss"] for record in run.Metrics(tmp_path / "metrics.jsonl").read()]
    assert max(losses) < 1000 * np.log(10)


def test_no_more_rollbacks_than_allowed_and_then_what_was_seen(tmp_path):
    with pytest.raises(
        RunError, match=r"the training loss is .* at step .*; try a smaller .*it went back 1 times already"
    ):
        train(experiment(1e12, rollbacks=1), tmp_path)
    assert len(recovery.rollbacks(tmp_path).read()) == 1
    with pytest.raises(RunError, match=r"smaller optimizer.learning_rate$"):
        train(experiment(1e12, rollbacks=0), tmp_path / "never")
    assert not (tmp_path / "never" / "rollbacks.jsonl").exists()


def poisoned(monkeypatch, at: int):
    """Makes the step after `at` steps give a loss that is not a number, at the full learning rate only."""
    from jaxcnn.train import loop

    honest = loop.map_train_step
    starts = []

    def mapped(step, devices):
        compiled = honest(step, devices)
        fresh = len(starts) == 0
        starts.append(fresh)

        def poison(state, batch):
            state, metrics = compiled(state, batch)
            if fresh and int(state.step) == at + 1:
                metrics = metrics | {"loss": metrics["loss"] * np.nan}
            return state, metrics

        return poison

    monkeypatch.setattr(loop, "map_train_step", mapped)


@pytest.mark.slow
def test_a_run_goes_back_to_its_last_checkpoint_and_a_restart_repeats_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poisoned(patch, at=26)
        result = train(experiment(0.1, epochs=4), tmp_path / "a")
    assert result.finished
    (taken,) = recovery.rollbacks(tmp_path / "a").read()
    assert (taken["step"], taken["failed_step"], taken["learning_rate"]) == (22, 30, pytest.approx(0.01))
    records = run.Metrics(tmp_path / "a" / "metrics.jsonl").read()
    rates = {record["step"]: record["learning_rate"] for record in records if record["split"] == "train"}
    assert {step: round(rate, 6) for step, rate in rates.items() if step in (20, 25)} == {20: 0.1, 25: 0.01}
    # Whoever stops and starts such a run gets the same end: the rollback is part of the run's directory.
    later = recovery.learning_rate(experiment(0.1), tmp_path / "a")
    assert later == pytest.approx(0.01)
    assert train(experiment(0.1, epochs=4), tmp_path / "a").steps == result.steps


@pytest.mark.slow
def test_a_checkpoint_that_failed_before_is_passed_over(tmp_path):
    train(experiment(0.1, epochs=3), tmp_path)
    failure = recovery.Diverged(float("nan"), 40, tmp_path)
    recovery.roll_back(experiment(0.1), tmp_path, failure)
    recovery.roll_back(experiment(0.1), tmp_path, failure)
    assert [record["step"] for record in recovery.rollbacks(tmp_path).read()] == [33, 22]
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [11, 22]
    assert max(record["step"] for record in run.Metrics(tmp_path / "metrics.jsonl").read()) == 22


@pytest.mark.slow
def test_a_kill_while_going_back_to_the_beginning_leaves_a_run_that_goes_on(tmp_path, monkeypatch):
    chosen, file = experiment(0.1), tmp_path / "metrics.jsonl"
    train(chosen, tmp_path)
    undisturbed = run.Metrics(file).read()
    discard = Checkpoints.discard_after

    def killed(self, step):
        discard(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "discard_after", killed)
        patch.setattr(recovery, "_finite", lambda *_: False)
        with pytest.raises(KeyboardInterrupt):
            recovery.roll_back(chosen, tmp_path, recovery.Diverged(float("inf"), 33, tmp_path))
    train(chosen, tmp_path)
    assert run.Metrics(file).read() == undisturbed


def damage(directory, step: int) -> None:
    for path in (directory / "checkpoints" / str(step)).rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:-100])


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path):
    whole = train(experiment(0.1, epochs=4), tmp_path / "whole")
    train(experiment(0.1, epochs=4), tmp_path / "damaged")
    damage(tmp_path / "damaged", 44)
    with pytest.raises(CheckpointError, match="checkpoint 44 .* is damaged"):
        loading.load(tmp_path / "damaged")
    screen, written = console()
    again = train(experiment(0.1, epochs=4), tmp_path / "damaged", console=screen)
    assert "checkpoint 44" in written.getvalue()
    assert "is damaged" in written.getvalue()
    assert "going back to step 33" in written.getvalue()
    assert again.top1 == whole.top1
    one, other = (loading.load(tmp_path / name)[1].params for name in ("whole", "damaged"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "damaged")]
    assert lines[0] == lines[1]
    assert json.loads(lines[0].splitlines()[-1])["step"] == 44


def test_where_every_checkpoint_is_damaged_nothing_is_overwritten(tmp_path):
    train(experiment(0.1), tmp_path)
    for step in (11, 22, 33):
        damage(tmp_path, step)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="checkpoint 11 .* is damaged"):
        train(experiment(0.1), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()} == {"11", "22", "33"}
