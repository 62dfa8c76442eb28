"""Networks that learn what fooled those before them: what joins the class, that it goes on, and mistakes."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from commands import invoke
from test_figures import check_legible, words

import jaxcnn
from jaxcnn import run
from jaxcnn.analysis import evolution
from jaxcnn.errors import InputError
from jaxcnn.figures import retraining as figures
from jaxcnn.report import retraining

TINY = ("lenet5_digits", "--model.name", "mlp", "--training.epochs", "1", "--evolutions", "2", "--generations", "3",
        "--population", "6", "--first", "50", "--further", "7", "--seed", "3")  # fmt: skip


def arrays(path):
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


@pytest.mark.slow
def test_each_network_learns_what_fooled_those_before(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = invoke(capsys, "retrain", *TINY, "--networks", "2", "--run", "whole", "--json")
    assert status == 0
    printed = json.loads(out)
    assert printed["finished"]
    assert [(row["network"], row["method"]) for row in printed["networks"]] == [
        (1, "cppn"), (1, "direct"), (2, "cppn"), (2, "direct")
    ]  # fmt: skip
    found = arrays("whole/retraining.npz")
    assert found["cppn_confidences"].shape == (2, 2, 10)
    for row in printed["networks"]:
        sure = found[f"{row['method']}_confidences"][row["network"] - 1]
        np.testing.assert_allclose([row["median"], row["least"]], [np.median(sure), sure.min()])
    assert printed["networks"][0]["recognised"] is None
    assert printed["networks"][2]["share"] == pytest.approx(50 / (50 + 1438))

    # A file of an evolution calls their number as in earlier versions, whose directories go on.
    assert json.loads(str(arrays("whole/fooled-1/cppn-0.npz")["about"]))["runs"] == 2

    # The second network's additional class holds the first and last images of all evolutions for the first network.
    made = [arrays(f"whole/fooled-1/{method}-{number}.npz") for method in ("cppn", "direct") for number in (0, 1)]
    pool = {image.tobytes() for part in made for name in ("first", "last") for image in part[name]}
    joined = arrays("whole/fooled-1/fooling.npz")["images"]
    assert {image.tobytes() for image in joined} <= pool
    assert len({image.tobytes() for image in joined}) >= 0.6 * len(pool)
    assert len(arrays("whole/fooled-2/fooling.npz")["images"]) == 57
    experiment, spec = run.read("whole/network-2")
    assert spec.class_names[-1] == "fooling"
    assert spec.mean == run.read("whole/network-1")[1].mean
    assert experiment.data.extra_class == str(tmp_path / "whole" / "fooled-1" / "fooling.npz")

    # An evolution is that of its key, and what the next network makes of its images is what is said.
    model, state = jaxcnn.load("whole/network-1")
    key = jax.random.key(3)
    for part in (1, 1, 0):
        key = jax.random.fold_in(key, part)
    alone = evolution.map_elites(
        model, state, (28, 28, 1), key=key, encoding="direct", generations=3, population=6
    ).history[-1]
    np.testing.assert_array_equal(found["direct_confidences"][0, 0], alone)
    model, state = jaxcnn.load("whole/network-2")
    images = np.float32(found["direct_last"][0].reshape(-1, 28, 28, 1)) / 255
    logits = np.asarray(model.apply(state.variables, images, train=False))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = (shares / shares.sum(1, keepdims=True))[np.arange(20), np.tile(np.arange(10), 2)]
    assert printed["networks"][3]["recognised"] == pytest.approx(np.median(shares), rel=1e-4)

    # Interrupted in its third evolution, and then asked for one network more, it ends in the same numbers.
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = retraining.evolve
    monkeypatch.setattr(retraining, "evolve", interrupted)
    assert invoke(capsys, "retrain", *TINY, "--networks", "1", "--run", "parts")[0] == 130
    assert invoke(capsys, "retrain", *TINY, "--networks", "1", "--run", "parts")[0] == 0
    assert len(calls) == 5
    status, out, _ = invoke(capsys, "retrain", *TINY, "--networks", "2", "--run", "parts")
    assert status == 0
    assert "network 2 (test accuracy 0." in out
    assert len(calls) == 9
    for name, value in arrays("parts/retraining.npz").items():
        np.testing.assert_array_equal(value, found[name])
    with open("parts/retraining.csv") as file:
        assert [int(row["network"]) for row in csv.DictReader(file)] == [1, 1, 2, 2]

    status, out, err = invoke(capsys, "retrain", *TINY, "--further", "8", "--run", "parts")
    assert (status, out) == (2, "")
    assert "parts holds another retraining: further was 7 and is now 8; choose another --run" in err
    status, _, err = invoke(capsys, "retrain", *TINY, "--training.seed", "8", "--run", "parts")
    assert status == 2
    assert "parts holds another retraining: training.seed was 0 and is now 8" in err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--networks", "0"], "networks is 0; expected at least 1"),
        (["--evolutions", "0"], "evolutions is 0; expected at least 1"),
        (["--first", "-1"], "first is -1; expected at least 1"),
        (["--seed", "-1"], "seed is -1; expected 0 to 2^32 - 1"),
        (["--methods", "cppn", "cppn"], "each once"),
        (["--data.extra-class", "x.npz"], "expected None, as fooling images take it"),
        (["--data.validation", "0.1"], "data.validation is 0.1; expected 0, as test images are classified"),
        (["--run", "full"], "full holds no retraining; expected a new or empty directory"),
        (["--run", "full/something"], "full/something is a file; expected a directory as --run"),
    ],
)
def test_mistakes_are_told_in_a_sentence(capsys, tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    status, out, err = invoke(capsys, "retrain", *TINY, *given)
    assert (status, out) == (2, "")
    assert says in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "something"]


def test_a_directory_of_an_earlier_version_goes_on(capsys, tmp_path, monkeypatch):
    """There, the evolutions of each method were called runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retraining.loop, "train", lambda *_, **__: SimpleNamespace(finished=False))
    assert invoke(capsys, "retrain", *TINY, "--run", "old")[0] == 0
    file = tmp_path / "old" / "retraining.json"
    held = json.loads(file.read_text())
    assert held["plan"]["evolutions"] == 2
    held["plan"]["runs"] = held["plan"].pop("evolutions")
    file.write_text(json.dumps(held))
    status, out, _ = invoke(capsys, "retrain", *TINY, "--run", "old")
    assert (status, out) == (0, "old: stopped; the same command continues\n")
    status, _, err = invoke(capsys, "retrain", *TINY, "--evolutions", "3", "--run", "old")
    assert status == 2
    assert "old holds another retraining: evolutions was 2 and is now 3; choose another --run" in err


def test_the_figure_shows_both_confidences_and_the_error():
    line = figures.Line([0.7, 0.6, 0.5], [0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [np.nan, 0.2, 0.3])
    figure = figures.retraining({"cppn": line, "direct": line}, [0.9, 0.8, 0.9], published=0.9999)
    check_legible(figure)
    confidence, error = figure.axes
    shown = [np.asarray(drawn.get_ydata()) for drawn in confidence.lines[:2]]
    np.testing.assert_array_equal(shown, [line.median, line.recognised])
    np.testing.assert_array_equal(confidence.lines[1].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(np.asarray(error.lines[0].get_ydata()), [10, 20, 10])
    assert "published: 0.9999 for all" in words(figure)
    with pytest.raises(InputError, match="no network was fooled"):
        figures.retraining({}, [0.9])
    with pytest.raises(InputError, match=r"arrays of cppn have shapes .* expected \(2,\)"):
        figures.retraining({"cppn": line}, [0.9, 0.8])
