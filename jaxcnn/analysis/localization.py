"""Whether maps lie where the object is, as a person drew it: a box."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxcnn.errors import InputError


def pointing_game(heat: ArrayLike, boxes: ArrayLike, tolerance: int = 15) -> Float[Array, " n"]:
    """Whether the hottest pixel lies in the box, enlarged on each side by a tolerance.

    Args:
      heat: [N, H, W], higher = more important; only where the maximum is counts.
      boxes: [N, 4]: top, left, bottom and right in pixels, 0 <= top < bottom <= H and 0 <= left < right <= W; the top
        left pixel alone is (0, 0, 1, 1). A pixel is inside if its centre is.
      tolerance: in pixels, at least 0; the paper's 15 is for photographs of about 500 pixels.

    Returns:
      1 for a hit and 0 for a miss. Where several pixels are equally hot, the share of them that hits: what drawing one
      of them scores on average, so a map that is the same everywhere gains no more than the box covers.

    Raises:
      InputError: heat or boxes have another shape or range, or the tolerance is negative.

    Reference: Zhang, Lin, Brandt, Shen & Sclaroff 2016, "Top-down Neural Attention by Excitation Backprop", section 4.
    """
    if tolerance < 0:
        raise InputError(f"tolerance is {tolerance}; expected at least 0 pixels")
    values, corners = _checked(heat, boxes)
    hottest = values == values.max((1, 2), keepdims=True)
    hits = hottest & _inside(corners, values.shape[1:], tolerance)
    return hits.sum((1, 2)) / hottest.sum((1, 2))


def energy_inside(heat: ArrayLike, boxes: ArrayLike) -> Float[Array, " n"]:
    """The share of a map that lies in the box.

    share = sum of max(0, M) in the box / sum of max(0, M)

    Args:
      heat: M, [N, H, W], higher = more important; below 0 it counts as 0.
      boxes: [N, 4]; see `pointing_game`.

    Returns:
      The shares, in [0, 1]; 0 where nothing is positive.

    Raises:
      InputError: heat or boxes have another shape or range.

    Reference: Wang, Wang, Du, Yang, Zhang, Ding, Mardziel & Hu 2020, "Score-CAM", section 4.3.
    """
    values, corners = _checked(heat, boxes)
    energy = jnp.maximum(values, 0)
    largest = energy.max((1, 2), keepdims=True)
    energy = energy / jnp.where(largest > 0, largest, 1)  # neither very large nor very small maps leave float32
    total = energy.sum((1, 2))
    inside = jnp.where(_inside(corners, values.shape[1:], 0), energy, 0).sum((1, 2))
    return inside / jnp.where(total > 0, total, 1)


def _checked(heat: ArrayLike, boxes: ArrayLike) -> tuple[Array, Array]:
    values, corners = jnp.asarray(heat, jnp.float32), jnp.asarray(boxes, jnp.float32)
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"heat has shape {values.shape}; expected [N, H, W], none of them 0")
    if corners.shape != (len(values), 4):
        raise InputError(f"boxes have shape {corners.shape}; expected top, left, bottom, right, {(len(values), 4)}")
    if not isinstance(values, Tracer) and not bool(jnp.isfinite(values).all()):
        raise InputError("heat holds a value that is not finite; expected finite numbers")
    if not isinstance(corners, Tracer):
        top, left, bottom, right = np.asarray(corners).T
        height, width = values.shape[1:]
        fits = (top >= 0) & (top < bottom) & (bottom <= height) & (left >= 0) & (left < right) & (right <= width)
        if not fits.all():
            wrong = int(np.argmin(fits))
            raise InputError(
                f"box {wrong} is {tuple(np.asarray(corners)[wrong].tolist())}; expected 0 <= top < bottom <= {height} "
                f"and 0 <= left < right <= {width}"
            )
    return values, corners


def _inside(corners: Array, shape: tuple[int, ...], tolerance: int) -> Bool[Array, "n h w"]:
    top, left, bottom, right = (corners[:, i, None] for i in range(4))
    rows, columns = (jnp.arange(size)[None] + 0.5 for size in shape)
    down = (rows >= top - tolerance) & (rows <= bottom + tolerance)
    across = (columns >= left - tolerance) & (columns <= right + tolerance)
    return down[:, :, None] & across[:, None, :]
