"""The experiment that a command starts from: its name, and its settings before the flags change them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from jaxcnn.cli.terminal import peek
from jaxcnn.config import Experiment
from jaxcnn.errors import InputError


def split(command: str, usage: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The experiment, which comes first, and the arguments after it; prints the usage and exits if that was asked for.

    Raises:
      InputError: a flag comes first.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        print("\n`jaxcnn experiments` lists the experiments,")
        print(f"`jaxcnn {command} EXPERIMENT --help` the settings of one.")
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name.startswith("-"):
        raise InputError(f"the experiment comes first: jaxcnn {command} EXPERIMENT {name} ...")
    return name, rest


def default(name: str, arguments: Sequence[str]) -> tuple[Experiment, str]:
    """The experiment `name` and its description, with every option of the network that the arguments choose.

    So each option becomes a flag of its own, typed and with its default.

    Raises:
      InputError: there is no such experiment or network.
    """
    from jaxcnn import catalog, models

    experiment, description = catalog.load(name)
    chosen = peek(arguments, "--model.name") or experiment.model.name
    kept = experiment.model.options if chosen == experiment.model.name else {}
    model = dataclasses.replace(experiment.model, name=chosen, options=models.options(chosen) | dict(kept))
    return dataclasses.replace(experiment, model=model), description
