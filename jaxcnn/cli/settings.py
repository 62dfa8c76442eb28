"""The experiment that a command starts from, before its flags change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxcnn.cli.terminal import peek
from jaxcnn.config import Experiment


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
