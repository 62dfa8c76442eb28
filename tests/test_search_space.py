"""What a search may vary: settings by name, ranges and choices of their types, and one sentence for every mistake."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig
from jaxcnn.errors import InputError
from jaxcnn.train import search_space

EXPERIMENT = Experiment(
    model=ModelConfig("mlp", {"width": 16}),
    data=DataConfig("digits", augment={"cutout": 2.0}),
    optimizer=OptimizerConfig("sgd", learning_rate=0.1, rates={"rest": 1.0}),
)


def parse(name: str, text: str, experiment: Experiment = EXPERIMENT):
    (distribution,) = search_space.parse(experiment, {name: text}).values()
    return distribution


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("optimizer.learning-rate", "1e-4:1:log", FloatDistribution(1e-4, 1, log=True)),
        ("optimizer.momentum", "0:0.99", FloatDistribution(0, 0.99)),
        ("optimizer.clip", "1:10", FloatDistribution(1, 10)),
        ("optimizer.rates.rest", "0,0.1,1", CategoricalDistribution([0.0, 0.1, 1.0])),
        ("optimizer.name", "sgd,adam", CategoricalDistribution(["sgd", "adam"])),
        ("data.augment.cutout", "0:4", FloatDistribution(0, 4)),
        ("data.batch_size", "32:256:log", IntDistribution(32, 256, log=True)),
        ("model.zero-gamma", "true,False", CategoricalDistribution([True, False])),
        ("model.initializer", "normal,he_normal", CategoricalDistribution(["normal", "he_normal"])),
        ("model.name", "mlp,lenet5", CategoricalDistribution(["mlp", "lenet5"])),
        ("model.options.depth", "0:3", IntDistribution(0, 3)),
        ("model.options.width", "16,64", CategoricalDistribution([16, 64])),
        ("model.options.dropout", "0:0.5", FloatDistribution(0, 0.5)),
    ],
)
def test_a_setting_varies_in_its_own_type(name, text, expected):
    distribution = parse(name, text)
    assert distribution == expected
    if isinstance(distribution, CategoricalDistribution):
        assert [type(value) for value in distribution.choices] == [type(value) for value in expected.choices]


@settings(deadline=None, max_examples=25)
@given(low=st.integers(1, 50), steps=st.integers(1, 9), step=st.integers(1, 9), beyond=st.integers(0, 8))
def test_a_range_of_whole_numbers_holds_what_python_counts(low, steps, step, beyond):
    high = low + steps * step + beyond % step
    distribution = parse("data.batch-size", f"{low}:{high}:{step}")
    values = range(low, high + 1, step)
    assert (distribution.low, distribution.high, distribution.step) == (values[0], values[-1], values.step)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "optimizer.learning-rat",
            "0:1",
            "unknown setting 'optimizer.learning_rat'; did you mean optimizer.learning_rate",
        ),
        ("model.options.depht", "1:2", "unknown setting 'model.options.depht'; did you mean model.options.depth"),
        ("optimizer.milestones", "0.1,0.2", "unknown setting 'optimizer.milestones'"),
        ("data.augment.flip", "0:1", "unknown setting 'data.augment.flip'"),
        ("data.validation", "0:0.5", "data.validation cannot be varied; expected a setting that changes how"),
        ("training.seed", "1,2", "training.seed cannot be varied"),
        ("optimizer.learning-rate", "1:0.1", "ranges over '1:0.1'; expected LOW:HIGH with LOW below HIGH"),
        ("optimizer.learning-rate", "0:1:log", "expected LOW above 0 on a log scale"),
        ("optimizer.learning-rate", "0.1:1:2", "expected LOW:HIGH or LOW:HIGH:log"),
        ("optimizer.learning-rate", "0:1", "optimizer.learning_rate is 0.0; expected a positive number"),
        ("optimizer.learning-rate", "small:1", "optimizer.learning_rate is 'small'; expected a number"),
        ("optimizer.learning-rate", "nan:1", "'nan'; expected a finite number"),
        ("optimizer.learning-rate", "0.1", "varies over '0.1'; expected at least two different values a,b, or a range"),
        ("optimizer.learning-rate", "0.1,0.1", "expected at least two different values"),
        ("optimizer.momentum", "0:1", r"optimizer.momentum is 1.0; expected a number in \[0, 1\)"),
        ("optimizer.name", "sgd,adm", "unknown optimizer.name 'adm'; did you mean adam"),
        ("optimizer.name", "sgd:adam", "expected at least two different values a,b$"),
        ("model.name", "mlp,lenet", "unknown model 'lenet'; did you mean lenet5"),
        ("model.options.depth", "-1:2", "mlp has width 16 and depth -1"),
        ("model.options.depth", "1:2.5", "model.options.depth is '2.5'; expected a whole number"),
        ("model.options.depth", "1:3:0", "in steps of 0; expected 1 to 2"),
        ("model.options.depth", "1:3:3", "in steps of 3; expected 1 to 2"),
        ("model.options.activation", "relu,rellu", "unknown activation .rellu.; did you mean"),
        ("model.zero-gamma", "yes,no", "model.zero_gamma is 'yes'; expected true or false"),
    ],
)
def test_a_mistake_is_one_sentence(name, text, message):
    with pytest.raises(InputError, match=message) as raised:
        parse(name, text)
    assert "\n" not in str(raised.value)


def test_an_option_must_fit_every_network_that_is_tried():
    with pytest.raises(InputError, match="unknown option of lenet5 'width'"):
        search_space.parse(EXPERIMENT, {"model.name": "mlp,lenet5", "model.options.width": "8:16"})
    space = search_space.parse(EXPERIMENT, {"model.name": "lenet5,mlp", "model.options.activation": "relu,tanh"})
    assert space["model.options.activation"].choices == ("relu", "tanh")


def test_a_setting_is_varied_once_however_it_is_spelt():
    twice = {"optimizer.learning-rate": "0.1:1", "optimizer.learning_rate": "1e-3:1e-2"}
    with pytest.raises(InputError, match=r"learning_rate varies over '0.1:1' and over '1e-3:1e-2'; expected one"):
        search_space.parse(EXPERIMENT, twice)


def test_networks_are_built_for_images_of_the_size_that_they_are_resized_to():
    with pytest.raises(InputError, match="lenet5"):
        search_space.parse(Experiment(), {"data.image-size": "2,28"})
    tiny = dataclasses.replace(EXPERIMENT, data=DataConfig("digits", image_size=2))
    with pytest.raises(InputError, match="lenet5"):
        search_space.parse(tiny, {"model.name": "mlp,lenet5"})
    assert parse("data.image-size", "2,28", dataclasses.replace(EXPERIMENT)).choices == (2, 28)


def test_by_default_rate_and_decay_vary_by_a_factor_of_100_around_the_experiments_own():
    space = search_space.default(dataclasses.replace(EXPERIMENT, optimizer=OptimizerConfig(weight_decay=0.01)))
    assert space == {
        "optimizer.learning_rate": FloatDistribution(0.01, 1.0, log=True),
        "optimizer.weight_decay": FloatDistribution(0.001, 0.1, log=True),
    }
    without = search_space.default(EXPERIMENT)["optimizer.weight_decay"]
    assert without == FloatDistribution(1e-6, 1e-2, log=True)


def test_settings_are_applied_and_another_network_starts_from_its_own_options():
    chosen = {"optimizer.learning_rate": 0.5, "optimizer.rates.rest": 0.1, "model.options.depth": 2}
    changed = search_space.apply(EXPERIMENT, chosen)
    assert changed.optimizer == dataclasses.replace(EXPERIMENT.optimizer, learning_rate=0.5, rates={"rest": 0.1})
    assert changed.model.options == {"width": 16, "depth": 2}
    assert (changed.data, changed.training) == (EXPERIMENT.data, EXPERIMENT.training)
    other = search_space.apply(EXPERIMENT, {"model.options.pooling": "max", "model.name": "lenet5"})
    assert (other.model.name, other.model.options) == ("lenet5", {"pooling": "max"})
    with pytest.raises(InputError, match="optimizer.learning_rate"):
        search_space.apply(EXPERIMENT, {"optimizer.learning_rate": -1.0})


def test_the_experiments_own_settings_are_found_where_they_lie_in_the_space():
    varied = {"optimizer.learning-rate": "0.1:1", "model.options.width": "8:32:8", "model.options.depth": "1,2"}
    space = search_space.parse(EXPERIMENT, varied)
    # The depth is the network's default, as the experiment says nothing.
    expected = {"optimizer.learning_rate": 0.1, "model.options.width": 16, "model.options.depth": 1}
    assert search_space.own(EXPERIMENT, space) == expected
    for outside in ({"model.options.width": "9:32:5"}, {"optimizer.learning-rate": "0.2:1"}, {"optimizer.clip": "1:2"}):
        assert search_space.own(EXPERIMENT, search_space.parse(EXPERIMENT, varied | outside)) is None
