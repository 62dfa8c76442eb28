"""Learning rates by part of the network, and training that starts from a weight file."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import loading, models, run
from jaxcnn import state as states
from jaxcnn.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    ModelSpec,
    OptimizerConfig,
    OptimizerName,
    TrainingConfig,
)
from jaxcnn.data import ArraySource, pipeline
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.interop import weights
from jaxcnn.train import optimizers
from jaxcnn.train.loop import train
from jaxcnn.train.losses import cross_entropy
from jaxcnn.train.optimizers import rate_factor
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.step import AXIS, make_train_step

HEAD_ONLY = {"rest": 0.0, "head": 1.0}


def test_the_longest_path_that_fits_decides():
    rates = {"stage1": 0.5, "stage1/block2": 0.25, "rest": 0.1}
    assert rate_factor(rates, "stage1/block1/conv1/kernel") == 0.5
    assert rate_factor(rates, "stage1/block2/conv1/kernel") == 0.25
    assert rate_factor(rates, "stage1/block20/conv1/kernel") == 0.5
    assert rate_factor(rates, "stage10/block2/conv1/kernel") == 0.1
    assert rate_factor({"stage1": 0.5}, "head/bias") == 1.0


@pytest.mark.parametrize("name", OptimizerName.__args__)
def test_a_part_learns_as_if_its_rate_were_the_only_one(name):
    params = {part: {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])} for part in ("a", "b", "c")}
    config = OptimizerConfig(name, 0.1, weight_decay=0.01, rates={"b": 0.25, "c": 0.0}, schedule="cosine")

    def train(config):
        optimizer = optimizers.create(config, total_steps=5, steps_per_epoch=5)
        values, state = params, optimizer.init(params)
        for _ in range(5):
            updates, state = optimizer.update(jax.tree.map(jnp.sin, values), state, values)
            values = optax.apply_updates(values, updates)
        return values, state

    got, state = train(config)
    for part, rate in (("a", 0.1), ("b", 0.025)):
        alone, _ = train(OptimizerConfig(name, rate, weight_decay=0.01, schedule="cosine"))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got[part], alone[part])
    jax.tree.map(np.testing.assert_array_equal, got["c"], params["c"])
    # Nothing is remembered of what stays as it is, but for the sum of gradients that gd averages over an epoch.
    numbers = {"gd": 9, "sgd": 0, "adam": 12, "adamw": 12, "lamb": 12, "muon": 14}.get(name, 6)
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == numbers


def test_a_part_that_is_not_there_is_named():
    optimizer = optimizers.create(OptimizerConfig(rates={"hed": 2.0}), total_steps=1, steps_per_epoch=1)
    with pytest.raises(InputError, match=r"unknown part in optimizer.rates 'hed'; did you mean head"):
        optimizer.init({"head": {"kernel": jnp.zeros((1, 1))}})
    with pytest.raises(InputError, match=r"optimizer.rates of head is -1.0; expected a number, at least 0"):
        OptimizerConfig(rates={"head": -1.0})


@pytest.mark.slow
def test_frozen_parts_stay_as_they_are_and_work_as_in_inference():
    model = models.create("cifar_resnet20", axis_name=AXIS)
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.1, rates=HEAD_ONLY)
    optimizer = optimizers.create(config, total_steps=9, steps_per_epoch=9)
    state = states.create(model, jax.random.key(0), (16, 16, 3), optimizer)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda s: s + jnp.asarray(rng.random(s.shape), jnp.float32), state.batch_stats)
    state = state.replace(batch_stats=moved)
    source = ArraySource(
        rng.integers(0, 256, (8, 16, 16, 3), np.uint8), rng.integers(0, 10, 8).astype(np.int32), tuple("abcdefghij")
    )
    devices = jax.devices()[:2]
    batch = next(pipeline.evaluation(source, DataConfig(batch_size=8), devices=devices))
    images = source.read(np.arange(8))[0].astype(np.float32) / 255
    expected = cross_entropy(
        model.apply(state.variables, images, train=False), jnp.asarray(source.read(np.arange(8))[1])
    ).mean()

    step = map_train_step(make_train_step(model, optimizer, Experiment(optimizer=config)), devices)
    after, metrics = step(replicate(jax.tree.map(jnp.copy, state), devices), batch)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, state.batch_stats)
    for part in state.params:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params[part], state.params[part])
        assert jax.tree.all(same) == (part != "head"), part


# ---- training that starts from a file


def lenet(tmp_path, suffix, **changes):
    """A weight file of a random LeNet-5, and a short training of its head on the digits that starts from it."""
    spec = ModelSpec("lenet5", models.options("lenet5"), 10, (28, 28, 1), (0.25,), (0.5,), ())
    state = states.create(models.from_spec(spec), jax.random.key(7), spec.input_shape)
    path = tmp_path / f"weights{suffix}"
    weights.write(path, spec, state)
    experiment = Experiment(
        "tuned",
        ModelConfig("lenet5", weights=str(path), **changes),
        DataConfig(image_size=28, batch_size=64),
        OptimizerConfig(learning_rate=0.01, rates=HEAD_ONLY),
        TrainingConfig(epochs=1),
    )
    return path, state, experiment


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_a_run_starts_from_the_file_with_a_new_head(tmp_path, suffix):
    path, start, experiment = lenet(tmp_path, suffix)
    train(experiment, tmp_path / "run")
    _, spec = run.read(tmp_path / "run")
    assert spec.mean == (0.25,)
    _, state = loading.load(tmp_path / "run")
    for part in start.params:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), state.params[part], start.params[part])
        assert jax.tree.all(same) == (part != "head")
    path.unlink()  # what a run has learned no longer needs the file
    assert train(experiment, tmp_path / "run").finished


def test_the_head_can_be_kept(tmp_path):
    _, start, experiment = lenet(tmp_path, ".pth", new_head=False)
    still = dataclasses.replace(experiment, optimizer=OptimizerConfig(rates={"rest": 0.0}))
    train(still, tmp_path / "run")
    _, state = loading.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state.params, start.params)


def test_a_file_with_another_activation_is_refused(tmp_path):
    _, _, experiment = lenet(tmp_path, ".npz", options={"activation": "relu"})
    with pytest.raises(InputError, match="weights.npz has activation 'tanh'; expected 'relu'"):
        train(experiment, tmp_path / "run")


def test_a_broken_checkpoint_is_not_replaced_by_random_weights(tmp_path):
    _, _, experiment = lenet(tmp_path, ".pth")
    train(experiment, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        shutil.rmtree(path)
    (tmp_path / "run" / "checkpoints" / "22").touch()
    with pytest.raises(CheckpointError):
        train(experiment, tmp_path / "run")


def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    _, _, experiment = lenet(tmp_path, ".pth")
    other = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, name="mlp"))
    with pytest.raises(InputError, match=r"weights.pth is for lenet5; expected mlp"):
        train(other, tmp_path / "run")
    gone = dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, weights=str(tmp_path / "no.pth"))
    )
    with pytest.raises(InputError, match="no.pth"):
        train(gone, tmp_path / "run")
    assert not (tmp_path / "run").exists()
