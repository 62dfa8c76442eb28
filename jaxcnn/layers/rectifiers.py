"""ReLUs of any network, found in its traced program and watched as the program is evaluated equation by equation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var


class Rectified(flax.struct.PyTreeNode):
    """What a ReLU's output shows: alive, 0 or 1, [..., units], and zero [...]; a leading axis for each scan around."""

    name: str = flax.struct.field(pytree_node=False)
    alive: Any
    zero: Any


Evaluated: TypeAlias = tuple[list[Any], list[Rectified]]

_NORMALISATION = "[normalisation]"


def scanned(params: Any) -> tuple[int, int]:
    """How many arguments of a scan are the same in every step, and how many after them are carried on."""
    if "ft_in" in params:  # as JAX 0.11 groups the arguments
        fixed, carried, _ = map(len, params["ft_in"].unpack())
        return fixed, carried
    return params["num_consts"], params["num_carry"]


def named_normalisation(module: nn.Module) -> AbstractContextManager[Any]:
    """Within it, what one of flax's normalisation layers computes is named so; of other modules, nothing is.

    They keep a variance from being negative by max(variance, 0), which is no ReLU.
    """
    normalises = isinstance(module, nn.BatchNorm | nn.GroupNorm | nn.InstanceNorm | nn.LayerNorm | nn.RMSNorm)
    return jax.named_scope(_NORMALISATION) if normalises else nullcontext()


def in_normalisation(equation: JaxprEqn) -> bool:
    """Whether a normalisation layer computes it, of a program traced with `named_normalisation`."""
    return _NORMALISATION in str(equation.source_info.name_stack)


def marker(called: list[str]) -> Callable[..., Any]:
    """Writes the path of the module that computes it beside every equation, and every path into `called`."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = "/".join(context.module.path)
        called.append(path)
        with jax.named_scope(f"<{path}>"), named_normalisation(context.module):
            return call(*args, **kwargs)

    return intercept


def _module(equation: JaxprEqn) -> str | None:
    marks = re.findall("<([^<>]*)>", str(equation.source_info.name_stack))
    return marks[-1] if marks else None


def evaluate(
    program: Any, args: Sequence[Any], sources: Sequence[str | None] = (), scope: str | None = None
) -> Evaluated:
    """The outputs of a program, and what its ReLUs show, in order.

    Args:
      program: an open or a closed Jaxpr.
      args: its arguments.
      sources: the modules that computed the last arguments, or none of them.
      scope: the module that runs the program, if one does.
    """
    jaxpr: Jaxpr = getattr(program, "jaxpr", program)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    values: dict[Var, Any] = dict(zip(inputs, [*getattr(program, "consts", ()), *args], strict=True))
    makers: dict[Var, str | None] = dict(zip(inputs[len(inputs) - len(sources) :], sources, strict=True))
    found: list[Rectified] = []

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        module = _module(equation)
        module = scope if module is None else module
        operands = [read(atom) for atom in equation.invars]
        origins = [None if isinstance(atom, Literal) else makers.get(atom) for atom in equation.invars]
        if _rectifies(equation):
            outputs, inner = _NESTED[equation.primitive.name](equation.params, operands, origins, module)
            found += inner
        else:
            with equation.ctx.manager:
                params = equation.primitive.get_bind_params(equation.params)
                outputs = equation.primitive.bind(*operands, **params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
            # What no module computes is part of the loss, and what has no batch, of a parameter or a statistic.
            layer = module is not None and outputs[0].ndim >= 2 and not in_normalisation(equation)
            if module is not None and layer and _is_rectifier(equation):
                origin = next((origin for origin in origins if origin is not None), module)
                within = not module or (origin + "/").startswith(module + "/")
                found.append(_look(origin if within else module, outputs[0]))
        values.update(zip(equation.outvars, outputs, strict=True))
        makers.update(dict.fromkeys(equation.outvars, module))
    return [read(atom) for atom in jaxpr.outvars], found


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names with a number after each that was there before: "relu", "relu 2"."""
    return tuple(f"{name} {names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names))


def _look(name: str, y: Array) -> Rectified:
    y = jax.lax.stop_gradient(y)
    alive = (y != 0).any(tuple(range(y.ndim - 1))).astype(jnp.float32)
    return Rectified(name=name or "relu", alive=alive, zero=(y == 0).mean(dtype=jnp.float32))


def _run_jit(params: Any, args: Any, origins: Any, module: str | None) -> Evaluated:
    return evaluate(params["jaxpr"], args, origins, module)


def _run_checkpoint(params: Any, args: Any, origins: Any, module: str | None) -> Evaluated:
    options = {"prevent_cse": params["prevent_cse"], "policy": params["policy"]}
    return jax.checkpoint(lambda *args: evaluate(params["jaxpr"], args, origins, module), **options)(*args)


def _run_scan(params: Any, args: Any, origins: Any, module: str | None) -> Evaluated:
    first, carried = scanned(params)
    consts, init, xs = args[:first], args[first : first + carried], args[first + carried :]

    def run(carry: Any, xs: Any) -> tuple[Any, Any]:
        outputs, found = evaluate(params["jaxpr"], [*consts, *carry, *xs], origins, module)
        return outputs[:carried], (outputs[carried:], found)

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, (ys, found) = jax.lax.scan(run, init, xs, **options)
    return [*carry, *ys], found


def _run_cond(params: Any, args: Any, origins: Any, module: str | None) -> Evaluated:
    index, *operands = args

    def run(branch: Any, *operands: Any) -> Evaluated:
        return evaluate(branch, operands, origins[1:], module)

    runs = [partial(run, branch) for branch in params["branches"]]
    shapes = [jax.eval_shape(one, *operands)[1] for one in runs]

    def complete(chosen: int, *operands: Any) -> Evaluated:
        """The ReLUs of every branch, those of the others as not executed."""
        outputs, own = runs[chosen](*operands)
        absent = [jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan), found) for found in shapes]
        return outputs, [r for i, found in enumerate(absent) for r in (own if i == chosen else found)]

    return jax.lax.switch(index, [partial(complete, i) for i in range(len(runs))], *operands)


_NESTED = {
    "jit": _run_jit,
    "checkpoint": _run_checkpoint,
    "remat2": _run_checkpoint,
    "scan": _run_scan,
    "cond": _run_cond,
}


def _inner(equation: JaxprEqn) -> list[Jaxpr]:
    params = equation.params
    programs = [*params.get("branches", ()), *(params[name] for name in ("jaxpr", "call_jaxpr") if name in params)]
    return [getattr(program, "jaxpr", program) for program in programs]


def _flat(equation: JaxprEqn) -> list[JaxprEqn]:
    inner = [step for jaxpr in _inner(equation) for step in jaxpr.eqns]
    return [step for one in inner for step in _flat(one)] if inner else [equation]


def _is_rectifier(equation: JaxprEqn) -> bool:
    """Whether it is max(x, 0), or a function with a derivative of its own that is max(x, 0), capped or not."""
    if equation.primitive.name != "max" and not equation.primitive.name.startswith("custom_"):
        return False
    first, *rest = _flat(equation)
    zero = any(isinstance(atom, Literal) and np.all(np.asarray(atom.val) == 0) for atom in first.invars)
    return first.primitive.name == "max" and zero and all(step.primitive.name == "min" for step in rest)


def _rectifies(equation: JaxprEqn) -> bool:
    """Whether it holds programs, of a kind that can be evaluated here, with a ReLU in them."""
    if equation.primitive.name not in _NESTED:
        return False
    return any(_is_rectifier(inner) or _rectifies(inner) for jaxpr in _inner(equation) for inner in jaxpr.eqns)
