"""What the commands that explain a network begin with: the network, and the images that it is asked about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxcnn import config, models, run
from jaxcnn.config import DataConfig, ModelSpec, split_name
from jaxcnn.data import imagenet, open_split
from jaxcnn.data.photographs import PhotographSource, open_photographs
from jaxcnn.data.spec import Source, Split
from jaxcnn.errors import InputError
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.loading import Which, load, load_named
from jaxcnn.state import State
from jaxcnn.train.evaluate import open_run_split

BATCH = 64
"""Images that are read at once."""


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
      name: its run directory, or what it is registered as.
      weights: file of its weights; None of a run.
      sha256: of that file; None of a run.
      spec: its description.
      model: the module.
      state: on the default device.
    """

    name: str
    weights: str | None
    sha256: str | None
    spec: ModelSpec
    model: ImageModel
    state: State

    @property
    def title(self) -> str:
        """As figures and folders are called after it: the last part of the name."""
        return Path(split_name(self.name)[1]).resolve().name

    def about(self) -> dict[str, Any]:
        """What says which network this was, as JSON values."""
        return {
            "network": self.name if self.weights else str(Path(self.name).resolve()),
            "weights": None if self.weights is None else str(Path(self.weights).resolve()),
            "sha256": self.sha256,
            "step": int(self.state.step),
            "model": config.to_json(self.spec),
        }


@dataclass(frozen=True)
class Subject:
    """A trained network and images for it.

    Attributes:
      network: the network.
      source: the images, none of them read yet; its labels stand for the dataset's classes, not for the network's.
      origin: what the images are, in words that follow their number: "images of the test split of digits".
      chosen: what says which images these are, as JSON values.
      own: whether they are of the dataset that the network was trained on, as far as is known.
    """

    network: Network
    source: Source
    origin: str
    chosen: dict[str, Any]
    own: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the network's logits stand for: as its description says, else as its dataset, ImageNet or a number."""
        count = self.network.model.num_classes
        for names in (self.network.spec.class_names, self.source.class_names, imagenet.names()):
            if len(names) == count:
                return tuple(names)
        return tuple(map(str, range(count)))

    @property
    def labelled(self) -> bool:
        """Whether the labels of the images mean something."""
        return not isinstance(self.source, PhotographSource) or self.source.labelled

    @property
    def files(self) -> tuple[str, ...] | None:
        """The photographs in their order; None of a dataset."""
        return tuple(map(str, self.source.paths)) if isinstance(self.source, PhotographSource) else None

    def read(self, indices: Any) -> Float[np.ndarray, "n h w c"]:
        """Some of the images, in [0, 1].

        Raises:
          InputError: a file is missing or broken.
        """
        return self.source.read(indices)[0].astype(np.float32) / 255

    def read_named(self, indices: Any) -> tuple[Float[np.ndarray, "n h w c"], list[str] | None]:
        """As `read`, with the names of the true classes, if they are known and the network has the same names for them.

        Numbers are no names, and mean the same only in the dataset that the network was trained on.
        """
        pixels, labels = self.source.read(indices)
        names = self.source.class_names
        alike = self.own or (set(names) <= set(self.class_names) and not any(name.isdecimal() for name in names))
        known = self.labelled and len(names) > int(max(labels)) and alike
        return pixels.astype(np.float32) / 255, [names[k] for k in labels] if known else None

    def batches(self, size: int = BATCH) -> Iterator[Float[np.ndarray, "n h w c"]]:
        """All images once, in their order, read when they are asked for."""
        count = len(self.source)
        return (self.read(range(start, min(start + size, count))) for start in range(0, count, size))

    def about(self) -> dict[str, Any]:
        """What says which network and images these were, as JSON values."""
        return {**self.network.about(), "images": self.chosen | {"origin": self.origin, "count": len(self.source)}}


def open_network(name: str, *, weights: str | None = None, checkpoint: Which | None = None) -> Network:
    """A trained network.

    Args:
      name: a run directory or, with weights, the name of a network.
      weights: see `jaxcnn.load`.
      checkpoint: of a run: the newest (None), the best, or a step.

    Raises:
      InputError: there is no such network or run, or its weights cannot be read.
    """
    if weights is not None:
        if checkpoint is not None:
            raise InputError(
                f"checkpoint is {checkpoint}; expected none with weights from a file, which have one state"
            )
        name = config.absolute_name(name)
        loaded = load_named(name, weights)
        with Path(weights).open("rb") as file:
            return Network(name, weights, hashlib.file_digest(file, "sha256").hexdigest(), *loaded)
    if os.path.isfile(name):
        raise InputError(f"{name} is a file; expected a run directory, or a network's name with --weights {name}")
    model, state = load(name, checkpoint="latest" if checkpoint is None else checkpoint)
    return Network(name, None, None, run.read(name)[1], model, state)


def open_subject(
    network: Network,
    *,
    images: str | None = None,
    dataset: str | None = None,
    split: Split | None = None,
    image_size: int | None = None,
    data_directory: str | None = None,
) -> Subject:
    """Images for a network.

    Photographs are scaled and cut as in the published evaluation of the network, or for a run, whose own images were
    scaled whole, scaled whole.

    Args:
      network: the network.
      images: a folder of photographs, see `jaxcnn.data.photographs.open_photographs`.
      dataset: name of a dataset; without it and without a folder, a run has its own.
      split: of the dataset; None is test.
      image_size: height and width in pixels; None is the network's for photographs, and a dataset's own.
      data_directory: where the dataset lies, if not where it was in training or where TFDS keeps it.

    Raises:
      InputError: these do not go together, the images cannot be read, or the network takes other channels.
    """
    if images is not None and dataset is not None:
        raise InputError(f"images are {images} and dataset is {dataset}; expected one of them")
    if images is not None and (split is not None or data_directory is not None):
        raise InputError(
            f"--split and --data.directory go with a run or --dataset; the folder of images is {images} itself"
        )
    own = images is None and dataset is None
    if own and network.weights is not None:
        raise InputError(
            f"{network.name} with weights has no images of its own; expected --images FOLDER or --dataset NAME"
        )
    if own and image_size is not None:
        raise InputError(f"image size is {image_size}; expected none with the run's own images")
    part = split or "test"
    directory = data_directory
    height, width, channels = network.spec.input_shape
    source: Source
    if own:
        source, data = open_run_split(network.name, part, data_directory)
        dataset, directory, image_size = data.dataset, data.directory, data.image_size
    elif dataset is not None:
        own = network.weights is None and dataset == run.read(network.name)[0].data.dataset != "folder"
        source = open_split(DataConfig(dataset, directory=data_directory, image_size=image_size), part, seed=0)
    else:
        assert images is not None
        resize = None if network.weights is None else models.facts(network.spec.name).preprocessing.resize
        source = open_photographs(images, (image_size or height, image_size or width, channels), resize)
    if source.image_shape[-1] != channels:
        raise InputError(
            f"{dataset} has images of {source.image_shape[-1]} channels; expected {channels}, as {network.title} takes"
        )
    if images is not None:
        origin = f"photographs in {Path(images).resolve().name}"
        return Subject(network, source, origin, {"folder": str(Path(images).resolve()), "image_size": image_size})
    chosen = {"dataset": dataset, "split": part, "directory": directory, "image_size": image_size}
    return Subject(network, source, f"images of the {part} split of {dataset}", chosen, own)
