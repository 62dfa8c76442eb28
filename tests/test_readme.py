"""The README does what it says: its commands run, its code runs, and what it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jaxcnn import cli

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


@pytest.mark.slow
def test_the_commands_and_then_the_library_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "jaxcnn"
        cli.main(arguments)
    figures = {path.name for path in (tmp_path / "runs" / "demo" / "figures").iterdir()}
    names = ("curves", "filters", "predictions", "confusion", "saliency", "time")
    assert figures == {f"{name}.{ending}" for name in names for ending in ("pdf", "png")}
    assert (tmp_path / "runs" / "slow" / "figures" / "curves.pdf").exists()
    accuracy = re.search(r"test accuracy ([\d.]+) on 359 images", capsys.readouterr().out)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.97

    names = {}
    exec(PYTHON[0], names)
    assert names["logits"].shape == (8, 10)
    assert names["maps"].shape == (8, 28, 28)
    assert names["kernels"].shape == (5, 5, 1, 6)


def test_the_mathematics_does_what_it_says(capsys):
    names = {}
    exec(PYTHON[1], names)
    assert names["z"].tolist() == [[[[9], [9]], [[9], [9]]]]
    assert (names["gradient"] == names["dkernel"]).all()
    assert "backward" in capsys.readouterr().out
    assert float(names["graph"].gradients["w"]) == pytest.approx(-0.6)  # as -x s(-z), where z = 0


def test_the_commands_of_make_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
