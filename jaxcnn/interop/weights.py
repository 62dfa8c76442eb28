"""Weights by file, whoever wrote it: PyTorch's state dicts, and our own .npz that says which network it is for."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import models
from jaxcnn.config import ModelSpec, from_json, to_json
from jaxcnn.errors import InputError
from jaxcnn.interop import fitting, torch_file, torch_names
from jaxcnn.interop.files import Archive, created, opened
from jaxcnn.state import State

NATIVE = ".npz"
_MODEL = "model"


@dataclass(frozen=True)
class Written:
    """What a file was given.

    Attributes:
      file: its path.
      model: the name of the network.
      tensors: how many it holds.
      parameters: trainable values among their numbers.
      bytes: its size.
    """

    file: str
    model: str
    tensors: int
    parameters: int
    bytes: int


def restore(path: str | Path, name: str, state: State, *, skip: Sequence[str] = ()) -> State:
    """The state with the parameters and batch statistics of a file.

    Args:
      path: a PyTorch file (see `torch_file.read`), or an .npz that `write` wrote.
      name: the registered name of the network.
      state: of that network; only shapes are looked at, except of what is skipped.
      skip: paths of modules, such as "head", that keep the state's own values whatever the file says.

    Returns:
      The state; averaged parameters, where it keeps them, are the parameters.

    Raises:
      InputError: the file is damaged, or does not fit the network (the message lists what differs).
    """
    path = Path(path)
    if path.suffix != NATIVE:
        tensors, names = torch_file.read(path), models.torch_names(name)
        try:
            return torch_names.from_torch(names, tensors, state, skip=skip)
        except InputError as error:
            raise InputError(f"{path} {error}") from None
    _, arrays = read_native(path, name)
    own = fitting.leaves(state)
    kept = {leaf for leaf in (*own, *arrays) if any(fitting.inside(leaf, module) for module in skip)}
    expected = {leaf: own[leaf].shape for leaf in own if leaf not in kept}
    try:
        fitting.compare({leaf: array.shape for leaf, array in arrays.items()}, expected, kept.__contains__)
        values = {leaf: fitting.numbers(leaf, arrays[leaf]) for leaf in expected}
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    return fitting.filled(state, values)


def read_native(path: Path, name: str | None = None) -> tuple[ModelSpec, dict[str, np.ndarray]]:
    """The network that an .npz is for, and its arrays by path: "params/stage1/block1/conv1/kernel".

    Args:
      path: the file.
      name: of the network that it should be for, or None for any.

    Raises:
      InputError: the file is not one that `write` wrote, is damaged, or is for another network.
    """
    with opened(path) as (file, size):
        if file.read(4) != b"PK\x03\x04":
            raise InputError("is no .npz; expected one that jaxcnn convert wrote")
        archive = Archive(file, size)
        arrays = {entry.removesuffix(".npy"): _array(entry, archive.read(entry)) for entry in archive.names}
        if _MODEL not in arrays:
            raise InputError(f"does not say which network it is for; expected the entry {_MODEL!r}")
        spec = from_json(ModelSpec, json.loads(str(arrays.pop(_MODEL))), "model")
        if name not in (None, spec.name):
            raise InputError(f"is for {spec.name}; expected {name}")
        if spec.num_classes < 1 or min(spec.input_shape) < 1 or min((*spec.std, 1)) <= 0:
            raise InputError(f"is for {spec.num_classes} classes and images {spec.input_shape}; expected positive ones")
        return spec, arrays


def standardisation(path: str | Path, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation per channel that the weights were trained with: an .npz says them, PyTorch's do not.

    Args:
      path: a file of weights.
      name: of the network, whose published preprocessing is taken for a file of PyTorch's.

    Raises:
      InputError: the .npz is damaged or for another network.
    """
    if Path(path).suffix == NATIVE:
        spec, _ = read_native(Path(path), name)
        return spec.mean, spec.std
    published = models.facts(name).preprocessing
    return published.mean, published.std


def _array(name: str, content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise InputError(f"has {name} in another .npy version; expected 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    rest = content[stream.tell() :]
    # NumPy's own reader would reserve whatever the header claims before it looks at what there is.
    if fortran or dtype.kind not in "fU" or math.prod(shape) * dtype.itemsize != len(rest):
        raise InputError(f"has {name} as {dtype} of shape {shape} in {len(rest)} bytes; expected as many numbers")
    return np.frombuffer(rest, dtype).reshape(shape)


def write(path: str | Path, spec: ModelSpec, state: State) -> Written:
    """Writes the parameters (averaged ones where kept) and batch statistics of a network.

    Args:
      path: a new file; .npz keeps our names and says which network it is for, `torch_file.SUFFIXES` give PyTorch's
        names and layouts.
      spec: the network.
      state: its state.

    Returns:
      What was written.

    Raises:
      InputError: the file exists, or its suffix is another.
    """
    path = Path(path)
    if path.suffix == NATIVE:
        arrays = {name: np.asarray(leaf) for name, leaf in fitting.leaves(state).items()}
        with created(path) as file:
            arrays_and_model: dict[str, Any] = {_MODEL: np.array(json.dumps(to_json(spec))), **arrays}
            np.savez(file, **arrays_and_model)
    elif path.suffix in torch_file.SUFFIXES:
        arrays = torch_names.to_torch(models.torch_names(spec.name), state)
        torch_file.write(path, arrays)
    else:
        raise InputError(f"{path} ends in {path.suffix!r}; expected {NATIVE}, {', '.join(torch_file.SUFFIXES)}")
    parameters = sum(leaf.size for name, leaf in fitting.leaves(state).items() if name.startswith("params/"))
    return Written(str(path), spec.name, len(arrays), parameters, path.stat().st_size)
