"""The bundled digits: small enough for tests and demonstrations, with nothing to download."""

from __future__ import annotations

import numpy as np

from jaxcnn.config import DataConfig
from jaxcnn.data import images as pixels
from jaxcnn.data.spec import ArraySource, Dataset, StoredSplit, stratified_fifth


def open_digits(config: DataConfig, split: StoredSplit) -> ArraySource:
    """1,797 handwritten digits, 8x8, in 17 grey levels scaled to 0..255; the test split is `spec.stratified_fifth`.

    Reference: Alpaydin & Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998.
    """
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    images = np.rint(np.asarray(flat) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels, np.int32)
    chosen = stratified_fifth(labels) if split == "test" else ~stratified_fifth(labels)
    images = pixels.resize_all(images[chosen], config.image_size)
    return ArraySource(images, labels[chosen], tuple(map(str, range(10))))


DATASETS = {"digits": Dataset("1,797 handwritten digits, 8x8 grey, bundled with scikit-learn", open_digits)}
