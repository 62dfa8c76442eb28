"""Gradient saliency against closed forms, PyTorch's autograd and finite differences."""

from __future__ import annotations

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcnn.state
from jaxcnn.analysis.saliency import gradient
from jaxcnn.errors import InputError

SHAPE = (6, 7, 3)
CLASSES = 4


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(CLASSES, name="head")(images.reshape(len(images), -1))


class Small(nn.Module):
    """Convolution, batch norm, pooling, dropout: all that behaves differently in training."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(8, (3, 3), strides=2, padding=1, name="conv")((images - 0.4) / 0.2)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.max_pool(x, (2, 2), (1, 1))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(CLASSES, name="head")(x.reshape(len(x), -1))


class Rank3(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(CLASSES)(images.mean(1))


def state_of(model: nn.Module) -> jaxcnn.state.State:
    return jaxcnn.state.create(model, jax.random.key(0), SHAPE)


def images_of(count: int, seed: int = 1) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (count, *SHAPE))


LINEAR, SMALL = Linear(), Small()
LINEAR_STATE, SMALL_STATE = state_of(LINEAR), state_of(SMALL)
STATISTICS = {"norm": {"mean": jnp.linspace(-1.0, 1.0, 8), "var": jnp.linspace(0.5, 2.0, 8)}}
SMALL_STATE = SMALL_STATE.replace(batch_stats=STATISTICS)


def test_of_a_linear_model_it_is_the_largest_absolute_weight():
    targets = np.array([3, 0, 0, 1, 2])
    weights = np.asarray(LINEAR_STATE.params["head"]["kernel"]).reshape(*SHAPE, CLASSES)
    maps = gradient(LINEAR, LINEAR_STATE, images_of(5), targets)
    np.testing.assert_allclose(maps, np.moveaxis(np.abs(weights).max(2), -1, 0)[targets], rtol=1e-6)


@pytest.mark.parametrize(("model", "state"), [(LINEAR, LINEAR_STATE), (SMALL, SMALL_STATE)])
def test_the_predicted_class_is_explained_by_default(model, state):
    images = images_of(9)
    predicted = model.apply(state.variables, images, train=False).argmax(-1)
    assert len(set(predicted.tolist())) > 1
    default = gradient(model, state, images)
    np.testing.assert_array_equal(default, gradient(model, state, images, predicted))
    others = gradient(model, state, images, (predicted + 1) % CLASSES)
    assert (jnp.abs(others - default).max((1, 2)) > 1e-4).all()


def test_it_equals_pytorch(torch):
    params = jax.tree.map(lambda x: torch.tensor(np.array(x)), SMALL_STATE.params)
    images = images_of(5)
    targets = np.array([0, 3, 1, 2, 2])
    x = torch.tensor(np.array(images)).permute(0, 3, 1, 2).requires_grad_()
    conv, norm, head = params["conv"], params["norm"], params["head"]
    y = torch.nn.functional.conv2d((x - 0.4) / 0.2, conv["kernel"].permute(3, 2, 0, 1), conv["bias"], 2, 1)
    mean, var = (torch.tensor(np.array(STATISTICS["norm"][name])) for name in ("mean", "var"))
    y = torch.nn.functional.batch_norm(y, mean, var, norm["scale"], norm["bias"], eps=1e-5)
    y = torch.nn.functional.max_pool2d(y.relu(), 2, 1).permute(0, 2, 3, 1).flatten(1)
    logits = y @ head["kernel"] + head["bias"]
    logits[torch.arange(5), torch.tensor(targets)].sum().backward()
    np.testing.assert_allclose(
        gradient(SMALL, SMALL_STATE, images, targets), x.grad.abs().amax(1).numpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_it_equals_forward_differentiation():
    images = images_of(2)
    targets = jnp.array([1, 2])

    def score(x, k):
        return SMALL.apply(SMALL_STATE.variables, x[None], train=False)[0, k]

    expected = jnp.stack([jnp.abs(jax.jacfwd(score)(x, k)).max(-1) for x, k in zip(images, targets, strict=True)])
    np.testing.assert_allclose(gradient(SMALL, SMALL_STATE, images, targets), expected, rtol=1e-4, atol=1e-5)


@given(count=st.integers(1, 7), chunk=st.integers(1, 9))
@settings(deadline=None, max_examples=4)
def test_the_chunk_changes_nothing(count, chunk):
    images = images_of(7)[:count]
    targets = np.arange(count) % CLASSES
    whole = gradient(SMALL, SMALL_STATE, images, targets, chunk=100)
    maps = gradient(SMALL, SMALL_STATE, images, targets, chunk=chunk)
    assert maps.shape == (count, *SHAPE[:2])
    np.testing.assert_allclose(maps, whole, rtol=1e-5, atol=1e-6)


def test_it_works_inside_jit():
    images = images_of(3)
    targets = jnp.array([0, 1, 2])
    inside = jax.jit(lambda state, x, k: gradient(SMALL, state, x, k, chunk=2))(SMALL_STATE, images, targets)
    np.testing.assert_allclose(inside, gradient(SMALL, SMALL_STATE, images, targets), rtol=1e-5, atol=1e-6)


def test_one_chunk_size_is_compiled_once():
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            traces.append(images.shape)
            return nn.Dense(CLASSES)(images.reshape(len(images), -1))

    model = Counted()
    state = state_of(model)
    traces.clear()
    gradient(model, state, images_of(7), chunk=3)
    gradient(model, state, images_of(7, seed=2), chunk=3)
    assert traces == [(7, *SHAPE), (3, *SHAPE)]  # the shape of the logits, and one program for every chunk


def test_averaged_parameters_are_taken_where_kept():
    doubled = LINEAR_STATE.replace(ema_params=jax.tree.map(lambda x: 2 * x, LINEAR_STATE.params))
    images, targets = images_of(2), np.array([0, 1])
    np.testing.assert_allclose(
        gradient(LINEAR, doubled, images, targets), 2 * gradient(LINEAR, LINEAR_STATE, images, targets), rtol=1e-6
    )


def test_numpy_images_of_any_floating_type_are_taken():
    images = np.asarray(images_of(2))
    for dtype in (np.float16, np.float64):
        maps = gradient(LINEAR, LINEAR_STATE, images.astype(dtype), np.array([0, 1], np.uint8))
        assert maps.dtype == jnp.float32
        np.testing.assert_array_equal(maps, gradient(LINEAR, LINEAR_STATE, images, np.array([0, 1])))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (images_of(1)[0], {}, r"images have shape \(6, 7, 3\); expected \[N, H, W, C\]"),
        (images_of(1)[:0], {}, r"images have shape \(0, 6, 7, 3\)"),
        (np.zeros((1, *SHAPE), np.uint8), {}, r"images are uint8; expected floating point in \[0, 1\]"),
        (images_of(1) * 0 + 255, {}, r"from 255 to 255; expected values in \[0, 1\]"),
        (images_of(1) - 1, {}, r"from -\d.*; expected values in \[0, 1\]"),
        (images_of(1) * jnp.nan, {}, "from nan to nan"),
        (images_of(2), {"targets": np.array([0, 4])}, r"targets hold class 4; expected classes in \[0, 4\)"),
        (images_of(2), {"targets": np.array([-1, 0])}, r"targets hold class -1"),
        (images_of(2), {"targets": np.array([0])}, r"shape \(1,\); expected integers of shape \(2,\)"),
        (images_of(2), {"targets": np.array([0.0, 1.0])}, r"targets are float\d\d of shape"),
        (images_of(2), {"chunk": 0}, "chunk is 0; expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(images, options, message):
    with pytest.raises(InputError, match=message):
        gradient(LINEAR, LINEAR_STATE, images, **options)


def test_a_model_without_class_scores_is_refused():
    model = Rank3()
    with pytest.raises(InputError, match=r"returned shape \(2, 7, 4\); expected logits \[2, K\]"):
        gradient(model, state_of(model), images_of(2))


def test_the_analyses_load_nothing_they_do_not_need():
    code = (
        "import sys, jaxcnn.analysis.saliency, jaxcnn.analysis.filters;"
        "loaded = {'grain', 'tensorflow_datasets', 'orbax.checkpoint', 'matplotlib', 'jaxcnn.data', 'jaxcnn.train',"
        "'jaxcnn.checkpoint'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
