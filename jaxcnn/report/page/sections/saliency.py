"""Which pixels the answers depend on."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxcnn.analysis import saliency
from jaxcnn.figures import pixels
from jaxcnn.report.page import pictures
from jaxcnn.report.page.opened import Answers, Opened
from jaxcnn.report.page.section import Section

SHOWN = 4
"""Right answers, and as many mistakes, at most."""


def gather(opened: Opened) -> dict[str, Any]:
    """Images with their maps: right answers, each of another class, and the surest mistakes."""
    answers, names, network = opened.answers, opened.class_names, opened.network
    shown = np.concatenate([_right(answers)[:SHOWN], answers.surest(answers.predicted != answers.labels)[:SHOWN]])
    images = answers.source.read(shown)[0].astype(np.float32) / 255
    maps = np.asarray(saliency.gradient(network.model, network.state, images, answers.predicted[shown]))
    cards = [
        {
            "index": int(i),
            "picture": picture,
            "map": pictures.png(heat),
            "true": names[answers.labels[i]],
            "predicted": names[answers.predicted[i]],
            "confidence": float(answers.confidence[i]),
        }
        for i, picture, heat in zip(shown, pictures.read(answers.source, shown), pixels.heat(maps), strict=True)
    ]
    return {"cards": cards}


def _right(answers: Answers) -> np.ndarray:
    """The first right answer of each class."""
    right = np.flatnonzero(answers.predicted == answers.labels)
    return right[np.sort(np.unique(answers.labels[right], return_index=True)[1])]


SECTIONS = {"saliency": Section("Saliency", 60, gather)}
