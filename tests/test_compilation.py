"""Compiled programs on disk: found again, the same bits, never in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.compilation import SETTINGS, keep_compiled

WHERE = "JAX_COMPILATION_CACHE_DIR"

# Trains as the command does, and says how many programs were found and whether their buffers are given away.
SCRIPT = """
import json, sys
from jaxcnn.cli import main
from jaxcnn.compilation import keep_compiled

complaint = keep_compiled()
import jax
import jax.monitoring
import jax.numpy as jnp

counts = {"cache_hits": 0, "cache_misses": 0}

def count(event, **_):
    name = event.rpartition("/")[2]
    if name in counts:
        counts[name] += 1

jax.monitoring.register_event_listener(count)
run = sys.argv[1]
main(["train", "lenet5_digits", "--model.name", "mlp", "--data.image-size", "8", "--data.batch-size", "160",
      "--training.epochs", "2", "--training.keep", "3", "--run", run])
given = jnp.arange(1000.0)
jax.jit(lambda x: x + 1, donate_argnums=0)(given).block_until_ready()
found = {"donated": given.is_deleted(), "directory": jax.config.jax_compilation_cache_dir, "complaint": complaint}
print(json.dumps(counts | found))
"""


def environment(home: Path, **settings: str) -> dict[str, str]:
    """This process's, with a home of its own and JAX's settings left to the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "XDG_"))}
    return kept | {"JAX_PLATFORMS": "cpu", "HOME": str(home)} | settings


def python(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def trained(run: str, env: dict[str, str], cwd: Path) -> tuple[dict, str]:
    result = python("-c", SCRIPT, run, env=env, cwd=cwd)
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def parameters(run: Path) -> list[bytes]:
    import jax
    import numpy as np

    from jaxcnn.loading import load

    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load(run)[1].params)]


@pytest.mark.slow
def test_a_second_start_finds_what_the_first_compiled_and_continues_with_the_same_bits(tmp_path):
    flags = "--xla_backend_optimization_level=0"  # as in the other tests, to save time
    env = environment(tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", XLA_FLAGS=flags)
    cold, _ = trained("cold", env, tmp_path)
    where = tmp_path / ".cache" / "jaxcnn" / "compilation"
    assert cold["directory"] == str(where)
    assert where.stat().st_mode & 0o777 == 0o700
    steps = sorted(where.glob("jit_step-*-cache"))
    assert (where / ".lockfile").exists()  # as JAX bounds the size
    assert cold["cache_misses"] >= len(steps) >= 2  # of training and of evaluation

    # What a killed process leaves: a run that is not complete, and a program without its end.
    shutil.copytree(tmp_path / "cold", tmp_path / "warm")
    checkpoints = sorted((tmp_path / "warm" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(checkpoints[-1])
    for step in steps[1:]:
        step.write_bytes(step.read_bytes()[:100])
        step.with_name(step.name.removesuffix("-cache") + "-atime").unlink()

    warm, said = trained("warm", env, tmp_path)
    assert warm["cache_hits"] > cold["cache_misses"] // 2
    assert warm["cache_misses"] < cold["cache_misses"] // 2
    assert sorted(where.glob("jit_step-*-cache")) == steps
    assert all(step.stat().st_size > 1000 for step in steps)  # whole again
    assert not any(word in said for word in ("Warning", "Error", "cpu_aot"))

    # Where nothing can be written, that is said once, and everything is compiled.
    (tmp_path / "file").write_text("")
    bare, said = trained("bare", env | {"XDG_CACHE_HOME": str(tmp_path / "file")}, tmp_path)
    assert (bare["cache_hits"], bare["directory"]) == (0, None)
    assert bare["complaint"].startswith(f"compiled programs cannot be kept in {tmp_path}/file/jaxcnn/compilation (")
    assert said.count(bare["complaint"]) == 1
    assert "Traceback" not in said
    assert (tmp_path / "file").read_text() == ""

    assert cold["complaint"] is warm["complaint"] is None
    assert cold["donated"] is warm["donated"] is bare["donated"] is True
    for other in ("warm", "bare"):
        assert (tmp_path / other / "metrics.jsonl").read_bytes() == (tmp_path / "cold" / "metrics.jsonl").read_bytes()
        assert parameters(tmp_path / other) == parameters(tmp_path / "cold")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_of_somebody_else_is_named(tmp_path):
    (tmp_path / "jaxcnn" / "compilation").mkdir(parents=True, mode=0o500)
    said = keep_compiled({"XDG_CACHE_HOME": str(tmp_path)})
    assert said is not None
    assert f"cannot be kept in {tmp_path}/jaxcnn/compilation (Permission denied)" in said


def test_an_environment_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home directory")))
    settings: dict[str, str] = {}
    said = keep_compiled(settings)
    assert said is not None
    assert "(no home directory)" in said
    assert settings == {}


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
@pytest.mark.parametrize("value", ["", "0", "/elsewhere"])
def test_who_has_decided_in_the_environment_is_left_alone(tmp_path, name, value):
    settings = {name: value, "XDG_CACHE_HOME": str(tmp_path)}
    assert keep_compiled(settings) is None
    assert settings == {name: value, "XDG_CACHE_HOME": str(tmp_path)}
    assert list(tmp_path.iterdir()) == []


def test_jax_is_told_where_and_how_much_and_single_settings_stay(tmp_path):
    limit = "JAX_COMPILATION_CACHE_MAX_SIZE"
    settings = {"XDG_CACHE_HOME": str(tmp_path), limit: "5000"}
    assert keep_compiled(settings) is None
    where = str(tmp_path / "jaxcnn" / "compilation")
    assert settings == {**SETTINGS, **{"XDG_CACHE_HOME": str(tmp_path), limit: "5000", WHERE: where}}
    script = f"import jax; print(*(getattr(jax.config, name.lower()) for name in {[*SETTINGS, WHERE]!r}))"
    told = python("-c", script, env=environment(tmp_path) | settings, cwd=tmp_path)
    assert told.stdout.split() == ["5000", "0.1", where]


def test_a_relative_cache_directory_is_no_cache_directory(tmp_path, monkeypatch):
    # As the XDG specification has it.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = {"XDG_CACHE_HOME": "cache"}
    assert keep_compiled(settings) is None
    assert settings[WHERE] == str(tmp_path / "home" / ".cache" / "jaxcnn" / "compilation")
    assert not (tmp_path / "cache").exists()


def test_programs_that_are_whole_stay(tmp_path):
    where = tmp_path / "jaxcnn" / "compilation"
    where.mkdir(parents=True)
    for name in ("whole-cache", "whole-atime", "half-cache", "notes.txt"):
        (where / name).write_text("x")
    assert keep_compiled({"XDG_CACHE_HOME": str(tmp_path)}) is None
    assert {path.name for path in where.iterdir()} == {"whole-cache", "whole-atime", "notes.txt", ".lockfile"}


def test_help_and_lists_write_nothing(tmp_path):
    for arguments in (["figures", "--help"], ["experiments"]):
        python("-m", "jaxcnn", *arguments, env=environment(tmp_path), cwd=tmp_path)
    assert not (tmp_path / ".cache" / "jaxcnn").exists()


def test_programs_of_processors_with_other_features_have_other_keys(tmp_path):
    # XLA loads whatever it is given and says at most that it may crash, so the key must tell processors apart.
    script = (
        "import jax; from jax._src.lib import xla_client as x; "
        "print(x.get_topology_for_devices(jax.devices()).fingerprint())"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("the flag names features of x86")
    flags = ("", "--xla_cpu_max_isa=SSE4_2")
    one, other = (python("-c", script, env=environment(tmp_path, XLA_FLAGS=f), cwd=tmp_path).stdout for f in flags)
    assert one != other
