"""RISE: how sure a network is under random masks, by the pixels that they show."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.attribution import Method, Score, Targets, ask, finish
from jaxcnn.analysis.checks import check_whole, checked_baseline
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.occlusion import evaluated, unless_hidden
from jaxcnn.errors import InputError
from jaxcnn.state import State


def rise(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    masks: int = 2000,
    cells: int = 7,
    share: float = 0.5,
    value: ArrayLike = 0.0,
) -> Float[Array, "n h w"]:
    """By how much the probability exceeds its mean over random masks where they show a pixel.

    S = 1/(share n) sum_m (p_m - mean p) M_m, p_m = p_k(X M_m), for n masks M_m with E[M] = share

    The paper's sum has p_m in the place of p_m - mean p. With many masks that adds the same number, mean p, to all
    pixels; with few it adds noise, mean p (mean M / share - 1), which is most of the noise where the probability
    hardly depends on what is shown.

    Args:
      model: see `saliency.gradient`, as all arguments up to `chunk`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained; of a function of the logits, that number in the place of the probability.
      key: of the masks; None is `jax.random.key(0)`.
      chunk: masked images evaluated at once.
      masks: n, at least 2; the paper takes 4000 to 8000. The noise falls with the square root.
      cells: along each side of the grids that masks are made of, at least 1; see `random_mask`.
      share: of the cells that are shown, between 0 and 1.
      value: what is seen where nothing is shown, in [0, 1]: a grey number (0 is black, as in the paper), a colour [C],
        an image [H, W, C], or images [N, H, W, C].

    Returns:
      S, signed, in units of probability.

    Raises:
      InputError, RunError: see `saliency.gradient`; or the numbers or the value are out of range.

    Reference: Petsiuk, Das & Saenko 2018, "RISE: Randomized Input Sampling for Explanation", equation 6.
    """
    check_whole(masks=masks, cells=cells)
    if masks < 2 or cells < 1 or not 0 < share < 1:
        raise InputError(
            f"masks is {masks}, cells {cells} and share {share}; expected at least 2, at least 1, and a number between "
            "0 and 1"
        )
    question = ask(model, state, images, targets, key=key, chunk=chunk, output="probability").resolved()
    hidden = checked_baseline(value, question.images)
    center = question.scores(question.images)
    asked = replace(question, companions=(question.companions, hidden, center))
    sums = partial(_masked_sums, question.network, cells, question.variables, share)
    deviations, shown, products = asked.total(masks, sums)
    maps = (products - (deviations / masks)[:, None, None] * shown) / (share * masks)
    return finish(unless_hidden(maps, question.images, hidden))


def random_mask(
    key: Key[Array, ""], height: int, width: int, cells: int, share: ArrayLike = 0.5
) -> Float[Array, "height width"]:
    """A smooth mask: random cells, enlarged bilinearly by one cell more than the image, of which a random part is cut.

    Args:
      key: of the cells and of the part.
      height: in pixels.
      width: in pixels.
      cells: along each side.
      share: probability that a cell is shown.

    Returns:
      Values from 0, hidden, to 1, shown; the expectation is `share` everywhere.
    """
    drawn = jax.random.uniform(key, (cells * cells + 2,))
    grid = (drawn[2:] < share).astype(jnp.float32).reshape(cells, cells)
    rows, columns = _interpolation(drawn[0], height, cells), _interpolation(drawn[1], width, cells)
    return jnp.einsum("hr,rc,wc->hw", rows, grid, columns, precision="highest")


def _interpolation(where: Array, side: int, cells: int) -> Float[Array, "side cells"]:
    """The weight of each cell at each pixel along one side, the first pixel being so far into the first cell."""
    cell = -(-side // cells)
    pixels = jnp.floor(where * cell) + jnp.arange(side)
    positions = jnp.clip((pixels + 0.5) * cells / ((cells + 1) * cell) - 0.5, 0, cells - 1)
    return jnp.maximum(1 - jnp.abs(positions[:, None] - jnp.arange(cells)[None]), 0)


@compiled(static_argnums=(0, 1))
def _masked_sums(
    network: tuple[nn.Module, Score],
    cells: int,
    variables: Any,
    share: ArrayLike,
    images: Array,
    classes: Array | None,
    companions: tuple[Array, Array, Array],
    numbers: Array,
    weights: Array,
) -> tuple[Float[Array, " n"], Float[Array, "n h w"], Float[Array, "n h w"]]:
    """Sums of the scores' deviations from a centre, of the masks' from their expectation, and of their products."""
    keys, hidden, center = companions
    height, width = images.shape[1:3]

    def drawn(key: Array, number: Array) -> Array:
        return random_mask(jax.random.fold_in(key, number), height, width, cells, share)

    masks = jax.vmap(lambda key: jax.vmap(partial(drawn, key))(numbers))(keys)
    scores, _ = evaluated(network, variables, images, classes, hidden, masks)
    deviations = (scores - center[:, None]) * weights[None]
    shown = masks - share
    return (
        deviations.sum(1),
        jnp.einsum("s,nshw->nhw", weights, shown, precision="highest"),
        jnp.einsum("ns,nshw->nhw", deviations, shown, precision="highest"),
    )


METHODS = {"rise": Method(rise, "RISE", True, "Petsiuk et al. 2018")}
