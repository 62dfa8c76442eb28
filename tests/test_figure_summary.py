"""The figure of a network's summary: bars as long as the counts, every text legible, equal bytes each time."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from test_figures import check_legible, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.summary import layers, quantity

NAMES = ["input", "conv1", "pool1", "a module with a name that is far too long for the page", "head"]
COUNTS = {
    "parameters": [0, 1_792, 0, 102_764_544, 4_097_000],
    "multiply-adds": [0, 86_704_128, 0, 1_849_688_064, 4_096_000],
    "activation bytes": [602_112, 12_845_056, 3_211_264, 16_384, 4_000],
}
SAMPLES = {
    "three": (NAMES, COUNTS),
    "one layer": (["head"], {"parameters": [3]}),
    "nothing": (["input", "pool"], {"parameters": [0, 0], "multiply-adds": [0, 0]}),
    "many": ([f"stage{i}" for i in range(60)], {name: np.arange(60) * 10**i for i, name in enumerate(COUNTS)}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_legible(name):
    check_legible(layers(*SAMPLES[name], title="network, 224x224x3"))


def test_bars_are_as_long_as_the_counts():
    figure = layers(NAMES, COUNTS, title="network")
    assert figure.get_figwidth() == pytest.approx(style.PAGE)
    for axes, (name, values) in zip(figure.axes, COUNTS.items(), strict=True):
        bars = sorted(axes.patches, key=lambda bar: bar.get_y())
        assert [bar.get_width() for bar in bars] == values
        assert axes.get_title("left") == f"{quantity(sum(values))} {name}"
        assert all(to_hex(bar.get_facecolor()) != style.WRONG.lower() for bar in bars)
        # The first layer is on top, and all rows lie beside each other.
        assert axes.yaxis_inverted()
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    said = words(figure)
    assert {"network", "input", "head", "103 M", "1.85 G", "12.8 M", "4 k"} <= set(said)
    assert "0" not in said


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.6, "1 k"), (1792, "1.79 k"), (999_999, "1 M"), (2.5e12, "2.5 T")],
)
def test_quantities_have_three_digits(count, text):
    assert quantity(count) == text


def test_saving_gives_equal_bytes(tmp_path):
    files = [style.save(layers(NAMES, COUNTS), tmp_path / name) for name in ("a", "b")]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("names", "counts"),
    [([], {"a": []}), (["a"], {}), (["a"], {"b": [1, 2]}), (["a"], {"b": [-1]}), (["a"], {"b": [np.nan]})],
)
def test_wrong_counts_are_refused(names, counts):
    with pytest.raises(InputError, match="expected"):
        layers(names, counts)
