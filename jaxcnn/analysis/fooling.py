"""Fooling images by gradient ascent: what a network is sure of and nobody recognises."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxcnn.analysis.attribution import logits
from jaxcnn.analysis.checks import check_chunk, checked_images, checked_targets
from jaxcnn.analysis.chunks import affordable
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.max_pooling import faster
from jaxcnn.analysis.rewriting import rewrite
from jaxcnn.errors import InputError
from jaxcnn.state import State

NOISE = 0.1
"""Standard deviation of the noise that ascent starts from, in [0, 1]."""


class Ascent(NamedTuple):
    """Images that were climbed to.

    Attributes:
      images: in [0, 1].
      confidences: probability of each target, in [0, 1].
      steps: taken by each.
      history: the probability before each step, from the start on; the last one again after an image has stopped.
    """

    images: Float[Array, "n h w c"]
    confidences: Float[np.ndarray, " n"]
    steps: Int[np.ndarray, " n"]
    history: Float[np.ndarray, "t n"]


def ascend(
    model: nn.Module,
    state: State,
    targets: ArrayLike,
    *,
    key: Key[Array, ""] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    start: ArrayLike | None = None,
    confidence: float = 0.9999,
    steps: int = 200,
    step_size: float = 0.02,
    penalty: float = 0.0,
    chunk: int | None = None,
) -> Ascent:
    """Climbs from noise, or from pictures, to images of which a network is sure that they show the targets.

    x <- clip(x + step_size g / rms(g), 0, 1), g = d/dx (log p_target(x) - penalty/2 |x - x_start|^2)

    An image stops as soon as its confidence is reached, and the network does not evaluate it any more; the others
    close up, so that an image costs as many evaluations as it needs. The published ascent starts from the mean image
    with a little noise, and stops at 0.9999.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [n, K].
      state: its state.
      targets: integers [N] in [0, K).
      key: of the noise; needed where there is no start.
      image_shape: height and width in pixels, and channels of the images that begin as noise around the model's mean,
        or around grey if it has none; None with a start.
      start: floats [N, H, W, C] in [0, 1] to begin with; None with a shape.
      confidence: probability at which an image stops, in (0, 1].
      steps: at most.
      step_size: root mean square of a step over an image, above 0.
      penalty: weight of the squared distance to the start, at least 0.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Raises:
      InputError: an argument has another shape, type or range, or the model returns no logits [n, K].

    Reference: Nguyen, Yosinski & Clune, "Deep neural networks are easily fooled", 2015, section 3.5; the penalty is
    that of Simonyan, Vedaldi & Zisserman 2014, towards the start in the place of 0.
    """
    for name, value, ok, expected in (
        ("confidence", confidence, 0 < confidence <= 1, "a number in (0, 1]"),
        ("steps", steps, steps >= 0, "at least 0"),
        ("step_size", step_size, 0 < step_size < math.inf, "a number above 0"),
        ("penalty", penalty, 0 <= penalty < math.inf, "a number of at least 0"),
    ):
        if not ok:
            raise InputError(f"{name} is {value}; expected {expected}")
    check_chunk(chunk)
    count = int(np.size(targets))
    if start is not None:
        if image_shape is not None:
            raise InputError(f"image_shape is {image_shape}; expected None with images to start from")
        images = checked_images(start)
    elif key is None or image_shape is None:
        raise InputError("there is no start; expected one, or a key and an image_shape for noise")
    else:
        images = around_mean(model, key, (count, *image_shape))
    wanted = checked_targets(targets, len(images), classes(model, state, images.shape[1:]))

    size = min(count, chunk or affordable(model, state.variables, images.shape[1:]))
    origin = images if penalty else None  # kept twice only if it is needed
    images = jnp.copy(images)  # what the program takes it writes over
    found, taken, history = np.zeros(count, np.float32), np.zeros(count, np.int64), []
    pending = np.arange(count)
    for step in range(steps + 1):
        sure = []
        for first in range(0, len(pending), size):
            some = np.full(size, count)  # a number past the end stands for no image
            some[: len(pending) - first] = pending[first : first + size]
            rate = step_size if step < steps else 0.0
            asked = (images, origin, wanted, jnp.asarray(some), confidence, rate, penalty)
            images, said = _climb(model, state.variables, *asked)
            sure.append(said)
        found[pending] = np.concatenate(sure)[: len(pending)]
        history.append(found.copy())
        pending = pending[~(found[pending] >= confidence)]
        if not len(pending):
            break
        taken[pending] = min(step + 1, steps)
    return Ascent(images, found, taken, np.stack(history))


def around_mean(model: nn.Module, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n h w c"]:
    """Normal noise around the colour that a model subtracts from its inputs, or around grey.

    Args:
      model: with a field `mean`, or without.
      key: of the noise.
      shape: [N, H, W, C].
    """
    mean = jnp.asarray(getattr(model, "mean", 0.5), jnp.float32).reshape(1, 1, 1, -1)
    return jnp.clip(mean + NOISE * jax.random.normal(key, shape), 0, 1)


def classes(model: nn.Module, state: State, image_shape: tuple[int, ...]) -> int:
    """How many classes a network tells apart.

    Raises:
      InputError: the model returns no logits [n, K].
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shape = getattr(jax.eval_shape(partial(logits, model), state.variables, image), "shape", ())
    if len(shape) != 2 or shape[0] != 1:
        raise InputError(f"the model returned shape {shape}; expected logits [1, K]")
    return shape[1]


@compiled(static_argnums=0, donate_argnums=2)
def _climb(
    model: nn.Module,
    variables: Any,
    images: Array,
    origin: Array | None,
    targets: Array,
    some: Array,
    confidence: ArrayLike,
    step_size: ArrayLike,
    penalty: ArrayLike,
) -> tuple[Float[Array, "n h w c"], Float[Array, " m"]]:
    """One step of some of the images, but of those that are sure already, and how sure they were before it.

    Args:
      model: the network.
      variables: of the model.
      images: [N, H, W, C], written over.
      origin: [N, H, W, C], or None without a penalty.
      targets: [N].
      some: integers [m], which images; N for none.
      confidence: see `ascend`.
      step_size: see `ascend`.
      penalty: see `ascend`.
    """
    x = images.at[some].get(mode="clip")
    wanted = targets.at[some].get(mode="clip")
    network = rewrite(partial(logits, model), faster)

    def objective(x: Array) -> tuple[Array, Array]:
        said = jax.nn.log_softmax(network(variables, x).astype(jnp.float32))
        likely = jnp.take_along_axis(said, wanted[:, None], 1)[:, 0]
        if origin is None:
            return likely.sum(), likely
        far = jnp.square(x - origin.at[some].get(mode="clip")).sum((1, 2, 3))
        return (likely - penalty / 2 * far).sum(), likely

    gradient, likely = jax.grad(objective, has_aux=True)(x)
    sure = jnp.exp(likely)
    length = jnp.sqrt(jnp.square(gradient).mean((1, 2, 3), keepdims=True))
    moved = jnp.clip(x + step_size * gradient / jnp.where(length > 0, length, 1), 0, 1)
    moved = jnp.where((sure >= confidence)[:, None, None, None], x, moved)
    return images.at[some].set(moved, mode="drop"), sure
