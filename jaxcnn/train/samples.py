"""A few images of a split, and what a network says about them while the whole split is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxcnn.data.pipeline import Device
from jaxcnn.data.spec import Source


class Samples:
    """Images spread evenly over a split, of several processes over the first one's share of it.

    Attributes:
      images: [N, H, W, C], pixels in 0..255.
      labels: [N], the true classes.

    Args:
      source: the split.
      batch_size: of its evaluation.
      devices: what shares a batch.
      count: how many, at most.
    """

    def __init__(self, source: Source, batch_size: int, devices: Sequence[Device], count: int = 16) -> None:
        mine = [device.process_index == jax.process_index() for device in devices]
        positions = np.arange(batch_size).reshape(len(devices), -1)[mine].ravel()
        candidates = np.flatnonzero(np.isin(np.arange(len(source)) % batch_size, positions))
        if not len(candidates):  # this process has padding alone, which repeats the first example
            candidates = np.zeros(1, np.int64)
        chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, count).astype(int))]
        rows = np.searchsorted(positions, chosen % batch_size)
        self._wanted: dict[int, list[tuple[int, int]]] = {}  # by batch: the row in it, the place here
        for place, (batch, row) in enumerate(zip((chosen // batch_size).tolist(), rows.tolist(), strict=True)):
            self._wanted.setdefault(batch, []).append((row, place))
        self.images, self.labels = source.read(chosen)
        self._logits: dict[int, np.ndarray] = {}

    def see(self, batch: int, logits: Array) -> None:
        """Keeps what is wanted of a batch's logits, [devices, per_device, k]."""
        for row, place in self._wanted.get(batch, ()):
            self._logits[place] = np.asarray(logits).reshape(-1, logits.shape[-1])[row]

    @property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        """Of each class, as the last evaluation saw the images."""
        return np.asarray(jax.nn.softmax(np.stack([self._logits[i] for i in range(len(self.labels))])))
