"""What was trained, and the command that does it again."""

from __future__ import annotations

from typing import Any

from jaxcnn.report.page import repetition
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section


def gather(opened: Opened) -> dict[str, Any]:
    """Every setting, those that differ from the default marked, and the command."""
    return {
        "settings": repetition.settings(opened.experiment),
        "command": repetition.command(opened.experiment, opened.title),
        "directory": str(opened.directory.resolve()),
    }


SECTIONS = {"settings": Section("Settings and command", 80, gather)}
