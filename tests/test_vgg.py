"""VGG: the lecture's table of VGG-16, the configurations' shapes, and what tells the variants apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.layers.local_response_norm import LocalResponseNorm


def outputs(name, side):
    """Output shape of every part, by name."""
    model = models.create(name)
    _, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True),
        jnp.zeros((1, side, side, 3)),
    )
    parts = variables["intermediates"]
    return {part: out["__call__"][0].shape[1:] for part, out in parts.items() if part != "__call__"}


def kernels(name):
    model = models.create(name)
    params = jax.eval_shape(lambda: states.create(model, jax.random.key(0), (224, 224, 3))).params
    return {part: leaves["kernel"].shape for part, leaves in params.items() if "kernel" in leaves}


def test_vgg16_has_the_lecture_s_table():
    weights = {part: int(np.prod(shape)) for part, shape in kernels("vgg16").items()}
    assert weights == {
        "conv1_1": 1_728,
        "conv1_2": 36_864,
        "conv2_1": 73_728,
        "conv2_2": 147_456,
        "conv3_1": 294_912,
        "conv3_2": 589_824,
        "conv3_3": 589_824,
        "conv4_1": 1_179_648,
        "conv4_2": 2_359_296,
        "conv4_3": 2_359_296,
        "conv5_1": 2_359_296,
        "conv5_2": 2_359_296,
        "conv5_3": 2_359_296,
        "fc6": 102_760_448,
        "fc7": 16_777_216,
        "head": 4_096_000,
    }
    shapes = outputs("vgg16", 224)
    # The lecture's activations: 3.2M, 800K, 1.6M, 400K, 800K, 200K, 400K, 100K, 100K, 25K.
    assert shapes["conv1_2"] == (224, 224, 64)
    assert shapes["pool1"] == (112, 112, 64)
    assert shapes["conv2_2"] == (112, 112, 128)
    assert shapes["pool2"] == (56, 56, 128)
    assert shapes["conv3_3"] == (56, 56, 256)
    assert shapes["pool3"] == (28, 28, 256)
    assert shapes["conv4_3"] == (28, 28, 512)
    assert shapes["pool4"] == (14, 14, 512)
    assert shapes["conv5_3"] == (14, 14, 512)
    assert shapes["pool5"] == (7, 7, 512)


@pytest.mark.parametrize(
    ("name", "layers"), [("vgg11", 11), ("vgg11_lrn", 11), ("vgg13", 13), ("vgg16_c", 16), ("vgg16", 16), ("vgg19", 19)]
)
def test_the_name_counts_the_weighted_layers(name, layers):
    assert len(kernels(name)) == layers


def test_configuration_c_is_d_with_1x1_in_the_third_place():
    c, d = kernels("vgg16_c"), kernels("vgg16")
    differing = {part for part in d if c[part] != d[part]}
    assert differing == {"conv3_3", "conv4_3", "conv5_3"}
    assert all(c[part][:2] == (1, 1) for part in differing)


@pytest.mark.slow
def test_response_normalisation_follows_the_first_activation_only():
    model = models.create("vgg11_lrn", num_classes=2)
    state = jax.eval_shape(lambda: states.create(model, jax.random.key(0), (32, 32, 3)))
    rng = np.random.default_rng(0)
    params = {part: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), leaves) for part, leaves in state.params.items()}
    params["conv1_1"]["kernel"] = jnp.asarray(rng.standard_normal((3, 3, 3, 64)), jnp.float32)
    images = jnp.asarray(rng.random((1, 32, 32, 3)), jnp.float32)
    _, variables = model.apply({"params": params}, images, train=False, mutable=True, capture_intermediates=True)
    parts = variables["intermediates"]
    first = jnp.maximum(parts["conv1_1"]["__call__"][0], 0)
    np.testing.assert_allclose(parts["norm1_1"]["__call__"][0], LocalResponseNorm().apply({}, first), rtol=1e-6)
    assert [part for part in parts if part.startswith("norm")] == ["norm1_1"]


def test_batch_norm_follows_every_convolution():
    model = models.create("vgg13_bn")
    state = jax.eval_shape(lambda: states.create(model, jax.random.key(0), (224, 224, 3)))
    assert {part.replace("norm", "conv") for part in state.batch_stats} == set(kernels("vgg13")) - {
        "fc6",
        "fc7",
        "head",
    }


def test_any_size_from_32_pixels_reaches_the_dense_layers_as_7x7():
    assert outputs("vgg11", 32)["pool5"] == (1, 1, 512)
    assert outputs("vgg11", 32)["average"] == outputs("vgg11", 288)["average"] == (7, 7, 512)
