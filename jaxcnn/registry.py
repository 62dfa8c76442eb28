"""Registries are packages: what a module lists under an agreed name is registered, with no central table.

A file of a user's own registers in the same way.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxcnn.errors import InputError


def discover(package: str, attribute: str) -> dict[str, Any]:
    """Everything that the modules of `package` register.

    Args:
      package: dotted name of the package to list, as in "jaxcnn.models".
      attribute: name of the module-level dict that registers, as in "MODELS"; modules without it are skipped.

    Returns:
      The union of those dicts, sorted by name.

    Raises:
      ValueError: two modules register the same name.
    """
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        entries = getattr(importlib.import_module(f"{package}.{info.name}"), attribute, {})
        if twice := found.keys() & entries.keys():
            raise ValueError(f"{package} registers {sorted(twice)[0]!r} twice")
        found |= entries
    return dict(sorted(found.items()))


def execute(file: Path, kind: str) -> ModuleType:
    """The module in a file that belongs to no package, executed anew.

    Args:
      file: ends in .py.
      kind: what is looked for in it, a part of the module's name.

    Raises:
      InputError: whatever the file raises.
    """
    spec = importlib.util.spec_from_file_location(f"jaxcnn_{kind}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look for what their annotations name
    try:
        spec.loader.exec_module(module)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
    return module


def lazy_modules(package: str) -> Callable[[str], Any]:
    """A `__getattr__` for `package` that imports its modules when they are first named."""

    def getattribute(name: str) -> Any:
        if name in {info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)}:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute
