"""What excites each class most."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxcnn.analysis import maximize
from jaxcnn.errors import InputError
from jaxcnn.report.natural import natural
from jaxcnn.report.page import pictures
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section
from jaxcnn.report.ways import ascend, full_method, random_key

SHOWN = 10
"""Classes at most."""


def gather(opened: Opened) -> dict[str, Any]:
    """An image for each class, as `jaxcnn maximize` seeks it.

    Raises:
      InputError: the network is too large, or the training images cannot be read.
    """
    if isinstance(opened.images, str):
        raise InputError(opened.images)
    opened.require_small("jaxcnn maximize")
    network, names = opened.network, opened.class_names
    known = natural(network, data_directory=opened.images[1].directory)
    classes = np.arange(min(len(names), SHOWN), dtype=np.int32)
    way = full_method(known)
    objective = way.penalized(way.classes(classes))
    climb = ascend(network, objective, way, key=random_key(0), count=len(classes), steps=maximize.STEPS)
    *_, found = climb
    logits: Any = network.model.apply(network.state.variables, found.images, train=False)
    sure = np.asarray(jax.nn.softmax(logits))[classes, classes]
    pixels = np.round(255 * np.asarray(found.images)).astype(np.uint8)
    cards = [
        {"picture": pictures.png(image), "name": names[k], "confidence": float(sure[k])}
        for k, image in zip(classes, pixels, strict=True)
    ]
    return {"cards": cards, "said": known.said}


SECTIONS = {"maximised": Section("Maximised images", 64, gather)}
