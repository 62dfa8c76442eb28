"""Registries are packages: what a module lists under an agreed name is registered, with no central table."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any


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


def lazy_modules(package: str) -> Callable[[str], Any]:
    """A `__getattr__` for `package` that imports its modules when they are first named."""

    def getattribute(name: str) -> Any:
        if name in {info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)}:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute
