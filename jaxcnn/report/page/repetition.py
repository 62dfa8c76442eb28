"""An experiment as settings to read, and as the command that runs it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxcnn import catalog, config, models
from jaxcnn.config import Experiment
from jaxcnn.errors import InputError


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
      name: dotted, as its flag.
      value: in words.
      default: whether it is what nobody chose.
    """

    name: str
    value: str
    default: bool


def settings(experiment: Experiment) -> list[Setting]:
    """Every setting of an experiment."""
    default = flat(Experiment())
    return [
        Setting(name, in_words(value), name in default and default[name] == value)
        for name, value in flat(experiment).items()
        if name != "name"
    ]


def differing(experiments: Mapping[str, Experiment]) -> dict[str, list[str]]:
    """The settings in which experiments differ, each option of the network by itself, with their values in order.

    An option that an experiment does not choose has the network's default, if the network is known here.
    """
    every = []
    for experiment in experiments.values():
        settings = flat(experiment)
        options = _defaults(experiment.model.name) | settings.pop("model.options")
        every.append({f"model.options.{name}": value for name, value in options.items()} | settings)
    names = dict.fromkeys(name for one in every for name in one if name != "name")
    rows = {name: [in_words(one[name]) if name in one else "–" for one in every] for name in names}  # noqa: RUF001
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _defaults(network: str) -> dict[str, Any]:
    try:
        return models.options(network)
    except InputError:
        return {}


def flat(experiment: Experiment) -> dict[str, Any]:
    """The settings by their dotted names; mappings as they are."""
    parts = config.to_json(experiment)
    return {
        name: value
        for part, values in parts.items()
        for name, value in (
            ((f"{part}.{key}", inner) for key, inner in values.items())
            if isinstance(values, dict)
            else [(part, values)]
        )
    }


def in_words(value: Any) -> str:
    """A setting's value."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{key} {in_words(inner)}" for key, inner in value.items()) or "none"
        case list():
            return ", ".join(map(in_words, value)) or "none"
    return str(value)


def command(experiment: Experiment, title: str) -> str:
    """What trains the experiment again, in a new run directory.

    Args:
      experiment: what was trained.
      title: of its run directory.

    Returns:
      Lines for a shell: `jaxcnn train` where a registered experiment has this name and flags can say the rest, and
      otherwise Python with the settings themselves.
    """
    run = f"runs/{title}-again"
    flags = _flags(experiment)
    if flags is not None:
        return " \\\n  ".join([f"jaxcnn train {shlex.quote(experiment.name)} --run {shlex.quote(run)}", *flags])
    text = json.dumps(config.to_json(experiment))
    return (
        "python - <<'END'\n"
        "import json\n"
        "from jaxcnn.config import Experiment, from_json\n"
        "from jaxcnn.train.loop import train\n"
        f"train(from_json(Experiment, json.loads({text!r})), {run!r})\n"
        "END"
    )


def _flags(experiment: Experiment) -> list[str] | None:
    """What follows `jaxcnn train NAME`; None where there is no such experiment, or no flags for the difference."""
    try:
        known, _ = catalog.load(experiment.name)
        before, now = flat(known), flat(experiment)
        options = models.options(experiment.model.name)
    except InputError:
        return None
    if before["model.name"] == now["model.name"]:  # another network has its own options, and starts from its defaults
        options |= before["model.options"]
    flags = [
        _flag(f"model.options.{name}", value)
        for name, value in now["model.options"].items()
        if options.get(name) != value
    ]
    for name, value in now.items():
        if name == "model.options" or json.dumps(before[name]) == json.dumps(value):  # the order counts too
            continue
        if value == []:
            return None
        flags.append(_flag(name, value))
    return flags


def _flag(name: str, value: Any) -> str:
    part, _, last = f"--{name.replace('_', '-')}".rpartition(".")
    if isinstance(value, bool):
        return f"{part}.{last}" if value else f"{part}.no-{last}"
    if isinstance(value, dict):
        words = [str(word) for item in value.items() for word in item]
    else:
        words = list(map(str, value)) if isinstance(value, list) else [str(value)]
    return shlex.join([f"{part}.{last}", *words])
