"""Which pixels a score depends on most: its gradient, as it is and averaged over noise."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.attribution import (
    Method,
    Question,
    Score,
    Targets,
    ask,
    derivatives,
    derivatives_at_copies,
    finish,
    normal,
)
from jaxcnn.analysis.checks import check_whole
from jaxcnn.analysis.compiled import compiled
from jaxcnn.errors import InputError
from jaxcnn.state import State


def gradient(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, "n h w"]:
    """Saliency maps, the largest over channels of the score's derivative.

    M_ij = max_c |d y_k / d X_ijc|, y_k the logit of class k and X the image in true pixel values

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained of each image (`attribution.Targets`): a class, a function of the logits, or None for
        the predicted class.
      key: unused, as nothing is drawn.
      chunk: images that the network evaluates at once, on which the result does not depend; None takes as many as
        `chunks.MEMORY` holds.

    Returns:
      M, at least 0, in logits per unit of pixel value.

    Raises:
      InputError: images or targets have another shape, type or range, or the model returns no logits [N, K].
      RunError: a derivative is not finite.

    Reference: Simonyan, Vedaldi & Zisserman 2014, "Deep Inside Convolutional Networks", section 3.
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk)
    found = partial(derivatives, question.network, question.variables)
    # Piece by piece, so that the channels of all images are never held at once.
    return finish(question.map(lambda *some: jnp.abs(found(*some)).max(-1)))


def gradient_x_input(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, "n h w c"]:
    """The score's derivative times the pixel: what each channel adds to the score, as far as it is linear.

    M_ijc = X_ijc d y_k / d X_ijc

    Args:
      model: see `gradient`, as all arguments.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused.
      chunk: images evaluated at once.

    Returns:
      M, signed, in logits. Black pixels have none.

    Raises:
      InputError, RunError: see `gradient`.

    Reference: Shrikumar, Greenside, Shcherbina & Kundaje 2016, "Not just a black box".
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk)
    return finish(question.images * _derivative(question))


def smooth_grad(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    samples: int = 50,
    noise: float = 0.15,
) -> Float[Array, "n h w c"]:
    """The mean derivative of the score at noisy copies of the image.

    M = 1/S sum_s g(X + e_s), g(X) = d y_k / d X, e_s ~ N(0, sigma^2), sigma = noise (max X - min X)

    The class that is explained is the one predicted without noise.

    Args:
      model: see `gradient`, as all arguments but the last two.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: of the noise; None is `jax.random.key(0)`.
      chunk: noisy copies evaluated at once.
      samples: S, at least 1.
      noise: standard deviation in units of the image's range of values, at least 0; the paper takes 0.1 to 0.2.

    Returns:
      M, signed, in logits per unit of pixel value.

    Raises:
      InputError, RunError: see `gradient`; or samples or noise are out of their range.

    Reference: Smilkov, Thorat, Kim, Viegas & Wattenberg 2017, "SmoothGrad".
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk)
    return finish(_noisy(question, samples, noise).first)


def smooth_grad_squared(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    samples: int = 50,
    noise: float = 0.15,
) -> Float[Array, "n h w c"]:
    """The mean square of the derivative at noisy copies of the image, M = 1/S sum_s g(X + e_s)^2.

    Args:
      model: see `smooth_grad`, as all arguments.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: of the noise.
      chunk: noisy copies evaluated at once.
      samples: S, at least 1.
      noise: standard deviation in units of the image's range of values.

    Returns:
      M, at least 0, in squared logits per squared unit of pixel value.

    Raises:
      InputError, RunError: see `smooth_grad`.

    Reference: Hooker, Erhan, Kindermans & Kim 2019, "A benchmark for interpretability methods", section 4.
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk)
    return finish(_noisy(question, samples, noise).second)


def var_grad(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    samples: int = 50,
    noise: float = 0.15,
) -> Float[Array, "n h w c"]:
    """The variance of the derivative over noisy copies of the image, M = 1/S sum_s (g(X + e_s) - mean g)^2.

    Args:
      model: see `smooth_grad`, as all arguments.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: of the noise.
      chunk: noisy copies evaluated at once.
      samples: S, at least 1.
      noise: standard deviation in units of the image's range of values.

    Returns:
      M, at least 0, in squared logits per squared unit of pixel value; 0 where the score is linear.

    Raises:
      InputError, RunError: see `smooth_grad`.

    Reference: Adebayo, Gilmer, Goodfellow & Kim 2018, "Local explanation methods for deep neural networks lack
    sensitivity to parameter values".
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk).resolved()
    moments = _noisy(question, samples, noise, center=_derivative(question))  # small numbers keep their digits
    return finish(jnp.maximum(moments.second - moments.first**2, 0))


class _Moments(NamedTuple):
    """Means over noisy copies of a derivative's deviation from a centre, and of its square."""

    first: Array
    second: Array


def _derivative(question: Question) -> Float[Array, "n h w c"]:
    return question.map(partial(derivatives, question.network, question.variables))


def _noisy(question: Question, samples: int, noise: float, center: Array | None = None) -> _Moments:
    """The moments; the centre [N, H, W, C] is zero by default."""
    check_whole(samples=samples)
    if samples < 1 or not 0 <= noise < math.inf:
        raise InputError(f"samples is {samples} and noise {noise}; expected at least 1 and at least 0")
    question = question.resolved()
    zero = jnp.zeros((len(question.images), 1, 1, 1))
    question = replace(question, companions=(question.companions, zero if center is None else center))
    sums = question.total(samples, partial(_noisy_sums, question.network, question.variables, noise))
    return jax.tree.map(lambda total: total / samples, sums)


@compiled(static_argnums=0)
def _noisy_sums(
    network: tuple[nn.Module, Score],
    variables: Any,
    noise: ArrayLike,
    images: Array,
    classes: Array | None,
    companions: tuple[Array, Array],
    numbers: Array,
    weights: Array,
) -> _Moments:
    keys, center = companions
    spread = images.max((1, 2, 3)) - images.min((1, 2, 3))
    drawn = normal(keys, numbers, images.shape[1:])
    copies = images[:, None] + noise * spread[:, None, None, None, None] * drawn
    derivatives = derivatives_at_copies(network, variables, copies, classes) - center[:, None]
    return _Moments(
        *(jnp.einsum("s,nshwc->nhwc", weights, d, precision="highest") for d in (derivatives, derivatives**2))
    )


METHODS = {
    "gradient": Method(gradient, "gradient", False, "Simonyan et al. 2014"),
    "gradient_x_input": Method(gradient_x_input, "gradient x input", True, "Shrikumar et al. 2016"),
    "smooth_grad": Method(smooth_grad, "SmoothGrad", False, "Smilkov et al. 2017"),
    "smooth_grad_squared": Method(smooth_grad_squared, "SmoothGrad squared", False, "Hooker et al. 2019"),
    "var_grad": Method(var_grad, "VarGrad", False, "Adebayo et al. 2018"),
}
