"""The penalty on batch statistics against NumPy's moments of the inputs, its minimum, and refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import CLASSES, SHAPE, Small, images_of, state_of

from jaxcnn.analysis import maximize, objectives
from jaxcnn.analysis.activations import activations, layers
from jaxcnn.analysis.batch_statistics import batch_statistics, each_statistics, has_batch_norm
from jaxcnn.errors import InputError
from jaxcnn.layers.batch_norm import BatchNorm

IMAGES = images_of(3)


class Flax(nn.Module):
    """Linen's own normalisation, called as this project's is."""

    use_scale: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=not train, use_scale=self.use_scale, name="inner")(x)


class Normalized(nn.Module):
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(5, (3, 3), strides=2, name="conv1")(images)
        x = nn.relu(self.norm(name="norm1")(x, train=train))
        x = nn.Conv(6, (3, 3), name="conv2")(x)
        x = nn.relu(self.norm(name="norm2")(x, train=train))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


def drawn(model):
    """A state none of whose scales, biases and running averages are what they begin with."""
    state = state_of(model)
    keys = iter(jax.random.split(jax.random.key(7), 64))

    def one(x):
        return jax.random.uniform(next(keys), x.shape, minval=0.5, maxval=1.5)

    return state.replace(
        params=jax.tree.map(lambda x: one(x) if x.ndim == 1 else x, state.params),
        batch_stats=jax.tree.map(one, state.batch_stats),
    )


def moments(model, state, layer):
    flat = np.asarray(activations(model, state, IMAGES, layer), np.float64)
    flat = flat.reshape(-1, flat.shape[-1])
    return flat.mean(0), flat.var(0)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("norm", [BatchNorm, Flax, partial(Flax, use_scale=False)])
def test_it_is_the_distance_of_the_inputs_moments_from_the_running_averages(norm, averaged):
    model = Normalized(norm)
    state = drawn(model)
    if averaged:  # parameters, which are what the network is asked with
        state = state.replace(ema_params=jax.tree.map(lambda x: 0.7 * x, state.params))
    expected = 0.0
    for layer in "12":
        running: Any = state.batch_stats[f"norm{layer}"]
        running = running if norm is BatchNorm else running["inner"]
        mean, variance = moments(model, state, f"conv{layer}")
        expected += np.linalg.norm(mean - running["mean"]) + np.linalg.norm(variance - running["var"])
    penalty = batch_statistics(0.3, model, state, SHAPE)
    penalty.check(layers(model, state, SHAPE))
    found = maximize.evaluate(model, state, penalty, IMAGES)
    np.testing.assert_allclose(found, [0.3 * expected] * 3, rtol=2e-4)


def test_images_of_the_very_statistics_have_none_and_a_gradient_of_numbers():
    model = Normalized()
    state = drawn(model)
    for layer in "12":  # the first layer's decide what the second one sees
        mean, variance = moments(model, state, f"conv{layer}")
        stats = {"mean": jnp.asarray(mean, jnp.float32), "var": jnp.asarray(variance, jnp.float32)}
        state = state.replace(batch_stats={**state.batch_stats, f"norm{layer}": stats})
    penalty = batch_statistics(1.0, model, state, SHAPE)
    found, gradient = jax.value_and_grad(lambda x: maximize.evaluate(model, state, penalty, x).sum())(IMAGES)
    assert abs(float(found)) < 1e-4
    assert bool(jnp.isfinite(gradient).all())
    assert float(maximize.evaluate(model, state, penalty, IMAGES[:1])[0]) > 0.01


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-3])
def test_small_scales_are_left_out_where_rounding_hides_the_inputs(scale):
    exact = Normalized()
    state = drawn(exact)
    norm = state.params["norm2"]
    state = state.replace(params={**state.params, "norm2": {**norm, "scale": scale * norm["scale"]}})
    rough = Normalized(partial(BatchNorm, dtype=jnp.bfloat16))
    parts = {}
    for model in (exact, rough):
        penalty = batch_statistics(1.0, model, state, SHAPE)
        parts[model] = float(maximize.evaluate(model, state, penalty, IMAGES)[0])
    first = Normalized().clone()
    alone = state.replace(params={**state.params, "norm2": {**norm, "scale": jnp.zeros_like(norm["scale"])}})
    without = float(maximize.evaluate(first, alone, batch_statistics(1.0, first, alone, SHAPE), IMAGES)[0])
    assert parts[exact] == pytest.approx(parts_of(exact, state), rel=2e-3)
    assert parts[rough] == pytest.approx(without if scale < 1 else parts[exact], rel=2e-2)


def parts_of(model, state):
    """The distance by NumPy."""
    total = 0.0
    for layer in "12":
        running: Any = state.batch_stats[f"norm{layer}"]
        mean, variance = moments(model, state, f"conv{layer}")
        total += np.linalg.norm(mean - running["mean"]) + np.linalg.norm(variance - running["var"])
    return total


def test_where_all_channels_are_silent_there_is_no_distance_and_a_gradient_of_numbers():
    model = Normalized()
    state = drawn(model)
    silent = {
        name: {**state.params[name], "scale": jnp.zeros_like(state.params[name]["scale"])}
        for name in ("norm1", "norm2")
    }
    state = state.replace(params={**state.params, **silent})
    penalty = batch_statistics(1.0, model, state, SHAPE)
    found, gradient = jax.value_and_grad(lambda x: maximize.evaluate(model, state, penalty, x).sum())(IMAGES)
    assert (float(found), float(jnp.abs(gradient).max())) == (0, 0)


def test_a_channel_of_scale_0_tells_nothing():
    model = Normalized()
    state = drawn(model)
    norm = state.params["norm2"]
    state = state.replace(params={**state.params, "norm2": {**norm, "scale": norm["scale"].at[2:].set(0.0)}})
    expected = 0.0
    for layer, heard in (("1", 5), ("2", 2)):
        running: Any = state.batch_stats[f"norm{layer}"]
        mean, variance = moments(model, state, f"conv{layer}")
        expected += np.linalg.norm((mean - running["mean"])[:heard])
        expected += np.linalg.norm((variance - running["var"])[:heard])
    found = maximize.evaluate(model, state, batch_statistics(1.0, model, state, SHAPE), IMAGES)
    np.testing.assert_allclose(found, [expected] * 3, rtol=2e-4)


def test_it_composes_and_is_ascended():
    model = Normalized()
    state = drawn(model)
    penalty = batch_statistics(1.0, model, state, SHAPE)
    objective = objectives.sufficient_logit(1, 2.0) - penalty
    assert objective.places == {objectives.LOGITS, "norm1", "norm2"}
    ways = {"parametrization": maximize.fourier(SHAPE), "transforms": ()}
    found = maximize.run(model, state, objective, key=jax.random.key(0), count=2, steps=32, **ways)
    assert (found.trace[-1] > found.trace[0]).all()


def test_what_cannot_be_asked_is_refused():
    model = Normalized()
    state = drawn(model)
    assert has_batch_norm(model, state, SHAPE)
    assert not has_batch_norm(Small(), state_of(Small()), SHAPE)
    with pytest.raises(InputError, match="Small has no batch normalisation; expected a network that has"):
        batch_statistics(1.0, Small(), state_of(Small()), SHAPE)
    for weight in (float("nan"), -1.0, float("inf")):
        with pytest.raises(InputError, match="the weight of the batch statistics penalty is .*; expected a finite"):
            batch_statistics(weight, model, state, SHAPE)


def test_each_image_s_statistics_are_numpy_s_however_many_at_once():
    model = Normalized()
    state = drawn(model)
    found = each_statistics(model, state, IMAGES)
    for layer, whole, part in zip("12", found, each_statistics(model, state, IMAGES, chunk=2), strict=True):
        flat = np.asarray(activations(model, state, IMAGES, f"norm{layer}"), np.float64)
        flat = flat.reshape(3, -1, flat.shape[-1])
        np.testing.assert_allclose(whole, np.concatenate([flat.mean(1), flat.std(1)], 1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-5)
