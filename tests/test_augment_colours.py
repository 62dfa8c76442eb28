"""Augmentations that change colours, and RandAugment's operations: against torchvision, Pillow and NumPy."""

from __future__ import annotations

import colorsys
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageOps

from jaxcnn.data.augment import photometric, policy
from jaxcnn.errors import InputError

rng = np.random.default_rng(1)
# Eight bits, as photographs have, so that operations on whole values can be compared exactly; one corner is even.
PIXELS = rng.integers(20, 240, (18, 23, 3), np.uint8)
PIXELS[:4, :5] = 90
PIXELS[10:, 10:] //= 3
LARGE = (255 * rng.beta(2, 5, (60, 50, 3))).astype(np.uint8)
LARGE[..., 2] = 7
GREY_PIXELS = PIXELS[..., :1]
COLOUR = PIXELS.astype(np.float32) / 255
GREY = COLOUR[..., :1]


def planes(torch, image):
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def channels_last(tensor):
    return tensor.numpy().transpose(1, 2, 0)


@pytest.fixture(scope="module")
def v2(torchvision):
    """torchvision's second set of transforms."""
    return importlib.import_module("torchvision.transforms.v2")


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
@pytest.mark.parametrize("image", [COLOUR, GREY], ids=["colour", "grey"])
def test_blends_equal_torchvisions(name, image, torch, v2):
    adjust = jax.jit(getattr(photometric, f"adjust_{name}"))
    peer = getattr(v2.functional, f"adjust_{name}")
    for factor in (0.0, 0.6, 1.0, 1.9):
        got = adjust(jnp.array(image), jnp.float32(factor))
        np.testing.assert_allclose(got, channels_last(peer(planes(torch, image), factor)), atol=2e-6)
    np.testing.assert_allclose(adjust(jnp.array(image), jnp.float32(1)), image, atol=1e-7)


def test_a_shifted_hue_equals_torchvisions_and_pythons(torch, v2):
    adjust = jax.jit(photometric.adjust_hue)
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1]), np.float32).reshape(3, 8, 1).T  # black, white, pure colours
    for image in (COLOUR, corners):
        for shift in (-0.5, -0.13, 0.0, 0.1, 0.5):
            got = adjust(jnp.array(image), jnp.float32(shift))
            theirs = v2.functional.adjust_hue(planes(torch, image), shift)
            np.testing.assert_allclose(got, channels_last(theirs), atol=5e-6)
            hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3).astype(float)]
            expected = [colorsys.hsv_to_rgb((h + shift) % 1, s, v) for h, s, v in hsv]
            np.testing.assert_allclose(got, np.array(expected).reshape(image.shape), atol=5e-6)
    np.testing.assert_array_equal(photometric.adjust_hue(jnp.array(GREY), 0.3), GREY)


def test_lighting_adds_the_mixture_of_principal_components():
    weights = np.array([0.2, -0.5, 1.0], np.float32)
    vectors = photometric.EIGENVECTORS.astype(float)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)  # four published digits
    expected = np.clip(COLOUR + vectors @ np.diag(photometric.EIGENVALUES) @ weights, 0, 1)
    np.testing.assert_allclose(photometric.add_lighting(jnp.array(COLOUR), jnp.array(weights)), expected, atol=1e-6)

    middle = jnp.full((1, 1, 3), 0.5)
    light = jax.jit(jax.vmap(lambda key: photometric.random_lighting(key, middle, 0.1)))
    colours = np.asarray(light(jax.random.split(jax.random.key(0), 5000))).reshape(-1, 3) - 0.5
    for number, value in enumerate(photometric.EIGENVALUES):
        along = colours @ vectors[:, number] / value
        assert scipy.stats.kstest(along, "norm", (0, 0.1)).pvalue > 1e-3


@pytest.mark.slow
def test_drawn_factors_and_shifts_are_uniform():
    colour = jnp.array([[[0.5, 0.2, 0.2], [0.2, 0.4, 0.4]]])
    keys = jax.random.split(jax.random.key(3), 2000)

    def spread(image):
        return image[..., 0, 0, 0] - image[..., 0, 0, 1]

    for name in ("brightness", "contrast", "saturation"):
        draw = getattr(photometric, f"random_{name}")
        images = jax.jit(jax.vmap(lambda key, draw=draw: draw(key, colour, 0.6)))(keys)
        factors = np.asarray(spread(images) / spread(colour))
        assert scipy.stats.kstest(factors, "uniform", (0.4, 1.2)).pvalue > 1e-3, name
    red = jnp.array([[[1.0, 0.0, 0.0]]])
    images = jax.jit(jax.vmap(lambda key: photometric.random_hue(key, red, 1 / 6)))(keys)[:, 0, 0]
    sixths = np.asarray(images[:, 1] - images[:, 2])
    assert scipy.stats.kstest(sixths, "uniform", (-1, 2)).pvalue > 1e-3


@pytest.mark.parametrize("image", [PIXELS, LARGE, GREY_PIXELS])
def test_operations_on_whole_values_equal_pillows(image):
    values = jnp.array(image.astype(np.float32) / 255)
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    cases = [(photometric.equalize, ImageOps.equalize(picture))]
    cases += [
        (lambda x, b=bits: photometric.posterize(x, b), ImageOps.posterize(picture, bits)) for bits in (1, 4, 7, 8)
    ]
    for ours, theirs in cases:
        np.testing.assert_allclose(jax.jit(ours)(values) * 255, np.asarray(theirs).reshape(image.shape), atol=1e-4)
    contrast = np.asarray(ImageOps.autocontrast(picture)).reshape(image.shape)
    assert np.abs(photometric.autocontrast(values) * 255 - contrast).max() <= 1  # Pillow rounds down
    negative = np.asarray(ImageOps.solarize(picture, 128)).reshape(image.shape)
    np.testing.assert_allclose(photometric.solarize(values, 128 / 255) * 255, negative, atol=1e-4)


# ---- RandAugment

THEIRS = [
    *["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"],
    *["Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"],
]


@pytest.fixture(scope="module")
def operate():
    return jax.jit(policy.operate, static_argnums=3)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_every_operation_equals_torchvisions(magnitude, operate, torch, v2):
    bilinear = v2.InterpolationMode.BILINEAR
    peer = v2.RandAugment(interpolation=bilinear)
    assert len(policy.OPERATIONS) == len(THEIRS) == len(peer._AUGMENTATION_SPACE)
    for number, name in enumerate(THEIRS):
        strengths, signed = peer._AUGMENTATION_SPACE[name]
        strengths = strengths(31, *COLOUR.shape[:2])
        strength = 0.0 if strengths is None else float(strengths[magnitude])
        # torchvision posterizes whole values as Pillow does, and others by another rule
        tensor = planes(torch, PIXELS if name == "Posterize" else COLOUR)
        for sign in (1, -1) if signed else (1,):
            expected = peer._apply_image_or_video_transform(tensor, name, sign * strength, bilinear, peer._fill)
            expected = channels_last(expected / 255 if name == "Posterize" else expected)
            got = operate(jnp.array(COLOUR), jnp.array(number), jnp.float32(sign), magnitude)
            np.testing.assert_allclose(got, expected, atol=2e-5, err_msg=f"{name} {sign}")


@pytest.mark.slow
def test_two_operations_are_drawn_one_after_the_other(operate):
    """What RandAugment gives is some pair's result, both signs and all operations occur, and pairs are as likely."""
    magnitude, count = 20, len(policy.OPERATIONS)
    image = jnp.array(COLOUR)
    variants = jnp.array([(number, sign) for number in range(count) for sign in (1, -1)])
    each = jax.jit(jax.vmap(lambda x, v: operate(x, v[0], v[1].astype(jnp.float32), magnitude), (None, 0)))
    pairs = np.asarray(jax.vmap(each, (0, None))(each(image, variants), variants)).reshape(-1, COLOUR.size)
    draw = jax.jit(jax.vmap(lambda key: policy.randaugment(key, image, float(magnitude))))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 600))).reshape(600, -1)
    distance = np.stack([np.abs(pairs - picture).max(axis=1) for picture in drawn])
    assert (distance.min(axis=1) < 1e-4).all()
    first, second = np.divmod(distance.argmin(axis=1), len(variants))
    # Of results that several pairs share, such as the identity's, the first was counted: the directed moves have none.
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        number = policy.OPERATIONS.index(name)
        for which in (first, second):
            for sign in (0, 1):
                hits = int((which == 2 * number + sign).sum())
                assert scipy.stats.binomtest(hits, 600, 1 / (2 * count)).pvalue > 1e-3, (name, sign)


# ---- what cannot be done


def test_pictures_with_other_channels_are_refused():
    four = jnp.zeros((4, 4, 4))
    key = jax.random.key(0)
    for draw in (photometric.random_contrast, photometric.random_saturation, photometric.random_hue):
        with pytest.raises(InputError, match="4 channels; expected 1 or 3"):
            draw(key, four, 0.1)
    with pytest.raises(InputError, match="lighting have 1 channels; expected 3"):
        photometric.random_lighting(key, jnp.array(GREY), 0.1)
