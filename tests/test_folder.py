"""A folder of the user's own pictures."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import data
from jaxcnn.config import DataConfig
from jaxcnn.data import images as pixels
from jaxcnn.data import pipeline
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


def test_table_written_on_windows(tmp_path):
    rows = ["label ,file", "", *(f"{'b' if i % 2 else 'a'},pictures\\{i}.png," for i in range(4)), " ", ",", ",,"]
    config = folder_config(write_table(tmp_path, "\r\n".join(rows), "utf-8-sig"))
    table = (tmp_path / "labels.csv").rename(tmp_path / "Labels.CSV")
    assert table.read_bytes().count(b"\r\n") == 8
    images, labels = pipeline.decode(data.open_split(config, "train", 0))
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 2)


def test_of_two_tables_the_one_of_the_documented_name_is_read(tmp_path):
    text = "\n".join(["file,label", *(f"pictures/{i}.png,{'odd' if i % 2 else 'even'}" for i in range(4))])
    write_table(tmp_path, text)
    (tmp_path / "Labels.csv").write_text("file,label\npictures/0.png,x\n")
    assert data.open_split(folder_config(tmp_path), "train", 0).class_names == ("even", "odd")


def test_table_with_splits(tmp_path):
    text = "split,label,file\ntrain,a,pictures/0.png\nval,a,pictures/1.png\ntrain,b,pictures/3.png\n"
    config = folder_config(write_table(tmp_path, text))
    train, test = (data.open_split(config, split, 0) for split in ("train", "test"))
    assert [int(image[0, 0, 0]) for image, _ in (train[0], train[1], test[0])] == [0, 3, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none; expected file and label"),
        ("\n\n", "has the columns none; expected file and label"),
        ("file,class\npictures/0.png,a\n", "has the columns file, class; expected file and label"),
        ("file;label\npictures/0.png;a\n", "has the columns file;label; expected file and label.* commas"),
        ("file,label,label\npictures/0.png,a,b\n", "columns file, label, label; expected file and label, once each"),
        ("file,label\npictures/0.png,a,b\n", r"line 2, has 3 values; expected 2, and quotation marks"),
        ("file,label\n", "lists no pictures"),
        ("file,label\npictures/0.png,a\npictures/1.png,\n", r"line 3, has no label"),
        ("file,label\npictures/0.png\n", r"line 2, has no label"),
        ("file,label\n,a\n", r"line 2, has no file"),
        ("file,label\npictures/9.png,a\n", r"line 2, names .*pictures/9\.png, which is not there"),
        ("file,label\npictures/0.png,a\npictures/0.png,b\n", r"line 3, lists .*0\.png a second time"),
        ("file,label\npictures/0.png,a\n./pictures/0.png,a\n", r"line 3, lists .*0\.png a second time"),
        ("file,label\npictures/0.png,a\npictures/../pictures/0.png,a\n", r"line 3, lists .*0\.png a second time"),
        ('file,label\n"pictures/0.png,a\n' + 999 * "pictures/1.png,a\n", "has no label"),
        ('file,label\n"' + 9999 * "pictures/0.png,a\n", r"line \d+, is no line of a table: field larger"),
        (f"file,label\n{300 * 'long'}.png,a\n", r"line 2, names .*long\.png, which is not there"),
        ("file,label\npictures,a\n", "line 2, names .*pictures, which is not there"),
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
