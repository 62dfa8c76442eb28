"""Where maps lie, against pixels counted one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxcnn.analysis.localization import energy_inside, pointing_game
from jaxcnn.errors import InputError

HEIGHT, WIDTH = 6, 8
HEAT = np.arange(2 * HEIGHT * WIDTH, dtype=np.float32).reshape(2, HEIGHT, WIDTH)
BOX = np.array([[0, 0, 2, 3], [3, 4, 6, 8]])


@st.composite
def cases(draw):
    # Few values, so that there are ties.
    heat = draw(arrays(np.float32, (2, HEIGHT, WIDTH), elements=st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0])))
    boxes = []
    for _ in range(2):
        top, left = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
        boxes.append((top, left, draw(st.integers(top + 1, HEIGHT)), draw(st.integers(left + 1, WIDTH))))
    return heat, np.array(boxes)


def inside(box, place, tolerance=0):
    top, left, bottom, right = box
    return top - tolerance <= place[0] < bottom + tolerance and left - tolerance <= place[1] < right + tolerance


@given(case=cases(), tolerance=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_a_hit_is_a_maximum_in_the_enlarged_box_and_ties_share(case, tolerance):
    heat, boxes = case
    expected = []
    for values, box in zip(heat, boxes, strict=True):
        maxima = np.argwhere(values == values.max())
        expected.append(np.mean([inside(box, place, tolerance) for place in maxima]))
    np.testing.assert_allclose(pointing_game(heat, boxes, tolerance), expected, rtol=1e-6)


@given(case=cases())
@settings(deadline=None, max_examples=40)
def test_energy_is_what_is_positive_and_in_the_box(case):
    heat, boxes = case
    expected = []
    for values, (top, left, bottom, right) in zip(heat, boxes, strict=True):
        positive = np.clip(values, 0, None)
        expected.append(positive[top:bottom, left:right].sum() / (positive.sum() or 1))
    shares = energy_inside(heat, boxes)
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
    np.testing.assert_allclose(energy_inside(1e-20 * heat, boxes), shares, rtol=1e-5)
    np.testing.assert_allclose(energy_inside(1e37 * heat, boxes), shares, rtol=1e-5)


def test_only_the_maximum_points_and_monotone_transforms_leave_it_where_it_is():
    np.testing.assert_array_equal(pointing_game(HEAT, BOX, 0), [0, 1])
    np.testing.assert_array_equal(pointing_game(np.exp(HEAT / 10), BOX, 0), [0, 1])
    np.testing.assert_array_equal(pointing_game(HEAT, BOX, 5), [1, 1])
    np.testing.assert_array_equal(pointing_game(HEAT, BOX, 4), [0, 1])  # its row is reached, its column is not


def test_the_paper_s_tolerance_is_the_default():
    heat = np.zeros((2, 40, 40), np.float32)
    heat[0, 0, 24], heat[1, 0, 25] = 1, 1
    boxes = np.array([[0, 0, 10, 10]] * 2)
    np.testing.assert_array_equal(pointing_game(heat, boxes), [1, 0])


def test_a_dead_map_gains_what_the_box_covers_and_has_no_energy():
    dead = np.zeros_like(HEAT)
    np.testing.assert_allclose(pointing_game(dead, BOX, 0), [6 / 48, 12 / 48])
    np.testing.assert_array_equal(energy_inside(dead, BOX), [0, 0])


def test_half_pixels_are_inside_if_their_centre_is():
    boxes = np.array([[0, 0, 1.4, 1], [0, 0, 1.6, 1]])
    np.testing.assert_allclose(energy_inside(np.ones_like(HEAT), boxes), [1 / 48, 2 / 48], rtol=1e-6)


def test_they_work_inside_jit():
    for function in (pointing_game, energy_inside):
        np.testing.assert_allclose(jax.jit(function)(HEAT, jnp.asarray(BOX)), function(HEAT, BOX), rtol=1e-6)


@pytest.mark.parametrize("function", [pointing_game, energy_inside])
@pytest.mark.parametrize(
    ("heat", "boxes", "message"),
    [
        (HEAT[0], BOX, r"heat has shape \(6, 8\); expected \[N, H, W\]"),
        (HEAT * np.nan, BOX, "heat holds a value that is not finite"),
        (HEAT, BOX[:1], r"boxes have shape \(1, 4\); expected top, left, bottom, right, \(2, 4\)"),
        (
            HEAT,
            np.array([[0, 0, 2, 3], [3, 4, 3, 8]]),
            r"box 1 is \(3.0, 4.0, 3.0, 8.0\); expected 0 <= top < bottom <= 6",
        ),
        (HEAT, np.array([[0, 0, 7, 3], [3, 4, 6, 8]]), "box 0 is"),
        (HEAT, np.array([[0, -1, 2, 3], [3, 4, 6, 8]]), "box 0 is"),
        (HEAT, np.array([[0, 0, 2, 9], [3, 4, 6, 8]]), "0 <= left < right <= 8"),
        (HEAT, np.array([[0, 0, np.nan, 3], [3, 4, 6, 8]]), "box 0 is"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(function, heat, boxes, message):
    with pytest.raises(InputError, match=message):
        function(heat, boxes)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(InputError, match="tolerance is -1; expected at least 0 pixels"):
        pointing_game(HEAT, BOX, -1)
