"""What a command found, in a new folder: arrays with everything needed to repeat them, and figures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import run
from jaxcnn.errors import InputError, RunError
from jaxcnn.figures import style


def new_folder(path: str | Path) -> Path:
    """The path of a folder that is not there yet; asked for before the work, so that none is lost.

    Raises:
      InputError: something is there, or a folder cannot be.
    """
    folder = Path(path)
    try:
        os.lstat(folder)
    except FileNotFoundError:
        check_writable(folder)
        return folder
    except (OSError, ValueError) as error:  # a name with a zero byte is none
        raise InputError(f"{folder} cannot be made: {getattr(error, 'strerror', None) or error}") from error
    raise InputError(f"{folder} exists; expected a new folder, as --output FOLDER")


def check_writable(path: Path) -> None:
    """Makes a folder where this folder or file will be, and removes it: rights alone do not tell.

    Raises:
      InputError: it cannot be made.
    """
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        trial = parent / f".{uuid.uuid4().hex}.partial"
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror or error}") from error


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write to that is called so once all is written; it appears whole or not at all.

    Args:
      folder: from `new_folder`.

    Raises:
      InputError: the folder has appeared meanwhile.
      RunError: it cannot be written.
    """
    partial = folder.parent / f".{uuid.uuid4().hex}.partial"
    try:
        partial.mkdir(parents=True)
        yield partial
        new_folder(folder)
        partial.rename(folder)  # over an empty folder at most
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write(
    folder: Path,
    name: str,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    figures: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes the folder; it appears whole or not at all.

    Args:
      folder: see `appearing`.
      name: see `fill`, as what follows.
      arrays: what was computed.
      about: JSON values that say from what.
      figures: by the names of their files.
      texts: by the names of their files, ending included.

    Returns:
      See `fill`.

    Raises:
      InputError: see `appearing`.
      RunError: see `appearing`.
    """
    with appearing(folder) as partial:
        written = fill(partial, name, arrays, about, figures, texts)
    return [folder / path.name for path in written]


def fill(
    folder: Path,
    name: str,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    figures: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes files to a folder of `appearing`, or to one in it, which is made.

    Args:
      folder: where.
      name: of the file of arrays, without its ending.
      arrays: what was computed.
      about: JSON values that say from what; kept with the arrays as the text "about", to which versions and devices
        are added.
      figures: by the names of their files.
      texts: by the names of their files, ending included.

    Returns:
      The .npz, then the texts, then a PDF and a PNG for each figure.
    """
    environment = {key: value for key, value in run.environment(0).items() if key != "seed"}
    text = json.dumps({**about, "environment": environment}, allow_nan=False)
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.npz"
    with file.open("xb") as stream:
        np.savez_compressed(stream, allow_pickle=False, about=np.array(text), **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    written = [file]
    for title, content in (texts or {}).items():
        written.append(folder / title)
        written[-1].write_text(content, encoding="utf-8")
    return written + [path for stem, figure in figures.items() for path in style.save(figure, folder / stem)]
