"""Activation functions, each beside its derivative: the lectures' table as code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from jaxcnn.errors import InputError
from jaxcnn.ops.op import Op, P, check_floating


class Activation(Op[P]):
    """A function of every element by itself, with its derivative in closed form.

    y = f(x);  dx = f'(x) dy

    `relu(x)` is f(x), `relu.derivative(x)` is f'(x), each of the shape and the type of x, which may have any shape.
    Both are finite at every finite x. Integers raise InputError.

    Attributes:
      kinks: the x at which f has no derivative. There `derivative` is the one from the left, as in PyTorch: 0 for ReLU.
    """

    def __init__(
        self, function: Callable[P, Array], derivative: Callable[..., Array], kinks: tuple[float, ...] = ()
    ) -> None:
        @functools.wraps(function)
        def forward(*args: P.args, **options: P.kwargs) -> tuple[Array, Any]:
            (x,) = args
            check_floating(self.__name__, x=x)  # type: ignore[arg-type]
            return function(*args, **options), x

        def backward(x: Array, dy: Array, **options: Any) -> tuple[Array]:
            return ((dy * self.derivative(x, **options)).astype(x.dtype),)  # type: ignore[call-arg]

        super().__init__(forward, backward)
        self._derivative = derivative
        self.kinks: tuple[float, ...] = kinks

    def derivative(self, *args: P.args, **options: P.kwargs) -> Array:
        """f'(x), for the arguments and options of the function."""
        bound = self._signature.bind(*args, **options)
        bound.apply_defaults()
        (x,) = bound.args
        check_floating(self.__name__, x=x)
        return self._derivative(x, **bound.kwargs).astype(x.dtype)


def activation(
    *, derivative: Callable[..., Array], kinks: tuple[float, ...] = ()
) -> Callable[[Callable[P, Array]], Activation[P]]:
    """Makes the function below it an `Activation`.

    Args:
      derivative: f'(x), of the function's own arguments; every option is handed over.
      kinks: the x at which f has no derivative.
    """
    return lambda function: Activation(function, derivative, kinks)


@activation(derivative=lambda x: jnp.ones_like(x))
def identity(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = x;  dy/dx = 1."""
    return x


@activation(derivative=lambda x: jnp.zeros_like(x), kinks=(0.0,))
def binary_step(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = 1 if x >= 0 else 0;  dy/dx = 0, so that nothing is learned through it.

    Reference: Rosenblatt, "The perceptron", 1958.
    """
    return (x >= 0).astype(x.dtype)


def _sigmoid_derivative(x: Array) -> Array:
    y = sigmoid(x)
    return y * (1 - y)


@activation(derivative=_sigmoid_derivative)
def sigmoid(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = 1 / (1 + exp(-x)), in [0, 1];  dy/dx = y (1 - y), at most 1/4.

    Written as exp(min(x, 0)) / (1 + exp(-|x|)), which is the same and cannot overflow.
    """
    return jnp.exp(jnp.minimum(x, 0)) / (1 + jnp.exp(-jnp.abs(x)))


@activation(derivative=lambda x: 1 - jnp.tanh(x) ** 2)
def tanh(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = (exp(x) - exp(-x)) / (exp(x) + exp(-x)), in [-1, 1];  dy/dx = 1 - y^2."""
    return jnp.tanh(x)


@activation(derivative=lambda x: 1 / (1 + x**2))
def arctan(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = arctan(x), in [-pi/2, pi/2];  dy/dx = 1 / (1 + x^2)."""
    return jnp.arctan(x)


@activation(derivative=lambda x: 1 / (1 + jnp.abs(x)) ** 2)
def softsign(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = x / (1 + |x|), in [-1, 1];  dy/dx = 1 / (1 + |x|)^2.

    Reference: Bergstra et al., "Quadratic polynomials learn better image features", 2009.
    """
    return x / (1 + jnp.abs(x))


@activation(derivative=lambda x: sigmoid(x))
def softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which cannot overflow;  dy/dx = 1 / (1 + exp(-x)).

    Reference: Dugas et al., "Incorporating second-order functional knowledge for better option pricing", 2001.
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@activation(derivative=lambda x: x > 0, kinks=(0.0,))
def relu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """y = max(x, 0);  dy/dx = 1 if x > 0 else 0.

    Reference: Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010.
    """
    return jnp.maximum(x, 0)


@activation(derivative=lambda x, slope: jnp.where(x > 0, 1, slope), kinks=(0.0,))
def leaky_relu(x: Float[Array, "*n"], *, slope: float = 0.01) -> Float[Array, "*n"]:
    """y = x if x > 0 else slope x;  dy/dx = 1 if x > 0 else slope.

    Reference: Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.
    """
    return jnp.where(x > 0, x, slope * x)


def _check_slopes(name: str, lower: float, upper: float) -> None:
    if not lower <= upper:
        raise InputError(f"{name} got lower {lower} and upper {upper}; expected lower <= upper")


def _mean_slope(lower: float, upper: float) -> float:
    _check_slopes("rrelu_inference", lower, upper)
    return (lower + upper) / 2


@activation(derivative=lambda x, lower, upper: jnp.where(x > 0, 1, _mean_slope(lower, upper)), kinks=(0.0,))
def rrelu_inference(x: Float[Array, "*n"], *, lower: float = 1 / 8, upper: float = 1 / 3) -> Float[Array, "*n"]:
    """y = x if x > 0 else (lower + upper) / 2 x: `rrelu` after training, with the mean of its slopes.

    dy/dx = 1 if x > 0 else (lower + upper) / 2

    Raises InputError where lower is above upper, as `rrelu` does.

    Reference: Xu et al., "Empirical evaluation of rectified activations in convolutional network", 2015.
    """
    return jnp.where(x > 0, x, _mean_slope(lower, upper) * x)


# Second derivatives need the minimum: autodiff of an exp(x) that overflows is NaN even where it is not chosen.
@activation(derivative=lambda x, alpha: jnp.where(x > 0, 1, alpha * jnp.exp(jnp.minimum(x, 0))))
def elu(x: Float[Array, "*n"], *, alpha: float = 1.0) -> Float[Array, "*n"]:
    """y = x if x > 0 else alpha (exp(x) - 1);  dy/dx = 1 if x > 0 else alpha exp(x), with a kink unless alpha is 1.

    Reference: Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by ELUs", 2016.
    """
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


ACTIVATIONS: dict[str, Activation[...]] = {
    each.__name__: each
    for each in (
        identity,
        binary_step,
        sigmoid,
        tanh,
        arctan,
        softsign,
        softplus,
        relu,
        leaky_relu,
        rrelu_inference,
        elu,
    )
}
"""Every activation without a parameter that is learned, by name."""


def prelu_forward(x: Num[Array, "*n"], slope: Num[Array, "*c"]) -> tuple[Float[Array, "*n"], Any]:
    """Parametric ReLU: the slope left of 0 is learned.

    y = x if x > 0 else slope x

    dx = dy if x > 0 else slope dy;  dslope = sum dy min(x, 0), over all that the slope is shared by

    Args:
      x: any shape; channels last.
      slope: one for each channel [C], or a single number.

    Returns:
      y as x; what the backward pass needs.

    Raises:
      InputError: the slope's shape is none of these, or an array is not floating point.

    Reference: He et al., "Delving deep into rectifiers", 2015, section 2.1.
    """
    check_floating("prelu", x=x, slope=slope)
    if slope.shape not in ((), (1,), x.shape[-1:]):
        raise InputError(
            f"prelu got x {x.shape} and slope {slope.shape}; expected a slope for each channel {x.shape[-1:]} or one ()"
        )
    return jnp.where(x > 0, x, jnp.broadcast_to(slope, x.shape) * x), (x, slope)


def prelu_backward(saved: Any, dy: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*c"]]:
    """The gradients dx and dslope that `prelu_forward` writes down.

    Args:
      saved: what `prelu_forward` kept.
      dy: dL/dy, of y's shape.

    Returns:
      dx as x and dslope as slope.
    """
    x, slope = saved
    dx = jnp.where(x > 0, dy, jnp.broadcast_to(slope, x.shape) * dy)
    shared = range(x.ndim if slope.size == 1 else x.ndim - 1)
    dslope = jnp.sum(dy * jnp.minimum(x, 0), tuple(shared)).reshape(slope.shape)
    return dx.astype(x.dtype), dslope.astype(slope.dtype)


prelu = Op(prelu_forward, prelu_backward)
"""The op of `prelu_forward` and `prelu_backward`."""


def rrelu_forward(
    x: Num[Array, "*n"], key: Key[Array, ""], *, lower: float = 1 / 8, upper: float = 1 / 3
) -> tuple[Float[Array, "*n"], Any]:
    """Randomised leaky ReLU in training; `rrelu_inference` takes its place afterwards.

    y = x if x > 0 else slope x, where slope ~ U(lower, upper) for each element

    dx = dy if x > 0 else slope dy, with the same slopes

    Args:
      x: any shape.
      key: of the slopes.
      lower: the least slope.
      upper: the largest slope.

    Returns:
      y as x; what the backward pass needs.

    Raises:
      InputError: lower is above upper, or x is not floating point.

    Reference: Xu et al., "Empirical evaluation of rectified activations in convolutional network", 2015.
    """
    check_floating("rrelu", x=x)
    _check_slopes("rrelu", lower, upper)
    slope = jax.random.uniform(key, x.shape, x.dtype, lower, upper)
    return jnp.where(x > 0, x, slope * x), (x, slope)


def rrelu_backward(
    saved: Any, dy: Float[Array, "*n"], *, lower: float = 1 / 8, upper: float = 1 / 3
) -> tuple[Float[Array, "*n"], None]:
    """The gradient dx that `rrelu_forward` writes down; a key has none.

    Args:
      saved: what `rrelu_forward` kept, the slopes among it.
      dy: dL/dy, of y's shape.
      lower: as forward, like `upper`; the slopes are drawn already.
      upper: as forward.

    Returns:
      dx as x, and None.
    """
    x, slope = saved
    return jnp.where(x > 0, dy, slope * dy), None


rrelu = Op(rrelu_forward, rrelu_backward)
"""The op of `rrelu_forward` and `rrelu_backward`."""


def softmax_forward(x: Num[Array, "*n"]) -> tuple[Float[Array, "*n"], Any]:
    """Softmax over the last axis: positive numbers that sum to 1.

    y_i = exp(x_i) / sum_j exp(x_j), in which the largest x is subtracted from all, so that nothing overflows

    dx = y (dy - sum_j dy_j y_j)

    Args:
      x: logits [..., K].

    Returns:
      y as x; what the backward pass needs.

    Raises:
      InputError: there is no class, or x is not floating point.

    Reference: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """
    check_floating("softmax", x=x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise InputError(f"softmax got x {x.shape}; expected at least one class in its last dimension")
    exponentials = jnp.exp(x - jnp.max(x, -1, keepdims=True))
    y = exponentials / jnp.sum(exponentials, -1, keepdims=True)
    return y, y


def softmax_backward(y: Float[Array, "*n"], dy: Float[Array, "*n"]) -> tuple[Float[Array, "*n"]]:
    """The gradient dx that `softmax_forward` writes down.

    Args:
      y: what `softmax_forward` kept.
      dy: dL/dy, [..., K].

    Returns:
      dx as x.
    """
    return (y * (dy - jnp.sum(dy * y, -1, keepdims=True)),)


softmax = Op(softmax_forward, softmax_backward)
"""The op of `softmax_forward` and `softmax_backward`."""


def softmax_jacobian(x: Float[Array, "*n k"]) -> Float[Array, "*n k k"]:
    """The derivative of softmax: dy_i / dx_j = y_i (1 - y_i) if i = j else -y_i y_j, that is diag(y) - y y^T.

    Args:
      x: logits [..., K].

    Returns:
      The matrix [..., i, j] of every example; `softmax_backward` is its product with dy and never builds it.
    """
    y = softmax(x)
    y_i, y_j = y[..., :, None], y[..., None, :]
    i_is_j = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=bool), (*x.shape, x.shape[-1]))
    return jnp.where(i_is_j, y_i, 0) - y_i * y_j
