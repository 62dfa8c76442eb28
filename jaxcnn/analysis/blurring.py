"""Deletion that leaves a photograph a photograph: what a map finds important is blurred in place of blackened."""

from __future__ import annotations

import math

import flax.linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Key

from jaxcnn.analysis import metrics
from jaxcnn.analysis.attribution import Targets, ask
from jaxcnn.errors import InputError
from jaxcnn.state import State


def blurring(
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
    sigma: float = 5.0,
) -> metrics.Curve:
    """The probability of the class as pixels become blurred, the most important ones first: a low area is good.

    Black squares that are scattered over a photograph disturb a network more than the loss of what it looks at, so at
    deletion a map of random numbers is hard to beat. Blurred squares take detail away and put nothing in its place.

    Args:
      model: see `metrics.deletion`, as all arguments but the last.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      heat: [N, H, W], higher = more important.
      targets: whose probability.
      key: of the order of equally important pixels.
      chunk: images that the network evaluates at once.
      steps: in which all pixels become blurred.
      region: side in pixels of the squares that become blurred as a whole.
      sigma: standard deviation in pixels of the Gaussian that blurs, positive; 5 is what insertion begins with.

    Raises:
      InputError: see `metrics.deletion`; or sigma is not positive.

    Reference: Sturmfels, Lundberg & Lee 2020, "Visualizing the Impact of Feature Attribution Baselines".
    """
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma}; expected a positive number of pixels")
    question = ask(model, state, images, targets, key=key, chunk=chunk)
    exchanged = {"key": key, "chunk": chunk, "steps": steps, "region": region}
    value = metrics.blurred(question.images, sigma)
    return metrics.deletion(model, state, images, heat, targets, **exchanged, value=value)
