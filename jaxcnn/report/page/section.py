"""A section of a run's page: one file that gathers what it shows, and the template beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxcnn import registry
from jaxcnn.report.page.opened import Opened


@dataclass(frozen=True)
class Section:
    """What a module of `jaxcnn.report.page.sections` registers in its `SECTIONS`, under the name of its template.

    Attributes:
      title: the heading.
      position: where on the page; smaller comes first.
      gather: what the template NAME.html shows of a run; None leaves the section out, and of an `InputError` the page
        says that the section is missing, and why.
    """

    title: str
    position: int
    gather: Callable[[Opened], dict[str, Any] | None]


def sections() -> dict[str, Section]:
    """All sections by name, in the order of the page."""
    found: dict[str, Section] = registry.discover("jaxcnn.report.page.sections", "SECTIONS")
    return dict(sorted(found.items(), key=lambda item: item[1].position))
