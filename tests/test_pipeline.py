"""Batches: the same examples for the same step, whatever the storage, the workers and the devices."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn import data
from jaxcnn.config import DataConfig
from jaxcnn.data import pipeline
from jaxcnn.data.plan import TrainingPlan, steps_per_epoch
from jaxcnn.data.spec import Source
from jaxcnn.errors import InputError, RunError


def numbered(n: int, shape: tuple[int, int, int] = (3, 2, 1)) -> data.ArraySource:
    """Examples that tell their position: the label is the position, the pixels are noise drawn from it."""
    images = np.stack([np.random.default_rng(i).integers(0, 256, shape, np.uint8) for i in range(n)])
    return data.ArraySource(images, np.arange(n, dtype=np.int32), tuple(map(str, range(n))))


def config(batch_size: int = 8, storage="device", workers: int = 0) -> DataConfig:
    return DataConfig(batch_size=batch_size, storage=storage, workers=workers)


def train(source: Source, settings: DataConfig, start: int, stop: int, devices: int = 1, seed: int = 0):
    return list(
        pipeline.training(
            source, settings, seed=seed, start_step=start, stop_step=stop, devices=jax.devices()[:devices]
        )
    )


def flat(batches: list[pipeline.Batch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and masks as [steps, examples of the global batch, ...]."""
    return tuple(
        np.stack([np.asarray(p).reshape(-1, *p.shape[2:]) for p in part]) for part in zip(*batches, strict=True)
    )


def assert_equal(ours: list[pipeline.Batch], theirs: list[pipeline.Batch]) -> None:
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- which examples


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 60), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 9))
def test_each_epoch_uses_no_example_twice(n, batch_size, seed, epoch):
    if n < batch_size:
        with pytest.raises(InputError, match=f"data.batch_size is {batch_size}; expected at most the {n}"):
            steps_per_epoch(n, batch_size)
        return
    steps = steps_per_epoch(n, batch_size)
    assert steps == n // batch_size
    plan = TrainingPlan(n, batch_size, seed, epoch * steps, (epoch + 1) * steps)
    used = np.concatenate([plan.indices(i) for i in range(len(plan))])
    assert len(used) == steps * batch_size
    assert len(set(used)) == len(used)
    assert set(used) <= set(range(n))


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_resuming_at_any_step_continues_the_run(choose):
    n, batch_size = choose.draw(st.integers(8, 40)), choose.draw(st.integers(1, 8))
    stop = choose.draw(st.integers(1, 30))
    start = choose.draw(st.integers(0, stop))
    whole = TrainingPlan(n, batch_size, 5, 0, stop)
    rest = TrainingPlan(n, batch_size, 5, start, stop)
    assert len(rest) == stop - start
    for i in range(len(rest)):
        np.testing.assert_array_equal(rest.indices(i), whole.indices(start + i))


def test_the_order_changes_with_the_epoch_and_the_seed():
    source = numbered(64)
    epochs = [flat(train(source, config(), 8 * e, 8 * (e + 1)))[1].ravel().tolist() for e in range(3)]
    assert all(sorted(labels) == list(range(64)) for labels in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert flat(train(source, config(), 0, 8, seed=1))[1].ravel().tolist() != epochs[0]
    assert flat(train(source, config(), 0, 8, seed=0))[1].ravel().tolist() == epochs[0]


def test_what_an_epoch_leaves_out_differs():
    source = numbered(11)
    left_out = [set(range(11)) - set(flat(train(source, config(), e, e + 1))[1].ravel()) for e in range(6)]
    assert all(len(rest) == 3 for rest in left_out)
    assert len(set(map(frozenset, left_out))) > 1


# ---- how they arrive


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("storage", ["device", "stream"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (3, 3, 1), (1, 1, 1), (5, 2, 1), (7, 1, 1)])
def test_batches_hold_the_examples_of_their_labels(storage, devices, shape):
    source = numbered(40, shape)
    batches = train(source, config(16, storage), 0, 5, devices)
    assert len(batches) == 5
    for batch in batches:
        assert batch.images.shape == (devices, 16 // devices, *shape)
        assert (batch.images.dtype, batch.labels.dtype, batch.mask.dtype) == (np.uint8, np.int32, bool)
        assert batch.mask.all()
        np.testing.assert_array_equal(batch.images, source.images[np.asarray(batch.labels)])


@pytest.fixture(scope="module")
def reference() -> list[pipeline.Batch]:
    return train(numbered(50), config(16), 2, 9, seed=3)


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize(("storage", "workers"), [("device", 0), ("stream", 0), ("auto", 0)])
def test_storages_and_devices_give_equal_batches(reference, storage, workers, devices):
    assert_equal(train(numbered(50), config(16, storage, workers), 2, 9, devices, seed=3), reference)


@pytest.mark.parametrize(("workers", "devices"), [(1, 8), (2, 2)])
def test_worker_processes_give_equal_batches(reference, workers, devices):
    assert_equal(train(numbered(50), config(16, "stream", workers), 2, 9, devices, seed=3), reference)
    gc.collect()
    assert multiprocessing.active_children() == []


def test_indices_beyond_one_transfer():
    steps = pipeline._INDEX_STEPS + 3
    source = numbered(20)
    assert_equal(train(source, config(4), 0, steps), train(source, config(4, "stream"), 0, steps))


@pytest.mark.parametrize("storage", ["device", "stream"])
def test_no_steps_give_no_batches(storage):
    assert train(numbered(20), config(4, storage, 2), 7, 7) == []


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(1, 40),
    per_device=st.integers(1, 6),
    devices=st.sampled_from([1, 2, 8]),
    storage=st.sampled_from(["device", "stream"]),
)
def test_evaluation_covers_every_example_once_in_order(n, per_device, devices, storage):
    source = numbered(n, (2, 2, 1))
    settings = config(per_device * devices, storage)
    batches = list(pipeline.evaluation(source, settings, devices=jax.devices()[:devices]))
    assert len(batches) == -(-n // (per_device * devices))
    assert all(batch.images.shape == (devices, per_device, 2, 2, 1) for batch in batches)
    images, labels, mask = (np.concatenate(part) for part in flat(batches))
    np.testing.assert_array_equal(labels[mask], np.arange(n))
    np.testing.assert_array_equal(images[mask], source.images)
    assert not mask[n:].any()


@pytest.mark.slow
def test_evaluation_with_worker_processes():
    batches = list(pipeline.evaluation(numbered(21), config(8, "stream", 2), devices=jax.devices()[:2]))
    _, labels, mask = (np.concatenate(part) for part in flat(batches))
    np.testing.assert_array_equal(labels[mask], np.arange(21))


def test_pmap_takes_the_batches_without_another_transfer():
    step = jax.pmap(lambda images, labels, mask: (images.sum(), labels.sum(), mask.sum()), axis_name="batch")
    for storage in ("device", "stream"):
        batch = train(numbered(50), config(16, storage), 0, 1, devices=8)[0]
        step(*batch)
        with jax.transfer_guard("disallow_explicit"):
            images, labels, _ = step(*batch)
        assert int(images.sum()) == int(np.asarray(batch.images).astype(np.int64).sum())
        assert int(labels.sum()) == int(np.asarray(batch.labels).sum())


def test_auto_keeps_small_splits_on_the_device_and_streams_large_ones(monkeypatch):
    used = []
    monkeypatch.setattr(pipeline, "_gathered", lambda *_: used.append("device") or iter([]))
    monkeypatch.setattr(pipeline, "_streamed", lambda *_: used.append("stream") or (batch for batch in ()))
    source = numbered(50)
    for limit in (source.images.nbytes + 1, source.images.nbytes):
        monkeypatch.setattr(pipeline, "DEVICE_LIMIT", limit)
        pipeline.training(source, config(8, "auto"), seed=0, start_step=0, stop_step=1, devices=jax.devices()[:1])
    assert used == ["device", "stream"]


@dataclass(frozen=True, eq=False)
class Counting(Source):
    """Counts how often examples are decoded."""

    inner: data.ArraySource
    reads: list[int]
    class_names = ("a",)
    image_shape = (3, 2, 1)

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, indices):
        self.reads.append(len(indices))
        return self.inner.read(indices)


def test_a_split_on_the_device_is_decoded_once_and_freed_with_its_source():
    source = Counting(numbered(20), [])
    for _ in range(3):
        train(source, config(), 0, 2)
        list(pipeline.evaluation(source, config(), devices=jax.devices()[:1]))
    assert sum(source.reads) == 20
    held = len(pipeline._resident)
    del source
    gc.collect()
    assert len(pipeline._resident) == held - 1


@pytest.mark.parametrize("side", [8, 80])
def test_decode_reads_everything_in_order(side):
    source = numbered(1300 if side == 8 else 600, (side, side, 1))
    images, labels = pipeline.decode(source)
    np.testing.assert_array_equal(images, source.images)
    np.testing.assert_array_equal(labels, source.labels)


# ---- what goes wrong


@pytest.mark.parametrize("storage", ["device", "stream"])
def test_batches_must_divide_by_the_devices(storage):
    message = r"data\.batch_size is 12; expected a multiple of the 8 devices"
    with pytest.raises(InputError, match=message):
        train(numbered(50), config(12, storage), 0, 1, devices=8)
    with pytest.raises(InputError, match=message):
        pipeline.evaluation(numbered(50), config(12, storage), devices=jax.devices())


@pytest.mark.parametrize("storage", ["device", "stream"])
def test_a_split_smaller_than_a_batch_cannot_be_trained_on(storage):
    with pytest.raises(InputError, match=r"data\.batch_size is 16; expected at most the 10 training images"):
        train(numbered(10), config(16, storage), 0, 1)


@dataclass(frozen=True, eq=False)
class Failing(Source):
    """Cannot read one of its examples; or ends the process that tries to."""

    bad: int
    fatal: bool = False
    class_names = ("a",)
    image_shape = (3, 2, 1)

    def __len__(self) -> int:
        return 40

    def read(self, indices):
        if self.bad in list(indices):
            if self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError(f"example {self.bad} is broken")
        return np.zeros((len(indices), 3, 2, 1), np.uint8), np.zeros(len(indices), np.int32)


@pytest.mark.parametrize(("storage", "workers"), [("device", 0), ("stream", 0), ("stream", 1)])
def test_a_broken_example_is_named(storage, workers):
    with pytest.raises(InputError, match=r"^example 13 is broken$"):
        list(pipeline.evaluation(Failing(13), config(8, storage, workers), devices=jax.devices()[:1]))
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_ends_the_run():
    batches = pipeline.evaluation(Failing(13, fatal=True), config(8, "stream", 1), devices=jax.devices()[:1])
    with pytest.raises(RunError, match="reading images stopped: Worker process was terminated unexpectedly"):
        list(batches)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_early_leaves_no_threads_or_processes(workers):
    before = threading.active_count()
    batches = pipeline.training(
        numbered(50), config(8, "stream", workers), seed=0, start_step=0, stop_step=10**6, devices=jax.devices()[:1]
    )
    next(batches)
    batches.close()
    assert multiprocessing.active_children() == []
    if workers == 0:
        deadline = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= before


SCRIPT = """
import json, os, sys
import jax
from jaxcnn import data
from jaxcnn.config import DataConfig
from jaxcnn.data import pipeline

if __name__ == "__main__":
    source = data.open_split(DataConfig(), "train", 0)
    config = DataConfig(batch_size=8, storage="stream", workers=int(sys.argv[1]))
    batches = pipeline.training(source, config, seed=0, start_step=0, stop_step=10**6, devices=jax.devices()[:1])
    first = next(batches), next(batches)
    raise SystemExit(3)  # the iterator and its batches are still alive
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_process_that_ends_in_the_middle_ends_cleanly(tmp_path, workers):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[2])}
    out = subprocess.run(
        [sys.executable, str(script), str(workers)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert (out.returncode, out.stdout, out.stderr) == (3, "", "")


# ---- real data


@functools.cache
def mnist(folder: Path) -> Source:
    return data.open_split(DataConfig(dataset="mnist", directory=str(folder / "tfds")), "test", 0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_real_images_stream_as_they_gather(real_data, workers):
    source = mnist(real_data)
    assert_equal(
        train(source, config(64, "stream", workers), 150, 160, 2, seed=9),
        train(source, config(64), 150, 160, 8, seed=9),
    )


WORKER_SCRIPT = """
import jax, os, sys, numpy as np
from jaxcnn.config import DataConfig
from jaxcnn.data import ArraySource, pipeline
if __name__ == "__main__":
    source = ArraySource(np.zeros((64, 4, 4, 1), np.uint8), np.zeros(64, np.int32), ("a", "b"))
    config = DataConfig(batch_size=8, storage="stream", workers=1)
    batches = pipeline.training(source, config, seed=0, start_step=0, stop_step=10**6, devices=jax.devices()[:1])
    next(batches)
    print("ready", flush=True)
    for _ in batches:
        pass
"""


@pytest.mark.slow
def test_workers_end_when_the_run_is_killed(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(WORKER_SCRIPT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert workers
        process.kill()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=20)
    assert not alive
