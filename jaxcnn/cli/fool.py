"""The command that makes images which fool a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from jaxcnn.cli.subject import Trained
from jaxcnn.cli.terminal import Json, console, parse_arguments, print_json


def fool(arguments: Sequence[str]) -> None:
    """Make images that a network is sure of and nobody recognises: by gradient ascent, or by evolution."""

    def parse(
        chosen: Annotated[Trained, tyro.conf.arg(name="")],
        method: Literal["gradient", "direct", "cppn"] = "gradient",
        targets: tuple[str, ...] = (),
        confidence: float | None = None,
        steps: int | None = None,
        step_size: float | None = None,
        penalty: float | None = None,
        generations: int | None = None,
        population: int | None = None,
        seed: int = 0,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Make images that a network is sure of and nobody recognises: by gradient ascent, or by evolution.

        An evolution that was interrupted goes on when the same command is given again.

        Args:
          chosen: The network.
          method: Gradient ascent from noise, or evolution of all classes at once (MAP-Elites) with pixels or with
            CPPNs as genomes.
          targets: Names or numbers of classes; by default all.
          confidence: Of gradient: probability at which an image is done; by default 0.9999.
          steps: Of gradient: most steps; by default 200.
          step_size: Of gradient: root mean square of a step, pixels being in [0, 1]; by default 0.02.
          penalty: Of gradient: weight of the squared distance to the start; by default 0.
          generations: Of direct and cppn: to the end; by default 200.
          population: Of direct and cppn: children of a generation; by default 200.
          seed: Seed of what is drawn at random.
          output: New folder for the arrays (.npz), figures and the animation; by default fool-NETWORK-METHOD.
          json: Print the result as one JSON object on standard output.
        """
        settings = {
            "confidence": confidence,
            "steps": steps,
            "step_size": step_size,
            "penalty": penalty,
            "generations": generations,
            "population": population,
        }
        return chosen, dict(method=method, targets=targets, seed=seed, output=output, **settings), json

    chosen, asked, as_json = parse_arguments(parse, "fool", arguments)
    from jaxcnn.report.fooling import draw_fooling

    shown = console()
    fooled = draw_fooling(
        chosen.open(), **asked, progress=lambda said: shown.print(said, highlight=False, soft_wrap=True)
    )
    if as_json:
        print_json(fooled.values())
        return
    for name, confidence in list(zip(fooled.class_names, fooled.confidences, strict=True))[:20]:
        print(f"{name}: {confidence:.6f}")
    print(fooled.in_words())
    for path in fooled.files:
        print(f"  {path}")
