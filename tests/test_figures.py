"""Figures: what they show equals what they were given, every text can be read, and saving gives the same bytes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.confusion import confusion
from jaxcnn.figures.curves import Curve, compare, history
from jaxcnn.figures.filters import kernels
from jaxcnn.figures.predictions import predictions
from jaxcnn.figures.saliency import saliency

rng = np.random.default_rng(0)
COLOR = rng.random((5, 12, 16, 3), np.float32)
GREY = rng.random((5, 8, 8, 1), np.float32)
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.9, 0.1, 0.0], [0.3, 0.4, 0.3]])
TARGETS = np.array([0, 2, 2, 1, 1])  # pictures 1 and 3 are mistaken
NAMES = ["cat", "a dog with a very long name indeed", "$1 note"]
COUNTS = np.array([[90, 10, 0], [5, 15, 0], [0, 0, 0]])
STEPS = np.arange(0, 64000, 400)
TRAINING = Curve(STEPS, 2.3 * np.exp(-STEPS / 9000) + 0.02, 1 - 0.9 * np.exp(-STEPS / 9000))
EVALUATION = Curve(STEPS[::10], np.asarray(TRAINING.loss)[::10] + 0.3, np.asarray(TRAINING.accuracy)[::10] * 0.9)

SAMPLES: dict[str, Callable[[], Figure]] = {
    "history": lambda: history(TRAINING, EVALUATION),
    "history, log": lambda: history(TRAINING, measure="error", log_loss=True),
    "history, many decades": lambda: history(Curve([0, 1, 2], [1e3, 1e-2, 1e-6], [0, 0.5, 1]), log_loss=True),
    "history, one step": lambda: history(Curve([0], [2.3], [0.1])),
    "history, diverged": lambda: history(Curve([0, 1, 2], [2.3, np.nan, np.nan], [0.1, np.nan, np.nan])),
    "compare": lambda: compare({"a": TRAINING}, {"a": EVALUATION, "b": EVALUATION}, split="test"),
    "compare, many": lambda: compare({}, {f"run {i} " + "x" * 4 * i: EVALUATION for i in range(9)}),
    "kernels, colour": lambda: kernels(rng.normal(size=(7, 7, 3, 60))),
    "kernels, grey": lambda: kernels(1e-3 * rng.normal(size=(5, 5, 1, 6))),
    "kernels, 16 channels": lambda: kernels(rng.normal(size=(3, 3, 16, 20)), width=style.PAGE),
    "kernels, zero": lambda: kernels(np.zeros((5, 5, 1, 1))),
    "predictions": lambda: predictions(COLOR, PROBABILITIES, TARGETS, NAMES),
    "predictions, grey": lambda: predictions(GREY, PROBABILITIES, TARGETS, ["0", "1", "2"]),
    "predictions, cramped": lambda: predictions(GREY, PROBABILITIES, TARGETS, NAMES, columns=5),
    "confusion": lambda: confusion(COUNTS, NAMES),
    "confusion, 10": lambda: confusion(rng.integers(0, 1200, (10, 10))),
    "confusion, 100": lambda: confusion(rng.integers(0, 100, (100, 100)), [f"class number {i}" for i in range(100)]),
    "saliency": lambda: saliency(COLOR, COLOR[..., 0], [NAMES[1] * 3] * 5, PROBABILITIES[:, 0], width=style.PAGE),
    "saliency, grey": lambda: saliency(GREY, GREY[..., 0], scale="all"),
    "saliency, signed": lambda: saliency(COLOR, COLOR[..., 0] - 0.5, ["cat"] * 5, signed=True),
}


def drawn(figure: Figure) -> list[Text]:
    """The texts that the figure draws, their extents up to date."""
    texts: list[Text] = []
    draw = Text.draw

    def record(self: Text, renderer: object) -> None:
        if self.get_visible() and self.get_text():
            texts.append(self)
        draw(self, renderer)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        FigureCanvasAgg(figure).draw()
    return texts


def check_legible(figure: Figure) -> None:
    texts = drawn(figure)
    assert texts
    boxes = [text.get_window_extent() for text in texts]
    page = figure.bbox
    for text, box in zip(texts, boxes, strict=True):
        assert text.get_fontsize() >= 7, text
        assert box.x0 >= page.x0 - 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y1 <= page.y1 + 1, text
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        # boxes hold the line's full height, so neighbours may share a pixel or two of it
        assert across <= 1 or along <= 2.5, (one, other)


def picture(axes: Axes, index: int = 0) -> np.ndarray:
    return np.asarray(axes.images[index].get_array())


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in drawn(figure)]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_text_is_readable_inside_the_page_and_apart_from_the_others(name):
    figure = SAMPLES[name]()
    check_legible(figure)
    assert style.COLUMN - 1e-6 <= figure.get_figwidth() <= style.PAGE + 1e-6


def test_legibility_is_really_checked():
    crowded = Figure()
    crowded.text(0.5, 0.5, "one")
    crowded.text(0.5, 0.5, "two")
    clipped = Figure()
    clipped.text(0.99, 0.5, "clipped")
    for figure in (crowded, clipped):
        with pytest.raises(AssertionError):
            check_legible(figure)


@given(classes=st.integers(2, 100), largest=st.integers(1, 10**6), letters=st.integers(1, 40))
@settings(deadline=None, max_examples=8)
def test_a_confusion_matrix_is_legible_for_any_number_of_classes(classes, largest, letters):
    counts = np.full((classes, classes), largest)
    check_legible(confusion(counts, ["w" * letters] * classes))


# --- style


def test_drawing_and_saving_leave_matplotlibs_settings_alone(tmp_path):
    with mpl.rc_context({"font.size": 30.0, "lines.linewidth": 9.0, "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        figure = SAMPLES["history"]()
        style.save(figure, tmp_path / "figure")
        assert dict(mpl.rcParams) == before
    style.save(SAMPLES["history"](), tmp_path / "plain")
    assert (tmp_path / "figure.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_a_figure_drawn_outside_the_style_keeps_it():
    figure = SAMPLES["history"]()
    with mpl.rc_context({"font.size": 30.0, "xtick.labelsize": 30.0}):
        assert {text.get_fontsize() for text in drawn(figure)} <= {style.SMALL, style.MEDIUM}


def test_threads_draw_the_same_figures():
    def render(name: str) -> bytes:
        canvas = FigureCanvasAgg(SAMPLES_FIXED[name]())
        canvas.draw()
        return bytes(canvas.buffer_rgba())

    names = list(SAMPLES_FIXED) * 2
    alone = [render(name) for name in names]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(render, names)) == alone


SAMPLES_FIXED = {name: SAMPLES[name] for name in ("history", "predictions", "confusion", "saliency")}


@pytest.mark.parametrize("name", ["history", "predictions", "saliency", "confusion"])
def test_saving_twice_gives_the_same_bytes(name, tmp_path):
    figure = SAMPLES[name]()
    first = style.save(figure, tmp_path / "a")
    again = style.save(figure, tmp_path / "b")
    anew = style.save(SAMPLES[name](), tmp_path / "new" / "folder" / "c")
    assert [path.name for path in first] == ["a.pdf", "a.png"]
    for one, two, three in zip(first, again, anew, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_another_process_saves_the_same_bytes_and_needs_no_pyplot(tmp_path):
    code = (
        "import sys; from jaxcnn.figures import style; from jaxcnn.figures.confusion import confusion;"
        "style.save(confusion([[3, 1], [0, 2]], ['ab', 'xy']), sys.argv[1]);"
        "loaded = {'matplotlib.pyplot', 'jax', 'flax'} & set(sys.modules); assert not loaded, loaded"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()


def test_the_pdf_embeds_truetype_fonts_and_no_date(tmp_path):
    pdf, png = style.save(SAMPLES["confusion"](), tmp_path / "figure-0.5")
    content = pdf.read_bytes()
    assert pdf.name == "figure-0.5.pdf"
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"Date" not in content
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    figure = SAMPLES["confusion"]()
    style.save(figure, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        style.save(SAMPLES["history"](), tmp_path / "a")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_png_has_300_dots_per_inch(tmp_path):
    from PIL import Image

    figure = SAMPLES["history"]()
    _, png = style.save(figure, tmp_path / "a")
    with Image.open(png) as image:
        assert image.size == tuple((figure.get_size_inches() * 300).astype(int))


@given(text=st.text(st.characters(codec="latin-1", categories=["L", "N"]), min_size=1), width=st.floats(10, 200))
@settings(deadline=None, max_examples=30)
def test_shortened_text_fits_and_is_a_beginning(text, width):
    short = style.shorten(text, width)
    assert style.text_width(short) <= width
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


# --- curves


def test_history_plots_what_it_was_given():
    figure = history(TRAINING, EVALUATION, split="test")
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("loss", "accuracy (%)", "iteration")
    for panel, field in ((upper, "loss"), (lower, "accuracy")):
        for line, curve in zip(panel.lines, (TRAINING, EVALUATION), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), curve.steps)
            np.testing.assert_array_equal(line.get_ydata(), getattr(curve, field))
    points, marked = upper.lines
    assert points.get_linestyle() == "None"
    assert points.get_alpha() < 1
    assert marked.get_linestyle() == "-"
    assert marked.get_marker() == "o"
    assert {"training", "test"} <= set(words(figure))
    assert "validation" not in words(figure)
    assert upper.get_ylim()[0] == 0
    assert 0 <= lower.get_ylim()[0] < lower.get_ylim()[1] <= 1.01


def test_error_is_one_minus_accuracy_from_zero():
    figure = history(TRAINING, measure="error")
    lower = figure.axes[1]
    np.testing.assert_allclose(lower.lines[0].get_ydata(), 1 - np.asarray(TRAINING.accuracy))
    assert lower.get_ylabel() == "error (%)"
    assert lower.get_ylim()[0] == 0


def test_a_logarithmic_loss_says_so_and_labels_several_ticks():
    upper = history(TRAINING, log_loss=True).axes[0]
    assert upper.get_yscale() == "log"
    assert upper.get_ylabel() == "loss (log scale)"
    low, high = upper.get_ylim()
    assert sum(low <= tick <= high for tick in upper.get_yticks()) >= 3


def test_runs_are_told_apart_by_name_color_and_marker():
    names = [f"run {i}" for i in range(10)]
    figure = compare({names[0]: TRAINING}, dict.fromkeys(names, EVALUATION), split="test")
    lines = [line for line in figure.axes[0].lines if line.get_label() in names]
    assert [line.get_label() for line in lines] == names
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 10
    assert set(names) | {"thin: training", "marked: test"} <= set(words(figure))
    thin = figure.axes[0].lines[0]
    assert thin.get_linewidth() < lines[0].get_linewidth()
    assert thin.get_color() == lines[0].get_color()


# --- filters


def test_colour_kernels_share_one_scale_with_zero_grey():
    weights = rng.normal(size=(3, 5, 3, 8))
    weights[0, 0, 0, 0] = -4.0
    weights[1, 1, 1, 3] = 0.0
    figure = kernels(weights)
    mosaic = picture(figure.axes[0])
    assert mosaic.shape == (2 * 3, 4 * 5, 3)
    for i in range(8):
        tile = mosaic[i // 4 * 3 :, i % 4 * 5 :][:3, :5]
        np.testing.assert_allclose(tile, 0.5 + weights[..., i] / 8)
    assert mosaic[1, 3 * 5 + 1, 1] == 0.5
    assert words(figure) == ["8 kernels 3×5×3; weight 0 is grey, ±4 full colour"]  # noqa: RUF001


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_other_kernels_are_diverging_maps_with_zero_in_the_middle(channels):
    weights = rng.normal(size=(4, 3, channels, 6))
    figure = kernels(weights)
    axes, bar = figure.axes
    image = axes.images[0]
    assert image.get_clim() == (-np.abs(weights).max(), np.abs(weights).max())
    assert min(image.cmap(0.5)) > 0.95
    mosaic = picture(axes)
    columns = 3 if channels == 1 else 6
    for channel, i in np.ndindex(channels, 6):
        place = channel * 6 + i
        tile = mosaic[place // columns * 4 :, place % columns * 3 :][:4, :3]
        np.testing.assert_array_equal(tile, weights[:, :, channel, i])
    assert bar.get_xlabel() == "weight"
    assert bar.get_xticks()[1] == 0


# --- predictions


@pytest.mark.parametrize(("first", "order"), [(False, [0, 1, 2, 3, 4]), (True, [1, 3, 0, 2, 4])])
def test_mistakes_are_marked_where_they_are(first, order):
    figure = predictions(COLOR, PROBABILITIES, TARGETS, ["a", "b", "c"], columns=3, mistakes_first=first)
    assert len(figure.axes) == 5
    for panel, i in zip(figure.axes, order, strict=True):
        np.testing.assert_array_equal(picture(panel), COLOR[i])
        k, wrong = PROBABILITIES[i].argmax(), i in (1, 3)
        answer, true = (text.get_text() for text in panel.texts)
        assert answer == f"{'✗' if wrong else '✓'} {'abc'[k]} ({PROBABILITIES[i, k]:.0%})"
        assert true == f"true: {'abc'[TARGETS[i]]}"
        assert [type(patch) for patch in panel.patches] == ([Rectangle] if wrong else [])


def test_uint8_and_float_pictures_look_the_same():
    bytes_ = (GREY * 255).astype(np.uint8)
    figure = predictions(bytes_, PROBABILITIES, TARGETS, NAMES)
    np.testing.assert_allclose(picture(figure.axes[0]), bytes_[0, ..., 0] / 255, rtol=1e-6)
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert figure.axes[0].images[0].cmap.name == "gray"


def test_names_stay_whole_where_columns_are_free():
    whole = predictions(COLOR, PROBABILITIES, TARGETS, ["golden retriever", "b", "c"])
    assert "✓ golden retriever (70%)" in words(whole)
    cramped = predictions(COLOR, PROBABILITIES, TARGETS, ["golden retriever", "b", "c"], columns=5)
    assert any(word.endswith("… (70%)") for word in words(cramped))


# --- confusion


def test_colours_are_row_shares_and_numbers_are_counts():
    figure = confusion(COUNTS, ["a", "b", "c"])
    axes = figure.axes[0]
    np.testing.assert_allclose(picture(axes), [[0.9, 0.1, 0], [0.25, 0.75, 0], [0, 0, 0]])
    assert axes.images[0].get_clim() == (0, 1)
    written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert written == {place: str(count) for place, count in np.ndenumerate(COUNTS)}
    assert axes.get_title(loc="left") == "Accuracy 87.5% of 120 examples"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_many_classes_thin_their_ticks_and_drop_the_numbers():
    names = [f"class {i}" for i in range(100)]
    axes = confusion(np.eye(100, dtype=int) * 50, names).axes[0]
    ticks = axes.get_yticks()
    assert 10 <= len(ticks) < 100
    assert [label.get_text() for label in axes.get_yticklabels()] == [names[int(tick)] for tick in ticks]
    assert not axes.texts


# --- saliency


def test_each_map_is_shown_relative_to_its_own_percentile():
    maps = np.stack([GREY[0, ..., 0], 100 * GREY[1, ..., 0]])
    figure = saliency(GREY[:2], maps, ["cat", "dog"], [0.25, 1.0], percentile=90.0, quantity="gradient")
    assert len(figure.axes) == 2 * 3 + 1
    for i in range(2):
        image, heat, overlay = figure.axes[3 * i : 3 * i + 3]
        np.testing.assert_array_equal(picture(image), GREY[i, ..., 0])
        np.testing.assert_allclose(picture(heat), maps[i] / np.percentile(maps[i], 90))
        assert heat.images[0].get_clim() == overlay.images[1].get_clim() == (0, 1)
        alpha = overlay.images[1].get_alpha()
        assert alpha.argmin() == maps[i].argmin()
        assert alpha.max() == pytest.approx(0.85)
    said = words(figure)
    assert {"cat (25%)", "dog (100%)", "image", "map", "overlay"} <= set(said)
    assert "gradient\nrelative to each map's 90% quantile, clipped there" in said


def test_all_maps_can_share_one_scale_in_their_own_unit():
    maps = np.stack([GREY[0, ..., 0], 100 * GREY[1, ..., 0]])
    figure = saliency(GREY[:2], maps, scale="all", percentile=100.0)
    np.testing.assert_array_equal(picture(figure.axes[1]), maps[0])
    assert figure.axes[1].images[0].get_clim() == (0, maps.max())
    assert "saliency\nup to the largest magnitude of all maps" in words(figure)


def test_signed_maps_diverge_from_zero():
    signed = COLOR[..., 0] - 0.2
    heat = saliency(COLOR, signed, signed=True).axes[1].images[0]
    assert heat.get_clim() == (-1, 1)
    assert heat.cmap.name == style.DIVERGING
    assert saliency(COLOR, COLOR[..., 0]).axes[1].images[0].cmap.name == style.SEQUENTIAL


def test_a_map_of_zeros_is_black():
    heat = saliency(GREY, np.zeros((5, 8, 8))).axes[1].images[0]
    assert to_hex(heat.to_rgba(np.asarray(heat.get_array()))[0, 0]) == "#000004"


# --- what is refused


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: history(Curve([0, 1], [1.0], [0.5])), r"shapes \(2,\), \(1,\) and \(1,\)"),
        (lambda: history(Curve([], [], [])), "at least 1"),
        (lambda: history(Curve([0], [1.0], [50.0])), "accuracy runs from 50 to 50"),
        (lambda: compare({}, {}), "no run"),
        (lambda: kernels(np.zeros((3, 3, 3))), r"shape \(3, 3, 3\); expected \[kh, kw, c, n\]"),
        (lambda: kernels(np.full((3, 3, 3, 1), np.nan)), "NaN"),
        (lambda: predictions(COLOR[0], PROBABILITIES, TARGETS, NAMES), r"\[N, H, W, C\]"),
        (lambda: predictions(COLOR * 255, PROBABILITIES, TARGETS, NAMES), r"to 254\.\d+; expected floats in \[0, 1\]"),
        (lambda: predictions(COLOR.astype(int), PROBABILITIES, TARGETS, NAMES), "type int64"),
        (lambda: predictions(COLOR, PROBABILITIES[:, :2], TARGETS, NAMES), r"shape \(5, 2\); expected \(5, 3\)"),
        (lambda: predictions(COLOR, PROBABILITIES * 9, TARGETS, NAMES), r"to 8\.1; expected values in \[0, 1\]"),
        (lambda: predictions(COLOR, PROBABILITIES, TARGETS + 1, NAMES), r"from 1 to 3; expected classes in \[0, 3\)"),
        (lambda: predictions(COLOR, PROBABILITIES, TARGETS[:2], NAMES), r"shape \(2,\); expected integers"),
        (lambda: predictions(COLOR, PROBABILITIES, TARGETS, NAMES, columns=0), "columns is 0"),
        (lambda: confusion(np.zeros((2, 3), int)), r"shape \(2, 3\)"),
        (lambda: confusion(np.zeros((2, 2), int)), "all 0"),
        (lambda: confusion(np.eye(2)), "float64"),
        (lambda: confusion(-np.eye(2, dtype=int)), "from -1"),
        (lambda: confusion(COUNTS, ["a"]), "1 class names were given; expected 3"),
        (lambda: saliency(COLOR, COLOR), r"maps have shape \(5, 12, 16, 3\); expected \(5, 12, 16\)"),
        (lambda: saliency(COLOR, -COLOR[..., 0]), "signed=True"),
        (lambda: saliency(COLOR, COLOR[..., 0] * np.inf), "NaN or infinite"),
        (lambda: saliency(COLOR, COLOR[..., 0], percentile=0.0), r"\(0, 100\]"),
        (lambda: saliency(COLOR, COLOR[..., 0], ["a"]), "1 classes were given; expected 5"),
        (lambda: saliency(COLOR, COLOR[..., 0], None, [2.0] * 5), r"values in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(draw, message):
    with pytest.raises(InputError, match=message):
        draw()


def test_figures_import_only_numpy_matplotlib_and_errors():
    allowed = ("__future__", "jaxcnn.errors", "jaxcnn.figures", "matplotlib", "numpy", *sys.stdlib_module_names)
    for path in Path(style.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                assert line.split()[1].startswith(allowed), f"{path.name}: {line}"
