"""One more class from a file: its images are read behind the dataset's, and only in training."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcnn.config import DataConfig
from jaxcnn.data.spec import open_split
from jaxcnn.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "fooling.npz", images=IMAGES, confidences=np.ones(5))
    return str(tmp_path / "fooling.npz")


def test_images_of_the_file_are_a_class_of_the_training_split_alone(file, tmp_path):
    plain, joined = (open_split(DataConfig("digits", extra_class=name), "train", 0) for name in (None, file))
    assert joined.class_names == (*plain.class_names, "fooling")
    assert len(joined) == len(plain) + 5
    order = [len(plain) + 4, 3, len(plain), 0]
    images, labels = joined.read(order)
    before, known = plain.read([3, 0])
    np.testing.assert_array_equal(images, [IMAGES[4], before[0], IMAGES[0], before[1]])
    np.testing.assert_array_equal(labels, [10, known[0], 10, known[1]])
    assert labels.dtype == np.int32
    (tmp_path / "fooling.npz").unlink()  # nothing but training needs it
    test = open_split(DataConfig("digits", extra_class=file), "test", 0)
    assert test.class_names == joined.class_names
    assert len(test) == len(open_split(DataConfig("digits"), "test", 0))


def test_none_of_the_file_is_held_out_or_left_out(file):
    config = DataConfig("digits", extra_class=file, validation=0.4, limit=20)
    train, validation = (open_split(config, split, 0) for split in ("train", "validation"))
    assert (train.read(range(len(train)))[1] == 10).sum() == 5
    assert len(train) == 25
    assert not (validation.read(range(len(validation)))[1] == 10).any()
    assert validation.class_names == train.class_names


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": IMAGES / 255}, "has images float64 (5, 8, 8, 1); expected uint8 (N, 8, 8, 1)"),
        ({"images": IMAGES[:, :4]}, "has images uint8 (5, 4, 8, 1)"),
        ({"images": IMAGES[:0]}, "has images uint8 (0, 8, 8, 1)"),
        ({"pictures": IMAGES}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_other_files_are_told_in_a_sentence(tmp_path, arrays, says):
    path = tmp_path / "x.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    with pytest.raises(InputError, match="data.extra_class") as caught:
        open_split(DataConfig("digits", extra_class=str(path)), "train", 0)
    assert says in str(caught.value)


def test_a_second_class_of_one_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="would be a second class '3'"):
        open_split(DataConfig("digits", extra_class=str(tmp_path / "3.npz")), "test", 0)
