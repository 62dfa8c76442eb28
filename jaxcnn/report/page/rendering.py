"""Parts of a page to HTML: the templates, how numbers are written, and the script that draws the charts."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup, escape

from jaxcnn.figures import style

MARK = '<meta name="generator" content="jaxcnn report">'
"""What every page has near its beginning, and by which it is known again."""

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """A part of the page with a heading of its own.

    Attributes:
      name: to link to.
      title: the heading.
      template: a file in the folder of templates, or the section's.
      context: what the template is given.
    """

    name: str
    title: str
    template: str
    context: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
      title: the heading.
      kind: a word or two above it.
      about: a sentence below it.
      parts: in their order.
      left_out: titles of parts that are missing, by the sentence that says why.
    """

    title: str
    kind: str
    about: str
    parts: list[Part]
    left_out: dict[str, list[str]] = field(default_factory=dict)


def html(page: Page) -> str:
    """The page, with everything that it needs inside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_FOLDER / "templates", _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": lambda number: f"{number:,}",
        "short": short,
        "number": style.number,
        "probability": probability,
        "duration": duration,
        "times": lambda sizes: "×".join(map(str, sizes or ())),  # noqa: RUF001
        "words": lambda name: name.replace("_", " "),
        "listed": listed,
        "unbroken": unbroken,
    }
    return environment.get_template("page.html").render(
        page=page,
        mark=Markup(MARK),
        bodies={part.name: Markup(environment.get_template(part.template).render(part.context)) for part in page.parts},
        style=Markup((_FOLDER / "templates" / "page.css").read_text(encoding="utf-8")),
        script=Markup((_FOLDER / "templates" / "page.js").read_text(encoding="utf-8")),
        library=Markup(_library()),
    )


_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in the version that Altair's specifications are for."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return vl_convert.javascript_bundle(_SNIPPET, version).replace("</script", "<\\/script")


def percent(share: int | float, digits: int = 1) -> str:
    """A share in percent, with a space that does not break."""
    return f"{share:.{digits}%}".replace("%", "\u00a0%")


def short(number: int | float) -> str:
    """Three digits and a unit: 61.7 k, 4.09 G."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return f"{number / size:.3g}\u00a0{unit}"
    return f"{number:.3g}"


def probability(share: float) -> str:
    """Two digits; of one too small for a float, that it is small and not that it is 0."""
    return f"{share:.2g}" if share else "< 1e-300"


def duration(seconds: int | float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}\u00a0h {whole % 3600 // 60}\u00a0min"
    if whole >= 60:
        return f"{whole // 60}\u00a0min {whole % 60}\u00a0s"
    return f"{seconds:.2g}\u00a0s" if seconds < 10 else f"{whole}\u00a0s"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


def unbroken(text: str) -> Markup:
    """Lines for a shell, no flag of which is broken at its hyphens."""
    return Markup(_FLAG.sub(r'<span class="flag">\g<0></span>', str(escape(text))))
