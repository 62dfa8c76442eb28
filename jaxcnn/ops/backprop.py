"""Backpropagation through a list of layers, step by step as it is taught."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxcnn.errors import InputError
from jaxcnn.ops.op import Op, check_floating


class Layer:
    """One function f_l of a composition, with its weights: `Layer(convolution, kernel, strides=2)`.

    Attributes:
      op: an `Op`; a plain function of an array, weights and options becomes one whose backward pass is autodiff's.
      weights: the arrays W_l that the op takes after its input; there may be none.
      options: the op's keyword arguments.
    """

    def __init__(self, op: Op | Callable[..., Array], *weights: Array, **options: Any) -> None:
        self.op: Op = _op(op)
        self.weights: tuple[Array, ...] = weights
        self.options: dict[str, Any] = options

    def forward(self, x: Array) -> tuple[Array, Any]:
        """f_l(x), and what its backward pass needs."""
        return self.op.forward(x, *self.weights, **self.options)

    def backward(self, saved: Any, dz: Array) -> tuple[Any, ...]:
        """dz df_l/dx and, for each of the weights, dz df_l/dW_l."""
        return self.op.backward(saved, dz, **self.options)


class Backpropagation(NamedTuple):
    """What the algorithm computes for f = f_L o ... o f_1; the layer f_l is `layers[l - 1]`.

    Attributes:
      loss: a scalar, the L of dL.
      outputs: X_0 .. X_L, where X_0 is the input and X_l = f_l(X_{l-1}).
      gradients: G_0 .. G_L, where G_l = dL/dX_l has the shape of X_l.
      dweights: for each layer, in the order of the layers, dL/dW_l as a tuple like the layer's weights; None stands
        for an array that has no derivative, such as a random key.
    """

    loss: Float[Array, ""]
    outputs: tuple[Array, ...]
    gradients: tuple[Array, ...]
    dweights: tuple[tuple[Array | None, ...], ...]


def backpropagate(
    layers: Sequence[Layer], x: Array, loss: Op | Callable[..., Array], *targets: Array, **options: Any
) -> Backpropagation:
    """The loss of a composition of layers and its gradients with respect to every output and every weight.

    forward:  X_0 = x;  X_l = f_l(X_{l-1}) for l = 1 .. L
    backward: G_L = dL/df_L;  for l = L .. 1:  dL/dW_l = G_l df_l/dW_l;  G_{l-1} = G_l df_l/df_{l-1}

    Args:
      layers: f_1 .. f_L; there may be none.
      x: the input of the first layer.
      loss: maps X_L and the targets to a scalar; an op or, as a layer, a plain function.
      *targets: the further arrays that the loss takes.
      **options: the loss's keyword arguments.

    Returns:
      The loss, X_0 .. X_L, G_0 .. G_L and dL/dW_1 .. dL/dW_L.

    Raises:
      InputError: a layer refuses the output of the layer before it, or the loss that of the last one, with the layer's
        number, from 1, and name; or the loss is no scalar.

    Reference: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", 1986.
    """
    loss = _op(loss)
    outputs, saved = [x], []
    for number, layer in enumerate(layers, 1):
        with _named(f"layer {number} ({layer.op.__name__})"):
            output, kept = layer.forward(outputs[-1])
        outputs.append(output)
        saved.append(kept)
    with _named(f"loss ({loss.__name__})"):
        value, kept = loss.forward(outputs[-1], *targets, **options)
    if value.shape:
        raise InputError(f"loss ({loss.__name__}) has shape {value.shape}; expected a scalar")

    gradients: list[Any] = [loss.backward(kept, jnp.ones_like(value), **options)[0]]
    dweights = []
    for layer, kept in zip(reversed(layers), reversed(saved), strict=True):
        g, *dw = layer.backward(kept, gradients[-1])
        gradients.append(g)
        dweights.append(tuple(dw))
    return Backpropagation(value, tuple(outputs), tuple(reversed(gradients)), tuple(reversed(dweights)))


def _op(function: Op | Callable[..., Array]) -> Op:
    return function if isinstance(function, Op) else by_autodiff(function)


@contextmanager
def _named(place: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    except Exception as error:  # of a plain function, or of jax about too many weights
        error.add_note(f"This happened in {place}.")
        raise


def by_autodiff(function: Callable[..., Array]) -> Op:
    """The op of a function that has no backward pass by hand.

    Args:
      function: of arrays, given by position, and options, given by keyword; its value is one array.
    """

    @functools.wraps(function)
    def forward(*arrays: Array, **options: Any) -> tuple[Array, Any]:
        return jax.vjp(functools.partial(function, **options), *arrays)

    def backward(saved: Any, dz: Array, **_: Any) -> tuple[Array | None, ...]:
        return saved(dz)

    return Op(forward, backward)


def flatten_forward(x: Num[Array, "*n"]) -> tuple[Float[Array, "n d"], Float[Array, "n ..."]]:
    """Every example as one vector, the last axis running fastest.

    z[n, (h W + w) C + c] = x[n, h, w, c]

    Args:
      x: [N, ...], as [N, H, W, C].

    Returns:
      z [N, D], where D is the product of all sizes but N; and x, whose shape the backward pass needs.

    Raises:
      InputError: x is no floating-point array, or a scalar.
    """
    check_floating("flatten", x=x)
    if not x.ndim:
        raise InputError("flatten got x of shape (); expected examples along a first axis")
    return x.reshape(len(x), math.prod(x.shape[1:])), x


def flatten_backward(saved: Float[Array, "n ..."], dz: Float[Array, "n d"]) -> tuple[Float[Array, "n ..."]]:
    """dx[n, h, w, c] = dz[n, (h W + w) C + c].

    Args:
      saved: x, of `flatten_forward`.
      dz: dL/dz [N, D].

    Returns:
      dL/dx, of the shape of x.
    """
    return (dz.reshape(saved.shape),)


flatten = Op(flatten_forward, flatten_backward)
"""The op of `flatten_forward` and `flatten_backward`."""
