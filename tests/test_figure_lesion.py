"""The figures of lesions and of dynamics show the numbers that they were given, and every text can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import dynamics, lesion, style
from jaxcnn.figures.dynamics import SeenField
from jaxcnn.figures.lesion import Deletions, Draws, Orders, PathGradients

rng = np.random.default_rng(0)

BLOCKS = [f"stage{s}/block{b}" for s in (1, 2, 3) for b in (1, 2, 3)]
ERRORS = 0.08 + 0.1 * rng.random((3, 9))
RESNET: Any = Deletions(
    BLOCKS, [i in (3, 6) for i in range(9)], ERRORS, [0.07, 0.08, 0.09], ERRORS.mean(0) - 0.2, ERRORS.mean(0) + 0.2
)
LAYERS = ["stem", *(f"{block}/conv{i}" for block in BLOCKS for i in (1, 2)), "head"]
FIXED = np.isin(np.arange(20), (0, 7, 13, 19))
HARM = np.where(FIXED, np.nan, 0.4 + 0.5 * rng.random((3, 20)))
PLAIN: Any = Deletions(
    LAYERS, np.isin(np.arange(20), (7, 13)), HARM, [0.1] * 3, HARM.mean(0) - 0.05, HARM.mean(0) + 0.05
)
NETWORKS = {"cifar_resnet20": RESNET, "cifar_plain20": PLAIN}


def panels(figure) -> list[Any]:
    return figure.axes


IMAGES = "1,000 images of the test split of fashion_mnist"


def test_every_block_s_error_stands_in_its_place():
    figure = lesion.single(NETWORKS, chance=0.9, images=IMAGES)
    check_legible(figure)
    assert figure.get_figwidth() == style.PAGE
    for axes, (name, one) in zip(panels(figure), NETWORKS.items(), strict=True):
        assert axes.get_title("left") == name
        assert axes.get_ylim() == (0, 1)
        points = [line for line in axes.lines if line.get_linestyle() == "None"]
        shown = {(x, round(float(y), 6)) for line in points for x, y in zip(*line.get_data(), strict=True)}
        errors = np.asarray(one.errors)
        for x in range(len(one.names)):
            expected = [] if np.isnan(errors[:, x]).any() else [*errors[:, x], errors[:, x].mean()]
            assert {y for place, y in shown if place == x} == {round(float(y), 6) for y in expected}
        squares = {x for line in points if line.get_marker() == "s" for x in line.get_xdata()}
        assert squares == {x for x in range(len(one.names)) if one.downsampling[x] and not np.isnan(errors[0, x])}
        assert sum(isinstance(patch, Rectangle) for patch in axes.patches) == np.isnan(errors[0]).sum()
        ends = {tuple(np.round(path.vertices[:, 1], 6)) for path in axes.collections[0].get_paths()}
        assert ends == {
            (round(max(low, 0), 6), round(high, 6))
            for low, high in zip(np.asarray(one.low), np.asarray(one.high), strict=True)
            if low == low  # not NaN
        }
        levels = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() in ("--", ":")]
        assert levels == pytest.approx([0.9, np.mean(one.intact)])
    said = words(figure)
    for text in ("mean of 3 networks, 95% interval", "each network", "halves the map", "nothing deleted", "guessing"):
        assert text in said
    assert "stage2/block1/conv2" in said


def test_a_single_network_and_a_deep_one_are_readable():
    alone = lesion.single({"plain": PLAIN._replace(errors=PLAIN.errors[:1], intact=[0.1])}, chance=0.9, images="9")
    check_legible(alone)
    assert "without the block" in words(alone)
    names = [f"stage{i // 18 + 1}/block{i % 18 + 1}" for i in range(54)]
    halving, unknown = [i in (18, 36) for i in range(54)], np.full(54, np.nan)
    deep = Deletions(names, halving, rng.random((2, 54)), [0.1, 0.1], unknown, unknown)
    check_legible(lesion.single({"cifar_resnet110": deep, **NETWORKS}, chance=0.9, images=IMAGES))


def test_draws_are_medians_and_quantiles():
    draws: Any = {"a": Draws([0, 1, 5], rng.random((3, 40))), "b": Draws([0, 1, 2], rng.random((3, 40)))}
    figure = lesion.several(draws, images=IMAGES)
    check_legible(figure)
    (axes,) = panels(figure)
    for line, one in zip(axes.lines, draws.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.median(one.errors, axis=1))
        assert np.abs(line.get_xdata() - one.sizes).max() < 0.3
    bars = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
    wide = np.array([segment[:, 1] for segment in bars[0].get_segments()])
    np.testing.assert_allclose(wide, np.quantile(draws["a"].errors, (0.025, 0.975), axis=1).T)


def test_orders_are_points_and_medians_from_the_trained_order_on():
    tau = np.repeat([1.0, 0.9, 0.8, 0.5], 5)
    orders: Any = Orders(tau, 1 - tau * 0.9 + 0.01 * rng.random(20))
    figure = lesion.shuffled({"resnet": orders}, images=IMAGES)
    check_legible(figure)
    (axes,) = panels(figure)
    points, medians = axes.lines
    np.testing.assert_allclose(points.get_xydata(), np.transpose(orders))
    np.testing.assert_allclose(medians.get_xdata(), [0.5, 0.8, 0.9, 1.0])
    expected = [np.median(orders.errors[tau == t]) for t in (0.5, 0.8, 0.9, 1.0)]
    np.testing.assert_allclose(medians.get_ydata(), expected)
    assert axes.xaxis_inverted()
    check_legible(lesion.shuffled({"one": Orders([1.0], [0.2])}, images=IMAGES))


def test_paths_are_counted_measured_and_multiplied():
    lengths = np.arange(10)
    norms = 10.0 ** -(lengths[:, None] / 3) * rng.uniform(0.5, 2, (10, 20))
    shares = np.array([1, 9, 36, 84, 126, 126, 84, 36, 9, 1]) / 512
    brought = shares * norms.mean(1) / (shares * norms.mean(1)).sum()
    figure = lesion.paths({"resnet20": PathGradients(lengths, norms, shares, brought)})
    check_legible(figure)
    for axes, values in zip(panels(figure), (shares, norms.mean(1), brought), strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), values)
    assert panels(figure)[1].get_yscale() == "log"
    assert f"resnet20: mean length {(lengths * brought).sum():.3g}" in words(figure)
    norms[[0, 4]] = 0
    gaps = lesion.paths({"a": PathGradients(lengths, norms, shares, brought), "b": PathGradients([0], [[0]], [1], [0])})
    check_legible(gaps)
    line, nothing = panels(gaps)[1].lines
    np.testing.assert_allclose(line.get_ydata(), np.where(np.isin(lengths, (0, 4)), np.nan, norms.mean(1)))
    assert np.isnan(nothing.get_ydata()).all()
    assert "b" in words(gaps)  # without a mean length
    some = lesion.paths({"resnet20": PathGradients(*(part[:3] for part in (lengths, norms, shares, brought)))})
    assert "mean length" not in " ".join(words(some))  # of some lengths there is no mean over all


def test_gradients_by_layer_are_medians_on_a_log_scale():
    norms = {name: 10.0 ** (-fall * np.arange(12, 0, -1)[:, None]) * rng.uniform(0.5, 2, (12, 30))
             for name, fall in (("sigmoid", 1.0), ("tanh", 0.1), ("relu", 0.05))}  # fmt: skip
    norms["relu"][3] = 0
    norms["dead"] = np.zeros((12, 30))
    figure = dynamics.gradient_flow(norms)
    check_legible(figure)
    (axes,) = panels(figure)
    assert axes.get_yscale() == "log"
    for line, (name, values) in zip(axes.lines, norms.items(), strict=True):
        assert line.get_label() == name
        middle = np.median(values, axis=1)
        np.testing.assert_allclose(line.get_ydata(), np.where(middle > 0, middle, np.nan))


def test_dead_units_rise_with_the_learning_rate():
    shares = np.clip(np.linspace(-0.2, 1, 5)[:, None] + 0.02 * np.arange(7), 0, 1)
    names = [f"stage{i // 2 + 1}/block{i % 2 + 1}/norm1" for i in range(7)]
    figure = dynamics.dead_units([0.01, 0.03, 0.1, 0.3, 1.0], names, shares)
    check_legible(figure)
    (axes,) = panels(figure)
    for line, values in zip(axes.lines, shares.T, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values)


def test_loss_slices_show_every_direction_and_their_mean():
    steps = np.linspace(-1, 1, 21)
    losses = {name: 0.1 + level * steps**2 + 0.01 * rng.random((3, 21)) for name, level in (("a", 1), ("b", 9))}
    losses["b"][0, 0] = np.inf
    figure = dynamics.loss_slices(steps, losses)
    check_legible(figure)
    (axes,) = panels(figure)
    assert len(axes.lines) == 8
    np.testing.assert_allclose(axes.lines[3].get_ydata(), losses["a"].mean(0))


def test_a_plane_has_contours_around_the_cross():
    rows, columns = np.linspace(-1, 1, 15), np.linspace(-1, 1, 17)
    losses = 0.05 + rows[:, None] ** 2 + 3 * columns**2
    losses[0, 0] = np.nan
    figure = dynamics.loss_plane(rows, columns, losses, title="resnet20")
    check_legible(figure)
    (axes,) = panels(figure)
    (contours,) = axes.collections
    assert len(contours.get_paths()) == 12
    assert contours.norm.vmin == pytest.approx(np.nanmin(losses))
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 0]])
    heights = [np.ptp(path.vertices[:, 1]) / np.ptp(path.vertices[:, 0]) for path in contours.get_paths()[4:6]]
    assert min(heights) > 1.2  # rows run upwards, along which the loss is flatter


def test_fields_show_roots_and_the_box_as_far_as_it_lies_in_the_image():
    heat = np.zeros((9, 11))
    heat[4, 5], heat[4, 6] = 4.0, 1.0
    layers = {"conv1": SeenField(heat, (3, 4, 6, 7), 1.4), "conv2": SeenField(heat, (-2, 2, 30, 9), 3.0)}
    figure = dynamics.effective_fields(layers)
    check_legible(figure)
    first, second = panels(figure)
    assert picture(first)[4, 6] == pytest.approx(0.5)
    (box,) = second.patches
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((1.5, -0.5), 7, 9)
    assert "sees 3×3,\nuses about 1×1" in words(figure)  # noqa: RUF001
    wide = SeenField(heat, (-40, -40, 60, 60), 28.0)
    check_legible(dynamics.effective_fields({f"stage1/block{i}": wide for i in range(7)}))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: lesion.single({}, chance=0.9, images="x"), "no network was given"),
        (lambda: lesion.single({"a": RESNET._replace(intact=[0.1])}, chance=0.9, images="x"), r"expected \[S, B\]"),
        (
            lambda: lesion.single({"a": RESNET._replace(errors=2 * RESNET.errors + 1)}, chance=0.9, images="x"),
            r"errors of a run from .*; expected shares in \[0, 1\]",
        ),
        (lambda: lesion.several({"a": Draws([1], [0.1, 0.2])}, images="x"), r"expected \[K\] and \[K, R\]"),
        (lambda: lesion.shuffled({"a": Orders([2.0], [0.1])}, images="x"), r"expected values in \[-1, 1\]"),
        (lambda: lesion.shuffled({"a": Orders([1.0, 0.9], [0.1])}, images="x"), r"expected \[M\] each"),
        (lambda: lesion.paths({"a": PathGradients([0, 1], [[1.0]], [1], [1])}), r"expected \[K\], \[K, R\]"),
        (lambda: lesion.paths({"a": PathGradients([0], [[-1.0]], [1], [1])}), "finite ones of at least 0"),
        (lambda: lesion.paths({"a": PathGradients([0], [[0.0]], [1], [0])}), "the norms are 0 on every path"),
        (lambda: dynamics.gradient_flow({"a": np.zeros((3, 2))}), "median of the norms is 0 at every layer"),
        (lambda: dynamics.gradient_flow({}), "no network was given"),
        (lambda: dynamics.gradient_flow({"a": [[np.nan]]}), "norms of a have shape"),
        (lambda: dynamics.dead_units([0.1, 0.01], ["a"], [[0], [0]]), "expected increasing ones above 0"),
        (lambda: dynamics.dead_units([0.1], ["a"], [[2.0]]), r"expected values in \[0, 1\]"),
        (lambda: dynamics.dead_units([0.1], ["a", "b"], [[0.5]]), r"expected \[K\] and \[K, R\]"),
        (lambda: dynamics.loss_slices([0, 0], {"a": [[1, 1]]}), "steps are .* expected at least two increasing"),
        (lambda: dynamics.loss_slices([0, 1], {"a": [1, 1]}), r"expected \[D, 2\]"),
        (lambda: dynamics.loss_plane([0, 1], [0, 1], np.full((2, 2), np.nan), title=""), "some of them finite"),
        (lambda: dynamics.effective_fields({"a": SeenField([1.0], (0, 0, 1, 1), 1)}), r"expected \[H, W\]"),
        (lambda: dynamics.effective_fields({"a": SeenField([[0.0]], (0, 0, 1, 1), 1)}), "heat of a runs from 0"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(call, says):
    with pytest.raises(InputError, match=says):
        call()
