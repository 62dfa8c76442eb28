"""Splits of a dataset, and the bundled digits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn import data
from jaxcnn.config import DataConfig
from jaxcnn.data import pipeline, spec
from jaxcnn.errors import InputError

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


def test_a_limit_keeps_images_of_train_alone_drawn_from_the_seed():
    whole = {split: spec.open_split(DataConfig(validation=0.25), split, seed=3) for split in ("train", "validation")}
    few = DataConfig(validation=0.25, limit=100)
    kept, again, other = (spec.open_split(few, "train", seed) for seed in (3, 3, 4))
    assert len(kept) == 100
    np.testing.assert_array_equal(kept.read(range(100))[0], again.read(range(100))[0])
    assert not np.array_equal(kept.read(range(100))[0], other.read(range(100))[0])
    pictures = {image.tobytes() for image in whole["train"].read(range(len(whole["train"])))[0]}
    assert pictures.issuperset(image.tobytes() for image in kept.read(range(100))[0])
    assert len(spec.open_split(few, "validation", 3)) == len(whole["validation"])
    assert len(spec.open_split(few, "test", 3)) == 359
    with pytest.raises(InputError, match="data.limit is 5000; expected at most the 1438 training images"):
        spec.open_split(DataConfig(limit=5000), "train", 0)


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
