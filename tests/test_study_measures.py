"""Measures of a study's runs: measured once, kept, shown with intervals over seeds, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from commands import invoke
from scipy import stats
from test_study import FILE, small

from jaxcnn import catalog, models, run
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.measures import COST
from jaxcnn.report.page.report import write_report
from jaxcnn.run import Metrics
from jaxcnn.study import Axis, Measure, Study, Trained
from jaxcnn.train import study, study_measures, study_results, study_tables

SEEDS = (0, 5, 7)
WHERE = {"scale": "quick", "seeds": SEEDS}


def seed_of(run) -> tuple[str, int]:
    return run.directory.parent.name, int(run.directory.name.removeprefix("seed-"))


def crops(run) -> dict[float, float]:
    arm, seed = seed_of(run)
    return {1: 0.1 * seed, 10: 0.1 * seed + 0.05 * (arm == "plain")}


def layers(run) -> dict[str, float]:
    arm, seed = seed_of(run)
    return {"conv1": 1e-5 * (seed + 1)} | ({} if arm == "plain" else {"conv2": 0.0})


def together(*runs) -> dict[str, float]:
    return {"ensemble": float(sum(seed for _, seed in map(seed_of, runs)))}


MEASURES = {
    "crops": Measure(crops, "test accuracy", "crops"),
    "layers": Measure(layers, "gradient", "layer", log=True),
    "ensembles": Measure(together, "accuracy together", "members", members=2),
}


def asking(**measures: Measure) -> Study:
    return dataclasses.replace(small(), measures=measures, seeds=SEEDS)


@pytest.fixture
def ended(tmp_path) -> Path:
    """A study's directory in which every run has ended, and the last seed of "plain" has diverged."""
    folder = tmp_path / "runs"
    study._claim(asking(**MEASURES), folder, "quick")
    for arm in small().quick:
        for seed in SEEDS:
            run = study.run_directory(folder, arm, seed)
            run.mkdir(parents=True)
            for split in ("train", "test"):
                Metrics(run / "metrics.jsonl").append({"step": 8, "split": split, "loss": 1.0, "top1": 0.5})
            gone = (arm, seed) == ("plain", 7)
            outcome = {"step": 9, "outcome": "diverged", "loss": 1e9} if gone else {"step": 8, "outcome": "finished"}
            Metrics(run / "outcome.jsonl").append(outcome)
    return folder


def test_every_run_that_did_not_diverge_is_measured_once(ended):
    calls = []

    def counting(run) -> dict[float, float]:
        calls.append(seed_of(run))
        return crops(run)

    chosen = asking(crops=dataclasses.replace(MEASURES["crops"], of=counting))
    study_measures.measure(chosen, ended, scale="quick", seeds=(0,))
    assert calls == [("plain", 0), ("with momentum", 0)]
    for _ in range(2):
        study_measures.measure(chosen, ended, **WHERE)
    assert calls[2:] == [("plain", 5), ("with momentum", 5), ("with momentum", 7)]
    found = study_measures.collect(chosen, ended, **WHERE)["crops"]
    np.testing.assert_allclose(found["plain"].values, [[0, 0.05], [0.5, 0.55]])
    for values, estimate in zip(found["with momentum"].values.T, found["with momentum"].estimates, strict=True):
        ends = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        np.testing.assert_allclose(dataclasses.astuple(estimate), [values.mean(), ends.low, ends.high])


def test_what_was_measured_of_other_runs_is_measured_again(ended):
    calls = []

    def accuracy(*runs) -> dict[str, float]:
        calls.append([seed_of(one) for one in runs])
        return {"mean": float(np.mean([run.metrics(one.directory).read()[-1]["top1"] for one in runs]))}

    chosen = asking(alone=Measure(accuracy, "accuracy", ""), two=Measure(accuracy, "accuracy of two", "", members=2))
    study_measures.measure(chosen, ended, **WHERE)
    again = study.run_directory(ended, "plain", 5)
    for file in again.iterdir():
        file.unlink()
    Metrics(again / "metrics.jsonl").append({"step": 8, "split": "test", "loss": 1.0, "top1": 0.75})
    Metrics(again / "outcome.jsonl").append({"step": 8, "outcome": "finished"})
    found = study_measures.collect(chosen, ended, **WHERE)  # as a report does, which measures nothing
    assert found["alone"]["plain"].values.tolist() == [[0.5]]
    assert list(found["two"]) == ["with momentum"]
    calls.clear()
    study_measures.measure(chosen, ended, **WHERE)
    assert calls == [[("plain", 5)], [("plain", 0), ("plain", 5)]]
    found = study_measures.collect(chosen, ended, **WHERE)
    assert found["alone"]["plain"].values.tolist() == [[0.5], [0.75]]
    assert found["two"]["plain"].values.tolist() == [[0.625]]
    Metrics(again / "outcome.jsonl").append({"step": 8, "outcome": "diverged"})
    Metrics(again / "metrics.jsonl").append({"step": 9, "split": "train", "loss": 1e9, "top1": 0.1})
    study_measures.measure(chosen, ended, **WHERE)
    assert study_measures.collect(chosen, ended, **WHERE)["alone"]["plain"].values.tolist() == [[0.5]]


def test_what_an_earlier_version_measured_stands(ended):
    calls = []

    def counting(run) -> dict[float, float]:
        calls.append(seed_of(run))
        return crops(run)

    chosen = asking(crops=dataclasses.replace(MEASURES["crops"], of=counting))
    for values in ([[1.0, 0.25], [10.0, 0.5]], [[1.0, 0.75], [10.0, 1.0]]):  # the later record of the two counts
        Metrics(ended / "plain" / "measures.jsonl").append(
            {"step": 0, "measure": "crops", "seeds": [0], "values": values}
        )
    assert study_measures.collect(chosen, ended, **WHERE)["crops"]["plain"].values.tolist() == [[0.75, 1.0]]
    study_measures.measure(chosen, ended, **WHERE)
    assert ("plain", 0) not in calls
    assert ("plain", 5) in calls


def test_runs_are_measured_together_in_groups_of_seeds(ended):
    chosen = asking(ensembles=MEASURES["ensembles"])
    study_measures.measure(chosen, ended, **WHERE)  # of three seeds the last is left over
    found = study_measures.collect(chosen, ended, **WHERE)["ensembles"]
    assert {arm: one.values.tolist() for arm, one in found.items()} == {"plain": [[5.0]], "with momentum": [[5.0]]}
    later = {"scale": "quick", "seeds": (5, 7)}
    study_measures.measure(chosen, ended, **later)
    found = study_measures.collect(chosen, ended, **later)["ensembles"]
    assert {arm: one.values.tolist() for arm, one in found.items()} == {"with momentum": [[12.0]]}
    with pytest.raises(InputError, match=r"seeds are \(0,\); expected at least 2, for accuracy together"):
        study_measures.measure(chosen, ended, scale="quick", seeds=(0,))


def test_the_files_hold_what_was_measured(ended):
    chosen = asking(**MEASURES)
    study_measures.measure(chosen, ended, **WHERE)
    measured = study_measures.collect(chosen, ended, **WHERE)
    arms = study_results.collect(chosen, ended, **WHERE)
    written = study_tables.write(chosen, ended, "quick", arms, SEEDS, measured)
    files = {file.name.removeprefix("small"): file for file in written}
    with np.load(files[".npz"]) as arrays:
        np.testing.assert_array_equal(arrays["plain/measures/crops"], measured["crops"]["plain"].values)
        np.testing.assert_array_equal(arrays["with momentum/measures/layers/positions"], ["conv1", "conv2"])
    lines = list(csv.DictReader(io.StringIO(files["-measures.csv"].read_text())))
    assert [line["measure"] for line in lines] == ["crops"] * 4 + ["layers"] * 3 + ["ensembles"] * 2
    assert lines[0].items() >= {"arm": "plain", "position": "1.0", "groups": "2", "mean": "0.25"}.items()
    assert (lines[-1]["mean"], lines[-1]["low"]) == ("5.0", "")  # one group has no interval
    page = files[".md"].read_text()
    half = stats.t.ppf(0.975, 2) * np.std([1e-5, 6e-5, 8e-5], ddof=1) / math.sqrt(3)
    assert "Test accuracy, by crops:" in page
    assert f"5.00e-05 ± {half:.2e}" in page
    assert "Accuracy together, by members, over groups of 2 seeds:" in page
    assert files[".tex"].read_text().count(r"\begin{tabular}") == 4


def test_a_measure_that_gives_no_numbers_is_refused(ended):
    for given in ({}, [1.0], {"a": "b"}, {"a": 1.0, 2: 1.0}, {"a": np.ones(2)}):
        chosen = asking(odd=Measure(lambda run, given=given: given, "odd", "thing"))
        with pytest.raises(InputError, match=r"measure 'odd' gives .*; expected numbers by position"):
            study_measures.measure(chosen, ended, **WHERE)
    assert not list(ended.rglob("measures.jsonl"))
    with pytest.raises(InputError, match="a measure's name is 'a/b'"):
        asking(**{"a/b": MEASURES["crops"]})
    with pytest.raises(InputError, match="members of measure 'crops' is 0"):
        asking(crops=dataclasses.replace(MEASURES["crops"], members=0))


def test_a_measure_that_fails_is_named(ended):
    chosen = asking(odd=Measure(lambda run: {}[run.directory.name], "odd", "thing"))
    with pytest.raises(InputError, match=r"odd of plain, seed 0 cannot be measured: KeyError: 'seed-0'"):
        study_measures.measure(chosen, ended, **WHERE)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("outcome.jsonl", '{"step": 8}', "outcome.jsonl is damaged: it ends with {'step': 8}; expected \"finished\""),
        ("outcome.jsonl", '{"step": 0, "outcome": "diverged"}', "outcome.jsonl is damaged"),
        ("metrics.jsonl", '{"step": 8, "split": "test", "loss": "a", "top1": 0.5}', "metrics.jsonl is damaged"),
        ("metrics.jsonl", '{"step": 7, "split": "test", "loss": 1, "top1": 0.5}', "has no record of the test split"),
    ],
)
def test_a_damaged_run_is_named_by_the_report_and_by_the_study(ended, file, text, says, capsys):
    (study.run_directory(ended, "plain", 5) / file).write_text(text + "\n")
    status, _, err = invoke(capsys, "report", ended)
    assert (status, says in err, len(err.splitlines())) == (2, True, 1)
    with pytest.raises(CheckpointError, match=re.escape(says)):
        study_results.collect(asking(), ended, **WHERE)


def test_damage_is_said(ended):
    chosen = asking(crops=MEASURES["crops"])
    study_measures.measure(chosen, ended, **WHERE)
    kept = Metrics(ended / "plain" / "measures.jsonl")
    kept.append(kept.read()[-1] | {"values": [[2.0, 0.5]]})
    with pytest.raises(CheckpointError, match=r"measures.jsonl is damaged: plain has other positions"):
        study_measures.collect(chosen, ended, **WHERE)


def test_a_number_that_is_not_finite_is_none(ended):
    chosen = asking(odd=Measure(lambda run: {"a": math.inf, "b": np.float32(2)}, "odd", "thing"))
    study_measures.measure(chosen, ended, **WHERE)
    values = study_measures.collect(chosen, ended, **WHERE)["odd"]["plain"].values
    np.testing.assert_array_equal(values, [[math.nan, 2], [math.nan, 2]])


def test_the_numbers_of_arms_that_have_different_ones_are_in_order():
    found = {
        arm: study_measures.Measured(positions, np.ones((1, len(positions))))
        for arm, positions in {"one": (0.0, 50.0, 100.0), "two": (25.0, 75.0)}.items()
    }
    cells = study_tables.measure_cells(Measure(crops, "error", "place"), found)
    assert [line[0] for line in cells] == ["place", "0", "25", "50", "75", "100"]
    assert cells[2][1:] == ["", "1.0000"]


AXIS = Axis("rate", {"plain": ("one curve", 0.1), "with momentum": ("one curve", 0.05)})


AXIS_TEXT = """
import dataclasses
from jaxcnn.study import Axis
AXIS = Axis("rate", {"plain": ("one curve", 0.1), "with momentum": ("one curve", 0.05)})
STUDY = dataclasses.replace(STUDY, axis=AXIS)
"""


def test_arms_are_points_along_an_axis(ended):
    chosen = dataclasses.replace(asking(one=Measure(lambda run: {"all": 2.0}, "two", "")), axis=AXIS)
    study_measures.measure(chosen, ended, **WHERE)
    ((asked, curves),) = study_measures.points(chosen, study_measures.collect(chosen, ended, **WHERE))
    assert (asked.position, list(curves)) == ("rate", ["one curve"])
    assert curves["one curve"][:2] == ((0.1, 0.05), (2.0, 2.0))
    rows = study_results.rows(study_results.collect(chosen, ended, **WHERE), SEEDS)
    outcomes = study_tables.outcomes_along(AXIS, rows, "test")
    assert {title: log for title, (_, log) in outcomes.items()} == {
        "training loss": True,
        "test loss": True,
        "test accuracy": False,
    }
    assert outcomes["test accuracy"][0]["one curve"] == ((0.1, 0.05), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(InputError, match="the axis of study 'small' has no point of 'plain'; expected all arms"):
        dataclasses.replace(chosen, axis=Axis("rate", {"with momentum": ("a", 1.0)}))


def test_the_command_measures_and_draws(ended, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measure = "def head(run):\n    return {'a': 1.0, 'b': len(run.directory.name)}\n\n"
    text = FILE.replace("def arm", measure + "def arm").replace("seeds=(0, 5)", "seeds=(0, 5, 7), measures=MEASURES")
    text = text.replace("ARMS =", 'MEASURES = {"heads": Measure(head, "length", "letter")}\nARMS =')
    Path("small.py").write_text(text.replace("import Study", "import Measure, Study"))
    status, out, _ = invoke(capsys, "study", "small.py", "--run", str(ended), "--json")
    assert status == 0
    rows = json.loads(out)["measures"]
    assert [(row["arm"], row["position"], row["mean"]) for row in rows[:2]] == [
        ("plain", "a", 1.0),
        ("plain", "b", 6.0),
    ]
    assert (ended / "small-measures.png").stat().st_size > 100
    status, _, err = invoke(capsys, "study", "small.py", "--run", str(ended), "--seeds")
    assert (status, "seeds are (); expected at least one, each once" in err) == (2, True)
    Path("small.py").write_text(Path("small.py").read_text() + AXIS_TEXT)
    before = (ended / "small.png").read_bytes()
    assert "| arm           |" in invoke(capsys, "study", "small.py", "--run", str(ended))[1].split("Length, by")[1]

    assert (ended / "small.png").read_bytes() != before  # along the axis now


@pytest.mark.slow
def test_the_page_of_the_study_shows_the_measures(ended):
    study_measures.measure(asking(**MEASURES), ended, **WHERE)
    text = write_report([ended]).read_text()
    assert "Test accuracy, by crops" in text
    assert "Accuracy together, by members" in text


def test_what_a_network_costs_is_what_its_summary_says(tmp_path, monkeypatch):
    spec = ModelSpec("mlp", models.options("mlp"), 10, (28, 28, 1), (0.5,), (0.5,), tuple("0123456789"))
    monkeypatch.setattr(run, "read", lambda directory: (Experiment(), spec))
    known = models.facts("mlp")
    found = {name: measure.of(Trained(tmp_path, None)) for name, measure in COST.items()}
    assert found == {
        "parameters": {"network": known.parameters},
        "multiply_adds": {"network": known.multiply_adds},
    }


@pytest.mark.slow
def test_the_measures_of_every_study_give_numbers_of_a_residual_network_of_tiny_images(tmp_path):
    tiny = Experiment(
        model=ModelConfig("cifar_resnet20"),
        data=DataConfig("digits", image_size=8, limit=320, batch_size=160),
        training=TrainingConfig(epochs=1, diagnose_every=10),
    )
    one = {"tiny": tiny}
    assert study.train(Study("tiny", "Which?", "Nobody.", one, one, "Tiny."), tmp_path)
    runs = [Trained(study.run_directory(tmp_path, "tiny", seed), None) for seed in range(3)]
    for name in catalog.files("study"):
        for title, measure in catalog.load_study(name)[0].measures.items():
            found = measure.of(*runs[: measure.members])
            study_measures._require_numbers(title, found)
            assert np.isfinite([*found.values()]).any(), (name, title)
            if "accuracy" in measure.title or "share" in measure.title:
                assert all(0 <= value <= 1 for value in found.values())
