"""Run directories: who owns one, the files that say what ran, and the metrics; checkpoints are `jaxcnn.checkpoint`."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxcnn import config
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.errors import CheckpointError, InputError, RunError

_T = TypeVar("_T")

_EXPERIMENT, _MODEL, _ENVIRONMENT, _METRICS, _LOCK = (
    "experiment.json",
    "model.json",
    "environment.json",
    "metrics.jsonl",
    ".lock",
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "jaxcnn")


@dataclass(frozen=True)
class Metrics:
    """The records of a run, one JSON object a line.

    A line is written whole or not at all, and survives the death of the process once `append` returned. Numbers that
    are not finite are written as null, which JSON readers accept, and read back as NaN.
    """

    path: Path

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one record.

        Args:
          record: numbers and strings by name, among them the integer "step".

        Raises:
          RunError: the file cannot be written; nothing of the record stays in it.
        """
        line = json.dumps({name: _plain(value) for name, value in record.items()}, allow_nan=False) + "\n"
        data = line.encode()
        with _writing(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                try:
                    _write(descriptor, data)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)

    def truncate(self, step: int) -> None:
        """Drops, atomically, every record after `step` and a last line that a kill left incomplete.

        Raises:
          CheckpointError: a line is not a record.
        """
        lines = [line for line, record in self._lines() if record["step"] <= step]
        if self.path.exists():
            write_file(self.path, b"".join(lines))

    def read(self) -> list[dict[str, Any]]:
        """The records in order, without a last line that is not complete; none if there is no file.

        Raises:
          CheckpointError: a line is not a record.
        """
        return [{k: math.nan if v is None else v for k, v in record.items()} for _, record in self._lines()]

    def digest(self) -> str:
        """The SHA-256 of the file, in hexadecimal; that of nothing if there is no file.

        Raises:
          CheckpointError: it cannot be read.
        """
        return hashlib.sha256(self._content()).hexdigest()

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}") from error

    def _lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        lines = self._content().splitlines(keepends=True)
        complete = [line for line in lines if line.endswith(b"\n")]
        return [(line, self._decode(number, line)) for number, line in enumerate(complete, start=1)]

    def _decode(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"line {number} of {self.path} is not JSON ({error})") from error
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise CheckpointError(
                f'line {number} of {self.path} is {record!r}; expected an object with an integer "step"'
            )
        return record


@dataclass(frozen=True)
class Run:
    """A run directory that this process owns."""

    directory: Path
    experiment: Experiment
    model: ModelSpec

    @property
    def metrics(self) -> Metrics:
        """The records in metrics.jsonl."""
        return metrics(self.directory)

    @property
    def checkpoints(self) -> Path:
        """Where `jaxcnn.checkpoint.Checkpoints` keeps the states."""
        return self.directory / "checkpoints"

    @property
    def figures(self) -> Path:
        """Where pictures go."""
        return self.directory / "figures"


@contextlib.contextmanager
def open(directory: str | os.PathLike[str], experiment: Experiment, model: ModelSpec) -> Iterator[Run]:
    """Owns a run directory until the block ends or the process dies, and creates it if it is new.

    Args:
      directory: a new or empty directory, or one that holds the same experiment.
      experiment: what is about to run.
      model: its model, resolved.

    Yields:
      The run.

    Raises:
      CheckpointError: the directory holds something else or another experiment, or another process owns it.
      RunError: the files cannot be written.
    """
    directory = Path(directory)
    _refuse_foreign(directory)
    make_directory(directory)
    with _locked(directory):
        if (directory / _EXPERIMENT).exists():
            _require_same(directory, experiment, model)
        # Also where it exists: the data may have moved, and whoever evaluates the run must find them.
        _write_json(directory / _EXPERIMENT, config.to_json(experiment))
        if not (directory / _MODEL).exists():
            _write_json(directory / _MODEL, config.to_json(model))
        _record_environment(directory / _ENVIRONMENT, environment(experiment.training.seed))
        run = Run(directory, experiment, model)
        with _writing(directory):
            run.checkpoints.mkdir(exist_ok=True)
            run.figures.mkdir(exist_ok=True)
        yield run


def read(directory: str | os.PathLike[str]) -> tuple[Experiment, ModelSpec]:
    """What a run directory holds, whether or not it is running.

    Raises:
      CheckpointError: the directory is not a run directory, or a file of it is missing or damaged.
    """
    directory = Path(directory)
    try:
        exists = (directory / _EXPERIMENT).exists()
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}") from error
    if not exists:
        raise CheckpointError(f"{directory} is not a run directory: it has no {_EXPERIMENT}")
    experiment, spec = _read(directory / _EXPERIMENT, Experiment), _read(directory / _MODEL, ModelSpec)
    if min(spec.input_shape) < 1:
        raise CheckpointError(
            f"{directory / _MODEL} is damaged: input_shape is {spec.input_shape}; expected at least 1"
        )
    if len(spec.class_names) != spec.num_classes:
        raise CheckpointError(
            f"{directory / _MODEL} is damaged: it names {len(spec.class_names)} classes; expected {spec.num_classes}"
        )
    return experiment, spec


def metrics(directory: str | os.PathLike[str]) -> Metrics:
    """The records of a run, whether or not it is running."""
    return Metrics(Path(directory) / _METRICS)


def scores(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a run that are scores: `step`, `split`, and the numbers `loss` and `top1`.

    Raises:
      CheckpointError: a line is not a record, or no numbers are where they should be.
    """
    file = metrics(directory)
    found = [record for record in file.read() if {"split", "loss", "top1"} <= record.keys()]
    for record in found:
        numbers = (record["loss"], record["top1"])
        if record["step"] < 1 or not all(isinstance(number, int | float) for number in numbers):
            raise CheckpointError(f"{file.path} is damaged: it holds {record}; expected a step from 1, and numbers")
    return found


def environments(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Where a run was trained: what `environment` gave at its start, and whenever that had changed as it went on.

    Raises:
      CheckpointError: the file is missing or damaged.
    """
    return _environments(Path(directory) / _ENVIRONMENT)


def environment(seed: int) -> dict[str, Any]:
    """What besides the experiment may change the numbers: versions, devices, source revision, and the seed.

    Args:
      seed: the experiment's seed.

    Returns:
      JSON values; a package that is not installed and a revision outside a git checkout are None. The checkout is
      "dirty" if files that git tracks have changed; what runs leave beside them does not count.
    """
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "git": _revision(Path(__file__).resolve().parent),
        "seed": seed,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision(package: Path) -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    try:
        # An installed package may lie inside a checkout of something else, which says nothing about this code.
        if Path(git("rev-parse", "--show-toplevel")) != package.parent:
            return None
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"revision": git("rev-parse", "HEAD"), "dirty": changes != ""}
    except (OSError, subprocess.SubprocessError):
        return None


def _refuse_foreign(directory: Path) -> None:
    try:
        if not directory.exists():
            return
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is a file; expected a directory, new or of a run")
        names = {path.name for path in directory.iterdir()}
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}") from error
    # A process killed while it created the run leaves its lock and a temporary file.
    if _EXPERIMENT not in names and names - {_LOCK, f".{_EXPERIMENT}.tmp"}:
        raise CheckpointError(f"{directory} is not empty and not a run directory; choose another --run")


def _require_same(directory: Path, experiment: Experiment, model: ModelSpec) -> None:
    if changed := config.difference(_read(directory / _EXPERIMENT, Experiment), experiment):
        raise CheckpointError(f"{directory} holds another experiment: {changed}; choose another --run")
    if not (directory / _MODEL).exists():
        return
    before, now = config.to_json(_read(directory / _MODEL, ModelSpec)), config.to_json(model)
    # An option that the network had not when the run was made has its default, which is what the network was then; had
    # the experiment set it, `difference` would have said so.
    known = before["options"].keys() | experiment.model.options.keys()
    now["options"] = {name: value for name, value in now["options"].items() if name in known}
    for name in now:
        if before[name] != now[name]:
            raise CheckpointError(
                f"{directory} holds another model: {name} was {before[name]!r} and is now {now[name]!r}; "
                "choose another --run"
            )


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # The kernel releases the lock when the process dies, however it dies, so a lock is never stale.
    with _writing(directory):
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise CheckpointError(f"{directory} is in use by process {owner}; choose another --run") from error
        with _writing(directory):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _record_environment(path: Path, now: dict[str, Any]) -> None:
    before = _environments(path) if path.exists() else []
    if not before or before[-1] != now:
        _write_json(path, [*before, now])


def _environments(path: Path) -> list[dict[str, Any]]:
    known = _load(path)
    if not isinstance(known, list) or not all(isinstance(one, dict) for one in known):
        raise CheckpointError(f"{path} is damaged: it holds {json.dumps(known)[:40]}; expected a list of environments")
    return known


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path: Path, cls: type[_T]) -> _T:
    try:
        return config.from_json(cls, _load(path))
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: not JSON ({error})") from error


def _write_json(path: Path, value: Any) -> None:
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_file(path: Path, data: bytes) -> None:
    """Writes a whole file such that a crash leaves the old content or the new, and perhaps `.NAME.tmp`.

    Raises:
      RunError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _writing(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_directory(directory: Path) -> None:
    """Makes a directory, and those that it is in, where there is none.

    Raises:
      RunError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{directory} cannot be made: {error.strerror}") from error


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
