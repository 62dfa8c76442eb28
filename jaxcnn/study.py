"""A study as a value: one question, and the experiments that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxcnn.config import Experiment
from jaxcnn.errors import InputError

Scale: TypeAlias = Literal["quick", "paper"]


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
    """

    name: str
    question: str
    source: str
    quick: Mapping[str, Experiment]
    paper: Mapping[str, Experiment]
    caption: str
    seeds: tuple[int, ...] = (0, 1, 2)

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

    def arms(self, scale: Scale) -> Mapping[str, Experiment]:
        """The experiments of one scale, by name."""
        return self.quick if scale == "quick" else self.paper


def require_seeds(seeds: tuple[int, ...]) -> None:
    """Refuses no seeds, a seed twice, and one that is none.

    Raises:
      InputError: the seeds are not usable.
    """
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"seeds are {seeds}; expected at least one, each once, in 0 to 2^32 - 1")
