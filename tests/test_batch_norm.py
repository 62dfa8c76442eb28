"""Batch normalisation against linen's, PyTorch's and autodiff of its formula, on one device and on eight."""

from __future__ import annotations

from functools import partial
from typing import Any

import comparison
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.testing import assert_allclose

from jaxcnn.errors import InputError
from jaxcnn.layers.batch_norm import BatchNorm, normalize

assert_close = partial(comparison.assert_close, floor=1)
shapes = st.tuples(*(st.integers(2, 5) for _ in range(4)))


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def example(shape: tuple[int, ...]) -> tuple[jax.Array, dict[str, Any], jax.Array]:
    """An input whose channels differ in mean and deviation, variables that are not at their start, and a cotangent."""
    c = shape[-1:]
    x = normal(shape) * (1 + np.arange(c[0], dtype=np.float32)) + normal(c, 1)
    variables = {
        "params": {"scale": normal(c, 2), "bias": normal(c, 3)},
        "batch_stats": {"mean": normal(c, 4), "var": 0.1 + normal(c, 5) ** 2},
    }
    return jax.tree.map(jnp.asarray, (x, variables, normal(shape, 6)))


def trained(module: nn.Module, x, variables, cotangent, **call: Any):
    """Output, running statistics, and the gradients with respect to parameters and input."""

    @jax.jit
    def run(params, x):
        def forward(params, x):
            return module.apply({**variables, "params": params}, x, mutable=["batch_stats"], **call)

        y, vjp, updates = jax.vjp(forward, params, x, has_aux=True)
        return y, updates["batch_stats"], *vjp(cotangent.astype(y.dtype))

    return run(variables["params"], x)


@settings(deadline=None, max_examples=4)
@given(shapes)
def test_training_equals_linen_where_the_running_variance_is_biased(shape):
    inputs = example(shape)
    expected = trained(nn.BatchNorm(use_running_average=False, momentum=0.9), *inputs)
    assert_close(trained(BatchNorm(unbiased=False), *inputs, train=True), expected, 2e-5)


@settings(deadline=None, max_examples=4)
@given(shapes)
def test_training_and_inference_equal_torch(torch, shape):
    x, variables, cotangent = example(shape)
    module = torch.nn.BatchNorm2d(shape[-1], eps=1e-5, momentum=0.1)
    with torch.no_grad():
        for theirs, (collection, ours) in {
            "weight": ("params", "scale"),
            "bias": ("params", "bias"),
            "running_mean": ("batch_stats", "mean"),
            "running_var": ("batch_stats", "var"),
        }.items():
            getattr(module, theirs).copy_(torch.tensor(np.asarray(variables[collection][ours])))
    theirs = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    y = module(theirs)
    y.backward(torch.tensor(np.asarray(cotangent).transpose(0, 3, 1, 2)))
    expected = (
        y.detach().numpy().transpose(0, 2, 3, 1),
        {"mean": module.running_mean.numpy(), "var": module.running_var.numpy()},
        {"scale": module.weight.grad.numpy(), "bias": module.bias.grad.numpy()},
        theirs.grad.numpy().transpose(0, 2, 3, 1),
    )
    actual = trained(BatchNorm(), x, variables, cotangent, train=True)
    assert_close(actual, expected, 2e-5)

    module.eval()
    moved = {"params": variables["params"], "batch_stats": actual[1]}
    expected = module(theirs).detach().numpy().transpose(0, 2, 3, 1)
    assert_close(BatchNorm().apply(moved, x, train=False), expected, 2e-5)


def written_out(x, scale, bias):
    """The formula, to be differentiated by autodiff."""
    mean = jnp.mean(x, (0, 1, 2), keepdims=True)
    variance = jnp.mean((x - mean) ** 2, (0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


@settings(deadline=None, max_examples=4)
@given(shapes)
def test_closed_form_gradients_equal_autodiff_in_float64(shape):
    with jax.enable_x64(True):
        x, scale, bias = (
            normal(shape, 0, np.float64),
            normal(shape[-1:], 1, np.float64),
            normal(shape[-1:], 2, np.float64),
        )
        cotangent = normal(shape, 3, np.float64)

        def gradients(function):
            return jax.jit(jax.grad(lambda *args: jnp.vdot(function(*args), cotangent), (0, 1, 2)))(x, scale, bias)

        actual = gradients(lambda *args: normalize(*args, 1e-5, None)[0])
        assert {g.dtype for g in actual} == {jnp.dtype(jnp.float64)}
        assert_close(actual, gradients(written_out), 1e-12)


def test_second_order_gradients_equal_autodiff_in_float64():
    with jax.enable_x64(True):
        args = tuple(normal(shape, i, np.float64) for i, shape in enumerate([(3, 4, 2, 5), (5,), (5,)]))

        def second(function):
            gradients = jax.grad(lambda *args: jnp.sum(jnp.tanh(function(*args))), (0, 1, 2))
            return jax.jit(jax.grad(lambda *args: sum(jnp.sum(g**2) for g in gradients(*args)), (0, 1, 2)))(*args)

        assert_close(second(lambda *args: normalize(*args, 1e-5, None)[0]), second(written_out), 1e-10)


def test_training_on_eight_devices_equals_training_on_one():
    x, variables, cotangent = example((16, 3, 2, 5))
    # Devices whose means differ, so that averaging the devices' own variances would be wrong.
    x = x + 3 * jnp.arange(16.0).reshape(-1, 1, 1, 1)

    def step(module, params, x, cotangent):
        def loss(params, x):
            y, updates = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.mean(cotangent * jnp.tanh(y)), (y, updates)

        gradients, aux = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return gradients, aux

    def mapped(params, x, cotangent):
        (dparams, dx), (y, updates) = step(BatchNorm(axis_name="batch"), params, x, cotangent)
        # Each device's loss is the mean over an eighth of the batch.
        return y, dx / lax.axis_size("batch"), updates, lax.pmean(dparams, "batch")

    split, join = (lambda v: v.reshape(8, 2, *v.shape[1:])), (lambda v: v.reshape(16, *v.shape[2:]))
    run = jax.pmap(mapped, axis_name="batch", in_axes=(None, 0, 0), out_axes=(0, 0, None, None))
    assert jax.device_count() == 8
    y, dx, updates, dparams = run(variables["params"], split(x), split(cotangent))
    one = jax.jit(lambda *args: step(BatchNorm(), *args))
    (expected_dparams, expected_dx), (expected_y, expected_updates) = one(variables["params"], x, cotangent)
    assert_allclose(join(y), expected_y, rtol=1e-5, atol=1e-5)
    for actual, expected in ((join(dx), expected_dx), (updates, expected_updates), (dparams, expected_dparams)):
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert_allclose(a, e, rtol=1e-5, atol=1e-5 * float(jnp.abs(e).max()))


def test_initialisation_and_inference_need_no_axis():
    module, x = BatchNorm(axis_name="batch"), jnp.ones((2, 3, 3, 4))
    for train in (False, True):
        variables = module.init(jax.random.key(0), x, train=train)
        assert_allclose(variables["batch_stats"]["mean"], 0)
        assert_allclose(variables["batch_stats"]["var"], 1)
    assert_allclose(module.apply(variables, x, train=False), 1 / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_inference_leaves_the_statistics_alone():
    x, variables, _ = example((4, 3, 3, 5))
    _, updates = BatchNorm().apply(variables, x, train=False, mutable=["batch_stats"])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, updates["batch_stats"], variables["batch_stats"]))
    with pytest.raises(Exception, match="immutable"):
        BatchNorm().apply(variables, x, train=True)


def test_train_must_be_said():
    with pytest.raises(TypeError, match="train"):
        BatchNorm().init(jax.random.key(0), jnp.ones((2, 3, 3, 4)))


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_half_precision_input_is_normalised_in_float32(dtype):
    x, variables, cotangent = example((64, 8, 8, 5))
    half = x.astype(jnp.bfloat16)
    y, statistics, dparams, dx = trained(BatchNorm(dtype=dtype), half, variables, cotangent, train=True)
    assert (y.dtype, dx.dtype) == (jnp.dtype(dtype or jnp.float32), jnp.dtype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves((statistics, dparams))} == {jnp.dtype(jnp.float32)}
    expected = trained(BatchNorm(), half.astype(jnp.float32), variables, cotangent, train=True)
    # bfloat16 keeps 8 bits; statistics summed in bfloat16 would be wrong in the second digit.
    assert_close(statistics, expected[1], 1e-6)
    assert_close((y, dx), (expected[0], expected[3]), 2**-7)
    assert_close(dparams, expected[2], 1e-2)


@pytest.mark.parametrize("first", [1e4, 0.0, 2e4])
def test_a_mean_large_against_the_deviation_is_still_normalised(first: float):
    x = 1e4 + normal((64, 8, 8, 3))
    x[0] += first - 1e4
    wide = x.astype(np.float64)
    variables = BatchNorm().init(jax.random.key(0), jnp.asarray(x), train=False)
    module = BatchNorm(momentum=0.0, unbiased=False)
    y, updates = module.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    # float32 holds 1e4 to the nearest 1/1024.
    assert_allclose(y, (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2)), atol=2e-3)
    assert_allclose(updates["batch_stats"]["mean"], wide.mean((0, 1, 2)), rtol=2e-7)
    assert_allclose(updates["batch_stats"]["var"], wide.var((0, 1, 2)), rtol=1e-4)


def test_constant_input_becomes_the_bias_with_finite_gradients():
    x, variables, cotangent = example((4, 3, 3, 5))
    y, _, dparams, dx = trained(BatchNorm(), jnp.full_like(x, 0.25), variables, cotangent, train=True)
    assert_allclose(y, jnp.broadcast_to(variables["params"]["bias"][None, None, None], y.shape), rtol=1e-6)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((dparams, dx)))


@pytest.mark.parametrize("unbiased", [False, True])
def test_one_value_per_channel_is_refused_in_training_as_by_torch(unbiased):
    module, x = BatchNorm(unbiased=unbiased), jnp.ones((1, 1, 1, 4))
    variables = module.init(jax.random.key(0), x, train=True)
    with pytest.raises(InputError, match=r"\(1, 1, 1, 4\).*more than 1 value per channel"):
        module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert module.apply(variables, x, train=False).shape == x.shape


def test_one_value_per_channel_on_each_of_eight_devices_is_a_batch_of_eight():
    module, x = BatchNorm(axis_name="batch"), jnp.asarray(normal((8, 1, 1, 1, 4)))
    variables = module.init(jax.random.key(0), x[0], train=False)

    def run(x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    y, updates = jax.pmap(run, axis_name="batch", out_axes=(0, None))(x)
    expected, expected_updates = BatchNorm().apply(variables, x[:, 0], train=True, mutable=["batch_stats"])
    assert_close((y[:, 0], updates), (expected, expected_updates))


@pytest.mark.parametrize("use_scale", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_scale_and_bias_are_optional_and_start_as_told(use_scale: bool, use_bias: bool):
    x, _, cotangent = example((4, 3, 3, 5))
    options = {"use_scale": use_scale, "use_bias": use_bias}
    module = BatchNorm(**options, scale_init=nn.initializers.zeros, bias_init=nn.initializers.ones)
    variables = module.init(jax.random.key(0), x, train=False)
    params = variables.get("params", {})
    assert {name: float(v.mean()) for name, v in params.items()} == ({"scale": 0.0} if use_scale else {}) | (
        {"bias": 1.0} if use_bias else {}
    )
    variables = {"params": params, "batch_stats": variables["batch_stats"]}
    linen = nn.BatchNorm(use_running_average=False, momentum=0.9, **options)
    expected = trained(linen, x, variables, cotangent)
    assert_close(trained(BatchNorm(**options, unbiased=False), x, variables, cotangent, train=True), expected)


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers_equal_a_loop_over_them(remat: bool):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.tanh(BatchNorm(name="norm")(2 * x, train=True)), None

    scanned = nn.scan(
        nn.remat(Layer, prevent_cse=False) if remat else Layer,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=3,
    )()
    x, variables, cotangent = example((4, 3, 3, 5))
    stacked = jax.tree.map(lambda v: jnp.stack([v, v + 0.5, v + 1]), variables)

    def scan(params, x):
        variables = {"params": {"norm": params}, "batch_stats": {"norm": stacked["batch_stats"]}}
        (y, _), updates = scanned.apply(variables, x, None, mutable=["batch_stats"])
        return y, updates["batch_stats"]["norm"]

    def loop(params, x):
        updates = []
        for i in range(3):
            stats = jax.tree.map(lambda v, i=i: v[i], {"params": params, "batch_stats": stacked["batch_stats"]})
            y, update = BatchNorm().apply(stats, 2 * x, train=True, mutable=["batch_stats"])
            x = jnp.tanh(y)
            updates.append(update["batch_stats"])
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *updates)

    def everything(function):
        y, vjp, updates = jax.vjp(function, stacked["params"], x, has_aux=True)
        return y, updates, vjp(cotangent)

    # Three normalisations in a row amplify the rounding of the first.
    assert_close(jax.jit(lambda: everything(scan))(), jax.jit(lambda: everything(loop))(), 1e-4)
