"""Image-classification datasets of TensorFlow Datasets (TFDS), read from array_record files without TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import shlex
import socket
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.config import DataConfig
from jaxcnn.data import images as pixels
from jaxcnn.data.spec import TEST_SHARE, Dataset, Images, Indices, Labels, Source, StoredSplit, held_out, names
from jaxcnn.errors import InputError, first_line, unknown_name

_TEST_SPLITS = ("test", "validation")


@dataclass(frozen=True, eq=False)
class TfdsSource(Source):
    """A split of a prepared TFDS dataset.

    Attributes:
      records: the encoded examples, with random access.
      where: the files, for messages.
      image_key: feature that holds the picture.
      label_key: feature that holds the label.
      image_size: height and width that pictures are resized to, or None.
    """

    records: Any
    where: str
    image_key: str
    label_key: str
    image_size: int | None
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """Reads the records, parses them and decodes the pictures with Pillow.

        TFDS's own parser and decoder give the same values at a fifth of the speed.
        """
        from tensorflow_datasets.proto.tf_example_generated_pb2 import Example  # pyright: ignore[reportAttributeAccessIssue]

        positions = [int(i) for i in indices]
        images = np.empty((len(positions), *self.image_shape), np.uint8)
        labels = np.empty(len(positions), np.int32)
        try:
            records = self.records.__getitems__(positions) if positions else []
            features = [Example.FromString(record).features.feature for record in records]
        except Exception as error:  # array_record raises several types for one damaged file
            raise InputError(f"{self.where} is damaged: {error}") from error
        for row, (position, feature) in enumerate(zip(positions, features, strict=True)):
            name = f"{self.where}, example {position},"
            picture, label = feature[self.image_key].bytes_list.value, feature[self.label_key].int64_list.value
            if len(picture) != 1 or len(label) != 1:
                raise InputError(f"{name} has {len(picture)} pictures and {len(label)} labels; expected one of each")
            if not 0 <= label[0] < len(self.class_names):
                raise InputError(f"{name} has label {label[0]}; expected 0 to {len(self.class_names) - 1}")
            image = pixels.decode(picture[0], self.image_shape[-1], self.image_size, upright=False, where=name)
            if image.shape != self.image_shape:
                raise InputError(f"{name} is {image.shape} pixels; expected {self.image_shape}")
            images[row], labels[row] = image, label[0]
        return images, labels


def open_named(name: str, config: DataConfig, split: StoredSplit, test_split: str | None = None) -> Source:
    """Opens a split of any TFDS image-classification dataset, downloading it where it is not prepared.

    Args:
      name: TFDS name, with configuration and version where wanted, as in "cifar10" or "svhn_cropped:3.1.0".
      config: gives the directory and the image size.
      split: "test" is the split TFDS calls test, else the one it calls validation, else a fixed random fifth
        (seed 0) of train.
      test_split: the TFDS name of the test split, where that rule would choose wrongly.

    Returns:
      The split; nothing is decoded yet.

    Raises:
      InputError: the name is unknown, the dataset is not images with one label, or its files are missing or damaged.
    """
    builder = _prepared_builder(name, config.directory)
    stored = tuple(builder.info.splits)
    held = next((s for s in ((test_split,) if test_split else _TEST_SPLITS) if s in stored), None)
    if "train" not in stored or (test_split and held is None):
        raise InputError(f"{name!r} has the splits {', '.join(stored)}; expected train and {test_split or 'test'}")
    source = _open_stored(builder, held if split == "test" and held else "train", config.image_size)
    return source if held else held_out(source, TEST_SHARE, seed=0, keep=split == "test")


def _open_stored(builder: Any, split: str, image_size: int | None) -> TfdsSource:
    import tensorflow_datasets as tfds

    image_key, label_key = _feature_keys(builder.info)
    features = builder.info.features
    height, width, channels = features[image_key].shape
    channels = 1 if channels == 1 else 3
    if image_size is not None:
        height = width = image_size
    if height is None or width is None:
        raise InputError(f"the images of {builder.info.name!r} differ in size; choose one with --data.image-size")
    try:
        data_source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except Exception as error:  # as where records are read
        raise InputError(f"the {split} split of {builder.data_path} cannot be opened: {error}") from error
    return TfdsSource(
        records=data_source.data_source,
        where=f"{builder.data_path} ({split})",
        image_key=image_key,
        label_key=label_key,
        image_size=image_size,
        class_names=tuple(features[label_key].names),
        image_shape=(height, width, channels),
    )


def _feature_keys(info: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    features = info.features
    pictures = [key for key in features if isinstance(features[key], tfds.features.Image)]
    classes = [key for key in features if isinstance(features[key], tfds.features.ClassLabel)]
    image_key, label_key = (info.supervised_keys or (None, None))[:2]
    image_key = image_key if image_key in pictures else pictures[0] if len(pictures) == 1 else None
    label_key = label_key if label_key in classes else classes[0] if len(classes) == 1 else None
    if image_key is None or label_key is None or features[image_key].np_dtype != np.uint8:
        raise InputError(
            f"{info.name!r} has the features {dict(features)}; expected one 8-bit image and one class label"
        )
    return image_key, label_key


def _prepared_builder(name: str, directory: str | None) -> Any:
    # TFDS prints notices, and --json promises that standard output holds nothing but the result.
    with contextlib.redirect_stdout(sys.stderr):
        builder = _builder_on_disk(name, directory)
        if builder is None:
            _download(name, directory)
            builder = _builder_on_disk(name, directory)
            assert builder is not None
    file_format = builder.info.file_format
    if file_format is None or file_format.value != "array_record":
        raise InputError(
            f"{builder.data_path} is prepared as {file_format and file_format.value}, which needs TensorFlow to read; "
            f"prepare it again in another directory: {_command(name, 'OTHER_DIRECTORY')}"
        )
    return builder


def _builder_on_disk(name: str, directory: str | None) -> Any | None:
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        return read_only_builder.builder_from_files(name, data_dir=directory)
    except DatasetNotFoundError:
        return None
    except Exception as error:  # a name TFDS cannot parse, or whatever its JSON reader raises for a damaged file
        where = directory or "the TFDS directory"
        raise InputError(f"dataset {name!r} in {where} cannot be opened: {first_line(error)}") from error


def _download(name: str, directory: str | None) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except DatasetNotFoundError:
        known = {*names(), *tfds.list_builders(with_community_datasets=False)}
        raise unknown_name("dataset", name, known) from None
    except Exception as error:  # an unknown configuration or version, or a dataset whose code needs TensorFlow
        raise InputError(f"dataset {name!r} cannot be set up: {first_line(error)}") from error
    _feature_keys(builder.info)
    root = str(builder.data_path).removesuffix(builder.info.full_name).rstrip("/")
    try:
        _require_network(builder)
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # no network, a full disk, a file to fetch by hand: TFDS passes everything on
        raise InputError(
            f"dataset {name!r} is not in {root} and could not be downloaded ({first_line(error)}); "
            f"prepare it where TensorFlow and a network are at hand: {_command(name, root)}"
        ) from error


def _require_network(builder: Any) -> None:
    # TFDS retries an unreachable host for minutes. Behind a proxy, names need not resolve here.
    host = next((urllib.parse.urlsplit(url).hostname for url in builder.url_infos or ()), None)
    if host and not urllib.request.getproxies():
        socket.getaddrinfo(host, None)


def _command(name: str, directory: str) -> str:
    return f"tfds build {name} --data_dir {shlex.quote(directory)} --file_format array_record"


def _listed(name: str, description: str, test_split: str | None = None) -> Dataset:
    return Dataset(description, functools.partial(open_named, name, test_split=test_split))


DATASETS = {
    "mnist": _listed("mnist", "60,000 + 10,000 handwritten digits, 28x28 grey (TFDS)"),
    "fashion_mnist": _listed("fashion_mnist", "60,000 + 10,000 pieces of clothing, 28x28 grey (TFDS)"),
    "cifar10": _listed("cifar10", "50,000 + 10,000 photographs in 10 classes, 32x32 RGB (TFDS)"),
    "cifar100": _listed("cifar100", "50,000 + 10,000 photographs in 100 classes, 32x32 RGB (TFDS)"),
    "svhn_cropped": _listed("svhn_cropped", "73,257 + 26,032 house numbers, 32x32 RGB (TFDS)"),
    # The test split of ImageNet has no labels.
    "imagenet2012": _listed("imagenet2012", "1,281,167 + 50,000 photographs in 1,000 classes (TFDS)", "validation"),
}
