"""The exceptions a user may see: one sentence that says what was wrong and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class JaxcnnError(Exception):
    """Base of every exception raised on purpose; the command line prints it without a traceback."""

    exit_status = 1


class InputError(JaxcnnError, ValueError):
    """A value from outside (name, flag, file, image, dataset) is not usable."""

    exit_status = 2


class CheckpointError(InputError):
    """A checkpoint or run directory is missing, damaged or belongs to something else."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint is there and cannot be read back as it was saved; an earlier one may be whole."""


class RunError(JaxcnnError, RuntimeError):
    """A run that began correctly could not be completed (full disk, lost data, numerical failure)."""


def first_line(error: Exception) -> str:
    """What an error of a library says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not registered, listing the nearest registered names.

    Args:
      kind: what the name stands for, as in "unknown model 'lenet'".
      name: the name that was given.
      known: every name that would have been accepted.

    Returns:
      An `InputError` to raise.
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    advice = f"did you mean {', '.join(nearest)}?" if nearest else f"known: {', '.join(known[:30])}"
    return InputError(f"unknown {kind} {name!r}; {advice}")
