"""Augmentations that move pixels, cut and mix: against torchvision, Pillow, SciPy, NumPy and their distributions."""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image

from jaxcnn.data.augment import geometric, mixing
from jaxcnn.errors import InputError

rng = np.random.default_rng(0)
COLOUR = rng.random((20, 27, 3), np.float32)
GREY = rng.random((9, 8, 1), np.float32)


def planes(torch, image):
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def channels_last(tensor):
    return tensor.numpy().transpose(1, 2, 0)


def drawn(function, count, *, seed=0):
    return jax.jit(jax.vmap(function))(jax.random.split(jax.random.key(seed), count))


@pytest.fixture(scope="module")
def v2(torchvision):
    """torchvision's second set of transforms."""
    return importlib.import_module("torchvision.transforms.v2")


# ---- flip and crop


def test_a_flip_is_pillows_and_comes_with_its_probability():
    eight_bit = (COLOUR * 255).astype(np.uint8)
    expected = Image.fromarray(eight_bit).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    np.testing.assert_array_equal(geometric.flip(jnp.array(eight_bit / np.float32(255))) * 255, np.asarray(expected))
    ramp = jnp.arange(2.0).reshape(1, 2, 1)
    flipped = drawn(lambda key: geometric.random_flip(key, ramp, 0.3), 4000)[:, 0, 0, 0] == 1
    assert scipy.stats.binomtest(int(flipped.sum()), 4000, 0.3).pvalue > 1e-3


def test_a_crop_is_every_window_of_the_zero_padded_picture_equally_often():
    image, padding = jnp.array(rng.uniform(0.1, 1, (5, 6, 1)).astype(np.float32)), 2
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[t : t + 5, c : c + 6].tobytes(): 5 * t + c for t in range(5) for c in range(5)}
    crops = np.asarray(drawn(lambda key: geometric.random_crop(key, image, float(padding)), 5000))
    counts = np.bincount([windows[crop.tobytes()] for crop in crops], minlength=25)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(geometric.crop(image, jnp.array(2), jnp.array(2), padding), image)


# ---- resized crop


@pytest.mark.parametrize("box", [(0, 0, 20, 27), (3, 5, 7, 9), (19, 26, 1, 1), (2, 0, 18, 20), (0, 13, 5, 14)])
def test_a_resized_crop_equals_torchvisions_and_pillows(box, torch, v2):
    top, left, height, width = box
    got = jax.jit(geometric.resized_crop)(jnp.array(COLOUR), jnp.array(box))
    resized = v2.functional.resized_crop
    expected = channels_last(resized(planes(torch, COLOUR), top, left, height, width, [20, 27], antialias=True))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    plane = Image.fromarray(COLOUR[top : top + height, left : left + width, 0])
    pillows = np.asarray(plane.resize((27, 20), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(np.asarray(got)[..., 0], pillows, atol=1e-5)


@functools.cache
def boxes(height, width, smallest=0.08, count=4000):
    return np.asarray(drawn(lambda key: geometric.draw_box(key, height, width, smallest), count))


def test_areas_and_aspect_ratios_are_uniform_and_the_place_any():
    top, left, height, width = boxes(4000, 4000).T
    assert (top + height).max() <= 4000
    assert (left + width).max() <= 4000
    area, ratio = height * width / 4000**2, width / height
    assert area.min() >= 0.0799
    assert ratio.min() >= 0.749
    assert ratio.max() <= 1.335
    fits = area < 0.75  # above it some ratios do not fit, and are drawn again
    assert scipy.stats.kstest(area[fits], "uniform", (0.08, 0.67)).pvalue > 1e-3
    assert scipy.stats.kstest(np.log(ratio[fits]), "uniform", (np.log(3 / 4), 2 * np.log(4 / 3))).pvalue > 1e-3
    for start, length in ((top, height), (left, width)):
        assert scipy.stats.kstest((start + 0.5) / (4000 - length + 1), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("size", [(4000, 4000), (500, 900)])
def test_rectangles_are_distributed_as_torchvisions(size, torch, v2):
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(8)
    picture = torch.empty(1, 1, 1).expand(1, *size)
    theirs = [transform.make_params([picture]) for _ in range(2000)]
    for number, name in enumerate(("top", "left", "height", "width")):
        peer = [params[name] for params in theirs]
        assert scipy.stats.kstest(boxes(*size)[:, number], peer).pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 10), (43, 0, 13, 10)), ((10, 100), (0, 43, 10, 13)), ((10, 11), (0, 0, 10, 11))]
)
def test_a_picture_that_no_rectangle_fits_is_cut_in_the_middle_as_torchvision_does(size, expected, torch, v2):
    transform = v2.RandomResizedCrop(8, scale=(1.5, 1.5))
    theirs = transform.make_params([torch.empty(1, *size)])
    assert tuple(theirs[name] for name in ("top", "left", "height", "width")) == expected
    ours = np.asarray(jax.jit(lambda key: geometric.draw_box(key, size[0], size[1], 1.5))(jax.random.key(0)))
    assert tuple(ours) == expected


# ---- scale, rotation, affine maps


@pytest.mark.parametrize("factor", [0.4, 0.85, 1.0, 1.15, 2.0])
def test_a_scaled_picture_equals_torchvisions(factor, torch, v2):
    functional = v2.functional
    expected = functional.affine(
        planes(torch, COLOUR), 0.0, [0, 0], factor, [0.0, 0.0], functional.InterpolationMode.BILINEAR
    )
    got = jax.jit(geometric.scale)(jnp.array(COLOUR), jnp.float32(factor))
    np.testing.assert_allclose(got, channels_last(expected), atol=1e-5)
    assert factor != 1 or (np.asarray(got) == COLOUR).all()


@pytest.mark.parametrize("degrees", [-130.0, -15.0, 0.0, 7.5, 33.0, 90.0])
@pytest.mark.parametrize("image", [COLOUR, GREY], ids=["colour", "grey"])
def test_a_rotated_picture_equals_scipys_and_torchvisions(image, degrees, torch, v2):
    got = np.asarray(jax.jit(geometric.rotate)(jnp.array(image), jnp.float32(degrees)))
    expected = scipy.ndimage.rotate(image.astype(float), degrees, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(got, expected, atol=1e-5)
    functional = v2.functional
    theirs = functional.rotate(planes(torch, image), degrees, functional.InterpolationMode.BILINEAR)
    np.testing.assert_allclose(got, channels_last(theirs), atol=1e-5)
    assert degrees != 0 or (got == image).all()


def test_factors_and_angles_are_uniform_over_both_directions():
    ramp = jnp.linspace(0, 1, 201).reshape(1, 201, 1)
    slope = drawn(lambda key: jnp.ptp(geometric.random_scale(key, ramp, 0.5)[0, 95:106, 0]), 1000)
    assert scipy.stats.kstest(0.05 / np.asarray(slope), "uniform", (0.5, 1.0)).pvalue > 1e-3
    tilted = jnp.broadcast_to(jnp.linspace(0, 1, 21)[None, :, None], (21, 21, 1))

    def angle(key):  # a ramp to the right, turned, rises along the direction of its angle
        turned = geometric.random_rotation(key, tilted, 40.0)[..., 0]
        return jnp.rad2deg(jnp.arctan2(turned[9, 10] - turned[11, 10], turned[10, 11] - turned[10, 9]))

    angles = np.asarray(drawn(angle, 1000))
    assert scipy.stats.kstest(angles, "uniform", (-40, 80)).pvalue > 1e-3


# ---- cutout, mixup, cutmix


@pytest.mark.parametrize("side", [0, 1, 4, 5])
def test_cutout_erases_the_square_that_the_definition_names(side):
    for centre in [(0, 0), (5, 7), (8, 7), (2, 0)]:
        expected = GREY.copy()
        top, left = (c - side // 2 for c in centre)
        expected[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = GREY.mean(dtype=np.float32)
        np.testing.assert_allclose(mixing.erase(jnp.array(GREY), jnp.array(centre), side), expected, rtol=1e-6)


def test_cutout_has_its_centre_anywhere():
    image = jnp.zeros((6, 5, 1)).at[0, 0, 0].set(1.0)
    erased = np.asarray(drawn(lambda key: mixing.cutout(key, image, 1.0), 3000))
    where = (erased != np.asarray(image)).reshape(3000, -1)
    assert (where.sum(axis=1) == 1).all()
    assert scipy.stats.chisquare(where.sum(axis=0)).pvalue > 1e-3


BATCH = rng.random((4, 10, 12, 3), np.float32)
TARGETS = np.eye(5, dtype=np.float32)[[0, 3, 3, 1]]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_equals_torchvisions(share, torch, v2):
    transform = v2.MixUp(num_classes=5)
    transform.make_params = lambda _: {"lam": share}
    images, labels = torch.from_numpy(BATCH).permute(0, 3, 1, 2), torch.from_numpy(TARGETS.argmax(1))
    expected, soft = transform(images, labels)
    got, targets = mixing.mix(jnp.array(BATCH), jnp.array(TARGETS), share)
    np.testing.assert_allclose(got, expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(targets, soft.numpy(), atol=1e-6)


def test_cutmix_equals_torchvisions(torch, v2):
    transform = v2.CutMix(num_classes=5)
    transform.make_params = lambda _: {"box": (3, 0, 12, 4), "lam_adjusted": 1 - 36 / 120}
    images, labels = torch.from_numpy(BATCH).permute(0, 3, 1, 2), torch.from_numpy(TARGETS.argmax(1))
    expected, soft = transform(images, labels)
    got, targets = mixing.paste(jnp.array(BATCH), jnp.array(TARGETS), jnp.array([0, 3]), jnp.array([4, 12]))
    np.testing.assert_array_equal(got, expected.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(targets, soft.numpy(), atol=1e-6)


@pytest.mark.parametrize("mixer", [mixing.mixup, mixing.cutmix])
def test_mixed_targets_are_the_true_shares_of_the_pixels(mixer):
    """Four pictures of one value each, and a class for each: what an example shows can be read off its pixels."""
    plain = jnp.broadcast_to(jnp.eye(4)[:, None, None, :], (4, 10, 12, 4))
    for seed in range(20):
        images, targets = mixer(jax.random.key(seed), plain, jnp.eye(4), 1.0)
        np.testing.assert_allclose(images.mean(axis=(1, 2)), targets, atol=1e-5)
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_share_of_mixup_follows_its_beta_distribution(alpha):
    pair = jnp.array([1.0, 0.0])
    shares = drawn(lambda key: mixing.mixup(key, jnp.zeros((2, 1, 1, 1)), jnp.diag(pair), alpha)[1][0, 0], 2000)
    assert scipy.stats.kstest(np.asarray(shares), scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_rectangles_of_cutmix_are_distributed_as_torchvisions(torch, v2):
    torch.manual_seed(0)
    transform = v2.CutMix(num_classes=5, alpha=0.7)
    theirs = [transform.make_params([torch.empty(1, 1, 300, 400)])["box"] for _ in range(2000)]
    start, stop = drawn(lambda key: mixing.draw_rectangle(key, 300, 400, 0.7), 2000)
    ours = np.concatenate([start[:, ::-1], stop[:, ::-1]], axis=1)
    for number in range(4):
        assert scipy.stats.kstest(ours[:, number], np.array(theirs)[:, number]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: geometric.random_crop(jax.random.key(0), x, 8.0), r"crop is 8 .*\(9, 8, 1\).*less than their side"),
        (lambda x: mixing.cutout(jax.random.key(0), x, 9.0), r"cutout is 9 .*\(9, 8, 1\).*at most their side"),
    ],
)
def test_what_would_leave_nothing_of_a_picture_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(jnp.array(GREY))
