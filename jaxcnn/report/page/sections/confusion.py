"""Which classes are taken for which, and the images behind each count."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from jaxcnn.report.page import pictures
from jaxcnn.report.page.opened import Answers, Opened
from jaxcnn.report.page.section import Section

CLASSES = 24
"""Classes in a matrix at most; of more the most frequent mistakes are listed."""
LISTED = 40
"""Mistakes listed."""
_CHARACTERS = 2_000_000
_SHOWN = (24, 16, 12, 8, 6, 4, 2, 1)  # images behind a count, the first number of them that the page has room for


def gather(opened: Opened) -> dict[str, Any]:
    """The matrix, or the list, and for each count the images with the surest answers, each image once."""
    answers = opened.answers
    counts = confusion_matrix(answers.labels, answers.predicted, labels=np.arange(len(opened.class_names)))
    whole = len(counts) <= CLASSES
    cells = list(zip(*np.nonzero(counts), strict=True)) if whole else _mistakes(counts)
    shown = _behind(answers, [(int(row), int(column)) for row, column in cells])
    wrong = counts * (1 - np.eye(len(counts))) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    numbers = sorted({i for indices in shown.values() for i in indices})
    return {
        "names": opened.class_names,
        "counts": counts.tolist() if whole else None,
        "listed": None if whole else [(int(i), int(j), int(counts[i, j])) for i, j in cells],
        "totals": counts.sum(axis=1).tolist(),
        "worst": float(wrong.max()) or 1.0,
        "behind": {
            "names": opened.class_names,
            "cells": {f"{row}-{column}": indices for (row, column), indices in shown.items()},
            "pictures": dict(zip(numbers, pictures.read(answers.source, numbers), strict=True)),
            "confidence": {i: round(float(answers.confidence[i]), 4) for i in numbers},
        },
    }


def _mistakes(counts: np.ndarray) -> list[tuple[Any, Any]]:
    """The most frequent mistakes, the most frequent first."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    return [place for i in order if wrong[place := np.unravel_index(i, wrong.shape)]]


def _behind(answers: Answers, cells: list[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Indices of the images behind each cell, as many of the surest as the page has room for."""
    found = {
        (row, column): answers.surest((answers.labels == row) & (answers.predicted == column)).tolist()
        for row, column in cells
    }
    room = _CHARACTERS // pictures.size(answers.source.image_shape)
    most = next((n for n in _SHOWN if sum(min(n, len(indices)) for indices in found.values()) <= room), 1)
    return {cell: indices[:most] for cell, indices in found.items()}


SECTIONS = {"confusion": Section("Confusion matrix", 30, gather)}
