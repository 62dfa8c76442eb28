"""Every registered network learns: found by enumeration, so a new one is tested with no new test."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.data.pipeline import Batch
from jaxcnn.errors import InputError
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.step import AXIS, make_train_step


@cache
def cheapest() -> frozenset[str]:
    """Of each family the name with the fewest parameters."""
    families: dict[type, list[str]] = {}
    for name in models.names():
        families.setdefault(type(models.create(name)), []).append(name)
    return frozenset(min(names, key=lambda name: models.facts(name).parameters) for names in families.values())


DEEP = (pytest.mark.slow, pytest.mark.deep)

# Traced for several seconds.
LONG = ("densenet", "fractalnet", "googlenet", "inception", "stochastic_depth")

# Compiled in a few seconds.
QUICK = {"mlp", "lenet5", "cifar_resnet8"}


def _case(name: str, dtype: Any):
    marks = []
    if dtype != jnp.float32 or name not in QUICK:
        marks.append(pytest.mark.slow)
    if dtype != jnp.float32 or name not in cheapest():
        marks.append(pytest.mark.deep)
    return pytest.param(name, dtype, marks=marks, id=f"{name}-{jnp.dtype(dtype).name}")


EACH = [_case(name, dtype) for name in models.names() for dtype in (jnp.float32, jnp.bfloat16)]


def small_shape(name: str) -> tuple[int, int, int]:
    """The published input, or as much less as the network takes."""
    facts = models.facts(name)
    # Of 32 pixels the last stage of an ImageNet ResNet leaves one, and batch norm then has a value from each of a few
    # pictures: after a hundred layers of that the loss is too curved for any step of reasonable length.
    least = 64 if name.startswith(("resnet101", "resnet152", "resnet200")) else 32
    side = min(facts.input_shape[0], max(facts.smallest, least))
    return side, side, facts.input_shape[2]


# Of a plain network this deep, any step of its first layers changes the features beyond recognition: it hardly learns
# (He et al. 2016, section 4.2), which is why the residual one was made. Its last layer learns all the same.
UNTRAINABLE = {
    "cifar_plain56": [jnp.bfloat16],
    "cifar_plain110": [jnp.float32, jnp.bfloat16],
    "cifar_plain1202": [jnp.float32, jnp.bfloat16],
}


def equal_shares(part: str = "") -> optax.GradientTransformation:
    """Every array, or those of one part, moves against its gradient by the same share of its length: the state."""

    def update(gradients, share, params):
        def move(path, g, p):
            if part and path[0].key != part:
                return jnp.zeros_like(p)
            return -share * jnp.linalg.norm(p) / jnp.maximum(jnp.linalg.norm(g), 1e-30) * g

        return jax.tree_util.tree_map_with_path(move, gradients, params), share

    return optax.GradientTransformation(lambda params: jnp.zeros(()), update)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), EACH)
def test_a_training_step_lowers_the_loss_and_is_compiled_once(name, dtype):
    shape = small_shape(name)
    # A block that stochastic depth drops does not move its statistics, so here it drops none.
    options = {"survival": 1.0} if "survival" in models.options(name) else {}
    model = models.create(name, num_classes=5, dtype=dtype, axis_name=AXIS, **options)
    optimizer = equal_shares("head" if dtype in UNTRAINABLE.get(name, []) else "")
    state = states.create(model, jax.random.key(0), shape, optimizer)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 16, *shape), np.uint8)  # statistics of fewer images make the loss jump
    inference = model.clone(axis_name=None)
    logits = jax.eval_shape(lambda s: inference.apply(s.variables, images[0] / 255.0, train=False), state)
    labels = rng.integers(0, 5, (1, *logits.shape[:-1])).astype(np.int32)
    batch = Batch(images, labels, np.ones((1, 16), bool))

    devices = jax.devices()[:1]
    step = map_train_step(make_train_step(model, optimizer), devices)
    for share in (0.03, 0.01, 0.1, 0.001):
        start = jax.tree.map(jnp.copy, state.replace(opt_state=jnp.asarray(share, jnp.float32)))
        first, before = step(replicate(start, devices), batch)
        statistics = jax.tree.map(lambda a, b: bool((a != b).any()), first.batch_stats, state.batch_stats)
        assert jax.tree.all(statistics), "batch statistics did not move"
        # The same random masks again, so that only the parameters tell the two losses apart.
        again = replicate(first.replace(step=jnp.zeros((), jnp.int32)), devices)
        second, after = step(again, batch)
        if float(after["loss"]) < 0.95 * float(before["loss"]):  # rounding alone may lower it by a little
            break
    else:
        pytest.fail(f"no step lowered the loss from {float(before['loss'])}")
    assert step._cache_size() == 1, "a step was traced again"
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((second.params, second.batch_stats)))


def _traced(name: str):
    deep = name not in cheapest()
    return pytest.param(name, marks=DEEP if deep else [pytest.mark.slow] if name.startswith(LONG) else [])


@pytest.mark.parametrize("name", [_traced(name) for name in models.names()])
def test_the_smallest_input_is_the_smallest(name):
    facts = models.facts(name)
    model = models.create(name)

    def logits(side):
        images = jax.ShapeDtypeStruct((2, side, side, facts.input_shape[2]), jnp.float32)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], images)

    assert logits(facts.smallest).shape[-1] == facts.num_classes
    if facts.smallest > 1:
        with pytest.raises(InputError):
            logits(facts.smallest - 1)


@pytest.mark.parametrize("name", [_traced(name) for name in sorted(cheapest())])
@pytest.mark.parametrize(("channels", "dtype"), [(1, jnp.bfloat16), (3, jnp.float32)], ids=["1-bfloat16", "3-float32"])
def test_any_channels_classes_and_precision(name, channels, dtype):
    height, width, _ = models.facts(name).input_shape
    model = models.create(name, num_classes=7, dtype=dtype)
    images = jnp.full((2, height, width, channels), 0.5)
    state = jax.eval_shape(lambda: states.create(model, jax.random.key(0), images.shape[1:]))
    # In inference nothing may change, the batch statistics least of all: flax would refuse it.
    logits = jax.eval_shape(lambda s, x: model.apply(s.variables, x, train=False), state, images)
    assert logits.shape[0] == 2
    assert logits.shape[-1] == 7
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.params, state.batch_stats)))


@pytest.mark.parametrize("name", models.names())
def test_images_of_another_kind_are_refused(name):
    model = models.create(name, mean=(0.5,) * 3, std=(0.5,) * 3)
    for images, says in (
        (np.zeros((1, 32, 32, 1), np.uint8), "images are uint8; expected floating point"),
        (np.zeros((32, 32, 1), np.float32), r"images have shape \(32, 32, 1\); expected \[N, H, W, C\]"),
        (np.zeros((1, 32, 32, 2), np.float32), "images have 2 channels; expected 3"),
    ):
        with pytest.raises(InputError, match=says):
            jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)


@pytest.mark.parametrize("name", models.names())
def test_every_network_says_where_it_comes_from(name):
    facts = models.facts(name)
    assert len(facts.paper.split(", ")) >= 2, "authors and title"
    assert 1989 <= facts.year <= 2026
    assert facts.accuracy
    preprocessing = facts.preprocessing
    assert len(preprocessing.mean) == len(preprocessing.std) in (1, facts.input_shape[2])
    assert preprocessing.resize is None or preprocessing.resize >= min(facts.input_shape[:2])


# Parameters, and billions of multiply-adds, as others count them; test_summary.py counts our networks themselves.
COUNTED_ELSEWHERE = {
    "alexnet": (61_100_840, 0.714),
    "alexnet_2012": (60_965_224, 0.724),
    "vgg11": (132_863_336, 7.609),
    "vgg13": (133_047_848, 11.308),
    "vgg16_c": (133_638_952, 11.771),
    "vgg16": (138_357_544, 15.47),
    "vgg19": (143_667_240, 19.632),
    "googlenet_2014": (6_998_552, 1.583),
    "googlenet": (6_624_904, 1.498),
    "inception_v3": (27_161_264, 5.713),
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "wide_resnet50_2": (68_883_240, None),
    "densenet121": (7_978_856, 2.834),
    "densenet161": (28_681_000, 7.728),
    "densenet169": (14_149_480, 3.36),
    "densenet201": (20_013_928, 4.291),
    "squeezenet1_0": (1_248_424, 0.819),
    "squeezenet1_1": (1_235_496, 0.349),
    "mobilenet_v2": (3_504_872, 0.301),
    "shufflenet_v2_x1_0": (2_278_604, 0.145),
    "cifar_resnet20": (269_722, None),
    "cifar_resnet32": (464_154, None),
    "cifar_resnet44": (658_586, None),
    "cifar_resnet56": (853_018, None),
    "cifar_resnet110": (1_727_962, None),
    "cifar_resnet1202": (19_421_274, None),
    "densenet40_12": (1_019_722, None),
    "densenet_bc100_12": (769_162, None),
    "wide_resnet28_10": (36_479_194, 5.243),
    "unet": (31_030_658, None),
    "xception": (22_855_952, None),
    "inception_v4": (42_679_816, None),
}


@pytest.mark.parametrize("name", COUNTED_ELSEWHERE)
def test_facts_are_what_others_count(name):
    parameters, billions = COUNTED_ELSEWHERE[name]
    facts = models.facts(name)
    assert facts.parameters == parameters
    assert billions is None or round(facts.multiply_adds / 1e9, 3) == billions


def test_auxiliary_classifiers_have_the_parameters_that_others_count():
    for name, auxiliary, parameters in (("googlenet_2014", True, 13_378_280), ("inception_v3", False, 23_834_568)):
        model = models.create(name, auxiliary=auxiliary)
        shape = models.facts(name).input_shape
        state = jax.eval_shape(lambda model=model, shape=shape: states.create(model, jax.random.key(0), shape))
        assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == parameters
