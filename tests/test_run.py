"""Run directories: one owner, one experiment, and metrics that a kill does not change."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxcnn import run
from jaxcnn.config import DataConfig, Experiment, ModelSpec, OptimizerConfig
from jaxcnn.errors import CheckpointError, RunError

EXPERIMENT = Experiment(name="test", optimizer=OptimizerConfig(learning_rate=0.3))
MODEL = ModelSpec("lenet5", {"pooling": "max"}, 10, (28, 28, 1), (0.1307,), (0.3081,), tuple("0123456789"))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_new_run_says_what_runs_and_where(tmp_path):
    with run.open(tmp_path / "a" / "b", EXPERIMENT, MODEL) as opened:
        expected = {".lock", "experiment.json", "model.json", "environment.json", "checkpoints", "figures"}
        assert names(opened.directory) == expected
        assert (opened.checkpoints.is_dir(), opened.figures.is_dir()) == (True, True)
    assert run.read(tmp_path / "a" / "b") == (EXPERIMENT, MODEL)
    (environment,) = json.loads((tmp_path / "a" / "b" / "environment.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["seed"] == EXPERIMENT.training.seed
    assert environment["backend"] == "cpu"
    assert len(environment["devices"]) == 8
    assert all(environment[package] for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"))


def test_the_revision_is_of_this_code_and_says_whether_it_was_changed(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        command = ["git", *identity, "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "jaxcnn"
    package.mkdir()
    assert run._revision(package) is None
    (package / "a.py").write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert run._revision(package) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (package / "report.html").write_text("of a run")
    assert run._revision(package) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (package / "a.py").write_text("changed")
    assert run._revision(package) == {"revision": git("rev-parse", "HEAD"), "dirty": True}
    installed = tmp_path / "venv" / "jaxcnn"
    installed.mkdir(parents=True)
    assert run._revision(installed) is None


def test_a_run_goes_on_that_was_made_before_its_network_had_an_option(tmp_path):
    def with_options(**options):
        return dataclasses.replace(MODEL, options=options)

    with run.open(tmp_path, EXPERIMENT, with_options(activation="tanh")):
        pass
    with run.open(tmp_path, EXPERIMENT, with_options(activation="tanh", kernels="5x5")):
        pass
    other = with_options(activation="relu", kernels="5x5")
    with pytest.raises(CheckpointError, match="options was .*tanh"), run.open(tmp_path, EXPERIMENT, other):
        pass


def test_the_same_experiment_continues_and_another_is_refused(tmp_path):
    with run.open(tmp_path, EXPERIMENT, MODEL):
        pass
    elsewhere = dataclasses.replace(EXPERIMENT, data=DataConfig(directory="/elsewhere", workers=3))
    with run.open(tmp_path, elsewhere, MODEL):
        pass
    before = {name: (tmp_path / name).read_bytes() for name in ("experiment.json", "model.json", "environment.json")}
    another = dataclasses.replace(EXPERIMENT, optimizer=OptimizerConfig(learning_rate=0.5))
    message = rf"^{tmp_path} holds another experiment: optimizer.learning_rate was 0.3 and is now 0.5; .* --run$"
    with pytest.raises(CheckpointError, match=message), run.open(tmp_path, another, MODEL):
        pass
    message = rf"^{tmp_path} holds another model: num_classes was 10 and is now 100; choose another --run$"
    other_model = dataclasses.replace(MODEL, num_classes=100)
    with pytest.raises(CheckpointError, match=message), run.open(tmp_path, EXPERIMENT, other_model):
        pass
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_run_continued_elsewhere_lists_both_environments(tmp_path, monkeypatch):
    for version in ("1", "1", "2"):
        monkeypatch.setattr(run, "environment", lambda seed, version=version: {"jax": version, "seed": seed})
        with run.open(tmp_path, EXPERIMENT, MODEL):
            pass
    environments = json.loads((tmp_path / "environment.json").read_text())
    assert [environment["jax"] for environment in environments] == ["1", "2"]


def test_a_directory_of_something_else_is_left_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with (
        pytest.raises(CheckpointError, match="is not empty and not a run directory"),
        run.open(tmp_path, EXPERIMENT, MODEL),
    ):
        pass
    assert names(tmp_path) == {"thesis.tex"}
    with pytest.raises(CheckpointError, match="is a file"), run.open(tmp_path / "thesis.tex", EXPERIMENT, MODEL):
        pass
    with pytest.raises(CheckpointError, match="is not a run directory"):
        run.read(tmp_path)


def test_a_creation_that_was_killed_is_taken_up(tmp_path):
    (tmp_path / ".lock").write_text("1")
    (tmp_path / ".experiment.json.tmp").write_text("{")
    with run.open(tmp_path, EXPERIMENT, MODEL):
        pass
    (tmp_path / "model.json").unlink()
    with run.open(tmp_path, EXPERIMENT, MODEL):
        assert run.read(tmp_path) == (EXPERIMENT, MODEL)


@pytest.mark.parametrize("name", ["experiment.json", "model.json", "environment.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[" * 100_000, b"\xff", b'{"name": 3}'])
def test_a_damaged_file_is_named(tmp_path, name, content):
    with run.open(tmp_path, EXPERIMENT, MODEL):
        pass
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{tmp_path / name} "), run.open(tmp_path, EXPERIMENT, MODEL):
        pass
    if name != "environment.json":
        with pytest.raises(CheckpointError, match=rf"^{tmp_path / name} "):
            run.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input_shape": [0, 28, 1]}, "input_shape is (0, 28, 1); expected at least 1"),
        ({"class_names": ["0", "1"]}, "it names 2 classes; expected 10"),
        ({"num_classes": 3}, "it names 10 classes; expected 3"),
    ],
)
def test_a_model_that_cannot_be_is_named(tmp_path, change, says):
    with run.open(tmp_path, EXPERIMENT, MODEL):
        pass
    file = tmp_path / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=re.escape(f"{file} is damaged: {says}")):
        run.read(tmp_path)


def test_scores_are_numbers_of_steps(tmp_path):
    whole = {"step": 1, "split": "train", "loss": math.nan, "top1": 0.5}
    records = run.metrics(tmp_path)
    records.append({"step": 1, "split": "diagnostics"})
    records.append(whole)
    assert [record["top1"] for record in run.scores(tmp_path)] == [0.5]
    for change in ({"loss": "a"}, {"top1": [1]}, {"step": 0}):
        records.path.unlink()
        records.append(whole | change)
        with pytest.raises(CheckpointError, match=r"metrics.jsonl is damaged: it holds {.*}; expected a step from 1"):
            run.scores(tmp_path)
    (tmp_path / "environment.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"environment.json is damaged: it holds \[1\]; expected a list of"):
        run.environments(tmp_path)


def test_a_missing_model_is_named(tmp_path):
    with run.open(tmp_path, EXPERIMENT, MODEL):
        (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"model.json cannot be read: No such file or directory"):
        run.read(tmp_path)


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    prelude = """
        import sys
        from jaxcnn import run
        from tests.test_run import EXPERIMENT, MODEL
    """
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(prelude) + textwrap.dedent(script), *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_process_at_a_time_until_it_dies(tmp_path):
    owner = child(
        """
        with run.open(sys.argv[1], EXPERIMENT, MODEL):
            print("open", flush=True)
            sys.stdin.read()
        """,
        tmp_path,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "open\n"
    message = rf"^{tmp_path} is in use by process {owner.pid}; choose another --run$"
    with pytest.raises(CheckpointError, match=message), run.open(tmp_path, EXPERIMENT, MODEL):
        pass
    assert run.read(tmp_path) == (EXPERIMENT, MODEL)
    owner.send_signal(signal.SIGKILL)
    assert owner.communicate()[1] == ""
    with run.open(tmp_path, EXPERIMENT, MODEL):
        message = f"in use by process {os.getpid()}"
        with pytest.raises(CheckpointError, match=message), run.open(tmp_path, EXPERIMENT, MODEL):
            pass
    with run.open(tmp_path, EXPERIMENT, MODEL):
        pass


TRAINING = """
    import jax.numpy as jnp
    from jaxcnn.checkpoint import Checkpoints
    from tests.test_checkpoint import save, weights

    with run.open(sys.argv[1], EXPERIMENT, MODEL) as opened, Checkpoints(opened.checkpoints) as checkpoints:
        state = weights(0)
        if checkpoints.latest() is not None:
            state, _ = checkpoints.restore(state)
        opened.metrics.truncate(int(state.step))
        for step in range(int(state.step) + 1, 61):
            opened.metrics.append({"step": step, "loss": 1 / step, "rate": step / 7})
            print(step, flush=True)
            if step % 10 == 0:
                save(checkpoints, state.replace(step=jnp.int32(step)), top1=step / 100)
"""


def test_a_killed_run_ends_with_the_metrics_of_one_never_killed(tmp_path):
    for last in (random.randint(1, 30), random.randint(31, 59), 60):
        process = child(TRAINING, tmp_path)
        assert process.stdout is not None
        for line in process.stdout:
            if last < 60 and int(line) >= last:
                process.send_signal(signal.SIGKILL)
                break
        assert process.communicate()[1] == ""
        assert process.returncode == (-signal.SIGKILL if last < 60 else 0)
    expected = [{"step": step, "loss": 1 / step, "rate": step / 7} for step in range(1, 61)]
    never_killed = run.Metrics(tmp_path / "expected.jsonl")
    for record in expected:
        never_killed.append(record)
    assert (tmp_path / "metrics.jsonl").read_bytes() == never_killed.path.read_bytes()
    assert run.Metrics(tmp_path / "metrics.jsonl").read() == expected


values = st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=6)
records = st.lists(st.dictionaries(st.text(max_size=4).filter(lambda k: k != "step"), values, max_size=3), max_size=5)


def as_read(record: dict[str, Any]) -> dict[str, Any]:
    return {k: math.nan if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


@settings(deadline=None, max_examples=50)
@given(records=records, cut=st.floats(0, 1), step=st.integers(0, 6))
def test_records_are_read_back_and_an_incomplete_last_line_is_dropped(records, cut, step):
    records = [{"step": number, **record} for number, record in enumerate(records, start=1)]
    with tempfile.TemporaryDirectory() as directory:
        metrics = run.Metrics(Path(directory) / "metrics.jsonl")
        assert metrics.read() == []
        metrics.truncate(0)
        ends = [0]
        for record in records:
            metrics.append(record)
            ends.append(metrics.path.stat().st_size)
        expected = [as_read(record) for record in records]
        np.testing.assert_equal(metrics.read(), expected)
        size = int(cut * ends[-1])
        if records:
            os.truncate(metrics.path, size)
        complete = sum(end <= size for end in ends[1:])
        np.testing.assert_equal(metrics.read(), expected[:complete])
        metrics.truncate(step)
        np.testing.assert_equal(metrics.read(), expected[: min(complete, step)])
        if records:
            assert metrics.path.stat().st_size == ends[min(complete, step)]
            assert names(Path(directory)) == {"metrics.jsonl"}


def test_scalars_of_numpy_and_jax_are_numbers_and_what_is_not_finite_is_null(tmp_path):
    metrics = run.Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"step": np.int64(1), "loss": jnp.float32(0.1), "top1": np.float64(0.5), "norm": jnp.inf})
    text = metrics.path.read_text()
    assert text == '{"step": 1, "loss": 0.10000000149011612, "top1": 0.5, "norm": null}\n'


@pytest.mark.parametrize(
    "line", [b"{\n", b"3\n", b'{"loss": 1}\n', b'{"step": true}\n', b"\xff\n", b"[" * 99_999 + b"\n"]
)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    metrics = run.Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"step": 1})
    with metrics.path.open("ab") as file:
        file.write(line)
    before = metrics.path.read_bytes()
    for reading in (metrics.read, lambda: metrics.truncate(5)):
        with pytest.raises(CheckpointError, match=rf"^line 2 of {metrics.path} is "):
            reading()
    assert metrics.path.read_bytes() == before


def test_a_full_disk_leaves_no_part_of_a_record(tmp_path):
    metrics = run.Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written: File too large$"):
            metrics.append({"step": 2, "note": "x" * 100})
        with (
            pytest.raises(RunError, match=r"experiment.json cannot be written: File too large$"),
            run.open(tmp_path / "new", EXPERIMENT, MODEL),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    metrics.append({"step": 3})
    assert metrics.read() == [{"step": 1}, {"step": 3}]
    with run.open(tmp_path / "new", EXPERIMENT, MODEL):
        assert run.read(tmp_path / "new") == (EXPERIMENT, MODEL)
