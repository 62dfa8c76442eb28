"""What the reference adds to docstrings: their formulas are set apart as they are written, line by line."""

from __future__ import annotations

import html
import re
from typing import Any

import griffe

_INDICES = r"(?:\[[^]\n]*\]|\([^)\n]*\)|\{[^}\n]*\})"
_SIDE = rf"[A-Za-z][\w'/]*(?:{_INDICES}[\w'/]*)*"
EQUATION = re.compile(rf"(?:\w+: +)?{_SIDE}(?:, {_SIDE})? (?:=|<-|~) ")
"""How a line begins that is one: what it says something of, perhaps after a word and a colon, and the sign."""


class Formulas(griffe.Extension):
    """Shows paragraphs of equations as code: Markdown would join their lines, and take <a, b> for a tag."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Changes the docstring before it is divided into its sections."""
        if obj.docstring is not None:
            obj.docstring.value = set_apart(obj.docstring.value)


def set_apart(docstring: str) -> str:
    """The docstring with a block of HTML in the place of each paragraph that begins with an equation."""
    paragraphs = re.split(r"\n\n", docstring)
    return "\n\n".join(_block(text) if EQUATION.match(text) else text for text in paragraphs)


def _block(paragraph: str) -> str:
    lines: list[str] = []
    for line in paragraph.splitlines():
        if EQUATION.match(line) or not lines:
            lines.append(line)
        else:  # of the text that goes on
            lines[-1] += f" {line.strip()}"
    shown = html.escape("\n".join(lines), quote=False).replace("`", "")
    return f'<p class="formula"><code>{shown}</code></p>'
