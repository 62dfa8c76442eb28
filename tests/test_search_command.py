"""`jaxcnn search` as a user meets it: what it prints, draws and writes, and what it says of mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import commands
import pytest
from test_search import silent_training

from jaxcnn import catalog
from jaxcnn.errors import InputError
from jaxcnn.train import search as searching
from jaxcnn.train.recovery import Diverged


def invoke(capsys, *arguments: object) -> tuple[object, str, str]:
    return commands.invoke(capsys, "search", *arguments)


@pytest.mark.slow
def test_the_command_prints_draws_and_writes_what_was_found(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, calls = silent_training()
    monkeypatch.setattr(searching, "train", train)
    arguments = ["lenet5_digits", "--trials", "4", "--vary", "optimizer.learning-rate", "1e-4:1:log"]
    arguments += ["model.name", "lenet5,mlp", "--training.epochs", "3"]
    status, out, err = invoke(capsys, *arguments, "--json")
    assert status == 0
    printed = json.loads(out)
    assert sorted(printed) == ["finished", "parameters", "run", "top1", "trials"]
    assert printed["run"] == "runs/lenet5_digits_search"
    assert sum(printed["trials"].values()) == 4
    assert printed["finished"] is True
    assert err.count("\n") == 5
    best, _ = catalog.load("runs/lenet5_digits_search/best.py")
    assert best.optimizer.learning_rate == printed["parameters"]["optimizer.learning_rate"]
    assert best.model.name == printed["parameters"]["model.name"]
    assert (best.name, best.training.epochs, best.data.validation) == ("lenet5_digits_best", 3, 0)
    figures = tmp_path / "runs/lenet5_digits_search/figures"
    assert sorted(path.name for path in figures.iterdir()) == ["search.pdf", "search.png"]

    status, out, err = invoke(capsys, *arguments)
    assert status == 0
    assert out.splitlines()[0].split() == ["trial", "state", "epochs", "top1", "optimizer.learning_rate", "model.name"]
    assert out.splitlines()[-1].endswith("jaxcnn train runs/lenet5_digits_search/best.py")
    assert len(calls) == 4


def test_refused_trials_are_counted_drawn_and_said_and_a_search_that_was_stopped_says_so(capsys, tmp_path, monkeypatch):
    def happens(number: int) -> None:
        if number == 1:
            raise InputError("data.batch_size is 3989; expected at most the 1294 training images")

    train, _ = silent_training(happens=happens)

    def stopped(experiment, directory, *, evaluated):
        result = train(experiment, directory, evaluated=evaluated)
        return dataclasses.replace(result, finished=Path(directory).name != "trial-0002")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(searching, "train", stopped)
    status, out, err = invoke(capsys, "lenet5_digits", "--trials", "3", "--training.epochs", "3", "--json")
    printed = json.loads(out)
    assert (status, printed["finished"]) == (0, False)
    assert printed["trials"] == {"complete": 1, "pruned": 0, "diverged": 0, "refused": 1, "running": 1}
    assert err.splitlines()[2].endswith("  refused: data.batch_size is 3989; expected at most the 1294 training images")
    assert "\n1,refused,0,," in (tmp_path / "runs/lenet5_digits_search/trials.csv").read_text()


def test_a_search_whose_trials_all_diverge_has_failed(capsys, tmp_path, monkeypatch):
    def happens(number: int) -> None:
        raise Diverged(float("inf"), 1, "here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(searching, "train", silent_training(happens=happens)[0])
    status, _, err = invoke(capsys, "lenet5_digits", "--trials", "2")
    assert status == 1
    assert "none of the 2 trials of runs/lenet5_digits_search was complete" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], ""),
        (["--trials", "3"], "the experiment comes first: jaxcnn search EXPERIMENT --trials"),
        (["lenet5_digits", "--trails", "3"], "--trials"),
        (["lenet5_digits", "--vary", "optimizer.learning-rat", "1:2"], "did you mean optimizer.learning_rate"),
        (["lenet5_digits", "--trials", "0"], "trials is 0"),
        (["lenet5_digit"], "did you mean lenet5_digits"),
    ],
)
def test_bad_usage_is_status_2_and_one_sentence(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = invoke(capsys, *arguments)
    assert status == 2
    assert message in err
    assert not list(tmp_path.iterdir())
