"""What a study leaves in its directory: the arrays, and the tables as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from jaxcnn.run import write_file
from jaxcnn.study import Axis, Measure, Scale, Study
from jaxcnn.train.study_measures import Measured, as_rows
from jaxcnn.train.study_results import CONFIDENCE, Arm, Estimate, Row, along, held_out, rows

Cells: TypeAlias = list[list[str]]
"""A table as texts, its first row the header."""


def file_name(study: Study, seeds: Sequence[int]) -> str:
    """The study's, without ending; of other seeds than its own "STUDY-seeds-0-5", so that no view replaces another."""
    own = sorted(seeds) == sorted(study.seeds)
    return study.name if own else f"{study.name}-seeds-{'-'.join(map(str, sorted(seeds)))}"


def write(
    study: Study,
    directory: str | Path,
    scale: Scale,
    arms: Mapping[str, Arm],
    seeds: Sequence[int],
    measured: Mapping[str, Mapping[str, Measured]],
) -> list[Path]:
    """Writes the arrays (.npz) and the tables (.csv, .md, .tex), named by `file_name`, into the study's directory.

    The arrays of arm A are named A/train/loss, A/test/top1 and so on, [seeds, records]; `steps` and `epochs` [records].
    What measure M found is A/measures/M, [groups of seeds, positions], and A/measures/M/positions. Its table as CSV has
    a file of its own, with a line for each arm and position.

    Args:
      study: the arms and the measures.
      directory: of the study.
      scale: which arms.
      arms: what came out of training, see `study_results.collect`.
      seeds: of the runs.
      measured: what the measures found, see `study_measures.collect`.

    Returns:
      The files.
    """
    split, table = held_out(study, scale), rows(arms, seeds)
    arrays: dict[str, Any] = {"seeds": np.array(seeds)}
    for name, arm in arms.items():
        for part, series in (("train", arm.training), (split, arm.held_out)):
            arrays |= {f"{name}/{part}/{key}": value for key, value in vars(series).items()}
    for measure, by_arm in measured.items():
        for name, found in by_arm.items():
            arrays[f"{name}/measures/{measure}"] = found.values
            arrays[f"{name}/measures/{measure}/positions"] = np.array(found.positions)
    npz = io.BytesIO()
    np.savez_compressed(npz, **arrays)
    texts = [latex_table(table, split), *(latex(measure_cells(study.measures[n], m)) for n, m in measured.items())]
    contents = {
        ".npz": npz.getvalue(),
        ".csv": csv_table(table, split).encode(),
        ".md": _page(study, table, split, seeds, measured).encode(),
        ".tex": "\n".join(texts).encode(),
    } | ({"-measures.csv": measures_csv(measured).encode()} if measured else {})
    files = [Path(directory) / f"{file_name(study, seeds)}{ending}" for ending in contents]
    for file, content in zip(files, contents.values(), strict=True):
        write_file(file, content)
    return files


def _outcomes(row: Row, split: str) -> dict[str, Estimate]:
    return {
        "training loss": row.training_loss,
        f"{split} loss": row.held_out_loss,
        f"{split} accuracy": row.held_out_top1,
    }


def outcomes_along(axis: Axis, table: Sequence[Row], split: str) -> dict[str, tuple[dict[str, Any], bool]]:
    """For a figure: of each outcome its curves along the axis, see `along`, and whether it is logarithmic."""
    arms = [row.arm for row in table]
    by_title = {title: [_outcomes(row, split)[title] for row in table] for title in _outcomes(table[0], split)}
    return {title: (along(axis, arms, estimates), "loss" in title) for title, estimates in by_title.items()}


def csv_table(table: Sequence[Row], split: str) -> str:
    """Every number in full, the ends of the intervals too; what is not known is empty."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    names = [name.replace(" ", "_") for name in _outcomes(table[0], split)]
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow(["arm", "finished", "diverged", *ends])
    for row in table:
        numbers = [number for estimate in _outcomes(row, split).values() for number in asdict(estimate).values()]
        writer.writerow([row.arm, row.finished, row.diverged, *("" if math.isnan(n) else repr(n) for n in numbers)])
    return lines.getvalue()


def measures_csv(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """Every number of every measure in full, a line for each arm and position."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["measure", "arm", "position", "groups", "mean", "low", "high"])
    for row in as_rows(measured):
        writer.writerow("" if isinstance(value, float) and math.isnan(value) else value for value in row.values())
    return lines.getvalue()


def measure_cells(measure: Measure, found: Mapping[str, Measured]) -> Cells:
    """What a measure found, arms by positions or, where there are more positions than arms, positions by arms.

    Numbers are in order, though arms may have different ones; texts are as the arms give them.
    """
    positions: list[Any] = list(dict.fromkeys(position for one in found.values() for position in one.positions))
    if not any(isinstance(position, str) for position in positions):
        positions.sort()
    texts = {
        (arm, position): _text(estimate, "not finite")
        for arm, one in found.items()
        for position, estimate in zip(one.positions, one.estimates, strict=True)
    }
    if len(positions) > len(found):
        body = [[_position(p), *(texts.get((arm, p), "") for arm in found)] for p in positions]
        return [[measure.position, *found], *body]
    body = [[arm, *(texts.get((arm, p), "") for p in positions)] for arm in found]
    return [["arm", *map(_position, positions)], *body]


def _position(position: str | float) -> str:
    return position if isinstance(position, str) else f"{position:g}"


def markdown_table(table: Sequence[Row], split: str) -> str:
    """A line for each arm, mean ± half the interval."""
    return markdown(_cells(table, split))


def latex_table(table: Sequence[Row], split: str) -> str:
    """The lines of `markdown_table` in LaTeX."""
    return latex(_cells(table, split))


def markdown(table: Cells) -> str:
    """The table in Markdown, aligned to be read as it is."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [cells[0], rule, *cells[1:]]
    aligned = [
        [f"{cell:{'<' if i == 0 else '>'}{width}}" for i, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in aligned)


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}", "\\": r"\textbackslash{}"}


def latex(table: Cells) -> str:
    """The table as a tabular that needs no package."""
    header, *lines = [["".join(_TEX.get(c, c) for c in cell) for cell in row] for row in table]
    body = [" & ".join(line).replace("±", r"$\pm$") + r" \\" for line in (header, *lines)]
    body.insert(1, r"\hline")
    return "\n".join([f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", *body, r"\end{tabular}"]) + "\n"


def _cells(table: Sequence[Row], split: str) -> list[list[str]]:
    some = any(row.diverged for row in table)
    header = ["arm", "seeds", *(["diverged"] if some else []), *_outcomes(table[0], split)]
    lines = [header]
    for row in table:
        counts = [str(row.finished), *([str(row.diverged)] if some else [])]
        lines.append([row.arm, *counts, *(_text(estimate) for estimate in _outcomes(row, split).values())])
    return lines


def _text(estimate: Estimate, missing: str = "diverged") -> str:
    if math.isnan(estimate.mean):
        return missing
    half = (estimate.high - estimate.low) / 2
    exact = math.isnan(half) or half <= 1e-9 * abs(estimate.mean)  # equal numbers have a rounded mean
    return _number(estimate.mean) if exact else f"{_number(estimate.mean)} ± {_number(half)}"


def _number(value: float) -> str:
    """Four decimals where they suit, as they do losses and shares; three digits of a smaller number, a larger whole."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.00095 else f"{value:.2e}"


def tables(study: Study, table: Sequence[Row], split: str, measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """The table of the arms and one of each measure, in Markdown."""
    parts = [markdown_table(table, split)]
    for name, found in measured.items():
        asked = study.measures[name]
        together = f", over groups of {asked.members} seeds" if asked.members > 1 else ""
        where = f", by {asked.position}" if asked.position else ""
        heading = f"{asked.title[:1].upper()}{asked.title[1:]}{where}{together}:"
        parts.append(f"{heading}\n\n{markdown(measure_cells(asked, found))}")
    return "\n".join(parts)


def _page(
    study: Study,
    table: Sequence[Row],
    split: str,
    seeds: Sequence[int],
    measured: Mapping[str, Mapping[str, Measured]],
) -> str:
    listed = ", ".join(map(str, seeds))
    shown = f"Mean ± half the {CONFIDENCE:.0%} t-interval over the seeds" if len(seeds) > 1 else "Of the one seed"
    return (
        f"**{study.question}**\n\n{tables(study, table, split, measured)}\n{study.caption} {shown} {listed}; the "
        f"training loss is the mean over the batches of the last epoch, the {split} split is seen after it. Source: "
        f"{study.source}\n"
    )
