"""The mistakes of which the network is surest."""

from __future__ import annotations

from typing import Any

from jaxcnn.report.page import pictures
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section

SHOWN = 24
"""Mistakes at most."""


def gather(opened: Opened) -> dict[str, Any]:
    """The images with what each was taken for and what it is."""
    answers, names = opened.answers, opened.class_names
    wrong = answers.surest(answers.predicted != answers.labels)
    shown = wrong[:SHOWN]
    cards = [
        {
            "index": int(i),
            "picture": picture,
            "true": names[answers.labels[i]],
            "predicted": names[answers.predicted[i]],
            "confidence": float(answers.confidence[i]),
            "true_probability": float(answers.probabilities[i, answers.labels[i]]),
        }
        for i, picture in zip(shown, pictures.read(answers.source, shown), strict=True)
    ]
    return {"cards": cards, "count": len(wrong), "examples": len(answers.labels)}


SECTIONS = {"mistakes": Section("Most confident mistakes", 40, gather)}
