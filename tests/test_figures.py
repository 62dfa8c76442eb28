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
from matplotlib.figure import Figure
from matplotlib.text import Text

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
@settings(deadline=None, max_examples=4)
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["history", "predictions", "saliency", "confusion"])
def test_saving_twice_gives_the_same_bytes(name, tmp_path):
    figure = SAMPLES[name]()
    first = style.save(figure, tmp_path / "a")
    again = style.save(figure, tmp_path / "b")
    anew = style.save(SAMPLES[name](), tmp_path / "new" / "folder" / "c")
    assert [path.name for path in first] == ["a.pdf", "a.png"]
    for one, two, three in zip(first, again, anew, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()


@pytest.mark.slow
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


def test_figures_import_only_numpy_matplotlib_and_errors():
    allowed = ("__future__", "jaxcnn.errors", "jaxcnn.figures", "matplotlib", "numpy", *sys.stdlib_module_names)
    for path in Path(style.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                assert line.split()[1].startswith(allowed), f"{path.name}: {line}"
