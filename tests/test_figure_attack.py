"""The figures of attacks show the numbers that they were given, and every text can be read."""

from __future__ import annotations

import numpy as np
import pytest
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import attack, style
from jaxcnn.figures.attack import Under

rng = np.random.default_rng(0)
NAMES = ["cat", "a dog with a very long name indeed", "$1 note", "cup", "7"]
CHANGE = 8 / 255 * np.sign(rng.normal(size=(5, 12, 16, 3)))
COLOR = 0.1 + 0.8 * rng.random((5, 12, 16, 3))
BEFORE, AFTER = [0.5, 0.99, 1.0, 0.12, 0.3], [0.9, 0.8, 0.7, 0.6, 0.951]
SUCCESS = np.array([True, False, True, True, False])


def examples(images=COLOR, adversarial=COLOR + CHANGE, names=NAMES, success=SUCCESS, norm="linf", **fields):
    return attack.examples(images, adversarial, names, BEFORE, names[::-1], AFTER, success, norm=norm, **fields)


def test_each_picture_stands_beside_its_change_and_what_came_of_it():
    figure = examples()
    check_legible(figure)
    assert figure.get_figwidth() == style.PAGE
    assert len(figure.axes) == 15
    for i in range(5):
        original, change, result = figure.axes[3 * i : 3 * i + 3]
        np.testing.assert_allclose(picture(original), COLOR[i])
        np.testing.assert_allclose(picture(change), 0.5 + 10 * CHANGE[i])
        np.testing.assert_allclose(picture(result), (COLOR + CHANGE)[i])
    said = words(figure)
    assert said.count("× 10, ≤ 8/255") == 5  # noqa: RUF001
    assert "cat (50%)" in said
    assert "✗ 7 (90%)" in said
    assert "cup (80%)" in said  # the goal was missed
    assert any(text.startswith("a dog") and text.endswith("…\n99%") for text in said)


def test_grey_pictures_in_one_column():
    grey = COLOR[..., :1]
    figure = examples(grey, np.clip(grey + 0.3 * CHANGE[..., :1], 0, 1), norm="l2", width=style.COLUMN)
    check_legible(figure)
    size = np.sqrt(((0.3 * CHANGE[0, ..., :1]) ** 2).sum())
    assert f"× 50, L2 {size:.2g}" in words(figure)  # noqa: RUF001


def test_nothing_changed_is_grey():
    figure = attack.examples(COLOR[:1], COLOR[:1], ["cat"], [0.5], ["cat"], [0.5], np.array([False]), norm="l2")
    check_legible(figure)
    assert (picture(figure.axes[1]) == 0.5).all()
    assert "× 1, L2 0" in words(figure)  # noqa: RUF001


SHARES = np.array([0.97, 0.8, 0.5, 0.1])
BOUNDS = np.stack([SHARES - 0.03, SHARES + 0.03], 1)
SIGN = Under(np.array([0, 2, 4, 8]) / 255, SHARES, BOUNDS, "linf")
NEAREST = Under(np.linspace(0, 2, 4), SHARES, BOUNDS, "l2", marked=False)
IMAGES = "1,000 images of the test split of fashion_mnist"


def test_each_attack_has_a_line_in_the_panel_of_its_norm():
    figure = attack.curves({"FGSM": SIGN, "PGD": SIGN, "DeepFool": NEAREST}, images=IMAGES)
    check_legible(figure)
    cube, ball = figure.axes
    assert [line.get_label() for line in cube.lines] == ["FGSM", "PGD"]
    (line,) = ball.lines
    np.testing.assert_allclose(cube.lines[0].get_data(), ([0, 2, 4, 8], SHARES))
    np.testing.assert_allclose(line.get_data(), (NEAREST.epsilons, SHARES))
    assert (cube.lines[0].get_marker(), line.get_marker()) == ("o", "None")
    assert cube.get_ylabel() == "accuracy (%)"
    shade = cube.collections[0].get_paths()[0].get_extents()
    assert (shade.y0, shade.y1) == pytest.approx((BOUNDS.min(), BOUNDS.max()))
    assert {"FGSM", "PGD", "DeepFool"} <= set(words(figure))


def test_one_norm_takes_one_column():
    figure = attack.curves({"FGSM": SIGN}, images=IMAGES, quantity="taken for the target")
    check_legible(figure)
    assert figure.get_figwidth() == style.COLUMN
    assert figure.axes[0].get_ylabel() == "taken for the target (%)"


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: examples(adversarial=COLOR[:3]), "adversarial images have shape"),
        (lambda: examples(success=np.ones(5)), "expected booleans of shape"),
        (lambda: examples(names=NAMES[:2]), "2 classes were given; expected 5"),
        (lambda: attack.curves({}, images=IMAGES), "no attack was given"),
        (lambda: attack.curves({"a": SIGN._replace(shares=[1.0])}, images=IMAGES), "a has epsilons"),
        (lambda: attack.curves({"a": SIGN._replace(epsilons=[3, 2, 1, 0])}, images=IMAGES), "rising finite numbers"),
        (lambda: attack.curves({"a": SIGN._replace(shares=1.1 * SHARES)}, images=IMAGES), "leave"),
    ],
)
def test_mistakes(draw, says):
    with pytest.raises(InputError, match=says):
        draw()
