"""The page of formulas: every row's test uses the row's function, and no formula, example or operation is missing."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxcnn.ops
from jaxcnn.ops.activation import ACTIVATIONS
from jaxcnn.ops.op import Op

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "mathematics.md").read_text()
ROW = re.compile(r"^\| (.*) \| `([\w.]+)` \| `(test_\w+\.py)::(test_\w+)` \|$")

# What a lecture defines, in the order of the page: a part of the first column of every row.
LECTURE = {
    "Operations": [
        "output size floor(",
        "z11 = f11 x11 + f12 x12 + f21 x21 + f22 x22",
        "1-D and 2-D, stride, padding, dilation, groups",
        "dF = X * dZ",
        "dX = full convolution of dZ with the turned kernel",
        "padding of the full convolution",
        "zeros between the pixels of dZ",
        "X_col: every receptive field a column",
        "the transpose of X_col",
        "Z = W X_col, dW = dZ X_col^T, dX = col2im(W^T dZ)",
        "the three ways agree",
        "max over the window",
        "mean over the window",
        "mean over height and width",
        "inverted dropout",
        "Y = X W + b; dW = X^T dY, dX = dY W^T, db = sum dY",
        "y = gamma x_hat + beta; dx_hat, dsigma2, dmu, dx, dgamma, dbeta",
        "sign of the first term of dx",
        "batch norm in inference",
        "running averages",
        "local response normalisation",
        "softmax with cross-entropy",
        "stable at logits of +-1e4",
        "sigmoid with binary cross-entropy",
        "mean squared error",
        "mean absolute error",
        "L = sqrt(1/2 sum (y_hat - y)^2)",
        "G = dL/df_L; for l = L .. 1",
        "any list of layers",
        "computation graph",
    ],
    "Activations and their derivatives": [
        "x | 1",
        "1 if x >= 0 else 0",
        "1/(1 + exp(-x))",
        "tanh x",
        "arctan x",
        r"x/(1 + \|x\|)",
        "log(1 + exp x)",
        "max(x, 0)",
        "x if x > 0 else 0.01 x",
        "x if x > 0 else exp(x) - 1",
        "the mean slope times x",
        "a random",
        "a learned",
        "exp(x_i)/sum_j exp(x_j)",
        "the matrix diag(f) - f f^T itself",
    ],
    "Worked examples": [
        "vertical and horizontal edge, 6x6; stride 2, 7x7; scanning, 5x5; 6x6 with two filters, stride 1 and 2",
        "X_col 12x4, W 2x12, Z 2x4",
        "1321/2911/1423/5612: averages 3.75 1.25 / 4 2, maxima 9 2 / 6 3",
        "1324/2911/1323/5612: averages 3.75 2 / 3.75 2",
        "dZ11/dX22 = 1",
        "softmax of (9, 5, 0) = 0.982, 0.0179, 0.0001",
        "x = 1.2, w = 0.5, b = -0.6, y = 1, by the graph",
        "by the layers",
        "by the loss",
        "z = arctan(W x), y_hat = V z",
        "Y = X^T Q X, Q symmetric: dY/dX = 2 Q X",
        "30,000,000 weights",
        "2,800; 28x28x1 to 24x24x20, 12x12x20, 10x10x50, 5x5x50",
        "the classic kernels on a photograph",
    ],
    "Learning and analysis": [
        r"1/N sum L + lambda/2 \|\|W\|\|^2",
        "of kernels alone",
        "L1 penalty",
        "N(0, 0.01^2), U(-0.05, 0.05), Glorot and He, uniform and Gaussian",
        "p_l = 1 - l/L (1 - p_L)",
        r"\|dy_k/dX_ij\|",
    ],
}

# Public functions of `jaxcnn.ops` that are no formula of a lecture: what the formulas are written with.
PARTS = {
    "activation.activation": "makes a function and its derivative an Op",
    "backprop.by_autodiff": "takes its derivatives from autodiff",
    "convolution.convolve": "the sum inside of `convolution`, which checks and groups its arguments",
    "im2col.each": "writes an option out for every dimension",
    "im2col.each_side": "writes a padding out for every dimension",
    "im2col.geometry": "writes out and checks the options",
    "im2col.output_sizes": "`output_size` along every dimension",
    "im2col.pad": "zeros around an image",
    "im2col.seen": "the pixels under one tap, of which `im2col` is made",
    "im2col.start": "an index",
    "im2col.taps": "indices",
    "im2col.unpad": "takes the zeros off",
    "im2col.wide": "a cast",
    "op.check_floating": "refuses integers",
}


def tables() -> dict[str, list[tuple[str, ...]]]:
    """(formula, function, file, test) of every row, by the heading above it; () of a row that is none."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        if lines:
            found[section.splitlines()[0]] = [row.groups() if (row := ROW.match(line)) else () for line in lines[2:]]
    return found


TABLES = tables()
ROWS = [row for rows in TABLES.values() for row in rows if row]


def dotted(function: str) -> str:
    """With its package: `jaxcnn.ops` where the page names none."""
    return function if function.startswith("jaxcnn.") else f"jaxcnn.ops.{function}"


def is_fixture(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any("fixture" in ast.dump(d) for d in node.decorator_list)


class Uses:
    """What the tests of a file use, by full name: imports, and attributes of them, wherever the test reaches them."""

    def __init__(self, file: str) -> None:
        self.imported: dict[str, str] = {}
        self.defined: dict[str, list[ast.stmt]] = {}
        for node in ast.parse((ROOT / "tests" / file).read_text()).body:
            match node:
                case ast.Import():
                    self.imported |= {a.asname or a.name.split(".")[0]: a.name for a in node.names if a.asname}
                    self.imported |= {a.name.split(".")[0]: a.name.split(".")[0] for a in node.names if not a.asname}
                case ast.ImportFrom():
                    self.imported |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
                case ast.FunctionDef() | ast.ClassDef():
                    self.defined[node.name] = [node]
                case _:
                    for name in (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)):
                        self.defined.setdefault(name.id, []).append(node)

    def of(self, test: str) -> set[str]:
        """By the test, its decorators and fixtures, and the functions and constants of the file that these use."""
        used, reached, waiting = set(), set(), [test]
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            for node in (part for statement in self.defined[name] for part in ast.walk(statement)):
                match node:
                    case ast.Name(ast_name, ast.Load()) if ast_name in self.defined:
                        waiting.append(ast_name)
                    case ast.arg(ast_name) if is_fixture(self.defined.get(ast_name, [node])[0]):
                        waiting.append(ast_name)
                    case ast.Name() | ast.Attribute():
                        base, *attributes = ast.unparse(node).split(".")
                        if base in self.imported:
                            used.add(".".join((self.imported[base], *attributes)))
        return used


uses_of = functools.cache(Uses)


def test_the_page_has_every_formula_and_example_and_nothing_else():
    assert list(TABLES) == list(LECTURE)
    for heading, keywords in LECTURE.items():
        assert () not in TABLES[heading], f"a line of {heading} is no row"
        formulas = [formula for formula, *_ in TABLES[heading]]
        missing = [k for k in keywords if not any(k in formula for formula in formulas)]
        assert not missing
        assert len(formulas) == len(keywords)
        assert all(k in formula for k, formula in zip(keywords, formulas, strict=True)), f"{heading} is out of order"


@pytest.mark.parametrize(("formula", "function", "file", "test"), ROWS)
def test_the_test_of_a_formula_uses_its_function(formula, function, file, test):
    module, name = dotted(function).rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name))
    uses = uses_of(file)
    assert test in uses.defined
    used = uses.of(test)
    names = {f"{module}.{name}{end}" for end in ("", "_forward", "_backward")}
    enumerated = name in ACTIVATIONS and "jaxcnn.ops.activation.ACTIVATIONS" in used
    assert names & used or enumerated, f"{file}::{test} does not use {function}"


def public() -> Iterator[str]:
    """Every function and Op that a module of `jaxcnn.ops` defines; of an Op's two halves, the Op alone."""
    for info in pkgutil.iter_modules(jaxcnn.ops.__path__):
        module = importlib.import_module(f"jaxcnn.ops.{info.name}")
        ops = {name for name, value in vars(module).items() if isinstance(value, Op)}
        for name, value in vars(module).items():
            function = inspect.unwrap(value.forward if name in ops else value)
            own = inspect.isfunction(function) and function.__module__ == module.__name__
            half = name.removesuffix("_forward") in ops - {name} or name.removesuffix("_backward") in ops - {name}
            if own and not half and not name.startswith("_"):
                yield f"{info.name}.{name}"


def test_no_operation_is_missing():
    listed = {function for _, function, *_ in ROWS}
    assert set(public()) - listed - set(PARTS) == set()
    assert set(PARTS) <= set(public()) - listed
