"""The notebooks: stored clean, and every cell of them runs as it stands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

NAMES = [
    "01_convolution",
    "02_backpropagation",
    "03_cost",
    "04_what_does_it_see",
    "05_maximise",
    "06_fool",
    "07_research",
]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def test_there_is_a_notebook_for_every_subject():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@each
def test_it_is_stored_without_outputs_and_traces_of_a_machine(path):
    text = path.read_text()
    notebook = json.loads(text)
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == METADATA
    assert text.endswith("}\n")
    for cell in notebook["cells"]:
        assert re.fullmatch(r"(im2col|[a-z]+)(-(im2col|[a-z]+))*", cell["id"]), "an id that can be read"
        assert cell["metadata"] == {}
        assert "".join(cell["source"]).strip()
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert not re.search(r"/(home|Users|root|tmp|work|mnt|opt|var|usr)\b|\b[A-Z]:\\", text)


@pytest.fixture
def kernel(tmp_path, monkeypatch) -> str:
    """The name of a kernel that is the running interpreter, whatever kernels and settings the machine has."""
    specification = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    folder = tmp_path / "jupyter" / "kernels" / "jaxcnn_test"
    folder.mkdir(parents=True)
    content = specification | {"display_name": "test", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(content))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return folder.name


@each
@pytest.mark.slow
def test_every_cell_runs_and_pictures_are_shown(path, kernel, tmp_path, request, monkeypatch):
    if "JAXCNN_WEIGHTS" in path.read_text():
        data = request.getfixturevalue("real_data")
        monkeypatch.setenv("JAXCNN_WEIGHTS", str(data / "weights" / "squeezenet1_0_imagenet.pth"))
        monkeypatch.setenv("JAXCNN_PHOTOGRAPHS", str(data / "imagenet_samples"))
    notebook: Any = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name=kernel).execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
