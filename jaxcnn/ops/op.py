"""What an operation is here: a forward pass, a backward pass written by hand, and the function that joins them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec

import jax
import jax.numpy as jnp
from jax import Array

from jaxcnn.errors import InputError

P = ParamSpec("P")


class Op(Generic[P]):
    """A function whose derivative is written by hand.

    `op(x, w, option=...)` is the value, and `jax.grad` of it is `backward`. A derivative of that one, in forward or in
    reverse mode (`jax.hessian`), is autodiff's, through both passes as they are written. The two can be called, and
    read, by themselves:

    z, saved = op.forward(x, w, option=...)
    dx, dw = op.backward(saved, dz, option=...)

    Positional parameters are arrays, keyword-only ones are options.

    Attributes:
      forward: maps arrays and options to the value and to what the backward pass needs of it.
      backward: maps that, dL/dvalue and the options to dL/darray for each array, None for one that has no derivative
        (labels, random keys).
    """

    def __init__(
        self, forward: Callable[P, tuple[Array, Any]], backward: Callable[..., tuple[Array | None, ...]]
    ) -> None:
        self.forward: Callable[P, tuple[Array, Any]] = forward
        self.backward: Callable[..., tuple[Array | None, ...]] = backward
        self.__signature__ = self._signature = inspect.signature(forward)
        self.__doc__ = forward.__doc__
        self.__name__ = forward.__name__.removesuffix("_forward")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Array:
        """The value, differentiable in reverse mode by `backward`; raises what `forward` raises."""
        bound = self._signature.bind(*args, **kwargs)
        options, dtypes = bound.kwargs, [jnp.result_type(array) for array in bound.args]

        @jax.custom_vjp
        def value(*arrays: Any) -> Array:
            return self.forward(*arrays, **options)[0]  # type: ignore[call-arg]

        def forward(*arrays: Any) -> tuple[Array, Any]:
            return self.forward(*arrays, **options)  # type: ignore[call-arg]

        def backward(saved: Any, gradient: Array) -> tuple[Array | None, ...]:
            gradients = self.backward(saved, gradient, **options)
            # Of mixed types, the product of two is the wider one; a gradient is of the type of its own array.
            return tuple(g if g is None else g.astype(t) for g, t in zip(gradients, dtypes, strict=True))

        value.defvjp(forward, backward)
        return value(*bound.args)

    def __repr__(self) -> str:
        return f"Op({self.__name__})"


def check_floating(name: str, **arrays: Array) -> None:
    """Refuses integers, whose derivatives would be nothing.

    Args:
      name: of the operation.
      arrays: its inputs by name.

    Raises:
      InputError: an array is not floating point; every shape is named.
    """
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays.values()):
        given = " and ".join(f"{key} {array.shape} of {array.dtype}" for key, array in arrays.items())
        raise InputError(f"{name} got {given}; expected floating point")
