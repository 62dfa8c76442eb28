"""Datasets prepared by TFDS, read without TensorFlow."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import data
from jaxcnn.config import DataConfig
from jaxcnn.data import pipeline
from jaxcnn.data.sources import tfds as tfds_source
from jaxcnn.errors import InputError


def noise(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, tuple(shape), np.uint8)


# ---- TFDS


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, kind)
    return file.getvalue()


def write_tfds(
    directory: Path,
    splits: dict[str, Sequence[tuple[bytes, int]]],
    *,
    name: str = "tiny",
    shape: Sequence[int] = (4, 6, 3),
    classes: int = 3,
    supervised: bool = True,
    file_format: str = "array_record",
    extra: dict | None = None,
    dtype: str = "uint8",
) -> DataConfig:
    """Writes a dataset in TFDS's on-disk layout, as documented for datasets prepared elsewhere."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto.tf_example_generated_pb2 import Example  # pyright: ignore

    folder = directory / name / "1.0.0"
    folder.mkdir(parents=True)
    base = "tensorflow_datasets.core.features"
    features = {
        "image": {
            "pythonClassName": f"{base}.image_feature.Image",
            "image": {
                "dtype": dtype,
                "encodingFormat": "png",
                "shape": {"dimensions": [str(-1 if d is None else d) for d in shape]},
            },
        },
        "label": {
            "pythonClassName": f"{base}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
        **(extra or {}),
    }
    described = []
    for split, examples in splits.items():
        described.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": [str(len(examples))],
            }
        )
        file = folder / f"{name}-{split}.{file_format}-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
        for picture_bytes, label in examples:
            example = Example()
            example.features.feature["image"].bytes_list.value.append(picture_bytes)
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
    info = {"name": name, "version": "1.0.0", "fileFormat": file_format, "splits": described, "moduleName": "m"}
    if supervised:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "label.labels.txt").write_text("".join(f"class {i}\n" for i in range(classes)))
    (folder / "features.json").write_text(
        json.dumps({"pythonClassName": f"{base}.features_dict.FeaturesDict", "featuresDict": {"features": features}})
    )
    return DataConfig(dataset=name, directory=str(directory))


def examples(n: int, shape: Sequence[int] = (4, 6, 3), seed: int = 0) -> list[tuple[bytes, int]]:
    return [(encode(image), i % 3) for i, image in enumerate(noise((n, *shape), seed))]


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_tfds_directory_prepared_elsewhere(tmp_path, supervised, channels):
    shape = (4, 6, channels)
    splits = {"train": examples(7, shape), "test": examples(5, shape, seed=1)}
    config = write_tfds(tmp_path, splits, shape=shape, supervised=supervised)
    for split, seed, n in (("train", 0, 7), ("test", 1, 5)):
        source = data.open_split(config, split, 0)
        images, labels = pickle.loads(pickle.dumps(source)).read(range(n))
        np.testing.assert_array_equal(images, noise((n, *shape), seed))
        np.testing.assert_array_equal(labels, np.arange(n) % 3)
        assert source.class_names == ("class 0", "class 1", "class 2")


def test_tfds_split_names(tmp_path):
    config = write_tfds(tmp_path, {"train": examples(3), "validation": examples(2)})
    assert len(data.open_split(config, "test", 0)) == 2
    config = write_tfds(tmp_path, {"train": examples(10)}, name="lone")
    train, test = (data.open_split(config, split, 0) for split in ("train", "test"))
    assert isinstance(train, data.Subset)
    assert isinstance(test, data.Subset)
    assert sorted([*train.indices, *test.indices]) == list(range(10))
    assert len(test) == 2
    config = write_tfds(tmp_path, {"train": examples(4), "test": examples(3), "validation": examples(2)}, name="three")
    assert len(data.open_split(config, "test", 0)) == 3
    assert len(tfds_source.open_named("three", config, "test", test_split="validation")) == 2
    config = write_tfds(tmp_path, {"test": examples(3)}, name="untrained")
    with pytest.raises(InputError, match="has the splits test; expected train"):
        data.open_split(config, "test", 0)


def test_tfds_pictures_of_any_size_need_one(tmp_path):
    mixed = [(encode(noise((h, 5, 3))), 0) for h in (4, 9)]
    config = write_tfds(tmp_path, {"train": mixed}, shape=(None, None, 3))
    with pytest.raises(InputError, match=r"differ in size; .*--data\.image-size"):
        data.open_split(config, "train", 0)
    config = DataConfig(dataset="tiny", directory=str(tmp_path), image_size=6)
    image, _ = data.open_split(config, "train", 0)[1]
    expected = Image.fromarray(noise((9, 5, 3))).resize((6, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image, np.asarray(expected))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((encode(noise((4, 6, 3))), 3), r"example 1, has label 3; expected 0 to 2"),
        ((encode(noise((4, 6, 3))), -1), r"example 1, has label -1; expected 0 to 2"),
        ((encode(noise((5, 6, 3))), 0), r"example 1, is \(5, 6, 3\) pixels; expected \(4, 6, 3\)"),
        ((encode(noise((4, 6, 3)))[:60], 0), r"example 1, cannot be read as a picture"),
        ((b"", 0), r"example 1, cannot be read as a picture"),
    ],
)
def test_tfds_bad_examples_are_named(tmp_path, bad, message):
    config = write_tfds(tmp_path, {"train": [*examples(1), bad], "test": examples(1)})
    with pytest.raises(InputError, match=message):
        data.open_split(config, "train", 0).read([0, 1])


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "noise", "missing"])
def test_tfds_damaged_files_are_named(tmp_path, damage):
    config = write_tfds(tmp_path, {"train": examples(500), "test": examples(1)})
    file = next(tmp_path.glob("tiny/1.0.0/tiny-train*"))
    content = bytearray(file.read_bytes())
    content[300] ^= 1
    damaged = {
        "truncated": content[: len(content) // 2],
        "one byte": content,
        "empty": b"",
        "noise": noise([9]).tobytes(),
    }
    file.unlink() if damage == "missing" else file.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=r"tiny/1\.0\.0 \(train\) is damaged"):
        pipeline.decode(data.open_split(config, "train", 0))


def test_tfds_damaged_description_is_named(tmp_path):
    config = write_tfds(tmp_path, {"train": examples(1)})
    (tmp_path / "tiny" / "1.0.0" / "features.json").write_text("{")
    with pytest.raises(InputError, match=r"'tiny' in .* cannot be opened"):
        data.open_split(config, "train", 0)


def test_tfds_as_tfrecord_gets_its_own_sentence(tmp_path):
    config = write_tfds(tmp_path, {"train": examples(1)}, file_format="tfrecord")
    with pytest.raises(InputError, match=r"tiny/1\.0\.0 is prepared as tfrecord.*tfds build tiny .*array_record"):
        data.open_split(config, "train", 0)


def test_tfds_without_one_image_and_one_label_is_refused(tmp_path):
    another = {
        "other": {
            "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "2"},
        }
    }
    config = write_tfds(tmp_path, {"train": examples(1)}, supervised=False, extra=another)
    with pytest.raises(InputError, match=r"'tiny' has the features .* expected one 8-bit image and one class label"):
        data.open_split(config, "train", 0)
    config = write_tfds(tmp_path, {"train": examples(1)}, name="deep", dtype="uint16")
    with pytest.raises(InputError, match="expected one 8-bit image"):
        data.open_split(config, "train", 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "unknown dataset 'mnits'; did you mean mnist, "),
        ("rock_paper_scisors", "did you mean rock_paper_scissors"),
        ("imdb_reviews", "expected one 8-bit image"),
        ("mnist:9.9.9", "'mnist:9.9.9' cannot be set up"),
        ("../up", "'../up' in .* cannot be opened"),
    ],
)
def test_tfds_bad_names(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        data.open_split(DataConfig(dataset=name, directory=str(tmp_path)), "train", 0)


def test_tfds_dataset_that_cannot_be_downloaded(tmp_path, monkeypatch, capsys):
    def offline(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(tfds_source.socket, "getaddrinfo", offline)
    monkeypatch.setattr(tfds_source.urllib.request, "getproxies", dict)
    directory = tmp_path / "my data"
    with pytest.raises(InputError, match=r"'mnist' is not in .*could not be downloaded") as caught:
        data.open_split(DataConfig(dataset="mnist", directory=str(directory)), "train", 0)
    assert f"tfds build mnist --data_dir '{directory}' --file_format array_record" in str(caught.value)
    assert capsys.readouterr().out == ""


def test_tfds_dataset_that_is_not_there_is_downloaded(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets as tfds

    def download_and_prepare(builder, *, file_format):
        assert file_format == "array_record"
        print("Downloading and preparing dataset")
        write_tfds(tmp_path, {"train": examples(4), "test": examples(2)}, name=builder.name)

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare)
    monkeypatch.setattr(tfds_source, "_require_network", lambda builder: None)
    config = DataConfig(dataset="rock_paper_scissors", directory=str(tmp_path))
    assert len(data.open_split(config, "train", 0)) == 4
    assert capsys.readouterr().out == ""


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FACTS = {
    "mnist": (
        (28, 28, 1),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "fashion_mnist": ((28, 28, 1), [6000] * 10, [1000] * 10),
    "cifar10": ((32, 32, 3), [5000] * 10, [1000] * 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_real_datasets_are_as_published(real_data, name):
    shape, *counts = FACTS[name]
    config = DataConfig(dataset=name, directory=str(real_data / "tfds"))
    train, test = (data.open_split(config, split, 0) for split in ("train", "test"))
    assert train.image_shape == test.image_shape == shape
    assert (len(train), len(test)) == (sum(counts[0]), sum(counts[1]))
    assert train.class_names == test.class_names
    assert len(train.class_names) == 10
    images, labels = pipeline.decode(test)
    assert np.bincount(labels).tolist() == counts[1]
    assert (images.min(), images.max()) == (0, 255)
    if name == "cifar10":
        assert train.class_names == CIFAR
    else:
        assert np.bincount(pipeline.decode(train)[1]).tolist() == counts[0]


@pytest.mark.parametrize(("name", "mean"), [("fashion_mnist", 0.2868), ("mnist", 0.8744)])
def test_pixels_are_decoded_to_the_last_digit(real_data, name, mean):
    # The mean of the 10,000 test pictures, as first decoded; the files are lossless. This copy of MNIST is inverted:
    # as published, with white digits on black, the mean is 0.1325.
    config = DataConfig(dataset=name, directory=str(real_data / "tfds"))
    images, _ = pipeline.decode(data.open_split(config, "test", 0))
    assert images.mean() / 255 == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_pictures_equal_those_that_tfds_decodes(real_data, name):
    import tensorflow_datasets as tfds

    own = data.open_split(DataConfig(dataset=name, directory=str(real_data / "tfds")), "test", 0)
    theirs = tfds.data_source(name, split="test", data_dir=real_data / "tfds")
    for index in (0, 1, 4321, 9999):
        image, label = own[index]
        np.testing.assert_array_equal(image, theirs[index]["image"])
        assert label == theirs[index]["label"]


def test_tfds_needs_no_tensorflow_and_prints_nothing(real_data):
    code = (
        "import sys\n"
        "from jaxcnn import data\n"
        "from jaxcnn.config import DataConfig\n"
        f"config = DataConfig(dataset='cifar10', directory={str(real_data / 'tfds')!r})\n"
        "data.open_split(config, 'test', 0).read(range(10))\n"
        "assert 'tensorflow' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")
