"""The figure of a search: every trial stands where it belongs, the best is marked, every text legible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from test_figures import check_legible, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.search import trials

rng = np.random.default_rng(0)
STATES = ["complete", "pruned", "complete", "complete", "complete"]
ACCURACY = [0.90, 0.80, 0.85, 0.95, 0.93]
RATES = [0.01, 0.001, 0.02, 0.1, 0.3]
LOG = {"optimizer.learning_rate"}
TEN = ["gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lars", "lamb"]
CLOSE = [0.9, 0.9001, 0.9002]
ONE = {"optimizer.learning_rate": RATES}


def points(axes: Axes, marker: str) -> set[tuple[float, float]]:
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return {
        (float(x), float(y))
        for line in lines
        for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
    }


def many(count: int):
    rates, decays = 10.0 ** rng.uniform(-4, 0, count), 10.0 ** rng.uniform(-5, -3, count)
    states = ["complete" if i < 5 or i % 3 else "pruned" for i in range(count)]
    settings = {
        "optimizer.learning_rate": list(rates),
        "optimizer.weight_decay": list(decays),
        "model.options.depth": [int(depth) for depth in rng.integers(1, 4, count)],
        "model.name": [f"cifar_resnet{depth}" for depth in rng.choice([20, 32, 56], count)],
        "model.zero_gamma": [bool(i % 2) for i in range(count)],
    }
    return np.arange(count), rng.uniform(0.1, 1, count), states, settings


SAMPLES = {
    "one setting": lambda: trials(range(5), ACCURACY, STATES, ONE, log=LOG),
    "many settings": lambda: trials(*many(40), log={"optimizer.learning_rate", "optimizer.weight_decay"}),
    "one trial": lambda: trials([0], [0.5], ["complete"], {"optimizer.momentum": [0.9]}),
    "one diverged": lambda: trials([7], [np.nan], ["diverged"], {"optimizer.learning_rate": [1.0]}, log=LOG),
    "all pruned": lambda: trials([0, 1], [0.1, 0.2], ["pruned"] * 2, {"data.batch_size": [32, 64]}),
    "alike": lambda: trials(range(3), [1.0] * 3, ["complete"] * 3, {"model.name": ["a" * 40, "b" * 40, "a" * 40]}),
    "three settings": lambda: trials(*many(9)[:3], dict(list(many(9)[3].items())[:3])),
    "six choices": lambda: trials(range(6), [0.5] * 6, ["complete"] * 6, {"optimizer.name": list("abcdef")}),
    "ten choices": lambda: trials(range(10), [0.5] * 10, ["complete"] * 10, {"optimizer.name": TEN}),
    "twenty choices": lambda: trials(
        range(20), [0.5] * 20, ["complete"] * 20, {"model.name": [f"network_number_{i}" for i in range(20)]}
    ),
    "close settings": lambda: trials(
        range(3), [0.9, 0.9001, 0.9002], ["complete"] * 3, {"data.batch_size": [998, 1000, 1002], "momentum": CLOSE}
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_legible(name):
    figure = SAMPLES[name]()
    check_legible(figure)
    assert figure.get_figwidth() == pytest.approx(style.PAGE)


@given(low=st.integers(-8, 3), decades=st.floats(0, 8))
@settings(deadline=None, max_examples=4)
def test_a_log_axis_has_legible_ticks_for_any_range(low, decades):
    values = list(np.geomspace(10.0**low, 10.0 ** (low + decades), 5))
    figure = trials(range(5), ACCURACY, STATES, {"optimizer.learning_rate": values}, log=LOG)
    check_legible(figure)
    axis = figure.axes[1].xaxis
    left, right = axis.get_view_interval()
    assert left < values[0] <= values[-1] < right
    needed = 2 if values[0] < values[-1] else 1
    assert sum(left <= tick <= right for tick in axis.get_majorticklocs()) >= needed


def test_every_trial_stands_at_its_number_and_at_its_setting_and_the_best_is_marked():
    order, rates = SAMPLES["one setting"]().axes
    complete = [0, 2, 3, 4]
    assert points(order, "o") == {(i, ACCURACY[i]) for i in complete}
    assert points(order, "v") == {(1, 0.80)}
    assert points(order, "*") == {(3, 0.95)}
    assert points(rates, "o") == {(RATES[i], ACCURACY[i]) for i in complete}
    assert points(rates, "v") == {(0.001, 0.80)}
    assert points(rates, "*") == {(0.1, 0.95)}
    assert (order.get_xscale(), rates.get_xscale()) == ("linear", "log")
    assert (order.get_xlabel(), rates.get_xlabel()) == ("trial", "learning rate (log scale)")
    (best,) = (line for line in order.lines if line.get_drawstyle() == "steps-post")
    np.testing.assert_array_equal(np.asarray(best.get_ydata()), [0.90, 0.90, 0.90, 0.95, 0.95])


def test_trials_far_below_the_others_lie_under_a_line_that_says_what_it_is():
    accuracy = [0.1, 0.96, 0.97, 0.98, 0.99, 0.975, np.nan]
    states = ["pruned", *["complete"] * 5, "diverged"]
    figure = trials(range(7), accuracy, states, {"optimizer.momentum": [0.1 * i for i in range(7)]})
    for axes in figure.axes:
        (line,) = (line for line in axes.lines if line.get_linestyle() == ":")
        floor = float(np.asarray(line.get_ydata())[0])
        assert 0.9 < floor < 0.96
        ((_, pruned),) = points(axes, "v")
        ((_, diverged),) = points(axes, "X")
        assert axes.get_ylim()[0] < pruned == diverged < floor
        assert {y for _, y in points(axes, "o")} == set(accuracy[1:6])
        assert min(axes.get_yticks()) >= floor
    assert f"below the line: under {100 * floor:.3g}%, or none" in words(figure)
    assert {"complete", "pruned", "diverged", "best so far"} <= set(words(figure))


@pytest.mark.parametrize(
    "accuracy",
    [[0.5], [0.1] * 5 + [0.95], [0.9, 0.9001, 0.9002], [0.0, 1.0]],
    ids=["one", "one far above", "close", "all"],
)
def test_no_trial_lies_on_the_frame_and_ticks_differ(accuracy):
    count = len(accuracy)
    values = {"optimizer.momentum": [0.9 + 0.0001 * i for i in range(count)], "data.batch_size": list(range(count))}
    figure = trials(range(count), accuracy, ["complete"] * count, values)
    for axes in figure.axes:
        frame = axes.get_window_extent()
        middles = axes.transData.transform([*points(axes, "o")])
        size = 2 / 72 * figure.dpi  # more than half a marker
        assert (middles > [frame.x0 + size, frame.y0 + size]).all()
        assert (middles < [frame.x1 - size, frame.y1 - size]).all()
        assert not any(line.get_linestyle() == ":" for line in axes.lines)
    for labels in (figure.axes[0].get_yticklabels(), *(axes.get_xticklabels() for axes in figure.axes)):
        texts = [label.get_text() for label in labels]
        assert len(set(texts)) == len(texts) > 0
    shares = [float(label.get_text()) for label in figure.axes[0].get_yticklabels()]
    assert shares == pytest.approx([100 * tick for tick in figure.axes[0].get_yticks()], abs=1e-6)
    assert 0 <= min(shares) <= max(shares) <= 100
    for axes in (figure.axes[0], figure.axes[2]):
        low, high = axes.get_xlim()
        seen = [tick for tick in axes.get_xticks() if low < tick < high]
        assert all(tick in range(count) for tick in seen)


def test_where_no_trial_is_complete_none_is_the_best():
    figure = SAMPLES["all pruned"]()
    assert not any(points(axes, "*") for axes in figure.axes)
    assert "best so far" not in words(figure)


def test_choices_have_their_names_and_long_ones_what_tells_them_apart():
    figure = trials(range(4), [0.5] * 4, ["complete"] * 4, {"optimizer.name": ["sgd", "adam", "sgd", "lars"]})
    axes = figure.axes[1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["adam", "lars", "sgd"]
    assert axes.get_xlabel() == "optimizer name"
    assert points(axes, "o") == {(2, 0.5), (0, 0.5), (1, 0.5)}
    names = [f"a_network_with_a_long_name_{i}" for i in range(4)]
    axes = trials(range(4), [0.5] * 4, ["complete"] * 4, {"model.name": names}).axes[1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["…0", "…1", "…2", "…3"]
    labels = SAMPLES["ten choices"]().axes[1].get_xticklabels()
    assert [(label.get_text(), label.get_rotation()) for label in labels] == [(name, 90) for name in sorted(TEN)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1000.0, "1000"), (9999.0, "9999"), (12345.0, "1.23e+04"), (0.12345, "0.123"), (-2.0, "−2"), (np.nan, "nan")],  # noqa: RUF001
)
def test_whole_numbers_are_written_out(value, text):
    assert style.number(value) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0.5], ["complete"], ONE), r"numbers has shape \(2,\) for 1 trials"),
        (([], [], [], {"a": []}), "for 0 trials; expected one value for each, at least one"),
        (([0], [0.5], ["complete"], ONE), r"learning_rate has shape \(5,\) for 1 trials"),
        (([0], [0.5], ["complete"], {}), "no setting was given"),
        (([0], [0.5], ["won"], {"a": [1]}), "state is 'won'; expected complete, pruned, diverged, refused"),
        (([0], [1.5], ["complete"], {"a": [1]}), "accuracies run from 1.5 to 1.5"),
        (([0], [np.nan], ["complete"], {"a": [1]}), "a complete trial has no accuracy"),
    ],
)
def test_wrong_input_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        trials(*arguments)
