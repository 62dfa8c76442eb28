"""Several processes that train as one: who speaks, what all must know, when all stop, and what it means that one died.

The first process alone reads and writes the run directory; the others hear from it. With one process every function
here does nothing but what its name says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxcnn import errors
from jaxcnn.errors import InputError, JaxcnnError, RunError

_T = TypeVar("_T")
_Tree = TypeVar("_Tree")

HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as dead."""

_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_LOST = re.compile(r"gloo|nccl|coordination service|UNAVAILABLE|DEADLINE_EXCEEDED|connection (closed|reset)", re.I)


def connect(environment: Mapping[str, str] = os.environ) -> None:
    """Joins this process to the others of its job; before anything else asks JAX for a device.

    Slurm, Open MPI, Kubernetes and Cloud TPU say themselves who belongs together. Elsewhere the environment does:
    JAX_COORDINATOR_ADDRESS is the host and a free port of the first process, JAX_NUM_PROCESSES how many there are, and
    JAX_PROCESS_ID which of them this one is, from 0.

    Raises:
      InputError: the environment says nothing, or not enough.
      RunError: the other processes did not come within five minutes.
    """
    given = {name: environment[name] for name in (_ADDRESS, _COUNT, _INDEX) if environment.get(name)}
    if given and len(given) < 3:
        missing = next(name for name in (_ADDRESS, _COUNT, _INDEX) if name not in given)
        raise InputError(f"{missing} is not in the environment; expected it beside {' and '.join(given)}")
    options: dict[str, Any] = _checked(given) if given else {}
    main = threading.current_thread() is threading.main_thread()
    # Python's own handler of Ctrl-C would be called when all have come, or after five minutes.
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL) if main else None
    try:
        jax.distributed.initialize(
            **options, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=2 * HEARTBEAT
        )
    except ValueError as error:
        raise InputError(
            f"this machine is part of no job of Slurm, Open MPI, Kubernetes or Cloud TPU ({str(error).rstrip('.')}); "
            f"expected one, or {_ADDRESS}, {_COUNT} and {_INDEX} in the environment"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise RunError(f"the processes did not come together: {str(error).splitlines()[0]}") from error
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)


def _checked(given: Mapping[str, str]) -> dict[str, Any]:
    """What `jax.distributed.initialize` is told, and would wait for or crash with if it were wrong."""
    address = given[_ADDRESS]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"{_ADDRESS} is {address!r}; expected HOST:PORT of the first process, with a port to 65535")
    for name in (_COUNT, _INDEX):
        if not given[name].isdecimal():
            raise InputError(f"{name} is {given[name]!r}; expected a whole number")
    count, index = int(given[_COUNT]), int(given[_INDEX])
    if index >= count:
        raise InputError(f"{_INDEX} is {index}; expected 0 to {count - 1}, as {_COUNT} is {count}")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
        if index == 0:
            # Of every interface, as JAX takes it, which crashes where another program has it.
            with socket.create_server(("", int(port))):
                pass
    except OSError as error:
        raise InputError(
            f"{_ADDRESS} is {address!r}, which cannot be used ({error.strerror or error}); expected the name of the "
            "first process's machine and a free port there"
        ) from error
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


def first() -> bool:
    """Whether this is the first process, which speaks and writes for all."""
    return jax.process_index() == 0


def tell(compute: Callable[[], _T]) -> _T:
    """What `compute` returns in the first process, in all of them.

    Args:
      compute: called in the first process alone; returns a JSON value.

    Raises:
      JaxcnnError: `compute` did, and so it is raised in every process.
    """
    if jax.process_count() == 1:
        return compute()
    message: dict[str, Any] = {}
    failure: JaxcnnError | None = None
    if first():
        try:
            message = {"value": compute()}
        except JaxcnnError as error:
            failure, message = error, {"error": type(error).__name__, "text": str(error)}
    message = json.loads(_broadcast_bytes(json.dumps(message).encode()))
    if failure is not None:
        raise failure
    if "error" in message:
        raise getattr(errors, message["error"], RunError)(message["text"])
    return message["value"]


def first_alone(compute: Callable[[], _T]) -> _T | None:
    """What `compute` returns in the first process, and None in the others.

    Raises:
      JaxcnnError: `compute` did, and so it is raised in every process.
    """
    return next(iter(_in_first(compute)), None)


def in_turn(compute: Callable[[], _T]) -> _T:
    """What `compute` returns in each process, called in the first and then in the others, which find what it left.

    Raises:
      JaxcnnError: `compute` did in the first process, or in this one.
    """
    return (_in_first(compute) or [compute()])[0]


def _in_first(compute: Callable[[], _T]) -> list[_T]:
    results: list[_T] = []
    tell(lambda: results.append(compute()))
    return results


def broadcast(tree: _Tree) -> _Tree:
    """The first process's arrays, in all of them.

    Args:
      tree: arrays, typed keys among them, of the same shapes and dtypes in every process.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    raw = [np.asarray(jax.random.key_data(leaf) if is_key else leaf) for leaf, is_key in zip(leaves, keys, strict=True)]
    received = [jnp.asarray(array) for array in multihost_utils.broadcast_one_to_all(raw)]
    return structure.unflatten(
        jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_key else array
        for array, leaf, is_key in zip(received, leaves, keys, strict=True)
    )


def require_same(what: Mapping[str, Any]) -> None:
    """Refuses to go on where a process sees other facts than the first.

    Args:
      what: JSON values by name.

    Raises:
      InputError: in every process, one of them differs.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(json.dumps(value).encode()).digest() for value in what.values()]
    rows = np.frombuffer(b"".join(digests), np.uint8).reshape(len(what), -1)
    seen = np.asarray(multihost_utils.process_allgather(rows)).reshape(jax.process_count(), len(what), -1)
    for process, row in enumerate(seen):
        for name, own, expected in zip(what, row, seen[0], strict=True):
            if (own != expected).any():
                raise InputError(f"process {process} of {len(seen)} has other {name} than the first; expected the same")


def _broadcast_bytes(data: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(size, np.uint8)
    if first():
        padded[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


class _Request:
    """What a signal to end calls: it sets an event, and that of whoever waits around this one."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self.previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        if any(isinstance(outer, _Request) and outer._event.is_set() for outer in self.previous.values()):
            event.set()  # it was asked for before this one was there to hear it

    def __call__(self, number: int, frame: object) -> None:
        self._event.set()
        signal.signal(signal.SIGINT, self.previous[signal.SIGINT])  # whoever asks twice does not want to wait
        outer = self.previous[signal.Signals(number)]
        if isinstance(outer, _Request):
            outer(number, frame)


@contextlib.contextmanager
def termination_requested() -> Iterator[threading.Event]:
    """An event that SIGTERM or the first Ctrl-C sets, in place of ending the process (in the main thread alone)."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    request = _Request(event)
    for number in request.previous:
        signal.signal(number, request)
    try:
        yield event
    finally:
        for number, handler in request.previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_after_step() -> Iterator[Callable[[int], bool]]:
    """A question that every process asks after every step: shall it save and end here, after SIGTERM or Ctrl-C to one?

    Of several processes all get the same answer at the same step, as JAX's preemption service arranges.
    """
    if jax.process_count() == 1:
        with termination_requested() as event:
            yield lambda step: event.is_set()
        return
    # SIGTERM is the preemption service's, which tells the other processes.
    previous = signal.signal(signal.SIGINT, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield multihost_utils.reached_preemption_sync_point
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Says in a sentence that another process has gone, where JAX says which connection broke.

    Raises:
      RunError: another process died or cannot be reached.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or isinstance(error, JaxcnnError) or not _LOST.search(str(error)):
            raise
        reason = str(error).splitlines()[0]
        raise RunError(
            f"process {jax.process_index()} of {jax.process_count()} lost another one, whose output says why "
            f"({reason}); the same command on every machine continues from the last checkpoint"
        ) from error
