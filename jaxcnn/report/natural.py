"""What is known of the images that a network was trained on, before any is sought."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxcnn.analysis import parametrization as spaces
from jaxcnn.analysis.attribution import logits
from jaxcnn.analysis.batch_statistics import each_statistics
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.analysis.parametrization import Parametrization
from jaxcnn.data import imagenet
from jaxcnn.data.augment.photometric import EIGENVALUES, EIGENVECTORS
from jaxcnn.data.spec import Split
from jaxcnn.errors import InputError
from jaxcnn.report.subject import Network, Subject, open_subject

MEASURED = 4000
"""Images of which mean and covariance are measured, at most."""
SMALL = 3072
"""Values of an image up to which more images than that show the covariance of all pairs; else the power spectrum."""
TINY = 1024
"""Values of an image up to which step sizes stay as they are."""
PRIOR = 0.25
"""Weight of the Gaussian prior beside a logit for tiny images; for others up to `SMALL`, 150 over their values."""
SUREST = 10
"""Images of the largest logits of a class whose mean logit is what a class is wanted to have."""
NEAREST = 5
"""Images that one is compared with, the nearest ones."""
LARGE = 64
"""Pixels of a side above which an image has room for more than one thing."""
VIVID = 2.0
"""Factor of the colours' deviations beside that of lightness, in large images."""


@dataclass(frozen=True)
class Memory:
    """What a network with batch normalisation makes of the images that were measured.

    Attributes:
      levels: [K], for each class the mean of its `SUREST` largest logits.
      seen: of each batch normalisation, [N, d], see `batch_statistics.each_statistics`.
    """

    levels: Float[np.ndarray, " k"]
    seen: tuple[Float[np.ndarray, "n _"], ...]

    @classmethod
    def of(cls, network: Network, images: np.ndarray) -> Memory:
        """Of images [N, H, W, C]."""
        model, state = network.model, network.state
        says = jax.jit(partial(logits, model))
        size = affordable(model, state.variables, images.shape[1:])
        found = join([says(state.variables, images[some]) for some in pieces(len(images), size)], len(images))
        levels = np.sort(np.asarray(found, np.float32), 0)[-SUREST:].mean(0)
        return cls(levels, tuple(map(np.asarray, each_statistics(model, state, images))))

    def distances(self, network: Network, images: ArrayLike) -> Float[np.ndarray, " n"]:
        """How far images are from the nearest of those measured, by these statistics, the mean over the layers.

        Args:
          network: the network.
          images: [n, H, W, C].

        Returns:
          Mean squares, in units of the deviation over the images measured.
        """
        total = np.zeros(np.shape(images)[0])
        for seen, found in zip(self.seen, each_statistics(network.model, network.state, images), strict=True):
            unit = np.maximum(seen.std(0), 1e-6)
            for number, one in enumerate(np.asarray(found)):
                squares = np.square((seen - one) / unit).mean(1)
                total[number] += np.sort(squares)[:NEAREST].mean()
        return total / len(self.seen)


@dataclass(frozen=True)
class Natural:
    """What is known of the images that a network was trained on.

    Attributes:
      space: the parametrisation that knows it.
      prior: weight of the Gaussian prior.
      said: from what, in words.
      about: the same as JSON values.
      class_names: what the network's logits stand for.
      images: [N, H, W, C], those measured if they have more than `TINY` and at most `SMALL` values, and are more than
        these; else None.
    """

    space: Parametrization
    prior: float
    said: str
    about: dict[str, Any]
    class_names: tuple[str, ...]
    images: Float[np.ndarray, "n h w c"] | None = None


def natural(
    network: Network,
    *,
    images: str | None = None,
    dataset: str | None = None,
    split: Split | None = None,
    image_size: int | None = None,
    data_directory: str | None = None,
) -> Natural:
    """What is known of natural images: measured, or for a file of weights without images, assumed.

    Args:
      network: the network.
      images: see `open_subject`, as all arguments.
      dataset: name of a dataset; without it and without a folder, a run has its own.
      split: of the dataset; None is train.
      image_size: height and width in pixels of what is sought.
      data_directory: where the dataset lies.

    Raises:
      InputError: see `open_subject`; or the size is not positive.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image size is {image_size}; expected at least 1 pixel")
    if network.weights is not None and images is None and dataset is None:
        return _assumed(network, image_size)
    part = split or ("train" if images is None else None)
    subject = open_subject(
        network, images=images, dataset=dataset, split=part, image_size=image_size, data_directory=data_directory
    )
    return _measured(subject)


def _assumed(network: Network, image_size: int | None) -> Natural:
    height, width, channels = network.spec.input_shape
    covariance = None
    if channels == 3:
        covariance = EIGENVECTORS * EIGENVALUES[None] @ EIGENVECTORS.T
    space = spaces.fourier(
        (image_size or height, image_size or width, channels),
        covariance=covariance,
        mean=np.asarray(network.spec.mean) if len(network.spec.mean) in (1, channels) else 0.5,
    )
    count = network.model.num_classes
    numbers = tuple(map(str, range(count)))
    names = next(n for n in (network.spec.class_names, imagenet.names(), numbers) if len(n) == count)
    about = {"images": None, "image_size": image_size}
    return Natural(_vivid(space), 0.0, "photographs as those of ImageNet", about, tuple(names))


def _measured(subject: Subject) -> Natural:
    total = len(subject.source)
    sample = subject.read(np.unique(np.linspace(0, total - 1, min(MEASURED, total)).round().astype(np.int64)))
    values = sample[0].size
    # Fewer images than values leave most directions out; their power spectrum leaves none.
    small = values <= TINY or (values <= SMALL and len(sample) > values)
    prior = PRIOR if values <= TINY else 150 / values if small else 0.0
    space = spaces.principal(sample) if small else _vivid(spaces.spectrum(sample))
    said = f"{len(sample):,} {subject.origin}"
    about = {"images": subject.chosen | {"count": len(sample)}}
    return Natural(space, prior, said, about, subject.class_names, sample if small and values > TINY else None)


def _vivid(space: spaces.Fourier) -> spaces.Fourier:
    return spaces.vivid(space, VIVID) if large(space) else space


def large(space: Parametrization) -> bool:
    """Whether an image has room for more than one thing."""
    return min(space.shape[:2]) > LARGE
