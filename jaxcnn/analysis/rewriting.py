"""A network's computation with other rules in the place of some of its functions.

What a network computes is traced, whatever module it is, and run again function by function. So a method that needs
another backward rule asks nothing of the network: neither a field nor a certain layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
from jax import Array, lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxcnn.layers.rectifiers import scanned

Rule: TypeAlias = Callable[[JaxprEqn, Sequence[Any]], Any]
"""Of an equation and the values of its operands: the values of its results, or None to compute them as usual."""


def rewrite(function: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """The function with a rule applied to each primitive function that it calls.

    What is called inside other functions (jitted, rematerialised) counts; in loops too. A function with a derivative of
    its own keeps it unless the rule applies to something inside; whatever is inside, if the rule has an attribute
    `exact`, which says that it changes no derivative.

    Args:
      function: of pytrees of arrays.
      rule: asked about every equation.

    Returns:
      A function of the same arguments.
    """

    def rewritten(*args: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = run(program.jaxpr, program.consts, jax.tree.leaves(args), rule)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rewritten


def run(program: Jaxpr, constants: Sequence[Any], values: Sequence[Any], rule: Rule) -> list[Any]:
    """The results of a program under a rule.

    Args:
      program: what is computed.
      constants: values of its constants.
      values: of its arguments; anything that the rule understands.
      rule: asked about every equation, which computes those itself whose operands are not arrays.
    """
    known: dict[Any, Any] = dict(zip(program.constvars, constants, strict=True))
    known.update(zip(program.invars, values, strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in program.eqns:
        operands = [value(variable) for variable in equation.invars]
        if equation.primitive.name in _CALLS:
            results = _called(equation, operands, rule)
        elif equation.primitive.name in _DERIVED:
            # What only computes the same faster is no reason to lose a derivative of the function's own.
            results = None if getattr(rule, "exact", False) else _if_changed(equation, operands, rule)
        else:
            results = rule(equation, operands)
        if results is None:
            again = partial(_loop, rule=rule) if equation.primitive is lax.scan_p else bind
            results = again(equation, operands)
        known.update(zip(equation.outvars, results, strict=True))
    return [value(variable) for variable in program.outvars]


def bind(equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation as usual, for other operands of the same shapes."""
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


_CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat"}
"""What does nothing but call a program."""

_DERIVED = {"custom_jvp_call", "custom_vjp_call"}
"""What calls a program and has another derivative."""


def _called(equation: JaxprEqn, operands: Sequence[Any], rule: Rule) -> list[Any]:
    program = next(equation.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in equation.params)
    return run(getattr(program, "jaxpr", program), getattr(program, "consts", ()), operands, rule)


def _if_changed(equation: JaxprEqn, operands: Sequence[Any], rule: Rule) -> list[Any] | None:
    """The results of the program that is called; None if the rule applies to nothing in it."""
    changed = False

    def asked(equation: JaxprEqn, operands: Sequence[Any]) -> Any:
        nonlocal changed
        results = rule(equation, operands)
        changed |= results is not None
        return results

    results = _called(equation, operands, asked)
    return results if changed else None


def _loop(equation: JaxprEqn, operands: Sequence[Any], rule: Rule) -> list[Any]:
    parameters = equation.params
    body = parameters["jaxpr"]
    fixed, carried = scanned(parameters)

    def step(carry: list[Array], slices: list[Array]) -> tuple[list[Array], list[Array]]:
        results = run(body.jaxpr, body.consts, [*operands[:fixed], *carry, *slices], rule)
        return results[:carried], results[carried:]

    start, slices = list(operands[fixed : fixed + carried]), list(operands[fixed + carried :])
    loop = partial(lax.scan, length=parameters["length"], reverse=parameters["reverse"], unroll=parameters["unroll"])
    carry, stacked = loop(step, start, slices)
    return [*carry, *stacked]
