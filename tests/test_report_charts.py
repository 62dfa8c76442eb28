"""What reports draw and compute: charts as Vega-Lite draws them, intervals, and the sign test."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxcnn.report.page import accuracy, charts, rendering


def drawn(spec):
    """The chart's picture, as a tree of SVG."""
    return ET.fromstring(vl_convert.vegalite_to_svg(spec | {"width": 300}))


@pytest.mark.parametrize(("measured", "seen"), [(1, 2), (2, 0)])
def test_what_was_measured_once_is_a_point_as_it_has_no_line(measured, seen):
    points = [
        {"series": name, "x": 1 + i, "step": 5, "loss": 0.5, "mean": 0.5, "low": 0.4, "high": 0.6}
        for name in ("one", "two")
        for i in range(measured)
    ]
    for spec in (
        charts.learning(points, "loss", x="epoch", series=["one", "two"]),
        charts.bands(points, "loss", series=["one", "two"]),
    ):
        picture = drawn(spec)
        marks = [path for path in picture.iter() if path.get("aria-roledescription") == "point"]
        assert len(marks) == 2 * measured
        assert [mark.get("opacity") for mark in marks].count("1") == seen


def test_outcomes_stand_against_numbers_as_lines_with_intervals_and_what_diverged_as_a_cross():
    points = [
        {"series": name, "x": x, "mean": mean, "low": mean / 2 if name == "one" else math.nan, "high": mean * 2}
        for name in ("one", "two")
        for x, mean in ((1.0, 0.001), (2.0, 0.01), (40.0, 1.0 if name == "one" else math.nan))
    ]
    spec = charts.against(points, "training loss", position="rate", series=["one", "two"])
    scales = {name: found["scale"].get("type") for name, found in spec["layer"][-2]["encoding"].items() if name in "xy"}
    assert scales | {"x": spec["layer"][-2]["encoding"]["x"]["scale"]["type"]} == {"x": "log", "y": "log"}
    picture = drawn(spec)
    marks = [found.get("aria-roledescription") for found in picture.iter() if found.get("aria-roledescription")]
    assert [marks.count(mark) for mark in ("point", "rule mark", "line mark")] == [5 + 1, 3, 2]


def test_outcomes_stand_beside_each_other_over_texts():
    points = [
        {"series": name, "x": x, "mean": mean, "low": 0.9 * mean, "high": 1.1 * mean}
        for name, mean in (("one", 1e-5), ("two", 1e-2))
        for x in ("conv1", "a long name of a block")
    ]
    spec = charts.against(points, "gradient", position="layer", series=["one", "two"], logarithmic=True)
    picture = drawn(spec)
    marks = [found for found in picture.iter() if found.get("aria-roledescription") == "point"]
    across = [float(re.findall(r"[\d.]+", mark.get("transform"))[0]) for mark in marks]
    assert len(set(across)) == 4
    assert "line mark" not in [found.get("aria-roledescription") for found in picture.iter()]
    assert "0.0001" in [found.text for found in picture.iter()]


def test_a_probability_too_small_for_a_float_is_not_said_to_be_zero():
    assert rendering.probability(0.0312) == "0.031"
    assert rendering.probability(1.0) == "1"
    assert rendering.probability(0.0) == "< 1e-300"


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_the_shares_from_which_the_one_seen_is_not_far(counts):
    correct, examples = counts
    found = accuracy.accuracy("test", correct, examples)
    z = stats.norm.ppf(0.975)
    for end in (found.low, found.high):
        far = z * math.sqrt(end * (1 - end) / examples)
        assert abs(found.share - end) == pytest.approx(far, abs=1e-6)
    assert -1e-12 <= found.low <= found.share <= found.high <= 1 + 1e-12


@given(st.lists(st.floats(-1e3, 1e3), max_size=2000))
def test_lines_of_many_points_are_averaged(values):
    points = [{"x": i, "loss": value} for i, value in enumerate(values)]
    kept = charts.averaged(points, ("loss",))
    assert len(kept) <= charts.POINTS
    if values:
        assert kept[-1]["x"] == len(values) - 1
        width = math.ceil(len(values) / len(kept))
        assert kept[0]["loss"] == pytest.approx(np.mean(values[:width]))


def test_the_sign_test_is_the_binomial_of_the_images_that_only_one_gets_right():
    first, second = np.array([True] * 10 + [False] * 4), np.array([False] * 8 + [True] * 6)
    only_first, only_second, probability = accuracy.sign_test(first, second)
    assert (only_first, only_second) == (8, 4)
    assert probability == pytest.approx(min(1.0, 2 * sum(math.comb(12, k) for k in range(5)) / 2**12))
    assert accuracy.sign_test(first, first) == (0, 0, 1.0)
