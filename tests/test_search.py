"""Searches: what they find, what they end early, and that neither a kill nor a second process changes or repeats it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from rich.console import Console

from jaxcnn import catalog, run
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig, to_json
from jaxcnn.errors import CheckpointError, InputError, RunError
from jaxcnn.train import search as searching
from jaxcnn.train import search_results, search_space
from jaxcnn.train.evaluate import Evaluation
from jaxcnn.train.loop import Result
from jaxcnn.train.recovery import Diverged
from jaxcnn.train.search import Trial, search

EXPERIMENT = Experiment(
    name="small",
    model=ModelConfig("mlp", {"width": 16}),
    data=DataConfig("digits", batch_size=128),
    optimizer=OptimizerConfig("sgd", learning_rate=0.3),
    training=TrainingConfig(epochs=3, seed=2),
)
VARIED = {"optimizer.learning-rate": "1e-5:1:log", "model.options.depth": "0:1"}
SPACE = search_space.parse(EXPERIMENT, VARIED)
HELD = dataclasses.replace(EXPERIMENT, data=dataclasses.replace(EXPERIMENT.data, validation=0.2))

SCRIPT = """
import json, sys
from jaxcnn.config import Experiment, from_json
from jaxcnn.train.search import search
from jaxcnn.train.search_space import parse
experiment = from_json(Experiment, json.loads(sys.argv[1]))
search(experiment, parse(experiment, json.loads(sys.argv[2])), sys.argv[3], trials=int(sys.argv[4]))
"""


def silent_training(accuracy=lambda rate: 1 - abs(np.log10(rate) + 1) / 10, happens=lambda number: None):
    """In place of training: the accuracy of a learning rate, and what `happens` in a trial."""

    def train(experiment, directory, *, evaluated):
        calls.append(Path(directory).name)
        happens(int(Path(directory).name[-4:]))
        top1 = float(accuracy(experiment.optimizer.learning_rate))
        for epoch in range(1, experiment.training.epochs + 1):
            evaluated(epoch, Evaluation(100, top1 * epoch / 3, 1.0, 1.0))
        return Result(str(directory), 1, top1, 0.0, 0.0, True)

    calls: list[str] = []
    return train, calls


@pytest.fixture
def instant(monkeypatch):
    """The names of the trials that were trained, which takes no time."""
    train, calls = silent_training()
    monkeypatch.setattr(searching, "train", train)
    return calls


# ---- what is found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search of digits, and what it wrote."""
    directory, written = tmp_path_factory.mktemp("found") / "search", io.StringIO()
    return search(EXPERIMENT, SPACE, directory, trials=7, console=Console(file=written, width=60)), written.getvalue()


def test_trials_are_ordinary_runs_on_images_held_out_of_training(found):
    result, _ = found
    assert result.finished
    assert [trial.number for trial in result.trials] == list(range(7))
    for trial in result.trials:
        directory = Path(result.run) / f"trial-{trial.number:04d}"
        experiment, _ = run.read(directory)
        assert (experiment.data.validation, experiment.training.max_rollbacks) == (0.1, 0)
        assert experiment.optimizer.learning_rate == trial.parameters["optimizer.learning_rate"]
        assert experiment.model.options == {"width": 16, "depth": trial.parameters["model.options.depth"]}
        scored = [record for record in run.metrics(directory).read() if record["split"] == "validation"]
        assert [record["top1"] for record in scored] == list(trial.top1)
    # The first has the experiment's own settings, and no two are alike.
    assert result.trials[0].parameters == {"optimizer.learning_rate": 0.3, "model.options.depth": 1}
    assert len({trial.parameters["optimizer.learning_rate"] for trial in result.trials}) == 7


def test_a_trial_ends_early_where_it_is_below_the_median_of_the_complete_ones_and_nowhere_else(found):
    result, _ = found
    complete: list[Trial] = []
    for trial in result.trials:
        worse = [
            epoch
            for epoch in range(1, len(trial.top1) + 1)
            if len(complete) >= 5 and max(trial.top1[:epoch]) < np.median([other.top1[epoch - 1] for other in complete])
        ]
        assert worse == ([len(trial.top1)] if trial.state == "pruned" else [])
        assert trial.state == "pruned" or len(trial.top1) == 3
        complete += [trial] if trial.state == "complete" else []
    assert {trial.state for trial in result.trials} == {"complete", "pruned"}


def test_the_best_is_the_most_accurate_complete_trial_and_becomes_an_experiment_file(found):
    result, _ = found
    scores = {trial.number: trial.top1[-1] for trial in result.trials if trial.state == "complete"}
    assert result.best is not None
    assert scores[result.best.number] == max(scores.values()) > 0.8
    files = search_results.write(result)
    assert [path.name for path in files] == ["trials.csv", "best.py"]
    best, description = catalog.load(str(files[1]))
    assert best == result.experiment
    number, score = result.best.number, scores[result.best.number]
    what = f"the best of 7 trials, number {number}, {score:.4f} on images held out of training"
    assert description == f"small_best: {what}."
    # All images are trained on again, as in the experiment that was searched around.
    assert (best.data, best.training) == (EXPERIMENT.data, EXPERIMENT.training)
    lines = files[0].read_text().splitlines()
    assert lines[0] == "trial,state,epochs,top1,optimizer.learning_rate,model.options.depth"
    assert len(lines) == 8


def test_a_line_is_written_for_each_trial_and_nothing_else(found, capfd):
    result, written = found
    first, *lines = written.splitlines()
    assert first == "no images are held out: trials hold out data.validation 0.1"
    assert [line.split()[1] for line in lines] == [str(number) for number in range(7)]
    trial = result.trials[0]
    assert lines[0] == (
        f"trial 0  optimizer.learning_rate 0.3  model.options.depth 1  accuracy {trial.top1[-1]:.4f}  complete"
    )
    assert all(
        ("pruned after epoch" in line) == (t.state == "pruned") for line, t in zip(lines, result.trials, strict=True)
    )
    search(EXPERIMENT, SPACE, result.run, trials=7)
    assert capfd.readouterr() == ("", "")


def test_a_killed_search_is_continued_as_if_nothing_had_happened(found, tmp_path):
    whole, _ = found
    directory = tmp_path / "killed"
    arguments = [json.dumps(to_json(EXPERIMENT)), json.dumps(VARIED), str(directory), "3"]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=os.environ) as process:
        metrics, deadline = directory / "trial-0001" / "metrics.jsonl", time.monotonic() + 120
        while not metrics.exists() or b"validation" not in metrics.read_bytes():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (directory / "trial-0002").exists()
    continued = search(EXPERIMENT, SPACE, directory, trials=3)
    assert continued.trials == whole.trials[:3]
    for trial in continued.trials:
        name = f"trial-{trial.number:04d}/metrics.jsonl"
        assert (directory / name).read_bytes() == (Path(whole.run) / name).read_bytes()
    assert not list(directory.glob(".trial-*"))


# ---- what interrupts a trial


def test_a_trial_that_diverges_counts_and_the_search_goes_on(tmp_path, monkeypatch):
    def happens(number: int) -> None:
        if number in (0, 2):
            raise Diverged(float("nan"), 3, "here")

    train, calls = silent_training(happens=happens)
    monkeypatch.setattr(searching, "train", train)
    result = search(HELD, SPACE, tmp_path / "a", trials=4)
    assert [trial.state for trial in result.trials] == ["diverged", "complete", "diverged", "complete"]
    assert len(calls) == 4
    assert result.best in result.trials[1::2]
    # Optuna's sampler learns from it: a failed trial would tell it nothing.
    states = [trial.state.name for trial in study(tmp_path / "a").trials]
    assert states == ["PRUNED", "COMPLETE", "PRUNED", "COMPLETE"]


def study(directory: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{directory / 'search.db'}")


@pytest.mark.parametrize("failure", [RunError("the disk is full"), None], ids=["failure", "signal"])
def test_a_trial_that_was_stopped_is_trained_on_in_its_directory(tmp_path, monkeypatch, failure):
    def happens(number: int) -> None:
        if number == 1 and failure:
            raise failure

    train, calls = silent_training(happens=happens)

    def stopped(experiment, directory, *, evaluated):
        if Path(directory).name != "trial-0001" or failure:
            return train(experiment, directory, evaluated=evaluated)
        evaluated(1, Evaluation(100, 0.5, 1.0, 1.0))
        return Result(str(directory), 1, 0.5, 0.0, 0.0, False)

    monkeypatch.setattr(searching, "train", stopped)
    if failure:
        with pytest.raises(RunError, match="the disk is full"):
            search(HELD, SPACE, tmp_path / "a", trials=3)
    else:
        result = search(HELD, SPACE, tmp_path / "a", trials=3)
        assert not result.finished
        assert [trial.state for trial in result.trials] == ["complete", "running"]
        assert result.trials[1].top1 == (0.5,)
    train, calls = silent_training(accuracy=lambda rate: 0.9)
    monkeypatch.setattr(searching, "train", train)
    result = search(HELD, SPACE, tmp_path / "a", trials=3)
    assert calls == ["trial-0001", "trial-0002"]
    assert [trial.state for trial in result.trials] == ["complete"] * 3
    # What had been told before is not told again.
    assert result.trials[1].top1 == pytest.approx((0.3 if failure else 0.5, 0.6, 0.9))


def test_a_kill_while_settings_are_chosen_loses_no_trial(tmp_path, monkeypatch, instant):
    whole = search(HELD, SPACE, tmp_path / "whole", trials=3)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "suggest_int", lambda *args, **kwargs: sys.exit("killed"))
        with pytest.raises(SystemExit):
            search(HELD, SPACE, tmp_path / "a", trials=3)
    (trial,) = study(tmp_path / "a").trials
    assert list(trial.params) == ["optimizer.learning_rate"]
    assert search(HELD, SPACE, tmp_path / "a", trials=2).trials == whole.trials[:2]
    # A larger number of trials adds to those that are there.
    assert search(HELD, SPACE, tmp_path / "a", trials=3).trials == whole.trials


# ---- several processes

WORKER = """
import sys
from pathlib import Path
from test_search import work
work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] or None, int(sys.argv[4]))
"""


def work(directory: Path, log: Path, storage: str | None, trials: int) -> None:
    """Searches, and logs every trial that is trained; the first waits until another process has begun one, too."""

    def happens(number: int) -> None:
        with log.open("a") as file:
            file.write(f"{number} {directory} {os.getpid()}\n")
        deadline = time.monotonic() + 60
        while len(log.read_text().splitlines()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "train", silent_training(happens=happens)[0])
        search(EXPERIMENT, SPACE, directory, trials=trials, storage=storage)


def work_together(directories: list[Path], log: Path, storage: str | None, trials: int) -> list[list[str]]:
    """Searches in two processes at once; number, directory and process of the trials that were trained."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    arguments = [str(directories[0]), str(log), storage or "", str(trials)]
    with subprocess.Popen([sys.executable, "-c", WORKER, *arguments], env=environment) as process:
        work(directories[1], log, storage, trials)
        assert process.wait(120) == 0
    return [line.split() for line in log.read_text().splitlines()]


def test_two_processes_share_a_directory_and_train_no_trial_twice(tmp_path):
    trained = work_together([tmp_path / "shared"] * 2, tmp_path / "log", None, trials=6)
    assert sorted(int(number) for number, *_ in trained) == list(range(6))
    assert len({process for *_, process in trained}) == 2
    result = search(EXPERIMENT, SPACE, tmp_path / "shared", trials=6)
    assert len(result.trials) == 6
    assert "running" not in {trial.state for trial in result.trials}


@pytest.fixture
def server(tmp_path):
    """Optuna's own server, in a process of its own: the process and its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = (
        "import optuna, sys; from optuna.storages import get_storage, run_grpc_proxy_server as serve; "
        f"serve(get_storage('sqlite:///{tmp_path}/server.db'), host='localhost', port={port})"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], **quiet) as process:
        yield process, f"grpc://localhost:{port}"
        process.kill()


def test_machines_share_a_server_and_a_lost_server_ends_the_search_with_a_sentence(tmp_path, server, monkeypatch):
    process, address = server
    directories = [tmp_path / machine / "search" for machine in ("a", "b")]
    trained = work_together(directories, tmp_path / "log", address, trials=5)
    assert sorted(int(number) for number, *_ in trained) == list(range(5))
    assert {where for _, where, _ in trained} == set(map(str, directories))

    # Another machine that does not have the directory of a running trial leaves it alone.
    def stop(number: int) -> None:
        raise RunError("stopped")

    monkeypatch.setattr(searching, "train", silent_training(happens=stop)[0])
    with pytest.raises(RunError, match="stopped"):
        search(EXPERIMENT, SPACE, directories[0], trials=6, storage=address)
    train, calls = silent_training()
    monkeypatch.setattr(searching, "train", train)
    result = search(EXPERIMENT, SPACE, directories[1], trials=6, storage=address)
    assert [trial.state for trial in result.trials][5:] == ["running"]
    search(EXPERIMENT, SPACE, directories[0], trials=6, storage=address)
    assert calls == [f"trial-{result.trials[5].number:04d}"]  # not always 5: one too many may have been given up

    other = dataclasses.replace(EXPERIMENT, optimizer=OptimizerConfig("sgd", learning_rate=0.2))
    with pytest.raises(
        CheckpointError, match=r"study search of grpc://.* is of another search: optimizer.learning_rate"
    ):
        search(other, SPACE, tmp_path / "c" / "search", storage=address)

    monkeypatch.setattr(searching, "train", silent_training(happens=lambda number: (process.kill(), process.wait()))[0])
    with pytest.raises(RunError, match=r"grpc://localhost:\d+ has failed: .*; the same command continues"):
        search(EXPERIMENT, SPACE, directories[0], trials=7, storage=address)
    monkeypatch.setattr(searching, "_PATIENCE", 0.1)
    with pytest.raises(InputError, match=r"grpc://localhost:\d+ cannot be opened: "):
        search(EXPERIMENT, SPACE, directories[0], trials=7, storage=address)


def test_a_trial_asked_for_at_the_same_moment_as_the_last_is_given_up(tmp_path, monkeypatch, instant):
    ask = optuna.Study.ask
    monkeypatch.setattr(optuna.Study, "ask", lambda self: (ask(self), ask(self))[1])
    storage = f"sqlite:///{tmp_path}/shared.db"
    result = search(HELD, SPACE, tmp_path / "a", trials=1, storage=storage)
    assert [trial.number for trial in result.trials] == [0]
    assert instant == []


# ---- what is refused


def test_a_directory_that_holds_something_else_is_left_as_it_is(tmp_path, instant):
    search(HELD, SPACE, tmp_path / "a", trials=1)
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    other = dataclasses.replace(HELD, training=TrainingConfig(epochs=3, seed=3))
    with pytest.raises(CheckpointError, match="holds another search: training.seed was 2 and is now 3; choose another"):
        search(other, SPACE, tmp_path / "a")
    wider = search_space.parse(HELD, VARIED | {"optimizer.learning-rate": "1e-6:1:log"})
    with pytest.raises(CheckpointError, match="optimizer.learning_rate varied over .* and now varies over"):
        search(HELD, wider, tmp_path / "a")
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty and holds no search"):
        search(HELD, SPACE, tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"notes.txt is a file; expected a directory"):
        search(HELD, SPACE, tmp_path / "b" / "notes.txt")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["notes.txt"]
    for content in ("{", "[]", '{"space": {}}'):
        (tmp_path / "a" / "search.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"search.json is damaged"):
            search(HELD, SPACE, tmp_path / "a")
    assert len(instant) == 1


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("grpc://host", "storage is 'grpc://host'; expected grpc://HOST:PORT"),
        ("nonsense", "nonsense cannot be opened: "),
        ("postgresql://me:secret@host/db", r"postgresql://me:\*\*\*@host/db cannot be opened: "),
        ("sqlite:////no/such/folder/x.db", "cannot be opened: "),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_sentence(tmp_path, storage, message):
    with pytest.raises(InputError, match=message) as raised:
        search(HELD, SPACE, tmp_path / "a", storage=storage)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_trials_must_be_at_least_one(tmp_path):
    with pytest.raises(InputError, match="trials is 0; expected at least 1"):
        search(HELD, SPACE, tmp_path, trials=0)
