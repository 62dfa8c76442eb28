"""What is particular to the residual networks: strides, shortcuts, cardinality, widths, pre-activation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.errors import InputError
from jaxcnn.models.resnet import ResNet
from jaxcnn.models.resnet_v2 import ResNetV2
from jaxcnn.models.wide_resnet import WideResNet

SHAPE = (64, 64, 3)


def abstract(model, shape=SHAPE):
    return jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape))


def outputs(model, shape=SHAPE):
    """The shape [H, W, C] of each module's output, by its path."""
    found = {}
    images = jnp.zeros((1, *shape))
    _, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True), images
    )

    def visit(tree, path):
        for name, value in tree.items():
            if name == "__call__":
                found["/".join(path)] = value[0].shape[1:]
            else:
                visit(value, (*path, name))

    visit(variables["intermediates"], ())
    return found


def test_a_bottleneck_strides_where_its_version_says():
    late, early = outputs(models.create("resnet50")), outputs(models.create("resnet50_v1"))
    assert late["stage2/block1/conv1"] == (16, 16, 128)
    assert early["stage2/block1/conv1"] == (8, 8, 128)
    for shapes in (late, early, outputs(models.create("resnet50_v2"))):
        assert shapes["pool"] == (16, 16, 64)
        assert shapes["stage1"] == (16, 16, 256)
        assert shapes["stage2/block1/conv2"] == (8, 8, 128)
        assert shapes["stage4"] == (2, 2, 2048)


def test_the_versions_share_their_weights():
    late, early = (abstract(models.create(name)) for name in ("resnet50", "resnet50_v1"))
    assert jax.tree.map(jnp.shape, late.params) == jax.tree.map(jnp.shape, early.params)


def test_shortcuts_are_projected_where_the_shape_changes_and_nowhere_else():
    for name, expected in [
        ("resnet18", {"stage2", "stage3", "stage4"}),
        ("resnet50", {"stage1", "stage2", "stage3", "stage4"}),
        ("resnet50_v2", {"stage1", "stage2", "stage3", "stage4"}),
        ("plain18", set()),
    ]:
        params = abstract(models.create(name)).params
        stages = {name: tree for name, tree in params.items() if name.startswith("stage")}
        projected = {(stage, block) for stage, tree in stages.items() for block in tree if "project" in tree[block]}
        assert projected == {(stage, "block1") for stage in expected}, name


def test_a_plain_network_is_the_residual_one_without_shortcuts():
    plain, residual = models.facts("plain34").parameters, models.facts("resnet34").parameters
    projections = sum(a * b + 2 * b for a, b in [(64, 128), (128, 256), (256, 512)])
    assert residual - plain == projections


def test_cardinality_splits_the_3x3_and_width_widens_it():
    kernel = {
        name: abstract(models.create(name)).params["stage1"]["block1"]["conv2"]["kernel"].shape
        for name in ("resnet50", "resnext50_32x4d", "wide_resnet50_2")
    }
    assert kernel == {
        "resnet50": (3, 3, 64, 64),
        "resnext50_32x4d": (3, 3, 4, 128),
        "wide_resnet50_2": (3, 3, 128, 128),
    }


@pytest.mark.slow
def test_silent_branches_of_a_preactivation_network_leave_the_identity():
    model = ResNetV2(depth=18, num_classes=3)
    state = states.create(model, jax.random.key(0), SHAPE)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "conv2" in str(path) else leaf, state.params
    )
    images = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
    _, variables = model.apply(
        {"params": silent, "batch_stats": state.batch_stats},
        images,
        train=False,
        mutable=["intermediates"],
        capture_intermediates=True,
    )
    seen = variables["intermediates"]
    np.testing.assert_array_equal(seen["stage1"]["__call__"][0], seen["pool"]["__call__"][0])
    block = seen["stage2"]["block1"]
    np.testing.assert_array_equal(block["__call__"][0], block["project"]["__call__"][0])
    np.testing.assert_array_equal(seen["stage2"]["__call__"][0], block["__call__"][0])


def test_the_first_block_of_a_preactivation_network_has_the_stem_s_batch_norm():
    params = abstract(models.create("resnet50_v2")).params
    assert "norm1" not in params["stage1"]["block1"]
    assert "norm1" in params["stage1"]["block2"]
    assert params["final_norm"]["scale"].shape == (2048,)


@pytest.mark.slow
def test_wide_residual_networks_widen_every_stage_and_drop_between_convolutions():
    assert outputs(models.create("wide_resnet28_10"), (32, 32, 3))["stage3"] == (8, 8, 640)
    model = WideResNet(depth=10, widening=1, dropout=0.5, num_classes=3)
    state = states.create(model, jax.random.key(0), (16, 16, 3))
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))

    @jax.jit
    def logits(key):
        return model.apply(state.variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    assert np.abs(logits(jax.random.key(0)) - logits(jax.random.key(1))).max() > 0


@pytest.mark.parametrize("module", [ResNet, ResNetV2, WideResNet])
def test_a_depth_nobody_has_built_is_refused(module):
    with pytest.raises(InputError, match="depth is 51; expected"):
        module(depth=51)
