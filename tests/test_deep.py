"""The 1202-layer network initialises, trains a step and evaluates."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.config import DataConfig, OptimizerConfig
from jaxcnn.data import ArraySource, pipeline
from jaxcnn.train import optimizers
from jaxcnn.train.evaluate import Evaluator
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.step import AXIS, make_train_step


@pytest.mark.slow
def test_1202_layers_train_a_step_and_evaluate():
    devices = jax.devices()[:1]
    rng = np.random.default_rng(0)
    source = ArraySource(
        rng.integers(0, 256, (4, 32, 32, 3), np.uint8), np.arange(4, dtype=np.int32), tuple("abcdefghij")
    )
    config = DataConfig(batch_size=2)
    model = models.create("cifar_resnet1202", axis_name=AXIS)
    optimizer = optimizers.create(OptimizerConfig(learning_rate=0.1), total_steps=2, steps_per_epoch=2)
    state = replicate(states.create(model, jax.random.key(0), (32, 32, 3), optimizer), devices)
    assert sorted(state.params["stage2"], key=lambda name: int(name[5:])) == [f"block{i}" for i in range(1, 201)]
    fresh = jax.tree.map(np.asarray, state.batch_stats)
    before = np.asarray(state.params["stage3"]["block200"]["conv2"]["kernel"])
    step = map_train_step(make_train_step(model, optimizer), devices)
    for batch in pipeline.training(source, config, seed=0, start_step=0, stop_step=1, devices=devices):
        state, metrics = step(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    after = np.asarray(state.params["stage3"]["block200"]["conv2"]["kernel"])
    assert (before != after).any()
    # One step leaves a tenth of the batch's statistics in the running ones, and the error of the rest grows with each
    # of 600 blocks until it overflows; many steps would leave all of it.
    settled = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, state.batch_stats, fresh)
    state = state.replace(batch_stats=settled)
    scores = Evaluator(model.clone(axis_name=None), source, config, devices)(state)
    assert scores.examples == 4
    assert np.isfinite(scores.loss)
