"""Files from outside, read with suspicion, and files of our own, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxcnn.errors import InputError


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Opens a file that may be damaged or hostile; whatever goes wrong in the block becomes one sentence about it.

    Args:
      path: the file.

    Yields:
      The open file, and its size in bytes.

    Raises:
      InputError: the file cannot be opened, or the block raised anything.
    """
    with doubted(path), open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InputError("is a pipe or a device; expected a file of weights")
        yield file, status.st_size


def _without_waiting(path: str, flags: int) -> int:
    # Without this flag, to open a pipe is to wait until somebody writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextlib.contextmanager
def doubted(path: Path) -> Iterator[None]:
    """Turns whatever the contents of a file lead the block to raise into one sentence about the file.

    Args:
      path: the file.

    Raises:
      InputError: the block raised anything.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} {_shortened(error)}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile, pickletools and json raise whatever a damaged file leads them to
        raise InputError(f"{path} is damaged ({type(error).__name__}: {_shortened(error)})") from error


def _shortened(error: Exception) -> str:
    """The message; one that quotes the file may be as long as the file pleases."""
    text = str(error)
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"


class Archive:
    """The members of a zip archive, none of them compressed, so that none is larger than the file.

    Args:
      file: the archive.
      size: its size in bytes.

    Raises:
      InputError: a name leads out of the archive or occurs twice, or the members claim more than the file holds.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._zip = zipfile.ZipFile(file)
        entries = self._zip.infolist()
        for entry in entries:
            if entry.filename.startswith(("/", "\\")) or ".." in entry.filename.replace("\\", "/").split("/"):
                raise InputError(f"has a member called {entry.filename!r}; expected names inside the archive")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"has the compressed member {entry.filename!r}; expected members stored as they are")
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) < len(entries):
            raise InputError("has two members of one name; expected different names")
        # Overlapping members would be read again and again into more memory than the file has bytes.
        claimed = sum(entry.file_size for entry in entries)
        if claimed > size:
            raise InputError(f"has members of {claimed} bytes together and {size} bytes itself; expected fewer")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members."""
        return tuple(self._entries)

    def read(self, name: str) -> bytes:
        """The bytes of a member, checked against its checksum.

        Raises:
          InputError: there is no such member.
        """
        if name not in self._entries:
            raise InputError(f"has no member {name!r}, which it refers to")
        return self._zip.read(self._entries[name])


@contextlib.contextmanager
def created(path: Path) -> Iterator[IO[bytes]]:
    """Creates a file that appears under its name once the block has ended, and not at all if it fails.

    Args:
      path: a file that does not exist, in a folder that does.

    Yields:
      The file to write to.

    Raises:
      InputError: the file exists, its folder does not, or the system refuses to write it.
    """
    taken = InputError(f"{path} exists; expected the name of a new file")
    if os.path.lexists(path):
        raise taken
    if not os.path.isdir(path.parent):
        raise InputError(f"{path.parent} is not a folder; expected an existing one for {path.name}")
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long is found before the work is done
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)  # unlike a renaming, it overwrites nothing that has appeared meanwhile
        except FileExistsError:
            raise taken from None
        except OSError:  # a file system without links
            if os.path.lexists(path):
                raise taken from None
            partial.rename(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
