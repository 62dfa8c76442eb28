"""The registry of networks: one file per family, found by listing this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxcnn.config import ModelSpec, Option, absolute_name, split_name
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.models.registration import Facts, Registration, TorchNames
from jaxcnn.registry import discover, execute

_COMMON = {field.name for field in dataclasses.fields(ImageModel)}


@cache
def _registered() -> dict[str, Registration]:
    return discover(__name__, "MODELS")


def _registered_in(file: Path) -> dict[str, Registration]:
    if not file.is_file():
        raise InputError(f"{file} does not exist; expected the file that defines the network")
    found = getattr(execute(file), "MODELS", None)
    if not isinstance(found, Mapping) or not all(isinstance(entry, Registration) for entry in found.values()):
        raise InputError(
            f"{file} defines MODELS as {found!r}; expected jaxcnn.models.registration.Registration by name"
        )
    if taken := sorted(found.keys() & _registered().keys()):  # weights are noted by the name alone
        raise InputError(f"{file} registers {taken[0]!r}, which is a network of jaxcnn; expected another name")
    return dict(found)


def _find(name: str) -> Registration:
    file, own = split_name(absolute_name(name))
    if file is not None:
        known = _registered_in(Path(file))
        if own not in known:
            raise unknown_name(f"model of {file}", own, known)
        return known[own]
    if own.endswith(".py"):
        raise InputError(f"model is {own!r}; expected FILE.py:NAME, the name of a network that the file registers")
    if own not in _registered():
        raise InputError(f"{unknown_name('model', own, _registered())} (one in a file of your own is FILE.py:NAME)")
    return _registered()[own]


def names() -> tuple[str, ...]:
    """Every registered model name, sorted."""
    return tuple(_registered())


def facts(name: str) -> Facts:
    """What has been published about the model `name`.

    Raises:
      InputError: no such model; the message lists the nearest names.
    """
    return _find(name).facts


def torch_names(name: str) -> TorchNames:
    """How PyTorch's weights name and lay out the parts of the model `name`.

    Raises:
      InputError: no such model; the message lists the nearest names.
    """
    return _find(name).torch_names


def options(name: str) -> dict[str, Option]:
    """The architecture options of the model `name`, each with its default.

    Raises:
      InputError: no such model; the message lists the nearest names.

    Examples:
      >>> options("lenet5")["pooling"]
      'average'
    """
    entry = _find(name)
    decided = {"parent", "name"} | _COMMON | entry.fixed.keys()
    settable: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(entry.module) if f.name not in decided}
    return settable | {name: value for name, value in entry.defaults.items() if name not in decided}


def create(name: str, **fields: Any) -> ImageModel:
    """Builds a network.

    Args:
      name: a registered name, or FILE.py:NAME where a file of one's own has registered it in its `MODELS`; the file is
        executed.
      **fields: architecture options of that model (`options(name)`), and the fields of every `ImageModel`
        (num_classes, mean, std, dtype, axis_name).

    Returns:
      A linen module that maps images [N, H, W, C] in [0, 1] to logits [N, num_classes].

    Raises:
      InputError: no such model or option, an option of another type, or no classes; the message lists what is known.

    Examples:
      >>> create("cifar_resnet20", num_classes=100).num_classes
      100
    """
    entry, known = _find(name), options(name)
    for option, value in fields.items():
        if option in _COMMON:
            continue
        if option not in known:
            raise unknown_name(f"option of {name}", option, known.keys() | _COMMON)
        kind = type(known[option])
        swapped = kind is str and callable(value)
        if not (swapped or type(value) is kind or (kind is float and type(value) is int)):
            raise InputError(f"option {option} of {name} is {value!r}; expected {kind.__name__}")
    num_classes = fields.get("num_classes", entry.facts.num_classes)
    if num_classes < 1:
        raise InputError(f"num_classes of {name} is {num_classes}; expected at least 1")
    return entry.module(**{"num_classes": entry.facts.num_classes, **entry.defaults, **fields, **entry.fixed})


def from_spec(spec: ModelSpec, *, axis_name: str | None = None) -> ImageModel:
    """The network that a run has resolved, built again.

    Args:
      spec: what the run directory says.
      axis_name: mapped axis over which batch statistics are synchronised, or None.

    Returns:
      The module; see `create`.
    """
    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[spec.precision]
    fields = {"num_classes": spec.num_classes, "mean": spec.mean, "std": spec.std}
    return create(spec.name, **spec.options, **fields, dtype=dtype, axis_name=axis_name)
