"""The command that looks for small changes of images that fool a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxcnn.cli.subject import Asked
from jaxcnn.cli.terminal import Json, parse_arguments, print_json


def attack(arguments: Sequence[str]) -> None:
    """Change images so little that nobody minds and the network says something else, and measure its accuracy then."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        method: tuple[str, ...] = ("fgsm", "pgd"),
        epsilon: tuple[str, ...] = (),
        epsilon_l2: tuple[str, ...] = (),
        targets: tuple[str, ...] = (),
        steps: int | None = None,
        limit: int = 100,
        seed: int = 0,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Change images so little that nobody minds and the network says something else, and measure its accuracy then.

        Args:
          chosen: The network and the images.
          method: One or more of fgsm, bim, pgd, pgd_l2, deepfool and carlini_wagner.
          epsilon: By how much fgsm, bim and pgd may change a pixel, as 8/255 or 0.03; by default 2/255 to 32/255.
          epsilon_l2: Euclidean norms of the change that pgd_l2 makes; by default 0.25 to 2.
          targets: Names or numbers of the classes that the network shall say, one for all images or one for each; by
            default any but the right one.
          steps: Of iterative attacks; by default each one's own number.
          limit: Most images, taken at equal distances from all.
          seed: Seed of what is drawn at random.
          output: New folder for the arrays (.npz) and the figures; by default attack-NETWORK.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, method, epsilon, epsilon_l2, targets, steps, limit, seed, output, json

    chosen, method, epsilon, epsilon_l2, targets, steps, limit, seed, output, as_json = parse_arguments(
        parse, "attack", arguments
    )
    from jaxcnn.report.attack import draw_attack, in_words, values

    drawn = draw_attack(
        chosen.open_subject(),
        methods=method,
        epsilons=epsilon,
        epsilons_l2=epsilon_l2,
        targets=targets,
        steps=steps,
        limit=limit,
        seed=seed,
        output=output,
    )
    if as_json:
        print_json({"output": str(drawn.folder), "files": [path.name for path in drawn.files], **values(drawn)})
        return
    for line in in_words(drawn):
        print(line)
    for path in drawn.files:
        print(f"  {path}")
