"""Guided backpropagation and the deconvnet: the gradient with another backward rule for the ReLU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Var
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.attribution import Method, Question, Score, Targets, ask, finish, logits
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.max_pooling import faster
from jaxcnn.analysis.rewriting import rewrite
from jaxcnn.errors import InputError
from jaxcnn.layers.rectifiers import in_normalisation, named_normalisation
from jaxcnn.state import State

Backward = Callable[[Array, Array], Array]


def guided_backpropagation(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, "n h w c"]:
    """The derivative of the score that no ReLU lets pass where its input or the derivative is negative.

    R_in = R_out 1(x > 0) 1(R_out > 0) at each ReLU

    It draws edges well and hardly depends on what is explained: see `sanity`.

    Args:
      model: see `saliency.gradient`, as all arguments; with ReLUs that are maxima of x and what is written as 0.
        `nn.relu(x)`, `jnp.maximum(x, jnp.zeros_like(x))` and `jnp.clip(x, 0)` are, `jnp.where(x > 0, x, 0)` is not.
        What keeps the variance of flax's normalisation layers from being negative is none of them.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused.
      chunk: images evaluated at once.

    Returns:
      R at the image, signed.

    Raises:
      InputError, RunError: see `saliency.gradient`; or the network has no ReLU.

    Reference: Springenberg, Dosovitskiy, Brox & Riedmiller 2015, "Striving for simplicity", section 3.4.
    """
    return finish(rectified(ask(model, state, images, targets, key=key, chunk=chunk), guided))


def deconvnet(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, "n h w c"]:
    """The projection of the score back to the image by a deconvnet: ReLUs rectify what passes backwards through them.

    R_in = R_out 1(R_out > 0) at each ReLU; pooling returns it to where the maximum was

    Args:
      model: see `guided_backpropagation`, as all arguments.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused.
      chunk: images evaluated at once.

    Returns:
      R at the image, signed.

    Raises:
      InputError, RunError: see `guided_backpropagation`.

    Reference: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1.
    """
    return finish(rectified(ask(model, state, images, targets, key=key, chunk=chunk), _deconvolved))


def rectified(question: Question, backward: Backward) -> Float[Array, "n h w c"]:
    """The derivative of the score with another backward rule for the ReLU.

    Args:
      question: what is explained.
      backward: from a ReLU's input and the derivative of its output to that of its input.

    Raises:
      InputError: the network has no ReLU.
    """
    return question.map(partial(_rectified, question.network, backward, question.variables))


def guided(x: Array, g: Array) -> Array:
    """The rule of guided backpropagation, for `rectified`: g where x and g are positive, else 0."""
    return jnp.where((x > 0) & (g > 0), g, 0)


def _deconvolved(x: Array, g: Array) -> Array:
    return jnp.maximum(g, 0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _relu(backward: Backward, x: Array) -> Array:
    return jnp.maximum(x, 0)


_relu.defvjp(
    lambda backward, x: (jnp.maximum(x, 0), x),
    lambda backward, x, g: (backward(x, g),),
)


@compiled(static_argnums=(0, 1))
def _rectified(
    network: tuple[nn.Module, Score],
    backward: Backward,
    variables: Any,
    images: Array,
    classes: Array | None,
    _: Any,
) -> Float[Array, "n h w c"]:
    model, score = network
    met = False
    zeros: set[Var] = set()

    def rule(equation: JaxprEqn, operands: Sequence[Any]) -> list[Array] | None:
        nonlocal met
        x = rectifies(equation, operands, zeros)
        if x is None:
            return faster(equation, operands)
        met = True
        return [_relu(backward, x)]

    changed = rewrite(partial(_marked, model), rule)
    derivative = jax.grad(lambda x: score(changed(variables, x), classes).sum())(images)
    if not met:
        raise InputError(f"{type(model).__name__} has no ReLU; expected a network with ReLUs, max(x, 0)")
    return derivative


_COPYING = (lax.broadcast_in_dim_p, lax.convert_element_type_p, lax.reshape_p)


def mark_normalisation(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """For `nn.intercept_methods`: names what normalisation layers compute, so that none of it is taken for a ReLU."""
    with named_normalisation(context.module):
        return call(*args, **kwargs)


def _marked(model: nn.Module, variables: Any, images: Array) -> Any:
    with nn.intercept_methods(mark_normalisation):
        return logits(model, variables, images)


def rectifies(equation: JaxprEqn, operands: Sequence[Any], zeros: set[Var]) -> Any:
    """x, if the equation is the max(x, 0) of a ReLU, of a program traced with `mark_normalisation`; None if not.

    Args:
      equation: of a program that is run.
      operands: its operands' values.
      zeros: the variables of the equations before that were found to be 0 everywhere; this one's are added.
    """

    def zero(variable: Any) -> bool:
        return variable in zeros if isinstance(variable, Var) else not np.any(variable.val)

    if equation.primitive in _COPYING:
        number = not isinstance(operands[0], jax.Array) and not np.any(operands[0])
        note = zeros.add if number or zero(equation.invars[0]) else zeros.discard  # a program may be run again
        note(equation.outvars[0])
    if equation.primitive is not lax.max_p or in_normalisation(equation):
        return None
    return next((x for variable, x in zip(equation.invars, reversed(operands), strict=True) if zero(variable)), None)


METHODS = {
    "guided_backpropagation": Method(
        guided_backpropagation, "guided backpropagation", False, "Springenberg et al. 2015"
    ),
    "deconvnet": Method(deconvnet, "deconvnet", False, "Zeiler & Fergus 2014"),
}
