"""How faithful maps are to the network and how steady they are, whatever method made them.

Maps are judged by `heat` [N, H, W], one number for each pixel, more important pixels having higher ones
(`attribution.Method.heat`); infidelity and sensitivity also take channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxcnn.analysis.attribution import Question, Score, Targets, ask, normal, scores_at_copies
from jaxcnn.analysis.checks import check_whole, checked_baseline
from jaxcnn.analysis.compiled import compiled
from jaxcnn.errors import InputError, RunError
from jaxcnn.state import State

BLUR = 5.0
"""Standard deviation in pixels of the Gaussian that blurs, as published for insertion."""


class Curve(NamedTuple):
    """What becomes of the probability of a class as pixels are exchanged.

    Attributes:
      shares: of the pixels that are exchanged, from 0 to 1.
      probabilities: of the class, for each image and share; the values of the function where the target is one.
    """

    shares: Float[Array, " s"]
    probabilities: Float[Array, "n s"]

    @property
    def area(self) -> Float[Array, " n"]:
        """Under each curve, by trapezoids: in [0, 1] for probabilities."""
        return (self.probabilities[:, 1:] + self.probabilities[:, :-1]) / 2 @ jnp.diff(self.shares)


def deletion(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    heat: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    steps: int | None = None,
    region: int = 1,
    value: ArrayLike = 0.0,
) -> Curve:
    """The probability of the class as pixels are overwritten, the most important ones first: a low area is good.

    Equally important pixels go in random order: in any other, a map that says nothing would take away whole pieces of
    the picture, as no map of random numbers does.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      heat: [N, H, W], higher = more important; only the order of its values counts.
      targets: whose probability; see `attribution.Targets`. None is the class predicted for the whole image.
      key: of the order of equally important pixels, the same whatever the heat; None is `jax.random.key(0)`.
      chunk: images that the network evaluates at once, on which the result does not depend; None takes as many as
        `chunks.MEMORY` holds.
      steps: in which all pixels are overwritten, equally many (but for rounding) in each; None is a row's worth in
        each, as published, or a row's worth of squares. With far fewer, the class is gone after the first step for
        whatever map.
      region: side in pixels of the squares that are overwritten as a whole, by their mean heat; see `by_region`.
      value: what is written, in [0, 1]: a number (0 is black), a colour [C], an image [H, W, C], or images. `blurred`
        ones take detail away and put nothing in its place, where black squares that are scattered over a photograph
        disturb a network more than the loss of what it looks at.

    Raises:
      InputError: images, targets or chunk are not as expected; the heat has another shape or is not finite; or steps
        or the region is not positive.
      RunError: a probability is not finite.

    Reference: Petsiuk, Das & Saenko 2018, "RISE: Randomized Input Sampling for Explanation", section 4.3.
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk, output="probability").resolved()
    return _exchange(question, heat, question.images, checked_baseline(value, question.images), steps, region)


def insertion(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    heat: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    steps: int | None = None,
    region: int = 1,
    sigma: float = BLUR,
) -> Curve:
    """The probability of the class as pixels of a blurred picture become sharp, the most important ones first.

    A high area is good.

    Args:
      model: see `deletion`, as all arguments but the last.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      heat: [N, H, W], higher = more important.
      targets: whose probability.
      key: of the order of equally important pixels.
      chunk: images that the network evaluates at once.
      steps: in which all pixels become sharp; None as in `deletion`.
      region: side in pixels of the squares that become sharp as a whole.
      sigma: standard deviation in pixels of the Gaussian that blurs, positive.

    Raises:
      InputError: see `deletion`; or sigma is not positive.

    Reference: Petsiuk et al. 2018, section 4.3.
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk, output="probability").resolved()
    return _exchange(question, heat, blurred(question.images, sigma), question.images, steps, region)


def infidelity(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    maps: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    samples: int = 50,
    noise: float = 0.1,
    normalize: bool = False,
) -> Float[Array, " n"]:
    """The mean square by which maps, taken as a linear model, miss what noise does to the score: low is good.

    infidelity = E (e . M - (y_k(X) - y_k(X - e)))^2, e ~ N(0, noise^2)

    It asks for derivatives: maps that were multiplied by the image answer another question.

    Args:
      model: see `deletion`, as all arguments but those said here.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      maps: M, [N, H, W, C], or [N, H, W], which stands for each channel.
      targets: what the maps explain: the logit of a class, or a function of the logits.
      key: of the noise; None is `jax.random.key(0)`.
      chunk: noisy images that the network evaluates at once.
      samples: of the noise for each image, at least 1.
      noise: standard deviation in pixel values, positive.
      normalize: whether each map is first scaled by the number that suits it best, so that its unit does not matter.

    Returns:
      The infidelity of each map, in squared logits.

    Raises:
      InputError: see `deletion`; or the maps do not fit the images, or samples or noise are out of their range.

    Reference: Yeh, Hsieh, Suggala, Inouye & Ravikumar 2019, "On the (In)fidelity and Sensitivity of Explanations",
    definition 2.1.
    """
    check_whole(samples=samples)
    if samples < 1 or not 0 < noise < math.inf:
        raise InputError(f"samples is {samples} and noise {noise}; expected at least 1 and a positive number")
    question = ask(model, state, images, targets, key=key, chunk=chunk).resolved()
    values = jnp.asarray(maps, jnp.float32)
    if values.shape not in (question.images.shape, question.images.shape[:3]):
        raise InputError(f"maps have shape {values.shape}; expected that of the images, {question.images.shape}")
    values = jnp.broadcast_to(values.reshape(*values.shape[:3], -1), question.images.shape)
    question = replace(question, companions=(question.companions, values, question.scores(question.images)))
    sums = question.total(samples, partial(_misses, question.network, question.variables, noise))
    if not normalize:
        return sums.missed / samples
    scale = jnp.where(sums.told > 0, sums.both / jnp.where(sums.told > 0, sums.told, 1), 0)
    return jnp.maximum(sums.true - 2 * scale * sums.both + scale**2 * sums.told, 0) / samples


def max_sensitivity(
    method: Callable[..., Array],
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    samples: int = 10,
    radius: float = 0.02,
) -> Float[Array, " n"]:
    """By how much a map changes at most under noise that hardly anybody sees: low is good.

    sensitivity = max_s ||M(X + e_s) - M(X)|| / ||M(X)||, e_s uniform in [-radius, radius]; X + e_s is kept in [0, 1]

    A method that draws gets another key each time, so its own noise counts as a change. A map of zeros is divided by 1.

    Args:
      method: M, called as `method(model, state, images, targets, key=..., chunk=...)`.
      model: see `deletion`, as all arguments but those said here.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained; None is the class predicted without noise.
      key: of the noise and the method; None is `jax.random.key(0)`.
      chunk: passed to the method.
      samples: of the noise for each image, at least 1.
      radius: in pixel values, positive.

    Returns:
      The sensitivity of each image's map, at least 0.

    Raises:
      InputError: see `deletion`; or samples or radius are out of their range.

    Reference: Yeh et al. 2019, definition 3.1.
    """
    check_whole(samples=samples)
    if samples < 1 or not 0 < radius < math.inf:
        raise InputError(f"samples is {samples} and radius {radius}; expected at least 1 and a positive number")
    noise_key, method_key = jax.random.split(jax.random.key(0) if key is None else key)
    question = ask(model, state, images, targets, key=noise_key, chunk=chunk).resolved()

    def explain(images: Array, key: Array) -> Array:
        return method(model, state, images, question.targets, key=key, chunk=chunk)

    maps = explain(question.images, method_key)
    size = _norms(maps)
    worst = jnp.zeros(len(maps))
    for number in range(samples):
        moved = _moved(question.images, question.companions, number, radius)
        change = _norms(explain(moved, jax.random.fold_in(method_key, number)) - maps)
        worst = jnp.maximum(worst, change / jnp.where(size == 0, 1, size))
    return worst


def checked_heat(heat: ArrayLike, images: Float[Array, "n h w c"]) -> Float[Array, "n h w"]:
    """The heat as float32.

    Raises:
      InputError: it is not [N, H, W] as the images are, or not finite.
    """
    values = jnp.asarray(heat, jnp.float32)
    if values.shape != images.shape[:3]:
        raise InputError(f"heat has shape {values.shape}; expected a number for each pixel, {images.shape[:3]}")
    if not isinstance(values, Tracer) and not bool(jnp.isfinite(values).all()):
        raise InputError("heat holds a value that is not finite; expected finite numbers")
    return values


def by_region(heat: Float[Array, "n h w"], side: int) -> Float[Array, "n h w"]:
    """The heat averaged over squares, so that a square is exchanged as a whole.

    Single pixels exchanged at random disturb a network as nothing in a photograph does, and no map is then better than
    a random one at deletion; whole squares take away what is seen in them.

    Args:
      heat: [N, H, W].
      side: of a square, in pixels; those at the lower and right border may be cut.

    Raises:
      InputError: the side is not positive.

    Reference: Samek, Binder, Montavon, Lapuschkin & Mueller 2017, "Evaluating the Visualization of What a Deep Neural
    Network Has Learned", section III: 9 pixels.
    """
    check_whole(region=side)
    if side < 1:
        raise InputError(f"the side of a region is {side}; expected at least 1 pixel")
    height, width = heat.shape[1:]

    def over(start: float, combine: Callable[..., Any], values: Array) -> Array:
        window, padding = (1, side, side), ((0, 0), (0, -height % side), (0, -width % side))
        return lax.reduce_window(values, start, combine, window, window, padding)

    sides = (np.minimum(side, length - np.arange(0, length, side)) for length in (height, width))
    mean = over(0.0, lax.add, heat) / np.multiply.outer(*sides).astype(np.float32)[None]
    # Rounding must not rank squares that are the same everywhere.
    mean = jnp.clip(mean, over(jnp.inf, lax.min, heat), over(-jnp.inf, lax.max, heat))
    return _enlarged(mean, side, height, width)


@partial(jax.jit, static_argnums=2)
def ranks(heat: Float[Array, "n h w"], keys: Key[Array, " n"], region: int = 1) -> Int[Array, "n h w"]:
    """The place of each pixel in the order of falling heat, from 0.

    Squares go as a whole, by their mean heat, and equal ones in random order, which does not depend on the heat.

    Args:
      heat: [N, H, W].
      keys: of the order of equal squares, one for each image.
      region: side of the squares in pixels.
    """
    values = by_region(heat, region)
    count, height, width = heat.shape
    squares = -(-height // region), -(-width // region)
    drawn = jax.vmap(lambda key: jax.random.permutation(key, squares[0] * squares[1]))(keys)
    lots = _enlarged(drawn.reshape(count, *squares), region, height, width)
    order = jnp.lexsort((lots.reshape(count, -1), -values.reshape(count, -1)))
    return jnp.argsort(order, axis=1).reshape(heat.shape)


def blurred(images: Float[Array, "n h w c"], sigma: float = BLUR) -> Float[Array, "n h w c"]:
    """The images under a Gaussian; at the border, the mean of what is inside.

    Args:
      images: to blur.
      sigma: standard deviation in pixels, positive.

    Raises:
      InputError: sigma is not positive.
    """
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma}; expected a positive number of pixels")

    def weights(size: int) -> Array:
        distance = np.subtract.outer(np.arange(size), np.arange(size))
        matrix = np.exp(-((distance / sigma) ** 2) / 2)
        return jnp.asarray(matrix / matrix.sum(1, keepdims=True), jnp.float32)

    down, across = weights(images.shape[1]), weights(images.shape[2])
    return jnp.clip(jnp.einsum("ij,njkc,lk->nilc", down, images, across, precision="highest"), 0, 1)


class _Sums(NamedTuple):
    """Sums over noise of squares and a product: of what the map told, what is true, both, and the difference."""

    told: Array
    true: Array
    both: Array
    missed: Array


def _enlarged(squares: Array, side: int, height: int, width: int) -> Array:
    """Each pixel's square, [N, rows, columns] to [N, H, W]."""
    return squares[:, np.arange(height) // side][:, :, np.arange(width) // side]


def _exchange(question: Question, heat: ArrayLike, start: Array, end: Array, steps: int | None, region: int) -> Curve:
    check_whole(steps=steps)
    places = ranks(checked_heat(heat, question.images), question.companions, region)
    steps = -(-question.images.shape[1] // region) if steps is None else steps
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")
    pixels = places[0].size
    counts = np.round(np.linspace(0, pixels, steps + 1)).astype(np.int32)
    question = replace(question, images=start, companions=(places, end))
    values = question.total(steps + 1, partial(_exchanged, question.network, question.variables, jnp.asarray(counts)))
    return Curve(jnp.asarray(counts / pixels, jnp.float32), finite(values, counts / pixels))


def finite(probabilities: Float[Array, "n s"], shares: Sequence[float] | np.ndarray) -> Float[Array, "n s"]:
    """The probabilities, looked at.

    Raises:
      RunError: one is not finite, as where a network standardises a picture that has become the same everywhere.
    """
    if not isinstance(probabilities, Tracer) and len(broken := np.argwhere(~np.isfinite(np.asarray(probabilities)))):
        image, place = broken[0]
        raise RunError(
            f"the score of image {image} is not finite with {shares[place]:.0%} of its pixels exchanged; expected a "
            "network that has one for every picture"
        )
    return probabilities


@compiled(static_argnums=0)
def _exchanged(
    network: tuple[nn.Module, Score],
    variables: Any,
    counts: Array,
    images: Array,
    classes: Array | None,
    companions: tuple[Array, Array],
    numbers: Array,
    weights: Array,
) -> Float[Array, "n s"]:
    places, end = companions
    there = places[:, None] < counts[numbers][None, :, None, None]
    mixed = jnp.where(there[..., None], end[:, None], images[:, None])
    values, _ = scores_at_copies(network, variables, mixed, classes)
    return jnp.zeros((len(images), len(counts))).at[:, numbers].add(weights[None] * values)


@compiled(static_argnums=0)
def _misses(
    network: tuple[nn.Module, Score],
    variables: Any,
    noise: ArrayLike,
    images: Array,
    classes: Array | None,
    companions: tuple[Array, Array, Array],
    numbers: Array,
    weights: Array,
) -> _Sums:
    keys, maps, scores = companions
    drawn = noise * normal(keys, numbers, images.shape[1:])
    true = scores[:, None] - scores_at_copies(network, variables, images[:, None] - drawn, classes)[0]
    told = jnp.einsum("nshwc,nhwc->ns", drawn, maps, precision="highest")
    return _Sums(*(x @ weights for x in (told**2, true**2, told * true, (told - true) ** 2)))


@jax.jit
def _moved(images: Array, keys: Array, number: ArrayLike, radius: ArrayLike) -> Array:
    def uniform(key: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, number), images.shape[1:], minval=-1, maxval=1)

    return jnp.clip(images + radius * jax.vmap(uniform)(keys), 0, 1)


def _norms(maps: Array) -> Float[Array, " n"]:
    return jnp.sqrt(jnp.square(maps).sum(tuple(range(1, maps.ndim))))
