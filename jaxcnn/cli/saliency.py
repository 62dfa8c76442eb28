"""Commands that show why a trained network says what it says of an image, and whether to believe it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxcnn.cli.subject import Asked
from jaxcnn.cli.terminal import Json, parse_arguments, print_json

if TYPE_CHECKING:
    from jaxcnn.report.saliency import Chosen


def saliency(arguments: Sequence[str]) -> None:
    """Draw what matters in images to a network, by one attribution method or by all beside each other."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        methods: tuple[str, ...] = ("all",),
        targets: tuple[str, ...] = (),
        limit: int = 8,
        seed: int = 0,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Draw what matters in images to a network, by one attribution method or by all beside each other.

        Args:
          chosen: The network and the images.
          methods: Names of attribution methods, or all that apply to the network.
          targets: Names or numbers of the classes explained, one for all images or one for each; by default the
            predicted ones.
          limit: Most images, taken at equal distances from all.
          seed: Seed of what methods draw at random.
          output: New folder for the maps (.npz) and the figures; by default saliency-NETWORK.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, methods, targets, limit, seed, output, json

    chosen, methods, targets, limit, seed, output, as_json = parse_arguments(parse, "saliency", arguments)
    from jaxcnn.report import saliency as report

    drawn = report.draw_saliency(
        chosen.open_subject(), methods=methods, targets=targets, limit=limit, seed=seed, output=output, say=_say
    )
    if as_json:
        files = {name: [str(path.relative_to(drawn.folder)) for path in paths] for name, paths in drawn.files.items()}
        print_json(
            {"output": str(drawn.folder), "files": files, "left_out": drawn.left_out, **_explained(drawn.chosen)}
        )
        return
    _print_explained(drawn.chosen)
    for paths in drawn.files.values():
        for path in paths:
            print(f"  {path}")


def occlusion(arguments: Sequence[str]) -> None:
    """Draw how sure a network is, and of which class, while a grey patch hides part of an image."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        targets: tuple[str, ...] = (),
        limit: int = 4,
        patch: int | None = None,
        stride: int | None = None,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Draw how sure a network is, and of which class, while a grey patch hides part of an image.

        Args:
          chosen: The network and the images.
          targets: Names or numbers of the classes explained, one for all images or one for each; by default the
            predicted ones.
          limit: Most images, taken at equal distances from all.
          patch: Side of the patch in pixels; by default an eighth of the image's.
          stride: Pixels between its positions; by default half the patch.
          output: New folder for the arrays (.npz) and the figures; by default occlusion-NETWORK.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, targets, limit, patch, stride, output, json

    chosen, targets, limit, patch, stride, output, as_json = parse_arguments(parse, "occlusion", arguments)
    from jaxcnn.report import saliency as report

    drawn = report.draw_occlusion(
        chosen.open_subject(), targets=targets, limit=limit, patch=patch, stride=stride, output=output
    )
    grid = drawn.grid
    least = grid.probabilities.min((1, 2)).tolist()
    if as_json:
        positions = [len(grid.tops), len(grid.lefts)]
        result = {"output": str(drawn.folder), "files": [path.name for path in drawn.files], "patch": grid.patch}
        print_json(result | {"positions": positions, "least_probabilities": least, **_explained(drawn.chosen)})
        return
    print(f"a patch of {grid.patch}x{grid.patch} pixels at {len(grid.tops)}x{len(grid.lefts)} positions")
    _print_explained(drawn.chosen, [f"{value:.1%} at least" for value in least])
    for path in drawn.files:
        print(f"  {path}")


def trust(arguments: Sequence[str]) -> None:
    """Compare attribution methods on a network by how faithful their maps are to it, beside maps of random numbers."""

    def parse(
        chosen: Annotated[Asked, tyro.conf.arg(name="")],
        methods: tuple[str, ...] = ("all",),
        targets: tuple[str, ...] = (),
        measures: tuple[str, ...] = ("road",),
        magnitudes: bool = False,
        region: int = 1,
        randomise: bool = False,
        limit: int = 16,
        seed: int = 0,
        output: str | None = None,
        json: Json = False,
    ) -> Any:
        """Compare attribution methods on a network by how faithful their maps are to it, beside maps of random numbers.

        Args:
          chosen: The network and the images.
          methods: Names of attribution methods, or all that apply to the network.
          targets: Names or numbers of the classes explained, one for all images or one for each; by default the
            predicted ones.
          measures: Besides deletion and insertion: blurring, road, infidelity, max_sensitivity.
          magnitudes: Rank pixels by the magnitude of signed maps, which suits those made of gradients.
          region: Side in pixels of the squares that are deleted and inserted as a whole; 9 suits photographs.
          randomise: Draw, too, how the maps change as the network's layers are drawn anew.
          limit: Most images, taken at equal distances from all.
          seed: Seed of all that is drawn at random.
          output: New folder for the curves (.npz), the table (CSV and Markdown) and the figures; by default
            trust-NETWORK.
          json: Print the result as one JSON object on standard output.
        """
        return chosen, methods, targets, measures, magnitudes, region, randomise, limit, seed, output, json

    chosen, methods, targets, measures, magnitudes, region, randomise, limit, seed, output, as_json = parse_arguments(
        parse, "trust", arguments
    )
    from jaxcnn.analysis import comparison
    from jaxcnn.report.trust import draw_trust

    drawn = draw_trust(
        chosen.open_subject(),
        methods=methods,
        targets=targets,
        measures=measures,
        magnitudes=magnitudes,
        region=region,
        randomise=randomise,
        limit=limit,
        seed=seed,
        output=output,
        say=_say,
    )
    if as_json:
        files = [path.name for path in drawn.files]
        result = {"output": str(drawn.folder), "files": files, "left_out": drawn.left_out}
        print_json(result | _explained(drawn.chosen) | comparison.json(drawn.table))
        return
    print(comparison.text(drawn.table))
    for path in drawn.files:
        print(f"  {path}")


def _say(sentence: str) -> None:
    print(f"jaxcnn: {sentence}", file=sys.stderr)


def _explained(chosen: Chosen) -> dict[str, Any]:
    """The images and what is explained of them, as JSON values."""
    images: list[dict[str, Any]] = [
        {"index": index, "target": target, "class": name, "probability": probability}
        for index, target, name, probability in zip(
            chosen.indices.tolist(),
            chosen.targets.tolist(),
            chosen.classes,
            chosen.probabilities.tolist(),
            strict=True,
        )
    ]
    for name, values in (("file", chosen.files), ("true", chosen.truths)):
        if values is not None:
            for image, value in zip(images, values, strict=True):
                image[name] = value
    return {"images": images}


def _print_explained(chosen: Chosen, more: Sequence[str] | None = None) -> None:
    for row, (file, name, probability) in enumerate(
        zip(chosen.names, chosen.classes, chosen.probabilities, strict=True)
    ):
        truth = name if chosen.truths is None else chosen.truths[row]
        other = "" if truth == name else f", is {truth}"
        print(f"{file}: {name} {probability:.1%}{other}{'' if more is None else f', {more[row]}'}")
