"""Experiments by name: one file each, holding a docstring and one value, `EXPERIMENT`."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from jaxcnn.config import Experiment
from jaxcnn.errors import InputError, unknown_name

_PACKAGE = Path(__file__).resolve().parent


def folders() -> tuple[Path, ...]:
    """Where experiments are looked for: ./experiments, then those that come with jaxcnn; the first hit counts."""
    return Path("experiments").resolve(), _PACKAGE.parent / "experiments", _PACKAGE / "experiments"


def files() -> dict[str, Path]:
    """The file of every experiment, by name; files that do not assign `EXPERIMENT` are something else."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.py")):
            if _describe(path) is not None:
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def descriptions() -> dict[str, str]:
    """The first line of every experiment's docstring, by name; nothing is executed."""
    return {name: _describe(path) or "" for name, path in files().items()}


def _describe(path: Path) -> str | None:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    if not any(isinstance(target, ast.Name) and target.id == "EXPERIMENT" for target in targets):
        return None
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def load(name: str) -> tuple[Experiment, str]:
    """The experiment `name` and the first line of its description.

    Args:
      name: an experiment's name, or the path of a file that ends in .py.

    Raises:
      InputError: no such experiment (the message lists the nearest names), or its file does not define one.
    """
    known = files()
    path = Path(name) if name.endswith(".py") else known.get(name)
    if path is None:
        raise unknown_name("experiment", name, known)
    if not path.is_file():
        raise InputError(f"experiment file {name!r} does not exist; expected an experiment's name or a .py file")
    spec = importlib.util.spec_from_file_location(f"jaxcnn_experiment_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise InputError(f"{path} defines EXPERIMENT as {experiment!r}; expected a jaxcnn.config.Experiment")
    return experiment, (module.__doc__ or "").strip().partition("\n")[0]
