"""Deleted and moved blocks against a forward pass by hand, errors against a loop, Kendall's tau against SciPy."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import lesion
from jaxcnn.analysis.activations import watched
from jaxcnn.analysis.blocks import parts
from jaxcnn.errors import InputError
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.models.cifar_resnet import CifarResNet
from jaxcnn.models.stochastic_depth import StochasticDepthResNet
from jaxcnn.models.wide_resnet import WideResNet

SHAPE = (8, 8, 3)
IMAGES = jax.random.uniform(jax.random.key(1), (6, *SHAPE))
KEY = jax.random.key(0)


def trained(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> states.State:
    """A state whose statistics and scales are not those of a fresh network."""
    state = states.create(model, jax.random.key(2), shape)

    rng = np.random.default_rng(0)
    params, stats = jax.tree.map(
        lambda leaf: leaf if leaf.ndim > 1 else leaf + rng.uniform(size=leaf.shape).astype(np.float32),
        (state.params, state.batch_stats),
    )
    return state.replace(params=params, batch_stats=stats)


RESNET = CifarResNet(depth=14, num_classes=10)


@cache
def resnet() -> states.State:
    return trained(RESNET)


@cache
def chain() -> states.State:
    return trained(Chain())


@cache
def labels() -> np.ndarray:
    """Of which the network has none wrong."""
    return np.asarray(logits(RESNET, resnet()).argmax(-1))


BLOCKS = [f"stage{s}/block{b}" for s in (1, 2, 3) for b in (1, 2)]


def convolve(x, parameters, stride=1, padding=1):
    return lax.conv_general_dilated(
        x, parameters["kernel"], (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normalize(x, parameters, statistics):
    mean, variance, scale, bias = (
        v.reshape(1, 1, 1, -1) for v in (statistics["mean"], statistics["var"], parameters["scale"], parameters["bias"])
    )
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


def at(tree: Any, name: str) -> Any:
    for part in name.split("/"):
        tree = tree[part]
    return tree


def gate(x, share):
    """The value, of whose gradient a share passes."""
    return share * x + lax.stop_gradient((1 - share) * x)


@jax.jit
def by_hand(variables, insides, images, branches, forward, backward):
    """The logits of RESNET's kind of network.

    Args:
      variables: of the network.
      insides: parameters and statistics of the blocks, in the order in which they stand.
      images: what it sees.
      branches: what every block's branch is multiplied by.
      forward: whether the branch hands the gradient on.
      backward: whether the shortcut does.
    """
    params, stats = variables["params"], variables["batch_stats"]
    x = nn.relu(normalize(convolve(images, params["stem"]), params["stem_norm"], stats["stem_norm"]))
    for i, (p, s) in enumerate(insides):
        features = p["conv2"]["kernel"].shape[-1]
        stride = features // x.shape[-1]
        y = nn.relu(normalize(convolve(x, p["conv1"], stride), p["norm1"], s["norm1"]))
        y = normalize(convolve(y, p["conv2"]), p["norm2"], s["norm2"])
        extra = features - x.shape[-1]
        x = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        x = nn.relu(branches[i] * gate(y, forward[i]) + gate(x, backward[i]))
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)


def insides(state, order=range(6)):
    return [(at(state.params, BLOCKS[i]), at(state.batch_stats, BLOCKS[i])) for i in order]


ALL = np.ones(6, np.float32)


def logits(model, state, images=IMAGES):
    return jitted(model, state.variables, images)


@partial(jax.jit, static_argnums=0)
def jitted(model, variables, images):
    return model.apply(variables, images, train=False)


# ---- what the blocks are


@pytest.mark.slow
def test_the_blocks_of_a_residual_network():
    found = lesion.blocks(RESNET, resnet(), SHAPE)
    assert [block.name for block in found] == BLOCKS
    assert [block.stage for block in found] == [1, 1, 2, 2, 3, 3]
    assert [block.downsamples for block in found] == [False, False, True, False, True, False]
    assert all(block.residual and block.deletable for block in found)
    assert (found[2].input_shape, found[2].output_shape) == ((8, 8, 16), (4, 4, 32))


def abstract(name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, Any]:
    model = models.create(name, num_classes=10)
    return model, jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last", "downsampling"),
    [("resnet18", "norm2", 3), ("resnet18_v2", "conv2", 3), ("resnet50", "norm3", 3), ("resnet50_v2", "conv3", 3)],
)
def test_a_branch_ends_before_the_addition(name, last, downsampling):
    model, state = abstract(name, (64, 64, 3))
    found = parts(model, state, (64, 64, 3))
    assert len(found) == {18: 8, 50: 16}[model.depth]
    assert all(part.ends == (f"{part.block.name}/{last}",) for part in found)
    assert sum(part.block.downsamples for part in found) == downsampling
    assert {part.block.stage for part in found} == {1, 2, 3, 4}


def test_the_layers_of_vgg_of_which_those_of_one_shape_can_be_deleted():
    model, state = abstract("vgg11_bn", (32, 32, 3))
    found = lesion.blocks(model, state, (32, 32, 3))
    assert [block.name for block in found if block.deletable] == ["conv3_2", "conv4_2", "conv5_1", "conv5_2", "fc7"]
    assert not any(block.residual or block.downsamples for block in found)
    assert [block.stage for block in found][:8] == [1, 2, 3, 3, 4, 4, 5, 5]
    assert parts(model, state, (32, 32, 3))[3].ends == ("conv3_2", "norm3_2")
    with pytest.raises(InputError, match=r"conv3_1 maps \(8, 8, 128\) to \(8, 8, 256\); expected a layer of one shape"):
        lesion.delete(model, state, (32, 32, 3), ["conv5_1", "conv3_1"])


# ---- deletion


@pytest.mark.parametrize("gone", [[], *([name] for name in BLOCKS), ["stage1/block2", "stage2/block1"], BLOCKS])
def test_a_deleted_block_is_its_shortcut(gone):
    branches = np.array([name not in gone for name in BLOCKS], np.float32)
    expected = by_hand(resnet().variables, insides(resnet()), IMAGES, branches, ALL, ALL)
    found = logits(RESNET, lesion.delete(RESNET, resnet(), SHAPE, gone))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "last"),
    [
        (WideResNet(depth=10, widening=1, num_classes=10), "conv2"),
        (StochasticDepthResNet(depth=8, num_classes=10), "norm2"),
    ],
    ids=["pre-activation", "stochastic depth"],
)
def test_other_residual_networks_lose_their_branches_too(model, last):
    state = trained(model)

    @jax.jit
    def without(images):
        gone = f"stage2/block1/{last}"
        return watched(model, lambda name, y: 0 * y if name == gone else y, state.variables, images)

    found = logits(model, lesion.delete(model, state, SHAPE, ["stage2/block1"]))
    np.testing.assert_allclose(found, without(IMAGES), rtol=1e-5, atol=1e-5)
    assert np.abs(found - logits(model, state)).max() > 1e-3


class Chain(nn.Module):
    """Layers of one shape and others, with biases, batch norm and ReLUs, without those that are left out."""

    without: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, images, *, train):
        def layer(module, x):
            return x if module.name in self.without else module(x)

        x = nn.relu(Conv(4, 3, padding=1, name="first")(images))
        x = nn.relu(layer(Conv(4, 5, padding=2, bias_init=nn.initializers.ones, name="second"), x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        if "third" not in self.without:
            x = BatchNorm(name="norm")(Conv(4, 3, padding=1, name="third")(x), train=train)
        x = nn.relu(x).reshape(len(x), -1)
        x = nn.relu(nn.Dense(7, name="fourth")(x))
        return nn.Dense(3, name="head")(nn.relu(layer(nn.Dense(7, bias_init=nn.initializers.ones, name="fifth"), x)))


@pytest.mark.parametrize("gone", [("second",), ("third",), ("fifth",), ("second", "third", "fifth")])
def test_a_deleted_layer_is_not_there(gone):
    found = logits(Chain(), lesion.delete(Chain(), chain(), SHAPE, gone))
    np.testing.assert_allclose(found, logits(Chain(gone), chain()), rtol=1e-5, atol=1e-5)
    assert np.abs(found - logits(Chain(), chain())).max() > 1e-3


class Foreign(nn.Module):
    """Layers of flax itself, without those that are left out."""

    without: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(2, (1, 1), name="first")(images)
        for layer in (
            nn.Conv(2, (3, 3), use_bias=False, name="same"),
            nn.Conv(2, (3, 1), padding=((1, 1), (0, 0)), name="pairs"),
            nn.Conv(2, (3, 3), padding=((2, 0), (1, 1)), name="aside"),
            nn.Conv(2, (3, 3), feature_group_count=2, name="groups"),
        ):
            if layer.name not in self.without:
                norm = nn.BatchNorm(use_running_average=not train, epsilon=1e-2, name=f"{layer.name}_norm")
                x = norm(layer(x))
            x = nn.relu(x)
        return x.mean((1, 2))


def test_flax_s_own_layers_are_deleted_with_their_norms():
    model = Foreign()
    state = trained(model)
    found = parts(model, state, SHAPE)
    assert [part.block.name for part in found if part.block.deletable] == ["same", "pairs"]
    assert found[1].ends == ("same", "same_norm")
    gone = ("same", "pairs")
    without = logits(model, lesion.delete(model, state, SHAPE, gone))
    np.testing.assert_allclose(without, logits(Foreign(gone), state), rtol=1e-5, atol=1e-5)
    assert np.abs(without - logits(model, state)).max() > 1e-3


def test_a_plain_network_has_layers_and_those_that_halve_the_map_stay():
    model = CifarResNet(depth=8, residual=False, num_classes=10)
    state = jax.eval_shape(lambda: states.create(model, KEY, SHAPE))
    found = lesion.blocks(model, state, SHAPE)
    assert [block.name for block in found if block.deletable] == [
        "stage1/block1/conv1",
        "stage1/block1/conv2",
        "stage2/block1/conv2",
        "stage3/block1/conv2",
    ]
    assert [block.name for block in found if block.downsamples] == ["stage2/block1/conv1", "stage3/block1/conv1"]


def test_nothing_but_the_block_s_own_numbers_changes():
    state = lesion.delete(RESNET, resnet(), SHAPE, ["stage2/block2"])
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state, resnet())
    changed = {jax.tree_util.keystr(path) for path, equal in jax.tree.leaves_with_path(same) if not equal}
    assert changed == {
        f".{field}['stage2']['block2']['norm2']['{name}']"
        for field, name in (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))
    }


def test_of_averaged_parameters_those_change_that_are_used():
    state = chain().replace(ema_params=jax.tree.map(lambda x: 2 * x, chain().params))
    found = lesion.delete(Chain(), state, SHAPE, ["fifth"])
    np.testing.assert_array_equal(found.ema_params["fifth"]["kernel"], np.eye(7))
    np.testing.assert_array_equal(found.params["fifth"]["kernel"], chain().params["fifth"]["kernel"])


# ---- order


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]])
def test_moved_blocks_work_in_their_new_places(order):
    found = logits(RESNET, lesion.reorder(RESNET, resnet(), SHAPE, np.array(order)))
    expected = by_hand(resnet().variables, insides(resnet(), order), IMAGES, ALL, ALL, ALL)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))


def test_layers_of_one_shape_change_places():
    model = models.create("mlp", num_classes=3, width=5, depth=4)
    state = trained(model)
    found = logits(model, lesion.reorder(model, state, SHAPE, np.array([0, 2, 3, 1, 4])))
    x = np.asarray(IMAGES).reshape(6, -1)
    for name in ("hidden1", "hidden3", "hidden4", "hidden2"):
        x = np.maximum(x @ state.params[name]["kernel"] + state.params[name]["bias"].reshape(1, -1), 0)
    expected = x @ state.params["head"]["kernel"] + state.params["head"]["bias"].reshape(1, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9).flatmap(lambda n: st.permutations(range(n))))
def test_tau_is_kendall_s(order):
    expected: Any = scipy.stats.kendalltau(range(len(order)), order)
    np.testing.assert_allclose(lesion.kendall_tau(np.array([order])), [expected.statistic], atol=1e-12)


# ---- errors


THREE = np.arange(6) % 3


def error(model, state, classes):
    return float((np.asarray(logits(model, state)).argmax(-1) != classes).mean())


def test_errors_without_each_block_are_those_of_the_lesioned_states():
    program: Any = lesion._wrong
    before = program._cache_size()
    found = lesion.single(RESNET, resnet(), [(IMAGES[:4], labels()[:4]), (IMAGES[4:], labels()[4:])])
    assert program._cache_size() == before + 1  # one program for all
    assert found.intact == 0
    expected = [error(RESNET, lesion.delete(RESNET, resnet(), SHAPE, [name]), labels()) for name in BLOCKS]
    np.testing.assert_allclose(found.errors, expected)
    assert len(set(expected)) > 1  # the blocks differ, so an order of them is seen


def test_a_stream_is_read_once_and_its_batches_do_not_matter():
    stream = ((IMAGES[some], THREE[some]) for some in (slice(0, 4), slice(4, 5), slice(5, 6)))
    found = lesion.single(Chain(), chain(), stream, chunk=3)
    whole = lesion.single(Chain(), chain(), [(IMAGES, THREE)])
    assert found.intact == whole.intact == error(Chain(), chain(), THREE)
    np.testing.assert_array_equal(found.errors, whole.errors)
    assert [bool(np.isnan(e)) for e in found.errors] == [True, False, False, True, False, True]


def test_random_blocks_are_deleted_without_replacement():
    found = lesion.several(Chain(), chain(), [(IMAGES, THREE)], (0, 2, 3), 4, KEY)
    assert found.deleted.shape == (3, 4, 6)
    assert found.deleted.sum(-1).tolist() == [[0] * 4, [2] * 4, [3] * 4]
    assert not found.deleted[..., [0, 3, 5]].any()  # change the shape
    assert len({tuple(row) for row in found.deleted[1].tolist()}) > 1
    np.testing.assert_array_equal(found.errors[0], found.intact)
    names = np.array([block.name for block in found.blocks])
    for mask, e in zip(found.deleted[1], found.errors[1], strict=True):
        state = lesion.delete(Chain(), chain(), SHAPE, list(names[mask]))
        assert e == error(Chain(), state, THREE)
    alone = lesion.several(Chain(), chain(), [(IMAGES, THREE)], (2,), 4, KEY)
    np.testing.assert_array_equal(alone.deleted[0], found.deleted[1])
    other = lesion.several(Chain(), chain(), [(IMAGES, THREE)], (2,), 4, jax.random.key(1))
    assert (other.deleted != alone.deleted).any()


def test_shuffled_blocks_change_places_with_their_equals():
    found = lesion.shuffle(RESNET, resnet(), [(IMAGES, labels())], (0, 1, 5), 3, KEY)
    assert found.orders.shape == (3, 3, 6)
    np.testing.assert_array_equal(np.sort(found.orders), np.broadcast_to(np.arange(6), (3, 3, 6)))
    # The only two of equal shapes are those of the first stage, 16 channels in and out.
    np.testing.assert_array_equal(found.orders[..., 2:], np.broadcast_to(np.arange(2, 6), (3, 3, 4)))
    np.testing.assert_array_equal(found.orders[0], np.broadcast_to(np.arange(6), (3, 6)))
    np.testing.assert_array_equal(found.orders[1:, :, 0], 1)  # an odd number of swaps of one pair
    np.testing.assert_allclose(found.tau, [[1] * 3, [1 - 2 / 15] * 3, [1 - 2 / 15] * 3])
    np.testing.assert_array_equal(found.errors[0], found.intact)
    state = lesion.reorder(RESNET, resnet(), SHAPE, found.orders[1, 0])
    np.testing.assert_array_equal(found.errors[1:], error(RESNET, state, labels()))
    assert error(RESNET, state, labels()) > 0


def test_logits_that_are_not_finite_classify_nothing():
    state = chain().replace(params={**chain().params, "first": {"kernel": jnp.full((3, 3, 3, 4), jnp.nan)}})
    state.params["first"]["bias"] = jnp.zeros(4)
    assert lesion.single(Chain(), state, [(IMAGES, np.zeros(6, np.int32))]).intact == 1


# ---- mistakes


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: lesion.delete(RESNET, resnet(), SHAPE, ["stage1/block9"]), "unknown block 'stage1/block9'; did"),
        (lambda: lesion.reorder(RESNET, resnet(), SHAPE, np.array([0, 1])), r"order is \[0, 1\]; expected the num"),
        (
            lambda: lesion.reorder(RESNET, resnet(), SHAPE, np.array([0, 1, 3, 2, 4, 5])),
            "stage2/block2 takes the place of stage2/block1; expected a block of the same shapes",
        ),
        (
            lambda: lesion.several(RESNET, resnet(), [(IMAGES, labels())], (7,), 1, KEY),
            r"counts are \(7,\); expected .* 0 to 6",
        ),
        (lambda: lesion.several(RESNET, resnet(), [(IMAGES, labels())], (), 1, KEY), r"counts are \(\)"),
        (
            lambda: lesion.several(RESNET, resnet(), [(IMAGES, labels())], (1,), 0, KEY),
            "repeats is 0; expected at least 1",
        ),
        (
            lambda: lesion.shuffle(RESNET, resnet(), [(IMAGES, labels())], (-1,), 1, KEY),
            r"swaps are \(-1,\); expected .* least 0",
        ),
        (lambda: lesion.single(RESNET, resnet(), []), "the stream holds no images"),
        (lambda: lesion.single(RESNET, resnet(), [(IMAGES, labels())], chunk=0), "chunk is 0"),
        (lambda: lesion.single(RESNET, resnet(), [(IMAGES, labels() + 10)]), r"expected classes in \[0, 10\)"),
        (lambda: lesion.single(RESNET, resnet(), [(IMAGES, labels()[:2])]), r"expected integers of shape \(6,\)"),
        (lambda: lesion.single(RESNET, resnet(), [(2 * IMAGES, labels())]), r"expected values in \[0, 1\]"),
        (
            lambda: lesion.single(RESNET, resnet(), [(IMAGES, labels()), (IMAGES[:, :4], labels())]),
            r"batch have shape \(4, 8, 3\); expected \(8, 8, 3\)",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_network_without_anything_to_delete_says_so():
    model = models.create("mlp", num_classes=10, depth=0)
    state = states.create(model, KEY, SHAPE)
    with pytest.raises(InputError, match="neither residual blocks called stage1/block1 .* whose input and output have"):
        lesion.single(model, state, [(IMAGES, labels())])
    with pytest.raises(InputError, match="MLP has no two blocks of equal shapes"):
        lesion.shuffle(model, state, [(IMAGES, labels())], (1,), 1, KEY)
