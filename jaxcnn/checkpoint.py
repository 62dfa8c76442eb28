"""Checkpoints of a run: asynchronous, atomic, and verified byte for byte; the only module that imports Orbax.

A state is stored as one array of bytes with a record of its leaves, because Orbax spends about a millisecond on each
array it is given, and a deep network with its optimiser has ten thousand.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxcnn import config
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.errors import CheckpointError, DamagedCheckpoint, RunError
from jaxcnn.state import State

# What Orbax has to say to a user is raised as an exception; its log repeats it with a traceback.
_ORBAX = str(Path(ocp.__file__).parent)
logging.getLogger("absl").addFilter(lambda record: not record.pathname.startswith(_ORBAX))

_ALIGNMENT = 64  # bytes; where XLA and NumPy expect an array to start
_PIECE = 1 << 24  # bytes that one thread sums at a time


class Checkpoints:
    """The checkpoints of one run, of which the newest `keep` and the best by `top1` are kept.

    The best is the highest finite `top1` among the metrics saved with the states; of equal ones, the latest. Whoever
    writes must own the run directory (`jaxcnn.run.open`); reading beside a writer is safe with `read_only`.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2, *, read_only: bool = False) -> None:
        """Opens a directory of checkpoints.

        Args:
          directory: the directory; created if absent, unless `read_only`.
          keep: newest checkpoints kept, at least 1.
          read_only: neither save nor remove anything.

        Raises:
          CheckpointError: the directory is absent and `read_only`, or cannot be read.
        """
        self.directory = Path(directory).absolute()
        self._keep, self._read_only = keep, read_only
        if not self.directory.is_dir() and (read_only or self.directory.exists()):
            raise CheckpointError(f"{self.directory} holds no checkpoints: it is not a directory")
        self._discarded = self.directory / "discarded"
        self._manager = self._open()
        self._top1 = {step: self._stored_top1(step) for step in self.steps()}
        self.wait()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except RunError:
            # An exception on its way out of the block says more than the save that failed after it.
            if error is None:
                raise
        finally:
            self._manager.close()

    def save(
        self,
        state: State,
        *,
        progress: Mapping[str, Any],
        experiment: Experiment,
        model: ModelSpec,
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Stores `state` as step `state.step`, in the background.

        The state is copied before this returns, so its buffers may be donated at once.

        Args:
          state: what to store.
          progress: JSON values from which the input continues.
          experiment: the experiment that is running.
          model: its model.
          metrics: the evaluation of this state, `top1` among it, or None where there was none.

        Raises:
          CheckpointError: a checkpoint of this step or a later one exists.
          RunError: this save, or the one before it, failed.
        """
        self.wait()
        step, latest = int(state.step), self.latest()
        if latest is not None and latest >= step:
            raise CheckpointError(f"{self.directory} already holds step {latest}; step {step} cannot follow it")
        buffer, leaves = _pack(state)
        record: dict[str, Any] = {
            "leaves": leaves,
            # Written in the background, so it must not change with what the caller does next.
            "progress": copy.deepcopy(dict(progress)),
            "experiment": config.to_json(experiment),
            "model": config.to_json(model),
            "metrics": None if metrics is None else dict(metrics),
            "sums": _sums(buffer),
        }
        record = json.loads(json.dumps(record))  # as it will be read, so that the digest is of the same values
        record["digest"] = _digest(record)
        args = ocp.args.Composite(state=ocp.args.PyTreeSave({"bytes": buffer}), record=ocp.args.JsonSave(record))
        self._top1[step] = _top1(record)
        with self._reporting(step):
            self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Blocks until every save is on disk.

        Raises:
          RunError: the last save failed; the checkpoints before it are as they were.
        """
        with self._reporting(self.latest()):
            self._manager.wait_until_finished()
        if not self._read_only:
            shutil.rmtree(self._discarded, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps saved, in increasing order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self._manager.all_steps(), default=None)

    def best(self) -> int | None:
        """The step with the highest `top1`, the latest of equal ones, or None where no step has one."""
        return self._best(self.steps())

    def restore(self, template: State, step: int | None = None) -> tuple[State, dict[str, Any]]:
        """Reads a checkpoint back, bit for bit.

        Args:
          template: arrays or `jax.ShapeDtypeStruct`s of the stored names, shapes and dtypes; the restored arrays get
            their shardings.
          step: which step; None takes the newest.

        Returns:
          The state, and the `progress` saved with it.

        Raises:
          CheckpointError: there is no such step, or it is not of the template's shape.
          DamagedCheckpoint: it is damaged.
        """
        self.wait()
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.directory} holds no checkpoints")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(f"{self.directory} has no step {step}; it has {_listed(steps)}")
        try:
            record = self._record(step)
            _require_same_leaves(f"checkpoint {step} in {self.directory}", record["leaves"], template)
            buffer = self._bytes(step)
            if _sums(buffer) != record["sums"]:
                raise _Damaged("its array's checksum does not match")
            return _unpack(buffer, record["leaves"], template), record["progress"]
        except CheckpointError:
            raise
        except Exception as error:
            earlier = [other for other in steps if other < step]
            advice = f"earlier ones: {_listed(earlier)}" if earlier else "there is no earlier one"
            raise DamagedCheckpoint(
                f"checkpoint {step} in {self.directory} is damaged: {_sentence(error)}; {advice}"
            ) from error

    def discard_after(self, step: int) -> None:
        """Removes every checkpoint of a later step, so that training can go there again another way."""
        self.wait()
        for later in [other for other in self.steps() if other > step]:
            self._manager.delete(later)
            self._top1.pop(later, None)
        self.wait()

    def _open(self) -> ocp.CheckpointManager:
        own = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            # Of several processes that train together, whoever opens the directory is alone with it.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
            ),
            create=False,
            preservation_policy=_Preservation(self),
            cleanup_tmp_directories=not self._read_only,
            read_only=self._read_only,
            # A step leaves the list by one rename; deleted in place, it could be left half there by a kill.
            todelete_subdir=self._discarded.name,
            # Orbax would read its own metrics of every step here, and fail on the first damaged one.
            lightweight_initialize=True,
        )
        # The array is a fresh copy of the state already; another one would double the time that `save` blocks.
        uncopied = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(
                use_compression=False,  # weights do not compress; trying takes five times as long as writing them
                type_handler_registry=ocp.type_handlers.create_type_handler_registry((np.ndarray, uncopied)),
            ),
            "record": ocp.JsonCheckpointHandler(),
        }
        try:
            if not self._read_only:
                self.directory.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        except Exception as error:
            raise CheckpointError(f"{self.directory} cannot be opened: {_sentence(error)}") from error

    def _record(self, step: int) -> dict[str, Any]:
        record = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
        if not isinstance(record, dict) or record.pop("digest", None) != _digest(record):
            raise _Damaged("its record's checksum does not match")
        return record

    def _bytes(self, step: int) -> np.ndarray:
        restore = ocp.args.PyTreeRestore(
            {"bytes": np.empty(0, np.uint8)},
            restore_args={"bytes": ocp.RestoreArgs(restore_type=np.ndarray)},
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=restore))["state"]["bytes"]

    def _stored_top1(self, step: int) -> float:
        try:
            return _top1(self._record(step))
        except Exception:
            # Whether a damaged checkpoint matters is decided when it is asked for; it is never the best.
            return -math.inf

    def _best(self, steps: Sequence[int]) -> int | None:
        rated = [step for step in steps if self._top1.get(step, -math.inf) > -math.inf]
        return max(rated, key=lambda step: (self._top1[step], step), default=None)

    @contextlib.contextmanager
    def _reporting(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # A manager whose save failed repeats the failure for ever; its successor removes what was half written.
            with contextlib.suppress(Exception):
                self._manager.close()
            self._manager = self._open()
            good = self.latest()
            last = "there is no earlier checkpoint" if good is None else f"the last good checkpoint is step {good}"
            raise RunError(
                f"checkpoint {step} could not be saved in {self.directory}: {_sentence(error)}; {last}"
            ) from error


class _Damaged(Exception):
    """A checksum does not match."""


class _Preservation(policies.PreservationPolicy):
    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self._checkpoints._keep :], self._checkpoints._best(steps)}
        return [step in kept for step in steps]


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path).lstrip("."), leaf) for path, leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _pack(state: State) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The leaves' bytes one after another, each aligned, and what each of them is."""
    named = _named_leaves(state)
    # Not by device_get: in jax 0.11 what it has fetched can no longer be donated on CPU.
    arrays = [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for _, leaf in named]
    buffer = np.zeros(sum(_padded(array.nbytes) for array in arrays), np.uint8)
    leaves, start = [], 0
    for (name, leaf), array in zip(named, arrays, strict=True):
        buffer[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start += _padded(array.nbytes)
        key = {"key": {"implementation": str(jax.random.key_impl(leaf)), **_kind(array)}} if _is_key(leaf) else {}
        leaves.append({"name": name, **_kind(leaf), **key})
    return buffer, leaves


def _unpack(buffer: np.ndarray, leaves: list[dict[str, Any]], template: State) -> State:
    arrays, start = [], 0
    for leaf in leaves:
        data = leaf.get("key", leaf)
        dtype = np.dtype(data["dtype"])
        size = dtype.itemsize * math.prod(data["shape"])
        arrays.append(buffer[start : start + size].view(dtype).reshape(data["shape"]))
        start += _padded(size)
    targets, structure = jax.tree.flatten(template)
    for i, leaf in enumerate(leaves):
        if "key" in leaf:
            arrays[i] = jax.random.wrap_key_data(arrays[i], impl=leaf["key"]["implementation"])
    # Without a copy the arrays would share the buffer, and any one of them would keep all of it in memory.
    return structure.unflatten(jax.device_put(arrays, [_sharding(target) for target in targets], may_alias=False))


def _sharding(leaf: Any) -> jax.sharding.Sharding | None:
    # An array that no one placed stays free to follow the others, as in a fresh state.
    placed = getattr(leaf, "committed", True)
    return getattr(leaf, "sharding", None) if placed else None


def _kind(leaf: Any) -> dict[str, Any]:
    return {"dtype": _name(leaf.dtype), "shape": list(leaf.shape)}


_name = functools.cache(str)  # NumPy takes long to name a dtype, and there are few


def _require_same_leaves(what: str, leaves: list[dict[str, Any]], template: State) -> None:
    stored = {leaf["name"]: {"dtype": leaf["dtype"], "shape": leaf["shape"]} for leaf in leaves}
    expected = {name: _kind(leaf) for name, leaf in _named_leaves(template)}
    for name, kind in expected.items():
        if name not in stored:
            raise CheckpointError(f"{what} has no {name}; the model and optimiser expect {_described(kind)}")
        if stored[name] != kind:
            raise CheckpointError(f"{what} has {name} {_described(stored[name])}; expected {_described(kind)}")
    if unexpected := [name for name in stored if name not in expected]:
        name = unexpected[0]
        raise CheckpointError(
            f"{what} has {name} {_described(stored[name])}; the model and optimiser have no such array"
        )
    if list(stored) != list(expected):
        raise CheckpointError(f"{what} has its arrays in another order; expected {', '.join(expected)}")


def _described(kind: dict[str, Any]) -> str:
    return f"{kind['dtype']}[{','.join(map(str, kind['shape']))}]"


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _sums(buffer: np.ndarray) -> list[int]:
    """The CRC-32 of each piece: every burst of up to 32 bits changes it, other damage all but once in 2^32."""
    pieces = [buffer[start : start + _PIECE] for start in range(0, buffer.size, _PIECE)]
    with ThreadPoolExecutor() as threads:
        return list(threads.map(zlib.crc32, pieces))


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _top1(record: dict[str, Any]) -> float:
    top1 = (record["metrics"] or {}).get("top1", -math.inf)
    return top1 if math.isfinite(top1) else -math.inf


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error.args[0]).strip() if error.args else type(error).__name__
    if reason := re.search(r"([^:]+) \[os_error_code=", text):  # TensorStore names every file on the way first
        return reason[1].strip()
    return text.split("\n")[0][:200].rstrip(".")


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))
