"""Which runs of a study are trained, and in which order; arms are checked before any is, and may change until then."""

from __future__ import annotations

import dataclasses
import re

import jax
import pytest
from test_study import arm, small

from jaxcnn import models, state
from jaxcnn.config import DataConfig, ModelConfig, OptimizerConfig
from jaxcnn.data import open_split
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.interop import weights
from jaxcnn.train import loop, start, study, study_results


@pytest.fixture
def instant(monkeypatch) -> list[tuple[str, int]]:
    """The arm and the seed of every training that is called for; it takes no time and leaves a directory behind."""
    called = []

    def train(experiment, directory, **options):
        called.append((directory.parent.name, experiment.training.seed))
        directory.mkdir(parents=True, exist_ok=True)
        return loop.Result(str(directory), 16, 0.5, 0.0, 0.0, finished=True)

    monkeypatch.setattr(loop, "train", train)
    return called


def test_a_study_that_is_killed_between_two_runs_goes_on_with_the_third(tmp_path, instant, monkeypatch):
    with monkeypatch.context() as patch:
        honest = loop.train
        patch.setattr(loop, "train", lambda e, d, **o: honest(e, d, **o) if len(instant) < 2 else killed())
        with pytest.raises(KeyboardInterrupt):
            study.train(small(), tmp_path)
    assert instant == [("plain", 0), ("with momentum", 0)]
    with pytest.raises(CheckpointError, match="plain/seed-5 has not ended"):
        study_results.collect(small(), tmp_path, scale="quick", seeds=(5,))
    assert study.train(small(), tmp_path)
    assert instant[2:] == [("plain", 5), ("with momentum", 5)]
    assert study.train(small(), tmp_path)
    assert len(instant) == 4


def killed() -> None:
    raise KeyboardInterrupt


BAD = {
    "data.batch_size is 8000; expected at most the 1438": {"data": DataConfig("digits", image_size=8, batch_size=8000)},
    "data.batch_size is 12; expected a multiple of the 8": {"data": DataConfig("digits", image_size=8, batch_size=12)},
    "expected a divisor of the 1438 training images": {"optimizer": OptimizerConfig("gd")},
    "optimizer.accumulate is 99": {"optimizer": OptimizerConfig(accumulate=99)},
    "unknown part in optimizer.rates 'stem'": {"optimizer": OptimizerConfig(rates={"stem": 0.1})},
    "unknown option of mlp 'depht'": {"model": ModelConfig("mlp", {"depht": 2})},
    "lenet5 got images of 8x8": {"model": ModelConfig("lenet5")},
    "missing.npz cannot be read": {"model": ModelConfig("mlp", weights="missing.npz")},
}


@pytest.mark.parametrize("says", BAD)
def test_an_arm_that_cannot_be_trained_is_refused_before_any_is(tmp_path, instant, says):
    directory = tmp_path / "new"
    with pytest.raises(InputError, match=f"arm 'bad' cannot be trained: .*{re.escape(says)}"):
        study.train(small(good=arm(), bad=dataclasses.replace(arm(), **BAD[says])), directory)
    assert not instant
    assert not directory.exists()


def test_an_arm_is_checked_with_its_weights_its_average_and_its_augmentation(tmp_path, instant):
    file = tmp_path / "weights.npz"
    spec = start.resolve(arm(), open_split(arm().data, "train", 0))
    weights.write(file, spec, state.create(models.from_spec(spec), jax.random.key(0), spec.input_shape))
    rich = dataclasses.replace(
        arm(),
        model=ModelConfig("mlp", weights=str(file), new_head=True),
        data=dataclasses.replace(arm().data, augment={"crop": 1.0, "mixup": 0.2}),
        optimizer=OptimizerConfig("adam", ema=0.9),
    )
    assert study.train(small(rich=rich), tmp_path / "study", seeds=(0,))
    misfit = dataclasses.replace(rich, model=ModelConfig("mlp", {"width": 7}, weights=str(file)))
    with pytest.raises(InputError, match=r"arm 'misfit' cannot be trained: .*weights.npz does not fit the network"):
        study.train(small(rich=rich, misfit=misfit), tmp_path / "study", seeds=(0,))
    file.unlink()  # the run that has begun needs it no more
    assert study.train(small(rich=rich), tmp_path / "study", seeds=(0, 5))
    assert instant == [("rich", 0), ("rich", 5)]


def test_arms_without_a_run_may_change_and_go_and_others_come(tmp_path, instant, monkeypatch):
    with monkeypatch.context() as patch:
        honest = loop.train
        patch.setattr(loop, "train", lambda e, d, **o: honest(e, d, **o) if d.parent.name == "plain" else killed())
        with pytest.raises(KeyboardInterrupt):
            study.train(small(plain=arm(), deep=arm(rate=0.2), other=arm()), tmp_path)
    assert study.train(small(plain=arm(), deep=arm(rate=0.3), third=arm()), tmp_path, seeds=(0,))
    assert instant == [("plain", 0), ("deep", 0), ("third", 0)]
    with pytest.raises(CheckpointError, match="arm 'deep': optimizer.learning_rate"):
        study.train(small(plain=arm(), deep=arm(rate=0.4), third=arm()), tmp_path, seeds=(0,))
