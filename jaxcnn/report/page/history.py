"""The scores of a run over training, as points of a chart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from jaxcnn.report.page import charts
from jaxcnn.report.page.opened import Opened


@dataclass(frozen=True)
class History:
    """Points in the order of training, each with `x`, `step`, `loss` and `accuracy`; None where one is not finite.

    Attributes:
      training: means over the batches since the record before.
      held_out: on the split that was evaluated after every epoch.
      x: what x is.
      merged: training records in each point.
    """

    training: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    x: Literal["epoch", "step"]
    merged: int


def read(opened: Opened) -> History:
    """The records of a run, in epochs if its first epoch ended."""
    evaluated = [record for record in opened.records if record["split"] == opened.held_out]
    trained = [record for record in opened.records if record["split"] == "train"]
    per_epoch = evaluated[0]["step"] if evaluated else 1

    def point(record: dict[str, Any]) -> dict[str, Any]:
        loss, top1 = (value if math.isfinite(value) else None for value in (record["loss"], record["top1"]))
        return {"x": record["step"] / per_epoch, "step": record["step"], "loss": loss, "accuracy": top1}

    training = [point(record) for record in trained]
    kept = charts.averaged(training, ("loss", "accuracy"))
    merged = math.ceil(len(training) / len(kept)) if kept else 1
    return History(kept, [point(record) for record in evaluated], "epoch" if evaluated else "step", merged)
