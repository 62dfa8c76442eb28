"""Diagnostics of training: means against NumPy, gradients against plain autodiff, dead ReLUs against known ones."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.data.pipeline import Batch
from jaxcnn.layers.image_model import Auxiliary
from jaxcnn.layers.stochastic_depth import BATCH_RNG
from jaxcnn.run import Metrics
from jaxcnn.train import diagnostics
from jaxcnn.train.losses import cross_entropy
from jaxcnn.train.parallel import replicate
from jaxcnn.train.step import AXIS, to_float

rng = np.random.default_rng(0)


def objective_of(model):
    """The training loss of any network: auxiliary classifiers, dropout, and a decision for the whole batch."""

    def objective(params, state, batch):
        rngs = {"dropout": jax.random.fold_in(state.key, jax.lax.axis_index(AXIS)), BATCH_RNG: state.key}
        variables = {"params": params, "batch_stats": state.batch_stats}
        mutable = ["batch_stats", "auxiliary"]
        logits, updates = model.apply(variables, to_float(batch.images), train=True, mutable=mutable, rngs=rngs)
        loss = cross_entropy(logits, batch.labels).mean()
        for auxiliary in jax.tree.leaves(updates.get("auxiliary"), is_leaf=lambda x: isinstance(x, Auxiliary)):
            loss += auxiliary.weight * cross_entropy(auxiliary.logits, batch.labels).mean()
        return loss, logits

    return objective


def mapped(objective, count: int = 1):
    step = diagnostics.make_diagnostics_step(objective)
    devices = jax.devices()[:count]
    return jax.jit(jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices))


def batch_of(shape, n: int = 8, devices: int = 1) -> Batch:
    images = np.random.default_rng(1).integers(0, 256, (devices, n // devices, *shape), np.uint8)
    labels = (np.arange(n, dtype=np.int32) % 5).reshape(devices, -1)
    return Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(labels.shape, bool))


def diagnose(model, state, n: int = 8, count: int = 1, shape=(28, 28, 1)):
    return mapped(objective_of(model), count)(replicate(state, jax.devices()[:count]), batch_of(shape, n, count))


def abstract(model, shape):
    """The diagnosis without its numbers, which needs no compilation."""
    state: Any = jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape))
    alone = model.clone(axis_name=None)
    logits = jax.eval_shape(lambda s: alone.apply(s.variables, jnp.zeros((2, *shape)), train=False), state)
    labels: Any = jax.ShapeDtypeStruct((1, *logits.shape[:-1]), jnp.int32)
    images: Any = jax.ShapeDtypeStruct((1, 2, *shape), jnp.uint8)
    mask: Any = jax.ShapeDtypeStruct((1, 2), bool)
    return jax.eval_shape(mapped(objective_of(model)), state, Batch(images, labels, mask))


# ---- parameters and gradients


@pytest.fixture(scope="module")
def lenet():
    model = models.create("lenet5", num_classes=5, activation="relu")
    state = states.create(model, jax.random.key(0), (28, 28, 1))
    # Biases that differ from zero and between channels, some of them so low that their units never fire.
    noise = jax.tree.map(lambda x: x + 0.01 * rng.standard_normal(x.shape).astype(np.float32), state.params)
    noise["c3"]["bias"] = noise["c3"]["bias"].at[jnp.array([0, 5, 7, 9])].set(-1e3)
    noise["f6"]["bias"] = noise["f6"]["bias"].at[:21].set(-1e3)
    return model, state.replace(params=noise)


@pytest.mark.slow
def test_means_and_norms_are_those_of_numpy_and_plain_autodiff(lenet):
    model, state = lenet
    batch = batch_of((28, 28, 1))

    def loss(params):
        logits = model.apply({"params": params}, batch.images[0] / 255.0, train=True)
        return -jax.nn.log_softmax(logits)[np.arange(8), batch.labels[0]].mean()

    gradients: dict[str, Any] = flatten_dict(jax.jit(jax.grad(loss))(state.params), sep="/")
    values: dict[str, Any] = flatten_dict(state.params, sep="/")
    diagnosis = diagnose(model, state)
    layers = ("c1", "c3", "c5", "f6", "head")
    assert diagnosis.parameters == tuple(f"{layer}/{name}" for layer in layers for name in ("kernel", "bias"))
    assert diagnosis.layers == layers
    np.testing.assert_allclose(diagnosis.value, [np.abs(values[p]).mean() for p in diagnosis.parameters], rtol=1e-5)
    expected = [np.abs(gradients[p]).mean() for p in diagnosis.parameters]
    np.testing.assert_allclose(diagnosis.gradient, expected, rtol=1e-4)
    norms = [
        np.sqrt(sum((np.asarray(gradients[f"{layer}/{name}"]) ** 2).sum() for name in ("kernel", "bias")))
        for layer in layers
    ]
    np.testing.assert_allclose(diagnosis.norm, norms, rtol=1e-4)


@pytest.mark.slow
def test_dead_units_are_those_that_were_killed(lenet):
    model, state = lenet
    diagnosis = diagnose(model, state)
    assert diagnosis.rectifiers == ("c1", "c3", "c5", "f6")
    _, kept = model.apply(
        state.variables, batch_of((28, 28, 1)).images[0] / 255.0, train=False, capture_intermediates=True
    )
    outputs = [np.maximum(kept["intermediates"][name]["__call__"][0], 0) for name in diagnosis.rectifiers]
    expected = [(y == 0).all(axis=tuple(range(y.ndim - 1))).mean() for y in outputs]
    assert expected[1] >= 4 / 16
    assert expected[3] >= 21 / 84
    np.testing.assert_allclose(diagnosis.dead, expected, rtol=1e-6)
    np.testing.assert_allclose(diagnosis.zero, [(y == 0).mean() for y in outputs], rtol=1e-4)
    assert min(diagnosis.zero) > 0


@pytest.mark.slow
def test_eight_devices_see_what_one_sees(lenet):
    model = models.create("lenet5", num_classes=5, activation="relu", axis_name=AXIS)
    one, many = (diagnose(model, lenet[1], n=16, count=count) for count in (1, 8))
    assert jax.tree.structure(one) == jax.tree.structure(many)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


# ---- finding the ReLUs of any network


class Flow(nn.Module):
    """ReLUs of every kind and in every kind of control flow; `kill` is added before each."""

    kill: float

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)[:, :4] + self.kill
        x = nn.Dense(4, name="plain", kernel_init=nn.initializers.ones)(x)
        x = jnp.maximum(0, x + self.kill)
        x = jax.jit(lambda x: nn.relu6(x + self.kill))(x)
        x = jax.checkpoint(lambda x: nn.relu(x + self.kill))(x)
        x, _ = jax.lax.scan(lambda x, one: (nn.relu(x + self.kill * one), None), x, jnp.arange(3.0))
        x = jax.lax.cond(x.sum() < -1, lambda x: nn.relu(x), lambda x: nn.relu(x) + nn.relu(x - 1), x)
        _ = nn.tanh(x), nn.leaky_relu(x), nn.softplus(x), x.max(axis=1), jnp.maximum(x, 1)
        return nn.Dense(5, name="head")(x)


def test_relus_are_found_whatever_runs_them():
    model = Flow(kill=0.0)
    state = states.create(model, jax.random.key(0), (2, 2, 1))
    alive = diagnose(model, state, shape=(2, 2, 1))
    assert alive.rectifiers == (
        "relu", "relu 2", "relu 3", "relu/1", "relu/2", "relu/3", "relu 4", "relu 5", "relu 6",
    )  # fmt: skip
    # The branch of a true condition is the last, and was not executed.
    np.testing.assert_array_equal(np.isnan(alive.dead), [0] * 8 + [1])
    np.testing.assert_array_equal(np.asarray(alive.dead)[:7], 0)
    killed = diagnose(Flow(kill=-1e3), state, shape=(2, 2, 1))
    np.testing.assert_array_equal(np.asarray(killed.dead)[:8], 1)
    np.testing.assert_array_equal(np.asarray(killed.zero)[:8], 1)
    np.testing.assert_array_equal(np.asarray(killed.gradient)[:2], 0)


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18_v2", "unet"])
def test_relus_are_named_after_the_layers_they_take_in_the_order_of_the_forward_pass(name):
    model = models.create(name, num_classes=5, axis_name=AXIS, dtype=jnp.bfloat16)
    diagnosis = abstract(model, models.facts(name).input_shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(diagnosis)} == {jnp.dtype("float32")}
    assert len(set(diagnosis.rectifiers)) == diagnosis.dead.shape[0]
    first, last, count = {
        "squeezenet1_1": ("conv1", "head", 1 + 8 * 2 + 1),
        "resnet18_v2": ("stem_norm", "final_norm", 17),
        "unet": ("down1_conv1", "up1_conv2", 22),
    }[name]
    assert (diagnosis.rectifiers[0], diagnosis.rectifiers[-1], len(diagnosis.rectifiers)) == (first, last, count)


@pytest.mark.slow
def test_scanned_and_recomputed_blocks_are_told_apart():
    plain, scanned = (
        models.create("cifar_resnet20", num_classes=5, scan=scan, remat=scan, axis_name=AXIS) for scan in (False, True)
    )
    one, other = (abstract(model, (8, 8, 3)) for model in (plain, scanned))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert one.rectifiers[:4] == ("stem_norm", "stage1/block1/norm1", "stage1/block1", "stage1/block2/norm1")
    assert one.layers[2:5] == ("stage1/block1/conv1", "stage1/block1/norm1", "stage1/block1/conv2")
    assert len(one.rectifiers) == len(one.dead) == 19


# ---- records


def test_a_record_goes_through_the_file_and_comes_back_as_series(tmp_path, lenet):
    diagnosis = jax.tree.map(np.asarray, diagnose(*lenet))
    broken = diagnosis.replace(norm=np.full(5, np.inf), dead=np.full(4, np.nan))
    file = Metrics(tmp_path / "metrics.jsonl")
    file.append(diagnostics.record(1, diagnosis))
    file.append({"step": 5, "split": "train", "loss": 1.0})
    file.append(diagnostics.record(10, broken))
    norms = diagnostics.series(file.read(), "gradient_norm")
    assert norms.steps.tolist() == [1, 10]
    assert norms.names == diagnosis.layers
    np.testing.assert_allclose(norms.values, [diagnosis.norm, [np.nan] * 5])
    kernels = diagnostics.series(file.read(), "value").select(lambda name: name.endswith("kernel"))
    assert kernels.names == diagnosis.parameters[::2]
    np.testing.assert_allclose(kernels.values[0], diagnosis.value[::2])
    board = diagnostics.scalars(file.read()[2])
    assert "dead/c1" not in board
    assert board["zero/c1"] == pytest.approx(diagnosis.zero[0])
    assert diagnostics.series([], "dead").values.shape == (0, 0)


def test_times_add_up_and_what_was_made_vain_is_dropped(tmp_path):
    ticks = iter([0.0, 1.0, 5.0, 6.0, 8.0, 8.5, 10.0, 11.0])
    timing = diagnostics.Timing(tmp_path, step=0, clock=lambda: next(ticks))
    for part in ("compilation", "step", "data"):
        timing.lap(part)
    timing.write(10, images=50)
    timing.lap("step")
    timing.lap("evaluation")
    timing.write(20, images=20)
    first, second = Metrics(tmp_path / "timing.jsonl").read()
    assert first == {
        "step": 10, "images": 50, "images_per_second": 10.0, "seconds": {"compilation": 1.0, "step": 4.0, "data": 1.0}
    }  # fmt: skip
    assert second["seconds"] == {"step": 2.0, "evaluation": 0.5}
    seconds, rate = diagnostics.read_timing(tmp_path)
    assert seconds == {"step": 6.0, "compilation": 1.0, "data": 1.0, "evaluation": 0.5}
    assert next(iter(seconds)) == "step"
    assert rate == 10.0
    diagnostics.Timing(tmp_path, step=15, clock=lambda: next(ticks))
    assert diagnostics.read_timing(tmp_path)[0] == first["seconds"]
