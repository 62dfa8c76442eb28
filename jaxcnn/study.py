"""A study as a value: one question, and the experiments that answer it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from jaxcnn.config import Experiment
from jaxcnn.errors import InputError

Scale: TypeAlias = Literal["quick", "paper"]


@dataclass(frozen=True)
class Trained:
    """A run of a study that has ended.

    Attributes:
      directory: the run directory.
      data_directory: where its images lie now, if not where they were in training.
    """

    directory: Path
    data_directory: str | None


@dataclass(frozen=True)
class Measure:
    """What a study asks of runs that have been trained.

    Attributes:
      of: a function of `members` trained runs of one arm, which differ in the seed alone, to numbers by position. The
        positions are texts, such as names of layers, or all numbers, such as crops; they may differ between arms. What
        has been measured is kept while the runs are the same, so a function that changes needs another name in
        `Study.measures`.
      title: what is measured, with its unit.
      position: what the positions are.
      members: runs that are measured together, an ensemble; 1 measures every run by itself.
      log: whether the numbers are shown on a logarithmic scale.
    """

    of: Callable[..., Mapping[str, float] | Mapping[float, float]]
    title: str
    position: str
    members: int = 1
    log: bool = False


@dataclass(frozen=True)
class Axis:
    """The arms as points of curves, where a number is what they differ in.

    Attributes:
      title: what the number is, with its unit.
      points: of each arm, the name of its curve and where on the curve it lies.
    """

    title: str
    points: Mapping[str, tuple[str, float]]


@dataclass(frozen=True)
class Study:
    """Several experiments, the arms, which differ in what the question is about; each is trained from several seeds.

    Attributes:
      name: that of the file that defines it.
      question: one sentence.
      source: the paper or lecture that the question comes from.
      quick: the arms by name at a size that ends in minutes on two cores.
      paper: the arms by name at the size of the source.
      caption: what must be known to read the figure and the table.
      seeds: each arm's `training.seed`.
      measures: what is asked of the trained runs, by names that are file names.
      axis: draws what the arms came to against a number, in place of how they learned; None draws curves over training.
      file: the path of the file that defines it, where it was asked for by that and not by its name.
    """

    name: str
    question: str
    source: str
    quick: Mapping[str, Experiment]
    paper: Mapping[str, Experiment]
    caption: str
    seeds: tuple[int, ...] = (0, 1, 2)
    measures: Mapping[str, Measure] = field(default_factory=dict)
    axis: Axis | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"a study's name is {self.name!r}; expected that of its file, without the .py")
        require_seeds(self.seeds)
        for scale, arms in (("quick", self.quick), ("paper", self.paper)):
            if not arms:
                raise InputError(f"{scale} of study {self.name!r} has no arms; expected at least one")
            for arm in arms:
                if not arm or "/" in arm or arm.startswith("."):
                    raise InputError(
                        f"{scale} has an arm {arm!r}; expected a folder's name with neither / nor a first ."
                    )
            if len({bool(experiment.data.validation) for experiment in arms.values()}) > 1:
                raise InputError(
                    f"{scale} of study {self.name!r} has arms with data.validation 0 and above; expected one or the "
                    "other, as they are compared on the same split"
                )

            if self.axis is not None and arms.keys() - self.axis.points.keys():
                missing = sorted(arms.keys() - self.axis.points.keys())
                raise InputError(f"the axis of study {self.name!r} has no point of {missing[0]!r}; expected all arms")
        for name, measure in self.measures.items():
            if not re.fullmatch(r"\w+", name):
                raise InputError(f"a measure's name is {name!r}; expected letters, digits and _")
            if measure.members < 1:
                raise InputError(f"members of measure {name!r} is {measure.members}; expected at least 1")

    def arms(self, scale: Scale) -> Mapping[str, Experiment]:
        """The experiments of one scale, by name."""
        return self.quick if scale == "quick" else self.paper


def require_seeds(seeds: tuple[int, ...]) -> None:
    """Refuses an empty list of seeds, a seed given twice, and a number that is no seed.

    Raises:
      InputError: the seeds are not usable.
    """
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"seeds are {seeds}; expected at least one, each once, in 0 to 2^32 - 1")
