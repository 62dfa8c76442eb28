"""A study: its question, what its arms came to, how they learned, and how they differ."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxcnn import run
from jaxcnn.errors import CheckpointError
from jaxcnn.report.page import charts, repetition
from jaxcnn.report.page.rendering import Page, Part
from jaxcnn.study import Scale, Study
from jaxcnn.train import study_measures, study_results, study_tables
from jaxcnn.train.study import ended, read, run_directory


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
    points = [
        {
            "series": row.arm,
            "mean": row.held_out_top1.mean,
            "low": row.held_out_top1.low,
            "high": row.held_out_top1.high,
        }
        for row in rows
        if not math.isnan(row.held_out_top1.mean)
    ]
    titles = [point["series"] for point in points]
    results = {
        "rows": rows,
        "split": split,
        "seeds": seeds,
        "unfinished": unfinished,
        "caption": study.caption,
        "chart": charts.estimates(points, series=titles, title=f"{split} accuracy") if points else None,
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
        {"measure": asked[name], "cells": study_tables.measure_cells(asked[name], found)}
        for name, found in measured.items()
        if found
    ]
    return [Part("measures", "Measures", "study_measures.html", {"tables": tables})] if tables else []


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
