"""The user's own pictures: a folder for each class, or a table of labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.config import DataConfig
from jaxcnn.data import images as pixels
from jaxcnn.data.spec import Dataset, Images, Indices, Labels, Source, StoredSplit, stratified_fifth
from jaxcnn.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
"""Names of split folders, and of splits in the table, to the split they mean."""
TABLE = "labels.csv"


class Picture(NamedTuple):
    """One picture of the folder.

    Attributes:
      path: its file.
      class_name: its label.
      split: train, validation or test, or None where the folder has no splits.
    """

    path: Path
    class_name: str
    split: str | None


@dataclass(frozen=True, eq=False)
class FolderSource(Source):
    """A split of an image folder; pictures are decoded when they are read.

    Attributes:
      paths: the files.
      labels: the label of each.
      image_size: height and width that pictures are resized to, or None.
    """

    paths: tuple[Path, ...]
    labels: Labels
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    image_size: int | None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """Decodes the pictures at `indices`, upright as their EXIF orientation says."""
        chosen = np.asarray(indices, np.int64)
        images = np.empty((len(chosen), *self.image_shape), np.uint8)
        for row, index in enumerate(chosen):
            path = self.paths[index]
            image = pixels.decode(path, self.image_shape[-1], self.image_size, upright=True)
            if image.shape != self.image_shape:
                raise InputError(f"{path} is {image.shape} pixels; expected {self.image_shape}: it changed on disk")
            images[row] = image
        return images, self.labels[chosen]


def open_folder(config: DataConfig, split: StoredSplit) -> FolderSource:
    """Opens a split of the folder `config.directory`.

    The folder holds `CLASS/*.png`, or `SPLIT/CLASS/*.png` with the splits of `SPLITS`, or labels.csv with the columns
    file, label and, where wanted, split. The test split is test, else val or validation, else `spec.stratified_fifth`
    of train; a validation folder beside a test folder is left alone, since `data.validation` takes its share of train.
    Labels number the class names in sorted order. Pictures become grey if all of them are grey, else RGB.

    Args:
      config: gives the folder and the image size.
      split: which part.

    Returns:
      The split; only the pictures' headers have been read.

    Raises:
      InputError: the folder is not laid out like that, is empty, or a file in it is missing, broken or no picture;
        the pictures differ in size and no size is given; a class has test pictures only.
    """
    folder = _folder(config.directory)
    tables = [entry for entry in _visible(folder) if entry.name.lower() == TABLE and entry.is_file()]
    table = max(tables, key=lambda entry: entry.name == TABLE, default=None)
    pictures = _from_folders(folder) if table is None else _from_table(table)
    train, test = _divide(pictures, folder)
    class_names = tuple(sorted({picture.class_name for picture in train}))
    for picture in test:
        if picture.class_name not in class_names:
            raise InputError(f"class {picture.class_name!r} of {picture.path} has no training pictures; expected some")
    number = {name: label for label, name in enumerate(class_names)}
    shape = _image_shape([picture.path for picture in (*train, *test)], config.image_size)
    chosen = test if split == "test" else train
    return FolderSource(
        paths=tuple(picture.path for picture in chosen),
        labels=np.array([number[picture.class_name] for picture in chosen], np.int32),
        class_names=class_names,
        image_shape=shape,
        image_size=config.image_size,
    )


def _folder(directory: str | None) -> Path:
    if directory is None:
        raise InputError("data.directory is None; expected the folder with the pictures, as --data.directory pictures")
    folder = Path(os.path.expanduser(directory))
    if not folder.is_dir():
        raise InputError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of pictures")
    return folder


def _divide(pictures: Sequence[Picture], folder: Path) -> tuple[list[Picture], list[Picture]]:
    present = {picture.split for picture in pictures}
    if "train" not in present and None not in present:
        raise InputError(f"{folder} has the splits {', '.join(sorted(map(str, present)))}; expected train among them")
    if held := next((split for split in ("test", "validation") if split in present), None):
        return [p for p in pictures if p.split == "train"], [p for p in pictures if p.split == held]
    names = [picture.class_name for picture in pictures]
    chosen = stratified_fifth(np.unique(names, return_inverse=True)[1])
    rest = [picture for picture, held in zip(pictures, chosen, strict=True) if not held]
    return rest, [picture for picture, held in zip(pictures, chosen, strict=True) if held]


def _image_shape(paths: Sequence[Path], size: int | None) -> tuple[int, int, int]:
    headers = [pixels.inspect(path) for path in paths]
    channels = 1 if all(grey for _, grey in headers) else 3
    if size is not None:
        return size, size, channels
    (height, width), _ = headers[0]
    for path, ((other_height, other_width), _) in zip(paths, headers, strict=True):
        if (other_height, other_width) != (height, width):
            raise InputError(
                f"{paths[0]} is {width}x{height} pixels and {path} is {other_width}x{other_height}; "
                "expected one size, or a size for all with --data.image-size"
            )
    return height, width, channels


def _from_folders(folder: Path) -> list[Picture]:
    parts = _subfolders(folder)
    if any(part.name not in SPLITS for part in parts):
        return [Picture(path, kind.name, None) for kind in parts for path in _pictures_in(kind)]
    return [
        Picture(path, kind.name, SPLITS[part.name])
        for part in parts
        for kind in _subfolders(part)
        for path in _pictures_in(kind)
    ]


def _from_table(table: Path) -> list[Picture]:
    folder = table.parent
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table} cannot be read as UTF-8 text: {error}") from error
    lines = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        rows = [(lines.line_num, [value.strip() for value in line]) for line in lines]
    except csv.Error as error:
        raise InputError(f"{table}, line {lines.line_num}, is no line of a table: {error}") from error
    rows = [(number, values) for number, values in rows if any(values)]  # tables of spreadsheets end in empty lines
    columns = rows[0][1] if rows else []
    known = [name for name in ("file", "label", "split") if name in columns]
    if known[:2] != ["file", "label"] or any(columns.count(name) > 1 for name in known):
        found = ", ".join(columns) or "none"
        raise InputError(f"{table} has the columns {found}; expected file and label, once each, with commas between")
    pictures: dict[str, Picture] = {}
    for number, values in rows[1:]:
        where = f"{table}, line {number},"
        if any(values[len(columns) :]):
            raise InputError(
                f"{where} has {len(values)} values; expected {len(columns)}, and quotation marks around one that holds "
                "a comma"
            )
        row = dict(zip(columns, values, strict=False))
        for column in known:
            if not row.get(column):
                raise InputError(f"{where} has no {column}; expected one in each line")
        split = row.get("split")
        if split is not None and split not in SPLITS:
            raise InputError(f"{where} has the split {split!r}; expected {', '.join(SPLITS)}")
        names = (row["file"], row["file"].replace("\\", "/"))  # as tables written on Windows have them
        path = next((folder / name for name in names if os.path.isfile(folder / name)), None)
        if path is None:
            raise InputError(f"{where} names {folder / row['file']}, which is not there")
        if (same := os.path.normpath(path)) in pictures:
            raise InputError(f"{where} lists {path} a second time; expected each file once")
        pictures[same] = Picture(path, row["label"], split and SPLITS[split])
    if not pictures:
        raise InputError(f"{table} lists no pictures; expected one in each line")
    return list(pictures.values())


def _subfolders(folder: Path) -> list[Path]:
    entries = _visible(folder)
    if stray := [entry for entry in entries if entry.is_file() and entry.suffix.lower() in SUFFIXES]:
        raise InputError(f"{stray[0]} is in no class folder; expected {folder}/CLASS/{stray[0].name} or {TABLE}")
    if not (folders := [entry for entry in entries if entry.is_dir()]):
        raise InputError(f"{folder} has no class folders; expected {folder}/CLASS/*.png or {folder}/{TABLE}")
    return folders


def _pictures_in(folder: Path) -> list[Path]:
    entries = _visible(folder)
    if not entries:
        raise InputError(f"{folder} has no pictures; expected at least one in each class folder")
    for entry in entries:
        if entry.suffix.lower() not in SUFFIXES or not entry.is_file():
            raise InputError(f"{entry} is no picture; expected files ending in {', '.join(SUFFIXES)}")
    return entries


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error}") from error


DATASETS = {"folder": Dataset("your own pictures: DIRECTORY/CLASS/*.png, or a labels.csv", open_folder)}
