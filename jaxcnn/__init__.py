"""Convolutional networks in JAX: built as published, trained reproducibly, and explained."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcnn import analysis, config, data, models, state, train
    from jaxcnn.loading import load

__all__ = ["analysis", "config", "data", "load", "models", "state", "train"]


def __getattr__(name: str) -> Any:
    # `jaxcnn.models` and the rest are imported when they are first named: the command line answers --help without jax.
    if name == "load":
        return importlib.import_module("jaxcnn.loading").load
    if name in __all__:
        return importlib.import_module(f"jaxcnn.{name}")
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")
