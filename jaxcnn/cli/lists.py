"""Commands that list what there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxcnn.cli.terminal import Json, parse_arguments, print_json, print_table


def models(arguments: Sequence[str]) -> None:
    """List the networks."""
    as_json = _listing("models", "List the networks.", arguments)
    from jaxcnn import models

    facts = {name: models.facts(name) for name in models.names()}
    if as_json:
        print_json({name: dataclasses.asdict(fact) for name, fact in facts.items()})
    else:
        rows = {
            name: f"{fact.parameters:>11,} parameters  {fact.multiply_adds / 1e9:7.3f} G multiply-adds  "
            f"{fact.paper}, {fact.year}"
            for name, fact in facts.items()
        }
        print_table(rows)


def datasets(arguments: Sequence[str]) -> None:
    """List the datasets; every image-classification dataset of TFDS works by its name, too."""
    text = "List the datasets; every image-classification dataset of TFDS works by its name, too."
    as_json = _listing("datasets", text, arguments)
    from jaxcnn import data

    (print_json if as_json else print_table)(data.names())


def experiments(arguments: Sequence[str]) -> None:
    """List the experiments."""
    as_json = _listing("experiments", "List the experiments.", arguments)
    from jaxcnn import catalog

    (print_json if as_json else print_table)(catalog.descriptions())


def studies(arguments: Sequence[str]) -> None:
    """List the studies."""
    as_json = _listing("studies", "List the studies.", arguments)
    from jaxcnn import catalog

    (print_json if as_json else print_table)(catalog.descriptions("study"))


def _listing(command: str, description: str, arguments: Sequence[str]) -> bool:
    def parse(json: Json = False) -> bool:
        return json

    return parse_arguments(parse, command, arguments, description)
