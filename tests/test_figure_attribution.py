"""Figures of attribution: every map as given, on one stated scale, and every text legible."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.attribution import HEIGHT, fitting, sheet
from jaxcnn.figures.occlusion import occlusion
from jaxcnn.figures.saliency import saliency
from jaxcnn.figures.trust import Band, Curve, cascade, exchange, similarity

rng = np.random.default_rng(0)
IMAGES = rng.random((3, 20, 24, 3), np.float32)
SIGNED = rng.normal(size=(3, 20, 24))
TITLES = [
    "gradient",
    "gradient x input",
    "SmoothGrad",
    "SmoothGrad squared",
    "VarGrad",
    "integrated gradients",
    "guided backpropagation",
    "deconvnet",
    "Grad-CAM",
    "Grad-CAM++",
    "Guided Grad-CAM",
    "LRP",
    "occlusion",
    "RISE",
    "Shapley sampling",
    "one more",
    "another",
    "the last",
]
SHARES = np.linspace(0, 1, 9)


def maps(count: int, images: int = 3) -> dict[str, np.ndarray]:
    return {title: np.abs(SIGNED[:images]) * 10.0**i for i, title in enumerate(TITLES[:count])}


def curve(rate: float) -> Curve:
    mean = np.exp(-rate * SHARES)
    return Curve(Band(mean, mean - 0.1, mean + 0.1), Band(mean.mean(), mean.mean() - 0.05, mean.mean() + 0.05))


def curves(names: list[str], sign: int = 1) -> dict[str, Curve]:
    return {name: curve(1.0 + sign * i / len(names)) for i, name in enumerate(names)}


def bands(names: list[str], layers: int) -> dict[str, Band]:
    means = [np.linspace(0.9, 0.1 + 0.5 * i / len(names), layers) for i in range(len(names))]
    return {name: Band(mean, mean - 0.1, mean + 0.1) for name, mean in zip(names, means, strict=True)}


def occluded(count: int = 3, side: int = 7, **options: object):
    tops, lefts = np.arange(side) * 3, np.arange(side) * 4
    chances = np.linspace(0.1, 0.8, count * side * side).reshape(count, side, side)
    classes = (np.arange(count * side * side).reshape(count, side, side) // 9) % 12
    given = {
        "names": [f"a class of a rather long name, {k}" for k in range(12)],
        "targets": np.arange(count),
        "whole": np.full(count, 0.5),
        **options,
    }
    return occlusion(IMAGES[:count], chances, classes, tops, lefts, 4, **given)


NAMES = ["head", "fire9", "fire8"]
LONG = [f"block{i}/convolution" for i in range(12)]
SAMPLES = {
    "sheet": lambda: sheet(IMAGES, maps(3), TITLES[:2], ["cat", "a dog of a long name", "$1"], [0.1, 0.9, 1.0]),
    "sheet, 18": lambda: sheet(IMAGES[:2], maps(18, 2), TITLES[::2], ["a golden retriever"] * 2, [0.1, 0.9]),
    "sheet, one": lambda: sheet(IMAGES[:1], maps(1, 1)),
    "sheet, column": lambda: sheet(IMAGES[:2], maps(5, 2), TITLES[:1], ["a"] * 2, width=style.COLUMN),
    "sheet, long titles": lambda: sheet(IMAGES[:1], {"w" * 60: SIGNED[:1] ** 2, "v " * 30: SIGNED[:1] ** 2}),
    "occlusion": occluded,
    "occlusion, one": lambda: occluded(1),
    "exchange": lambda: exchange(SHARES, curves(TITLES[:3]), curves(TITLES[:3]), baselines=["gradient"], images=9),
    "exchange, 18": lambda: exchange(SHARES, curves(TITLES), curves(TITLES), baselines=TITLES[3:5], images=9),
    "exchange, one": lambda: exchange(SHARES, curves(["w" * 90]), curves(["w" * 90]), images=2),
    "cascade": lambda: cascade(
        IMAGES[0], {t: np.resize(SIGNED**2, (4, 20, 24)) for t in TITLES[5:8]}, NAMES, [TITLES[5]]
    ),
    "cascade, many": lambda: cascade(IMAGES[0], {TITLES[6]: np.resize(SIGNED**2, (13, 20, 24))}, LONG),
    "similarity": lambda: similarity(NAMES, {m: bands(TITLES[:6], 3) for m in ("a", "b", "c")}, images=9),
    "similarity, many": lambda: similarity(
        LONG * 2, {m: bands(TITLES, 24) for m in ("rank correlation", "SSIM", "HOG")}, baseline="LRP", images=9
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_text_is_readable_inside_the_page_and_apart_from_the_others(name):
    figure = SAMPLES[name]()
    check_legible(figure)
    assert style.COLUMN - 1e-6 <= figure.get_figwidth() <= style.PAGE + 1e-6


# --- sheets


def test_a_sheet_has_a_row_of_all_methods_for_each_picture():
    given = {"IG": SIGNED, "gradient": np.abs(SIGNED) * 7}
    figure = sheet(IMAGES, given, ["IG"], ["cat", "dog", "cow"], [0.25, 1.0, 0.5], percentile=90.0)
    *panels, bar = figure.axes
    assert len(panels) == 3 * 3
    for row in range(3):
        first, *others = panels[3 * row : 3 * row + 3]
        np.testing.assert_array_equal(picture(first), IMAGES[row])
        for axes, values in zip(others, given.values(), strict=True):
            np.testing.assert_allclose(picture(axes), values[row] / np.percentile(np.abs(values[row]), 90), rtol=1e-6)
            assert axes.images[0].get_clim() == (-1, 1)
            assert axes.images[0].cmap.name == style.DIVERGING
        assert axes.get_position().y0 == pytest.approx(first.get_position().y0)
    assert list(bar.get_xticks()) == [-1, 0, 1]
    said = words(figure)
    assert {"IG", "gradient", "cat (25%)", "dog (100%)", "cow (50%)"} <= set(said)
    note = next(text for text in said if "quantile" in text)
    assert "90% quantile of |value|, clipped there" in note
    assert "red speaks for the class, blue against it; maps without a sign use the half from 0" in note


def test_red_is_for_and_blue_against_and_nothing_is_white():
    values = np.zeros((1, 20, 24))
    values[0, 0, 0], values[0, 0, 1] = 1.0, -1.0
    heat = sheet(IMAGES[:1], {"IG": values}, ["IG"], percentile=100.0).axes[1].images[0]
    (red, blue, white), *_ = heat.to_rgba(np.asarray(heat.get_array()))[:, :3, :3]
    assert red[0] > 2 * max(red[1:])
    assert blue[2] > 2 * blue[0]
    assert min(white) > 0.95


def test_what_the_scale_does_not_need_is_not_said():
    all_signed = " ".join(words(sheet(IMAGES, {"IG": SIGNED}, ["IG"], percentile=100.0)))
    assert "share of each map's largest |value|" in all_signed
    assert "clipped" not in all_signed
    assert "without a sign" not in all_signed
    assert "blue" not in " ".join(words(sheet(IMAGES, {"gradient": SIGNED**2})))


@pytest.mark.parametrize("draw", ["sheet", "saliency", "occlusion"])
def test_the_true_class_is_said_where_another_is_explained(draw):
    classes, truths = ["cat", "dog", "cat"], ["cat", "cat", "cat"]
    draws = {
        "sheet": partial(sheet, IMAGES, {"gradient": np.abs(SIGNED)}, (), classes, [0.5, 0.6, 0.7]),
        "saliency": partial(saliency, IMAGES, np.abs(SIGNED), classes, [0.5, 0.6, 0.7]),
        "occlusion": partial(occluded, names=["cat", "dog", *"0123456789"], targets=[0, 1, 0], whole=[0.5, 0.6, 0.7]),
    }
    said = [text.get_text() for axes in draws[draw](truths=truths).axes for text in axes.texts]
    assert said == ["cat (50%)", "dog (60%), is cat", "cat (70%)"]
    with pytest.raises(InputError, match="2 true classes were given; expected 3"):
        draws[draw](truths=truths[:2])


def test_a_map_that_is_zero_everywhere_says_so_in_its_own_place():
    empty = np.abs(SIGNED)
    empty[1] = 0
    figure = sheet(IMAGES, {"deconvnet": empty, "gradient": np.abs(SIGNED)})
    said = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert [i for i, texts in enumerate(said) if "zero" in texts] == [4]  # of rows of a picture and two maps


def test_a_map_of_fewer_pixels_than_the_percentile_leaves_is_relative_to_its_largest():
    values = np.zeros((1, 20, 24))
    values[0, 3, 4] = 50.0
    assert picture(sheet(IMAGES[:1], {"a": values}).axes[1]).max() == 1
    assert picture(saliency(IMAGES[:1], values).axes[1]).max() == 1
    assert picture(sheet(IMAGES[:1], {"a": 0 * values}).axes[1]).max() == 0


@pytest.mark.parametrize("count", [1, 4, 7, 15, 18])
def test_as_many_pictures_are_said_to_fit_as_fit_on_a_page(count):
    titles = TITLES[:count]
    fit = fitting(titles, (20, 24))

    def height(pictures: int) -> float:
        images, values = np.resize(IMAGES, (pictures, 20, 24, 3)), np.resize(SIGNED**2, (pictures, 20, 24))
        figure = sheet(images, dict.fromkeys(titles, values), titles[:1], ["cat"] * pictures)
        return figure.get_figheight()

    assert height(fit) <= HEIGHT + 1e-6
    assert height(fit + 1) > HEIGHT
    assert fitting(titles, (200, 24)) == 1


def test_titles_stay_whole():
    said = words(sheet(IMAGES[:1], maps(18, 1)))
    for title in TITLES:
        assert any(" ".join(reversed(lines)) == title for lines in itertools.pairwise(said)) or title in said


def test_a_long_word_takes_fewer_columns():
    names = [*TITLES[:5], "counterfactualisation"]
    figure = sheet(IMAGES[:1], dict.fromkeys(names, SIGNED[:1] ** 2))
    assert "counterfactualisation" in words(figure)
    assert len({round(axes.get_position().y0, 6) for axes in figure.axes[:-1]}) == 2


# --- occlusion


def test_occlusion_shows_the_patch_the_probability_and_the_class():
    chances, classes = rng.uniform(0.3, 0.6, (1, 4, 5)), np.full((1, 4, 5), 2)
    chances[0, 2, 3] = 0.05
    classes[0, 2, 3], classes[0, 0, :2] = 0, 1
    tops, lefts = np.arange(4) * 5, np.arange(5) * 5
    figure = occlusion(IMAGES[:1], chances, classes, tops, lefts, 4, ["a", "b", "c"], [2], [0.55], value=0.25)
    image, chance, likely, bar = figure.axes
    np.testing.assert_array_equal(picture(image), IMAGES[0])
    (patch,) = image.patches
    assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((14.5, 9.5), 4, 4)
    assert to_rgb(patch.get_facecolor()) == (0.25,) * 3
    colors = picture(chance)
    assert colors.shape == (4, 5, 3)
    darkest = np.unravel_index(colors.sum(-1).argmin(), (4, 5))
    assert darkest == (2, 3)
    np.testing.assert_allclose(chance.images[0].get_extent(), (-1, 24, 19, -1))
    assert bar.get_ylim() == pytest.approx((0, 0.6))
    (mark,) = bar.lines
    assert mark.get_ydata() == pytest.approx([0.55])
    expected = np.where(classes[0][..., None] == 2, to_rgb(style.COLORS[0]), to_rgb(style.COLORS[1]))
    expected[2, 3] = to_rgb(style.COLORS[2])
    np.testing.assert_allclose(picture(likely), expected)
    assert {"c (55%)", "c 85%", "b 10%", "a 5%"} <= set(words(figure))


def test_rare_classes_are_called_other():
    figure = occluded(1)
    said = words(figure)
    shares = [text for text in said if text.endswith("%")]
    assert len(shares) == 6
    assert not any(text.startswith("other") for text in said)
    classes = np.resize(np.arange(12), (1, 7, 7))
    many = occlusion(
        IMAGES[:1],
        np.full((1, 7, 7), 0.5),
        classes,
        np.arange(7) * 3,
        np.arange(7) * 4,
        4,
        [str(k) for k in range(12)],
        [11],
        [0.5],
    )
    said = words(many)
    assert next(text for text in said if text.startswith("other")) == f"other {(classes % 12 > 4).mean() - 4 / 49:.0%}"
    assert "11 8%" in said


# --- trust


def test_curves_and_bands_are_drawn_as_given_and_the_best_comes_first():
    deletion, insertion = (
        {"a": curve(1), "b": curve(9), "random": curve(3)},
        dict.fromkeys(["a", "b", "random"], curve(1)),
    )
    figure = exchange(SHARES, deletion, insertion, baselines=["random"], images=5)
    panels = figure.axes
    assert len(panels) == 2
    for panel, given in zip(panels, (deletion, insertion), strict=True):
        lines = [line for line in panel.lines if len(line.get_xdata()) == len(SHARES)]
        for line, band in zip(lines, given.values(), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), band.probability.mean)
        (drawn,) = panel.collections
        heights, (_, low, high) = drawn.get_paths()[0].vertices[:, 1], given["random"].probability
        assert (heights.min(), heights.max()) == pytest.approx((np.min(low), np.max(high)))
        assert (lines[2].get_linestyle(), lines[2].get_color()) == ("--", "black")
        assert len({line.get_color() for line in lines}) == 3
    said = words(figure)
    assert [text for text in said if text in deletion] == ["b", "random", "a"]
    assert f"{float(deletion['b'].area.mean):.3f} ± 0.050" in said


def test_a_cascade_has_a_row_for_each_method_the_trained_network_first():
    given = {"gradient": np.abs(rng.normal(size=(4, 20, 24))), "IG": rng.normal(size=(4, 20, 24))}
    figure = cascade(IMAGES[1], given, NAMES, ["IG"], percentile=100.0)
    first, *panels, bar = figure.axes
    np.testing.assert_array_equal(picture(first), IMAGES[1])
    assert len(panels) == 8
    for axes, values in zip(panels, np.concatenate(list(given.values())), strict=True):
        np.testing.assert_allclose(picture(axes), values / np.abs(values).max())
        assert axes.images[0].get_clim() == (-1, 1)
    said = words(figure)
    assert [text for text in said if text in ("trained", "network", *NAMES)] == ["network", "trained", *NAMES]
    assert any("blue against it" in text for text in said)
    assert list(bar.get_xticks()) == [-1, 0, 1]
    alone = cascade(IMAGES[1], {"gradient": given["gradient"]}, NAMES)
    assert not any("blue" in text for text in words(alone))
    assert list(alone.axes[-1].get_xticks()) == [0, 0.5, 1]
    assert alone.axes[1].images[0].get_clim() == (0, 1)


def test_similarities_begin_at_one():
    given = {"SSIM": bands(["a", "b"], 3), "HOG": bands(["a", "b"], 3)}
    figure = similarity(NAMES, given, images=5)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["SSIM", "HOG"]
    for panel, measured in zip(figure.axes, given.values(), strict=True):
        assert [label.get_text() for label in panel.get_xticklabels()] == ["none", *NAMES]
        for line, band in zip(panel.lines, measured.values(), strict=False):
            np.testing.assert_array_equal(line.get_ydata(), [1.0, *np.asarray(band.mean)])


# --- what is refused


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: sheet(IMAGES, {}), "expected a method"),
        (lambda: sheet(IMAGES, maps(1), ["RISE"]), "signed ones of them"),
        (lambda: sheet(IMAGES, {"IG": SIGNED}), r"IG reach down to -\d.*or signed=True"),
        (lambda: sheet(IMAGES, {"IG": SIGNED[:2]}), r"IG have shape \(2, 20, 24\); expected \(3, 20, 24\)"),
        (lambda: sheet(IMAGES, maps(1), percentile=101.0), r"\(0, 100\]"),
        (lambda: sheet(IMAGES, {"IG": SIGNED * np.nan}, ["IG"]), "NaN"),
        (lambda: sheet(IMAGES, maps(1), classes=["a"]), "1 classes were given; expected 3"),
        (lambda: occluded(targets=[0, 1]), r"targets \(2,\); expected .* and \(3,\)"),
        (lambda: occluded(targets=[0, 1, 12]), r"targets run from 0 to 12; expected integers in \[0, 12\)"),
        (lambda: occluded(whole=[0.5, 0.5, 1.5]), r"values in \[0, 1\]"),
        (lambda: exchange(SHARES, {}, {}, images=3), "at least one"),
        (lambda: exchange(SHARES, curves(["a"]), curves(["b"]), images=3), "expected the same"),
        (lambda: exchange(SHARES[:5], curves(["a"]), curves(["a"]), images=3), r"'a': arrays .*; expected \(5,\)"),
        (lambda: cascade(IMAGES[0], {"a": SIGNED**2}, NAMES), r"a have shape \(3, 20, 24\); expected \(4, 20, 24\)"),
        (lambda: cascade(IMAGES[0], {"a": SIGNED**2}, ["x"] * 40), "at least 0.3 inches wide"),
        (lambda: similarity([], {"a": bands(["b"], 3)}, images=3), "0 layers"),
        (lambda: similarity(NAMES, {"a": bands(["b"], 3), "c": bands(["d"], 3)}, images=3), "same methods"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
