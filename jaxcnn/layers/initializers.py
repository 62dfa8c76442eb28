"""Initialisers that several families share, by the names of their papers, and a network's kernels drawn anew."""

from __future__ import annotations

import re
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from jaxcnn.config import InitializerName
from jaxcnn.errors import InputError

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2 / fan-in): He, Zhang, Ren & Sun, "Delving deep into rectifiers", 2015, equation 10."""

he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / fan-out), which keeps the variance of the gradients: the same paper, equation 14."""

glorot_uniform = nn.initializers.glorot_uniform()
"""U(-a, a) with a^2 = 6 / (fan-in + fan-out): Glorot & Bengio 2010, equation 16."""


def _uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)


INITIALIZERS: dict[str, nn.initializers.Initializer] = {
    "normal": nn.initializers.normal(0.01),
    "uniform": _uniform,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "he_uniform": nn.initializers.variance_scaling(2.0, "fan_in", "uniform"),
    "he_normal": he_normal,
    "orthogonal": nn.initializers.orthogonal(),
}
"""Of kernels, by the names of `ModelConfig.initializer`."""


def initialize(params: PyTree, name: InitializerName, key: Key[Array, ""]) -> PyTree:
    """The parameters with every kernel drawn anew; biases and batch-norm parameters stay as they are.

    "normal" is N(0, 0.01^2) and "uniform" U(-0.05, 0.05). With n_in and n_out the fan-in and fan-out, "glorot" has the
    variance 2 / (n_in + n_out) and "he" 2 / n_in, as a normal or a uniform distribution. "orthogonal" takes the kernel
    as the matrix of its inputs by its filters and makes the columns orthonormal, or the rows where they are fewer.

    A kernel [kh, kw, C / groups, features] has the fan-in kh kw C / groups. Its fan-out is taken as kh kw features,
    as in PyTorch: the kernel does not tell its groups, by which the true one is smaller.

    Args:
      params: of a network, nested dictionaries.
      name: of the distribution.
      key: a kernel's values depend on it, on the kernel's path and on its shape, and on nothing else.

    Returns:
      Parameters of the same shapes.

    References: Glorot & Bengio 2010; He, Zhang, Ren & Sun 2015; Saxe, McClelland & Ganguli 2014 (orthogonal).
    """

    def draw(path: Any, leaf: Array) -> Array:
        if getattr(path[-1], "key", None) != "kernel":
            return leaf
        place = zlib.crc32(jax.tree_util.keystr(path, simple=True, separator="/").encode())
        return INITIALIZERS[name](jax.random.fold_in(key, place), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, params)


def zero_gamma(params: PyTree, norms: str | None) -> PyTree:
    """The parameters with the scale 0 in the last batch norm of every residual block, which starts as its shortcut.

    Args:
      params: of a network, nested dictionaries.
      norms: what the paths of these batch norms match, a regular expression such as "stage./block./norm3"; None for a
        network without them.

    Returns:
      Parameters of the same shapes.

    Raises:
      InputError: there is no such batch norm.

    Reference: Goyal et al., "Accurate, large minibatch SGD", 2017, section 5.1.
    """
    found = []

    def silence(path: Any, leaf: Array) -> Array:
        *module, name = (str(getattr(part, "key", part)) for part in path)
        if norms is None or name != "scale" or not re.fullmatch(norms, "/".join(module)):
            return leaf
        found.append(module)
        return jnp.zeros_like(leaf)

    params = jax.tree_util.tree_map_with_path(silence, params)
    if not found:
        raise InputError("model.zero_gamma is True; expected a network whose residual blocks end with a batch norm")
    return params
