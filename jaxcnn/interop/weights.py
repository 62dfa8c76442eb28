"""Weights by file, whoever wrote it: PyTorch's state dicts, and our own .npz; ours say which network they are for."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import models
from jaxcnn.config import ModelSpec, from_json, split_name, to_json
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.interop import fitting, torch_file, torch_names
from jaxcnn.interop.files import Archive, created, doubted, opened
from jaxcnn.state import State

NATIVE = ".npz"
_MODEL = "model"
_LARGEST_IMAGE = 2**16


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


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      path: the file.
      spec: the network that it says it is for; None for a file of somebody else's.
      arrays: by our paths, "params/stage1/block1/conv1/kernel", in an .npz, and by PyTorch's names in another file.
    """

    path: Path
    spec: ModelSpec | None
    arrays: dict[str, np.ndarray]


def read(path: str | Path, name: str | None = None) -> Contents:
    """Reads a file of weights.

    Args:
      path: a PyTorch file (see `torch_file.read`), or an .npz that `write` wrote.
      name: the registered name of the network that it should be for, or None for any.

    Raises:
      InputError: the file is damaged, or says that it is for another network.
    """
    path = Path(path)
    if path.suffix == NATIVE:
        return Contents(path, *read_native(path, name))
    tensors, note = torch_file.read_noted(path)
    with doubted(path):
        return Contents(path, None if note is None else _spec(note, tensors, name), tensors)


def fit(contents: Contents, name: str, state: State, *, skip: Sequence[str] = ()) -> State:
    """The state with the parameters and batch statistics of a file.

    Args:
      contents: of the file, as `read` gives them.
      name: the registered name of the network.
      state: of that network; only shapes are looked at, except of what is skipped.
      skip: paths of modules, such as "head", that keep the state's own values whatever the file says.

    Returns:
      The state; averaged parameters, where it keeps them, are the parameters.

    Raises:
      InputError: the file does not fit the network (the message lists what differs).
    """
    arrays = contents.arrays
    try:
        if contents.path.suffix != NATIVE:
            return torch_names.from_torch(models.torch_names(name), arrays, state, skip=skip)
        own = fitting.leaves(state)
        kept = {leaf for leaf in (*own, *arrays) if any(fitting.inside(leaf, module) for module in skip)}
        expected = {leaf: own[leaf].shape for leaf in own if leaf not in kept}
        heads = {leaf: -1 for leaf in own if fitting.last_layer(leaf)}
        fitting.compare({leaf: array.shape for leaf, array in arrays.items()}, expected, kept.__contains__, heads)
        return fitting.filled(state, {leaf: fitting.numbers(leaf, arrays[leaf]) for leaf in expected})
    except InputError as error:
        raise InputError(f"{contents.path} {error}") from None


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
        note = str(arrays.pop(_MODEL))
        return _spec(note, arrays, name), arrays


def _spec(note: str, arrays: Mapping[str, np.ndarray], name: str | None) -> ModelSpec:
    """The network that a file describes, checked before anything is built as the file says."""
    spec = from_json(ModelSpec, json.loads(note), "model")
    # What a file says is not executed: it has the name alone of a network from a user's own file.
    if split_name(spec.name)[0] is not None or (name is not None and split_name(name)[1] != spec.name):
        raise InputError(f"is for {spec.name}; expected {name or 'a registered name'}")
    known = models.options(name or spec.name)
    # Each width and each class is an entry of some array, and each further layer has arrays of its own.
    largest = max((n for array in arrays.values() for n in array.shape), default=0)
    _within("num_classes", spec.num_classes, 1, largest)
    for option, value in spec.options.items():
        if option not in known:
            raise unknown_name(f"option of {spec.name}", option, known)
        if isinstance(value, int | float):
            _within(f"options.{option}", value, 0, len(arrays) if option == "depth" else max(largest, 1))
    for pixels in spec.input_shape:
        _within("input_shape", pixels, 1, _LARGEST_IMAGE)
    for what, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) not in (1, spec.input_shape[-1]):
            raise InputError(f"has model.{what} {values}; expected one value, or one for each channel")
        for value in values:
            _within(what, value, 0, 1)
    if min(spec.std) == 0:
        raise InputError(f"has model.std {spec.std}; expected values above 0")
    return spec


def _within(what: str, value: int | float, least: int, most: int) -> None:
    if not least <= value <= most:  # a value that is not a number is not
        raise InputError(f"has model.{what} {value}; expected {least} to {most}")


def standardisation(path: str | Path, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation per channel that the weights were trained with.

    Args:
      path: a file of weights, which says them if it is one of ours.
      name: of the network, whose published preprocessing is taken for a file of somebody else's.

    Raises:
      InputError: the file is damaged or for another network.
    """
    spec = read(path, name).spec or models.facts(name).preprocessing
    return spec.mean, spec.std


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
      path: a new file; .npz keeps our names, `torch_file.SUFFIXES` give PyTorch's names and layouts.
      spec: the network, which every format notes.
      state: its state.

    Returns:
      What was written.

    Raises:
      InputError: the file exists, or its suffix is another.
    """
    path, note = Path(path), json.dumps(to_json(replace(spec, name=spec.title)))
    if path.suffix == NATIVE:
        arrays = {name: np.asarray(leaf) for name, leaf in fitting.leaves(state).items()}
        with created(path) as file:
            arrays_and_model: dict[str, Any] = {_MODEL: np.array(note), **arrays}
            np.savez(file, **arrays_and_model)
    elif path.suffix in torch_file.SUFFIXES:
        arrays = torch_names.to_torch(models.torch_names(spec.name), state)
        torch_file.write(path, arrays, note)
    else:
        raise InputError(f"{path} ends in {path.suffix!r}; expected {NATIVE}, {', '.join(torch_file.SUFFIXES)}")
    parameters = sum(leaf.size for name, leaf in fitting.leaves(state).items() if name.startswith("params/"))
    return Written(str(path), spec.name, len(arrays), parameters, path.stat().st_size)
