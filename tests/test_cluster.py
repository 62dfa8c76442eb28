"""Two processes that train as one, killed, stopped and started again; on this machine, over its network."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.errors import InputError
from jaxcnn.train import cluster
from jaxcnn.train.loop import train

EPOCHS = 2
# With ReLUs the rounding of a sum decides, sooner or later, whether a whole background of pixels passes: after 66 steps
# four devices and eight in one process differ by 6 %. With tanh they differ by 3e-6.
SMALL = Experiment(
    name="small",
    model=ModelConfig("cifar_resnet8", {"activation": "tanh"}),
    data=DataConfig("digits", image_size=16, batch_size=64, augment={"crop": 2.0}),
    optimizer=OptimizerConfig("momentum", learning_rate=0.05, schedule="plateau", patience=0, ema=0.9),
    training=TrainingConfig(epochs=EPOCHS, log_every=2, checkpoint_every=5),
)
STEPS = EPOCHS * 22


def with_data(**changes) -> Experiment:
    return dataclasses.replace(SMALL, data=dataclasses.replace(SMALL.data, **changes))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def write(path: Path, experiment: Experiment) -> Path:
    """A file that `jaxcnn train` takes."""
    names = "DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig, LossConfig"
    path.write_text(f'"""Small."""\nfrom jaxcnn.config import {names}\nEXPERIMENT = {experiment!r}\n')
    return path


class Pair:
    """Two processes with two devices each and the same command."""

    def __init__(self, directory: Path, experiments=(SMALL, SMALL), runs=("run", "run"), port: int | None = None):
        directory.mkdir(parents=True, exist_ok=True)
        self.run = directory / runs[0]
        port = port or free_port()
        self.processes = []
        for index in (0, 1):
            file = write(directory / f"small{index}.py", experiments[index])
            command = [sys.executable, "-m", "jaxcnn", "train", file.name, "--distributed", "--json"]
            flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
            environment = os.environ | {
                "XLA_FLAGS": flags,
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            }
            options = {"cwd": directory, "env": environment, "text": True}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            self.processes.append(subprocess.Popen([*command, "--run", runs[index]], **options, **pipes))

    def step(self) -> int:
        """Of the last record."""
        path = self.run / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return json.loads(lines[-1])["step"] if lines and lines[-1].endswith(b"}") else 0

    def wait_for_step(self, step: int) -> None:
        """Waits until this pair, and not one before it, has written a record at `step` or later."""
        deadline, inherited = time.monotonic() + 240, self.step()
        while self.step() < max(step, inherited + 1):
            assert all(process.poll() is None for process in self.processes), self.ended()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def assert_lost(self, victim: int) -> None:
        """Kills one; the other says so within a minute and ends with status 1."""
        self.processes[victim].kill()
        began = time.monotonic()
        status, _, errors = self.ended()[1 - victim]
        assert time.monotonic() - began < 60
        assert status == 1
        last = errors.strip().splitlines()[-1]
        assert last.startswith("jaxcnn: ")
        assert "continues from the last checkpoint" in last
        assert "Traceback" not in errors

    def ended(self, seconds: float = 300) -> list[tuple[int, str, str]]:
        """Exit status, standard output and standard error of both."""
        result = []
        for process in self.processes:
            output, errors = process.communicate(timeout=seconds)
            result.append((process.returncode, output, errors))
        return result


def leaves(directory: Path) -> list[np.ndarray]:
    _, state = jaxcnn.load(directory)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.batch_stats, state.ema_params))]


def records(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The run of two processes that nobody disturbed; the second one was given a directory of its own."""
    directory = tmp_path_factory.mktemp("pair")
    (status, output, errors), (other, silence, _) = Pair(directory, runs=("run", "elsewhere")).ended()
    assert (status, other) == (0, 0), errors
    assert json.loads(output)["steps"] == STEPS
    assert silence == ""
    return directory / "run"


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_global_batch(pair, tmp_path):
    train(SMALL, tmp_path / "alone")
    alone, both = records(tmp_path / "alone"), records(pair)
    assert [(r["step"], r["split"]) for r in both] == [(r["step"], r["split"]) for r in alone]
    assert both[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-5)
    evaluated = [record for record in both if record["split"] == "test"]
    assert [record["examples"] for record in evaluated] == [359] * EPOCHS
    for one, other in zip(leaves(tmp_path / "alone"), leaves(pair), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=3e-5 * np.abs(one).max())


@pytest.mark.slow
def test_only_the_first_process_writes(pair):
    assert not (pair.parent / "elsewhere").exists()


@pytest.mark.slow
def test_killing_the_first_ends_the_other_with_a_sentence(tmp_path):
    run = Pair(tmp_path)
    run.wait_for_step(8)
    run.assert_lost(victim=0)


@pytest.mark.slow
def test_killing_the_second_ends_the_first_and_the_restart_continues_with_the_same_bits(pair, tmp_path):
    # Streamed by workers, which changes nothing that is computed.
    streamed = with_data(storage="stream", workers=1)
    run = Pair(tmp_path, (streamed, streamed))
    run.wait_for_step(25)
    run.assert_lost(victim=1)

    again = Pair(tmp_path, (streamed, streamed))
    for status, _, errors in again.ended():
        assert status == 0, errors
    assert (again.run / "metrics.jsonl").read_bytes() == (pair / "metrics.jsonl").read_bytes()
    for one, other in zip(leaves(pair), leaves(again.run), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_sigterm_to_one_saves_and_ends_both(tmp_path):
    run = Pair(tmp_path)
    run.wait_for_step(8)
    run.processes[1].send_signal(signal.SIGTERM)
    (status, output, errors), (other, _, _) = run.ended()
    assert (status, other) == (0, 0), errors
    steps = json.loads(output)["steps"]
    assert 8 <= steps < STEPS
    assert (run.run / "checkpoints" / str(steps)).is_dir()


@pytest.mark.slow
def test_what_the_first_process_refuses_all_refuse(pair, tmp_path):
    changed = dataclasses.replace(SMALL, training=dataclasses.replace(SMALL.training, seed=1))
    for status, _, errors in Pair(tmp_path, (changed, changed), (str(pair), str(pair))).ended():
        assert status == 2
        assert "holds another experiment: training.seed was 0 and is now 1" in errors.splitlines()[-1]


@pytest.mark.slow
def test_processes_with_other_settings_are_refused(tmp_path):
    other = dataclasses.replace(SMALL, optimizer=dataclasses.replace(SMALL.optimizer, weight_decay=0.3))
    for status, _, errors in Pair(tmp_path, (SMALL, other)).ended():
        assert status == 2
        assert "process 1 of 2 has other settings than the first" in errors.splitlines()[-1]
    assert not (tmp_path / "run").exists()


# ---- what does not need two


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "is part of no job of Slurm"),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS is not in the environment"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES is not in the environment"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS is 'a'; expected HOST:PORT",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES is 'two'; expected a whole number",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID is 2; expected 0 to 1",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "localhost:65536", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS is 'localhost:65536'; expected HOST:PORT",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "no.such.host.invalid:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            "JAX_COORDINATOR_ADDRESS is 'no.such.host.invalid:1', which cannot be used",
        ),
    ],
)
def test_an_environment_that_does_not_say_who_belongs_together_is_refused(environment, message, monkeypatch):
    # The tests have used their devices already, which JAX refuses before it looks at anything else.
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(InputError, match=message):
        cluster.connect(environment)


def test_a_port_that_another_program_has_is_refused(monkeypatch):
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        given = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
        with pytest.raises(InputError, match=f"{address}', which cannot be used .*; expected .* a free port"):
            cluster.connect(given)


def test_alone_nothing_is_exchanged():
    tree = {"key": jax.random.key(0), "array": np.ones(2)}
    assert cluster.first()
    assert cluster.tell(lambda: {"a": 1}) == {"a": 1}
    assert cluster.in_turn(lambda: 5) == 5
    assert cluster.first_alone(lambda: tree) is tree
    assert cluster.broadcast(tree) is tree
    cluster.require_same({"anything": 1})


def test_an_error_that_is_not_about_other_processes_stays_what_it_is():
    with pytest.raises(ValueError, match="Gloo"), cluster.together():
        raise ValueError("Gloo all-reduce failed")


@pytest.mark.parametrize(
    ("work", "status", "sentence"),
    [
        ("os.abort()", 1, "the processes did not come together within five minutes"),
        ("joined(); os.abort()", 1, "another process of the run died or cannot be reached"),
        ("joined(); os.kill(os.getpid(), 9)", 1, "jaxcnn: ended with SIGKILL"),
        ("os.kill(os.getpid(), 2)", 130, "jaxcnn: interrupted"),
        ("raise InputError('no')", 2, "jaxcnn: no"),
        ("print('done')", 0, ""),
    ],
)
def test_whatever_ends_a_member_is_said_in_a_sentence(work, status, sentence):
    script = f"""
import os, signal
from jaxcnn.cli.member import run_as_member
from jaxcnn.errors import InputError
signal.signal(signal.SIGINT, signal.SIG_DFL)
def work(joined):
    {work}
run_as_member(work)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ("done\n" if status == 0 else "")


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of a program in a terminal; in the background of a shell Ctrl-C may be ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_request_to_end_reaches_all_who_wait_for_one_and_a_second_does_not_wait(handlers):
    with cluster.termination_requested() as outer:
        with cluster.termination_requested() as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner.is_set()
            assert outer.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with cluster.termination_requested() as later:
            assert later.is_set()
        outer.clear()
        signal.raise_signal(signal.SIGTERM)
        assert outer.is_set()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
