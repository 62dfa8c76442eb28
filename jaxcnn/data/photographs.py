"""Photographs of any size in a folder, cut to a network's input as its published evaluation does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data import crops, imagenet
from jaxcnn.data import images as pixels
from jaxcnn.data.sources.folder import SUFFIXES
from jaxcnn.data.spec import Images, Indices, Labels, Source
from jaxcnn.errors import InputError


@dataclass(frozen=True, eq=False)
class PhotographSource(Source):
    """Photographs, cut when they are read.

    Attributes:
      paths: the files.
      labels: ImageNet's label of each; 0 for all where the folder does not say.
      labelled: whether it does.
      resize: shorter side in pixels before the central crop, or None to scale the whole picture to the input's size.
    """

    paths: tuple[Path, ...]
    labels: Labels
    labelled: bool
    resize: int | None
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """Decodes and cuts the photographs at `indices`, upright as their EXIF orientation says."""
        chosen = np.asarray(indices, np.int64)
        height, width, channels = self.image_shape
        images = np.empty((len(chosen), *self.image_shape), np.uint8)
        for row, index in enumerate(chosen):
            # Every pixel, though few are wanted: what is published was measured so, and compares to a grey level.
            photograph = pixels.decode(self.paths[index], channels, None, upright=True)
            images[row] = cut(photograph, self.resize, height, width)
        return images, self.labels[chosen]


@dataclass(frozen=True, eq=False)
class ViewSource(Source):
    """The 10 or 144 views of every photograph, one photograph after the other, cut when they are read.

    Attributes:
      photographs: the photographs; `resize` is the side of the square that the ten views are taken from.
      views: of each of them.
    """

    photographs: PhotographSource
    views: Literal[10, 144]

    def __post_init__(self) -> None:
        (height, width, _), resize = self.image_shape, self.photographs.resize
        if self.views == 144 and height != width:
            raise InputError(f"the crop is {height}x{width} pixels; expected a square one for 144 views")
        if self.views == 10 and (resize is None or resize <= max(height, width)):
            whole = "scaled whole" if resize is None else f"scaled to {resize}"
            raise InputError(
                f"the photographs are {whole} for crops of {height}x{width}, which leaves the ten views nothing to "
                "choose; expected a larger scale or a smaller crop"
            )

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The classes of the photographs."""
        return self.photographs.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """The shape of a view."""
        return self.photographs.image_shape

    def __len__(self) -> int:
        return self.views * len(self.photographs)

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """Decodes the photographs that the views at `indices` are of, each once, and cuts the views."""
        photographs, views = np.divmod(np.asarray(indices, np.int64), self.views)
        height, width, channels = self.image_shape
        images = np.empty((len(photographs), *self.image_shape), np.uint8)
        for index in np.unique(photographs):
            whole = pixels.decode(self.photographs.paths[index], channels, None, upright=True)
            if self.views == 144:
                every = crops.many_of_photograph(whole, height)
            else:
                assert self.photographs.resize is not None
                every = crops.ten_of_photograph(whole, self.photographs.resize, (height, width))
            images[photographs == index] = every[views[photographs == index]]
        return images, self.photographs.labels[photographs]


def cut(
    image: UInt8[np.ndarray, "h w c"], resize: int | None, height: int, width: int
) -> UInt8[np.ndarray, "height width c"]:
    """Scales a picture (bilinear, antialiased) and takes the centre.

    Args:
      image: pixels.
      resize: its shorter side afterwards, before the crop; None scales the whole picture to the result's size.
      height: of the result.
      width: of the result.

    Returns:
      Pixels.
    """
    if resize is None:
        return crops.resized(image, height, width)
    return crops.central(crops.scaled(image, resize), height, width)


def open_photographs(folder: str | Path, input_shape: tuple[int, int, int], resize: int | None) -> PhotographSource:
    """Opens a folder of photographs of ImageNet's classes.

    The folder holds `SYNSET*/*.jpg` or `CLASS/*.jpg`, one folder for each class, or pictures whose own names begin with
    their synsets, or pictures whose names say nothing.

    Args:
      folder: the folder.
      input_shape: height and width in pixels, and channels, that the network takes.
      resize: see `cut`.

    Returns:
      The photographs, sorted by path; nothing has been decoded.

    Raises:
      InputError: the folder is not laid out like that, or holds no pictures, or the crop is larger than the picture.
    """
    folder = Path(os.path.expanduser(folder))
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is {'a file' if os.path.exists(folder) else 'not there'}; expected a folder")
    if resize is not None and resize < max(input_shape[:2]):
        raise InputError(f"the crop is {max(input_shape[:2])} pixels; expected at most the resized side of {resize}")
    kinds = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    stray = _pictures(folder)
    if kinds and stray:
        raise InputError(f"{stray[0]} lies beside class folders; expected either pictures or class folders")
    named = [(path, kind) for kind in kinds for path in _pictures(kind)] or [(path, path) for path in stray]
    if not named:
        raise InputError(f"{folder} holds no pictures; expected some ending in {', '.join(SUFFIXES)}")
    labels = [imagenet.label(kind.name) for _, kind in named]
    unknown = [kind for (_, kind), label in zip(named, labels, strict=True) if label is None]
    if unknown and (kinds or len(unknown) < len(named)):
        raise InputError(
            f"{unknown[0]} names no class of ImageNet; expected a name that begins with a synset, such as n01440764"
        )
    return PhotographSource(
        paths=tuple(path for path, _ in named),
        labels=np.array([label or 0 for label in labels], np.int32),
        labelled=not unknown,
        resize=resize,
        class_names=imagenet.names(),
        image_shape=input_shape,
    )


def _pictures(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
