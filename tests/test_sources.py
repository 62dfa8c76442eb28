"""Datasets: what each source reads, and what it says about input it cannot use."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn import data
from jaxcnn.config import DataConfig
from jaxcnn.data import images as pixels
from jaxcnn.data import pipeline, spec
from jaxcnn.data.sources import tfds as tfds_source
from jaxcnn.errors import InputError


def folder_config(path: Path, **settings) -> DataConfig:
    return DataConfig(dataset="folder", directory=str(path), **settings)


def picture(value: int = 0, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value if mode in ("L", "I;16") else (value,) * len(Image.new(mode, (1, 1)).getbands()))


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path, **options)
    return path


def noise(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, tuple(shape), np.uint8)


# ---- splits


def test_listed_datasets_have_one_line_descriptions():
    listed = data.names()
    assert {"digits", "folder", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped", "imagenet2012"} <= set(
        listed
    )
    assert all(text and "\n" not in text for text in listed.values())


def test_importing_data_loads_no_heavy_library():
    heavy = ["jax", "grain", "tensorflow_datasets", "sklearn", "tensorflow"]
    code = f"import sys, jaxcnn.data; jaxcnn.data.names(); print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 300), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6))
def test_shuffled_is_a_permutation_and_a_function_of_its_arguments(n, seed, epoch):
    first = spec.shuffled(n, seed, purpose="order", epoch=epoch)
    assert sorted(first) == list(range(n))
    np.testing.assert_array_equal(first, spec.shuffled(n, seed, purpose="order", epoch=epoch))
    if n > 30:
        assert not np.array_equal(first, spec.shuffled(n, seed, purpose="order", epoch=epoch + 1))
        assert not np.array_equal(first, spec.shuffled(n, seed ^ 1, purpose="order", epoch=epoch))
        assert not np.array_equal(first, spec.shuffled(n, seed, purpose="split", epoch=epoch))


def test_shuffled_never_changes():
    # A run resumed under another NumPy must see the same order; these are the published stream's own values.
    assert spec.shuffled(10, 0, purpose="order").tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert spec.shuffled(10, 7, purpose="split").tolist() == [2, 5, 7, 8, 1, 9, 3, 4, 0, 6]


def test_shuffled_is_uniform():
    # Each element lies in each place 1/6 of the time: chi-squared with 25 degrees of freedom, 99.99th percentile 62.
    n, draws = 6, 6000
    counts = np.zeros((n, n))
    for epoch in range(draws):
        counts[np.arange(n), spec.shuffled(n, 1, purpose="order", epoch=epoch)] += 1
    expected = draws / n
    assert ((counts - expected) ** 2 / expected).sum() < 62


@settings(deadline=None, max_examples=30)
@given(labels=st.lists(st.integers(0, 4), max_size=60))
def test_stratified_fifth_takes_a_fifth_of_each_class(labels):
    labels = np.array(labels, np.int32)
    chosen = spec.stratified_fifth(labels)
    for label in range(5):
        members = chosen[labels == label]
        assert members.sum() == round(len(members) / 5)


@settings(deadline=None, max_examples=10)
@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_validation_is_held_out_of_train(share, seed):
    config = DataConfig(validation=share)
    train, held = data.open_split(config, "train", seed), data.open_split(config, "validation", seed)
    assert isinstance(train, data.Subset)
    assert isinstance(held, data.Subset)
    assert len(held) == round(share * 1438)
    assert sorted([*train.indices, *held.indices]) == list(range(1438))


def test_validation_depends_on_the_seed_only():
    def chosen(seed: int) -> np.ndarray:
        split = data.open_split(DataConfig(validation=0.2), "validation", seed)
        assert isinstance(split, data.Subset)
        return split.indices

    np.testing.assert_array_equal(chosen(1), chosen(1))
    assert not np.array_equal(chosen(1), chosen(2))


def test_validation_that_was_not_asked_for_is_an_error():
    with pytest.raises(InputError, match=r"data\.validation is 0"):
        data.open_split(DataConfig(), "validation", 0)


@pytest.mark.parametrize(("share", "split"), [(0.0001, "validation"), (0.9999, "train")])
def test_an_empty_split_is_an_error(share, split):
    with pytest.raises(InputError, match=f"the {split} split of 'digits' has no images"):
        data.open_split(DataConfig(validation=share), split, 0)


# ---- digits


def test_digits_are_the_bundled_ones():
    from sklearn.datasets import load_digits

    train, test = (data.open_split(DataConfig(), split, 0) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    assert train.image_shape == test.image_shape == (8, 8, 1)
    assert train.class_names == tuple("0123456789")
    images, labels = (
        np.concatenate(parts) for parts in zip(pipeline.decode(train), pipeline.decode(test), strict=True)
    )
    assert images.dtype == np.uint8
    assert images.max() == 255
    flat, targets = load_digits(return_X_y=True)
    seen = sorted((label, *np.rint(image.ravel() / 255 * 16)) for image, label in zip(images, labels, strict=True))
    assert seen == sorted((label, *image) for image, label in zip(flat, targets, strict=True))


def test_digits_are_resized():
    image, label = data.open_split(DataConfig(image_size=12), "test", 0)[0]
    small, same = data.open_split(DataConfig(), "test", 0)[0]
    assert label == same
    expected = Image.fromarray(small[..., 0]).resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image[..., 0], np.asarray(expected))


def test_a_source_is_a_sequence():
    source = data.open_split(DataConfig(), "test", 0)
    np.testing.assert_array_equal(source[-1][0], source[len(source) - 1][0])
    with pytest.raises(IndexError):
        source[len(source)]


# ---- the user's own folder


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    for kind, value in (("cat", 10), ("ant", 200)):
        for i in range(5):
            save(tmp_path / kind / f"{i}.png", picture(value + i))
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "LICENSE").write_text("free")
    return tmp_path


def test_folder_of_classes(two_classes):
    train, test = (data.open_split(folder_config(two_classes), split, 0) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("ant", "cat")
    assert train.image_shape == (4, 6, 3)
    images, labels = (
        np.concatenate(parts) for parts in zip(pipeline.decode(train), pipeline.decode(test), strict=True)
    )
    assert (len(train), len(test)) == (8, 2)
    assert sorted(zip(labels, images[:, 0, 0, 0], strict=True)) == [
        *((0, 200 + i) for i in range(5)),
        *((1, 10 + i) for i in range(5)),
    ]


def test_folder_source_can_be_pickled(two_classes):
    source = data.open_split(folder_config(two_classes, validation=0.3), "train", 0)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[3][0], source[3][0])


@pytest.mark.parametrize("held", ["test", "val", "validation"])
def test_folder_with_splits(tmp_path, held):
    save(tmp_path / "train" / "a" / "1.png", picture(1))
    save(tmp_path / "train" / "b" / "2.png", picture(2))
    save(tmp_path / held / "b" / "3.png", picture(3))
    train, test = (data.open_split(folder_config(tmp_path), split, 0) for split in ("train", "test"))
    assert [int(image[0, 0, 0]) for image, _ in (train[0], train[1], test[0])] == [1, 2, 3]
    assert [label for _, label in (train[0], train[1], test[0])] == [0, 1, 1]


def test_a_validation_folder_beside_test_is_left_alone(tmp_path):
    for split, value in (("train", 1), ("val", 2), ("test", 3)):
        save(tmp_path / split / "a" / "1.png", picture(value))
    values = [data.open_split(folder_config(tmp_path), split, 0)[0][0][0, 0, 0] for split in ("train", "test")]
    assert values == [1, 3]


def test_a_lone_train_folder_gives_a_fifth_for_testing(tmp_path):
    for i in range(10):
        save(tmp_path / "train" / "a" / f"{i}.png", picture(i))
    assert [len(data.open_split(folder_config(tmp_path), split, 0)) for split in ("train", "test")] == [8, 2]


def write_table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    for i in range(4):
        save(folder / "pictures" / f"{i}.png", picture(i))
    (folder / "labels.csv").write_text(text, encoding=encoding)
    return folder


def test_table_of_labels(tmp_path):
    text = "\n".join(["file,label", *(f"pictures/{i}.png, {'odd' if i % 2 else 'even'}" for i in range(4))])
    train = data.open_split(folder_config(write_table(tmp_path, text, "utf-8-sig")), "train", 0)
    assert train.class_names == ("even", "odd")
    images, labels = pipeline.decode(train)
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 2)


def test_table_with_splits(tmp_path):
    text = "split,label,file\ntrain,a,pictures/0.png\nval,a,pictures/1.png\ntrain,b,pictures/3.png\n"
    config = folder_config(write_table(tmp_path, text))
    train, test = (data.open_split(config, split, 0) for split in ("train", "test"))
    assert [int(image[0, 0, 0]) for image, _ in (train[0], train[1], test[0])] == [0, 3, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none; expected file"),
        ("file,class\npictures/0.png,a\n", "has the columns file, class; expected label"),
        ("file,label\n", "lists no pictures"),
        ("file,label\npictures/0.png,a\npictures/1.png,\n", r"line 3, has no label"),
        ("file,label\npictures/0.png\n", r"line 2, has no label"),
        ("file,label\n,a\n", r"line 2, has no file"),
        ("file,label\npictures/9.png,a\n", r"line 2, names .*pictures/9\.png, which is not there"),
        ("file,label\npictures/0.png,a\npictures/0.png,b\n", r"lists .*0\.png twice"),
        ("file,label,split\npictures/0.png,a,learn\n", r"line 2, has the split 'learn'; expected train"),
        ("file,label,split\npictures/0.png,a,\n", r"line 2, has no split"),
        ("file,label,split\npictures/0.png,a,test\n", r"has the splits test; expected train"),
        ("file,label,split\npictures/0.png,a,train\npictures/1.png,b,test\n", r"class 'b' of .*1\.png has no training"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        data.open_split(folder_config(write_table(tmp_path, text)), "train", 0)


def test_a_table_that_is_not_text_is_named(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"labels\.csv cannot be read as UTF-8"):
        data.open_split(folder_config(tmp_path), "train", 0)


def broken(folder: Path) -> None:
    path = save(folder / "cat" / "9.png", Image.fromarray(noise((4, 6, 3))))
    path.write_bytes(path.read_bytes()[:-30])


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda f: (f / "cat" / "notes.txt").write_text("x"), r"cat/notes\.txt is no picture"),
    "subfolder": (lambda f: (f / "cat" / "more").mkdir(), r"cat/more is no picture"),
    "empty class": (lambda f: (f / "dog").mkdir(), r"dog has no pictures"),
    "stray picture": (lambda f: save(f / "stray.png"), r"stray\.png is in no class folder"),
    "not an image": (lambda f: (f / "cat" / "9.png").write_text("x"), r"cat/9\.png cannot be read as a picture"),
    "empty file": (lambda f: (f / "cat" / "9.png").write_bytes(b""), r"cat/9\.png cannot be read as a picture"),
    "truncated": (broken, r"cat/9\.png cannot be read as a picture"),
    "mixed sizes": (
        lambda f: save(f / "cat" / "9.png", picture(size=(7, 4))),
        r"ant/0\.png is 6x4 pixels and .*cat/9\.png is 7x4; .*--data\.image-size",
    ),
    "32 bits": (
        lambda f: save(f / "cat" / "9.tiff", Image.new("F", (6, 4), 0.5)),
        r"cat/9\.tiff has 32 bits a pixel",
    ),
}


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_bad_files_are_named(two_classes, kind):
    spoil, message = BAD_FOLDERS[kind]
    spoil(two_classes)

    def read_everything() -> None:
        for split in ("train", "test"):
            pipeline.decode(data.open_split(folder_config(two_classes), split, 0))

    with pytest.raises(InputError, match=message):
        read_everything()


def test_a_picture_too_large_to_be_one_is_named(two_classes, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"ant/0\.png cannot be read as a picture"):
        data.open_split(folder_config(two_classes), "train", 0)


def test_a_picture_that_changed_since_is_named(two_classes):
    source = data.open_split(folder_config(two_classes), "train", 0)
    for path in two_classes.glob("*/*.png"):
        save(path, picture(size=(9, 9)))
    with pytest.raises(InputError, match=r"\.png is \(9, 9, 3\) pixels; expected \(4, 6, 3\)"):
        source[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda f: None, "is not there"),
        (lambda f: f.write_text("x"), "is a file"),
        (lambda f: f.mkdir(), "has no class folders"),
        (lambda f: save(f / "0.png"), r"0\.png is in no class folder"),
        (lambda f: (f / "train").mkdir(parents=True), "train has no class folders"),
        (lambda f: save(f / "test" / "a" / "0.png"), "has the splits test; expected train"),
        (
            lambda f: [save(f / s) for s in ("train/a/0.png", "test/b/0.png")],
            "class 'b' of .* has no training pictures",
        ),
        (lambda f: save(f / "a" / "0.png"), "the test split of 'folder' has no images"),
    ],
)
def test_bad_folders_are_named(tmp_path, build, message):
    build(tmp_path / "pictures")
    with pytest.raises(InputError, match=message):
        data.open_split(folder_config(tmp_path / "pictures"), "test", 0)


def test_a_folder_must_be_given():
    with pytest.raises(InputError, match=r"data\.directory is None"):
        data.open_split(DataConfig(dataset="folder"), "train", 0)


# ---- what pictures look like


def read_one(tmp_path: Path, image: Image.Image, name: str = "0.png", size: int | None = None, **options) -> np.ndarray:
    save(tmp_path / "train" / "a" / name, image, **options)
    return data.open_split(folder_config(tmp_path, image_size=size), "train", 0)[0][0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_pictures_have_one_channel(tmp_path, mode):
    value = {"1": 1, "I;16": 65535}.get(mode, 255)
    image = read_one(tmp_path, Image.new(mode, (6, 4), (255, 255) if mode == "LA" else value))
    assert image.shape == (4, 6, 1)
    assert (image == 255).all()


def test_one_coloured_picture_makes_the_folder_rgb(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", picture(9))
    grey = read_one(tmp_path, picture(50, mode="L"))
    np.testing.assert_array_equal(grey, np.full((4, 6, 3), 50))


@pytest.mark.parametrize("value", [0, 1, 257, 12345, 40000, 65535])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, value):
    image = read_one(tmp_path, Image.new("I;16", (6, 4), value))
    assert (image == round(value * 255 / 65535)).all()


def test_transparency_is_composited_over_white(tmp_path):
    image = read_one(tmp_path, Image.new("RGBA", (6, 4), (100, 0, 200, 51)))
    expected = np.array([100, 0, 200]) * 0.2 + 255 * 0.8
    np.testing.assert_allclose(image, np.broadcast_to(expected, (4, 6, 3)), atol=1)


def test_transparent_grey_and_palette_pictures(tmp_path):
    grey = read_one(tmp_path / "grey", Image.new("LA", (6, 4), (0, 0)))
    assert grey.shape == (4, 6, 1)
    assert (grey == 255).all()
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    opaque = read_one(tmp_path / "opaque", palette)
    np.testing.assert_array_equal(opaque, np.broadcast_to([10, 20, 30], (4, 6, 3)))
    for mode, key in (("P", 1), ("L", 7), ("RGB", (7, 7, 7))):
        image = palette if mode == "P" else picture(7, mode=mode)
        clear = read_one(tmp_path / f"clear {mode}", image, transparency=key)
        assert (clear == 255).all()


def test_cmyk_becomes_rgb(tmp_path):
    image = read_one(tmp_path, Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "0.jpg", quality=100)
    np.testing.assert_allclose(image, np.broadcast_to([255, 0, 0], (4, 6, 3)), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    stored = noise((4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_one(tmp_path, Image.fromarray(stored), exif=exif)
    # How a stored picture is shown, by the EXIF standard's table of where row 0 and column 0 lie.
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    np.testing.assert_array_equal(image, shown)


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "gif", "webp", "tiff", "tif", "jpg", "jpeg"])
def test_formats(tmp_path, suffix):
    image = read_one(tmp_path, picture(128), f"0.{suffix}")
    np.testing.assert_allclose(image, 128, atol=2)


def test_image_size_brings_mixed_sizes_together(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", picture(9, (30, 20)))
    stored = noise((4, 6, 3))
    image = read_one(tmp_path, Image.fromarray(stored), size=5)
    expected = Image.fromarray(stored).resize((5, 5), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image, np.asarray(expected))


def test_resize_all_leaves_the_right_size_alone():
    stack = noise((3, 5, 5, 3))
    assert pixels.resize_all(stack, 5) is stack
    assert pixels.resize_all(stack, None) is stack
    assert pixels.resize_all(stack, 7).shape == (3, 7, 7, 3)


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


def test_fashion_mnist_pixels_are_decoded_to_the_last_digit(real_data):
    # Mean and standard deviation of the 10,000 test pictures, as first decoded; the files are lossless.
    config = DataConfig(dataset="fashion_mnist", directory=str(real_data / "tfds"))
    images, _ = pipeline.decode(data.open_split(config, "test", 0))
    assert (images.mean() / 255, images.std() / 255) == pytest.approx((0.2868, 0.3524), abs=5e-5)


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


def test_imagenet_photographs_as_a_folder(real_data, tmp_path):
    photographs = sorted((real_data / "imagenet_samples").glob("*.JPEG"))
    rows = [f"{path},{path.name.split('_', 1)[1]},train" for path in photographs]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    source = data.open_split(folder_config(tmp_path, image_size=64), "train", 0)
    images, labels = pipeline.decode(source)
    assert images.shape == (23, 64, 64, 3)
    assert len(set(labels)) == 23
    with pytest.raises(InputError, match=r"--data\.image-size"):
        data.open_split(folder_config(tmp_path), "train", 0)
