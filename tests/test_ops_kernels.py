"""The filter bank: each kernel finds what its name says, and filtering is what scipy and Pillow do."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageFilter
from scipy.ndimage import correlate
from sklearn.datasets import load_sample_image

from jaxcnn.errors import InputError
from jaxcnn.ops.kernels import KERNELS, Kernel, apply

WEIGHTS = {name: np.asarray(kernel.weights) for name, kernel in KERNELS.items()}
PICTURES = ["identity", "sharpen", "sharpen_detail_5x5"]
EDGES = [name for name in KERNELS if name not in PICTURES]
EVEN = ["identity", "sharpen", "sharpen_detail_5x5", "edge_detection_laplacian", "edge_detection_all_directions"]

names = st.sampled_from(list(KERNELS))
# Few shapes: each new one is compiled anew.
shapes = st.sampled_from([(1, 1, 1, 1), (2, 3, 8, 3)])


def images(shape: tuple[int, ...], seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(dtype)


def expected(name: str, x: np.ndarray) -> np.ndarray:
    return correlate(x.astype(np.float64), WEIGHTS[name][None, :, :, None], mode="nearest")


# --- the kernels


def test_every_name_of_the_bank_is_there_with_its_numbers():
    assert {name: (len(w), w.shape[0] == w.shape[1]) for name, w in WEIGHTS.items()} == {
        "identity": (3, True),
        "sharpen": (3, True),
        "sharpen_detail_5x5": (5, True),
        "edge_detection_diagonal": (3, True),
        "edge_detection_laplacian": (3, True),
        "edge_detection_all_directions": (3, True),
        "horizontal_edges_5x5": (5, True),
        "vertical_edges_5x5": (5, True),
        "edges_45_degrees_5x5": (5, True),
        "horizontal_edges_3x3": (3, True),
        "vertical_edges_3x3": (3, True),
    }
    for name, row in {
        "sharpen": [-1, 5, -1],
        "edge_detection_laplacian": [1, -4, 1],
        "edge_detection_all_directions": [-1, 8, -1],
        "vertical_edges_5x5": [-1, -1, 4, -1, -1],
        "vertical_edges_3x3": [1, 0, -1],
        "identity": [0, 1, 0],
    }.items():
        assert_array_equal(WEIGHTS[name][len(WEIGHTS[name]) // 2], row)
    assert_array_equal(WEIGHTS["edge_detection_diagonal"], [[1, 0, -1], [0, 0, 0], [-1, 0, 1]])
    assert_array_equal(WEIGHTS["horizontal_edges_5x5"][:, 2], [-1, -1, 2, 0, 0])
    assert_array_equal(np.diag(WEIGHTS["edges_45_degrees_5x5"]), [-1, -2, 6, -2, -1])
    assert_array_equal(WEIGHTS["sharpen_detail_5x5"][2] * 8, [-1, 2, 8, 2, -1])
    assert_array_equal(WEIGHTS["sharpen_detail_5x5"][:, 1] * 8, [-1, 2, 2, 2, -1])


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_keeps_constant_pictures_or_turns_them_to_zero(name):
    assert WEIGHTS[name].sum() == (1 if name in PICTURES else 0)
    assert KERNELS[name].title
    assert KERNELS[name].source.endswith(".")


def test_titles_are_distinct():
    assert len({kernel.title for kernel in KERNELS.values()}) == len(KERNELS)


def test_kernels_are_related_as_their_names_are():
    for name in EVEN:
        for other in (np.rot90(WEIGHTS[name]), WEIGHTS[name].T):
            assert_array_equal(WEIGHTS[name], other)
    assert_array_equal(WEIGHTS["vertical_edges_3x3"], WEIGHTS["horizontal_edges_3x3"].T)
    for name in ("horizontal_edges_3x3", "vertical_edges_3x3"):
        assert_array_equal(WEIGHTS[name], -np.rot90(WEIGHTS[name], 2))
    assert_array_equal(WEIGHTS["edge_detection_diagonal"], -np.rot90(WEIGHTS["edge_detection_diagonal"]))
    assert_array_equal(WEIGHTS["identity"] - WEIGHTS["edge_detection_laplacian"], WEIGHTS["sharpen"])


# --- what they answer


def step(direction: str) -> jax.Array:
    """Dark and light halves, divided by an edge that runs in the direction."""
    i, j = np.mgrid[:12, :12]
    light = {"horizontal": i >= 6, "vertical": j >= 6, "rising": i + j >= 12, "falling": i >= j}[direction]
    return jnp.asarray(light[None, :, :, None], jnp.float32)


@pytest.mark.parametrize(
    ("name", "found", "blind"),
    [
        ("horizontal_edges_5x5", ["horizontal", "rising", "falling"], ["vertical"]),
        ("horizontal_edges_3x3", ["horizontal", "rising", "falling"], ["vertical"]),
        ("vertical_edges_5x5", ["vertical", "rising", "falling"], ["horizontal"]),
        ("vertical_edges_3x3", ["vertical", "rising", "falling"], ["horizontal"]),
        ("edges_45_degrees_5x5", ["horizontal", "vertical", "rising"], ["falling"]),
        ("edge_detection_diagonal", ["rising", "falling"], ["horizontal", "vertical"]),
        ("edge_detection_laplacian", ["horizontal", "vertical", "rising", "falling"], []),
        ("edge_detection_all_directions", ["horizontal", "vertical", "rising", "falling"], []),
    ],
)
def test_each_kernel_finds_the_edges_that_its_name_says(name, found, blind):
    # Beyond the border a slanted edge goes on level, which is another edge.
    inside = {d: np.asarray(apply(name, step(d)))[0, 2:-2, 2:-2] for d in (*found, *blind)}
    assert all(np.abs(inside[direction]).max() >= 1 for direction in found)
    assert all((inside[direction] == 0).all() for direction in blind)


def test_the_worked_examples_of_vertical_and_horizontal_edges():
    rows = np.array([10.0] * 3 + [0.0] * 3, np.float32)
    upper = jnp.asarray(np.broadcast_to(rows[:, None], (6, 6))[None, :, :, None])
    # The examples have no border: there the picture's own pixels are all that a kernel sees.
    horizontal = apply("horizontal_edges_3x3", upper)[0, 1:-1, 1:-1, 0]
    assert_array_equal(horizontal, np.broadcast_to(np.array([[0], [30], [30], [0]]), (4, 4)))
    vertical = apply("vertical_edges_3x3", jnp.swapaxes(upper, 1, 2))[0, 1:-1, 1:-1, 0]
    assert_array_equal(vertical, np.broadcast_to(np.array([0, 30, 30, 0]), (4, 4)))


# --- filtering


@settings(deadline=None, max_examples=6)
@given(names, shapes)
def test_filtering_equals_scipy_borders_included(name, shape):
    x = images(shape)
    z = apply(name, jnp.asarray(x))
    assert (z.shape, z.dtype) == (x.shape, x.dtype)
    assert_allclose(z, expected(name, x), atol=1e-5)


@pytest.mark.parametrize("name", ["sharpen_detail_5x5", "edges_45_degrees_5x5", "vertical_edges_3x3"])
def test_filtering_equals_scipy_in_float64(name):
    with jax.enable_x64(True):
        x = images((2, 6, 5, 2), dtype=np.float64)
        z = apply(name, jnp.asarray(x))
        assert z.dtype == jnp.float64
        assert_allclose(z, expected(name, x), atol=1e-13)


def test_half_precision_stays_half_precision():
    x = jnp.asarray(images((1, 5, 5, 1)), jnp.bfloat16)
    z = apply("sharpen_detail_5x5", x)
    assert z.dtype == jnp.bfloat16
    assert_allclose(np.asarray(z, float), expected("sharpen_detail_5x5", np.asarray(x, float)), atol=2**-6)


@pytest.mark.parametrize("name", KERNELS)
def test_filtering_a_photograph_equals_pillow(name):
    photograph = load_sample_image("china.jpg")[100:160, 100:180]
    weights = WEIGHTS[name]
    # Pillow turns the kernel upside down, rounds, and leaves the border as it is; nothing is clipped on this scale.
    size, scale, offset = weights.shape, 16, 128
    theirs = ImageFilter.Kernel(size, weights[::-1].ravel().tolist(), scale=scale, offset=offset)
    filtered = np.asarray(Image.fromarray(photograph).filter(theirs), float)
    ours = apply(name, jnp.asarray(photograph[None] / np.float32(255)))[0] * 255 / scale + offset
    inside = slice(len(weights) // 2, -(len(weights) // 2))
    assert_allclose(ours[inside, inside], filtered[inside, inside], atol=0.51)
    assert name == "identity" or np.ptp(filtered[inside, inside]) > 10


@settings(deadline=None, max_examples=20)
@given(names, shapes, st.floats(0, 1, width=32))
def test_a_constant_picture_stays_or_vanishes_to_its_very_border(name, shape, value):
    z = apply(name, jnp.full(shape, value, jnp.float32))
    assert_allclose(z, value if name in PICTURES else 0, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(names, shapes, st.floats(-2, 2, width=32))
def test_filtering_is_linear_and_every_channel_is_by_itself(name, shape, factor):
    x, y = jnp.asarray(images(shape)), jnp.asarray(images(shape, 1))
    z = apply(name, x)
    assert_allclose(apply(name, x + factor * y), z + factor * apply(name, y), atol=2e-5)
    assert_allclose(apply(name, x[..., :1]), z[..., :1], atol=1e-6)


@settings(deadline=None, max_examples=8)
@given(shapes)
def test_the_identity_returns_the_picture(shape):
    x = images(shape)
    assert_array_equal(apply("identity", jnp.asarray(x)), x)


def test_responses_are_not_clipped():
    z = apply("edge_detection_all_directions", jnp.asarray(images((1, 6, 6, 1))))
    assert z.min() < -0.5
    assert z.max() > 1.5


def test_a_kernel_of_ones_own_is_applied_as_it_is_read():
    x = images((1, 4, 4, 1))
    right = Kernel("the pixel on the right", ((0, 0, 0), (0, 0, 1), (0, 0, 0)), "")
    assert_array_equal(apply(right, jnp.asarray(x))[:, :, :-1], x[:, :, 1:])
    assert_array_equal(apply(Kernel("doubled", ((2,),), ""), jnp.asarray(x)), 2 * x)


@pytest.mark.slow
def test_the_gradient_is_that_of_a_convolution():
    x = jnp.asarray(images((1, 9, 9, 2)))
    gradient = jax.grad(lambda x: jnp.sum(apply("edges_45_degrees_5x5", x)[:, 4, 4, 1]))(x)
    assert_array_equal(gradient[0, 2:7, 2:7, 1], WEIGHTS["edges_45_degrees_5x5"])
    assert np.count_nonzero(gradient) == 5


# --- what is refused


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown kernel 'sharpenn'; did you mean sharpen"):
        apply("sharpenn", jnp.zeros((1, 3, 3, 1)))


@pytest.mark.parametrize("weights", [((1, 2), (3, 4)), ((1, 2, 3),), ()])
def test_weights_that_are_no_odd_square_are_refused(weights):
    with pytest.raises(InputError, match=r"weights have shape \(.*expected a square of odd size"):
        apply(Kernel("wrong", weights, ""), jnp.zeros((1, 5, 5, 1)))


def test_integers_are_refused():
    with pytest.raises(InputError, match=r"images \(1, 5, 5, 1\) of int32; expected floating point"):
        apply("sharpen", jnp.zeros((1, 5, 5, 1), jnp.int32))


@pytest.mark.parametrize(
    "shape", [(5, 5, 3), (5, 5), (1, 1, 5, 5, 3), (0, 5, 5, 3), (1, 0, 5, 3), (1, 5, 0, 3), (1, 5, 5, 0)]
)
def test_images_without_pixels_or_of_other_dimensions_are_refused(unchecked, shape):
    with pytest.raises(InputError, match=rf"a kernel got images {re.escape(str(shape))}; expected \[N, H, W, C\]"):
        apply("sharpen", jnp.zeros(shape))
