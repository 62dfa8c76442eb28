"""How images that excite classes or units are sought: the full method, and the simple ones of the lectures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxcnn.analysis import maximize, penalties
from jaxcnn.analysis import parametrization as spaces
from jaxcnn.analysis.batch_statistics import batch_statistics, has_batch_norm
from jaxcnn.analysis.chunks import affordable, pieces
from jaxcnn.analysis.objectives import Objective, log_probability, logit, sufficient_logit
from jaxcnn.analysis.parametrization import Parametrization
from jaxcnn.analysis.transforms import Transform, distant, robust
from jaxcnn.report.natural import TINY, Memory, Natural, large
from jaxcnn.report.subject import Network

CERTAINTY = 4.0
"""Weight of the logarithm of a class's probability beside its logit: of classes that look alike, as two breeds of dogs
do, it seeks what tells them apart, and where the network is certain its gradient vanishes."""
CERTAINTY_LARGE = 10.0
"""The same of large images, whose logits are larger: a lead of a husky over a malamute that rounding cannot turn."""
DISTANT = 0.625
"""Share of the steps, from the first, in which large images are looked at from near and far."""
SETTLED = 0.1
"""Share of the step size that is left at the end, but of tiny images: small steps take the grain out."""
SHARPNESS = {"L1": 100.0, "L2": 300.0}
"""Weight of a penalty on the mean over all values of an image, where the ways are compared."""


TOGETHER = 60
"""Images that are sought at once, of few classes several each, where they are to be as training images were to batch
normalisation: statistics of fewer say little, and the most natural is shown."""
REMEMBERED = 1.0
"""Weight of the distance from these statistics."""
BESIDE = 0.03
"""Weight of the Gaussian prior beside it, which then says less."""
SMOOTH = 0.05
"""Weight of the total variation beside it."""
DIFFERENT = 0.3
"""Standard deviation of the parameters at the beginning there."""
FAST = 0.2
"""Step size at the beginning there: what is asked has many hills, which small steps do not leave."""
SLOW = 0.01
"""Share of it that is left at the end."""


@dataclass(frozen=True)
class Way:
    """How images are sought.

    Attributes:
      space: the parametrisation.
      robust: whether the image has to withstand transforms, and silent ReLUs are woken.
      penalties: what is subtracted.
      memory: what the network makes of measured images, where batch normalisation is asked too; or None.
    """

    space: Parametrization
    robust: bool
    penalties: tuple[Objective, ...]
    memory: Memory | None = None

    def classes(self, numbers: np.ndarray) -> Objective:
        """What is large in an image of each of the classes [N]."""
        if self.memory is not None:
            enough = sufficient_logit(numbers, self.memory.levels[numbers])
            return CERTAINTY * (enough + log_probability(numbers))
        certainty = CERTAINTY_LARGE if large(self.space) else CERTAINTY
        return logit(numbers) + certainty * log_probability(numbers) if self.robust else logit(numbers)

    def penalized(self, objective: Objective) -> Objective:
        """The objective minus the penalties."""
        for term in self.penalties:
            objective = objective - term
        return objective

    def transforms(self, far: bool = False) -> tuple[Transform, ...]:
        """What the image has to withstand, from near alone or from far too."""
        return (distant if far else robust)(*self.space.shape[:2]) if self.robust else ()


def full_method(known: Natural, added: tuple[Objective, ...] = ()) -> Way:
    """What `jaxcnn maximize` does, with the penalties that are added."""
    prior = (penalties.gaussian(known.prior),) if known.prior else ()
    return Way(known.space, True, prior + added)


def remembering(network: Network, known: Natural, added: tuple[Objective, ...] = ()) -> dict[str, Way]:
    """By the name of its row, the way that asks batch normalisation too what small images are like, if there is any.

    Without it, an image that pleases a class many times over pleases it more: of a dog, fur and muzzles everywhere.
    """
    model, state, shape = network.model, network.state, known.space.shape
    if known.images is None or not has_batch_norm(model, state, shape):
        return {}
    asked = batch_statistics(REMEMBERED, model, state, shape)
    prior = (penalties.gaussian(BESIDE), penalties.total_variation(SMOOTH), asked)
    return {"batch statistics": Way(known.space, True, prior + added, Memory.of(network, known.images))}


def simple_ways(space: Parametrization, l1: float, l2: float) -> dict[str, Way]:
    """The lecture's: pixels, as they are or with a penalty, whose weight by default goes with their number."""
    color, values = _color(space), int(np.prod(space.shape))
    plain = spaces.pixels(space.shape, mean=color)
    return {
        "pixels": Way(plain, False, ()),
        "pixels with L1": Way(plain, False, (penalties.l1(l1 or SHARPNESS["L1"] / values, color),)),
        "pixels with L2": Way(plain, False, (penalties.l2(l2 or SHARPNESS["L2"] / values, color),)),
    }


def weighed(space: Parametrization, l1: float, l2: float, variation: float) -> tuple[Objective, ...]:
    """The penalties of these weights that are not 0."""
    color = _color(space)
    known = ((l1, penalties.l1(l1, color)), (l2, penalties.l2(l2, color)))
    return tuple(term for weight, term in (*known, (variation, penalties.total_variation(variation))) if weight)


def random_key(seed: int, way: int = 0, piece: int = 0) -> jax.Array:
    """Of one ascent."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), way), piece)


def batches(network: Network, way: Way, count: int) -> tuple[int, list[np.ndarray]]:
    """How many images are sought of each of so many classes or units, and which of these go together.

    Images that are judged together are of as many classes as memory holds.
    """
    size = affordable(network.model, network.state.variables, way.space.shape)
    starts = 1 if way.memory is None else max(1, min(size // count, -(-TOGETHER // count)))
    return starts, list(pieces(count, size))


def ascend(
    network: Network,
    objective: Objective,
    way: Way,
    *,
    key: jax.Array,
    count: int,
    steps: int,
    progress: maximize.Progress | None = None,
) -> Iterator[maximize.Maximized]:
    """One ascent, segment by segment.

    Args:
      network: the network.
      objective: with its penalties, see `Way`.
      way: how.
      key: see `random_key`.
      count: images.
      steps: of the whole ascent.
      progress: what an earlier call had reached; None begins.

    Yields:
      Where it begins, with an empty trace; then what each segment has come to, with the trace of that segment.
    """
    far = int(DISTANT * steps) if way.robust and large(way.space) else 0
    done, number = 0 if progress is None else int(progress.step), 0
    while True:
        found = maximize.run(
            network.model,
            network.state,
            objective,
            key=key,
            count=count,
            parametrization=way.space,
            transforms=way.transforms(far=done < far),
            optimizer=_optimizer(way, steps),
            steps=number,
            start=_beginning(way, key, count) if progress is None else None,
            progress=progress,
            redirect=way.robust,
        )
        yield found
        progress, done = found.progress, done + number
        if done >= steps:
            return
        number = min(maximize.SEGMENT, (far if done < far else steps) - done)


def most_natural(network: Network, way: Way, images: ArrayLike, numbers: np.ndarray) -> np.ndarray:
    """Of several images of each class, the one that is to the network most as images that were measured are.

    That is the nearest to any of them by what all batch normalisations see of it. How sure the network is tells less:
    of repeated parts, it is surer than of a whole.

    Args:
      network: the network.
      way: how they were sought.
      images: [starts N, H, W, C], the classes in order, again and again.
      numbers: [N], the classes.

    Returns:
      [N], indices into the images.
    """
    if way.memory is None:
        return np.arange(np.shape(images)[0])
    far = way.memory.distances(network, images).reshape(-1, len(numbers))
    return far.argmin(0) * len(numbers) + np.arange(len(numbers))


def _beginning(way: Way, key: jax.Array, count: int) -> Array | None:
    """Images that differ enough to end on different hills; None begins as `maximize.run` does."""
    return None if way.memory is None else way.space(way.space.drawn(jax.random.split(key)[0], count, DIFFERENT))


def _optimizer(way: Way, steps: int) -> optax.GradientTransformation | None:
    if way.memory is not None:
        return _settling(steps, FAST, SLOW)
    return _settling(steps, maximize.RATE, SETTLED) if way.robust and np.prod(way.space.shape) > TINY else None


@cache
def _settling(steps: int, rate: float, left: float) -> optax.GradientTransformation:
    """Adam whose step size falls by a cosine; one object for each number of steps, so that it compiles once."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps, left))


def _color(space: Parametrization) -> np.ndarray:
    return np.asarray(space.mean).mean((0, 1))
