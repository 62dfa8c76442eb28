"""Who may import whom, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"errors", "config", "registry"}

# What each part of the package may import of the package itself.
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "registry": {"errors"},
    "allocator": set(),
    "compilation": set(),
    "study": {"errors", "config"},
    "catalog": BASE | {"study"},
    "ops": {"errors", "ops"},
    "layers": BASE | {"layers"},
    "models": BASE | {"layers", "models"},
    "state": {"errors"},
    "interop": BASE | {"layers", "models", "state", "interop"},
    "run": BASE,
    "checkpoint": BASE | {"state", "run"},
    "data": BASE | {"data"},
    "train": BASE | {"layers", "models", "state", "run", "checkpoint", "loading", "interop", "data", "study", "train"},
    "loading": BASE | {"layers", "models", "state", "run", "checkpoint", "interop", "train"},
    "analysis": BASE | {"layers", "models", "state", "analysis"},
    "figures": {"errors", "figures"},
}

# Third-party packages that only these parts may import.
RESERVED = {
    "orbax": {"checkpoint"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "matplotlib": {"figures"},
    "tyro": {"cli"},
    "optuna": {"train"},
    "torch": set(),
    "tensorflow": set(),
}

FILES = sorted((ROOT / "jaxcnn").rglob("*.py"))


def part(path: Path) -> str:
    relative = path.relative_to(ROOT / "jaxcnn")
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of all modules imported anywhere in the file, but for type checking."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_the_rules(path):
    own = {name.split(".")[1] for name in imported(path) if name.startswith("jaxcnn.")}
    if part(path) in ALLOWED:
        assert own <= ALLOWED[part(path)]
    # What may import everything is imported by nobody.
    assert not own & {"cli", "report"} or part(path) in ("cli", "__main__", "report")
    for package, parts in RESERVED.items():
        if any(name.split(".")[0] == package for name in imported(path)):
            assert part(path) in parts, f"{path} imports {package}"


@pytest.mark.parametrize("module", ["errors", "config", "registry", "allocator", "study"])
def test_the_base_needs_the_standard_library_only(module):
    for name in imported(ROOT / "jaxcnn" / f"{module}.py"):
        assert name.split(".")[0] in {*sys.stdlib_module_names, "jaxcnn"}, name


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_analysis_loads_neither_data_nor_checkpoint_nor_figures():
    loaded = loaded_by(
        "import pkgutil, importlib, jaxcnn.analysis as a; "
        "[importlib.import_module('jaxcnn.analysis.' + m.name) for m in pkgutil.iter_modules(a.__path__)]"
    )
    assert "jax" in loaded
    assert not loaded & {"grain", "tensorflow_datasets", "orbax", "matplotlib", "tensorflow", "torch"}


def test_the_command_line_answers_help_without_jax():
    loaded = loaded_by(
        "import jaxcnn.cli, contextlib, io\nwith contextlib.suppress(SystemExit): jaxcnn.cli.main(['--help'])\n"
    )
    assert "tyro" in loaded
    assert not loaded & {"jax", "numpy", "flax", "matplotlib", "orbax"}


def test_no_file_is_called_utils_or_has_grown_into_two():
    for path in [*FILES, *sorted((ROOT / "experiments").rglob("*.py"))]:
        assert path.stem not in ("utils", "helpers", "common", "misc")
        assert len(path.read_text().splitlines()) <= 450, f"{path} has become two things"
