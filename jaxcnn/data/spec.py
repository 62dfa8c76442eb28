"""What a dataset is: splits with random access to labelled images, opened by name."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from jaxcnn import registry
from jaxcnn.config import DataConfig
from jaxcnn.errors import InputError

Images: TypeAlias = UInt8[np.ndarray, "n h w c"]
Labels: TypeAlias = Int32[np.ndarray, " n"]
Indices: TypeAlias = Sequence[int] | Int[np.ndarray, " n"]
Split: TypeAlias = Literal["train", "validation", "test"]
StoredSplit: TypeAlias = Literal["train", "test"]

TEST_SHARE = 0.2
"""Share of the images that becomes the test split of a dataset that comes with none."""


class Source(abc.ABC):
    """One split of a dataset: labelled images of one shape, with random access.

    Sources are pickled to worker processes, so they hold file names and open files when they read.

    Attributes:
      class_names: what each label stands for; labels index it.
      image_shape: height and width in pixels (after resizing, where asked for), and channels, 1 or 3.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abc.abstractmethod
    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """Decodes several examples.

        Args:
          indices: positions in [0, len).

        Returns:
          Pixels in 0..255, and labels in [0, number of classes).

        Raises:
          InputError: a file is missing or broken, or a label is out of range.
        """

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "h w c"], int]:
        """The image and the label at `index`; negative indices count from the end."""
        images, labels = self.read([range(len(self))[index]])
        return images[0], int(labels[0])


@dataclass(frozen=True, eq=False)
class ArraySource(Source):
    """A split that is already in memory.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: [N], in [0, number of classes).
      class_names: what each label stands for.
    """

    images: Images
    labels: Labels
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Height, width and channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """The examples at `indices`, copied."""
        chosen = np.asarray(indices, np.int64)
        return self.images[chosen], self.labels[chosen]


@dataclass(frozen=True, eq=False)
class Subset(Source):
    """Some examples of another source, in an order of their own.

    Attributes:
      source: the other source.
      indices: positions in it, [N].
    """

    source: Source
    indices: Int[np.ndarray, " n"]

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The classes of the whole source, even those that the subset lacks."""
        return self.source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """The shape of the whole source's images."""
        return self.source.image_shape

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """The examples at `indices` of this subset."""
        return self.source.read(self.indices[np.asarray(indices, np.int64)])


@dataclass(frozen=True)
class Dataset:
    """What a module of `jaxcnn.data.sources` registers in its `DATASETS`.

    Attributes:
      description: one line for `jaxcnn datasets`.
      open: opens the split that the dataset itself calls train or test.
    """

    description: str
    open: Callable[[DataConfig, StoredSplit], Source]


def names() -> dict[str, str]:
    """The listed datasets: name to description. Any other name is looked up in TFDS."""
    return {name: dataset.description for name, dataset in _listed().items()}


def open_split(config: DataConfig, split: Split, seed: int) -> Source:
    """Opens one split of the configured dataset.

    The validation split is `config.validation` of the training split, held out by a permutation that depends on
    `seed` alone; "train" is `config.limit` of what remains, if that is set. The order within each split stays that of
    the dataset.

    Args:
      config: dataset, directory, image size, validation share and limit.
      split: "train", "validation" or "test".
      seed: seed of the held-out choice.

    Returns:
      The split; nothing is decoded yet.

    Raises:
      InputError: the dataset is unknown, not on disk or broken, or the split is empty or was not asked for.
    """
    if split == "validation" and config.validation == 0:
        raise InputError("data.validation is 0, so there is no validation split; expected a share above 0")
    listed = _listed()
    if config.dataset in listed:
        source = listed[config.dataset].open(config, "test" if split == "test" else "train")
    else:
        from jaxcnn.data.sources import tfds

        source = tfds.open_named(config.dataset, config, "test" if split == "test" else "train")
    if split != "test" and config.validation > 0:
        source = held_out(source, config.validation, seed, keep=split == "validation")
    if split == "train" and config.limit is not None:
        if config.limit > len(source):
            raise InputError(f"data.limit is {config.limit}; expected at most the {len(source)} training images")
        kept = shuffled(len(source), seed, purpose="split", epoch=1)[: config.limit]
        source = Subset(source, np.sort(kept))
    if config.extra_class is not None:
        from jaxcnn.data import extra_class

        source = extra_class.join(source, config.extra_class, training=split == "train")
    if len(source) == 0:
        raise InputError(f"the {split} split of {config.dataset!r} has no images; expected at least one")
    return source


def held_out(source: Source, share: float, seed: int, *, keep: bool) -> Subset:
    """A random `share` of a source (`keep`), or all the rest.

    Args:
      source: the whole.
      share: in (0, 1); rounded to a whole number of examples.
      seed: determines the choice.
      keep: whether to return the share or the rest.
    """
    order = shuffled(len(source), seed, purpose="split")
    count = round(share * len(source))
    return Subset(source, np.sort(order[:count] if keep else order[count:]))


def stratified_fifth(labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which examples form the test split of a dataset that comes with none: a fifth of each class, seed 0.

    Each class keeps at least one example for training. The choice depends on the labels and their order alone.
    """
    chosen = np.zeros(len(labels), bool)
    order = shuffled(len(labels), seed=0, purpose="split")
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen[members[: round(TEST_SHARE * len(members))]] = True
    return chosen


def shuffled(n: int, seed: int, *, purpose: Literal["order", "split"], epoch: int = 0) -> Int[np.ndarray, " n"]:
    """A uniformly random permutation of range(n): a pure function of its arguments.

    It sorts the raw output of the counter-based generator Philox, keyed by seed and epoch. NumPy keeps that stream
    the same in every version, which it does not promise for `Generator.permutation`, so an old run resumes exactly.

    Args:
      n: length.
      seed: in [0, 2^64).
      purpose: separates the streams that share a seed.
      epoch: at least 0.

    Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """
    counter = np.array([0, 0, 0, ("order", "split").index(purpose)], np.uint64)
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter)
    return np.argsort(philox.random_raw(n), kind="stable")


def _listed() -> dict[str, Dataset]:
    return registry.discover("jaxcnn.data.sources", "DATASETS")
