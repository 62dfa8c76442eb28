"""The table of a network as text, CSV, Markdown and JSON."""

from __future__ import annotations

import csv as csv_writer
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from jaxcnn.analysis.printed_tables import Claim, claims, note
from jaxcnn.analysis.summary import Layer, Table

_HEADER = (
    *("layer", "kind", "kernel", "stride", "output", "activations", "activation bytes"),
    *("weights", "biases", "multiply-adds", "receptive field"),
)
_LEFT = 2  # columns of words; the rest are numbers


def text(table: Table) -> str:
    """Aligned columns, the totals, and what has been printed elsewhere about this network beside the truth."""
    title = f"{table.model}, input {_times(table.input)}"
    parts = [title, _aligned([_HEADER, *map(_cells, table), _sums(table)]), *_memory(table)]
    if printed := claims(table):
        parts += ["", "Printed about this network, and true:", _aligned(_comparison(table, printed)), note(table.model)]
    return "\n".join(parts).rstrip()


def markdown(table: Table) -> str:
    """The text's tables in Markdown."""
    parts = [f"**{table.model}**, input {_times(table.input)}", ""]
    parts += [_piped([_HEADER, *map(_cells, table), _sums(table)]), ""]
    parts += [f"- {line}" for line in _memory(table)]
    if printed := claims(table):
        parts += ["", "Printed about this network, and true:", "", _piped(_comparison(table, printed))]
        parts += ["", note(table.model)]
    return "\n".join(parts).rstrip()


def csv(table: Table) -> str:
    """The rows alone, a line each under a line of names; sizes are joined by x."""
    lines = io.StringIO()
    rows = [_row(row) for row in table]
    writer = csv_writer.DictWriter(lines, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "x".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return lines.getvalue().rstrip()


def json(table: Table) -> dict[str, Any]:
    """The table as JSON values; what a layer does not have is null."""
    return {
        "model": table.model,
        "input": list(table.input),
        "batch_size": table.batch_size,
        "layers": [_row(row) for row in table],
        "totals": dataclasses.asdict(table.totals),
        "printed": [dataclasses.asdict(claim) for claim in claims(table)],
    }


def _row(row: Layer) -> dict[str, Any]:
    values = dataclasses.asdict(row) | {"parameters": row.parameters}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _times(sizes: Sequence[int] | None) -> str:
    return "x".join(map(str, sizes or ()))


def _cells(row: Layer) -> tuple[str, ...]:
    kernel = _times(row.kernel) + (f", {row.groups} groups" if (row.groups or 1) > 1 else "")
    counts = (row.weights, row.biases, row.multiply_adds)
    return (
        row.name,
        row.kind.replace("_", " "),
        kernel,
        _times(row.stride),
        _times(row.output_shape),
        *(f"{n:,}" if row.output_shape else "" for n in (row.activation_values, row.activation_bytes)),
        *(f"{n:,}" if n else "" for n in counts),
        _times(row.receptive_field) + ("*" if row.whole_image else ""),
    )


def _sums(table: Table) -> tuple[str, ...]:
    totals = table.totals
    counts = (
        *(totals.activation_values, totals.activation_bytes),
        *(totals.weights, totals.biases, totals.multiply_adds),
    )
    return ("total", "", "", "", "", *(f"{n:,}" for n in counts), "")


def _memory(table: Table) -> list[str]:
    totals = table.totals
    images = "1 image" if table.batch_size == 1 else f"{table.batch_size} images"
    lines = {
        "parameters": f"{totals.parameters:,}, {_bytes(totals.parameter_bytes)}",
        f"forward, {images}": f"{_bytes(totals.forward_bytes)} of activations and parameters",
        f"forward and backward, {images}": f"{_bytes(totals.forward_backward_bytes)} with a gradient for each",
        "optimiser state": _bytes(totals.optimizer_bytes),
        "receptive field with a star": "every output sees the whole image",
    }
    return [f"{name}: {value}" for name, value in lines.items()]


def _bytes(count: int) -> str:
    return f"{count:,} bytes ({count / 1e6:,.1f} MB)"


def _comparison(table: Table, printed: Sequence[Claim]) -> list[tuple[str, ...]]:
    differs = any(claim.network != claim.true for claim in printed)
    header = ("line", "quantity", "printed", "true", *([table.model] if differs else []), "printed/true", "verdict")
    lines = []
    for claim in printed:
        own = [f"{claim.network:,}"] if differs else []
        ratio = f"{claim.value / claim.true:.3f}"
        lines.append((claim.row, claim.quantity, claim.printed, f"{claim.true:,}", *own, ratio, claim.verdict))
    return [header, *lines]


def _piped(rows: Sequence[Sequence[str]]) -> str:
    rule = [":--" if i < _LEFT else "--:" for i in range(len(rows[0]))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if i < _LEFT else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
