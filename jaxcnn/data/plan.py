"""Which examples a batch holds: a pure function of the seed and the step, before anything is read."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxcnn.data.spec import shuffled
from jaxcnn.errors import InputError


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Whole batches in `n` examples; the remainder is left out, a different one each epoch.

    Raises:
      InputError: not even one batch fits.

    Examples:
      >>> steps_per_epoch(50_000, 128)
      390
    """
    if n < batch_size:
        raise InputError(f"data.batch_size is {batch_size}; expected at most the {n} training images")
    return n // batch_size


@dataclass(frozen=True)
class TrainingPlan:
    """Which examples each training step uses.

    Attributes:
      n: examples in the split.
      batch_size: global batch size.
      seed: seed of the orders.
      start: first step.
      stop: the step after the last.
    """

    n: int
    batch_size: int
    seed: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        steps_per_epoch(self.n, self.batch_size)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def indices(self, batch: int) -> Int[np.ndarray, " b"]:
        """Positions in the split of the examples of step `start + batch`."""
        epoch, step = divmod(self.start + batch, steps_per_epoch(self.n, self.batch_size))
        return _order(self.n, self.seed, epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def valid(self, batch: int) -> int:
        """How many examples of the batch count."""
        return self.batch_size


@dataclass(frozen=True)
class EvaluationPlan:
    """Every example once, in order.

    Attributes:
      n: examples in the split.
      batch_size: global batch size.
    """

    n: int
    batch_size: int

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def indices(self, batch: int) -> Int[np.ndarray, " b"]:
        """Positions in the split; the padding repeats position 0."""
        positions = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        return np.where(positions < self.n, positions, 0)

    def valid(self, batch: int) -> int:
        """How many examples of the batch, from its beginning, count."""
        return min(self.batch_size, self.n - batch * self.batch_size)


@functools.lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    return shuffled(n, seed, purpose="order", epoch=epoch)
