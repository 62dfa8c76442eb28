"""The command line as the tests call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn import cli, models
from jaxcnn import state as states
from jaxcnn.config import DataConfig, ModelSpec
from jaxcnn.data import open_split
from jaxcnn.interop import weights


def invoke(capsys, *arguments: object) -> tuple[object, str, str]:
    """Exit status, standard output and standard error of a command, run in this process."""
    status: object = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def kept(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file that a command wrote, and what it says about them."""
    with np.load(path) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("about")))


def digits(indices) -> tuple[np.ndarray, np.ndarray]:
    """Test images of the bundled digits, in [0, 1], and their labels."""
    images, labels = open_split(DataConfig("digits"), "test", 0).read(indices)
    return images.astype(np.float32) / 255, labels


def random_weights(folder: Path, spec: ModelSpec) -> str:
    """A file of a network as it begins."""
    path = folder / "network.npz"
    weights.write(path, spec, states.create(models.from_spec(spec), jax.random.key(0), spec.input_shape))
    return str(path)
