"""Implementations of the same work timed in turn, so that a slow spell of the machine meets all of them alike."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

from jaxcnn.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_P = ParamSpec("_P")
_T = TypeVar("_T")

Steps: TypeAlias = Callable[[int], None]
"""Runs so many steps and waits for the last."""


@dataclass(frozen=True)
class Outcome:
    """What a training loop gave.

    Attributes:
      images_per_second: of the whole loop, without its first step, which compiles.
      loss: mean over the last three training records.
      step: seconds of the compiled step by itself, where it was measured.
      outside: share of the loop's time that was not spent in the compiled step, for each epoch.
    """

    images_per_second: float
    loss: float
    step: float = 0.0
    outside: tuple[float, ...] = ()


def require_rounds(rounds: int) -> None:
    """Refuses a race without a round.

    Raises:
      InputError: there would be nothing to show.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; expected at least 1")


def in_turn(turns: Mapping[str, Callable[[], _T]], rounds: int) -> dict[str, list[_T]]:
    """What each contestant returns in each round, all of them in turn in every round, forwards and backwards.

    Args:
      turns: one contestant's share of a round, by name.
      rounds: how often all take their turn.

    Returns:
      By name, one value a round.
    """
    results: dict[str, list[_T]] = {name: [] for name in turns}
    for i in range(rounds):
        for name in list(turns)[:: 1 if i % 2 else -1]:
            results[name].append(turns[name]())
    return results


def apart(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Callable[[], _T]:
    """A turn that calls a function in a process of its own, where it meets no threads or memory of another's."""

    def turn() -> _T:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(function, *args, **kwargs).result()

    return turn


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

    import numpy as np  # not above: who sets the allocator does so before NumPy starts its threads

    def rate(run: Steps, steps: int) -> float:
        start = time.perf_counter()
        run(steps)
        return steps * batch_size / (time.perf_counter() - start)

    turns = {}
    for name, run in contestants.items():
        run(2)  # compile, and touch the memory
        steps = max(1, round(seconds * rate(run, 2) / batch_size))
        turns[name] = functools.partial(rate, run, steps)
    return {name: np.array(rates) for name, rates in in_turn(turns, rounds).items()}
