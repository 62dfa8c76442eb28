"""Registries are packages: what a module lists under an agreed name is registered, with no central table.

A file of a user's own registers in the same way.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
from collections.abc import Callable
from functools import cache
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


def execute(file: Path) -> ModuleType:
    """The module in a file that belongs to no package, executed once for each content that the file has.

    Args:
      file: in Python, by its `config.canonical` path.

    Raises:
      InputError: the file cannot be read, or whatever it raises.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    return _executed(file, content)


@cache
def _executed(file: Path, content: bytes) -> ModuleType:
    digest = hashlib.sha256(bytes(file) + content).hexdigest()
    module = ModuleType(f"jaxcnn_{file.stem}_{digest[:8]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses look for what their annotations name
    try:
        exec(compile(content, file, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[module.__name__]
        if isinstance(error, InputError):
            raise InputError(f"{file}: {error}") from error
        if isinstance(error, Exception | SystemExit):
            raise InputError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
        raise
    return module


def lazy_modules(package: str) -> Callable[[str], Any]:
    """A `__getattr__` for `package` that imports its modules when they are first named."""

    def getattribute(name: str) -> Any:
        if name in {info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)}:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute
