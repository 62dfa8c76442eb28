"""Every listed dataset and every experiment, found by enumerating; the models are in test_models.py."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxcnn import catalog, data, models
from jaxcnn import state as states
from jaxcnn.config import DataConfig
from jaxcnn.data import pipeline
from jaxcnn.data.spec import TEST_SHARE
from jaxcnn.errors import InputError
from jaxcnn.train import optimizers
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.start import resolve
from jaxcnn.train.step import AXIS, make_train_step


@pytest.mark.parametrize("name", data.names())
def test_a_dataset_opens_or_says_what_it_needs(name, real_data):
    config = DataConfig(name, directory=str(real_data / "tfds"))
    if name == "digits" or (real_data / "tfds" / name).is_dir():
        train, test = (data.open_split(config, split, 0) for split in ("train", "test"))
        assert train.class_names == test.class_names
        assert train.image_shape == test.image_shape
        assert len(test) >= 0.1 * len(train) or len(test) >= TEST_SHARE * len(train)
        for source in (train, test):
            images, labels = source.read([0, len(source) - 1])
            assert images.shape == (2, *source.image_shape)
            assert images.dtype == np.uint8
            assert set(labels.tolist()) <= set(range(len(source.class_names)))
    else:
        with pytest.raises(InputError, match=name if name != "folder" else "expected"):
            data.open_split(config, "train", 0)


STEPS = 20
"""Enough for the rate of one cycle to rise and to fall again."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if "lenet" not in n else n for n in catalog.files()]
)
def test_an_experiment_lowers_the_loss_on_its_own_images(name, real_data):
    experiment, _ = catalog.load(name)
    config = dataclasses.replace(experiment.data, directory=str(real_data / "tfds"))
    source = data.Subset(data.open_split(config, "train", 0), np.arange(config.batch_size))
    devices = jax.devices()[:1]
    model = models.from_spec(resolve(experiment, source), axis_name=AXIS)
    # All steps of a run of so many: the schedule is the experiment's own, warm-up included.
    optimizer = optimizers.create(experiment.optimizer, total_steps=STEPS, steps_per_epoch=1)
    state = replicate(states.create(model, jax.random.key(0), source.image_shape, optimizer), devices)
    step = map_train_step(make_train_step(model, optimizer), devices)
    losses = []
    for batch in pipeline.training(source, config, seed=0, start_step=0, stop_step=STEPS, devices=devices):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.95 * losses[0], losses
