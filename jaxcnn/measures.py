"""Measures that several studies ask of their trained runs."""

from __future__ import annotations

from jaxcnn import models, run
from jaxcnn.analysis import summary
from jaxcnn.study import Measure, Trained


def _totals(one: Trained) -> summary.Totals:
    spec = run.read(one.directory)[1]
    return summary.table(models.from_spec(spec), spec.input_shape).totals


def _parameters(one: Trained) -> dict[str, float]:
    return {"network": float(_totals(one).parameters)}


def _multiply_adds(one: Trained) -> dict[str, float]:
    return {"network": float(_totals(one).multiply_adds)}


COST = {
    "parameters": Measure(_parameters, "parameters", ""),
    "multiply_adds": Measure(_multiply_adds, "multiply-adds of an image", ""),
}
"""What a network takes, at the size of the images that it was trained on: `measures=COST`."""
