"""Maps and kernels as pictures: which colour stands for which value, and what is refused."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from jaxcnn.errors import InputError
from jaxcnn.figures import pixels


def test_a_map_runs_from_black_at_zero_to_the_last_colour_at_its_own_percentile():
    ramp = np.linspace(0, 1, 101).reshape(1, 1, 101)
    shown = pixels.heat(np.concatenate([ramp, 5 * ramp]), percentile=50.0)
    np.testing.assert_array_equal(shown[0], shown[1])  # the scale is each map's own
    colors = mpl.colormaps["magma"]
    np.testing.assert_array_equal(shown[0, 0, 0], colors(0.0, bytes=True)[:3])
    np.testing.assert_array_equal(shown[0, 0, 25], colors(0.5, bytes=True)[:3])
    assert (shown[0, 0, 50:] == colors(1.0, bytes=True)[:3]).all()


def test_colour_kernels_are_grey_at_zero_and_share_one_scale():
    weights = np.zeros((2, 2, 3, 2))
    weights[0, 0, 0, 0], weights[1, 1, 2, 1] = 4.0, -2.0
    shown, largest = pixels.kernels(weights)
    assert largest == 4.0
    assert shown.shape == (2, 2, 2, 3)
    assert shown[0, 0, 0].tolist() == [255, 128, 128]
    assert shown[1, 1, 1].tolist() == [128, 128, 64]


def test_other_kernels_have_their_channels_beside_each_other_and_white_zeros():
    weights = np.zeros((3, 2, 2, 4))
    weights[2, 1, 1, 3] = -1.0
    shown, largest = pixels.kernels(weights)
    assert largest == 1.0
    assert shown.shape == (4, 3, 4, 3)
    colors = mpl.colormaps["RdBu_r"]
    assert (shown[:3] == colors(0.5, bytes=True)[:3]).all()
    np.testing.assert_array_equal(shown[3, 2, 3], colors(0.0, bytes=True)[:3])
    assert (pixels.kernels(np.zeros((1, 1, 1, 1)))[0] == colors(0.5, bytes=True)[:3]).all()


@pytest.mark.parametrize(
    ("draw", "values", "said"),
    [
        (pixels.heat, np.zeros((2, 2)), r"maps have shape \(2, 2\)"),
        (pixels.heat, np.full((1, 2, 2), -1.0), "negative, NaN or infinite"),
        (pixels.kernels, np.zeros((3, 3, 1)), r"kernels have shape \(3, 3, 1\)"),
        (pixels.kernels, np.full((1, 1, 1, 1), np.nan), "NaN or infinite"),
    ],
)
def test_what_is_no_map_or_kernel_is_refused(draw, values, said):
    with pytest.raises(InputError, match=said):
        draw(values)
