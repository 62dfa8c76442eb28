"""What the layers of a trained network look for: kernels as pictures, and the patches that excite units most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxcnn.analysis import activations, filters, patches
from jaxcnn.errors import unknown_name
from jaxcnn.figures import filters as filters_figure
from jaxcnn.figures import patches as patches_figure
from jaxcnn.figures import style
from jaxcnn.report import results
from jaxcnn.report.subject import Network, Subject

UNITS = 10
"""Units whose patches are drawn where none are named: the first."""


@dataclass(frozen=True)
class Kernels:
    """The kernels of a layer, drawn.

    Attributes:
      folder: what was written.
      files: in it.
      layer: name of the layer.
      shape: height and width in pixels, input channels, and kernels.
    """

    folder: Path
    files: list[Path]
    layer: str
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class Shown:
    """The patches of a layer, drawn.

    Attributes:
      folder: what was written.
      files: in it.
      layer: name of the layer.
      examples: images that were looked at.
      units: numbers of the units.
      some: which of how many these are, in words; empty where they were named, or are all.
      found: see `patches.top_patches`.
      pictures: file of each patch's photograph; None of a dataset.
    """

    folder: Path
    files: list[Path]
    layer: str
    examples: int
    units: tuple[int, ...]
    some: str
    found: patches.Patches
    pictures: list[list[str]] | None


def draw_filters(network: Network, *, layer: str | None = None, output: str | Path | None = None) -> Kernels:
    """Draws the kernels of a convolution.

    Args:
      network: the network.
      layer: name of the convolution; None is the layer that sees the image, which may be a dense one.
      output: the new folder; None calls it after the network, and after the layer if one is named.

    Raises:
      InputError: there is no such layer, or the folder exists.
    """
    suffix = "" if layer is None else f"-{layer.replace('/', '-')}"
    folder = results.new_folder(f"filters-{network.title}{suffix}" if output is None else output)
    if layer is None:
        layer, kernel = filters.first_layer(network.model, network.state, network.spec.input_shape)
    else:
        parameters: Any = flatten_dict(network.state.variables["params"], sep="/")
        convolutions = {
            name.removesuffix("/kernel"): value
            for name, value in parameters.items()
            if name.endswith("/kernel") and value.ndim == 4
        }
        if layer not in convolutions:
            raise unknown_name("convolution", layer, convolutions)
        kernel = convolutions[layer]
    weights = np.asarray(kernel, np.float32)
    figure = filters_figure.kernels(weights, width=style.COLUMN if weights.shape[2] in (1, 3) else style.PAGE)
    about = {"command": "filters", "layer": layer, **network.about()}
    files = results.write(folder, "filters", {"kernels": weights}, about, {"filters": figure})
    height, width, channels, count = weights.shape
    return Kernels(folder, files, layer, (height, width, channels, count))


def draw_patches(
    subject: Subject,
    layer: str,
    *,
    units: Sequence[int] = (),
    k: int = 9,
    output: str | Path | None = None,
) -> Shown:
    """Draws the patches of images that units of a layer answer to strongest.

    Args:
      subject: the network, and the images to look through.
      layer: see `patches.top_patches`.
      units: their numbers; none are the first `UNITS`.
      k: patches for each of them.
      output: the new folder; None calls it after the network and the layer.

    Raises:
      InputError: there is no such layer or unit, an image is broken, or the folder exists.
    """
    network = subject.network
    name = f"patches-{network.title}-{layer.replace('/', '-')}"
    folder = results.new_folder(name if output is None else output)
    known = activations.layers(network.model, network.state, subject.source.image_shape)
    activations.check_layer(layer, known)
    count = known[layer][-1]
    some = f"units 0 to {UNITS - 1} of {count}" if not units and count > UNITS else ""
    units = tuple(units) or tuple(range(min(UNITS, count)))
    found = patches.top_patches(network.model, network.state, subject.batches(), layer, units, k=k)
    examples = len(subject.source)
    figure = patches_figure.patches(
        found.patches,
        found.values,
        units,
        layer=f"{network.title}, {layer}" + (f", {some}" if some else ""),
        receptive_field=found.receptive_field,
        source=f"{examples:,} {subject.origin}",
    )
    arrays = {"units": np.array(units)} | {field: np.asarray(value) for field, value in found._asdict().items()}
    files = subject.files
    pictures = None if files is None else [[files[i] for i in row] for row in found.indices]
    if pictures is not None:
        arrays["files"] = np.array(pictures)
    about = {"command": "patches", "layer": layer, "k": k, **subject.about()}
    written = results.write(folder, "patches", arrays, about, {"patches": figure})
    return Shown(folder, written, layer, examples, units, some, found, pictures)
