"""What several tests compare by."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.testing import assert_allclose


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5, *, floor: float = 1e-3) -> None:
    """Within `tolerance` of the largest expected magnitude (at least `floor`), leaf by leaf of equal trees."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert_arrays_close(jax.tree.leaves(actual), jax.tree.leaves(expected), tolerance, floor=floor)


def assert_arrays_close(actual: Any, expected: Any, tolerance: float = 1e-5, *, floor: float = 0.0) -> None:
    """Within `tolerance` of the largest expected magnitude (at least `floor`), array by array of equal shapes."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        e = np.asarray(e, np.float64)
        assert_allclose(np.asarray(a, np.float64), e, rtol=0, atol=tolerance * np.abs(e).max(initial=floor))


def value_and_gradients(function: Any, arrays: Any, dy: Any) -> tuple[Any, tuple[Any, ...]]:
    """The value and the gradient to each array; compiled."""

    @jax.jit
    def run(arrays: Any, dy: Any) -> tuple[Any, tuple[Any, ...]]:
        y, vjp = jax.vjp(function, *arrays)
        return y, vjp(dy)

    return run(arrays, dy)
