"""GoogLeNet, BN-Inception and Inception v3: the published tables, and the auxiliary classifiers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxcnn import models
from jaxcnn import state as states

# The published table of GoogLeNet: output side and channels, thousands of parameters, millions of operations.
TABLE = {
    "conv1": (112, 64, 2.7, 34),
    "conv2 + conv3": (56, 192, 112, 360),
    "inception3a": (28, 256, 159, 128),
    "inception3b": (28, 480, 380, 304),
    "inception4a": (14, 512, 364, 73),
    "inception4b": (14, 512, 437, 88),
    "inception4c": (14, 512, 463, 100),
    "inception4d": (14, 528, 580, 119),
    "inception4e": (14, 832, 840, 170),
    "inception5a": (7, 832, 1072, 54),
    "inception5b": (7, 1024, 1388, 71),
    "head": (1, 1000, 1000, 1),
}


def abstract(model, shape):
    return jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape))


def outputs(name, side, **options):
    """Output shape of every part, by path."""
    model = models.create(name, **options)
    _, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True),
        jnp.zeros((1, side, side, 3)),
    )
    parts = flatten_dict(variables["intermediates"], sep="/")
    return {path.removesuffix("/__call__"): out[0].shape[1:] for path, out in parts.items()}


def test_googlenet_has_the_published_table_but_for_its_misprints():
    params = abstract(models.create("googlenet_2014"), (224, 224, 3)).params
    shapes = outputs("googlenet_2014", 224)
    true = {}
    for row, (side, channels, _, _) in TABLE.items():
        parts = row.split(" + ")
        shape = shapes[parts[-1]]
        assert shape == ((channels,) if row == "head" else (side, side, channels))
        # Weights without biases, and multiply-adds, which are the weights times the output's pixels.
        weights = sum(
            leaf.size
            for part in parts
            for path, leaf in flatten_dict(params[part], sep="/").items()
            if path.endswith("kernel")
        )
        true[row] = (weights, weights * side * side)
    # The table counts parameters in units of 1,024 and operations in units of 10^6, cut or rounded.
    wrong_parameters = {row: w for row, (w, _) in true.items() if abs(w / 1024 - TABLE[row][2]) > 1}
    wrong_operations = {row: n for row, (_, n) in true.items() if abs(n / 1e6 - TABLE[row][3]) > 1}
    assert wrong_parameters == {
        "conv1": 9_408,
        "inception4a": 375_552,
        "inception4c": 509_440,
        "inception4d": 604_672,
        "inception4e": 867_328,
        "inception5a": 1_042_432,
        "inception5b": 1_442_816,
    }
    assert wrong_operations == {"conv1": 118_013_952, "inception5a": 51_079_168}
    # The first row is that of a separable convolution: 8 filters of 7x7 for each channel, then 1x1 to 64 filters.
    separable = 7 * 7 * 3 * 8 + 3 * 8 * 64
    assert round(separable / 1000, 1) == TABLE["conv1"][2]
    assert round(separable * 112 * 112 / 1e6) == TABLE["conv1"][3]


def test_naive_modules_grow_by_what_their_pooling_passes_on():
    shapes = outputs("inception_naive", 224)
    channels = [shapes[f"inception{name}"][-1] for name in ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]]
    assert channels == [416, 832, 1280, 1728, 2176, 2640, 3344, 4048, 4944]
    # The published argument for the 1x1 reductions: the same filters for an eighth of the work.
    reduced, naive = models.facts("googlenet_2014"), models.facts("inception_naive")
    assert 7.9 < naive.multiply_adds / reduced.multiply_adds < 8
    assert 13.9 < naive.parameters / reduced.parameters < 14


def test_inception_v2_has_the_sizes_of_figure_5():
    shapes = outputs("inception_v2", 224)
    assert {name.removeprefix("inception"): shape for name, shape in shapes.items() if name[9:] in BN_INCEPTION} == (
        BN_INCEPTION
    )
    assert shapes["inception3c/pool"] == (14, 14, 320)  # all channels are passed on
    assert shapes["inception5b/project"] == (7, 7, 128)


BN_INCEPTION = {
    "3a": (28, 28, 256),
    "3b": (28, 28, 320),
    "3c": (14, 14, 576),
    "4a": (14, 14, 576),
    "4b": (14, 14, 576),
    "4c": (14, 14, 608),  # printed as 576, which its own filters do not add up to; so the next two
    "4d": (14, 14, 608),
    "4e": (7, 7, 1056),
    "5a": (7, 7, 1024),
    "5b": (7, 7, 1024),
}


@pytest.mark.parametrize("side", [97, 200, 211, 225])
def test_inception_v2_joins_its_branches_at_any_size(side):
    assert outputs("inception_v2", side)["head"] == (1000,)


def test_inception_v3_has_three_sizes_of_map():
    shapes = outputs("inception_v3", 299)
    assert shapes["pool2"] == (35, 35, 192)
    assert shapes["mixed5b"] == (35, 35, 256)
    assert shapes["mixed5d"] == (35, 35, 288)
    assert shapes["mixed6a"] == shapes["mixed6e"] == (17, 17, 768)
    assert shapes["mixed7a"] == (8, 8, 1280)
    assert shapes["mixed7c"] == (8, 8, 2048)
    assert shapes["aux/pool"] == (5, 5, 768)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "added"), [("googlenet", 6_379_984), ("googlenet_2014", 6_379_728), ("inception_v3", 3_326_696)]
)
def test_auxiliary_classifiers_have_the_published_parameters_and_take_any_size(name, added):
    facts = models.facts(name)
    model = models.create(name, auxiliary=True)
    smallest, published, larger = (
        abstract(model, (side, side, 3)).params for side in (facts.smallest, facts.input_shape[0], 320)
    )
    assert jax.tree.map(jnp.shape, smallest) == jax.tree.map(jnp.shape, published) == jax.tree.map(jnp.shape, larger)
    own = {part: leaves for part, leaves in published.items() if part.startswith("aux")}
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == added


def test_auxiliary_logits_come_in_training_only_and_carry_their_weights():
    model = models.create("googlenet_2014", num_classes=3, auxiliary=True, auxiliary_weight=0.25)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    state = abstract(model, images.shape[1:])

    def auxiliary(state, images, train):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(state.variables, images, train=train, mutable=["auxiliary"], rngs=rngs)[1]

    handed = jax.eval_shape(lambda s, x: auxiliary(s, x, True), state, images)["auxiliary"]
    assert {name: values[0].logits.shape for name, values in handed.items()} == {
        "auxiliary1": (2, 3),
        "auxiliary2": (2, 3),
    }
    assert not jax.eval_shape(lambda s, x: auxiliary(s, x, False), state, images)


@pytest.mark.slow
def test_the_published_auxiliary_classifier_averages_5x5_windows_of_the_14x14_map():
    from jaxcnn.models.googlenet import AuxiliaryHead

    unit = {"form": "published", "activation": "relu", "dtype": jnp.float32, "axis_name": None}
    head = AuxiliaryHead(3, 0.7, unit)
    x = jnp.asarray(np.random.default_rng(0).random((1, 14, 14, 2)), jnp.float32)
    _, variables = head.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True)
    pooled = variables["intermediates"]["pool"]["__call__"][0]
    assert pooled.shape == (1, 4, 4, 2)
    np.testing.assert_allclose(pooled[0, 1, 3], x[0, 3:8, 9:14].mean((0, 1)), rtol=1e-5)
