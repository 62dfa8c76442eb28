"""The training loop: what it reaches, what it writes, and that neither a kill nor the device count changes it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import jaxcnn
from jaxcnn import config, run
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.errors import CheckpointError, InputError, RunError
from jaxcnn.train.diagnostics import read_timing
from jaxcnn.train.evaluate import evaluate_run
from jaxcnn.train.loop import train
from jaxcnn.train.start import pixel_statistics

# A network with dropout, a validation share and checkpoints inside epochs: all that a resumption could get wrong.
SMALL = Experiment(
    "small",
    ModelConfig("mlp", {"width": 32, "dropout": 0.2}),
    DataConfig("digits", batch_size=64, validation=0.1),
    OptimizerConfig("momentum", learning_rate=0.1, schedule="cosine", weight_decay=1e-4),
    TrainingConfig(epochs=4, log_every=7, checkpoint_every=5),
)


def with_training(experiment, **changes):
    return dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, **changes))


def metrics(directory) -> bytes:
    return (Path(directory) / "metrics.jsonl").read_bytes()


def leaves(directory) -> list[np.ndarray]:
    _, state = jaxcnn.load(directory)
    return [np.asarray(jax.random.key_data(x) if x is state.key else x) for x in jax.tree.leaves(state)]


def assert_same_run(one, other):
    assert metrics(one) == metrics(other)
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never interrupted."""
    directory = tmp_path_factory.mktemp("run") / "small"
    return directory, train(SMALL, directory)


def test_a_run_learns_and_says_what_it_did(finished):
    directory, result = finished
    records = run.metrics(directory).read()
    training = [r for r in records if r["split"] == "train"]
    validation = [r for r in records if r["split"] == "validation"]
    assert result.finished
    assert result.steps == 4 * (1294 // 64) == training[-1]["step"]
    assert result.top1 == validation[-1]["top1"] > 0.85
    assert training[-1]["loss"] < 0.5 * training[0]["loss"]
    assert [r["step"] for r in validation] == [20, 40, 60, 80]
    # Every seventh step and the last of each epoch.
    assert [r["step"] for r in training] == sorted({*range(7, 81, 7), 20, 40, 60, 80})
    assert {"experiment.json", "model.json", "environment.json", "checkpoints", "tensorboard"} <= {
        path.name for path in directory.iterdir()
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_numbers_images_and_histograms_of_every_epoch(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory, _ = finished
    events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"images": 0, "histograms": 0}).Reload()
    tags: dict = events.Tags()
    assert {"train/loss", "train/images_per_second", "validation/top1"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"predictions", "first_layer"}
    assert "parameters/hidden1/kernel" in tags["histograms"]
    for tag in tags["images"]:
        assert [event.step for event in events.Images(tag)] == [20, 40, 60, 80]
    assert [event.step for event in events.Histograms("parameters/hidden1/kernel")] == [20, 40, 60, 80]
    _, state = jaxcnn.load(directory)
    last = events.Histograms("parameters/hidden1/kernel")[-1].histogram_value
    np.testing.assert_allclose(last.max, state.params["hidden1"]["kernel"].max())


def test_the_learning_rate_written_is_the_schedule(finished):
    directory, result = finished
    for record in run.metrics(directory).read():
        if record["split"] == "train":
            step = record["step"] - 1
            assert record["learning_rate"] == pytest.approx(0.05 * (1 + np.cos(np.pi * step / result.steps)), rel=1e-4)


def test_the_directory_alone_gives_the_numbers_of_the_run(finished):
    directory, result = finished
    scores = evaluate_run(directory, split="validation")
    assert scores.top1 == result.top1
    assert scores.examples == round(0.1 * 1438)
    best = run.metrics(directory).read()
    best = max(r["top1"] for r in best if r["split"] == "validation")
    assert evaluate_run(directory, split="validation", checkpoint="best").top1 == best


def test_a_finished_run_started_again_changes_nothing(finished):
    directory, result = finished
    before = metrics(directory)
    again = train(SMALL, directory)
    assert (again.steps, again.top1, again.finished) == (result.steps, result.top1, True)
    assert metrics(directory) == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_does_not(finished, tmp_path):
    directory, _ = finished
    train(SMALL, tmp_path / "again")
    assert_same_run(directory, tmp_path / "again")
    train(with_training(SMALL, seed=1), tmp_path / "other")
    assert metrics(tmp_path / "other") != metrics(directory)


@pytest.mark.slow
def test_whoever_asks_hears_of_every_evaluation_and_its_time_is_not_training(tmp_path, monkeypatch):
    heard, saved, told = [], [], []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, state, **rest: (saved.append(int(state.step)), save(self, state, **rest))
    )

    def evaluated(epoch, scores):
        heard.append((epoch, scores.top1))
        told.append(list(saved))
        time.sleep(0.5)

    short = with_training(SMALL, epochs=2)
    train(short, tmp_path, evaluated=evaluated)
    records = [json.loads(line) for line in metrics(tmp_path).splitlines()]
    scored = [record["top1"] for record in records if record["split"] == "validation"]
    assert heard == list(enumerate(scored, start=1))
    seconds, _ = read_timing(tmp_path)
    assert seconds["evaluation"] >= 1
    assert seconds["data"] < 0.5
    steps = [record["step"] for record in records if record["split"] == "validation"]
    assert [before[-1] for before in told] == steps  # a search may end the run there, and go on another day
    timed = [json.loads(line)["images"] for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert sum(timed) == (steps[-1] - 1) * SMALL.data.batch_size  # the first step was compiled

    train(short, tmp_path, evaluated=evaluated)  # a run that is continued tells its past
    assert heard == 2 * list(enumerate(scored, start=1))


@pytest.mark.slow
def test_streamed_images_give_the_same_run(finished, tmp_path):
    streamed = dataclasses.replace(SMALL, data=dataclasses.replace(SMALL.data, storage="stream"))
    train(streamed, tmp_path / "run")
    assert_same_run(finished[0], tmp_path / "run")


# ---- interruption, in a process of its own

SCRIPT = """
import json, sys
from jaxcnn import config
from jaxcnn.train.diagnostics import read_timing
from jaxcnn.train.loop import train
result = train(config.from_json(config.Experiment, json.loads(sys.argv[1])), sys.argv[2])
print(json.dumps({"steps": result.steps, "finished": result.finished}))
"""


def start(directory) -> subprocess.Popen:
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(config.to_json(SMALL)), str(directory)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=os.environ)


def last_step(directory) -> int:
    lines = metrics(directory).splitlines() if (Path(directory) / "metrics.jsonl").exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith(b"}") else 0


def wait_for_step(process, directory, step):
    """Waits until this process, and not one before it, has written a record at `step` or later."""
    deadline = time.monotonic() + 120
    inherited = last_step(directory)
    while last_step(directory) < max(step, inherited + 1):
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_bits(finished, tmp_path):
    directory = tmp_path / "killed"
    kills = 0
    for step in (1, 41, 66):
        process = start(directory)
        wait_for_step(process, directory, step)
        time.sleep(0.013 * kills)  # inside steps, evaluations and saves alike
        process.kill()
        process.communicate()
        kills += 1
    process = start(directory)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert json.loads(output)["finished"]
    assert kills == 3
    assert_same_run(finished[0], directory)


@pytest.mark.slow
def test_sigterm_saves_where_it_stands_and_ends_well(finished, tmp_path):
    directory = tmp_path / "terminated"
    process = start(directory)
    wait_for_step(process, directory, 14)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    said = json.loads(output)
    assert not said["finished"]
    assert 14 <= said["steps"] < 80
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest() == said["steps"]
    train(SMALL, directory)
    assert_same_run(finished[0], directory)


# ---- bad input


def test_a_directory_of_another_experiment_is_refused_and_left_alone(finished):
    directory, _ = finished
    before = metrics(directory)
    with pytest.raises(CheckpointError, match=r"optimizer.learning_rate was 0.1 and is now 0.2.*--run"):
        train(
            dataclasses.replace(
                SMALL, optimizer=OptimizerConfig("momentum", learning_rate=0.2, schedule="cosine", weight_decay=1e-4)
            ),
            directory,
        )
    assert metrics(directory) == before


def test_unknown_names_are_refused_before_anything_is_written(tmp_path):
    for changed in (
        dataclasses.replace(SMALL, model=ModelConfig("lenet")),
        dataclasses.replace(SMALL, data=DataConfig("digit", batch_size=64)),
        dataclasses.replace(SMALL, data=DataConfig("digits", batch_size=60)),  # 8 devices
        dataclasses.replace(SMALL, data=DataConfig("digits", batch_size=1600)),
    ):
        with pytest.raises(InputError):
            train(changed, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_that_is_no_longer_finite_ends_the_run_with_a_sentence(tmp_path):
    wild = dataclasses.replace(SMALL, optimizer=OptimizerConfig("sgd", learning_rate=1e30))
    with pytest.raises(RunError, match=r"the training loss is (nan|inf) at step 5 .*smaller optimizer.learning_rate"):
        train(wild, tmp_path / "run")


@pytest.mark.slow
def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    wild = dataclasses.replace(
        SMALL,
        optimizer=OptimizerConfig("sgd", learning_rate=1e30),
        training=TrainingConfig(epochs=4, log_every=1000, checkpoint_every=1),
    )
    with pytest.raises(RunError, match="the training loss is"):
        train(wild, tmp_path / "run")
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest() is not None
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jaxcnn.load(tmp_path / "run")[1].params))


def test_records_without_their_checkpoints_are_not_thrown_away(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    shutil.rmtree(directory / "checkpoints")
    before = metrics(directory)
    with pytest.raises(CheckpointError, match="holds no checkpoint, though metrics.jsonl tells of 80 steps"):
        train(SMALL, directory)
    assert metrics(directory) == before


def picture_folder(path: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for split, n in (("train", count), ("test", 3)):
        for name in ("a", "b"):
            (path / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{i}.png")
    return path


def folder_experiment(directory) -> Experiment:
    return Experiment(
        "folder",
        ModelConfig("mlp", {"width": 8}, mean=(0.5,), std=(0.3,)),
        DataConfig("folder", directory=str(directory), batch_size=8),
        training=TrainingConfig(epochs=1),
    )


@pytest.mark.slow
def test_a_run_finds_its_images_from_anywhere_and_after_they_moved(tmp_path, monkeypatch):
    picture_folder(tmp_path / "pictures", 8)
    monkeypatch.chdir(tmp_path)
    train(folder_experiment("pictures"), "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate_run(tmp_path / "run").examples == 6
    (tmp_path / "pictures").rename(tmp_path / "moved")
    assert evaluate_run(tmp_path / "run", data_directory="../moved").examples == 6
    train(folder_experiment("../moved"), tmp_path / "run")
    assert evaluate_run(tmp_path / "run").examples == 6


def test_training_images_that_have_gone_or_come_since_are_refused(tmp_path):
    picture_folder(tmp_path / "pictures", 8)
    train(folder_experiment(tmp_path / "pictures"), tmp_path / "run")
    (tmp_path / "pictures" / "train" / "a" / "0.png").unlink()
    with pytest.raises(CheckpointError, match="was trained on 16 images, and the training split now has 15"):
        train(folder_experiment(tmp_path / "pictures"), tmp_path / "run")


def test_a_single_class_is_nothing_to_train_on(tmp_path):
    picture_folder(tmp_path / "pictures", 8)
    for split in ("train", "test"):
        shutil.rmtree(tmp_path / "pictures" / split / "b")
    with pytest.raises(InputError, match=r"folder has the one class \('a',\); expected at least two"):
        train(folder_experiment(tmp_path / "pictures"), tmp_path / "run")


def test_a_broken_test_image_is_found_before_anything_is_written(tmp_path):
    picture_folder(tmp_path / "pictures", 8)
    broken = tmp_path / "pictures" / "test" / "b" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match=r"2\.png"):
        train(folder_experiment(tmp_path / "pictures"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- statistics of the pixels


def test_pixel_statistics_are_the_mean_and_deviation_of_every_channel():
    from jaxcnn.data import ArraySource

    images = np.random.default_rng(0).integers(0, 256, (300, 5, 4, 3), np.uint8)
    source = ArraySource(images, np.zeros(300, np.int32), ("a",))
    mean, std = pixel_statistics(source)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-9)


def test_a_channel_that_never_varies_has_deviation_one():
    from jaxcnn.data import ArraySource

    source = ArraySource(np.full((9, 2, 2, 1), 51, np.uint8), np.zeros(9, np.int32), ("a",))
    assert pixel_statistics(source) == ((0.2,), (1.0,))


DEAD = """
import flax.linen as nn
import jax.numpy as jnp
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.models.registration import Facts, Registration

class Dead(ImageModel):
    @nn.compact
    def __call__(self, images, *, train):
        x = self.standardize(images).reshape(len(images), -1)
        return nn.relu(nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32)) - 1e9)

MODELS = {"dead": Registration(Dead, Facts(paper="None", year=2026, input_shape=(8, 8, 1), num_classes=10))}
"""


def test_a_network_that_has_died_is_told_of(tmp_path, capsys):
    (tmp_path / "dead.py").write_text(DEAD)
    for name, told in ((f"{tmp_path}/dead.py:dead", True), ("mlp", False)):
        experiment = dataclasses.replace(with_training(SMALL, epochs=1), model=ModelConfig(name))
        train(experiment, tmp_path / str(told), console=Console(soft_wrap=True))
        assert ("every class the same logit, and may have died" in " ".join(capsys.readouterr().out.split())) == told
