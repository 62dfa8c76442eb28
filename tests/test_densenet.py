"""What is particular to densely connected networks: what each layer sees, and how channels grow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.errors import InputError
from jaxcnn.models.densenet import DenseBlock, DenseNet


def abstract(model, shape):
    return jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape))


def channels(params, block):
    """Input channels of each layer of a block."""
    layers = params[block]
    return [layers[f"layer{i + 1}"]["norm1"]["scale"].size for i in range(len(layers))]


@pytest.mark.parametrize(
    ("name", "stem", "growth_rate", "halved"),
    [
        ("densenet121", 64, 32, True),
        ("densenet161", 96, 48, True),
        ("densenet_bc100_12", 24, 12, True),
        ("densenet40_12", 16, 12, False),
    ],
)
def test_every_layer_adds_the_growth_rate_and_transitions_compress(name, stem, growth_rate, halved):
    params = abstract(models.create(name), (32, 32, 3)).params
    features = stem
    for block in sorted(name for name in params if name.startswith("block")):
        seen = channels(params, block)
        assert seen == [features + growth_rate * i for i in range(len(seen))]
        features += growth_rate * len(seen)
        assert ("conv2" in params[block]["layer1"]) == halved
        if transition := params.get(block.replace("block", "transition")):
            kept = features // 2 if halved else features
            assert transition["conv"]["kernel"].shape == (1, 1, features, kept)
            features = kept
    assert params["head"]["kernel"].shape[0] == features


@pytest.mark.slow
def test_a_block_passes_everything_on():
    fields = {"growth_rate": 3, "bottleneck": True, "dropout": 0.0, "activation": "relu"}
    block = DenseBlock(4, fields | {"dtype": jnp.float32, "axis_name": None})
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 7))
    y, variables = block.init_with_output(jax.random.key(1), x, train=False)
    assert y.shape == (2, 5, 5, 7 + 4 * 3)
    np.testing.assert_array_equal(y[..., :7], x)
    shorter = DenseBlock(3, block.layer)
    first = {name: {k: v for k, v in tree.items() if k != "layer4"} for name, tree in variables.items()}
    np.testing.assert_allclose(shorter.apply(first, x, train=False), y[..., :-3], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_dropout_follows_every_convolution_but_the_stem():
    model = DenseNet(depth=7, growth_rate=4, bottleneck=False, dropout=0.999, num_classes=3)
    state = states.create(model, jax.random.key(0), (8, 8, 3))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    options = {"mutable": ["batch_stats", "intermediates"], "capture_intermediates": True}
    rngs = {"dropout": jax.random.key(2)}
    _, seen = jax.jit(lambda x: model.apply(state.variables, x, train=True, rngs=rngs, **options))(images)
    outputs = seen["intermediates"]
    assert np.mean(np.asarray(outputs["stem"]["__call__"][0]) == 0) < 0.1
    assert np.mean(np.asarray(outputs["block1"]["layer1"]["__call__"][0]) == 0) > 0.9
    assert np.mean(np.asarray(outputs["transition1"]["dropout"]["__call__"][0]) == 0) > 0.9


def test_a_depth_that_fits_no_form_is_refused():
    with pytest.raises(InputError, match="depth is 41; expected 121, 161, 169, 201, 264, or 3n \\+ 4"):
        DenseNet(depth=41, bottleneck=False)
    with pytest.raises(InputError, match="depth is 43; expected .* or 6n \\+ 4"):
        DenseNet(depth=43)
