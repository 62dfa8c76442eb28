"""Implementations of the same work timed in turn, so that a slow spell of the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Steps: TypeAlias = Callable[[int], None]
"""Runs so many steps and waits for the last."""


def race(contestants: dict[str, Steps], batch_size: int, seconds: float, rounds: int) -> dict[str, np.ndarray]:
    """Images per second of each contestant in each round, all of them in turn in every round.

    Args:
      contestants: what is timed, by name.
      batch_size: images of one step.
      seconds: duration of one contestant's share of a round.
      rounds: how often all take their turn.

    Returns:
      By name, [rounds].
    """
    steps = {}
    for name, run in contestants.items():
        run(2)  # compile, and touch the memory
        start = time.perf_counter()
        run(2)
        steps[name] = max(1, round(2 * seconds / (time.perf_counter() - start)))
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds):
        for name in list(contestants)[:: 1 if i % 2 else -1]:
            start = time.perf_counter()
            contestants[name](steps[name])
            rates[name].append(steps[name] * batch_size / (time.perf_counter() - start))
    return {name: np.array(values) for name, values in rates.items()}
