"""The command that deletes blocks of trained networks, moves them, and follows the gradient past them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from jaxcnn.cli.subject import Asked, print_networks
from jaxcnn.cli.terminal import Json, parse_arguments


def lesion(arguments: Sequence[str]) -> None:
    """Delete blocks of a trained network, or move them, and measure its error; one by one, at random, or reordered."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        kind: Literal["delete", "random", "shuffle", "paths"] = "delete",
        counts: tuple[int, ...] = (),
        repeats: int = 20,
        beside: tuple[str, ...] = (),
        limit: int | None = None,
        seed: int = 0,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Delete blocks of a trained network, or move them, and measure its error; one by one, at random, or reordered.

        Args:
          chosen: The network and the images.
          kind: Delete each block by itself, delete blocks drawn at random, swap blocks of equal shapes drawn at
            random, or follow the gradient along single paths through random blocks.
          counts: How many blocks are deleted, swaps made, or blocks on a path; by default up to ten, or all on a path.
          repeats: Random draws of each number.
          beside: Run directories of other networks for the same images; those of one architecture count as seeds.
          limit: Most images, taken at equal distances from all; by default 1000, and 64 for paths.
          seed: Seed of what is drawn at random.
          output: New folder for the arrays (.npz) and the figure; by default lesion-NETWORK-KIND.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, kind, counts, repeats, beside, limit, seed, output, json

    chosen, kind, counts, repeats, beside, limit, seed, output, as_json = parse_arguments(parse, "lesion", arguments)
    from jaxcnn.report.lesion import draw_lesion, in_words, values
    from jaxcnn.report.subject import open_network

    drawn = draw_lesion(
        chosen.open_subject(),
        kind=kind,
        counts=counts,
        repeats=repeats,
        beside=[open_network(name) for name in beside],
        limit=limit,
        seed=seed,
        output=output,
    )
    print_networks(drawn, values, in_words, as_json=as_json)
