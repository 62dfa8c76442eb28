"""What is particular to Inception v4, Inception-ResNet v2 and Xception."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.models import inception_resnet, inception_v4, xception

FIELDS = {"epsilon": 1e-3, "dtype": jnp.float32, "axis_name": None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "inception_v4",
            {
                "stem1": (147, 147, 64),
                "stem2": (73, 73, 160),
                "stem3": (71, 71, 192),
                "stem4": (35, 35, 384),
                "inception_a4": (35, 35, 384),
                "inception_b7": (17, 17, 1024),
                "inception_c3": (8, 8, 1536),
            },
        ),
        (
            "inception_resnet_v2",
            {
                "pool2": (35, 35, 192),
                "residual_a10": (35, 35, 320),
                "residual_b20": (17, 17, 1088),
                "residual_c10": (8, 8, 2080),
                "last": (8, 8, 1536),
            },
        ),
        (
            "xception",
            {
                "conv2": (147, 147, 64),
                "block1": (74, 74, 128),
                "block2": (37, 37, 256),
                "block3": (19, 19, 728),
                "block11": (19, 19, 728),
                "block12": (10, 10, 1024),
                "conv4": (10, 10, 2048),
            },
        ),
    ],
)
def test_feature_maps_have_the_published_sizes(name, expected):
    model = models.create(name)
    _, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True),
        jnp.zeros((1, 299, 299, 3)),
    )
    outputs = variables["intermediates"]
    assert {part: outputs[part]["__call__"][0].shape[1:] for part in expected} == expected


@pytest.mark.parametrize(
    ("name", "parameters", "statistics", "scales"),
    [("xception", 22_855_952, 54_528, 0), ("inception_resnet_v2", 55_813_192, 60_544, 30_272)],
)
def test_counts_are_keras_s(name, parameters, statistics, scales):
    """Keras prints 22,910,480 and 55,873,736: parameters and running statistics, the second without scales."""
    state = jax.eval_shape(lambda: states.create(models.create(name), jax.random.key(0), (299, 299, 3)))
    params = jax.tree_util.tree_leaves_with_path(state.params)
    counted = {leaf: sum(x.size for path, x in params if path[-1].key == leaf) for leaf in ("kernel", "bias", "scale")}
    left_out = counted["scale"] if scales else 0
    assert left_out == scales
    assert sum(counted.values()) - left_out == parameters
    assert sum(x.size for x in jax.tree.leaves(state.batch_stats)) == statistics


def test_a_fork_concatenates_units_of_one_input_and_an_average_leaves_zeros_out():
    fields = {"activation": "relu", **FIELDS}
    fork = inception_v4.Fork((inception_v4.Unit(3, (1, 3)), inception_v4.Unit(5, (3, 1))))
    branches = inception_v4.Branches(((inception_v4.Unit(4, 1), fork), (inception_v4.AVERAGE,)), fields)
    x = jnp.ones((1, 6, 6, 2))
    y, variables = jax.jit(lambda x: branches.init_with_output(jax.random.key(0), x, train=False))(x)
    shapes = {name: part["conv"]["kernel"].shape for name, part in variables["params"].items()}
    assert shapes == {
        "branch1_conv1": (1, 1, 2, 4),
        "branch1_conv2_fork1": (1, 3, 4, 3),
        "branch1_conv2_fork2": (3, 1, 4, 5),
    }
    assert y.shape == (1, 6, 6, 10)
    np.testing.assert_allclose(y[..., 8:], x, rtol=1e-6)


def test_residuals_are_scaled_before_they_are_added():
    fields = {"activation": "relu", **FIELDS}
    branches = ((inception_v4.Unit(4, 1),), (inception_v4.Unit(2, 1), inception_v4.Unit(3, 3)))
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 6))
    full = inception_resnet.Residual(branches, 1.0, None, fields)
    y, variables = jax.jit(lambda x: full.init_with_output(jax.random.key(0), x, train=False))(x)
    branch = y - x
    scaled = inception_resnet.Residual(branches, 0.17, "relu", fields).apply(variables, x, train=False)
    np.testing.assert_allclose(scaled, jnp.maximum(x + 0.17 * branch, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [6, 7])
def test_xception_pools_as_tensorflow_pads(side):
    """An even side gets its one padded pixel at the end."""
    block = xception.Block((4,), True, True, "relu", FIELDS)
    x = jax.random.normal(jax.random.key(1), (1, side, side, 4))
    y, variables = block.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True)
    inside = np.asarray(variables["intermediates"]["conv1"]["__call__"][0])
    pooled = variables["intermediates"]["pool"]["__call__"][0]
    out = -(-side // 2)
    assert y.shape == (1, out, out, 4)
    first = (2 * (out - 1) + 3 - side) // 2
    for i, j in np.ndindex(out, out):
        rows, columns = (slice(max(2 * k - first, 0), 2 * k - first + 3) for k in (i, j))
        np.testing.assert_array_equal(pooled[0, i, j], inside[0, rows, columns].max(axis=(0, 1)))
