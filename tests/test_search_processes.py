"""Searches in several processes and on several machines: no trial is lost or trained twice, whoever is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from test_search import EXPERIMENT, HELD, SPACE, VARIED, instant, silent_training

from jaxcnn.config import OptimizerConfig, to_json
from jaxcnn.errors import CheckpointError, InputError, RunError
from jaxcnn.train import search as searching
from jaxcnn.train import search_storage
from jaxcnn.train.search import search

__all__ = ["instant"]

SCRIPT = """
import json, sys
from jaxcnn.config import Experiment, from_json
from jaxcnn.train.search import search
from jaxcnn.train.search_space import parse
experiment = from_json(Experiment, json.loads(sys.argv[1]))
search(experiment, parse(experiment, json.loads(sys.argv[2])), sys.argv[3], trials=int(sys.argv[4]))
"""


@pytest.mark.slow
def test_a_killed_search_is_continued_as_if_nothing_had_happened(tmp_path):
    whole = search(EXPERIMENT, SPACE, tmp_path / "whole", trials=3)
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
    assert continued.trials == whole.trials
    for trial in continued.trials:
        name = f"trial-{trial.number:04d}/metrics.jsonl"
        assert (directory / name).read_bytes() == (Path(whole.run) / name).read_bytes()
    assert not list(directory.glob(".trial-*"))


WORKER = """
import sys
from pathlib import Path
from test_search_processes import work
work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] or None, int(sys.argv[4]), killed=bool(sys.argv[5]))
"""


def work(directory: Path, log: Path, storage: str | None, trials: int, *, killed: bool = False) -> None:
    """Searches, and logs every trial that is trained; the first waits until another process has begun one, too.

    A process that is to be `killed` dies in that one.
    """

    def happens(number: int) -> None:
        with log.open("a") as file:
            file.write(f"{number} {directory} {os.getpid()}\n")
        deadline = time.monotonic() + 60
        while len(log.read_text().splitlines()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "train", silent_training(happens=happens)[0])
        search(EXPERIMENT, SPACE, directory, trials=trials, storage=storage)


def work_together(
    directories: list[Path], log: Path, storage: str | None, trials: int, *, killed: bool = False
) -> list[list[str]]:
    """Searches in two processes at once; number, directory and process of the trials that were trained."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    arguments = [str(directories[0]), str(log), storage or "", str(trials), "yes" if killed else ""]
    with subprocess.Popen([sys.executable, "-c", WORKER, *arguments], env=environment) as process:
        work(directories[1], log, storage, trials)
        assert process.wait(120) == (-signal.SIGKILL if killed else 0)
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["one killed", "both live"])
def test_two_processes_share_a_directory_and_train_no_trial_twice(tmp_path, killed):
    directory, log = tmp_path / "shared", tmp_path / "log"
    trained = work_together([directory] * 2, log, None, trials=5, killed=killed)
    assert len({process for *_, process in trained}) == 2
    work(directory, log, None, trials=5)  # what was killed last, nobody may have been there to take up
    numbers = sorted(int(line.split()[0]) for line in log.read_text().splitlines())
    (lost,) = {int(n) for n, _, process in trained if killed and process != str(os.getpid())} or {None}
    assert numbers == sorted([*range(5), *([] if lost is None else [lost])])
    result = search(EXPERIMENT, SPACE, directory, trials=5)
    assert len(result.trials) == 5
    assert "running" not in {trial.state for trial in result.trials}
    assert not list(directory.glob(".trial-*"))


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


@pytest.mark.slow
def test_machines_share_a_server_and_a_lost_server_ends_the_search_with_a_sentence(tmp_path, server, monkeypatch):
    process, address = server
    directories = [tmp_path / machine / "search" for machine in ("a", "b")]
    trained = work_together(directories, tmp_path / "log", address, trials=5)
    assert sorted(int(number) for number, *_ in trained) == list(range(5))
    assert {where for _, where, _ in trained} == set(map(str, directories))

    other = dataclasses.replace(EXPERIMENT, optimizer=OptimizerConfig("sgd", learning_rate=0.2))
    with pytest.raises(
        CheckpointError, match=r"study search of grpc://.* is of another search: optimizer.learning_rate"
    ):
        search(other, SPACE, tmp_path / "c" / "search", storage=address)

    monkeypatch.setattr(searching, "train", silent_training(happens=lambda number: (process.kill(), process.wait()))[0])
    with pytest.raises(RunError, match=r"grpc://localhost:\d+ has failed: .*; the same command continues"):
        search(EXPERIMENT, SPACE, directories[0], trials=7, storage=address)
    monkeypatch.setattr(search_storage, "_PATIENCE", 0.1)
    with pytest.raises(InputError, match=r"grpc://localhost:\d+ cannot be opened: "):
        search(EXPERIMENT, SPACE, directories[0], trials=7, storage=address)


def test_another_machines_running_trial_is_left_alone(tmp_path, monkeypatch):
    def stop(number: int) -> None:
        raise RunError("stopped")

    storage, here, there = f"sqlite:///{tmp_path}/shared.db", tmp_path / "a" / "search", tmp_path / "b" / "search"
    monkeypatch.setattr(searching, "train", silent_training(happens=stop)[0])
    with pytest.raises(RunError, match="stopped"):
        search(HELD, SPACE, here, trials=2, storage=storage)
    train, calls = silent_training()
    monkeypatch.setattr(searching, "train", train)
    result = search(HELD, SPACE, there, trials=2, storage=storage)
    assert ([trial.state for trial in result.trials], calls) == (["running", "complete"], ["trial-0001"])
    search(HELD, SPACE, here, trials=2, storage=storage)
    assert calls == ["trial-0001", "trial-0000"]
    # Without the storage, a second search would begin in the same directory; with it, in that of an ordinary one.
    with pytest.raises(CheckpointError, match="search that is kept in a shared storage; expected the same --storage"):
        search(HELD, SPACE, here, trials=2)
    search(HELD, SPACE, tmp_path / "c", trials=1)
    with pytest.raises(CheckpointError, match=r"search that is kept in search.db; expected no --storage"):
        search(HELD, SPACE, tmp_path / "c", trials=1, storage=storage)


def test_a_trial_asked_for_at_the_same_moment_as_the_last_is_given_up(tmp_path, monkeypatch, instant):
    ask = optuna.Study.ask
    monkeypatch.setattr(optuna.Study, "ask", lambda self: (ask(self), ask(self))[1])
    storage = f"sqlite:///{tmp_path}/shared.db"
    result = search(HELD, SPACE, tmp_path / "a", trials=1, storage=storage)
    assert [trial.number for trial in result.trials] == [0]
    assert instant == []
