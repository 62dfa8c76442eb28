"""The pickles inside PyTorch's files, by a stack machine that builds plain values and calls nothing it is given."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import InputError

LIMIT = 8 * 2**20
"""Bytes that a pickle may have; the names and shapes of ten thousand tensors take a tenth of it."""

_BFLOAT16 = np.dtype(jnp.bfloat16)

DTYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": _BFLOAT16,
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
"""PyTorch's names of the number types that are understood."""

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_ALLOWED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.storage UntypedStorage",
    *(f"torch {name}" for name in _STORAGES),
    *(f"torch {name}" for name in DTYPES),
    # A score in a checkpoint is often a number of NumPy's; it is left out, as all that is no tensor.
    "numpy dtype",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray scalar",
    "_codecs encode",
}


@dataclass(frozen=True)
class Global:
    """A name that the pickle would have imported; "module name"."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers in a row, kept outside the pickle.

    Attributes:
      key: what the file calls it.
      dtype: of one number; uint8 where each tensor says its own.
      count: of numbers.
    """

    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as a view of a storage.

    Attributes:
      storage: where its numbers are.
      dtype: of one number.
      offset: of the first, in numbers.
      shape: of the tensor.
      strides: between neighbours along each axis, in numbers.
    """

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, data: bytes) -> np.ndarray:
        """The tensor in the bytes of its storage; nothing is copied.

        Raises:
          InputError: it reaches beyond them.
        """
        numbers = np.frombuffer(data, self.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) > len(numbers) > last >= 0:
            raise InputError(
                f"has a tensor of shape {self.shape} that repeats {len(numbers)} numbers; expected one that has its "
                "own, as PyTorch's contiguous() gives"
            )
        if math.prod(self.shape) > len(numbers) or (0 not in self.shape and last >= len(numbers)):
            raise InputError(
                f"has a tensor of shape {self.shape} on {len(numbers)} numbers; expected it to lie inside them"
            )
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        steps = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps, writeable=False)


class Reader:
    """Reads pickles.

    Attributes:
      storages: the storages that were referred to, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}

    def load(self, data: bytes) -> tuple[Any, int]:
        """Reads the pickle that `data` begins with.

        Args:
          data: at most `LIMIT` bytes; what follows the pickle is not looked at.

        Returns:
          The value, made of dicts, lists, tuples, numbers, strings, `Tensor` and None, and the bytes it took.

        Raises:
          InputError: the pickle would call or import something that a state dict does not need, or is no pickle.
        """
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}

        def marked() -> list[Any]:
            items = stack[(first := marks.pop()) :]
            del stack[first:]
            return items

        if len(data) > LIMIT:
            raise InputError(f"has a pickle of {len(data)} bytes; expected names and shapes, in at most {LIMIT}")
        value: Any = None
        file = io.BytesIO(data)
        for opcode, operand, _ in pickletools.genops(file):
            argument: Any = operand
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    value = stack.pop()  # the last opcode that is looked at
                case (
                    "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT"
                    | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING"
                    | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
                ):  # fmt: skip
                    stack.append(argument)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "MARK":
                    marks.append(len(stack))
                case "POP":
                    stack.pop()
                case "POP_MARK":
                    marked()
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    marks.append(len(stack) - int(opcode.name[-1]))
                    stack.append(tuple(marked()))
                case "TUPLE":
                    stack.append(tuple(marked()))
                case "EMPTY_LIST":
                    stack.append([])
                case "APPEND" | "APPENDS":
                    items = marked() if opcode.name == "APPENDS" else [stack.pop()]
                    _expect(stack[-1], list).extend(items)
                case "EMPTY_DICT":
                    stack.append({})
                case "SETITEM" | "SETITEMS":
                    if opcode.name == "SETITEM":
                        marks.append(len(stack) - 2)
                    items = marked()
                    _update(_expect(stack[-1], dict), zip(items[::2], items[1::2], strict=True))
                case "GLOBAL":
                    stack.append(_allowed(argument))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(_allowed(f"{_expect(module, str)} {_expect(name, str)}"))
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE":
                    arguments, function = _expect(stack.pop(), tuple), _expect(stack.pop(), Global)
                    stack.append(_call(function.name, arguments))
                case "BUILD":
                    stack.pop()  # attributes of an ordered dict: versions of PyTorch's modules
                    _expect(stack[-1], dict)
                case name:
                    raise InputError(f"has the pickle opcode {name}, which a state dict does not need")
        return value, file.tell()

    def _storage(self, identity: Any) -> Storage:
        kind, storage, key, _, count, *view = _expect(identity, tuple)
        if kind != "storage" or any(part is not None for part in view):
            raise InputError("refers to something that is not a plain storage")
        name = _expect(storage, Global).name.split(" ")[1]
        if name == "UntypedStorage":
            dtype = DTYPES["uint8"]
        elif name in _STORAGES:
            dtype = DTYPES[_STORAGES[name]]
        else:
            raise InputError(f"has a storage of kind {name}; expected {', '.join(_STORAGES)}")
        found = Storage(_expect(key, str), dtype, _natural(count))
        if self.storages.setdefault(found.key, found) != found:
            raise InputError(f"describes the storage {found.key!r} in two ways")
        return found


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise InputError(f"has a {type(value).__name__} in its pickle where a {kind.__name__} belongs")
    return value


def _natural(value: Any) -> int:
    if not 0 <= _expect(value, int) < 2**62:
        raise InputError("has a count in its pickle that is negative or too large")
    return value


def _naturals(value: Any) -> tuple[int, ...]:
    if len(_expect(value, tuple)) > 32:
        raise InputError(f"has a tensor with {len(value)} axes; expected at most 32")
    return tuple(map(_natural, value))


def _update(target: dict[str, Any], items: Any) -> None:
    # Tensors have names. To hash anything else could take as long, or go as deep, as the file pleases.
    target.update({key: value for key, value in items if type(key) is str})


def _allowed(name: str) -> Global:
    if name not in _ALLOWED:
        raise InputError(
            f"would import {name.replace(' ', '.')!r} in PyTorch; expected a state dict, which holds tensors only: "
            "torch.save(model.state_dict(), FILE)"
        )
    return Global(name)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What the allowed functions return, without calling them."""
    match name.split(" ")[1], arguments:
        case "OrderedDict", ():
            return {}
        case "OrderedDict", (list() as pairs,):
            _update(ordered := {}, pairs)
            return ordered
        case "Size", (tuple() as size,):
            return size
        case "device", _:
            return None
        case "dtype" | "scalar" | "encode", _:
            return {}
        case "_rebuild_parameter", (Tensor() as tensor, _, _):
            return tensor
        case "_rebuild_tensor", (storage, offset, shape, strides):
            return _tensor(storage, None, offset, shape, strides)
        case "_rebuild_tensor_v2", (storage, offset, shape, strides, _, _, *_):
            return _tensor(storage, None, offset, shape, strides)
        case "_rebuild_tensor_v3", (storage, offset, shape, strides, _, _, Global() as dtype, *_):
            return _tensor(storage, DTYPES.get(dtype.name.split(" ")[1]), offset, shape, strides)
    raise InputError(f"calls {name.replace(' ', '.')} in a way that PyTorch does not")


def _tensor(storage: Any, dtype: np.dtype | None, offset: Any, shape: Any, strides: Any) -> Tensor:
    storage, shape, strides = _expect(storage, Storage), _naturals(shape), _naturals(strides)
    if len(shape) != len(strides):
        raise InputError(f"has a tensor of {len(shape)} axes with {len(strides)} strides")
    return Tensor(storage, dtype or storage.dtype, _natural(offset), shape, strides)


def dump(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of a state dict whose tensor i is the whole of storage "i".

    Args:
      tensors: by name, each of a type of `DTYPES` that has a storage class of its own.

    Returns:
      The bytes, which `torch.load(..., weights_only=True)` accepts.
    """
    storages = {DTYPES[dtype]: storage for storage, dtype in _STORAGES.items()}
    out = [pickle.PROTO + b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    for key, (name, tensor) in enumerate(tensors.items()):
        strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(tensor.ndim)]
        storage = [_text("storage"), _global("torch", storages[tensor.dtype]), _text(str(key)), _text("cpu")]
        out += [
            _text(name),
            _global("torch._utils", "_rebuild_tensor_v2"),
            pickle.MARK,
            _tuple([*storage, _integer(tensor.size)]),
            pickle.BINPERSID,
            _integer(0),
            _tuple(map(_integer, tensor.shape)),
            _tuple(map(_integer, strides)),
            pickle.NEWFALSE,
            _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE,
            pickle.TUPLE,
            pickle.REDUCE,
        ]
    return b"".join([*out, pickle.SETITEMS, pickle.STOP])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(items: Any) -> bytes:
    return b"".join([pickle.MARK, *items, pickle.TUPLE])
