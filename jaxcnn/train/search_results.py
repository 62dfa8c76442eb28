"""What a search leaves behind besides its trials: the table of them, and the best one as an experiment file."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from pathlib import Path
from typing import Any

from jaxcnn.config import Experiment, Option
from jaxcnn.train.search import Search, Trial


def rows(result: Search) -> list[dict[str, Option]]:
    """One row for each trial: its number, state, epochs, accuracy after the last of them, and settings."""
    return [
        {
            "trial": trial.number,
            "state": trial.state,
            "epochs": len(trial.top1),
            "top1": trial.top1[-1] if trial.top1 else "",
            **trial.parameters,
        }
        for trial in result.trials
    ]


def write(result: Search) -> list[Path]:
    """Writes `trials.csv` and, once a trial is complete, `best.py`, which `jaxcnn train` takes.

    Args:
      result: of a search.

    Returns:
      The files; each appears whole or not at all.
    """
    directory, table, text = Path(result.run), rows(result), io.StringIO()
    # A trial that was stopped while its settings were chosen has only some of them.
    names = list(dict.fromkeys(name for row in table for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    contents = {"trials.csv": text.getvalue()}
    if result.best is not None and result.experiment is not None:
        contents["best.py"] = source(result.experiment, result.best, len(table))
    for name, content in contents.items():
        partial = directory / f".{name}.{os.getpid()}"
        partial.write_text(content)
        partial.replace(directory / name)
    return [directory / name for name in contents]


def source(experiment: Experiment, trial: Trial, trials: int) -> str:
    """A Python file that defines the experiment, in what it differs from the defaults.

    Args:
      experiment: what the file defines.
      trial: of the search, which found it.
      trials: of the search.
    """
    used: set[str] = set()
    value = _call(experiment, "", used)
    return (
        f'"""{experiment.name}: the best of {trials} trials, number {trial.number}, {trial.top1[-1]:.4f} on images '
        f'held out of training."""\n\nfrom jaxcnn.config import {", ".join(sorted(used))}\n\nEXPERIMENT = {value}\n'
    )


def _call(value: Any, indent: str, used: set[str]) -> str:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    used.add(type(value).__name__)
    lines = []
    for field in dataclasses.fields(value):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        inner = getattr(value, field.name)
        if inner != default:
            lines.append(f"{indent}    {field.name}={_call(inner, indent + '    ', used)},\n")
    return f"{type(value).__name__}(\n{''.join(lines)}{indent})" if lines else f"{type(value).__name__}()"
