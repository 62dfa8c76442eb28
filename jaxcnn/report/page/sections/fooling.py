"""Noise of which the network is sure that it shows a class."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxcnn.analysis import fooling
from jaxcnn.report.page import pictures
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section

SHOWN = 10
"""Classes at most."""


def gather(opened: Opened) -> dict[str, Any]:
    """An image for each class, climbed to from noise.

    Raises:
      InputError: the network is too large.
    """
    opened.require_small("jaxcnn fool")
    network, names = opened.network, opened.class_names
    classes = np.arange(min(len(names), SHOWN))
    shape = network.spec.input_shape
    found = fooling.ascend(network.model, network.state, classes, key=jax.random.key(0), image_shape=shape)
    pixels = np.round(255 * np.asarray(found.images)).astype(np.uint8)
    cards = [
        {"picture": pictures.png(image), "name": names[k], "confidence": float(found.confidences[k])}
        for k, image in zip(classes, pixels, strict=True)
    ]
    return {"cards": cards, "steps": int(np.median(found.steps))}


SECTIONS = {"fooling": Section("Fooling images", 66, gather)}
