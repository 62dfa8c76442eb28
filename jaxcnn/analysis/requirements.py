"""What objectives need of the places that they read, as far as a shape and their arguments tell.

Each check is called with the place, the shape of what is there for one image and an objective's arguments, and raises
an InputError unless they go together. Inside a caller's jit, arguments have no values to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcnn.errors import InputError

# In parentheses, as no layer can be called so.
LOGITS = "(logits)"
"""The place where the logits [n, K] are."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of what is there for one image."""


def has_units(place: str, shape: tuple[int, ...], unit: ArrayLike, *_: Any) -> None:
    """Needs the number of a unit or class that is there, one or one for each image."""
    if isinstance(unit, Tracer):
        return
    numbers = np.asarray(unit)
    what = "target" if place == LOGITS else f"unit of {place}"
    if numbers.ndim > 1 or numbers.dtype.kind not in "iu":
        raise InputError(f"{what} is {numbers.dtype} of shape {numbers.shape}; expected an integer or integers [N]")
    outside = [int(number) for number in numbers.ravel() if not 0 <= number < shape[-1]]
    if outside:
        kind = "classes" if place == LOGITS else "units"
        raise InputError(f"{what} is {outside[0]}; expected {kind} in [0, {shape[-1]})")


def has_maps(place: str, shape: tuple[int, ...], *_: Any) -> None:
    """Needs a layer of maps."""
    if len(shape) != 3:
        raise InputError(f"{place} gives shape {shape} for an image; expected a layer of maps (h, w, c)")


def has_position(place: str, shape: tuple[int, ...], unit: ArrayLike, position: Any) -> None:
    """Needs a layer of maps with such a position, and what `has_units` needs."""
    has_maps(place, shape)
    has_units(place, shape, unit)
    if position is None or isinstance(position, Tracer):
        return
    found = np.asarray(position)
    if found.shape != (2,) or found.dtype.kind not in "iu" or not ((found >= 0) & (found < shape[:2])).all():
        where = tuple(found.tolist()) if found.ndim == 1 else found.tolist()
        raise InputError(f"position in {place} is {where}; expected one in its map, {shape[:2]}, as two integers")


def has_level(place: str, shape: tuple[int, ...], unit: ArrayLike, level: Any) -> None:
    """Needs a finite level for each target, and what `has_units` needs."""
    has_units(place, shape, unit)
    if isinstance(level, Tracer):
        return
    if level.shape not in ((), np.shape(unit)) or not np.isfinite(level).all():
        raise InputError(f"level is {level.tolist()}; expected a finite number, or one for each target")


def has_direction(place: str, shape: tuple[int, ...], vector: ArrayLike) -> None:
    """Needs as many units as a vector has."""
    _fits("vector", place, np.shape(vector), shape[-1:])


def has_gram(place: str, shape: tuple[int, ...], wanted: ArrayLike) -> None:
    """Needs a layer of as many maps as a Gram matrix has rows."""
    has_maps(place, shape)
    _fits("Gram matrix", place, np.shape(wanted), shape[-1:] * 2)


def has_shape(place: str, shape: tuple[int, ...], wanted: ArrayLike) -> None:
    """Needs activations of the layer's shape."""
    _fits("activations", place, np.shape(wanted), shape)


def _fits(what: str, place: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected and (not found or found[1:] != expected):
        raise InputError(f"{what} for {place}: the shape is {found}; expected {expected}, or that for each image")
