"""Integrated gradients: what each pixel adds to a score on the way from a baseline."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.attribution import Method, Question, Score, Targets, ask, derivatives_at_copies, finish
from jaxcnn.analysis.checks import check_whole, checked_baseline
from jaxcnn.analysis.compiled import compiled
from jaxcnn.errors import InputError
from jaxcnn.state import State


def integrated_gradients(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    baseline: ArrayLike = 0.0,
    steps: int | None = None,
    tolerance: float = 0.01,
    most_steps: int = 512,
) -> Float[Array, "n h w c"]:
    """The score's derivative integrated along the straight line from a baseline to the image.

    M = (X - X') int_0^1 g(X' + t (X - X')) dt, by Gauss-Legendre quadrature; the sum of M is y_k(X) - y_k(X')

    Args:
      model: see `saliency.gradient`, as all arguments up to `chunk`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused, as nothing is drawn.
      chunk: points of the line evaluated at once.
      baseline: X' in [0, 1]: a number (0 is black), a colour [C], an image [H, W, C], or images [N, H, W, C].
      steps: points of the line; None doubles them from 16 on for the images whose sum is off by more than the
        tolerance. Inside a caller's jit or vmap, 64.
      tolerance: largest |sum of M - (y_k(X) - y_k(X'))| in units of |y_k(X) - y_k(X')| accepted without `steps`.
      most_steps: at which the doubling ends, with a warning if the tolerance is not met.

    Returns:
      M, signed, in logits.

    Raises:
      InputError, RunError: see `saliency.gradient`; or the baseline or a number is not as expected.

    Reference: Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks".
    """
    check_whole(steps=steps, most_steps=most_steps)
    if (steps is not None and steps < 1) or most_steps < 16 or not tolerance > 0:
        raise InputError(
            f"steps is {steps}, most_steps {most_steps} and tolerance {tolerance}; expected at least 1, at least 16, "
            "and a positive number"
        )
    question = ask(model, state, images, targets, key=key, chunk=chunk).resolved()
    start = checked_baseline(baseline, question.images)
    if steps is not None:
        return finish(_integral(question, start, steps))
    missing = question.scores(question.images) - question.scores(start)
    if isinstance(missing, Tracer):
        return finish(_integral(question, start, 64))
    difference = np.asarray(missing)
    maps = np.zeros(question.images.shape, question.images.dtype)
    left, count = np.arange(len(maps)), 16
    while len(left):
        maps[left] = _integral(question.take(left), start[left], count)
        off = np.abs(maps[left].sum((1, 2, 3), dtype=np.float64) - difference[left])
        left = left[~(off <= tolerance * np.abs(difference[left]) + 1e-5)]
        if 2 * count > most_steps:
            break
        count *= 2
    if len(left):
        warnings.warn(
            f"with {count} steps, the integrated gradients of {len(left)} of {len(maps)} images still miss the "
            f"difference of the scores by more than {tolerance:.2%}: a larger most_steps comes nearer",
            stacklevel=2,
        )
    return finish(jnp.asarray(maps))


def completeness(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    maps: ArrayLike,
    targets: Targets = None,
    *,
    baseline: ArrayLike = 0.0,
    chunk: int | None = None,
) -> Float[Array, " n"]:
    """By how much the maps of a method miss what they should add up to.

    delta = sum of M - (y_k(X) - y_k(X'))

    Args:
      model: see `saliency.gradient`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      maps: M, [N, H, W] or [N, H, W, C], in logits.
      targets: what they explain.
      baseline: X'; see `integrated_gradients`.
      chunk: images evaluated at once.

    Returns:
      The delta of each image, in logits.

    Raises:
      InputError: see `integrated_gradients`; or there are not as many maps as images.
    """
    question = ask(model, state, images, targets, chunk=chunk).resolved()
    values = jnp.asarray(maps)
    if len(values) != len(question.images):
        raise InputError(f"there are {len(values)} maps of {len(question.images)} images; expected one for each")
    start = checked_baseline(baseline, question.images)
    difference = question.scores(question.images) - question.scores(start)
    return values.sum(tuple(range(1, values.ndim))) - difference


def _integral(question: Question, start: Array, steps: int) -> Float[Array, "n h w c"]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    positions, shares = (jnp.asarray(values, start.dtype) for values in ((nodes + 1) / 2, weights / 2))

    def sums(images: Array, classes: Array | None, start: Array, numbers: Array, counted: Array) -> Array:
        # One program whatever the number of steps.
        line = positions[numbers], counted * shares[numbers]
        return _path_sums(question.network, question.variables, line, images, classes, start)

    return (question.images - start) * replace(question, companions=start).total(steps, sums)


@compiled(static_argnums=0)
def _path_sums(
    network: tuple[nn.Module, Score],
    variables: Any,
    line: tuple[Array, Array],
    images: Array,
    classes: Array | None,
    start: Array,
) -> Float[Array, "n h w c"]:
    positions, weights = line
    copies = start[:, None] + positions[None, :, None, None, None] * (images - start)[:, None]
    derivatives = derivatives_at_copies(network, variables, copies, classes)
    return jnp.einsum("s,nshwc->nhwc", weights, derivatives, precision="highest")


METHODS = {
    "integrated_gradients": Method(integrated_gradients, "integrated gradients", True, "Sundararajan et al. 2017"),
}
