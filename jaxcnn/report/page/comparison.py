"""Several runs beside each other: what they came to, how they learned, where they disagree, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.config import DataConfig
from jaxcnn.errors import InputError
from jaxcnn.report.page import accuracy, charts, history, pictures, repetition
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.rendering import Page, Part

SHOWN = 12
"""Images in each group at most."""


def page(runs: Sequence[Opened]) -> Page:
    """The page that compares runs.

    Raises:
      InputError: they know different classes.
    """
    for other in runs[1:]:
        if other.class_names != runs[0].class_names:
            raise InputError(
                f"{other.directory} has {len(other.class_names)} classes, {', '.join(other.class_names[:3])}, ...; "
                f"expected those of {runs[0].directory}: {', '.join(runs[0].class_names[:3])}, ..."
            )
    named = dict(zip(_titles(runs), runs, strict=True))
    parts = [Part("summary", "Summary", "comparison_summary.html", _summary(named))]
    left_out: dict[str, list[str]] = {}
    if learned := _curves(named):
        parts.append(Part("curves", "Learning curves", "comparison_curves.html", learned))
    try:
        parts.append(Part("disagreement", "Where they disagree", "comparison_disagreement.html", _disagreement(named)))
    except InputError as error:
        left_out[str(error)] = ["Where they disagree"]
    commands = {title: repetition.command(one.experiment, _folder(title)) for title, one in named.items()}
    differing = repetition.differing({title: one.experiment for title, one in named.items()})
    context = {"titles": list(named), "differing": differing, "commands": commands}
    parts.append(Part("settings", "Settings that differ", "comparison_settings.html", context))
    datasets = sorted({one.experiment.data.dataset for one in runs})
    return Page(
        " and ".join(named) if len(runs) == 2 else f"{len(runs)} runs",
        "Comparison",
        f"on {', '.join(datasets)}",
        parts,
        left_out,
    )


def _titles(runs: Sequence[Opened]) -> list[str]:
    """The directories' names, with those of their parents where names are alike."""
    names = [one.title for one in runs]
    parents = [one.directory.resolve().parent.name for one in runs]
    longer = [
        f"{parent}/{name}" if names.count(name) > 1 else name for name, parent in zip(names, parents, strict=True)
    ]
    return [str(one.directory) if longer.count(name) > 1 else name for name, one in zip(longer, runs, strict=True)]


def _folder(title: str) -> str:
    """One name for a run's directory, as different as the title."""
    return "-".join(Path(title).parts).lstrip("/-")


def _summary(runs: dict[str, Opened]) -> dict[str, Any]:
    rows = [
        {
            "title": title,
            "model": one.network.spec.title,
            "images": _images(one.experiment.data),
            "accuracy": accuracy.of_run(one),
            "totals": one.costs.totals,
            "seconds": sum(one.seconds.values()),
            "images_per_second": one.images_per_second,
        }
        for title, one in runs.items()
    ]
    points = [
        {
            "series": row["title"],
            "mean": row["accuracy"].share,
            "low": row["accuracy"].low,
            "high": row["accuracy"].high,
        }
        for row in rows
        if row["accuracy"]
    ]
    titles = [point["series"] for point in points]
    splits = {row["accuracy"].split for row in rows if row["accuracy"]}
    differ = len({row["images"] for row in rows}) > 1
    comparable = len(splits) == 1 and not differ
    chart = charts.estimates(points, series=titles, title="accuracy") if comparable else None
    return {"rows": rows, "chart": chart, "differ": differ}


def _images(data: DataConfig) -> str:
    """What a run's images are called."""
    return data.directory or data.dataset if data.dataset == "folder" else data.dataset


def _curves(runs: dict[str, Opened]) -> dict[str, Any] | None:
    past = {title: history.read(one) for title, one in runs.items()}
    x = "epoch" if all(one.x == "epoch" for one in past.values()) else "step"
    held_out = " and ".join(sorted({one.held_out for one in runs.values()}))

    def chart(part: str, quantity: str) -> Any:
        lines = {title: getattr(one, part) for title, one in past.items() if getattr(one, part)}
        points = [{**p, "series": t, "x": p["x"] if x == "epoch" else p["step"]} for t, ps in lines.items() for p in ps]
        return charts.learning(points, quantity, x=x, series=list(runs)) if points else None

    drawn = {
        "training loss": chart("training", "loss"),
        f"{held_out} loss": chart("held_out", "loss"),
        f"{held_out} accuracy": chart("held_out", "accuracy"),
    }
    drawn = {title: spec for title, spec in drawn.items() if spec}
    return {"charts": drawn, "x": x, "series": list(runs), "diverged": False} if drawn else None


def _disagreement(runs: dict[str, Opened]) -> dict[str, Any]:
    """The images that some networks get right and others wrong."""
    titles, answers = list(runs), [one.answers for one in runs.values()]
    first = answers[0]
    for title, other in zip(titles[1:], answers[1:], strict=True):
        if not np.array_equal(first.labels, other.labels):
            raise InputError(f"{title} was tested on other images than {titles[0]}; expected the same test split")
    right = np.stack([one.predicted == one.labels for one in answers])
    tests = [(title, *accuracy.sign_test(right[0], right[i])) for i, title in enumerate(titles[1:], start=1)]
    groups = {"all get wrong": ~right.any(axis=0)}
    if len(runs) == 2:
        groups = {f"only {title} gets right": right[i] & ~right[1 - i] for i, title in enumerate(titles)} | groups
    names = next(iter(runs.values())).class_names
    shown = []
    for title, chosen in groups.items():
        indices = np.flatnonzero(chosen)[:SHOWN]
        cards = [
            {
                "index": int(i),
                "picture": picture,
                "true": names[first.labels[i]],
                "said": [names[a.predicted[i]] for a in answers],
            }
            for i, picture in zip(indices, pictures.read(first.source, indices), strict=True)
        ]
        shown.append({"title": title, "count": int(chosen.sum()), "cards": cards})
    return {"titles": titles, "tests": tests, "groups": shown, "examples": len(first.labels)}
