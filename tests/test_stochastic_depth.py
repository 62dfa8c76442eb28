"""Stochastic depth: dropped branches are not executed, and inference scales them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.config import DataConfig, OptimizerConfig
from jaxcnn.data import ArraySource, pipeline
from jaxcnn.errors import InputError
from jaxcnn.models.stochastic_depth import StochasticDepthResNet
from jaxcnn.train import optimizers
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.step import AXIS, make_train_step

SHAPE = (16, 16, 3)
BLOCKS = [(f"stage{s}", f"block{b}") for s in (1, 2, 3) for b in (1, 2, 3)]
IMAGES = jax.random.uniform(jax.random.key(1), (4, *SHAPE))


def training_pass(model, state, key):
    """Gradients and batch statistics of one batch."""

    def objective(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        rngs = {"dropout": key, "drop_path": key}
        logits, updates = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"], rngs=rngs)
        return (logits**2).sum(), updates["batch_stats"]

    return jax.grad(objective, has_aux=True)(state.params)


@pytest.mark.slow
def test_a_dropped_branch_neither_learns_nor_moves_its_statistics():
    model = StochasticDepthResNet(depth=20, survival=0.2, num_classes=3)
    state = states.create(model, jax.random.key(0), SHAPE)
    step = jax.jit(lambda key: training_pass(model, state, key))
    kept = []
    for seed in range(8):
        gradients, statistics = step(jax.random.key(seed))
        for i, (stage, block) in enumerate(BLOCKS):
            learns = {bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradients[stage][block])}
            moved = jax.tree.map(
                lambda a, b: bool((a != b).any()), statistics[stage][block], state.batch_stats[stage][block]
            )
            assert len(learns | set(jax.tree.leaves(moved))) == 1, (stage, block)
            kept.append((i, learns.pop()))
    shares = [np.mean([alive for j, alive in kept if j == i]) for i in range(len(BLOCKS))]
    assert np.mean(shares[:3]) > np.mean(shares[6:])


@pytest.mark.slow
def test_inference_scales_each_branch_by_its_survival():
    model = StochasticDepthResNet(depth=20, survival=0.5, num_classes=3)
    plain = models.create("cifar_resnet20", num_classes=3)
    state = states.create(model, jax.random.key(0), SHAPE)
    survival = {block: 1 - i / 9 * 0.5 for i, block in enumerate(BLOCKS, start=1)}

    def scaled(path, leaf):
        names = [part.key for part in path]
        return leaf * survival[tuple(names[:2])] if "norm2" in names else leaf

    params = jax.tree_util.tree_map_with_path(scaled, state.params)
    variables = {"params": params, "batch_stats": state.batch_stats}
    expected = jax.jit(lambda x: plain.apply(variables, x, train=False))(IMAGES)
    got = jax.jit(lambda x: model.apply(state.variables, x, train=False))(IMAGES)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("per_sample", [False, True])
def test_certain_survival_is_the_network_of_constant_depth(per_sample):
    model = StochasticDepthResNet(depth=20, survival=1.0, per_sample=per_sample, num_classes=3)
    plain = models.create("cifar_resnet20", num_classes=3)
    state = states.create(model, jax.random.key(0), SHAPE)
    gradients, statistics = jax.jit(lambda key: training_pass(model, state, key))(jax.random.key(0))
    expected, others = jax.jit(lambda key: training_pass(plain, state, key))(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), statistics, others)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max() + 1e-6)


def test_weights_interchange_with_the_network_of_constant_depth():
    names = ("stochastic_depth110", "cifar_resnet110")
    one, other = (
        jax.eval_shape(lambda name=name: states.create(models.create(name), jax.random.key(0), (32, 32, 3)))
        for name in names
    )
    assert jax.tree.map(jnp.shape, one.params) == jax.tree.map(jnp.shape, other.params)
    assert jax.tree.map(jnp.shape, one.batch_stats) == jax.tree.map(jnp.shape, other.batch_stats)


@pytest.mark.slow
def test_eight_devices_drop_the_same_branches_as_one():
    rng = np.random.default_rng(0)
    source = ArraySource(
        rng.integers(0, 256, (16, *SHAPE), np.uint8), rng.integers(0, 3, 16).astype(np.int32), tuple("abc")
    )
    model = StochasticDepthResNet(depth=20, num_classes=3, axis_name=AXIS)
    optimizer = optimizers.create(OptimizerConfig(learning_rate=0.05), total_steps=9, steps_per_epoch=9)
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        state = replicate(states.create(model, jax.random.key(0), SHAPE, optimizer), devices)
        step = map_train_step(make_train_step(model, optimizer), devices)
        config = DataConfig(batch_size=16)
        for batch in pipeline.training(source, config, seed=0, start_step=0, stop_step=2, devices=devices):
            state, _ = step(state, batch)
        results.append(jax.tree.leaves(jax.tree.map(np.asarray, (state.params, state.batch_stats))))
    for one, many in zip(*results, strict=True):
        assert np.linalg.norm(many - one) <= 1e-4 * np.linalg.norm(one) + 1e-6


@pytest.mark.slow
def test_per_sample_dropping_differs_within_the_batch():
    model = StochasticDepthResNet(depth=8, survival=0.5, per_sample=True, num_classes=3)
    state = states.create(model, jax.random.key(0), SHAPE)
    same = jnp.broadcast_to(IMAGES[:1], (16, *SHAPE))
    logits, _ = model.apply(
        state.variables, same, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(3)}
    )
    assert 1 < len(np.unique(np.round(np.asarray(logits), 4), axis=0)) <= 8


def test_impossible_options_are_refused():
    with pytest.raises(InputError, match="survival is 0.0; expected a probability"):
        StochasticDepthResNet(survival=0.0)
    with pytest.raises(InputError, match="depth is 21; expected 6n \\+ 2"):
        StochasticDepthResNet(depth=21)
