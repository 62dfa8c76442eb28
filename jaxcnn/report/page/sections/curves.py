"""How the network learned: loss and accuracy over training."""

from __future__ import annotations

from typing import Any

from jaxcnn.errors import InputError
from jaxcnn.report.page import charts, history
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section


def gather(opened: Opened) -> dict[str, Any]:
    """Two charts, and the scores after every epoch as a table."""
    past = history.read(opened)
    if not past.training and not past.held_out:
        raise InputError("metrics.jsonl holds no scores; expected those of training")
    series = [name for name, points in (("training", past.training), (opened.held_out, past.held_out)) if points]
    points = [
        {**point, "series": name}
        for name, line in (("training", past.training), (opened.held_out, past.held_out))
        for point in line
    ]
    return {
        "charts": {
            quantity: charts.learning(points, quantity, x=past.x, series=series, thin="training")
            for quantity in ("loss", "accuracy")
        },
        "x": past.x,
        "series": series,
        "epochs": past.held_out,
        "merged": past.merged,
    }


SECTIONS = {"curves": Section("Learning curves", 20, gather)}
