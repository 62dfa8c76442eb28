"""Commands that show what the layers of a trained network look for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxcnn.cli.subject import Asked, Trained
from jaxcnn.cli.terminal import Json, parse_arguments, print_json

if TYPE_CHECKING:
    from jaxcnn.report.features import Kernels, Shown


def filters(arguments: Sequence[str]) -> None:
    """Draw the kernels of a network's first layer, or of any convolution, as pictures."""

    def parse(
        chosen: Annotated[Trained, tyro.conf.arg(name="")],
        layer: str | None = None,
        output: str | None = None,
        json: Json = False,
    ) -> tuple[Trained, str | None, str | None, bool]:
        """Draw the kernels of a network's first layer, or of any convolution, as pictures.

        Args:
          chosen: The network.
          layer: Name of a convolution; by default the layer that sees the image.
          output: New folder for the kernels (.npz) and the figure; by default filters-NETWORK.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, layer, output, json

    chosen, layer, output, as_json = parse_arguments(parse, "filters", arguments)
    from jaxcnn.report import features

    drawn = features.draw_filters(chosen.open(), layer=layer, output=output)
    if as_json:
        print_json({"output": str(drawn.folder), "files": _names(drawn), "layer": drawn.layer, "shape": drawn.shape})
        return
    print(f"{drawn.layer}: {drawn.shape[3]} kernels of {'x'.join(map(str, drawn.shape[:3]))}")
    for path in drawn.files:
        print(f"  {path}")


def patches(arguments: Sequence[str]) -> None:
    """Draw the patches of images that units of a layer answer to strongest, cut to their receptive field."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        layer: str,
        units: tuple[int, ...] = (),
        k: int = 9,
        output: str | None = None,
        json: Json = False,
    ) -> tuple[Asked, str, tuple[int, ...], int, str | None, bool]:
        """Draw the patches of images that units of a layer answer to strongest, cut to their receptive field.

        Args:
          chosen: The network and the images.
          layer: Name of the layer; a name that is none lists the nearest.
          units: Numbers of the units, from 0; by default the first ten.
          k: Patches for each unit.
          output: New folder for the arrays (.npz) and the figure; by default patches-NETWORK-LAYER.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, layer, units, k, output, json

    chosen, layer, units, k, output, as_json = parse_arguments(parse, "patches", arguments)
    from jaxcnn.report import features

    drawn = features.draw_patches(chosen.open_subject(), layer, units=units, k=k, output=output)
    found = drawn.found
    if as_json:
        units = [
            {"unit": unit, **{name: getattr(found, name)[row].tolist() for name in _PER_UNIT}}
            | ({} if drawn.pictures is None else {"files": drawn.pictures[row]})
            for row, unit in enumerate(drawn.units)
        ]
        result = {"output": str(drawn.folder), "files": _names(drawn), "layer": layer, "examples": drawn.examples}
        print_json(result | {"receptive_field": found.receptive_field, "units": units})
        return
    said = [f"{layer}: sees {'x'.join(map(str, found.receptive_field))} pixels", f"{drawn.examples} images"]
    print("; ".join([*said, drawn.some] if drawn.some else said))
    for row, unit in enumerate(drawn.units):
        files = drawn.pictures[row] if drawn.pictures else []
        images = [os.path.basename(file) for file in files] or [f"image {image}" for image in found.indices[row]]
        answers = [f"{value:.4g} {image}" for value, image in zip(found.values[row], images, strict=True)]
        print(f"unit {unit}: {', '.join(answers)}")
    for path in drawn.files:
        print(f"  {path}")


_PER_UNIT = ("values", "indices", "positions", "boxes")


def _names(drawn: Kernels | Shown) -> list[str]:
    return [path.name for path in drawn.files]
