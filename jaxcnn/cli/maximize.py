"""The command that seeks images which excite classes or units of a trained network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxcnn.cli.subject import Asked
from jaxcnn.cli.terminal import Json, parse_arguments, print_json


def maximize(arguments: Sequence[str]) -> None:
    """Seek images that excite classes or units of a trained network most, by gradient ascent."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        targets: tuple[str, ...] = (),
        layer: str | None = None,
        units: tuple[int, ...] = (),
        l1: float = 0.0,
        l2: float = 0.0,
        total_variation: float = 0.0,
        compare: bool = False,
        steps: int = 256,
        seed: int = 0,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Seek images that excite classes or units of a trained network most, by gradient ascent.

        What natural images are like is measured of a run's training images, or of a dataset or folder that is named;
        for weights without either they are taken to be like ImageNet's. A command that was killed goes on where it
        was when it is given again.

        Args:
          chosen: The network, and images to measure.
          targets: Names or numbers of classes; by default all of up to ten.
          layer: Name of a layer whose units are excited in place of classes.
          units: Numbers of the units, from 0; by default the first ten.
          l1: Weight of the sum of the pixels' distances from the mean colour.
          l2: Weight of the sum of their squares.
          total_variation: Weight of the sum of the neighbours' differences.
          compare: Draw beside them what pixels give without a penalty, with L1, and with L2; and of small images what
            batch normalisation makes of them.
          steps: Of the ascent.
          seed: Seed of what is drawn at random.
          output: New folder for the arrays (.npz) and figures; by default maximize-NETWORK.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, (targets, layer, units, l1, l2, total_variation, compare, steps, seed, output), json

    chosen, asked, as_json = parse_arguments(parse, "maximize", arguments)
    targets, layer, units, l1, l2, total_variation, compare, steps, seed, output = asked
    from jaxcnn.report.maximize import draw_maximized
    from jaxcnn.report.natural import natural

    network = chosen.open()
    known = natural(
        network,
        images=chosen.images,
        dataset=chosen.dataset,
        split=chosen.split,
        image_size=chosen.image_size,
        data_directory=chosen.data.directory,
    )
    drawn = draw_maximized(
        network,
        known,
        targets=targets,
        layer=layer,
        units=units,
        l1=l1,
        l2=l2,
        total_variation=total_variation,
        compare=compare,
        steps=steps,
        seed=seed,
        output=output,
        say=lambda sentence: print(sentence, file=sys.stderr),
    )
    values = drawn.values.tolist()
    if as_json:
        found = {"targets": drawn.numbers, "probabilities": values}
        if layer is not None:
            found = {"layer": layer, "units": drawn.numbers, "activations": values}
        files = [path.name for path in drawn.files]
        print_json({"output": str(drawn.folder), "files": files, "names": drawn.names, **found})
        return
    print(f"measured: {drawn.measured}")
    for name, value in zip(drawn.names, values, strict=True):
        print(f"{name}: {'mean activation' if layer else 'probability'} {value:.4f}")
    for path in drawn.files:
        print(f"  {path}")
