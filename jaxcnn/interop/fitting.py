"""Whether the arrays of a file fit a network, and the state that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.state import State


def leaves(state: State) -> dict[str, Any]:
    """Parameters (averaged ones where kept) and batch statistics by path: "params/stage1/block1/conv1/kernel"."""
    return flax.traverse_util.flatten_dict(state.variables, sep="/")


def inside(path: str, module: str) -> bool:
    """Whether "params/head/kernel" belongs to the module "head"."""
    return f"{path.partition('/')[2]}/".startswith(f"{module}/")


def filled(state: State, values: Mapping[str, np.ndarray]) -> State:
    """The state with `values` by path in the place of its own; averaged parameters become the parameters."""
    arrays = {path: jnp.asarray(value) for path, value in values.items()}
    tree = flax.traverse_util.unflatten_dict(leaves(state) | arrays, sep="/")
    averaged = None if state.ema_params is None else tree["params"]
    return state.replace(params=tree["params"], batch_stats=tree.get("batch_stats", {}), ema_params=averaged)


def last_layer(path: str) -> bool:
    """Whether "params/aux1/head/kernel" belongs to a layer with an output for each class."""
    return path.split("/")[-2] == "head"


def compare(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    surplus: Callable[[str], bool],
    heads: Mapping[str, int],
) -> None:
    """Compares the shapes of a file with those of a network.

    Args:
      found: shapes in the file, by name.
      expected: shapes of the network, by the same names.
      surplus: which names the network can do without.
      heads: of the names of last layers, the axis of the classes.

    Raises:
      InputError: they differ; the message lists some names that are missing, surplus and of another shape.
    """
    missing = [name for name in expected if name not in found]
    extra = [ascii(name)[1:-1] for name in found if name not in expected and not surplus(name)]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    shapes = [f"{name} is {found[name]}, expected {expected[name]}" for name in other]
    differences = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (extra, "extra"), (shapes, "of another shape"))
        if names
    ]
    if not differences:
        return
    classes = ""
    if not missing and not extra and all(name in heads and len(found[name]) == len(expected[name]) for name in other):
        pairs = {(found[name][heads[name]], expected[name][heads[name]]) for name in other}
        if len(pairs) == 1 and all(
            np.array_equal(np.delete(found[name], heads[name]), np.delete(expected[name], heads[name]))
            for name in other
        ):
            ((was, wanted),) = pairs
            classes = f"; the file is for {was} classes, the network for {wanted}"
    raise InputError(f"does not fit the network: {', '.join(differences)}{classes}")


def numbers(name: str, array: np.ndarray) -> np.ndarray:
    """The array as float32.

    Raises:
      InputError: it holds no floating-point numbers, or one that is not finite.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"has {name} as {array.dtype}; expected floating-point numbers")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"has numbers in {name} that are not finite in float32; expected finite ones")
    return array
