"""One style for every figure: sizes, fonts and colours for print, and saving that gives the same bytes each time."""

from __future__ import annotations

import functools
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.rcsetup import cycler
from matplotlib.textpath import text_to_path

P = ParamSpec("P")

COLUMN = 3.33
"""Width of one column of a two-column page, in inches."""
PAGE = 6.9
"""Width of the text on that page, in inches."""
POINT = 1 / 72
"""A typographic point, in inches."""

SMALL = 7.0
"""Size of the smallest text, in points."""
MEDIUM = 8.0
"""Size of titles and axis labels, in points."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that people with any colour vision tell apart (Okabe & Ito 2008); their yellow is too pale for lines."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
WRONG = COLORS[1]
"""Colour of mistakes, which a second sign always marks too."""

SEQUENTIAL = "magma"
"""Colour map of magnitudes, zero black."""
DIVERGING = "RdBu_r"
"""Colour map of signed values, zero white."""
SHARES = "Blues"
"""Colour map of shares, zero white."""

RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that every machine draws the same text
    "font.size": MEDIUM,
    "axes.titlesize": MEDIUM,
    "axes.labelsize": MEDIUM,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "text.parse_math": False,  # a class name may hold a dollar sign
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLORS),
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.0,
    "image.interpolation": "nearest",
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}
"""The style as matplotlib parameters, over matplotlib's own defaults."""

_lock = threading.RLock()  # matplotlib's parameters belong to the process, so one thread at a time changes them


@contextmanager
def context() -> Iterator[None]:
    """The style, for as long as the context lasts; the user's own settings neither enter nor change."""
    with _lock, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)  # type: ignore[arg-type]
        yield


class StyledFigure(Figure):
    """A figure that is drawn in the style wherever and whenever that happens: in a notebook, a window or a file."""

    def draw(self, renderer: Any) -> None:
        """Draw in the style."""
        with context():
            super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """What a notebook shows: pixels for print, in the size for the screen."""
        content = io.BytesIO()
        with context():
            self.savefig(content, format="png", dpi=RC["savefig.dpi"])
        width, height = (round(RC["figure.dpi"] * inches) for inches in self.get_size_inches())
        return content.getvalue(), {"width": width, "height": height}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """`draw` in the style, the layout of its figure settled so that it is the same however often it is drawn."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with context():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # lays it out
            figure.set_layout_engine("none")
            return figure

    return drawn


def text_width(text: str, size: float = SMALL) -> float:
    """Width of one line of text in points, with room for the hinting of low resolutions."""
    properties = FontProperties(family=RC["font.family"], size=size)
    return 1.03 * text_to_path.get_text_width_height_descent(text, properties, ismath=False)[0]


def number(value: float, _: object = None, *, digits: int = 3) -> str:
    """So many digits at most, all of a whole number below 10,000, with a proper minus sign; also a tick formatter."""
    whole = abs(value) < 10_000 and float(value).is_integer()
    return (f"{value:.0f}" if whole else f"{value:.{digits}g}").replace("-", "−")  # noqa: RUF001


def shorten(text: str, width: float, size: float = SMALL) -> str:
    """The text, or as much of its beginning as fits before an ellipsis.

    Args:
      text: one line.
      width: room in points.
      size: font size in points.
    """
    if text_width(text, size) <= width:
        return text
    kept = next((n for n in range(len(text) - 1, 0, -1) if text_width(text[:n].rstrip() + "…", size) <= width), 0)
    return text[:kept].rstrip() + "…"


def legend_columns(labels: Iterable[str], width: float) -> int:
    """How many columns of a legend of lines fit.

    Args:
      labels: at least one.
      width: of the figure in inches.
    """
    widest = max(map(text_width, labels)) + 34  # points for a line, and for the room between columns
    return max(1, int((width / POINT - 10) / widest))


def save(figure: Figure, path_stem: str | os.PathLike[str]) -> list[Path]:
    """Write the figure as PDF (vectors, TrueType fonts) and as PNG (300 dots per inch).

    Each file appears whole or not at all, and equal figures give equal bytes: no date is written.

    Args:
      figure: any matplotlib figure.
      path_stem: path without the ending; missing folders are made.

    Returns:
      The paths of the PDF and of the PNG.

    Raises:
      OSError: the files cannot be written.
    """
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {})):
        content = io.BytesIO()
        with context():
            figure.savefig(content, format=suffix[1:], dpi=RC["savefig.dpi"], metadata=metadata)
        path = stem.with_name(stem.name + suffix)
        _write(path, content.getbuffer())
        paths.append(path)
    return paths


def _write(path: Path, content: memoryview) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error  # nobody knows the partial file
    finally:
        partial.unlink(missing_ok=True)
