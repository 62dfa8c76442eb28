"""Damaged checkpoints, full disks and kills: what is lost is said, and nothing else is lost."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from test_checkpoint import assert_same, files, make, save, weights

from jaxcnn.checkpoint import Checkpoints
from jaxcnn.errors import CheckpointError
from jaxcnn.state import State


@pytest.fixture
def pair(tmp_path) -> tuple[Path, State]:
    """A directory with steps 1 and 2, of which 2 holds the returned state."""
    saved = make(
        2,
        {"kernel": jax.random.normal(jax.random.key(0), (40, 50)), "half": jnp.arange(9, dtype=jnp.bfloat16)},
        opt_state=(jnp.ones(70), {}),
    )
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        save(checkpoints, saved.replace(step=jnp.int32(1)), top1=0.5)
        save(checkpoints, saved, top1=0.4, progress={"epoch": 3})
    return tmp_path / "checkpoints", saved


def outcome(directory: Path, saved: State) -> str:
    """Opens and restores step 2: "raised" or "same"; anything else fails the test."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        try:
            restored, progress = checkpoints.restore(saved)
        except CheckpointError as error:
            message = str(error)
        else:
            assert_same(restored, saved)
            assert progress == {"epoch": 3}
            return "same"
    where = re.escape(str(directory))
    assert re.fullmatch(rf"checkpoint 2 in {where} is damaged: .+; earlier ones: 1", message)  # one line
    return "raised"


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_or_harmless(pair):
    directory, saved = pair
    generator = random.Random(0)
    for path in files(directory / "2"):
        content = path.read_bytes()
        outcomes = []
        for position in generator.sample(range(len(content)), min(len(content), 30)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            outcomes.append(outcome(directory, saved))
        path.write_bytes(content)
        if len(content) > 4000:  # the file with the weights
            assert outcomes.count("raised") >= 28
    assert outcome(directory, saved) == "same"
    with Checkpoints(directory) as checkpoints:
        assert_same(checkpoints.restore(saved, 1)[0], saved.replace(step=jnp.int32(1)))


@pytest.mark.parametrize("damage", ["emptied", "halved", "shortened", "removed"])
def test_a_truncated_or_missing_file_is_found_or_harmless(pair, damage):
    directory, saved = pair
    outcomes = {}
    for path in files(directory / "2"):
        content = path.read_bytes()
        if damage == "removed":
            path.unlink()
        else:
            path.write_bytes(content[: {"emptied": 0, "halved": len(content) // 2, "shortened": -1}[damage]])
        outcomes[path.relative_to(directory / "2").parts[0]] = outcome(directory, saved)
        path.write_bytes(content)
    assert outcomes["record"] == "raised" or damage == "removed"
    assert "raised" in outcomes.values()


def test_an_empty_step_is_an_error_only_when_asked_for(pair):
    directory, saved = pair
    (directory / "3").mkdir()
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.best() == 1
        with pytest.raises(CheckpointError, match=r"checkpoint 3 .* is damaged: .*; earlier ones: 1, 2$"):
            checkpoints.restore(saved)
        assert_same(checkpoints.restore(saved, 2)[0], saved)
    assert (directory / "3").is_dir()


def test_weights_swapped_between_checkpoints_are_found(pair):
    directory, saved = pair
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, saved.replace(step=jnp.int32(3), params=jax.tree.map(jnp.negative, saved.params)))
    shutil.rmtree(directory / "2" / "state")
    shutil.copytree(directory / "3" / "state", directory / "2" / "state")
    with Checkpoints(directory) as checkpoints, pytest.raises(CheckpointError, match="checksum does not match"):
        checkpoints.restore(saved, 2)


def test_a_reader_leaves_the_writers_unfinished_save_alone(pair):
    directory, _ = pair
    unfinished = directory / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    assert unfinished.exists()
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    deadline = time.monotonic() + 30
    while unfinished.exists() and time.monotonic() < deadline:  # it is removed in the background
        time.sleep(0.05)
    assert not unfinished.exists()


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    prelude = """
        import sys
        import jax.numpy as jnp
        from jaxcnn.checkpoint import Checkpoints
        from jaxcnn.config import Experiment
        from jaxcnn.errors import RunError
        from tests.test_checkpoint import MODEL, save, weights
    """
    program = textwrap.dedent(prelude) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoints_before_it(tmp_path):
    # A limit on file sizes fails a write as a full disk does, for any user, and can be lifted again.
    process = child(
        """
        import resource
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        checkpoints = Checkpoints(sys.argv[1], keep=1)
        save(checkpoints, weights(1, 1_000_000), top1=0.9)
        save(checkpoints, weights(2, 1_000_000), top1=0.1)
        checkpoints.wait()
        for step, limit in ((3, 1_000_000), (4, 100)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                save(checkpoints, weights(step, 1_000_000), top1=0.2)
                checkpoints.wait()
            except RunError as error:
                print(error)
            assert (checkpoints.steps(), checkpoints.best()) == ([1, 2], 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert (checkpoints.restore(weights(0, 1_000_000))[0].params["kernel"] == 2).all()
        checkpoints.wait()
        save(checkpoints, weights(5, 1_000_000), top1=0.3)
        checkpoints.__exit__(None, None, None)
        """,
        tmp_path / "run",
    )
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    for step, line in zip((3, 4), output.splitlines(), strict=True):
        where = tmp_path / "run"
        assert line == (
            f"checkpoint {step} could not be saved in {where}: File too large; the last good checkpoint is step 2"
        )
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        assert checkpoints.steps() == [1, 5]
        assert_same(checkpoints.restore(weights(0, 1_000_000), 1)[0], weights(1, 1_000_000))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["1", "5"]


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_consistent_newest_checkpoint(tmp_path):
    script = """
        with Checkpoints(sys.argv[1]) as checkpoints:
            for step in range(1, 100_000):
                save(checkpoints, weights(step, 2_000_000), top1=step % 3)
                print(step, flush=True)  # the step before this one is on disk
        """
    processes = {tmp_path / str(i): child(script, tmp_path / str(i)) for i in range(4)}
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
    for directory, process in processes.items():
        delay = random.uniform(0, 0.7)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        output, errors = process.communicate()
        assert (process.returncode, errors) == (-signal.SIGKILL, "")
        acknowledged = int(("1\n" + output).splitlines()[-1]) - 1
        with Checkpoints(directory) as checkpoints:
            newest = checkpoints.latest()
            if newest is None:
                assert acknowledged == 0, f"killed after {delay} s"
                continue
            assert newest >= acknowledged, f"killed after {delay} s"
            for step in checkpoints.steps():
                assert_same(checkpoints.restore(weights(0, 2_000_000), step)[0], weights(step, 2_000_000))
            save(checkpoints, weights(newest + 1, 2_000_000))
        assert all(path.name.isdigit() for path in directory.iterdir())
