"""How well a trained network's features alone tell the classes of another dataset apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxcnn.analysis import transfer
from jaxcnn.config import DataConfig, check_seed
from jaxcnn.data import open_split
from jaxcnn.data.spec import Source
from jaxcnn.errors import InputError
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.loading import load
from jaxcnn.state import State
from jaxcnn.train.step import hits

_CHUNK = 64


@dataclass(frozen=True)
class Probed:
    """What a linear probe scores.

    Attributes:
      training_examples: images whose features it was fitted to.
      examples: test images.
      top1: share of them whose label has the largest logit.
      training_top1: the same share of the training images.
      features: length of the feature vector.
    """

    training_examples: int
    examples: int
    top1: float
    training_top1: float
    features: int


def probe(
    name: str, weights: str, config: DataConfig, *, limit: int | None = None, penalty: float = 1e-3, seed: int = 0
) -> Probed:
    """Fits a linear classifier to the features of a dataset's training images and scores it on the test images.

    Args:
      name: a registered network.
      weights: its weight file.
      config: which images, at which size.
      limit: use no more than so many images of either split, drawn at random; None uses all.
      penalty: weight of the squared norm of the classifier's kernel.
      seed: of the draw.

    Raises:
      InputError: the weights or the data cannot be read, or do not fit together.
    """
    check_seed(seed)
    if not (0 < penalty < math.inf and (limit is None or limit > 0)):
        raise InputError(f"penalty is {penalty} and limit {limit}; expected positive numbers")
    model, state = load(name, weights=weights)
    training, test = (open_split(config, split, seed) for split in ("train", "test"))
    (x, y), (test_x, test_y) = (_features(model, state, source, limit, seed) for source in (training, test))
    found = transfer.linear_probe(x, y, len(training.class_names), penalty=penalty)
    scores = [float(hits(found.logits(features), labels, 1).mean()) for features, labels in ((x, y), (test_x, test_y))]
    return Probed(len(y), len(test_y), scores[1], scores[0], x.shape[1])


def _features(
    model: ImageModel, state: State, source: Source, limit: int | None, seed: int
) -> tuple[jnp.ndarray, jnp.ndarray]:
    chosen = np.random.default_rng(seed).permutation(len(source))[:limit]
    parts, labels = [], []
    for start in range(0, len(chosen), _CHUNK):
        images, known = source.read(chosen[start : start + _CHUNK])
        parts.append(np.asarray(transfer.features(model, state, images.astype(np.float32) / 255, chunk=_CHUNK)))
        labels.append(known)
    return jnp.asarray(np.concatenate(parts)), jnp.asarray(np.concatenate(labels), jnp.int32)
