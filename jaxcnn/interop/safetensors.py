"""The safetensors format: a JSON header that says where each tensor lies, then the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.interop.torch_pickle import DTYPES

_HEADER_LIMIT = 2**25
_NOTE = "jaxcnn"

_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def recognised(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with these 16 is laid out like this."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def read(file: IO[bytes], size: int) -> tuple[dict[str, np.ndarray], str | None]:
    """The tensors of an open file, and what `write` noted beside them.

    Args:
      file: at its beginning.
      size: in bytes.

    Returns:
      Tensors by name, and the note, None where there is none.

    Raises:
      InputError: the header is not one, or a tensor does not lie inside the file.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > min(_HEADER_LIMIT, size - 8):
        raise InputError(f"has a header of {length} bytes; expected at most {min(_HEADER_LIMIT, size - 8)}")
    header = json.loads(file.read(length), object_pairs_hook=_without_repetition)
    note = header.pop("__metadata__", {}).get(_NOTE)
    data = file.read()
    taken = 0
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (first, last) = entry["shape"], entry["data_offsets"]
        if entry["dtype"] not in _NAMES:
            raise InputError(f"has the tensor {name!r} of type {entry['dtype']!r}; expected {', '.join(_NAMES)}")
        if len(shape) > 32 or any(type(n) is not int or not 0 <= n < 2**62 for n in shape):
            raise InputError(f"has the tensor {name!r} whose shape is no list of at most 32 sizes")
        dtype = DTYPES[_NAMES[entry["dtype"]]]
        # Each tensor begins where the one before ends, so no byte is read twice.
        if first != taken or last - first != math.prod(shape) * dtype.itemsize or last > len(data):
            raise InputError(
                f"has the tensor {name!r} of shape {tuple(shape)} at bytes {first} to {last} of {len(data)}; "
                f"expected {math.prod(shape) * dtype.itemsize} bytes from {taken}"
            )
        tensors[name] = np.frombuffer(data, dtype, math.prod(shape), first).reshape(shape)
        taken = last
    if taken != len(data):
        raise InputError(f"has {len(data) - taken} bytes behind its last tensor; expected none")
    return tensors, note


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise InputError("has a header with one name twice; expected different names")
    return dict(pairs)


def write(file: IO[bytes], tensors: Mapping[str, np.ndarray], note: str | None) -> None:
    """Writes tensors to an open file.

    Args:
      file: an empty file.
      tensors: by name.
      note: any text to keep beside them.
    """
    codes = {DTYPES[dtype]: code for code, dtype in _NAMES.items()}
    # PyTorch's own reader asks for this entry.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | ({} if note is None else {_NOTE: note})}
    first = 0
    for name, tensor in tensors.items():
        offsets = [first, first + tensor.nbytes]
        header[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        first += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.tobytes())
