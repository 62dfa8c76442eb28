"""The page of formulas: every function and every test it names exists, and no operation is missing from it."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import jaxcnn.ops
from jaxcnn.ops.activation import ACTIVATIONS
from jaxcnn.ops.op import Op

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "mathematics.md").read_text()
ROWS = re.findall(r"^\|.*\| `(\w+)\.(\w+)` \| `(test_\w+\.py)::(test_\w+)` \|$", PAGE, flags=re.MULTILINE)


def test_every_line_of_every_table_is_read():
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    tables = sum(line.startswith("| ---") for line in lines)
    assert tables == 3
    assert len(ROWS) == len(lines) - 2 * tables


@pytest.mark.parametrize(("module", "function", "file", "test"), ROWS)
def test_a_formula_s_function_and_test_exist(module, function, file, test):
    assert callable(getattr(importlib.import_module(f"jaxcnn.ops.{module}"), function))
    tree = ast.parse((ROOT / "tests" / file).read_text())
    tests = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert test in tests
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    enumerated = "ACTIVATIONS" in used and function in ACTIVATIONS
    assert function in used or enumerated, f"{file} does not use {function}"


def test_no_operation_is_missing():
    listed = {(module, function) for module, function, _, _ in ROWS}
    for info in pkgutil.iter_modules(jaxcnn.ops.__path__):
        module = importlib.import_module(f"jaxcnn.ops.{info.name}")
        for name, value in inspect.getmembers(module, lambda value: isinstance(value, Op)):
            home = inspect.getmodule(inspect.unwrap(value.forward)).__name__.split(".")[-1]
            assert (home, name) in listed, f"{home}.{name} stands in no table"
