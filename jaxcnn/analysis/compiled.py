"""Programs of the analyses, compiled as is fastest for the backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcnn.layers.convolution import compiler_options

F = TypeVar("F", bound=Callable[..., Any])


def compiled(static_argnums: int | tuple[int, ...], donate_argnums: int | tuple[int, ...] = ()) -> Callable[[F], F]:
    """Like `jax.jit`, with `convolution.compiler_options`, which jit takes only where nothing around is traced.

    The backend, on which the options depend, is asked for at the first call and not as the function is defined.

    Args:
      static_argnums: as of `jax.jit`; arguments go by their places.
      donate_argnums: as of `jax.jit`.
    """

    def decorate(function: F) -> F:
        jit = partial(jax.jit, function, static_argnums=static_argnums, donate_argnums=donate_argnums)
        plain = jit()

        @cache
        def fastest() -> Callable[..., Any]:
            return jit(compiler_options=compiler_options())

        @wraps(function)
        def call(*args: Any) -> Any:
            # Under a trace, what is made is traced, even where all arguments are known.
            traced = any(isinstance(leaf, Tracer) for leaf in (jnp.zeros(()), *jax.tree.leaves(args)))
            return plain(*args) if traced else fastest()(*args)

        call.fastest = fastest  # type: ignore[attr-defined]  # for whoever counts the programs
        return call  # type: ignore[return-value]

    return decorate
