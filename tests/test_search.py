"""Searches: what they try, what they end early or refuse, what they find, and what interrupts them."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import jax
import numpy as np
import optuna
import pytest
from rich.console import Console

from jaxcnn import catalog, run
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.errors import CheckpointError, InputError, RunError
from jaxcnn.train import search as searching
from jaxcnn.train import search_results, search_space
from jaxcnn.train.evaluate import Evaluation
from jaxcnn.train.loop import Result
from jaxcnn.train.recovery import Diverged
from jaxcnn.train.search import search

EXPERIMENT = Experiment(
    name="small",
    model=ModelConfig("mlp", {"width": 16}),
    data=DataConfig("digits", batch_size=128),
    optimizer=OptimizerConfig("sgd", learning_rate=0.3),
    training=TrainingConfig(epochs=3, seed=2),
)
VARIED = {"optimizer.learning-rate": "1e-5:1:log", "model.options.depth": "0:1"}
SPACE = search_space.parse(EXPERIMENT, VARIED)
HELD = dataclasses.replace(EXPERIMENT, data=dataclasses.replace(EXPERIMENT.data, validation=0.2))


def silent_training(accuracy=lambda rate: 1 - abs(np.log10(rate) + 1) / 10, happens=lambda number: None, curves=None):
    """In place of training: the accuracy of a learning rate or the `curves` of the trials, and what `happens`."""

    def train(experiment, directory, *, evaluated):
        calls.append(Path(directory).name)
        number = int(Path(directory).name[-4:])
        happens(number)
        top1 = float(accuracy(experiment.optimizer.learning_rate))
        curve = curves[number] if curves else [top1 * epoch / 3 for epoch in range(1, experiment.training.epochs + 1)]
        for epoch, score in enumerate(curve, 1):
            evaluated(epoch, Evaluation(100, score, 1.0, 1.0))
        return Result(str(directory), 1, curve[-1], 0.0, 0.0, True)

    calls: list[str] = []
    return train, calls


@pytest.fixture
def instant(monkeypatch):
    """The names of the trials that were trained, which takes no time."""
    train, calls = silent_training()
    monkeypatch.setattr(searching, "train", train)
    return calls


# ---- what is found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search of digits, and what it wrote."""
    directory, written = tmp_path_factory.mktemp("found") / "search", io.StringIO()
    return search(EXPERIMENT, SPACE, directory, trials=3, console=Console(file=written, width=60)), written.getvalue()


def test_trials_are_ordinary_runs_on_images_held_out_of_training(found):
    result, _ = found
    assert result.finished
    assert [trial.number for trial in result.trials] == list(range(3))
    for trial in result.trials:
        directory = Path(result.run) / f"trial-{trial.number:04d}"
        experiment, _ = run.read(directory)
        assert (experiment.data.validation, experiment.training.max_rollbacks) == (0.1, 0)
        assert experiment.optimizer.learning_rate == trial.parameters["optimizer.learning_rate"]
        assert experiment.model.options == {"width": 16, "depth": trial.parameters["model.options.depth"]}
        scored = [record for record in run.metrics(directory).read() if record["split"] == "validation"]
        assert [record["top1"] for record in scored] == list(trial.top1)
    # The first has the experiment's own settings, and no two are alike.
    assert result.trials[0].parameters == {"optimizer.learning_rate": 0.3, "model.options.depth": 1}
    assert len({trial.parameters["optimizer.learning_rate"] for trial in result.trials}) == 3


def test_the_best_is_the_most_accurate_complete_trial_and_becomes_an_experiment_file(found):
    result, _ = found
    scores = {trial.number: trial.top1[-1] for trial in result.trials if trial.state == "complete"}
    assert result.best is not None
    assert scores[result.best.number] == max(scores.values()) > 0.8
    files = search_results.write(result)
    assert [path.name for path in files] == ["trials.csv", "best.py"]
    best, description = catalog.load(str(files[1]))
    assert best == result.experiment
    number, score = result.best.number, scores[result.best.number]
    what = f"the best of 3 trials, number {number}, {score:.4f} on images held out of training"
    assert description == f"small_best: {what}."
    # All images are trained on again, as in the experiment that was searched around.
    assert (best.data, best.training) == (EXPERIMENT.data, EXPERIMENT.training)
    lines = files[0].read_text().splitlines()
    assert lines[0] == "trial,state,epochs,top1,optimizer.learning_rate,model.options.depth"
    assert len(lines) == 4


def test_a_line_is_written_for_each_trial_and_nothing_else(found, capfd):
    result, written = found
    first, *lines = written.splitlines()
    assert first == "no images are held out: trials hold out data.validation 0.1"
    assert [line.split()[1] for line in lines] == [str(number) for number in range(3)]
    trial = result.trials[0]
    assert lines[0] == (
        f"trial 0  optimizer.learning_rate 0.3  model.options.depth 1  accuracy {trial.top1[-1]:.4f}  complete"
    )
    search(EXPERIMENT, SPACE, result.run, trials=3)
    assert capfd.readouterr() == ("", "")


# ---- what is tried, ended early and best


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """The settings of 13 trials where the best learning rate is 0.1, and of as many where it is 1e-4."""
    found = []
    for best in (-1, -4):
        train, _ = silent_training(lambda rate, best=best: 1 - abs(np.log10(rate) - best) / 10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(searching, "train", train)
            found.append(search(HELD, SPACE, tmp_path_factory.mktemp("tried") / "a", trials=13).trials)
    return found


@pytest.mark.slow
def test_ten_trials_are_random_and_then_each_is_chosen_by_what_was_found(tried):
    large, small = ([trial.parameters for trial in trials] for trials in tried)
    assert large[:11] == small[:11]
    for one, other in zip(large[11:], small[11:], strict=True):
        assert one["optimizer.learning_rate"] > other["optimizer.learning_rate"]


@pytest.mark.slow
def test_a_kill_while_settings_are_chosen_loses_no_trial_and_changes_none(tried, tmp_path, monkeypatch, instant):
    suggest = optuna.Trial.suggest_int
    for kill in (1, 12):  # a random choice, and one that is not

        def killed(trial: optuna.Trial, *arguments, kill=kill, **options):
            return sys.exit("killed") if trial.number == kill else suggest(trial, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Trial, "suggest_int", killed)
            with pytest.raises(SystemExit):
                search(HELD, SPACE, tmp_path / "a", trials=13)
        last = study(tmp_path / "a").trials[-1]
        assert (last.number, list(last.params)) == (kill, ["optimizer.learning_rate"])
    # A larger number of trials adds to those that are there.
    assert search(HELD, SPACE, tmp_path / "a", trials=13).trials == tried[0]


def test_the_best_trial_is_the_one_that_ends_best(tmp_path, monkeypatch):
    train, _ = silent_training(curves=[(0.9, 0.5, 0.1), (0.2, 0.4, 0.6), (0.3, 0.7, 0.5)])
    monkeypatch.setattr(searching, "train", train)
    best = search(HELD, SPACE, tmp_path / "a", trials=3).best
    assert best is not None
    assert (best.number, best.top1) == (1, (0.2, 0.4, 0.6))


@pytest.mark.parametrize(("warmup", "ended"), [(0.0, 1), (1.5, 3)])
def test_a_trial_ends_early_where_it_is_below_the_median_of_the_complete_ones(tmp_path, monkeypatch, warmup, ended):
    curves = [
        *[(0.1, 0.2, 0.3, 0.4), (0.6, 0.7, 0.8, 0.9), (0.5, 0.6, 0.7, 0.8), (0.5, 0.6, 0.7, 0.8), (0.6, 0.7, 0.8, 0.9)],
        *[(0.4,) * 4, (0.6, 0.6, 0.6, 0.6), (0.5, 0.6, 0.7, 0.1), (0.5, 0.6, 0.7, 0.7)],
    ]
    train, _ = silent_training(curves=curves)
    monkeypatch.setattr(searching, "train", train)
    rule = dataclasses.replace(HELD.optimizer, warmup_epochs=warmup)
    experiment = dataclasses.replace(HELD, optimizer=rule, training=TrainingConfig(epochs=4))
    trials = search(experiment, SPACE, tmp_path / "a", trials=9).trials
    # The first five are whole, and so is what falls behind in its last epoch alone.
    assert [len(trial.top1) for trial in trials] == [4] * 5 + [ended, 3, 4, 4]
    assert [trial.state for trial in trials] == ["complete"] * 5 + ["pruned"] * 2 + ["complete"] * 2
    assert searching.line(trials[5]).endswith(f"accuracy 0.4000  pruned after epoch {ended}")


# ---- what interrupts a trial


def test_a_trial_that_diverges_counts_and_the_search_goes_on(tmp_path, monkeypatch):
    def happens(number: int) -> None:
        if number in (0, 2):
            raise Diverged(float("nan"), 3, "here")

    train, calls = silent_training(happens=happens)
    monkeypatch.setattr(searching, "train", train)
    result = search(HELD, SPACE, tmp_path / "a", trials=4)
    assert [trial.state for trial in result.trials] == ["diverged", "complete", "diverged", "complete"]
    assert len(calls) == 4
    assert result.best in result.trials[1::2]
    # Optuna's sampler learns from it: a failed trial would tell it nothing.
    states = [trial.state.name for trial in study(tmp_path / "a").trials]
    assert states == ["PRUNED", "COMPLETE", "PRUNED", "COMPLETE"]


def study(directory: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{directory / 'search.db'}")


@pytest.mark.parametrize("failure", [RunError("the disk is full"), None], ids=["failure", "signal"])
def test_a_trial_that_was_stopped_is_trained_on_in_its_directory(tmp_path, monkeypatch, failure):
    def happens(number: int) -> None:
        if number == 1 and failure:
            raise failure

    train, calls = silent_training(happens=happens)

    def stopped(experiment, directory, *, evaluated):
        if Path(directory).name != "trial-0001" or failure:
            return train(experiment, directory, evaluated=evaluated)
        evaluated(1, Evaluation(100, 0.5, 1.0, 1.0))
        return Result(str(directory), 1, 0.5, 0.0, 0.0, False)

    monkeypatch.setattr(searching, "train", stopped)
    if failure:
        with pytest.raises(RunError, match="the disk is full"):
            search(HELD, SPACE, tmp_path / "a", trials=3)
    else:
        result = search(HELD, SPACE, tmp_path / "a", trials=3)
        assert not result.finished
        assert [trial.state for trial in result.trials] == ["complete", "running"]
        assert result.trials[1].top1 == (0.5,)
    train, calls = silent_training(accuracy=lambda rate: 0.9)
    monkeypatch.setattr(searching, "train", train)
    result = search(HELD, SPACE, tmp_path / "a", trials=3)
    assert calls == ["trial-0001", "trial-0002"]
    assert [trial.state for trial in result.trials] == ["complete"] * 3
    # What had been told before is not told again.
    assert result.trials[1].top1 == pytest.approx((0.3 if failure else 0.5, 0.6, 0.9))


TOO_LARGE = "data.batch_size is 3989; expected at most the 1294 training images"
NO_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes.\nmore")


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (InputError(TOO_LARGE), TOO_LARGE),
        (
            NO_MEMORY,
            "training does not fit in memory (RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes.); expected",
        ),
    ],
    ids=["input", "memory"],
)
def test_a_trial_that_cannot_be_trained_is_refused_and_the_search_goes_on(tmp_path, monkeypatch, failure, sentence):
    def happens(number: int) -> None:
        if number == 1:
            raise failure

    monkeypatch.setattr(searching, "train", silent_training(happens=happens)[0])
    trials = search(HELD, SPACE, tmp_path / "a", trials=3).trials
    assert [trial.state for trial in trials] == ["complete", "refused", "complete"]
    assert [bool(trial.refusal) for trial in trials] == [False, True, False]
    assert f"  refused: {sentence}" in searching.line(trials[1])
    # It is not tried again.
    assert search(HELD, SPACE, tmp_path / "a", trials=3).trials == trials


def test_what_is_no_trials_fault_ends_the_search(tmp_path, monkeypatch):
    def happens(number: int) -> None:
        if number == failing:
            raise failure

    monkeypatch.setattr(searching, "train", silent_training(happens=happens)[0])
    # The experiment itself, a damaged checkpoint, another failure, and images that are not there any more.
    failing, failure = 0, InputError(TOO_LARGE)
    with pytest.raises(InputError, match="expected at most the 1294"):
        search(HELD, SPACE, tmp_path / "a", trials=3)
    failing = 1
    for failure in (CheckpointError("damaged"), jax.errors.JaxRuntimeError("INTERNAL: broken")):
        with pytest.raises(type(failure), match=str(failure)):
            search(HELD, SPACE, tmp_path / "a", trials=3)
    failure = InputError(TOO_LARGE)
    with monkeypatch.context() as patch:
        gone = InputError("the images are gone")
        patch.setattr(searching, "open_split", lambda *arguments: (_ for _ in ()).throw(gone))
        with pytest.raises(InputError, match="gone"):
            search(HELD, SPACE, tmp_path / "a", trials=3)
    failing = None
    trials = search(HELD, SPACE, tmp_path / "a", trials=3).trials
    assert [trial.state for trial in trials] == ["complete"] * 3


# ---- what is refused


def test_a_directory_that_holds_something_else_is_left_as_it_is(tmp_path, instant):
    search(HELD, SPACE, tmp_path / "a", trials=1)
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    other = dataclasses.replace(HELD, training=TrainingConfig(epochs=3, seed=3))
    with pytest.raises(CheckpointError, match="holds another search: training.seed was 2 and is now 3; choose another"):
        search(other, SPACE, tmp_path / "a")
    wider = search_space.parse(HELD, VARIED | {"optimizer.learning-rate": "1e-6:1:log"})
    with pytest.raises(CheckpointError, match="optimizer.learning_rate varied over .* and now varies over"):
        search(HELD, wider, tmp_path / "a")
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty and holds no search"):
        search(HELD, SPACE, tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"notes.txt is a file; expected a directory"):
        search(HELD, SPACE, tmp_path / "b" / "notes.txt")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["notes.txt"]
    for content in ("{", "[]", '{"space": {}}'):
        (tmp_path / "a" / "search.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"search.json is damaged"):
            search(HELD, SPACE, tmp_path / "a")
    assert len(instant) == 1


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("grpc://host", "storage is 'grpc://host'; expected grpc://HOST:PORT"),
        ("nonsense", "nonsense cannot be opened: "),
        ("postgresql://me:secret@host/db", r"postgresql://me:\*\*\*@host/db cannot be opened: "),
        ("sqlite:////no/such/folder/x.db", "cannot be opened: "),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_sentence(tmp_path, storage, message):
    with pytest.raises(InputError, match=message) as raised:
        search(HELD, SPACE, tmp_path / "a", storage=storage)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_trials_must_be_at_least_one(tmp_path):
    with pytest.raises(InputError, match="trials is 0; expected at least 1"):
        search(HELD, SPACE, tmp_path, trials=0)
