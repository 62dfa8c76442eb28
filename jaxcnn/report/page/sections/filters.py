"""The kernels of the first layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxcnn.analysis import filters
from jaxcnn.figures import pixels
from jaxcnn.report.page import pictures
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section

SHOWN = 128
"""Kernels at most."""


def gather(opened: Opened) -> dict[str, Any]:
    """The kernels as pictures, and their common scale."""
    network = opened.network
    layer = filters.first_layer(network.model, network.state, network.spec.input_shape)
    kernel = np.asarray(layer.kernel)
    shown, largest = pixels.kernels(kernel)
    return {
        "layer": layer.path,
        "pictures": [pictures.png(picture) for picture in shown[:SHOWN]],
        "shape": kernel.shape,
        "largest": largest,
    }


SECTIONS = {"filters": Section("First-layer filters", 50, gather)}
