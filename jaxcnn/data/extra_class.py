"""One more class, of images from a file, beside those of a dataset."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcnn.data.spec import Images, Indices, Labels, Source
from jaxcnn.errors import InputError, first_line


@dataclass(frozen=True, eq=False)
class WithClass(Source):
    """A source, and after its examples the images of a class that it has not.

    Attributes:
      source: the dataset's.
      images: of the additional class, none in a split that has none.
      name: of the class, the last one.
    """

    source: Source
    images: Images
    name: str

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The dataset's, and then the name."""
        return (*self.source.class_names, self.name)

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """The dataset's."""
        return self.source.image_shape

    def __len__(self) -> int:
        return len(self.source) + len(self.images)

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """The examples at `indices`, those of the additional class behind all others."""
        wanted = np.asarray(indices, np.int64)
        added = wanted >= len(self.source)
        images = np.empty((len(wanted), *self.image_shape), np.uint8)
        labels = np.full(len(wanted), len(self.source.class_names), np.int32)
        if not added.all():
            images[~added], labels[~added] = self.source.read(wanted[~added])
        images[added] = self.images[wanted[added] - len(self.source)]
        return images, labels


def join(source: Source, file: str, *, training: bool) -> WithClass:
    """The source with a class called after the file, whose images only the training split has.

    Args:
      source: a split of a dataset.
      file: .npz with `images`, uint8 [N, H, W, C], as `jaxcnn fool` writes.
      training: whether the source is the training split; of any other, the file is not read.

    Raises:
      InputError: the file cannot be read or has no such images, or the dataset has a class of that name.
    """
    path = Path(os.path.expanduser(file))
    if path.stem in source.class_names:
        raise InputError(
            f"data.extra_class {path} would be a second class {path.stem!r}; expected a file called otherwise than "
            f"the classes {', '.join(source.class_names)}"
        )
    shape = source.image_shape
    if not training:
        return WithClass(source, np.zeros((0, *shape), np.uint8), path.stem)
    try:
        with np.load(path) as found:
            images = found["images"]
    except (OSError, ValueError, LookupError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"data.extra_class {path} cannot be read ({first_line(error)}); expected an .npz file with images"
        ) from error
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise InputError(
            f"data.extra_class {path} has images {images.dtype} {images.shape}; expected uint8 (N, "
            f"{', '.join(map(str, shape))}), at least one, as those of the dataset"
        )
    return WithClass(source, images, path.stem)
