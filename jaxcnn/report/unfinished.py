"""What a command has reached so far, in a file beside the folder that it will write, from which it goes on."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxcnn.errors import InputError, RunError, first_line

SAVED = 60.0
"""Seconds after which what was reached is saved again."""


def write(file: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces the file; it is there whole or not at all.

    Args:
      file: .npz.
      about: JSON values that say what is computed.
      arrays: what was reached.

    Raises:
      RunError: it cannot be written.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def read(file: Path, about: Mapping[str, Any], names: Collection[str], *, what: str) -> dict[str, np.ndarray] | None:
    """What was reached, by name; None if there is no file.

    Args:
      file: .npz.
      about: JSON values that say what is to be computed.
      names: of the arrays.
      what: the computation, as messages name it, such as "an evolution".

    Raises:
      InputError: the file is damaged, or another computation's.
    """
    try:
        with file.open("rb") as stream, _opened(stream) as found:
            arrays = {name: found[name] for name in names}
            held = json.loads(str(found["about"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} is not {what} that can go on ({first_line(error)}); expected one that this command began: delete "
            "the file, or choose another --output"
        ) from error
    if held != about:
        other = next(name for name in {**about, **held} if about.get(name) != held.get(name))
        raise InputError(
            f"{file} holds {what} whose {other} is {held.get(other)}; expected {about.get(other)} to go on with it, or "
            "another --output"
        )
    return arrays


def _opened(stream: BinaryIO) -> Any:
    """The arrays of the file; of another kind of file NumPy says how to load it unsafely."""
    if not zipfile.is_zipfile(stream):
        raise ValueError("it is no whole .npz file")
    stream.seek(0)
    return np.load(stream)
