"""The command that trains networks to recognise what fooled those before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from jaxcnn.cli import settings
from jaxcnn.cli.terminal import Json, console, parse_arguments, print_json
from jaxcnn.config import Experiment


def retrain(arguments: Sequence[str]) -> None:
    """Train networks with the images that fooled those before them as one more class, and fool them again."""
    usage = (
        "usage: jaxcnn retrain EXPERIMENT [--networks N] [--methods cppn direct]\n"
        "                      [--evolutions N] [--run DIR] [--json]\n"
        "                      [--SETTING VALUE ...]\n\n"
        "Train networks with the images that fooled those before them as one more class,\n"
        "and fool them again."
    )
    name, rest = settings.split("retrain", usage, arguments)
    default, description = settings.default(name, rest)

    def parse(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = default,
        networks: int = 5,
        methods: tuple[Literal["cppn", "direct"], ...] = ("cppn", "direct"),
        evolutions: int = 5,
        generations: int = 200,
        population: int = 200,
        first: int = 6000,
        further: int = 1000,
        seed: int = 0,
        run: str = f"runs/{default.name}_retrained",
        json: Json = False,
    ) -> tuple[Experiment, int, dict[str, object], str, bool]:
        """Arguments.

        Args:
          experiment: How each network is trained.
          networks: Networks in all; a directory that has fewer is continued.
          methods: How images are evolved: with CPPNs as genomes, with pixels, or both.
          evolutions: Evolutions of each method for each network.
          generations: To the end of each.
          population: Children of a generation.
          first: Images of the additional class after the first network.
          further: Images that join it after each other network.
          seed: Seed of the evolutions; that of training is training.seed.
          run: Directory, created or continued.
          json: Print the result as one JSON object on standard output.
        """
        plan: dict[str, object] = {
            "methods": methods,
            "evolutions": evolutions,
            "generations": generations,
            "population": population,
            "first": first,
            "further": further,
            "seed": seed,
        }
        return experiment, networks, plan, run, json

    experiment, networks, asked, directory, as_json = parse_arguments(parse, f"retrain {name}", rest, description)
    from jaxcnn.report import retraining

    plan = retraining.Plan(**asked)  # type: ignore[arg-type]
    found = retraining.retrain(experiment, directory, networks=networks, plan=plan, console=console())
    if as_json:
        rows = [] if found is None else [vars(row) for row in found.rows]
        print_json({"run": directory, "finished": found is not None, "networks": rows})
        return
    if found is None:
        print(f"{directory}: stopped; the same command continues")
        return
    for row in found.rows:
        old = "" if row.recognised is None else f", {row.recognised:.4f} in those that fooled the network before"
        accuracy = "" if row.top1 is None else f" (test accuracy {row.top1:.4f})"
        print(f"network {row.network}{accuracy}, {row.method}: median confidence {row.median:.6f}{old}")
    for path in found.files:
        print(f"  {path}")
