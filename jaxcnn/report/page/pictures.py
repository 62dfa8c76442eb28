"""Arrays as pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcnn.data.spec import Source

SIDE = 96
"""Pixels of the longer side at most; a page shows pictures no larger."""


def png(pixels: UInt8[np.ndarray, "h w c"]) -> str:
    """A picture as a data URI, of one channel (grey) or three; what is larger than `SIDE` is made smaller."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def read(source: Source, indices: Sequence[int] | np.ndarray) -> list[str]:
    """Some images of a dataset as data URIs."""
    return [png(image) for image in source.read(indices)[0]] if len(indices) else []


def size(shape: tuple[int, int, int]) -> int:
    """About how many characters a picture of this shape takes: photographs hardly compress."""
    scale = min(1, SIDE / max(shape[:2]))
    return round(4 / 3 * (scale**2 * shape[0] * shape[1] * shape[2] + 80))
