"""Accuracies with what chance leaves open about them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import stats

from jaxcnn.errors import InputError
from jaxcnn.report.page.opened import Opened

CONFIDENCE = 0.95
"""Of the intervals."""


class Accuracy(NamedTuple):
    """A share of right answers and Wilson's interval of `CONFIDENCE` for it.

    Attributes:
      split: of the dataset.
      examples: images in it.
      correct: right answers.
      low: lower end.
      high: upper end.
      step: after which it was measured, if not after the last.
    """

    split: str
    examples: int
    correct: int
    low: float
    high: float
    step: int | None = None

    @property
    def share(self) -> float:
        """Right answers among all."""
        return self.correct / self.examples


def accuracy(split: str, correct: int, examples: int) -> Accuracy:
    """The accuracy and its interval, the p for which |p - share| = z sqrt(p (1 - p) / examples) and all between them.

    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    ends = stats.binomtest(correct, examples).proportion_ci(CONFIDENCE, "wilson")
    return Accuracy(split, examples, correct, float(ends.low), float(ends.high))


def of_run(opened: Opened) -> Accuracy | None:
    """The accuracy on the test images, or where they cannot be read the one that training wrote last, if it did."""
    try:
        scores = opened.answers.scores
        return accuracy("test", round(scores.top1 * scores.examples), scores.examples)
    except InputError:
        step = int(opened.network.state.step)
        known = [r for r in opened.records if r["split"] == opened.held_out and r["step"] <= step and "examples" in r]
    if not known:
        return None
    last = known[-1]
    found = accuracy(opened.held_out, round(last["top1"] * last["examples"]), last["examples"])
    return found._replace(step=last["step"] if last["step"] < step else None)


def sign_test(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> tuple[int, int, float]:
    """McNemar's exact test of whether two networks answer the same images equally well.

    Of the images that only one of them gets right, either would get half, were they equally good.

    Args:
      first: which images the first gets right.
      second: the same of the second.

    Returns:
      How many images only the first and only the second gets right, and the two-sided probability of a difference that
      large; 1 where there is no such image.

    Reference: McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    either = only_first + only_second
    probability = float(stats.binomtest(only_first, either).pvalue) if either else 1.0
    return only_first, only_second, probability
