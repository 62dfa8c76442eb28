"""Every registered augmentation, alone and in a chain: keys, shapes, ranges, identities, devices and refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import augment
from jaxcnn.data.augment import AUGMENTATIONS, make
from jaxcnn.errors import InputError

NAMES = sorted(AUGMENTATIONS)
MIXES = [name for name in NAMES if AUGMENTATIONS[name].mixes]
IDENTITY = {name: 1.0 if name == "resized_crop" else 0.0 for name in NAMES if name != "randaugment"}
STRENGTHS = {name: entry.default for name, entry in AUGMENTATIONS.items()} | {"crop": 3.0, "cutout": 6.0}

IMAGES = jnp.array(np.random.default_rng(0).random((8, 12, 12, 3), np.float32))
TARGETS = jnp.eye(5)[jnp.array([0, 1, 2, 3, 4, 0, 1, 2])]


def test_the_registry_holds_what_the_field_uses():
    assert set(NAMES) == {
        *("flip", "crop", "resized_crop", "scale", "rotation", "cutout", "randaugment", "mixup", "cutmix"),
        *("brightness", "contrast", "saturation", "hue", "lighting"),
    }
    assert MIXES == ["cutmix", "mixup"]
    for name, entry in AUGMENTATIONS.items():
        entry.check(name, entry.default)
        assert entry.meaning


@pytest.mark.parametrize("name", NAMES)
def test_an_augmentation_keeps_shape_type_and_range_and_follows_its_key(name, monkeypatch):
    entry, traced = AUGMENTATIONS[name], []
    counted = dataclasses.replace(entry, apply=lambda *arguments: traced.append(1) or entry.apply(*arguments))
    monkeypatch.setitem(AUGMENTATIONS, name, counted)
    apply = make({name: STRENGTHS[name]})
    images, targets = apply(jax.random.key(1), IMAGES, TARGETS, 0)
    assert (images.shape, images.dtype) == (IMAGES.shape, IMAGES.dtype)
    assert (targets.shape, targets.dtype) == (TARGETS.shape, TARGETS.dtype)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert not np.array_equal(images, IMAGES)
    again, _ = apply(jax.random.key(1), IMAGES, TARGETS, 0)
    np.testing.assert_array_equal(again, images)
    other, _ = apply(jax.random.key(2), IMAGES, TARGETS, 0)
    assert not np.array_equal(other, images)
    assert len(traced) == 1, "traced again"
    if name not in MIXES:
        np.testing.assert_array_equal(targets, TARGETS)
        same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
        varied, _ = apply(jax.random.key(1), same, TARGETS, 0)
        assert len({np.asarray(image).tobytes() for image in varied}) > 1, "all examples were drawn alike"
        halves = [apply(jax.random.key(1), IMAGES[i : i + 4], TARGETS[i : i + 4], i)[0] for i in (0, 4)]
        np.testing.assert_allclose(np.concatenate(halves), images, atol=1e-6)


@pytest.mark.parametrize("name", IDENTITY)
def test_the_weakest_strength_is_the_identity(name):
    images, targets = make({name: IDENTITY[name]})(jax.random.key(0), IMAGES, TARGETS, 0)
    np.testing.assert_allclose(images, IMAGES, atol=1e-6)
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("channels", [1, 3])
def test_half_precision_stays_half(channels):
    chain = make({name: STRENGTHS[name] for name in NAMES if channels == 3 or name != "lighting"})
    images, targets = IMAGES[..., :channels].astype(jnp.bfloat16), TARGETS.astype(jnp.bfloat16)
    results = jax.eval_shape(chain, jax.random.key(0), images, targets, 0)
    assert [(result.shape, result.dtype) for result in results] == [(x.shape, x.dtype) for x in (images, targets)]


def test_grey_pictures_have_no_colours_to_change():
    grey = IMAGES[..., :1]
    images, _ = make({"hue": 0.5, "saturation": 1.0})(jax.random.key(0), grey, TARGETS, 0)
    np.testing.assert_array_equal(images, grey)


def test_a_chain_applies_its_parts_in_order_each_with_its_own_key():
    images, _ = make({"cutout": 6.0, "flip": 1.0})(jax.random.key(0), IMAGES, TARGETS, 0)
    erased, _ = make({"cutout": 6.0})(jax.random.key(0), IMAGES, TARGETS, 0)
    np.testing.assert_array_equal(images, erased[:, :, ::-1])
    images, _ = make({"flip": 1.0, "cutout": 6.0})(jax.random.key(0), IMAGES, TARGETS, 0)
    assert not np.array_equal(images, erased[:, :, ::-1])  # cutout comes second and is drawn anew
    np.testing.assert_array_equal(make({})(jax.random.key(0), IMAGES, TARGETS, 0)[0], IMAGES)


@pytest.mark.slow
def test_four_devices_augment_as_one_does():
    chain = make({"crop": 3.0, "flip": 0.5, "brightness": 0.4, "mixup": 1.0})

    def share(key, images, targets):
        return chain(key, images, targets, jax.lax.axis_index("batch") * len(images))

    mapped = jax.pmap(share, axis_name="batch", in_axes=(None, 0, 0), devices=jax.devices()[:4])
    parts = IMAGES.reshape(4, 2, 12, 12, 3), TARGETS.reshape(4, 2, 5)
    images, targets = mapped(jax.random.key(0), *parts)
    alone, _ = make({"crop": 3.0, "flip": 0.5, "brightness": 0.4})(jax.random.key(0), IMAGES, TARGETS, 0)
    # The share of mixup is the same on all devices; the partner is the neighbour on the same one.
    part = np.asarray(targets)[0, 0, 0]
    assert 0 < part < 1
    pairs = np.asarray(alone).reshape(4, 2, 12, 12, 3)
    np.testing.assert_allclose(images, part * pairs + (1 - part) * pairs[:, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"flipp": 0.5}, "unknown augmentation in data.augment 'flipp'; did you mean flip"),
        ({"flip": 1.5}, "data.augment of flip is 1.5; expected a number from 0 to 1: probability of mirroring"),
        ({"flip": -0.1}, "data.augment of flip is -0.1; expected a number from 0 to 1"),
        ({"rotation": float("nan")}, "data.augment of rotation is nan; expected a number from 0 to 180: .* degrees"),
        ({"crop": 2.5}, "data.augment of crop is 2.5; expected a whole number of at least 0: pixels of zero padding"),
        ({"mixup": float("inf")}, "data.augment of mixup is inf; expected a number of at least 0: alpha"),
        ({"randaugment": 31.0}, "data.augment of randaugment is 31; expected a whole number from 0 to 30"),
    ],
)
def test_what_cannot_be_meant_is_refused(setting, words):
    with pytest.raises(InputError, match=words):
        make(setting)


def test_augmentations_need_neither_figures_nor_the_readers_of_data():
    code = f"import sys, {augment.__name__}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jaxcnn.data.augment.policy" in loaded
    assert not {"matplotlib", "grain", "tensorflow_datasets", "torch"} & set(loaded)
