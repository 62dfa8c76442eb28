"""What is particular to SqueezeNet, MobileNet v2 and ShuffleNet v2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.models import mobilenet, shufflenet


def intermediates(name, side):
    """The output shape of every module, by path, for one image."""
    model = models.create(name)
    _, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True),
        jnp.zeros((1, side, side, 3)),
    )
    found = jax.tree_util.tree_leaves_with_path(variables["intermediates"])
    return {"/".join(key.key for key in path[:-2]): leaf.shape[1:] for path, leaf in found}


def test_squeezenet_s_feature_maps_have_the_paper_s_sizes():
    shapes = intermediates("squeezenet1_0", 227)
    assert shapes["conv1"] == (111, 111, 96)
    assert shapes["pool1"] == (55, 55, 96)
    assert shapes["pool4"] == (27, 27, 256)
    assert shapes["pool8"] == (13, 13, 512)
    assert shapes["head"] == (13, 13, 1000)


@pytest.mark.slow
def test_squeezenet_s_last_activation_leaves_no_negative_logit():
    model = models.create("squeezenet1_1")
    state = states.create(model, jax.random.key(0), (64, 64, 3))
    images = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
    logits = jax.jit(lambda x: model.apply(state.variables, x, train=False))(images)
    assert logits.min() >= 0
    assert (logits > 0).any()


@pytest.mark.slow
def test_squeezenet_recognises_photographs(real_data):
    model, state = jaxcnn.load("squeezenet1_0", weights=real_data / "weights/squeezenet1_0_imagenet.pth")
    classes = [line.split("\t")[0] for line in (real_data / "imagenet_classes.txt").read_text().splitlines()]
    images, targets = [], []
    for file in sorted((real_data / "imagenet_samples").iterdir()):
        picture = Image.open(file).convert("RGB")
        scale = 256 / min(picture.size)
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (picture.width - 227) // 2, (picture.height - 227) // 2
        images.append(np.asarray(picture.crop((left, top, left + 227, top + 227)), np.float32) / 255)
        targets.append(classes.index(file.name.split("_")[0]))
    logits = jax.jit(lambda x: model.apply(state.variables, x, train=False))(np.stack(images))
    ranked = np.argsort(-np.asarray(logits), axis=-1)
    targets = np.array(targets).reshape(-1, 1)
    assert (ranked[:, :5] == targets).any(axis=-1).sum() >= 22
    assert (ranked[:, :1] == targets).sum() >= 19


@pytest.mark.slow
def test_mobilenet_adds_the_input_where_shapes_allow_and_projects_without_an_activation():
    block = mobilenet.InvertedResidual(6, 8, 1, "relu6", {"dtype": jnp.float32, "axis_name": None})
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 8))
    y, variables = jax.jit(lambda x: block.init_with_output(jax.random.key(0), x, train=False))(x)
    branch = y - x
    assert branch.min() < 0 < branch.max()
    scale = variables["params"]["project"]["norm"]["scale"]
    variables["params"]["project"]["norm"]["scale"] = jnp.zeros_like(scale)
    np.testing.assert_array_equal(block.apply(variables, x, train=False), x)

    shapes = intermediates("mobilenet_v2", 224)
    sides = [shapes[f"stage{i}"] for i in range(1, 8)]
    assert sides == [
        (112, 112, 16),
        (56, 56, 24),
        (28, 28, 32),
        (14, 14, 64),
        (14, 14, 96),
        (7, 7, 160),
        (7, 7, 320),
    ]


def test_shuffle_interleaves_the_halves():
    x = jnp.arange(6.0).reshape(1, 1, 1, 6)
    np.testing.assert_array_equal(shufflenet.shuffle(x)[0, 0, 0], [0, 3, 1, 4, 2, 5])


def test_shufflenet_passes_half_of_the_channels_untouched():
    fields = {"activation": "relu", "dtype": jnp.float32, "axis_name": None}
    block = shufflenet.Block(8, 1, fields)
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 8))
    run = jax.jit(lambda x: block.init_with_output(jax.random.key(0), x, train=False)[0])
    y = run(x)
    np.testing.assert_array_equal(y[..., ::2], x[..., :4])
    # The other half comes from the other half alone.
    z = run(x.at[..., :4].set(0))
    np.testing.assert_array_equal(z[..., 1::2], y[..., 1::2])
