"""What a study's measures find in its trained runs: measured once each, kept, and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxcnn.errors import CheckpointError, InputError, JaxcnnError
from jaxcnn.run import Metrics, metrics
from jaxcnn.study import Measure, Scale, Study, Trained
from jaxcnn.train.study import ended, run_directory
from jaxcnn.train.study_results import Estimate, along, interval

Positions: TypeAlias = tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """What a measure found in the runs of one arm.

    Attributes:
      positions: names, or numbers.
      values: of every group of runs that did not diverge, NaN where it is not finite.
    """

    positions: Positions
    values: Float[np.ndarray, "g p"]

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Of each position the mean over the groups and its interval."""
        return tuple(Estimate(*map(float, ends)) for ends in zip(*interval(self.values), strict=True))


def groups(measure: Measure, seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """The seeds whose runs are measured together, in order; what is left over is not measured.

    Raises:
      InputError: there are not enough for one.
    """
    if len(seeds) < measure.members:
        raise InputError(f"seeds are {tuple(seeds)}; expected at least {measure.members}, for {measure.title}")
    count = len(seeds) // measure.members
    return [tuple(seeds[i * measure.members : (i + 1) * measure.members]) for i in range(count)]


def measure(
    study: Study,
    directory: str | Path,
    *,
    scale: Scale,
    seeds: Sequence[int],
    data_directory: str | None = None,
    console: Console | None = None,
) -> None:
    """Asks every measure of the runs that have ended and not diverged, and keeps what it finds in ARM/measures.jsonl.

    What has been measured before is not measured again, unless the metrics.jsonl of a run has become another since.

    Args:
      study: the arms and the measures.
      directory: of the study, all of whose runs of these seeds have ended.
      scale: which arms.
      seeds: which runs.
      data_directory: where the images lie, if not where they were in training.
      console: where progress is shown; None is silent.

    Raises:
      InputError: there are too few seeds for a measure, or it gives something else than numbers by position, or
        raises an error.
    """
    console = console or Console(quiet=True)
    planned = [
        (name, arm, group)
        for name, asked in study.measures.items()
        for group in groups(asked, seeds)
        for arm in study.arms(scale)
    ]
    for name, arm, group in planned:
        kept = _kept(directory, arm)
        runs = [run_directory(directory, arm, seed) for seed in group]
        known = _identity(name, group, runs)
        if any(_of(record, known) for record in kept.read()):
            continue
        if any(end is None or end.diverged for end in map(ended, runs)):
            continue
        what = f"{name} of {arm}, seed {', '.join(map(str, group))}"
        console.print(what, highlight=False, markup=False)
        try:
            found = study.measures[name].of(*(Trained(run, data_directory) for run in runs))
        except JaxcnnError:
            raise
        except Exception as error:  # of a function that is the study's, as of its file
            raise InputError(f"{what} cannot be measured: {type(error).__name__}: {error}") from error
        _require_numbers(name, found)
        values = [[_plain(position), _plain(value)] for position, value in found.items()]
        kept.append({"step": 0, **known, "values": values})


def collect(
    study: Study, directory: str | Path, *, scale: Scale, seeds: Sequence[int]
) -> dict[str, dict[str, Measured]]:
    """What `measure` has kept of these runs: by measure and arm, without arms of which no group was measured.

    Raises:
      CheckpointError: the record of an arm is damaged, or its positions differ between groups.
    """
    return {name: _collected(directory, study, scale, name, seeds) for name in study.measures}


def points(
    study: Study, measured: Mapping[str, Mapping[str, Measured]]
) -> list[tuple[Measure, dict[str, tuple[Any, ...]]]]:
    """For a figure: of each measure, by arm, the positions, means, and ends of the interval.

    A measure with one number for each arm goes along the study's axis, if it has one.
    """
    drawn = []
    for name, found in measured.items():
        asked = study.measures[name]
        if study.axis is not None and found and all(len(one.positions) == 1 for one in found.values()):
            estimates = [one.estimates[0] for one in found.values()]
            drawn.append((replace(asked, position=study.axis.title), along(study.axis, list(found), estimates)))
        elif found:
            drawn.append((asked, {arm: (one.positions, *interval(one.values)) for arm, one in found.items()}))
    return drawn


def as_rows(measured: Mapping[str, Mapping[str, Measured]]) -> list[dict[str, Any]]:
    """A line for each measure, arm and position: the groups of seeds that were measured, their mean and interval."""
    return [
        {"measure": name, "arm": arm, "position": position, "groups": len(one.values), **asdict(estimate)}
        for name, found in measured.items()
        for arm, one in found.items()
        for position, estimate in zip(one.positions, one.estimates, strict=True)
    ]


def _collected(
    directory: str | Path, study: Study, scale: Scale, name: str, seeds: Sequence[int]
) -> dict[str, Measured]:
    wanted, result = groups(study.measures[name], seeds), {}
    for arm in study.arms(scale):
        kept = _kept(directory, arm)
        known = [_identity(name, group, [run_directory(directory, arm, seed) for seed in group]) for group in wanted]
        records = kept.read()
        try:
            found = [[r["values"] for r in records if _of(r, group)] for group in known]
            chosen = [dict(values[-1]) for values in found if values]
            if not chosen:
                continue
            positions = tuple(chosen[0])
            if any(one.keys() != chosen[0].keys() for one in chosen):
                raise ValueError(f"{arm} has other positions in one group than in another")
            values = [[math.nan if one[p] is None else one[p] for p in positions] for one in chosen]
            result[arm] = Measured(positions, np.array(values, float))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{kept.path} is damaged: {error}") from error
    return result


def _identity(name: str, group: Sequence[int], runs: Sequence[Path]) -> dict[str, Any]:
    """What a record is of; runs are told apart by their metrics, which two trainings that differ do not share."""
    return {"measure": name, "seeds": list(group), "runs": [metrics(run).digest() for run in runs]}


def _of(record: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a record is of these runs; those of an earlier version do not say of which, and stand for any."""
    return {"runs": known["runs"], **record}.items() >= known.items()


def _kept(directory: str | Path, arm: str) -> Metrics:
    return Metrics(Path(directory) / arm / "measures.jsonl")


def _plain(value: Any) -> str | float | None:
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None


def _require_numbers(name: str, found: Any) -> None:
    kinds: set[type] = (
        {str if isinstance(key, str) else float for key in found} if isinstance(found, Mapping) else set()
    )
    if len(kinds) != 1 or not all(np.isscalar(value) and np.isreal(value) for value in found.values()):
        raise InputError(f"measure {name!r} gives {found!r}; expected numbers by position, all texts or all numbers")
