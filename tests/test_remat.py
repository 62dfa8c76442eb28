"""Blocks that the backward pass computes again: the same network, of which less is kept."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import summary
from jaxcnn.data.pipeline import Batch
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.image_model import Auxiliary
from jaxcnn.layers.stochastic_depth import BATCH_RNG
from jaxcnn.models.densenet import DenseBlock
from jaxcnn.train import diagnostics
from jaxcnn.train.step import AXIS, make_objective

# Of each family a network, as small as it gets with all that its blocks hold, and the height and width of its input.
# The first is compiled in a few seconds.
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "stochastic_depth110": ({"depth": 8}, 8),
    "densenet_bc100_12": ({"depth": 10, "dropout": 0.2}, 8),
    "cifar_resnet8": ({}, 8),
    "wide_resnet16_8": ({"depth": 10, "widening": 1, "dropout": 0.3}, 8),
    "fractalnet20": ({"columns": 2, "width": 4}, 32),
    "squeezenet1_1": ({}, 33),
    "unet": ({"features": 2, "padding": "same"}, 16),
    "resnet18": ({}, 32),
    "resnet18_v2": ({}, 32),
    "vgg11_bn": ({}, 32),
    "mobilenet_v2": ({}, 32),
    "shufflenet_v2_x1_0": ({}, 32),
    "googlenet": ({"auxiliary": True}, 32),
    "inception_v2": ({}, 32),
    "inception_v3": ({}, 75),
    "inception_v4": ({}, 75),
    "inception_resnet_v2": ({}, 75),
    "xception": ({}, 32),
}
COSTLY = list(FAMILIES)[1:]


def sized(name: str, **fields: Any) -> tuple[Any, Any]:
    """The network of `FAMILIES` and its images."""
    options, side = FAMILIES[name]
    images = jax.random.uniform(jax.random.key(1), (4, side, side, models.facts(name).input_shape[2]))
    return models.create(name, num_classes=5).clone(**options, **fields), images


def initialized(model: nn.Module, images: Any) -> Any:
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images)


def trained(model: nn.Module, variables: Any, images: Any) -> Any:
    """The loss, auxiliary classifiers included, its gradients, and all that the network changes in training."""

    def loss(params: Any) -> Any:
        rngs = {"dropout": jax.random.key(2), BATCH_RNG: jax.random.key(3)}
        mutable = ["batch_stats", "auxiliary"]
        logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=mutable, rngs=rngs)
        helpers = jax.tree.leaves(updates.get("auxiliary"), is_leaf=lambda x: isinstance(x, Auxiliary))
        total = jnp.square(logits).mean() + sum(a.weight * jnp.square(a.logits).mean() for a in helpers)
        return total, (logits, updates)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def kept(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that the backward pass of a training step needs of the forward pass, beside the parameters."""
    images: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables: Any = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    rngs = {"dropout": jax.random.key(2), BATCH_RNG: jax.random.key(3)}

    def backward(variables: Any, images: Any) -> Any:
        def forward(params: Any) -> Any:
            inputs = {**variables, "params": params}
            return model.apply(inputs, images, train=True, mutable=["batch_stats", "auxiliary"], rngs=rngs)[0]

        return jax.vjp(forward, variables["params"])[1]

    program = jax.make_jaxpr(backward)(variables, images).jaxpr
    saved = {id(v): v.aval for v in program.outvars if all(v is not given for given in program.invars)}
    # A block that draws random numbers keeps the key that it drew from: a few bytes that do not count.
    arrays: Any = [a for a in saved.values() if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)]
    return sum(a.size * a.dtype.itemsize for a in arrays)


def test_every_network_has_the_option_unless_it_has_no_blocks():
    without = {name for name in models.names() if "remat" not in models.options(name)}
    assert without == {"mlp", "lenet5", "alexnet", "alexnet_2012"}
    # The one network whose activations fit no machine keeps them no more than it has to.
    assert [name for name in models.names() if models.options(name).get("remat")] == [
        "cifar_plain1202", "cifar_resnet1202",
    ]  # fmt: skip
    tested = {type(models.create(name)) for name in FAMILIES}
    assert tested == {type(models.create(name)) for name in set(models.names()) - without}


def assert_the_same(plain: nn.Module, again: nn.Module, images: Any) -> None:
    variables = initialized(plain, images)
    jax.tree.map(np.testing.assert_array_equal, initialized(again, images), variables)
    (loss, (logits, updates)), gradients = trained(plain, variables, images)
    (loss_again, (logits_again, updates_again)), gradients_again = trained(again, variables, images)
    # What is computed again may be compiled into other sums than the first time, hence the roundings.
    assert_close((loss_again, logits_again), (loss, logits))
    assert_close(updates_again, updates)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    assert largest > 0
    assert_close(gradients_again, gradients, floor=largest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in COSTLY else ()) for name in FAMILIES]
)
def test_blocks_computed_again_are_the_same_network(name):
    plain, images = sized(name)
    assert_the_same(plain, sized(name, remat=True)[0], images)


class Everything(BlockModel):
    """A block that is a module, one that is a part of the network itself, and whatever blocks may do."""

    @nn.compact
    def __call__(self, images, *, train):
        def double(model, x, *, name):
            x = BatchNorm(name=f"{name}_norm")(x, train=train)
            x = nn.relu(nn.Dense(7, name=f"{name}1")(x))
            return nn.Dropout(0.5, deterministic=not train, name=f"{name}_dropout")(x)

        x = self.standardize(images)
        for name in ("block1", "block2"):
            x = run_block(Random(name=name), x, None, remat=self.remat, train=train)
        for name in ("double1", "double2"):
            x = run_block(self, x, remat=self.remat, call=double, name=name)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class Random(nn.Module):
    @nn.compact
    def __call__(self, x, nothing, *, train):
        assert nothing is None
        x = nn.Dropout(0.3, deterministic=not train)(BatchNorm()(nn.Dense(8)(x), train=train))
        if train and not self.is_initializing():
            x = x * jax.random.bernoulli(self.make_rng(BATCH_RNG), 0.7, (1, 1, 1, 8))
            self.sow("auxiliary", "helper", Auxiliary(x.mean((1, 2)), 0.3))
        return nn.sigmoid(nn.Dropout(0.3, deterministic=not train)(x))


@pytest.mark.slow
def test_whatever_a_block_does_is_the_same():
    images = jax.random.uniform(jax.random.key(1), (4, 5, 5, 3))
    plain, again = (Everything(num_classes=5, remat=remat) for remat in (False, True))
    assert_the_same(plain, again, images)
    assert kept(plain, images.shape) > 2 * kept(again, images.shape)


class Chain(BlockModel):
    """Blocks whose insides are larger than what they take and give."""

    blocks: int = 3

    @nn.compact
    def __call__(self, images, *, train):
        x = self.standardize(images)
        for i in range(self.blocks):
            x = run_block(Inner(name=f"block{i}"), x, remat=self.remat)
        return x


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1])(jnp.sin(nn.Dense(10)(x)))


def test_of_a_block_only_its_input_is_kept():
    shape = (2, 5, 4, 3)
    pixels, inside = 2 * 5 * 4 * 3 * 4, 2 * 5 * 4 * 10 * 4
    assert kept(Chain(remat=True), shape) == 3 * pixels
    # The sine, for the dense layer behind it, and the cosine.
    assert kept(Chain(), shape) == 3 * (pixels + 2 * inside)


@pytest.mark.slow
def test_a_dense_block_keeps_each_map_once():
    fields = {"growth_rate": 4, "bottleneck": True, "dropout": 0.0, "activation": "relu", "dtype": jnp.float32}
    shape = (2, 8, 8, 6)
    pixel = 2 * 8 * 8 * 4
    for layers in (4, 8):
        block = DenseBlock(layers, fields | {"axis_name": None}, remat=True)
        # The last layer's map goes on to what follows the block.
        assert kept(block, shape) == (6 + 4 * (layers - 1)) * pixel
        concatenated = sum(6 + 4 * i for i in range(layers)) * pixel
        assert kept(block.clone(remat=False), shape) > 2 * concatenated


KEPT = {
    "cifar_resnet20": 4,
    "wide_resnet16_8": 5,
    "vgg11_bn": 10,
    "unet": 2,
    "squeezenet1_1": 1.5,
    "stochastic_depth110": 5,
    "densenet_bc100_12": 15,
    "fractalnet20": 20,
    "resnet50": 4,
    "resnet50_v2": 3.5,
    "mobilenet_v2": 8,
    "shufflenet_v2_x1_0": 2,
    "googlenet": 2,
    "inception_v2": 2,
    "inception_v3": 2,
    "inception_v4": 2,
    "inception_resnet_v2": 2,
    "xception": 5,
}
"""Least factor by which less is kept, by network; those after the first five take long to trace."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if i >= 5 else ()) for i, name in enumerate(KEPT)]
)
def test_less_is_kept_of_the_published_networks(name):
    shape = (8, *models.facts(name).input_shape)
    plain, again = (kept(models.create(name, remat=remat), shape) for remat in (False, True))
    assert plain > KEPT[name] * again


@pytest.mark.parametrize("name", ["squeezenet1_1", "unet", "vgg11", "resnet18"])
def test_the_summary_is_that_of_the_network(name):
    side = max(models.facts(name).smallest, 32)
    plain, again = (summary.table(models.create(name, remat=remat), (side, side, 3)) for remat in (False, True))
    assert again == plain


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "unet"])
def test_relus_of_blocks_computed_again_are_found_and_named(name):
    def diagnosis(remat: bool) -> diagnostics.Diagnosis:
        model, images = sized(name, remat=remat, axis_name=AXIS)
        state: Any = jax.eval_shape(lambda: states.create(model, jax.random.key(0), images.shape[1:]))
        step = diagnostics.make_diagnostics_step(make_objective(model))
        labels = jnp.zeros((1, 4, *(images.shape[1:3] if name == "unet" else ())), jnp.int32)
        batch = Batch(jnp.zeros((1, *images.shape), jnp.uint8), labels, jnp.ones((1, 4), bool))
        devices = jax.devices()[:1]
        return jax.eval_shape(
            jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices), state, batch
        )

    plain, again = diagnosis(False), diagnosis(True)
    assert jax.tree.structure(again) == jax.tree.structure(plain)
    assert again.rectifiers == plain.rectifiers
    assert len(again.rectifiers) > 10
