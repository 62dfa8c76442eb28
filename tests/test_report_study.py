"""The report of a study: what the page says of its arms, and which file it replaces."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex

import numpy as np
import pytest
from commands import invoke
from pages import LENET, SCORES, Reader, write_study
from scipy import stats

from jaxcnn import config
from jaxcnn.config import Experiment, TrainingConfig
from jaxcnn.report.page.report import write_report
from jaxcnn.run import Metrics


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path / "study")
    return tmp_path / "study"


def test_a_study_is_shown_with_the_seeds_that_have_ended(study):
    found = Reader(write_report([study]).read_text())
    assert "Which is <better>?" in found.text("")
    half = stats.t.ppf(0.975, 1) * np.std(SCORES["slow"], ddof=1) / math.sqrt(2)
    text = found.text("results")
    assert f"slow 2 1.0000 ± 0.0000 1.0000 ± 0.0000 55.00 % ± {100 * half:.2f} %" in text
    assert "seeds 2" in text
    assert "Read & see." in text
    assert "training.epochs" in found.text("settings")
    assert "jaxcnn study rates" in found.text("settings")


def test_the_command_on_a_studys_page_says_where_its_file_and_the_images_are(study):
    def words():
        page = Reader(write_report([study]).read_text())
        [command] = re.findall(r"jaxcnn study .*? Copy", page.text("settings"))
        return shlex.split(command)[:-1]

    plain = ["jaxcnn", "study", "rates", "--scale", "quick", "--run", f"{study}-again", "--seeds", "0", "1"]
    assert words() == plain
    for run in study.glob("*/seed-[01]"):
        data = dataclasses.replace(LENET.data, directory="/my images")
        spec = config.ModelSpec("lenet5", {}, 10, (28, 28, 1), (0.0,), (1.0,), tuple("0123456789"))
        for name, value in (("experiment", dataclasses.replace(LENET, data=data)), ("model", spec)):
            (run / f"{name}.json").write_text(json.dumps(config.to_json(value)))
    known = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(known | {"file": "/my studies/rates.py"}))
    plain[2] = "/my studies/rates.py"
    assert words() == [*plain, "--data.directory", "/my images"]


def test_a_study_with_an_axis_shows_what_its_arms_came_to_along_it(study):
    known = json.loads((study / "study.json").read_text())
    axis = {"title": "rate", "points": {"slow": ["the network", 0.1], "fast": ["the network", 0.2]}}
    (study / "study.json").write_text(json.dumps(known | {"axis": axis}))
    page = Reader(write_report([study]).read_text())
    assert "Training loss by rate Test loss by rate Test accuracy by rate What each arm" in page.text("results")
    chart = next(found for found in page.json if found["description"].startswith("Accuracy against rate"))
    values = chart["data"]["values"]
    assert [(point["x"], point["mean"]) for point in values] == [(0.1, 0.55), (0.2, pytest.approx(0.82))]


def test_many_arms_have_one_key_and_what_was_measured_once_has_no_curve(tmp_path):
    folder = tmp_path / "study"
    names = ["one", "two", "three", "four"]
    for arm in names:
        run = folder / arm / "seed-0"
        run.mkdir(parents=True)
        for step, split in ((1, "train"), (2, "train"), (2, "test")):
            Metrics(run / "metrics.jsonl").append({"step": step, "split": split, "loss": 1.0, "top1": 0.5})
        Metrics(run / "outcome.jsonl").append({"step": 2, "outcome": "finished"})
    arms = {arm: config.to_json(Experiment(training=TrainingConfig(epochs=1))) for arm in names}
    texts = {"name": "many", "question": "Which?", "source": "none", "scale": "quick"}
    (folder / "study.json").write_text(json.dumps({**texts, "arms": arms}))
    text = Reader(write_report([folder]).read_text()).text("curves")
    assert " ".join(names) in text
    assert "Training loss by epoch" in text
    assert "Test loss by epoch" not in text


@pytest.mark.slow
def test_a_page_is_replaced_and_nothing_else(study, tmp_path, capsys):
    own, foreign = tmp_path / "new" / "page.html", tmp_path / "notes.html"
    for _ in range(2):
        assert invoke(capsys, "report", study, "--output", own)[0] == 0
    foreign.write_text("my notes")
    for path in (foreign, tmp_path):
        status, _, err = invoke(capsys, "report", study, "--output", path)
        assert status == 2
        assert "expected a new file, as --output FILE" in err
    assert foreign.read_text() == "my notes"
