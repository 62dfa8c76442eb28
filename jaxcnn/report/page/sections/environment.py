"""On what it was trained: versions, devices, revision."""

from __future__ import annotations

from typing import Any

from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section


def gather(opened: Opened) -> dict[str, Any]:
    """The environments, one for each start of the run at which they had changed."""
    names = dict.fromkeys(name for environment in opened.environments for name in environment)
    return {"rows": {name: [_text(known.get(name)) for known in opened.environments] for name in names}}


def _text(value: Any) -> str:
    match value:
        case None:
            return "not known"
        case {"revision": revision, "dirty": dirty}:
            return f"{revision[:12]}{', with changes' if dirty else ''}"
        case list():
            kinds = {kind: value.count(kind) for kind in value}
            return ", ".join(f"{count} × {kind}" for kind, count in kinds.items())  # noqa: RUF001
    return str(value)


SECTIONS = {"environment": Section("Environment", 90, gather)}
