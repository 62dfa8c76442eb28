"""Activation functions as small multiples: curves as given, jumps left open, the same axes, every text legible."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from test_figures import check_legible, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.activations import activations

X = np.linspace(-4, 4, 401)
SIGMOID = 1 / (1 + np.exp(-X))
FUNCTIONS = {
    "identity": (X, np.ones_like(X)),
    "binary step": (np.where(X >= 0, 1.0, 0.0), np.zeros_like(X)),
    "sigmoid": (SIGMOID, SIGMOID * (1 - SIGMOID)),
    "ReLU": (np.maximum(X, 0), np.where(X > 0, 1.0, 0.0)),
    "leaky ReLU": (np.where(X > 0, X, 0.01 * X), np.where(X > 0, 1.0, 0.01)),
    "ELU": (np.where(X > 0, X, np.expm1(X)), np.where(X > 0, 1.0, np.exp(X))),
    "softsign": (X / (1 + np.abs(X)), 1 / (1 + np.abs(X)) ** 2),
}
VALUES, DERIVATIVES = (np.stack(arrays) for arrays in zip(*FUNCTIONS.values(), strict=True))


def drawn(count: int = len(FUNCTIONS), **options: object) -> Figure:
    chosen = [np.resize(array, (count, X.size)) for array in (VALUES, DERIVATIVES)]
    return activations([f"{list(FUNCTIONS)[i % 7]}" for i in range(count)], X, *chosen, **options)  # type: ignore[arg-type]


SAMPLES = {
    "page": drawn,
    "many": lambda: drawn(14, columns=5),
    "full rows": lambda: drawn(4, columns=2),
    "one": lambda: drawn(1),
    "column": lambda: drawn(columns=2, width=style.COLUMN),
    "long names": lambda: activations(["a function of a name too long for a panel"] * 7, X, VALUES, DERIVATIVES),
    "other limits": lambda: drawn(limits=(-0.25, 1.25)),
    "far": lambda: activations(["identity"], 1e3 * X, 1e3 * X[None], 0 * X[None], limits=(-2e3, 2e3)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_legible(name):
    check_legible(SAMPLES[name]())


def test_each_function_and_its_derivative_are_drawn_as_given():
    figure = drawn()
    assert figure.get_figwidth() == pytest.approx(style.PAGE)
    assert len(figure.axes) == len(FUNCTIONS)
    for axes, (name, arrays) in zip(figure.axes, FUNCTIONS.items(), strict=True):
        assert axes.get_title("left") == name
        curves = axes.lines[-2:]
        for line, array in zip(curves, arrays, strict=True):
            x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
            assert_array_equal(x[~np.isnan(x)], X)
            assert_array_equal(y[~np.isnan(y)], array)
        assert [line.get_linestyle() for line in curves] == ["-", "--"]
        assert len({line.get_color() for line in curves}) == 2
        assert all(to_hex(line.get_color()) != style.WRONG.lower() for line in curves)


def test_jumps_are_left_open_and_kinks_are_not():
    gaps = {}
    for axes, name in zip(drawn().axes, FUNCTIONS, strict=True):
        gaps[name] = [np.isnan(np.asarray(line.get_ydata(), float)).nonzero()[0].tolist() for line in axes.lines[-2:]]
    zero = X.size // 2  # the index of x = 0
    assert gaps == {
        "identity": [[], []],
        "binary step": [[zero], []],
        "sigmoid": [[], []],
        "ReLU": [[], [zero + 1]],
        "leaky ReLU": [[], [zero + 1]],
        "ELU": [[], []],
        "softsign": [[], []],
    }


@pytest.mark.parametrize("points", [9, 17, 40, 101, 1000])
def test_jumps_are_found_for_any_spacing(points):
    x = np.linspace(-4, 4, points)
    curves = np.stack([np.sign(x - 0.1), np.where(x > 0.1, 8, 0) + x, np.abs(x), np.tanh(x)])
    lines = [axes.lines[-2] for axes in activations(["sign", "sloped", "kink", "smooth"], x, curves, 0 * curves).axes]
    assert [int(np.isnan(np.asarray(line.get_ydata(), float)).sum()) for line in lines] == [1, 1, 0, 0]


def test_all_panels_share_their_axes_and_a_slope_of_one_rises_at_45_degrees():
    figure = drawn()
    for axes in figure.axes:
        assert axes.get_xlim() == (-4, 4)
        assert axes.get_ylim() == (-2, 3)
        box = axes.get_window_extent()
        assert box.width / 8 == pytest.approx(box.height / 5)


def test_numbers_stand_at_the_left_and_at_the_foot():
    figure = drawn(6)
    figure.draw_without_rendering()
    beside = [any(label.get_visible() for label in axes.get_yticklabels()) for axes in figure.axes]
    below = [any(label.get_visible() for label in axes.get_xticklabels()) for axes in figure.axes]
    assert beside == [True, False, False, False, True, False]
    assert below == [False, False, True, True, True, True]
    assert [axes.get_xlabel() for axes in figure.axes] == ["x" if label else "" for label in below]


def test_the_legend_says_which_is_which():
    figure = drawn()
    assert {"f(x)", "f′(x)"} <= set(words(figure))  # noqa: RUF001
    (legend,) = figure.legends
    signs = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()]
    assert signs == [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[-2:]]


def test_saving_gives_equal_bytes(tmp_path):
    files = [style.save(drawn(), tmp_path / name) for name in ("a", "b")]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": []}, "0 names; expected"),
        ({"names": ["one"]}, r"values have shape \(7, 401\) for 1 names; expected \[A, P\], P = 401"),
        ({"values": VALUES[:, 1:]}, r"values have shape \(7, 400\)"),
        ({"derivatives": DERIVATIVES[0]}, r"derivatives have shape \(401,\)"),
        ({"derivatives": np.full_like(DERIVATIVES, np.inf)}, "derivatives hold NaN or infinite"),
        ({"x": X[None]}, r"x has shape \(1, 401\); expected \[P\]"),
        ({"x": X[::-1]}, "expected .* that increase"),
        ({"x": X[:1], "values": VALUES[:, :1], "derivatives": DERIVATIVES[:, :1]}, "at least 2"),
        ({"limits": (1.0, 1.0)}, "limits are .* expected the lower end first"),
        ({"columns": 0}, "columns is 0; expected at least 1"),
    ],
)
def test_wrong_input_is_refused(change, message):
    arguments = {"names": list(FUNCTIONS), "x": X, "values": VALUES, "derivatives": DERIVATIVES, **change}
    with pytest.raises(InputError, match=message):
        activations(**arguments)
