"""Every analysis that takes a chunk refuses one that is no number of images."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import jax
import numpy as np
import pytest
from small_networks import SHAPE, Small, images_of, state_of

import jaxcnn.analysis
from jaxcnn.analysis.saliency import gradient
from jaxcnn.errors import InputError

MODEL = Small()
LABELS = np.array([1, 2])
GIVEN = {
    "batches": [(np.asarray(images_of(2)), LABELS)],
    "heat": np.ones((2, *SHAPE[:2])),
    "image_shape": SHAPE,
    "images": images_of(2),
    "key": jax.random.key(0),
    "labels": LABELS,
    "layer": "conv",
    "maps": np.ones((2, *SHAPE)),
    "method": gradient,
    "methods": ["gradient"],
    "model": MODEL,
    "targets": LABELS,
    "epsilon": 0.1,
    "state": state_of(MODEL),
}
"""An argument of each name, where a function has no default."""


def takers():
    """The public functions of the analyses that take a chunk, and otherwise what is given here."""
    for module in pkgutil.iter_modules(jaxcnn.analysis.__path__):
        for name, found in vars(importlib.import_module(f"jaxcnn.analysis.{module.name}")).items():
            own = inspect.isfunction(found) and found.__module__ == f"jaxcnn.analysis.{module.name}"
            if (
                not own or name.startswith("_") or name in ("random_map", "smooth_random_map")
            ):  # which have no use for it
                continue
            parameters = inspect.signature(found).parameters
            needed = [one.name for one in parameters.values() if one.default is one.empty]
            if "chunk" in parameters and "chunk" not in needed and GIVEN.keys() >= {*needed}:
                yield pytest.param(found, {name: GIVEN[name] for name in needed}, id=f"{module.name}.{name}")


@pytest.mark.parametrize(("function", "given"), [*takers()])
def test_a_chunk_is_a_whole_number_of_at_least_one(unchecked, function, given):
    for chunk, sentence in ((2.5, "chunk is 2.5; expected a whole number"), (0, "chunk is 0; expected at least 1")):
        with pytest.raises(InputError, match=sentence):
            function(**given, chunk=chunk)


def test_most_analyses_are_among_them():
    assert len([*takers()]) > 30
