"""The command that shows gradients, dead ReLUs, the loss around the parameters, and the pixels that layers use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from jaxcnn.cli.subject import Asked, print_networks
from jaxcnn.cli.terminal import Json, parse_arguments


def dynamics(arguments: Sequence[str]) -> None:
    """Show the gradient at every layer, dead ReLUs, the loss around the parameters, or the pixels that layers use."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        kind: Literal["gradients", "dead", "slices", "plane", "fields"] = "gradients",
        layers: tuple[str, ...] = (),
        directions: int = 5,
        span: float = 1.0,
        points: int = 21,
        beside: tuple[str, ...] = (),
        limit: int | None = None,
        seed: int = 0,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Show the gradient at every layer, dead ReLUs, the loss around the parameters, or the pixels that layers use.

        Args:
          chosen: The network and the images.
          kind: The gradient at every layer, dead units by the learning rate of the runs, the loss along random lines or
            on a random plane through the parameters, or the effective receptive fields of layers.
          layers: Whose fields; by default five from the first to the last.
          directions: Random lines of slices.
          span: How far lines and planes reach to both sides, in norms of the filters.
          points: On a line, and on a plane's side; an odd number.
          beside: Run directories of other networks for the same images; those of one architecture count as seeds.
          limit: Most images, taken at equal distances from all; by default 64 to 1000.
          seed: Seed of what is drawn at random.
          output: New folder for the arrays (.npz) and the figures; by default dynamics-NETWORK-KIND.
          json: Print the result as one JSON object on standard output.
        """
        fields = {"kind": kind, "layers": layers, "directions": directions, "span": span, "points": points}
        return chosen, beside, json, fields | {"limit": limit, "seed": seed, "output": output}

    chosen, beside, as_json, fields = parse_arguments(parse, "dynamics", arguments)
    from jaxcnn.report.dynamics import draw_dynamics, in_words, values
    from jaxcnn.report.subject import open_network

    seen = draw_dynamics(chosen.open_subject(), beside=[open_network(name) for name in beside], **fields)
    print_networks(seen, values, in_words, as_json=as_json)
