"""Files that PyTorch writes and reads: .pth, .pt and .th, zipped or in the format before it, and .safetensors."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.interop import safetensors, torch_pickle
from jaxcnn.interop.files import Archive, created, opened
from jaxcnn.interop.torch_pickle import Reader, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_NOTE = "jaxcnn.json"

PICKLED = (".pth", ".pt", ".th")
SUFFIXES = (*PICKLED, ".safetensors")
"""How the names of these files end; what is read depends on the content alone."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file, with no code of it run and PyTorch not needed.

    A dictionary under "state_dict", "model_state_dict" or "model" is taken out of its checkpoint, and "module." and
    "_orig_mod." before every name (which PyTorch's parallel and compiled modules write) are removed. What is no tensor
    is left out.

    Args:
      path: a state dict or checkpoint that torch.save wrote, in either of its formats, or a safetensors file.

    Returns:
      Tensors by name, as read-only arrays.

    Raises:
      InputError: the file is none of these, is damaged, or asks for anything but tensors.
    """
    return read_noted(path)[0]


def read_noted(path: str | Path) -> tuple[dict[str, np.ndarray], str | None]:
    """What `read` gives, and the note that `write` was given, None where the file has none."""
    with opened(Path(path)) as (file, size):
        start = file.read(16)
        file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(file, size)
        if safetensors.recognised(start, size):
            tensors, note = safetensors.read(file, size)
            return _unwrapped(tensors, np.ndarray), note
        if start.startswith(b"\x80"):
            return _read_legacy(file, size), None
        raise InputError("is no file of PyTorch's; expected what torch.save writes, or safetensors")


def _read_zip(file: IO[bytes], size: int) -> tuple[dict[str, np.ndarray], str | None]:
    archive = Archive(file, size)
    pickles = [name for name in archive.names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError(f"is a zip archive with {len(pickles)} members called data.pkl; expected one, as in PyTorch's")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.names and archive.read(f"{folder}byteorder") != b"little":
        raise InputError("was written on a big-endian machine; expected little-endian numbers")
    reader = Reader()
    tree, _ = reader.load(archive.read(pickles[0]))
    tensors: dict[str, Tensor] = _unwrapped(tree, Tensor)
    contents: dict[str, bytes] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key in contents:
            continue
        contents[storage.key] = archive.read(f"{folder}data/{storage.key}")
        _check_length(storage, len(contents[storage.key]))
    note = archive.read(folder + _NOTE).decode() if folder + _NOTE in archive.names else None
    return {name: tensor.view(contents[tensor.storage.key]) for name, tensor in tensors.items()}, note


def _read_legacy(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    reader = Reader()
    position = 0

    def pickled() -> Any:
        nonlocal position
        file.seek(position)
        value, length = reader.load(file.read(torch_pickle.LIMIT))
        position += length
        return value

    if pickled() != _MAGIC or pickled() != _PROTOCOL:
        raise InputError("is a pickle of something else; expected what torch.save writes")
    system = pickled()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("was written on a big-endian machine; expected little-endian numbers")
    tensors: dict[str, Tensor] = _unwrapped(pickled(), Tensor)
    contents: dict[str, bytes] = {}
    for key in pickled():
        if not isinstance(key, str) or key not in reader.storages or key in contents:
            raise InputError("lists a storage that no tensor uses, or lists one twice")
        storage = reader.storages[key]
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        length = count * storage.dtype.itemsize
        if position + 8 + length > size:
            raise InputError(f"ends inside the storage {key!r}, {length} bytes long; it was cut short")
        _check_length(storage, length)
        contents[key] = file.read(length)
        position += 8 + length
    if absent := {tensor.storage.key for tensor in tensors.values()} - contents.keys():
        raise InputError(f"has no storage {min(absent)!r}, which it refers to")
    return {name: tensor.view(contents[tensor.storage.key]) for name, tensor in tensors.items()}


def _check_length(storage: torch_pickle.Storage, length: int) -> None:
    expected = storage.count * storage.dtype.itemsize
    if length != expected:
        raise InputError(f"has {length} bytes for the storage {storage.key!r}; its pickle claims {expected}")


def _unwrapped(tree: Any, kind: type) -> dict[str, Any]:
    for wrapper in _WRAPPERS:
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    if not isinstance(tree, dict):
        raise InputError(f"holds a {type(tree).__name__}; expected a state dict: tensors by name")
    tensors = {name: value for name, value in tree.items() if isinstance(name, str) and isinstance(value, kind)}
    if not tensors:
        entries = ", ".join(ascii(name) for name in list(tree)[:5]) or "nothing"
        raise InputError(f"holds no tensors but {entries}; expected a state dict: tensors by name")
    while prefix := next((each for each in _PREFIXES if all(name.startswith(each) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def write(path: str | Path, tensors: Mapping[str, np.ndarray], note: str | None = None) -> None:
    """Writes a state dict that PyTorch loads: `torch.load(path, weights_only=True)`, or safetensors' own reader.

    Args:
      path: a new file; its suffix chooses the format.
      tensors: by name, in the order in which they are written.
      note: any text to keep in the file, which PyTorch does not look at.

    Raises:
      InputError: the file exists, or its suffix is none of `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} ends in {path.suffix!r}; expected {', '.join(SUFFIXES)}")
    with created(path) as file:
        if path.suffix == ".safetensors":
            safetensors.write(file, tensors, note)
        else:
            _write_zip(file, tensors, note)


def _write_zip(file: IO[bytes], tensors: Mapping[str, np.ndarray], note: str | None) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes | memoryview) -> None:
            # With the date of the file the same weights would give other bytes each time.
            with archive.open(zipfile.ZipInfo(f"archive/{name}"), "w", force_zip64=len(content) > 2**31) as member:
                member.write(content)

        add("data.pkl", torch_pickle.dump(tensors))
        add("byteorder", b"little")
        for key, tensor in enumerate(tensors.values()):
            add(f"data/{key}", tensor.tobytes())
        add("version", b"3\n")
        if note is not None:
            add(_NOTE, note.encode())
