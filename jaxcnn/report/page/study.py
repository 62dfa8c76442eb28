"""A study: its question, what its arms came to, how they learned, and how they differ."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jaxcnn import run
from jaxcnn.errors import CheckpointError
from jaxcnn.report.page import charts, repetition
from jaxcnn.report.page.rendering import Page, Part
from jaxcnn.study import Axis, Measure, Scale, Study
from jaxcnn.train import study_measures, study_results, study_tables
from jaxcnn.train.study import ended, read, run_directory
from jaxcnn.train.study_results import Estimate

CROWD = 9
"""Positions up to which a chart need not be as wide as the page."""


def page(directory: Path) -> Page:
    """The page of a study, of the seeds that have ended in every arm.

    Raises:
      CheckpointError: its file is damaged, or no seed has ended in every arm.
    """
    study, scale = read(directory)
    begun = {arm: _seeds(directory, arm) for arm in study.arms(scale)}
    seeds = [
        seed
        for seed in sorted(set.intersection(*map(set, begun.values())))
        if all(ended(run_directory(directory, arm, seed)) for arm in begun)
    ]
    if not seeds:
        raise CheckpointError(
            f"{directory} has no seed that has ended in all {len(begun)} arms; `jaxcnn study` goes on"
        )
    arms = study_results.collect(study, directory, scale=scale, seeds=seeds)
    rows, split = study_results.rows(arms, seeds), study_results.held_out(study, scale)
    unfinished = sorted({seed for begun_in_arm in begun.values() for seed in begun_in_arm} - set(seeds))
    results = {
        "rows": rows,
        "split": split,
        "seeds": seeds,
        "unfinished": unfinished,
        "caption": study.caption,
        "chart": _side_by_side({row.arm: row.held_out_top1 for row in rows}, f"{split} accuracy", percent=True),
        **_along(study.axis, rows, split),
    }
    settings = {
        "titles": list(arms),
        "differing": repetition.differing(study.arms(scale)),
        "commands": {"All arms": _command(study, directory, scale, seeds)},
    }
    parts = [
        Part("results", "Results", "study_results.html", results),
        *_measured(study, directory, scale, seeds),
        *_learned(arms, split),
        Part("settings", "Settings that differ", "comparison_settings.html", settings),
    ]
    return Page(study.question, f"Study {study.name}, {scale} scale", f"Source: {study.source}", parts)


def _command(study: Study, directory: Path, scale: Scale, seeds: list[int]) -> str:
    """What trains the study again, in a new directory, on images in the place where they were."""
    places = {_place(run_directory(directory, arm, seed)) for arm in study.arms(scale) for seed in seeds}
    place = places.pop() if len(places) == 1 else None
    words = ["jaxcnn", "study", study.file or study.name, "--scale", scale, "--run", f"{directory}-again"]
    words += ["--seeds", *map(str, seeds), *([] if place is None else ["--data.directory", place])]
    return shlex.join(words)


def _place(directory: Path) -> str | None:
    """Where the images of a run lay, if it was said, and is still written there: the page needs the scores alone."""
    try:
        return run.read(directory)[0].data.directory
    except CheckpointError:
        return None


def _measured(study: Study, directory: Path, scale: Scale, seeds: list[int]) -> list[Part]:
    """What the measures found in the runs of the seeds, if there are any and enough seeds."""
    asked = {name: one for name, one in study.measures.items() if len(seeds) >= one.members}
    measured = study_measures.collect(replace(study, measures=asked), directory, scale=scale, seeds=seeds)
    tables = [
        {
            "measure": asked[name],
            "cells": study_tables.measure_cells(asked[name], found),
            "drawn": _drawn(*study_measures.points(study, {name: found})[0]),
        }
        for name, found in measured.items()
        if found
    ]
    return [Part("measures", "Measures", "study_measures.html", {"tables": tables})] if tables else []


def _side_by_side(estimates: Mapping[str, Estimate], title: str, *, percent: bool) -> Any:
    """A row for each arm, of those that came to a number."""
    points = [{"series": arm, **asdict(one)} for arm, one in estimates.items() if not math.isnan(one.mean)]
    return (
        charts.estimates(points, series=[p["series"] for p in points], title=title, percent=percent) if points else None
    )


def _along(axis: Axis | None, rows: list[study_results.Row], split: str) -> dict[str, Any]:
    """Every outcome along the axis, if the study has one."""
    if axis is None:
        return {"charts": {}, "position": "", "series": []}
    drawn, series = {}, []
    for title, (curves, _) in study_tables.outcomes_along(axis, rows, split).items():
        series = list(curves)
        quantity = title if "loss" in title else "accuracy"
        drawn[title] = charts.against(_points(curves), quantity, position=axis.title, series=series)
    return {"charts": drawn, "position": axis.title, "series": series}


def _drawn(measure: Measure, found: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """What a measure found: against its positions, or arm by arm where there is only one of these."""
    points, series = _points(found), list(found)
    places = {point["x"] for point in points}
    if len(places) > 1:
        chart = charts.against(points, measure.title, position=measure.position, series=series, logarithmic=measure.log)
        return {"chart": chart, "series": series, "crowded": len(places) > CROWD}
    estimates = {point["series"]: Estimate(point["mean"], point["low"], point["high"]) for point in points}
    chart = _side_by_side(estimates, measure.title, percent=False) if len(series) > 1 else None
    return {"chart": chart, "series": [], "crowded": False}


def _points(curves: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [
        {"series": name, "x": x, "mean": float(mean), "low": float(low), "high": float(high)}
        for name, curve in curves.items()
        for x, mean, low, high in zip(*curve, strict=True)
    ]


def _learned(arms: dict[str, study_results.Arm], split: str) -> list[Part]:
    """The curves; what was measured only once is in the table of results alone."""
    drawn = _curves(arms, split)
    ended = any(arm.diverged for arm in arms.values())
    context = {"charts": drawn, "x": "epoch", "series": list(arms), "diverged": ended}
    return [Part("curves", "Learning curves", "comparison_curves.html", context)] if drawn else []


def _curves(arms: dict[str, study_results.Arm], split: str) -> dict[str, Any]:
    names = {"training_loss": "training loss", "held_out_loss": f"{split} loss", "accuracy": f"{split} accuracy"}
    drawn = {}
    for quantity, lines in study_results.curves(arms).items():
        points = []
        for arm, curve in lines.items():
            rows: list[dict[str, Any]] = [
                dict(zip(("x", "mean", "low", "high"), map(float, point), strict=True))
                for point in zip(*curve, strict=True)
            ]
            kept = charts.averaged(rows, ("mean", "low", "high"))
            points += [{**row, "series": arm} for row in kept]
        if len({point["x"] for point in points}) < 2:
            continue
        title = names[quantity]
        drawn[title] = charts.bands(points, title if quantity != "accuracy" else quantity, series=list(arms))
    return drawn


def _seeds(directory: Path, arm: str) -> list[int]:
    names = [path.name.removeprefix("seed-") for path in (directory / arm).glob("seed-*")]
    return sorted(int(name) for name in names if name.isdecimal())
