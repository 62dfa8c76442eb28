"""What holds for every attribution method, a new one too: shapes, memory, keys, jit, dead images; and closed forms."""

from __future__ import annotations

import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn.state
from jaxcnn.analysis import attribution, chunks, saliency
from jaxcnn.analysis.attribution import DeadMapWarning, method, methods
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.analysis.integrated_gradients import integrated_gradients
from jaxcnn.errors import InputError, RunError

SHAPE, CLASSES = (8, 9, 3), 4
NAMES = list(methods())
DRAWN = {"rise", "shapley", "smooth_grad", "smooth_grad_squared", "var_grad"}


class Small(nn.Module):
    """Everything that networks are made of but for a second layer of maps."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(12, (3, 3), use_bias=False, name="conv")((images - 0.4) / 0.25)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x + nn.tanh(nn.Conv(12, (3, 3), name="maps")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class Folded(nn.Module):
    """The same function as `Small`, batch norm and standardisation being part of the convolution."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.4)
        x = jnp.maximum(nn.Conv(12, (3, 3), padding="VALID", name="conv")(x), 0)
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x + nn.tanh(nn.Conv(12, (3, 3), name="maps")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class Linear(nn.Module):
    """Logits that are sums over the pixels of one map."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        maps = nn.Conv(CLASSES, (1, 1), use_bias=False, name="maps")(images)
        return maps.sum((1, 2))


class Chain(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = nn.relu(nn.Conv(8, (3, 3))(images))
        return nn.Dense(CLASSES)(nn.relu(nn.Conv(8, (3, 3))(x)).mean((1, 2)))


def made(model, shape=SHAPE):
    return jaxcnn.state.create(model, jax.random.key(0), shape)


SMALL = Small()
STATISTICS = {"norm": {"mean": jnp.linspace(-0.5, 0.5, 12), "var": jnp.linspace(0.5, 2.0, 12)}}
STATE = made(SMALL).replace(batch_stats=STATISTICS)
IMAGES = jax.random.uniform(jax.random.key(1), (3, *SHAPE))
TARGETS = np.array([2, 0, 1])


# Enough to see what is the same, where thousands are drawn.
FEW = {"rise": {"masks": 200}, "shapley": {"permutations": 4}}


def explain(name, model=SMALL, state=STATE, images=IMAGES, targets=TARGETS, **options):
    options = FEW.get(name, {}) | options
    return np.asarray(method(name).function(model, state, images, targets, **options))


def close(one, other, tolerance=2e-5):
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.fixture(scope="module")
def maps():
    """The map of every method, computed once."""
    return {name: explain(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_of_the_image_s_size(name, maps):
    assert maps[name].shape in ((3, *SHAPE[:2]), (3, *SHAPE))
    assert maps[name].dtype == np.float32
    heat = method(name).heat(jnp.asarray(maps[name]))
    assert heat.shape == (3, *SHAPE[:2])
    assert np.abs(heat).max() > 0
    assert method(name).signed or heat.min() >= 0


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_chunk_nor_the_other_images_change_a_map(name, maps):
    close(explain(name, chunk=2), maps[name])
    close(explain(name, images=IMAGES[:1], targets=TARGETS[:1], chunk=7), maps[name][:1])


@pytest.mark.parametrize("name", NAMES)
def test_the_predicted_class_is_explained_by_default(name):
    predicted = SMALL.apply(STATE.variables, IMAGES, train=False).argmax(-1)
    close(explain(name, targets=None), explain(name, targets=predicted))


@pytest.mark.parametrize("name", NAMES)
def test_the_key_decides_what_is_drawn(name, maps):
    np.testing.assert_array_equal(explain(name, key=jax.random.key(0)), maps[name])
    assert (name in DRAWN) != np.array_equal(explain(name, key=jax.random.key(1)), maps[name])


@pytest.mark.parametrize("name", NAMES)
def test_it_works_inside_jit_and_vmap(name, maps):
    function = method(name).function
    options = {"steps": 16} if name == "integrated_gradients" else FEW.get(name, {})
    expected = explain(name, chunk=64, **options)
    inside = jax.jit(lambda state, x, k: function(SMALL, state, x, k, chunk=64, **options))
    close(np.asarray(inside(STATE, IMAGES, TARGETS)), expected)
    if name not in DRAWN:  # there, each image has the key of the first
        each = jax.vmap(lambda x, k: function(SMALL, STATE, x[None], k[None], chunk=64, **options)[0])
        close(np.asarray(each(IMAGES, jnp.asarray(TARGETS))), expected)


SHARED = ("gradient", "smooth_grad")


@pytest.mark.parametrize(
    "name", [name if name in SHARED else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_devices_share_a_dataset(name):
    images = jax.random.uniform(jax.random.key(2), (8, 2, *SHAPE))
    targets = jnp.arange(16).reshape(8, 2) % CLASSES
    function = method(name).function
    options = {"steps": 16} if name == "integrated_gradients" else FEW.get(name, {})
    shared = jax.pmap(lambda x, k: function(SMALL, STATE, x, k, chunk=64, **options))(images, targets)
    for part, x, k in zip(shared, images, targets, strict=True):
        close(np.asarray(part), explain(name, images=x, targets=k, chunk=64, **options))


@pytest.mark.parametrize("name", NAMES)
def test_a_score_that_does_not_depend_on_the_image_gives_zeros_and_a_warning(name):
    params = {**STATE.params, "head": jax.tree.map(jnp.zeros_like, STATE.params["head"])}
    with pytest.warns(DeadMapWarning, match=r"3 of 3 maps are zero everywhere \(image 0, image 1, image 2\)"):
        dead = explain(name, state=STATE.replace(params=params))
    np.testing.assert_array_equal(dead, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_picture_gives_finite_numbers(name, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeadMapWarning)
        found = explain(name, images=jnp.full((1, *SHAPE), value), targets=TARGETS[:1])
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_saturated_softmax_gives_finite_numbers(name):
    scaled = jax.tree.map(lambda x: 1e4 * x, STATE.params["head"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeadMapWarning)
        found = explain(name, state=STATE.replace(params={**STATE.params, "head": scaled}))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"grad_cam", "grad_cam_plus_plus", "guided_grad_cam"}))
def test_two_networks_of_the_same_function_have_the_same_maps(name, maps):
    # Class activation maps are of a layer, so they depend on how the function is computed.
    factor = STATE.params["norm"]["scale"] / jnp.sqrt(STATISTICS["norm"]["var"] + 1e-5)
    offset = STATE.params["norm"]["bias"] - STATISTICS["norm"]["mean"] * factor
    kernel = STATE.params["conv"]["kernel"] * factor.reshape(1, 1, 1, -1) / 0.25
    conv = {"kernel": kernel, "bias": offset - 0.4 * kernel.sum((0, 1, 2))}
    folded = made(Folded()).replace(params={**{k: STATE.params[k] for k in ("maps", "head")}, "conv": conv})
    close(explain(name, Folded(), folded), maps[name], 1e-4)


@pytest.mark.slow
def test_a_class_a_class_for_each_image_and_a_function_of_the_logits_are_targets():
    for name in ("gradient", "integrated_gradients", "smooth_grad", "lrp", "grad_cam"):
        expected = explain(name, targets=np.array([2, 2, 2]))
        np.testing.assert_array_equal(explain(name, targets=2), expected)
        close(explain(name, targets=lambda logits: logits[:, 2]), expected)
    difference = explain("gradient_x_input", targets=lambda logits: logits[:, 2] - logits[:, 0])
    close(difference, explain("gradient_x_input", targets=2) - explain("gradient_x_input", targets=0), 1e-4)


LINEAR, WEIGHTS = Linear(), np.array(made(Linear()).params["maps"]["kernel"][0, 0])
COLUMNS = np.moveaxis(WEIGHTS[:, TARGETS], 1, 0)[:, None, None]  # of the classes explained, [n, 1, 1, c]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradient", np.abs(COLUMNS).max(-1) + 0 * IMAGES[..., 0]),
        ("gradient_x_input", COLUMNS * IMAGES),
        ("integrated_gradients", COLUMNS * IMAGES),
        ("smooth_grad", COLUMNS + 0 * IMAGES),
        ("smooth_grad_squared", COLUMNS**2 + 0 * IMAGES),
        ("lrp", COLUMNS * IMAGES),
        ("grad_cam", np.maximum(np.einsum("nhwc,ck->nhwk", IMAGES, WEIGHTS)[range(3), ..., TARGETS], 0)),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::jaxcnn.analysis.attribution.DeadMapWarning"
)  # a class that all pixels speak against
def test_of_a_linear_model_the_map_is_known(name, expected):
    close(explain(name, LINEAR, made(LINEAR)), np.asarray(expected))


def test_of_a_linear_model_the_gradient_does_not_vary():
    with pytest.warns(DeadMapWarning):
        np.testing.assert_array_equal(explain("var_grad", LINEAR, made(LINEAR)), 0)


def test_of_a_linear_model_nothing_is_rectified():
    with pytest.raises(InputError, match=r"Linear has no ReLU; expected a network with ReLUs"):
        explain("guided_backpropagation", LINEAR, made(LINEAR))


def test_a_network_that_is_not_finite_is_refused():
    broken = jax.tree.map(lambda x: x * jnp.nan, STATE.params)
    with pytest.raises(RunError, match="the map of image 0 is not finite"):
        explain("gradient", state=STATE.replace(params=broken))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (4, r"targets hold class 4; expected classes in \[0, 4\)"),
        (1.5, "targets are float64 of shape"),
        (2**40, r"targets hold class 1099511627776; expected classes in \[0, 4\)"),
        (np.array([0, 1]), r"shape \(2,\); expected integers of shape \(3,\)"),
        (lambda logits: logits, r"the target function gave shape \(3, 4\) for logits \(3, 4\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets, message):
    with pytest.raises(InputError, match=message):
        explain("gradient", targets=targets)


def test_targets_may_be_a_list():
    np.testing.assert_array_equal(
        explain("gradient", targets=[1, 0, 3]), explain("gradient", targets=np.array([1, 0, 3]))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "3"}, r"targets are <U1 of shape \(\); expected integers of shape \(3,\)"),
        ({"targets": [[1], [2, 3], [0]]}, "targets are no array: "),
        ({"targets": [2**70, 0, 0]}, "targets are object of shape"),
        ({"targets": [True, False, True]}, "targets are bool of shape"),
        ({"chunk": 2.5}, "chunk is 2.5; expected a whole number"),
        ({"samples": 2.5}, "samples is 2.5; expected a whole number"),
        ({"noise": float("inf")}, "noise inf; expected at least 1 and at least 0"),
    ],
)
def test_other_types_are_refused_with_a_sentence(unchecked, options, message):
    asked = {"targets": 1, **options}
    with pytest.raises(InputError, match=message):
        method("smooth_grad").function(SMALL, STATE, IMAGES, **asked)


def test_images_of_another_number_of_channels_are_refused():
    with pytest.raises(InputError, match="Linear does not take images of 8x9x1; expected such"):
        method("gradient").function(LINEAR, made(LINEAR), IMAGES[..., :1])


@pytest.mark.parametrize(("value", "kind"), [([4, 4], "list"), (np.ones(2), "ndarray"), ({"a": 1}, "dict")])
def test_a_network_for_which_no_program_can_be_compiled_is_refused(value, kind):
    class Holding(nn.Module):
        field: Any

        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(CLASSES)(images.mean((1, 2)))

    class Outer(nn.Module):
        body: Any

        @nn.compact
        def __call__(self, images, *, train):
            return self.body(images, train=train)

    with pytest.raises(InputError, match=f"Holding holds {kind} as field; expected tuples"):
        made(Holding(value))
    with pytest.raises(InputError, match=f"Outer holds {kind} as body.field; expected tuples"):
        made(Outer(Holding(value)))
    with pytest.raises(InputError, match=f"Holding holds {kind} as field; expected tuples"):
        method("gradient").function(Holding(value), STATE, IMAGES)


def test_integrated_gradients_may_be_mapped_over_states():
    states = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), made(LINEAR).params)

    def explained(params):
        return integrated_gradients(LINEAR, made(LINEAR).replace(params=params), IMAGES, TARGETS)

    maps = jax.vmap(explained)(states)
    expected = np.asarray(IMAGES) * WEIGHTS.T[TARGETS][:, None, None]
    close(maps[0], expected)
    close(maps[1], 2 * expected)


def test_probabilities_of_bfloat16_logits_are_of_single_precision():
    logits = jnp.array([[0.0, 1 / 256, 1 / 128, 0.0]], jnp.bfloat16)
    found = attribution.Score("probability")(logits, jnp.array([2]))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, jax.nn.softmax(logits.astype(jnp.float32))[:, 2], rtol=1e-6)


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown attribution method 'smoothgrad'; did you mean smooth_grad"):
        method("smoothgrad")


@pytest.mark.parametrize(("count", "chunk"), [(1, 5), (7, 3), (9, 3), (64, 64), (65, 64)])
def test_pieces_have_one_length_and_cover_everything(count, chunk):
    parts = list(pieces(count, chunk))
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) <= chunk
    np.testing.assert_array_equal(join([jnp.asarray(part) for part in parts], count), np.arange(count))


def test_a_larger_image_gets_a_smaller_chunk():
    assert affordable(SMALL, STATE.variables, SHAPE) == 64
    assert (
        1 <= affordable(SMALL, STATE.variables, (2000, 2000, 3)) < affordable(SMALL, STATE.variables, (1000, 1000, 3))
    )


def test_an_evaluation_and_its_derivative_take_no_more_than_is_affordable(monkeypatch):
    shape = (64, 64, 3)
    monkeypatch.setattr(chunks, "MEMORY", 8 * 2**20)
    for model in (LINEAR, Chain()):
        state = made(model, shape)
        size = affordable(model, state.variables, shape)
        assert 1 < size < 64
        keys, zero = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 1, 1, 1))
        asked = (0.1, jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32), (keys, zero), jnp.arange(size), jnp.ones(size))
        program = (
            jax.jit(saliency._noisy_sums, static_argnums=0)
            .lower((model, attribution.Score()), state.variables, *asked)
            .compile()
        )
        used = program.memory_analysis()
        assert used.temp_size_in_bytes + used.output_size_in_bytes <= chunks.MEMORY


@pytest.mark.slow
def test_no_more_images_than_the_chunk_are_evaluated_at_once(monkeypatch):
    seen = []
    plain = attribution.logits

    def watched(model, variables, images):
        seen.append(len(images))
        return plain(model, variables, images)

    monkeypatch.setattr(attribution, "logits", watched)

    class Fresh(Small):
        """Compiled for nothing yet."""

    many = jnp.tile(IMAGES, (20, 1, 1, 1))
    method("smooth_grad").function(Fresh(), STATE, many, chunk=8, samples=5)
    method("smooth_grad").function(Fresh(), STATE, IMAGES[:1], chunk=8, samples=50)
    assert max(seen) == 8
