"""Compiled programs are kept on disk, so that a command that starts again need not compile them again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

SETTINGS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 * 2**30),  # bytes; what was not used for longest goes first
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",  # what compiles faster costs less than a file
}
"""What JAX is told, unless the environment says otherwise."""

_DECIDED = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def keep_compiled(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Tells JAX, before it is imported, to keep what it compiles in the user's cache directory.

    That is $XDG_CACHE_HOME/jaxcnn/compilation, or ~/.cache/jaxcnn/compilation. A program found there is the one that
    compiling would give: JAX looks it up by its text, the compiler's version and options, and the features of the
    processor. An environment with JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE has decided already, and
    nothing is done.

    Args:
      environment: where JAX will read its settings.

    Returns:
      Why nothing can be kept, in a sentence, or None.
    """
    if any(name in environment for name in _DECIDED):
        return None
    parent = environment.get("XDG_CACHE_HOME", "")
    where = Path(parent if os.path.isabs(parent) else "~/.cache") / "jaxcnn" / "compilation"
    try:
        where = where.expanduser()
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        _repair(where)
    except (OSError, RuntimeError) as error:  # no home, no right to write, a file system without locks
        return (
            f"compiled programs cannot be kept in {where} ({getattr(error, 'strerror', None) or error}); "
            "JAX_COMPILATION_CACHE_DIR chooses another directory, JAX_ENABLE_COMPILATION_CACHE=0 none"
        )
    environment["JAX_COMPILATION_CACHE_DIR"] = str(where)
    for name, value in SETTINGS.items():
        environment.setdefault(name, value)
    return None


def _repair(directory: Path) -> None:
    """Removes what a process that was killed left half written, and finds out whether anything can be written.

    JAX would neither replace such a file nor, as it cannot tell its age, write another one.
    """
    from filelock import FileLock

    with FileLock(directory / ".lockfile", timeout=10):  # JAX's own
        tempfile.TemporaryFile(dir=directory).close()
        for program in directory.glob("*-cache"):
            if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").exists():  # written after it
                program.unlink()
