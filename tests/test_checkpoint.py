"""Checkpoints: what is restored is what was saved, bit for bit, or an error says why not."""

from __future__ import annotations

import math
import tempfile
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


@settings(deadline=None, max_examples=10)
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
