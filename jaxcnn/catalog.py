"""Experiments and studies by name: one file each, holding a docstring and one value, `EXPERIMENT` or `STUDY`."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias

from jaxcnn.config import Experiment, absolute_name, canonical
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.registry import execute
from jaxcnn.study import Study

Kind: TypeAlias = Literal["experiment", "study"]
"""What a file of the catalogue holds."""

_PACKAGE = Path(__file__).resolve().parent


def folders() -> tuple[Path, ...]:
    """Where experiments are looked for: ./experiments, then those that come with jaxcnn; the first hit counts."""
    return Path("experiments").resolve(), _PACKAGE.parent / "experiments", _PACKAGE / "experiments"


def files(kind: Kind = "experiment") -> dict[str, Path]:
    """The file of every experiment or study, by name; files that assign no such value are something else."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.py")):
            if _describe(path, kind) is not None:
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def descriptions(kind: Kind = "experiment") -> dict[str, str]:
    """The first line of every experiment's or study's docstring, by name; nothing is executed."""
    return {name: _describe(path, kind) or "" for name, path in files(kind).items()}


def _describe(path: Path, kind: Kind) -> str | None:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    if not any(isinstance(target, ast.Name) and target.id == kind.upper() for target in targets):
        return None
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def load(name: str) -> tuple[Experiment, str]:
    """The experiment `name` and the first line of its description.

    Args:
      name: an experiment's name, or the path of a file that ends in .py.

    Raises:
      InputError: no such experiment (the message lists the nearest names), or its file does not define one.
    """
    path, module, description = _load(name, "experiment")
    value = getattr(module, "EXPERIMENT", None)
    if not isinstance(value, Experiment):
        raise InputError(f"{path} defines EXPERIMENT as {value!r}; expected a jaxcnn.config.Experiment")
    return _with_own_network(value, path, module), description


def load_study(name: str) -> tuple[Study, str]:
    """The study `name` and the first line of its description; arguments and errors are those of `load`."""
    path, module, description = _load(name, "study")
    value = getattr(module, "STUDY", None)
    if not isinstance(value, Study):
        raise InputError(f"{path} defines STUDY as {value!r}; expected a jaxcnn.study.Study")
    quick, paper = (
        {arm: _with_own_network(one, path, module) for arm, one in arms.items()} for arms in (value.quick, value.paper)
    )
    file = str(canonical(path)) if name.endswith(".py") else None
    return replace(value, quick=quick, paper=paper, file=file), description


def _with_own_network(experiment: Experiment, path: Path, module: ModuleType) -> Experiment:
    """The experiment with a network that its own file registers called by its full name, see `jaxcnn.models.create`."""
    name, registered = experiment.model.name, getattr(module, "MODELS", None)
    entry = registered.get(name) if isinstance(registered, Mapping) else None
    known = sys.modules.get("jaxcnn.models.registration")  # which takes Flax with it, and is there if the file uses it
    if known is None or not isinstance(entry, known.Registration):
        return experiment
    return replace(experiment, model=replace(experiment.model, name=absolute_name(f"{path}:{name}")))


def _load(name: str, kind: Kind) -> tuple[Path, ModuleType, str]:
    known = files(kind)
    path = Path(os.path.expanduser(name)) if name.endswith(".py") else known.get(name)
    if path is None:
        raise unknown_name(kind, name, known)
    if not path.is_file():
        article = "an experiment" if kind == "experiment" else "a study"
        raise InputError(f"{kind} file {name!r} does not exist; expected {article}'s name or a .py file")
    module = execute(canonical(path))
    return path, module, (module.__doc__ or "").strip().partition("\n")[0]
