"""Numbers that lectures and papers print about networks, and whether they are true.

A rounded number agrees with the true one if it is within one unit of its last digit or within 0.5 percent; up to 2.5
percent it is inexact, and wrong beyond. A number printed to its last digit must be the true one. The GoogLeNet table
gives parameters in units of 1,024 (its 112K are 114,688 weights) and multiply-adds in millions; it and the VGG-16 page
count weights without biases.

References: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, table 1;
Szegedy et al., "Going deeper with convolutions", 2015, table 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxcnn import models
from jaxcnn.analysis.summary import Layer, Table

Verdict: TypeAlias = Literal["agrees", "inexact", "wrong"]
"""Whether a printed number is the true one, nearly so, or neither."""


@dataclass(frozen=True)
class Claim:
    """One printed number beside the true one.

    Attributes:
      row: what the printed page calls the line.
      quantity: what is counted.
      printed: the number as printed.
      value: the same as a number.
      true: the exact number, of the network that the page is about.
      network: the number in the network of the table, which may be another form of it.
      verdict: whether the printed number is the true one.
    """

    row: str
    quantity: str
    printed: str
    value: int
    true: int
    network: int
    verdict: Verdict


def claims(table: Table) -> list[Claim]:
    """What has been printed about the network of a table.

    Args:
      table: of a registered model, under its registered name.

    Returns:
      The printed numbers in their order; none if no page is known, or the network is not in its published form.
    """
    if table.model not in _PAGES:
        return []
    facts = models.facts(table.model)
    published = (facts.input_shape, facts.parameters, facts.multiply_adds)
    if (table.input, table.totals.parameters, table.totals.multiply_adds) != published:
        return []
    return _PAGES[table.model](table)


def note(model: str) -> str:
    """What must be known to read the comparison of a registered model, or ""."""
    return _NOTES.get(model, "")


def _claim(row: str, quantity: str, printed: str, true: int, network: int | None = None, kilo: int = 1000) -> Claim:
    digits, suffix = re.fullmatch(r"([\d.,]+) ?(\w*)", printed).groups()  # type: ignore[union-attr]
    scale = {"": 1, "K": kilo, "M": 1_000_000, "MB": 1_000_000}[suffix]
    value = float(digits.replace(",", "")) * scale
    unit = scale * 10.0 ** -len(digits.partition(".")[2])
    rounding = max(unit, 0.005 * true) if suffix else 0.0
    error = abs(value - true)
    verdict: Verdict = "agrees" if error <= rounding else "inexact" if error <= 0.025 * true else "wrong"
    return Claim(row, quantity, printed, round(value), true, true if network is None else network, verdict)


# Line by line: its name, activations per image and weights, "" where the page has none.
_VGG16 = (
    ("input 224x224x3", "150K", ""),
    ("conv3-64", "3.2M", "1,728"),
    ("conv3-64", "3.2M", "36,864"),
    ("pool", "800K", ""),
    ("conv3-128", "1.6M", "73,728"),
    ("conv3-128", "1.6M", "147,456"),
    ("pool", "400K", ""),
    ("conv3-256", "800K", "294,912"),
    ("conv3-256", "800K", "589,824"),
    ("conv3-256", "800K", "589,824"),
    ("pool", "200K", ""),
    ("conv3-512", "400K", "1,179,648"),
    ("conv3-512", "400K", "2,359,296"),
    ("conv3-512", "400K", "2,359,296"),
    ("pool", "100K", ""),
    ("conv3-512", "100K", "2,359,296"),
    ("conv3-512", "100K", "2,359,296"),
    ("conv3-512", "100K", "2,359,296"),
    ("pool", "25K", ""),
    ("FC 4096", "", "102,760,448"),
    ("FC 4096", "", "16,777,216"),
    ("FC 1000", "", "4,096,000"),
)


def _vgg16(table: Table) -> list[Claim]:
    rows = [row for row in table if row.kind in ("input", "convolution", "max_pool", "dense")]
    found = []
    for (line, activations, weights), row in zip(_VGG16, rows, strict=True):
        if activations:
            found.append(_claim(line, "activations", activations, row.activation_values))
        if weights:
            found.append(_claim(line, "weights", weights, row.weights))
    totals = table.totals
    return [
        *found,
        _claim("total", "activations", "24M", totals.activation_values),
        _claim("total", "parameters", "138M", totals.parameters),
        _claim("total", "bytes forward", "93 MB", 4 * totals.activation_values),
    ]


# Module: side of its map, its input channels, filters of 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5 and pool
# projection, and the printed parameters and multiply-adds.
_INCEPTION = {
    "3a": (28, 192, (64, 96, 128, 16, 32, 32), "159K", "128M"),
    "3b": (28, 256, (128, 128, 192, 32, 96, 64), "380K", "304M"),
    "4a": (14, 480, (192, 96, 208, 16, 48, 64), "364K", "73M"),
    "4b": (14, 512, (160, 112, 224, 24, 64, 64), "437K", "88M"),
    "4c": (14, 512, (128, 128, 256, 24, 64, 64), "463K", "100M"),
    "4d": (14, 512, (112, 144, 288, 32, 64, 64), "580K", "119M"),
    "4e": (14, 528, (256, 160, 320, 32, 128, 128), "840K", "170M"),
    "5a": (7, 832, (256, 160, 320, 32, 128, 128), "1072K", "54M"),
    "5b": (7, 832, (384, 192, 384, 48, 128, 128), "1388K", "71M"),
}


def _inception_weights(inputs: int, filters: tuple[int, ...]) -> int:
    one, three_reduce, three, five_reduce, five, projection = filters
    reductions = inputs * (one + three_reduce + five_reduce + projection)
    return reductions + 9 * three_reduce * three + 25 * five_reduce * five


def _googlenet_lines() -> list[tuple[str, int, int, str, str]]:
    """Line, true weights, true multiply-adds, and both as printed."""
    stem, second, head = 7 * 7 * 3 * 64, 64 * 64 + 9 * 64 * 192, 1024 * 1000
    lines = [
        ("convolution 7x7/2", stem, stem * 112**2, "2.7K", "34M"),
        ("convolution 3x3/1", second, second * 56**2, "112K", "360M"),
    ]
    for module, (side, inputs, filters, parameters, operations) in _INCEPTION.items():
        weights = _inception_weights(inputs, filters)
        lines.append((f"inception ({module})", weights, weights * side**2, parameters, operations))
    return [*lines, ("linear", head, head, "1000K", "1M")]


def _googlenet(table: Table) -> list[Claim]:
    """The rows of the table in the order of the page: two steps of the stem, nine modules, the classifier."""
    layers = [row for row in table if row.kind in ("convolution", "dense") and row.multiply_adds]
    parts: list[Sequence[Layer]] = [layers[:1], layers[1:3]]
    parts += [layers[3 + 6 * i : 9 + 6 * i] for i in range(len(_INCEPTION))]
    parts.append(layers[3 + 6 * len(_INCEPTION) :])
    found = []
    for (line, weights, operations, *printed), part in zip(_googlenet_lines(), parts, strict=True):
        own = sum(row.weights for row in part), sum(row.multiply_adds for row in part)
        found.append(_claim(line, "weights", printed[0], weights, own[0], kilo=1024))
        found.append(_claim(line, "multiply-adds", printed[1], operations, own[1]))
    return found


def _alexnet(table: Table) -> list[Claim]:
    convolutions = sum(row.kind == "convolution" for row in table)
    return [_claim("layers", "convolutions", "15", convolutions)]


_PAGES = {
    "vgg16": _vgg16,
    "googlenet": _googlenet,
    "googlenet_2014": _googlenet,
    "alexnet": _alexnet,
    "alexnet_2012": _alexnet,
}
_UNITS = "K is 1,024 weights and M a million multiply-adds, as the lines without an error show; biases are not counted."
_DENSE = "The network has 3 dense layers besides its 5 convolutions."
_NOTES = {
    "vgg16": "24M is not the sum of the page's own rows, and 93 MB is not 4 bytes times either.",
    "googlenet_2014": _UNITS,
    "googlenet": f"{_UNITS} This form has 3x3 convolutions where the paper and the true numbers have 5x5, so its "
    "modules have fewer of both.",
    "alexnet": _DENSE,
    "alexnet_2012": _DENSE,
}
