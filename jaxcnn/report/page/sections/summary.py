"""What came out: accuracy, cost and time."""

from __future__ import annotations

from typing import Any

from jaxcnn.report.page import accuracy
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section


def gather(opened: Opened) -> dict[str, Any]:
    """The numbers that one asks for first."""
    return {
        "accuracy": accuracy.of_run(opened),
        "totals": opened.costs.totals,
        "seconds": sum(opened.seconds.values()),
        "parts": opened.seconds,
        "images_per_second": opened.images_per_second,
        "step": int(opened.network.state.step),
        "epochs": opened.experiment.training.epochs,
    }


SECTIONS = {"summary": Section("Summary", 10, gather)}
