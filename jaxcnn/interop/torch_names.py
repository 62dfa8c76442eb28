"""Between PyTorch's names and layouts and ours: one copy by rule, in both directions, for every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.interop import fitting
from jaxcnn.models.registration import TorchNames
from jaxcnn.state import State

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_COUNTER = "num_batches_tracked"  # of each batch norm in PyTorch; nothing here depends on it


def from_torch(
    names: TorchNames, tensors: Mapping[str, np.ndarray], state: State, *, skip: Sequence[str] = ()
) -> State:
    """The state with the parameters and batch statistics of a PyTorch state dict.

    Kernels [O, I, H, W] (of transposed convolutions [I, O, H, W]) become [H, W, I, O] and [O, I] become [I, O]; a
    dense layer after a flattened map has its inputs reordered from C, H, W to H, W, C; numbers become float32.

    Args:
      names: of the network's parts in PyTorch.
      tensors: by PyTorch's names.
      state: of the network; only shapes are looked at, except of what is skipped.
      skip: paths of modules here, such as "head", that keep the state's own values whatever the tensors say.

    Returns:
      The state; averaged parameters, where it keeps them, are the parameters.

    Raises:
      InputError: names are missing or surplus, or shapes differ (the message lists some of each), or a number is not
        finite.
    """
    own = fitting.leaves(state)
    kept = {path for path in own if any(fitting.inside(path, module) for module in skip)}
    torch_names = {path: _torch_name(names, path) for path in own}
    surplus = (*names.surplus, *{torch_names[path].rpartition(".")[0] + "." for path in kept})
    fitting.compare(
        {name: tensor.shape for name, tensor in tensors.items() if name.rpartition(".")[2] != _COUNTER},
        {torch_names[path]: _torch_shape(names, path, leaf.shape) for path, leaf in own.items() if path not in kept},
        lambda name: name.startswith(surplus),
        {torch_names[path]: 0 for path in own if fitting.last_layer(path)},
    )
    values = {}
    for path in own.keys() - kept:
        name = torch_names[path]
        tensor = fitting.numbers(name, tensors[name])
        if size := _flattened(names, path):
            tensor = tensor.reshape(len(tensor), -1, *size)
        if tensor.ndim == 4:
            tensor = tensor.transpose(2, 3, 0, 1) if _transposed(names, path) else tensor.transpose(2, 3, 1, 0)
        values[path] = np.ascontiguousarray(tensor if tensor.ndim == 4 else tensor.T).reshape(own[path].shape)
    return fitting.filled(state, values)


def to_torch(names: TorchNames, state: State) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, bit by bit.

    Args:
      names: of the network's parts in PyTorch.
      state: of the network; averaged parameters are taken where it keeps them.

    Returns:
      Tensors by PyTorch's names, module by module, with a zero `num_batches_tracked` for each batch norm.
    """
    modules: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in fitting.leaves(state).items():
        module, _, name = _torch_name(names, path).rpartition(".")
        shape, array = _torch_shape(names, path, leaf.shape), np.asarray(leaf)
        if size := _flattened(names, path):
            array = array.reshape(*size, -1, shape[0])
        if array.ndim == 4:
            array = array.transpose(2, 3, 0, 1) if _transposed(names, path) else array.transpose(3, 2, 0, 1)
        tensors = modules.setdefault(module, {})
        tensors[name] = np.ascontiguousarray(array if array.ndim == 4 else array.T).reshape(shape)
        if name == "running_var":
            tensors[_COUNTER] = np.zeros((), np.int64)
    return {f"{module}.{name}": tensor for module, tensors in modules.items() for name, tensor in tensors.items()}


def _torch_name(names: TorchNames, path: str) -> str:
    module, leaf = _split(path)
    try:
        return f"{names.module(module)}.{_LEAVES.get(leaf, leaf)}"
    except KeyError:
        raise InputError(
            f"cannot be named: {module} is not in the published form of this network, so PyTorch has no name for it"
        ) from None


def _flattened(names: TorchNames, path: str) -> tuple[int, int] | None:
    module, leaf = _split(path)
    return names.flattened.get(module) if leaf == "kernel" else None


def _split(path: str) -> tuple[str, str]:
    module, _, leaf = path.partition("/")[2].rpartition("/")
    return module, leaf


def _transposed(names: TorchNames, path: str) -> bool:
    return _split(path)[0] in names.transposed


def _torch_shape(names: TorchNames, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 4:
        return shape[::-1]
    return (*shape[2:], *shape[:2]) if _transposed(names, path) else (shape[3], shape[2], *shape[:2])
