"""Ensembles of runs: the table of single against together, and which runs may not be asked together."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from commands import invoke
from PIL import Image

import jaxcnn
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.data import crops, open_split
from jaxcnn.errors import InputError
from jaxcnn.train.ensemble import evaluate_ensemble
from jaxcnn.train.evaluate import evaluate_run
from jaxcnn.train.loop import train


def experiment(*, seed=0, width=8, name="mlp", size=None, **data) -> Experiment:
    return Experiment(
        model=ModelConfig(name, {"width": width} if name == "mlp" else {}),
        data=DataConfig(**{"dataset": "digits", "image_size": size, "batch_size": 160, **data}),
        optimizer=OptimizerConfig(learning_rate=0.03),
        training=TrainingConfig(epochs=2, seed=seed),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Other architectures, sizes of the same images, seeds and parts of the training images."""
    folder = tmp_path_factory.mktemp("runs")
    for name, chosen in (
        ("mlp", experiment()),
        ("larger", experiment(seed=1, width=12, size=10)),
        ("subset", experiment(seed=2, validation=0.3)),
    ):
        train(chosen, folder / name)
    return folder


MEMBERS = ("mlp", "larger", "subset")


def probabilities(directory, views: int = 1) -> np.ndarray:
    """Of the test images, by SciPy; of the ten crops of the images in a border of one pixel."""
    model, state = jaxcnn.load(directory)
    config = jaxcnn.run.read(directory)[0].data
    source = open_split(config, "test", 0)
    images = jnp.asarray(source.read(range(len(source)))[0].astype(np.float32) / 255)
    size = source.image_shape[:2]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    looks = crops.ten_views(padded, size) if views == 10 else images[None]
    logits = [np.asarray(model.apply(state.variables, look, train=False), np.float64) for look in looks]
    return scipy.special.softmax(np.stack(logits), axis=-1).mean(axis=0)


@pytest.mark.parametrize("views", [1, 10])
def test_the_ensemble_is_the_mean_of_the_probabilities(runs, views):
    result = evaluate_ensemble([runs / name for name in MEMBERS], crops=views)
    assert [member.run for member in result.members] == [str(runs / name) for name in MEMBERS]
    for member in result.members:
        assert member.scores == evaluate_run(member.run, crops=views)
    mean = np.mean([probabilities(runs / name, views) for name in MEMBERS], axis=0)
    source = open_split(DataConfig("digits"), "test", 0)
    labels = source.read(range(len(source)))[1]
    order = np.argsort(-mean, axis=1)
    assert result.ensemble.examples == len(labels)
    assert result.ensemble.top1 == pytest.approx(np.mean(order[:, 0] == labels))
    assert result.ensemble.top5 == pytest.approx(np.mean((order[:, :5] == labels[:, None]).any(axis=1)))
    assert result.ensemble.loss == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    # The negative logarithm is convex.
    assert result.ensemble.loss < np.mean([member.scores.loss for member in result.members])


def test_the_order_of_the_runs_changes_the_order_of_the_table_alone(runs):
    one, two = (evaluate_ensemble([runs / name for name in names]) for names in (MEMBERS, MEMBERS[::-1]))
    assert one.members == two.members[::-1]
    assert dataclasses.asdict(one.ensemble) == pytest.approx(dataclasses.asdict(two.ensemble))


def test_copies_of_a_run_are_no_better_than_the_run(runs, tmp_path):
    shutil.copytree(runs / "mlp", tmp_path / "copy")
    result = evaluate_ensemble([runs / "mlp", tmp_path / "copy"])
    assert dataclasses.asdict(result.ensemble) == pytest.approx(dataclasses.asdict(evaluate_run(runs / "mlp")))


@pytest.mark.slow
def test_the_command_prints_single_against_ensemble(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    expected = evaluate_ensemble(MEMBERS, checkpoint="best")
    status, out, _ = invoke(capsys, "evaluate", *MEMBERS, "--checkpoint", "best", "--json")
    assert status == 0
    assert json.loads(out) == {
        "members": [{"run": m.run, **dataclasses.asdict(m.scores)} for m in expected.members],
        "ensemble": dataclasses.asdict(expected.ensemble),
        "crops": 1,
    }
    status, out, _ = invoke(capsys, "evaluate", *MEMBERS, "--checkpoint", "best")
    rows = [line.split() for line in out.splitlines()]
    assert (status, rows[:2]) == (0, [["359", "images"], ["run", "top-1", "top-5", "loss"]])
    table = [*((m.run, m.scores) for m in expected.members), ("ensemble", expected.ensemble)]
    for row, (name, scores) in zip(rows[2:], table, strict=True):
        assert row == [name, *(f"{value:.4f}" for value in (scores.top1, scores.top5, scores.loss))]
    assert len({len(line) for line in out.splitlines()[2:]}) == 1


# ---- runs that are not asked together


def picture_folder(root, kinds=("a", "b"), per_class=8) -> None:
    rng = np.random.default_rng(len(kinds))
    for split in ("train", "test"):
        for kind in kinds:
            (root / split / kind).mkdir(parents=True)
            for i in range(per_class):
                Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / split / kind / f"{i}.png")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs on folders of two classes in two places, and on three classes."""
    folder = tmp_path_factory.mktemp("others")
    for name, kinds in (("two", "ab"), ("again", "ab"), ("three", "abc")):
        picture_folder(folder / "pictures" / name, kinds)
        train(experiment(dataset="folder", directory=str(folder / "pictures" / name), batch_size=8), folder / name)
    return folder


@pytest.mark.slow
def test_runs_of_other_classes_or_images_are_refused(runs, others):
    for names, says in (
        ([runs / "mlp", others / "two"], r"two has the classes a, b, \.\.\.; expected those of .*mlp, 0, 1, 2"),
        ([others / "two", others / "three"], r"three has the classes a, b, c, \.\.\.; expected those of .*two, a, b"),
        ([others / "two", others / "again"], "again has data of another directory, '.*again'; expected '.*two'"),
        ([runs / "mlp"], "expected at least two, each once"),
        ([runs / "mlp", runs / "larger", runs / ".." / runs.name / "mlp"], "expected at least two, each once"),
        ([runs / "mlp", runs / "nowhere"], "nowhere is not a run directory"),
    ):
        with pytest.raises(InputError, match=says):
            evaluate_ensemble(names)


@pytest.mark.slow
def test_one_place_for_the_images_makes_runs_alike(others):
    place = str(others / "pictures" / "again")
    result = evaluate_ensemble([others / "two", others / "again"], data_directory=place)
    assert result.members[1].scores == evaluate_run(others / "again")
    assert result.members[0].scores == evaluate_run(others / "two", data_directory=place)


@pytest.mark.slow
def test_splits_held_out_by_other_seeds_or_shares_are_other_images(runs, tmp_path):
    with pytest.raises(InputError, match=r"subset has data of another validation share, 0\.3; expected 0\.0"):
        evaluate_ensemble([runs / "mlp", runs / "subset"], split="train")
    train(experiment(seed=3, validation=0.3), tmp_path / "seed")
    with pytest.raises(InputError, match="seed has data of another seed of the validation split, 3; expected 2"):
        evaluate_ensemble([runs / "subset", tmp_path / "seed"], split="validation")
    assert evaluate_ensemble([runs / "mlp", runs / "larger"], split="train").ensemble.examples == 1438


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mlp", "larger", "--weights", "x.npz", "--dataset", "digits"], "larger follows mlp --weights FILE"),
        (["mlp", "mlp"], "the runs are mlp, mlp; expected at least two, each once"),
        (["mlp", "larger", "--crops", "144"], "crops are 144, with images of 8x8"),
        (["mlp", "larger", "--image-size", "9"], "go with --weights FILE"),
    ],
)
def test_mistakes_are_one_sentence(runs, capsys, monkeypatch, words, says):
    monkeypatch.chdir(runs)
    status, out, err = invoke(capsys, "evaluate", *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err
