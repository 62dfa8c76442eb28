"""The network layer by layer, with what each layer costs."""

from __future__ import annotations

from typing import Any

from jaxcnn.analysis import summary
from jaxcnn.report.page.opened import Opened
from jaxcnn.report.page.section import Section

ROWS = 60
"""Rows, about, up to which a table is still read; where there would be more, those of one module are summed."""


def gather(opened: Opened) -> dict[str, Any]:
    """The rows of the network's table and their sums."""
    table = opened.costs
    return {
        "table": table,
        "rows": summary.groups(table, ROWS),
        "dearest": max((row.multiply_adds for row in table), default=0) or 1,
        "largest": max((row.parameters for row in table), default=0) or 1,
    }


SECTIONS = {"layers": Section("Layers and costs", 70, gather)}
