"""Batches on devices: which examples step i uses is a pure function of the seed and i."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import math
import multiprocessing.util
import os
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int32, UInt8, UInt32

from jaxcnn.config import DataConfig
from jaxcnn.data.plan import EvaluationPlan, TrainingPlan
from jaxcnn.data.spec import Images, Labels, Source
from jaxcnn.errors import InputError, JaxcnnError, RunError

Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]

DEVICE_LIMIT = 2**30
"""Bytes of decoded images from which `storage="auto"` streams."""

_INDEX_STEPS = 256  # steps whose indices are sent to the devices at once
_DECODE_CHUNK = 512  # examples that one thread decodes before it takes more
_THREAD_PIXELS = 64 * 64  # below this Python's lock, not decoding, takes the time, and threads slow it down


class Batch(NamedTuple):
    """Examples of one step, split over this process's devices on the first axis as `jax.pmap` wants them.

    Attributes:
      images: pixels in 0..255.
      labels: classes, of each example or of each of its pixels.
      mask: False for the padding that fills the last batch of an evaluation.
    """

    images: UInt8[Array, "devices per_device h w c"]
    labels: Int32[Array, "devices per_device *pixels"]
    mask: Bool[Array, "devices per_device"]


def training(
    source: Source,
    config: DataConfig,
    *,
    seed: int,
    start_step: int,
    stop_step: int,
    devices: Sequence[Device],
) -> Iterator[Batch]:
    """The batches of the steps start_step, ..., stop_step - 1, every epoch in a new order.

    Step i takes the examples order(seed, e)[j B : (j + 1) B], where e, j = divmod(i, steps_per_epoch) and B is the
    batch size. Starting at any step therefore continues a run exactly, whatever the storage, workers and devices.

    Args:
      source: the training split.
      config: batch size, storage and workers.
      seed: seed of the orders.
      start_step: first step, at least 0.
      stop_step: the step after the last.
      devices: the devices that the batch is split over; of several processes each reads its own devices' share.

    Yields:
      Batches on the devices, every example valid. Closing the iterator stops its threads and processes.

    Raises:
      InputError: the batch size does not divide by the number of devices or exceeds the split, or an image is broken.
      RunError: a worker process died.
    """
    plan = TrainingPlan(len(source), require_divisible(config.batch_size, devices), seed, start_step, stop_step)
    return _batches(source, plan, config, tuple(devices))


def evaluation(source: Source, config: DataConfig, *, devices: Sequence[Device]) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with the first example, masked.

    Args:
      source: any split of any size.
      config: batch size, storage and workers.
      devices: the devices that the batch is split over; of several processes each reads its own devices' share.

    Yields:
      Batches on the devices. Closing the iterator stops its threads and processes.

    Raises:
      InputError: the batch size does not divide by the number of devices, or an image is broken.
      RunError: a worker process died.
    """
    plan = EvaluationPlan(len(source), require_divisible(config.batch_size, devices))
    return _batches(source, plan, config, tuple(devices))


def local(devices: Sequence[Device]) -> list[Device]:
    """Those of the devices that belong to this process, in their order."""
    return [devices[row] for row in _rows(devices)]


def _rows(devices: Sequence[Device]) -> list[int]:
    own = jax.process_index()
    return [row for row, device in enumerate(devices) if device.process_index == own]


def require_divisible(batch_size: int, devices: Sequence[Device]) -> int:
    """The batch size, if `devices` can share it equally.

    Raises:
      InputError: it does not divide by their number.
    """
    if not devices or batch_size % len(devices):
        raise InputError(f"data.batch_size is {batch_size}; expected a multiple of the {len(devices)} devices")
    return batch_size


def prepare(source: Source, config: DataConfig, devices: Sequence[Device]) -> None:
    """Decodes and places a split that is to be kept on the devices, so that a broken image is found at once.

    Raises:
      InputError: an image is broken.
    """
    if _kept(source, config):
        _place(source, tuple(devices))


def _kept(source: Source, config: DataConfig) -> bool:
    small = len(source) * np.prod(source.image_shape) < DEVICE_LIMIT
    return config.storage == "device" or (config.storage == "auto" and bool(small))


def _batches(
    source: Source, plan: TrainingPlan | EvaluationPlan, config: DataConfig, devices: tuple[Device, ...]
) -> Iterator[Batch]:
    if _kept(source, config):
        return _gathered(source, plan, devices)
    batches = _streamed(source, plan, config.workers, devices)
    _open.add(batches)
    return batches


def _sharding(devices: tuple[Device, ...], *axes: str | None) -> NamedSharding:
    # The sharding that pmap gives its own arguments, so that it takes these batches as they are.
    return NamedSharding(Mesh(np.array(local(devices)), ("batch",)), PartitionSpec(*axes))


class _Masks:
    """Masks by number of valid examples: training needs one, evaluation two."""

    def __init__(self, batch_size: int, devices: tuple[Device, ...]):
        self._positions = np.arange(batch_size).reshape(len(devices), -1)[_rows(devices)]
        self._sharding = _sharding(devices, "batch")
        self._masks: dict[int, Array] = {}

    def __getitem__(self, valid: int) -> Bool[Array, "devices per_device"]:
        if valid not in self._masks:
            self._masks[valid] = jax.device_put(self._positions < valid, self._sharding)
        return self._masks[valid]


# ---- images kept on the devices


class _Resident(NamedTuple):
    words: UInt32[Array, "n words"]  # four pixels each: on CPU they are gathered three times as fast as single bytes
    labels: Int32[Array, " n"]


_resident: weakref.WeakKeyDictionary[Source, dict[tuple[Device, ...], _Resident]] = weakref.WeakKeyDictionary()


def _gathered(source: Source, plan: TrainingPlan | EvaluationPlan, devices: tuple[Device, ...]) -> Iterator[Batch]:
    data = _place(source, devices)
    masks = _Masks(plan.batch_size, devices)
    gather, rows = _gather(devices, source.image_shape), _rows(devices)
    for first in range(0, len(plan), _INDEX_STEPS):
        steps = range(first, min(first + _INDEX_STEPS, len(plan)))
        table = np.stack([plan.indices(i) for i in steps]).astype(np.int32)
        table = np.pad(table, ((0, _INDEX_STEPS - len(steps)), (0, 0)))  # one shape, so one compilation
        table = table.reshape(_INDEX_STEPS, len(devices), -1)[:, rows]
        chunk = jax.device_put(table, _sharding(devices, None, "batch"))
        for row, step in enumerate(steps):
            images, labels = gather(data, chunk, np.int32(row))
            yield Batch(images, labels, masks[plan.valid(step)])


@functools.lru_cache(maxsize=8)
def _gather(devices: tuple[Device, ...], shape: tuple[int, int, int]):
    batch = _sharding(devices, "batch")

    @functools.partial(jax.jit, out_shardings=(batch, batch))
    def gather(data: _Resident, chunk: Int32[Array, "steps devices per_device"], row: Int32[Array, ""]):
        indices = jax.lax.dynamic_index_in_dim(chunk, row, keepdims=False)
        words, labels = (array.at[indices].get(mode="promise_in_bounds") for array in data)
        pixels = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*indices.shape, -1)
        return pixels[..., : math.prod(shape)].reshape(*indices.shape, *shape), labels

    return gather


def _place(source: Source, devices: tuple[Device, ...]) -> _Resident:
    # Decoding takes seconds and an evaluation follows every epoch: the arrays live as long as their source does.
    placed = _resident.setdefault(source, {})
    if devices not in placed:
        images, labels = decode(source)
        rows = images.reshape(len(images), -1)
        if fill := -rows.shape[1] % 4:
            rows = np.pad(rows, ((0, 0), (0, fill)))
        placed[devices] = _Resident(*jax.device_put((rows.view(np.uint32), labels), _sharding(devices)))
    return placed[devices]


def decode(source: Source) -> tuple[Images, Labels]:
    """The whole split as two arrays.

    Args:
      source: any split; it should fit in memory.

    Returns:
      Pixels in 0..255, and labels.

    Raises:
      InputError: an image is broken.
    """
    n, shape = len(source), source.image_shape
    images, labels = np.empty((n, *shape), np.uint8), np.empty(n, np.int32)

    def fill(first: int) -> None:
        part = slice(first, min(first + _DECODE_CHUNK, n))
        images[part], labels[part] = source.read(range(n)[part])

    threads = _cpus() if shape[0] * shape[1] >= _THREAD_PIXELS else 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        collections.deque(pool.map(fill, range(0, n, _DECODE_CHUNK)), maxlen=0)
    return images, labels


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- images streamed to the devices


_open: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


def _close_all() -> None:
    for batches in list(_open):
        batches.close()


# Before multiprocessing ends the pool of threads in which Grain frees shared memory: what is left then is lost.
multiprocessing.util.Finalize(None, _close_all, exitpriority=100)


@dataclass(frozen=True)
class _Elements:
    """What Grain reads: element i is this process's share of batch i. One record an image would cost 200 us each.

    Attributes:
      source: the split.
      plan: which examples each batch uses.
      devices: how many share a batch.
      rows: which of their shares are read here.
    """

    source: Source
    plan: TrainingPlan | EvaluationPlan
    devices: int
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[Images, Labels]:
        _end_with_parent()
        shares = self.plan.indices(index).reshape(self.devices, -1)
        return self.source.read(shares[list(self.rows)].ravel())


@functools.cache
def _end_with_parent() -> None:
    """Ends this process when the one that started it does: a worker outlives a killed parent otherwise."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _streamed(
    source: Source, plan: TrainingPlan | EvaluationPlan, workers: int, devices: tuple[Device, ...]
) -> Generator[Batch, None, None]:
    if len(plan) == 0:
        return
    masks = _Masks(plan.batch_size, devices)
    sharding = _sharding(devices, "batch")
    rows = _rows(devices)
    elements = iter(_grain_dataset(_Elements(source, plan, len(devices), tuple(rows)), min(workers, len(plan))))
    ahead: collections.deque[Batch] = collections.deque()
    try:
        for step in range(len(plan)):
            parts = [array.reshape(len(rows), -1, *array.shape[1:]) for array in _next(elements)]
            images, labels = jax.device_put(parts, sharding)
            ahead.append(Batch(images, labels, masks[plan.valid(step)]))
            if len(ahead) > 1:  # one transfer is under way while the consumer works on the batch before
                yield ahead.popleft()
        yield from ahead
    finally:
        elements.close()


def _grain_dataset(elements: _Elements, workers: int):
    import grain
    from absl import flags

    dataset = grain.MapDataset.source(elements)
    if workers == 0:
        threads = min(_cpus(), 8)
        return dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads its flags when it starts processes
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1))


def _next(elements: Iterator[tuple[Images, Labels]]) -> list[np.ndarray]:
    try:
        # Copied, because workers hand over shared memory, which a batch would keep as long as it lives.
        return [np.array(array) for array in next(elements)]
    except JaxcnnError as error:
        raise type(error)(*error.args) from None  # without the note on tracebacks that Grain adds
    except RuntimeError as error:
        raise RunError(f"reading images stopped: {error}") from error
