"""Maps and kernels as pictures with one pixel for each value, for pages that scale and caption them themselves."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import quantiles


def heat(maps: ArrayLike, *, percentile: float = 99.0) -> np.ndarray:
    """Magnitudes in the colours of the figures, each map relative to its own percentile, beyond which it is clipped.

    Args:
      maps: [N, H, W], at least 0.
      percentile: in (0, 100].

    Returns:
      Pixels in 0..255, uint8 [N, H, W, 3].

    Raises:
      InputError: another shape, a value that is negative or not finite, or the percentile is out of range.
    """
    values = np.asarray(maps)
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"maps have shape {values.shape}; expected [N, H, W], none of them 0")
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise InputError("maps hold values that are negative, NaN or infinite; expected values from 0")
    return _pixels(style.SEQUENTIAL, np.minimum(values / quantiles(values, percentile), 1))


def kernels(weights: ArrayLike) -> tuple[np.ndarray, float]:
    """Every kernel of a convolution as a picture, all on one scale, m = max |w|.

    Three channels are shown as colours, 1/2 + w / (2 m), so that grey is zero; otherwise the channels are shown beside
    each other, each in colours from -m over white to m.

    Args:
      weights: [kh, kw, c, n], c input channels and n filters.

    Returns:
      Pixels in 0..255, uint8 [n, kh, width, 3], where width is kw, or c kw if c is not 3; and m.

    Raises:
      InputError: another shape, or values that are not finite.
    """
    array = np.asarray(weights, np.float64)
    if array.ndim != 4 or 0 in array.shape:
        raise InputError(f"kernels have shape {array.shape}; expected [kh, kw, c, n], none of them 0")
    if not np.isfinite(array).all():
        raise InputError("kernels hold NaN or infinite values; expected finite weights")
    largest = float(np.abs(array).max())
    shares = array / (largest or 1.0)
    kh, kw, channels, count = array.shape
    if channels == 3:
        return np.moveaxis((255 * (0.5 + shares / 2)).round().astype(np.uint8), -1, 0), largest
    beside = np.transpose(shares, (3, 0, 2, 1)).reshape(count, kh, channels * kw)
    return _pixels(style.DIVERGING, 0.5 + beside / 2), largest


def _pixels(colors: str, values: np.ndarray) -> np.ndarray:
    return mpl.colormaps[colors](values, bytes=True)[..., :3]
