from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn import config
from jaxcnn.config import (
    DataConfig,
    Experiment,
    InitializerName,
    LossConfig,
    LossName,
    ModelConfig,
    OptimizerConfig,
    ScheduleName,
    TrainingConfig,
)
from jaxcnn.errors import InputError

options = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    max_size=4,
)
settings_given = st.fixed_dictionaries(
    {
        "options": options,
        "mean": st.none() | st.floats(0.1, 0.9),
        "initializer": st.sampled_from([None, *InitializerName.__args__]),
        "data": st.fixed_dictionaries(
            {
                "batch_size": st.integers(1, 999),
                "validation": st.floats(0, 0.5),
                "workers": st.integers(0, 4),
                "augment": st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0, 9)),
            }
        ),
        "optimizer": st.fixed_dictionaries(
            {
                "learning_rate": st.floats(1e-6, 10),
                "schedule": st.sampled_from(ScheduleName.__args__),
                "decoupled": st.sampled_from([None, False, True]),
                "clip": st.none() | st.floats(0.1, 9),
                "accumulate": st.integers(1, 9),
            }
        ),
        "loss": st.fixed_dictionaries(
            {"name": st.sampled_from(LossName.__args__), "label_smoothing": st.floats(0, 0.9), "l1": st.floats(0, 1)}
        ),
        "training": st.fixed_dictionaries(
            {
                "epochs": st.integers(1, 300),
                "checkpoint_every": st.none() | st.integers(1, 99),
                "diagnose_every": st.none() | st.integers(1, 99),
            }
        ),
    }
)


def build(given):
    mean = None if given["mean"] is None else (given["mean"],)
    return Experiment(
        "name",
        ModelConfig("model", given["options"], mean, mean, initializer=given["initializer"]),
        DataConfig(**given["data"]),
        OptimizerConfig(**given["optimizer"]),
        TrainingConfig(**given["training"]),
        LossConfig(**given["loss"]),
    )


@given(settings_given)
@settings(deadline=None, max_examples=16)
def test_json_round_trip_is_exact(given):
    experiment = build(given)
    read = config.from_json(Experiment, json.loads(json.dumps(config.to_json(experiment))))
    assert read == experiment
    assert list(read.data.augment) == list(experiment.data.augment)
    assert config.difference(experiment, build(given)) is None
    assert config.difference(experiment, read) is None


def test_difference_names_the_setting_and_both_values():
    old = Experiment()
    new = dataclasses.replace(old, optimizer=OptimizerConfig(learning_rate=0.3))
    assert config.difference(old, new) == "optimizer.learning_rate was 0.1 and is now 0.3"
    assert config.difference(new, old) == "optimizer.learning_rate was 0.3 and is now 0.1"


def test_the_order_and_the_strength_of_augmentations_matter():
    old, other, stronger = (
        Experiment(data=DataConfig(augment=augment))
        for augment in ({"crop": 4.0, "flip": 0.5}, {"flip": 0.5, "crop": 4.0}, {"crop": 4.00000001, "flip": 0.5})
    )
    expected = "data.augment was 'crop 4.0 flip 0.5' and is now 'flip 0.5 crop 4.0'"
    assert config.difference(old, other) == expected
    assert config.difference(old, stronger) is not None
    assert config.difference(Experiment(), old) == "data.augment was '' and is now 'crop 4.0 flip 0.5'"


def test_an_experiment_written_before_a_setting_existed_has_its_default():
    old = {
        "name": "lenet5_mnist",
        "model": {"name": "lenet5", "options": {}, "mean": None, "std": None, "weights": None, "new_head": True},
        "data": {"dataset": "mnist", "batch_size": 128},
        "optimizer": {"name": "momentum", "learning_rate": 0.05, "schedule": "cosine", "rates": {}},
        "training": {"epochs": 12, "seed": 3},
    }
    experiment = Experiment(
        "lenet5_mnist",
        ModelConfig("lenet5"),
        DataConfig("mnist"),
        OptimizerConfig("momentum", 0.05, schedule="cosine"),
        TrainingConfig(12, 3),
    )
    assert config.from_json(Experiment, old) == experiment
    assert config.difference(config.from_json(Experiment, old), experiment) is None


def test_where_data_lie_and_who_reads_them_is_no_difference():
    old, new = Experiment(), Experiment(data=DataConfig(directory="/elsewhere", workers=3))
    assert config.difference(old, new) is None


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: DataConfig(batch_size=0), "data.batch_size is 0; expected at least 1"),
        (lambda: DataConfig(validation=1.0), "data.validation is 1.0"),
        (lambda: DataConfig(image_size=0), "data.image_size is 0"),
        (lambda: DataConfig(limit=0), "data.limit is 0; expected at least 1"),
        (lambda: DataConfig(workers=-1), "data.workers is -1"),
        (lambda: OptimizerConfig(learning_rate=0.0), "optimizer.learning_rate is 0.0; expected a positive number"),
        (lambda: OptimizerConfig(learning_rate=float("nan")), "optimizer.learning_rate is nan"),
        (lambda: OptimizerConfig(momentum=1.0), "optimizer.momentum is 1.0"),
        (lambda: OptimizerConfig(weight_decay=-1.0), "optimizer.weight_decay is -1.0"),
        (lambda: OptimizerConfig(milestones=(0.7, 0.5)), r"optimizer.milestones is \(0.7, 0.5\)"),
        (lambda: TrainingConfig(epochs=0), "training.epochs is 0"),
        (lambda: OptimizerConfig(weight_decay=float("inf")), "optimizer.weight_decay is inf"),
        (lambda: OptimizerConfig(warmup_epochs=float("nan")), "optimizer.warmup_epochs is nan"),
        (lambda: DataConfig(image_size=100_000), "data.image_size is 100000; expected 1 to 4096"),
        (lambda: TrainingConfig(seed=-1), "training.seed is -1"),
        (lambda: TrainingConfig(seed=2**32), "training.seed is 4294967296"),
        (lambda: ModelConfig(mean=(float("nan"),), std=(0.5,)), "model.mean is"),
        (lambda: ModelConfig(mean=(0.5,), std=(float("inf"),)), "model.std is"),
        (lambda: TrainingConfig(checkpoint_every=0), "training.checkpoint_every is 0"),
        (lambda: TrainingConfig(keep=0), "training.keep is 0"),
        (lambda: ModelConfig(mean=(0.5,)), "model.std is None"),
        (lambda: ModelConfig(mean=(0.5,), std=(0.0,)), "model.std is"),
        (lambda: ModelConfig(mean=(0.5, 0.5), std=(0.1,)), "model.std is"),
        (lambda: Experiment(name="a/b"), "name is 'a/b'"),
        (lambda: ModelConfig(weights="a.npz", initializer="normal"), "model.initializer is 'normal'; expected None"),
        (lambda: ModelConfig(weights="a.npz", zero_gamma=True), "model.zero_gamma is True; expected False"),
        (lambda: DataConfig(augment={"crop": -1.0}), "data.augment of crop is -1.0; expected a number, at least 0"),
        (lambda: DataConfig(augment={"flip": float("nan")}), "data.augment of flip is nan"),
        (lambda: LossConfig(label_smoothing=1.0), r"loss.label_smoothing is 1.0; expected a share in \[0, 1\)"),
        (lambda: LossConfig(l1=-1.0), "loss.l1 is -1.0"),
        (lambda: LossConfig(l1=float("inf")), "loss.l1 is inf"),
        (lambda: OptimizerConfig("lars", decoupled=True), "optimizer.decoupled is True; expected None with lars"),
        (lambda: OptimizerConfig("lamb", decoupled=False), "optimizer.decoupled is False; expected None with lamb"),
        (lambda: OptimizerConfig(clip=0.0), "optimizer.clip is 0.0; expected a positive number"),
        (lambda: OptimizerConfig(clip=float("inf")), "optimizer.clip is inf"),
        (lambda: OptimizerConfig(accumulate=0), "optimizer.accumulate is 0; expected at least 1"),
        (lambda: OptimizerConfig("gd", accumulate=2), "optimizer.accumulate is 2; expected 1 with gd"),
        (lambda: OptimizerConfig(ema=1.0), r"optimizer.ema is 1.0; expected a number in \(0, 1\)"),
        (lambda: OptimizerConfig(drop=1.0), "optimizer.drop is 1.0"),
        (lambda: OptimizerConfig(decay=0.0), "optimizer.decay is 0.0"),
        (
            lambda: OptimizerConfig(plateau_factor=2.0),
            r"optimizer.plateau_factor is 2.0; expected a factor in \(0, 1\)",
        ),
        (lambda: OptimizerConfig(patience=-1), "optimizer.patience is -1"),
        (lambda: TrainingConfig(max_rollbacks=-1), "training.max_rollbacks is -1"),
        (lambda: TrainingConfig(diagnose_every=0), "training.diagnose_every is 0"),
    ],
)
def test_a_value_out_of_range_is_refused_on_construction(build, says):
    with pytest.raises(InputError, match=says):
        build()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"data": {"bach_size": 3}}, "unknown setting 'data.bach_size'; did you mean data.batch_size"),
        ({"data": {"batch_size": "3"}}, "data.batch_size is '3'; expected int"),
        ({"data": {"batch_size": True}}, "data.batch_size is True; expected int"),
        ({"data": []}, r"data is \[\]; expected an object"),
        ({"optimizer": {"name": "adm"}}, "unknown optimizer.name 'adm'; did you mean adam"),
        ({"loss": {"name": "entropy"}}, "unknown loss.name 'entropy'; did you mean cross_entropy"),
        ({"model": {"initializer": "he_norm"}}, "unknown model.initializer 'he_norm'; did you mean he_normal"),
        ({"optimizer": {"decoupled": "yes"}}, "optimizer.decoupled is 'yes'; expected bool"),
        ({"optimizer": {"milestones": ["a"]}}, r"optimizer.milestones\[0\] is 'a'; expected float"),
        ({"model": {"options": {"depth": None}}}, "model.options.depth is None"),
        ([], r"Experiment is \[\]; expected an object"),
    ],
)
def test_json_that_is_not_an_experiment_is_refused(data, says):
    with pytest.raises(InputError, match=says):
        config.from_json(Experiment, data)


def test_a_missing_field_is_named():
    with pytest.raises(InputError, match="class_names is missing"):
        config.from_json(config.ModelSpec, {"name": "x"})
