"""Checkpoints: what is restored is what was saved, bit for bit, or an error says why not."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn import state as states
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.errors import CheckpointError
from jaxcnn.state import State

EXPERIMENT = Experiment(name="test")
MODEL = ModelSpec("lenet5", {"pooling": "max"}, 10, (28, 28, 1), (0.1307,), (0.3081,), tuple("0123456789"))


def make(step: int, params: Any = None, **fields: Any) -> State:
    parts = {"params": params, "batch_stats": {}, "opt_state": (), "ema_params": None, "key": jax.random.key(7)}
    return State(step=jnp.int32(step), **(parts | fields))


def weights(step: int, size: int = 1000) -> State:
    return make(step, {"kernel": jnp.full((size,), step, jnp.float32)})


def save(checkpoints: Checkpoints, state: State, top1: float | None = None, progress: Any = None) -> None:
    metrics = None if top1 is None else {"top1": top1}
    checkpoints.save(state, progress=progress or {}, experiment=EXPERIMENT, model=MODEL, metrics=metrics)


def abstract(state: State, sharding: jax.sharding.Sharding | None = None) -> State:
    """The shapes of `state` without its values, which the checked types of State do not foresee."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def data(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same(restored: State, saved: State) -> None:
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert data(ours).tobytes() == data(theirs).tobytes()


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@st.composite
def leaves(draw: st.DrawFn) -> jax.Array:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    dtype = draw(st.sampled_from(["float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint32", "bool", "key"]))
    bits = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype == "key":
        implementation = draw(st.sampled_from(["threefry2x32", "rbg", "unsafe_rbg"]))
        return jax.random.split(jax.random.key(int(bits.integers(100)), impl=implementation), shape)
    if dtype == "bool":
        return jnp.asarray(bits.integers(0, 2, shape).astype(bool))
    # Any bits at all, NaNs with payloads and signed zeros among them.
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    raw = bits.integers(0, 256, (*shape, numpy_dtype.itemsize), dtype=np.uint8)
    return jnp.asarray(raw.view(numpy_dtype).reshape(shape))


trees = st.recursive(
    leaves() | st.none(),
    lambda branch: st.dictionaries(st.text(max_size=4), branch, max_size=3) | st.tuples(branch, branch) | st.just(()),
    max_leaves=6,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda branch: st.lists(branch, max_size=3) | st.dictionaries(st.text(max_size=5), branch, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=30)
@given(params=trees, opt_state=trees, ema=st.none() | trees, progress=st.dictionaries(st.text(max_size=5), json_values))
def test_any_state_and_progress_return_bit_for_bit(params, opt_state, ema, progress):
    saved = make(3, params, opt_state=opt_state, ema_params=ema)
    with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
        save(checkpoints, saved, progress=progress)
        for template in (saved, abstract(saved)):
            restored, restored_progress = checkpoints.restore(template)
            assert_same(restored, saved)
            assert restored_progress == progress


def test_a_training_state_returns_in_another_process_life(tmp_path):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            images = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(images))
            return nn.Dense(10)(images.reshape(len(images), -1))

    saved = states.create(Net(), jax.random.key(0), (8, 8, 3), optax.sgd(0.1, momentum=0.9))
    saved = saved.replace(step=jnp.int32(5), ema_params=jax.tree.map(lambda p: 0.9 * p, saved.params))
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, saved)
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(abstract(saved))
    assert_same(restored, saved)
    assert jax.random.bits(restored.key) == jax.random.bits(saved.key)


def test_integer_progress_keys_become_json_strings(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, weights(1), progress={"batch": {2: "b", 10: ("a",)}})
        assert checkpoints.restore(weights(0))[1] == {"batch": {"2": "b", "10": ["a"]}}


def test_restored_arrays_lie_where_the_template_lies(tmp_path):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    second = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    fresh = make(1, {"a": jnp.arange(6.0), "b": jnp.arange(3)})
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, jax.device_put(fresh, everywhere))
        for sharding in (everywhere, second):
            restored, _ = checkpoints.restore(abstract(fresh, sharding))
            assert_same(restored, fresh)
            assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))
        restored, _ = checkpoints.restore(fresh)
    assert not any(leaf.committed for leaf in jax.tree.leaves(restored))


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = jax.jit(
        lambda state: state.replace(step=state.step + 1, params=jax.tree.map(lambda p: 2 * p, state.params)),
        donate_argnums=0,
    )
    state = make(0, {str(i): jnp.full((250_000,), 1.0 + i, jnp.float32) for i in range(8)})
    template = abstract(state)
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for _ in range(5):
            save(checkpoints, state)
            donated, state = state, step(state)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated.params))
            state = step(state)
        assert checkpoints.steps() == [0, 2, 4, 6, 8]
        for saved in checkpoints.steps():
            restored, _ = checkpoints.restore(template, saved)
            for i in range(8):
                np.testing.assert_array_equal(restored.params[str(i)], (1.0 + i) * 2**saved)
            # A restored state is donated in its turn, and must not take the next restore's bytes with it.
            jax.block_until_ready(step(restored))


def kept(tops: list[float | None], keep: int) -> tuple[list[int], int | None]:
    """The definition, replayed: after each save only the newest and the best of those still there remain."""
    present: dict[int, float | None] = {}
    best = None
    for step, top1 in enumerate(tops, start=1):
        present[step] = top1
        rated = {s: t for s, t in present.items() if t is not None and math.isfinite(t)}
        best = max((s for s in rated if rated[s] == max(rated.values())), default=None)
        present = {s: t for s, t in present.items() if s == best or s > step - keep}
    return sorted(present), best


@settings(deadline=None, max_examples=12)
@given(tops=st.lists(st.sampled_from([None, 0.0, 0.5, 0.9, math.nan]), min_size=1, max_size=7), keep=st.integers(1, 3))
def test_the_newest_and_the_best_are_kept_and_no_other(tops, keep):
    with tempfile.TemporaryDirectory() as directory:
        with Checkpoints(directory, keep) as checkpoints:
            for step, top1 in enumerate(tops, start=1):
                save(checkpoints, weights(step), top1)
        with Checkpoints(directory, keep) as checkpoints:
            assert (checkpoints.steps(), checkpoints.best()) == kept(tops, keep)
            assert checkpoints.latest() == len(tops)
            assert sorted(int(path.name) for path in Path(directory).iterdir()) == checkpoints.steps()
            for step in checkpoints.steps():
                assert_same(checkpoints.restore(weights(0), step)[0], weights(step))


def test_the_best_survives_a_restart_and_later_saves(tmp_path):
    for step in range(1, 6):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            save(checkpoints, weights(step), top1=1 / step)
    with Checkpoints(tmp_path, keep=1, read_only=True) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == ([1, 5], 1)


TEMPLATE = make(0, {"conv": {"kernel": jnp.zeros((3, 3, 1, 6)), "bias": jnp.zeros(6)}})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"conv": {"kernel": jnp.zeros((3, 3, 1, 6), jnp.bfloat16), "bias": jnp.zeros(6)}},
         r"params\['conv'\]\['kernel'\] bfloat16\[3,3,1,6\]; expected float32\[3,3,1,6\]"),
        ({"conv": {"kernel": jnp.zeros((5, 5, 1, 6)), "bias": jnp.zeros(6)}},
         r"params\['conv'\]\['kernel'\] float32\[5,5,1,6\]; expected float32\[3,3,1,6\]"),
        ({"conv": {"kernel": jnp.zeros((3, 3, 1, 6))}},
         r"has no params\['conv'\]\['bias'\]; the model and optimiser expect float32\[6\]"),
        ({"conv": {"kernel": jnp.zeros((3, 3, 1, 6)), "bias": jnp.zeros(6), "scale": jnp.zeros(2)}},
         r"params\['conv'\]\['scale'\] float32\[2\]; the model and optimiser have no such array"),
    ],
    ids=["dtype", "shape", "missing", "unexpected"],
)  # fmt: skip
def test_another_state_than_the_template_is_refused(tmp_path, params, message):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, make(1, params))
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(TEMPLATE)


def test_another_kind_of_key_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, make(1, key=jax.random.key(0, impl="rbg")))
        with pytest.raises(CheckpointError, match=r"key key<rbg>\[\]; expected key<fry>\[\]"):
            checkpoints.restore(make(0))


def test_steps_that_do_not_exist_are_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="holds no checkpoints"):
            checkpoints.restore(weights(0))
        save(checkpoints, weights(2))
        save(checkpoints, weights(4))
        with pytest.raises(CheckpointError, match=r"has no step 3; it has 2, 4$"):
            checkpoints.restore(weights(0), 3)
        for step in (4, 3):
            with pytest.raises(CheckpointError, match=f"already holds step 4; step {step} cannot follow it"):
                save(checkpoints, weights(step))
        assert checkpoints.steps() == [2, 4]


def test_opening_something_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is not a directory"):
        Checkpoints(tmp_path / "file")
    with pytest.raises(CheckpointError, match="is not a directory"):
        Checkpoints(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()


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
