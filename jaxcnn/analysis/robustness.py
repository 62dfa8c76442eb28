"""How accurate a network is under attack, by how far the images may be changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.stats import norm

from jaxcnn.analysis.adversarial import Adversarial, Attack, Goal, aim, check_size
from jaxcnn.analysis.attribution import logits
from jaxcnn.analysis.chunks import join, pieces
from jaxcnn.errors import InputError
from jaxcnn.state import State

_NORMAL = float(norm.ppf(0.975))
_STEPS = 100


class Robustness(NamedTuple):
    """What an attack does within some distances.

    Attributes:
      epsilons: the distances, in the attack's norm.
      before: which images the network takes for another class than their label, or for their target, as they are.
      fooled: which it does so within each distance.
      found: what the attack made: of a bounded one for each distance, of another once.
    """

    epsilons: Float[np.ndarray, " k"]
    before: Bool[np.ndarray, " n"]
    fooled: Bool[np.ndarray, "k n"]
    found: tuple[Adversarial, ...]

    @property
    def accuracy(self) -> Float[np.ndarray, " k"]:
        """The share of images that are not fooled."""
        return 1 - self.fooled.mean(1)

    @property
    def interval(self) -> Float[np.ndarray, "k 2"]:
        """Where that share of all images lies, in 95 % of such samples of them."""
        return wilson((~self.fooled).sum(1), self.fooled.shape[1])


def robust_accuracy(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    attack: Attack,
    epsilons: Sequence[float] | None = None,
    *,
    targets: ArrayLike | None = None,
    steps: int | None = None,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Robustness:
    """The accuracy on images that an attack has changed by no more than each of some distances.

    An image counts as classified rightly if it is so itself and as the attack has changed it. An attack that looks for
    the nearest image is made once: within epsilon it fools the network if what it found is no further away. Any attack
    shows an upper bound, for a better one may find more.

    Args:
      model: see `attacks.fgsm`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N], the classes that are right.
      attack: from `adversarial.attacks`; with other options, its function is a `functools.partial`.
      epsilons: distances in its norm, each at least 0; None, of an attack that looks for the nearest image, is a
        hundred equal steps from 0 to the furthest that it found.
      targets: of a targeted attack, see `attacks.fgsm`; an image then counts as fooled if it is taken for its target.
      steps: of an iterative attack, in the place of its own number.
      key: of what is drawn at random, the same for each distance.
      chunk: images evaluated at once.

    Raises:
      InputError: an argument has another shape, type or range, or the attack has no such option.
      RunError: a gradient is not finite.

    Reference: Carlini et al. 2019, "On evaluating adversarial robustness", section 4.
    """
    if epsilons is None and attack.bounded:
        raise InputError(f"epsilons are None; expected distances within which {attack.title} shall look")
    if epsilons is not None and not epsilons:
        raise InputError("epsilons are (); expected at least one distance")
    for epsilon in epsilons or ():
        check_size("epsilon", epsilon)
    before = _fooled(aim(model, state, images, labels, targets, chunk=chunk))
    attacked = partial(attack, model, state, images, labels, targets=targets, steps=steps, key=key, chunk=chunk)
    if attack.bounded:
        found = tuple(attacked(epsilon=epsilon) for epsilon in epsilons or ())
        fooled = np.stack([np.asarray(one.success) for one in found])
        return Robustness(np.asarray(epsilons, float), before, fooled | before[None], found)
    found = attacked()
    distance = np.where(found.success, np.asarray(getattr(found, attack.norm), float), np.inf)
    furthest = distance[np.isfinite(distance)].max(initial=0)
    distances = np.linspace(0, furthest, _STEPS + 1) if epsilons is None else np.asarray(epsilons, float)
    return Robustness(distances, before, (distance[None] <= distances[:, None]) | before[None], (found,))


def wilson(successes: Int[np.ndarray, "*k"], count: int) -> Float[np.ndarray, "*k 2"]:
    """The 95 % score interval of a share.

    low, high = (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = successes / n, z = 1.96

    Args:
      successes: of the trials.
      count: n, trials, at least 1.

    Returns:
      Lower and upper bounds, in [0, 1]; never of no length, not even where all or none succeeded.

    Examples:
      >>> wilson(np.array([98, 100]), 100).round(3).tolist()
      [[0.93, 0.994], [0.963, 1.0]]

    Reference: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, spread = np.asarray(successes) / count, _NORMAL**2 / count
    half = np.sqrt(spread * share * (1 - share) + spread**2 / 4)
    bounds = np.stack([share + spread / 2 - half, share + spread / 2 + half], -1) / (1 + spread)
    return np.clip(bounds, 0, 1)


def _fooled(goal: Goal) -> Bool[np.ndarray, " n"]:
    """Which of the images as they are reach the goal."""
    count = len(goal.images)
    parts = [_predicted(goal.model, goal.variables, goal.images[some]) for some in pieces(count, goal.chunk)]
    return np.asarray((join(parts, count) == goal.classes) == goal.targeted)


@partial(jax.jit, static_argnums=0)
def _predicted(model: nn.Module, variables: Any, images: Array) -> Array:
    return logits(model, variables, images).argmax(-1)
