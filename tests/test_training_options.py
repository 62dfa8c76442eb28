"""Every option of training together: compiled once, the same on any start and on any number of devices, and resumed."""

from __future__ import annotations

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcnn import loading, models, run
from jaxcnn import state as states
from jaxcnn.config import (
    DataConfig,
    Experiment,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from jaxcnn.data.pipeline import Batch
from jaxcnn.errors import InputError
from jaxcnn.layers import initializers
from jaxcnn.train import diagnostics, optimizers
from jaxcnn.train.evaluate import evaluate_run
from jaxcnn.train.loop import train
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.step import AXIS, make_train_step

EVERYTHING = Experiment(
    name="everything",
    model=ModelConfig("lenet5", {"activation": "relu"}, initializer="he_normal"),
    data=DataConfig("digits", image_size=28, batch_size=128, augment={"crop": 1.0, "rotation": 10.0, "mixup": 0.2}),
    optimizer=OptimizerConfig(
        "adamw",
        learning_rate=0.003,
        weight_decay=0.01,
        clip=1.0,
        accumulate=3,
        ema=0.9,
        schedule="plateau",
        patience=0,
        warmup_epochs=0.5,
    ),
    training=TrainingConfig(epochs=3, log_every=4, checkpoint_every=5, diagnose_every=7),
    loss=LossConfig(label_smoothing=0.1, l1=1e-5),
)


def batch(devices: int, examples: int = 8) -> Batch:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (devices, examples // devices, 8, 8, 1), np.uint8)
    labels = rng.integers(0, 3, (devices, examples // devices)).astype(np.int32)
    return Batch(images, labels, np.ones(labels.shape, bool))


def mlp_run(experiment: Experiment, devices: int, steps: int = 4):
    model = models.create("mlp", num_classes=3, axis_name=AXIS)
    optimizer = optimizers.create(experiment.optimizer, total_steps=12, steps_per_epoch=6)
    state = states.create(model, jax.random.key(0), (8, 8, 1), optimizer)
    if experiment.optimizer.ema is not None:
        state = state.replace(ema_params=jax.tree.map(jnp.copy, state.params))
    chosen = jax.devices()[:devices]
    step = map_train_step(make_train_step(model, optimizer, experiment), chosen)
    state = replicate(state, chosen)
    for _ in range(steps):
        state, _ = step(state, batch(devices))
    return state, step


@pytest.mark.slow
def test_no_option_traces_the_step_again():
    assert mlp_run(EVERYTHING, 1)[1]._cache_size() == 1


@pytest.mark.slow
def test_eight_devices_do_as_one_where_pictures_are_augmented_each_by_itself():
    data = dataclasses.replace(EVERYTHING.data, augment={"crop": 1.0, "rotation": 10.0})
    experiment = dataclasses.replace(EVERYTHING, data=data)
    one, eight = (mlp_run(experiment, devices)[0] for devices in (1, 8))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.params, eight.params)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.ema_params, eight.ema_params)


@pytest.mark.slow
def test_the_average_moves_with_each_update_and_not_in_between():
    plain = dataclasses.replace(EVERYTHING, optimizer=OptimizerConfig("sgd", 0.1, ema=0.5, accumulate=2))
    start, _ = mlp_run(plain, 1, steps=0)
    states_ = [mlp_run(plain, 1, steps=n)[0] for n in (1, 2, 3)]
    jax.tree.map(np.testing.assert_array_equal, states_[0].ema_params, start.params)
    half = jax.tree.map(lambda a, b: (a + b) / 2, start.params, states_[1].params)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-7), states_[1].ema_params, half)
    jax.tree.map(np.testing.assert_array_equal, states_[2].ema_params, states_[1].ema_params)


def test_four_batches_of_32_are_one_of_128():
    def trained(examples: int, accumulate: int):
        config = OptimizerConfig("momentum", 0.1, accumulate=accumulate)
        experiment = Experiment(optimizer=config)
        model = models.create("mlp", num_classes=3, axis_name=AXIS)
        optimizer = optimizers.create(config, total_steps=12, steps_per_epoch=6)
        step = map_train_step(make_train_step(model, optimizer, experiment), jax.devices()[:1])
        state = replicate(states.create(model, jax.random.key(0), (8, 8, 1), optimizer), jax.devices()[:1])
        whole = batch(1, 128)
        for first in range(0, 128, examples):
            part = slice(first, first + examples)
            state, _ = step(state, Batch(*(array[:, part] for array in whole)))
        return state.params

    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-6), trained(32, 4), trained(128, 1))


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = train(EVERYTHING, tmp_path / "whole")

    class Killed(Exception):
        pass

    write, calls = diagnostics.Timing.write, []

    def kill(self, step, images):
        calls.append(step)
        if step >= 16:
            raise Killed
        return write(self, step, images)

    # The one that is killed streams its images from worker processes.
    streamed = dataclasses.replace(EVERYTHING, data=dataclasses.replace(EVERYTHING.data, storage="stream", workers=1))
    with monkeypatch.context() as patch:
        patch.setattr(diagnostics.Timing, "write", kill)
        with pytest.raises(Killed):
            train(streamed, tmp_path / "killed")
    resumed = train(streamed, tmp_path / "killed")
    assert calls
    assert (resumed.steps, resumed.top1) == (whole.steps, whole.top1)
    one, other = (loading.load(tmp_path / name)[1] for name in ("whole", "killed"))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(
        (np.asarray(a) == np.asarray(b)).all() for a, b in pairs if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    )
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "killed" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_with_everything_says_what_it_did(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(EVERYTHING, tmp_path)
    records = run.Metrics(tmp_path / "metrics.jsonl").read()
    # The average is what is evaluated, by training and afterwards alike.
    score = evaluate_run(tmp_path)
    assert score.top1 == result.top1
    assert score.loss == [r["loss"] for r in records if r["split"] == "test"][-1]
    _, state = loading.load(tmp_path)
    assert state.ema_params is not None
    # Every 7 steps, and at the first, the parameters, gradients and ReLUs of one batch.
    found = diagnostics.series(records, "gradient_norm")
    assert found.steps.tolist() == [1, 7, 14, 21, 28]
    assert found.names == ("c1", "c3", "c5", "f6", "head")
    assert np.isfinite(found.values).all()
    assert (found.values > 0).all()
    assert diagnostics.series(records, "dead").names == ("c1", "c3", "c5", "f6")
    # TensorBoard has the gradients themselves, as histograms.
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"histograms": 0}).Reload()
    spreads = events.Histograms("gradients/c3/kernel")
    assert [event.step for event in spreads] == [1, 7, 14, 21, 28]
    means = diagnostics.series(records, "gradient").select(lambda name: name == "c3/kernel").values[:, 0]
    for event, mean in zip(spreads, means, strict=True):
        spread = event.histogram_value
        assert spread.num == 5 * 5 * 6 * 16
        assert spread.min < 0 < spread.max
        assert mean < np.sqrt(spread.sum_squares / spread.num) < 5 * mean
    seconds, rate = diagnostics.read_timing(tmp_path)
    assert {"data", "step", "compilation", "evaluation", "checkpoint", "diagnostics"} <= set(seconds)
    assert rate > 0


@pytest.mark.slow
def test_a_rate_on_a_plateau_is_lowered_and_written(tmp_path):
    config = OptimizerConfig("sgd", learning_rate=1e-9, schedule="plateau", patience=0, plateau_factor=0.5)
    experiment = Experiment(
        model=ModelConfig("mlp"),
        data=DataConfig("digits", batch_size=472),
        optimizer=config,
        training=TrainingConfig(epochs=4, log_every=1),
    )
    train(experiment, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [r["learning_rate"] for r in records if r["split"] == "train"]
    # The first evaluation is the best so far, and no later one is lower by a ten-thousandth.
    assert_allclose(rates, 1e-9 * np.repeat([1, 1, 0.5, 0.25], 3), rtol=1e-6)


@pytest.mark.slow
def test_full_batch_descent_takes_every_image_once_an_epoch(tmp_path):
    def experiment(batch_size: int) -> Experiment:
        return Experiment(
            model=ModelConfig("mlp"),
            data=DataConfig("digits", validation=0.11, batch_size=batch_size),
            optimizer=OptimizerConfig("gd", learning_rate=0.1),
            training=TrainingConfig(epochs=2),
        )

    with pytest.raises(
        InputError, match=r"data.batch_size is 136; expected a divisor of the 1280 training images, such as 128"
    ):
        train(experiment(136), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    parts, whole = (tmp_path / name for name in ("parts", "whole"))
    train(experiment(640), parts)
    train(experiment(1280), whole)
    one, other = (loading.load(path)[1].params for path in (parts, whole))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), one, other)


def test_a_run_without_an_update_is_refused(tmp_path):
    experiment = dataclasses.replace(EVERYTHING, optimizer=OptimizerConfig(accumulate=1000))
    with pytest.raises(InputError, match=r"optimizer.accumulate is 1000; expected at most the \d+ batches of the run"):
        train(experiment, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binary_cross_entropy", "mse", "mae"])
def test_a_network_learns_by_every_loss_and_is_evaluated_by_its_own(tmp_path, name):
    experiment = Experiment(
        model=ModelConfig("mlp"),
        data=DataConfig("digits", batch_size=64),
        optimizer=OptimizerConfig("adam", learning_rate=0.002),
        training=TrainingConfig(epochs=6),
        loss=LossConfig(name),
    )
    result = train(experiment, tmp_path)
    assert result.top1 is not None
    assert result.top1 > 0.8
    records = run.Metrics(tmp_path / "metrics.jsonl").read()
    assert evaluate_run(tmp_path).loss == [r["loss"] for r in records if r["split"] == "test"][-1]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", 8),
        ("resnet50", 16),
        ("cifar_resnet20", 9),
        ("stochastic_depth110", 54),
        ("mobilenet_v2", 10),
        ("xception", 12),
        ("plain18", None),
        ("vgg11_bn", None),
        ("resnet50_v2", None),
    ],
)
def test_zero_gamma_silences_the_last_norm_of_each_block(name, blocks):
    model = models.create(name)
    shape = models.facts(name).input_shape
    params = jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape)).params
    params = jax.tree.map(lambda leaf: jnp.ones(()), params)  # names are what matters
    if blocks is None:
        with pytest.raises(InputError, match="expected a network whose residual blocks end with a batch norm"):
            initializers.zero_gamma(params, model.branch_norms)
        return
    silenced = initializers.zero_gamma(params, model.branch_norms)
    zeros = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(silenced) if not leaf.any()]
    assert len(zeros) == blocks
    assert all(path.endswith("['scale']") for path in zeros)


@pytest.mark.slow
def test_with_zero_gamma_a_residual_network_starts_as_its_shortcuts():
    model = models.create("cifar_resnet20", num_classes=10)
    state = states.create(model, jax.random.key(0), (32, 32, 3))
    params = initializers.zero_gamma(state.params, model.branch_norms)
    shuffled = jax.tree_util.tree_map_with_path(  # whatever the branches hold
        lambda path, leaf: leaf * 7 if "'conv2'" in jax.tree_util.keystr(path) else leaf, params
    )
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
    assert isinstance(model, nn.Module)
    one, other = (model.apply({**state.variables, "params": p}, images, train=False) for p in (params, shuffled))
    np.testing.assert_array_equal(one, other)
