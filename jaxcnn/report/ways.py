"""How images that excite classes or units are sought: the full method, and the simple ones of the lectures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np
import optax

from jaxcnn.analysis import maximize, penalties
from jaxcnn.analysis import parametrization as spaces
from jaxcnn.analysis.objectives import Objective, log_probability, logit
from jaxcnn.analysis.parametrization import Parametrization
from jaxcnn.analysis.transforms import Transform, distant, robust
from jaxcnn.report.natural import TINY, Natural, large
from jaxcnn.report.subject import Network

CERTAINTY = 4.0
"""Weight of the logarithm of a class's probability beside its logit: of classes that look alike, as two breeds of dogs
do, it seeks what tells them apart, and where the network is certain its gradient vanishes."""
DISTANT = 0.625
"""Share of the steps, from the first, in which large images are looked at from near and far."""
SETTLED = 0.1
"""Share of the step size that is left at the end, but of tiny images: small steps take the grain out."""
SHARPNESS = {"L1": 100.0, "L2": 300.0}
"""Weight of a penalty on the mean over all values of an image, where the ways are compared."""


@dataclass(frozen=True)
class Way:
    """How images are sought.

    Attributes:
      space: the parametrisation.
      robust: whether the image has to withstand transforms, and silent ReLUs are woken.
      penalties: what is subtracted.
    """

    space: Parametrization
    robust: bool
    penalties: tuple[Objective, ...]

    def classes(self, numbers: np.ndarray) -> Objective:
        """What is large in an image of each of the classes [N]."""
        return logit(numbers) + CERTAINTY * log_probability(numbers) if self.robust else logit(numbers)

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
            optimizer=_settling(steps) if way.robust and np.prod(way.space.shape) > TINY else None,
            steps=number,
            progress=progress,
            redirect=way.robust,
        )
        yield found
        progress, done = found.progress, done + number
        if done >= steps:
            return
        number = min(maximize.SEGMENT, (far if done < far else steps) - done)


@cache
def _settling(steps: int) -> optax.GradientTransformation:
    """Adam whose step size falls by a cosine; one object for each number of steps, so that it compiles once."""
    return optax.adam(optax.cosine_decay_schedule(maximize.RATE, steps, SETTLED))


def _color(space: Parametrization) -> np.ndarray:
    return np.asarray(space.mean).mean((0, 1))
