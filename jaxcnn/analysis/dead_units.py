"""ReLUs that died: units that are zero whatever the network is shown, so that no gradient reaches their weights."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from jaxcnn.analysis.activations import unrolled
from jaxcnn.analysis.checks import check_chunk, checked_images
from jaxcnn.analysis.chunks import affordable, pieces
from jaxcnn.errors import InputError
from jaxcnn.layers import rectifiers
from jaxcnn.state import State


class DeadUnits(NamedTuple):
    """The dead units of every ReLU.

    Attributes:
      rectifiers: R names in the order of execution, each that of the layer whose output the ReLU takes.
      dead: for each ReLU which of its units (channels) are zero at every position of every image.
    """

    rectifiers: tuple[str, ...]
    dead: tuple[Bool[np.ndarray, " units"], ...]

    @property
    def shares(self) -> Float[np.ndarray, " r"]:
        """Of each ReLU's units those that are dead."""
        return np.array([units.mean() for units in self.dead], np.float64)


def dead_units(model: nn.Module, state: State, images: ArrayLike, *, chunk: int | None = None) -> DeadUnits:
    """Finds the units that no image makes positive, as a learning rate that is too large leaves them.

    A ReLU is any max(x, 0) in the traced program, so that the network need not name them.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1]; a unit that is dead for few images may live for others.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Raises:
      InputError: an argument is not as expected, or the network has no ReLU.

    Reference: Lu, Shin, Su & Karniadakis, "Dying ReLU and initialization: theory and numerical examples", 2019.
    """
    pixels = checked_images(images)
    check_chunk(chunk)
    size = chunk or affordable(model, state.variables, pixels.shape[1:])
    found = [_look(model, state.variables, pixels[some]) for some in pieces(len(pixels), size)]
    if not found[0]:
        raise InputError(f"{type(model).__name__} has no ReLU; expected a network with at least one")
    alive = jax.tree.map(lambda *each: np.max(each, axis=0) > 0, *[[relu.alive for relu in piece] for piece in found])
    names = rectifiers.distinct([relu.name for relu in found[0]])
    return DeadUnits(names, tuple(~units for units in alive))


@partial(jax.jit, static_argnums=0)
def _look(model: nn.Module, variables: Any, images: Array) -> list[rectifiers.Rectified]:
    with nn.intercept_methods(rectifiers.marker([])):
        apply: Any = unrolled(model).apply
        program = jax.make_jaxpr(lambda x: apply(variables, x, train=False))(images)
    return rectifiers.evaluate(program, [images])[1]
