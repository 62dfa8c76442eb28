"""Update rules and schedules against PyTorch, the papers' equations and a singular value decomposition."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.config import OptimizerConfig, OptimizerName, ScheduleName
from jaxcnn.errors import InputError
from jaxcnn.train import optimizers, schedules
from jaxcnn.train.parallel import replicate

NAMES = OptimizerName.__args__


def create(config, steps=9, epoch=9):
    return optimizers.create(config, total_steps=steps, steps_per_epoch=epoch)


def one_update(config, gradient, params) -> Any:
    optimizer = create(config)
    return optimizer.update(gradient, optimizer.init(params), params)[0]


def trained(optimizer, params, gradients) -> Any:
    """The parameters after each gradient, of a list or a function of the parameters."""
    step = jax.jit(optimizer.update) if len(gradients) > 5 else optimizer.update  # compiling takes longer than a few
    state, seen = optimizer.init(params), []
    for gradient in gradients:
        updates, state = step(gradient(params) if callable(gradient) else gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


# ---- rules


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_lowers_a_quadratic(name):
    # LARS moves a kernel by a thousandth of its norm times the rate; gradient descent by one step in ten here.
    rate = {"lars": 50.0, "gd": 0.5, "adagrad": 0.3, "lamb": 0.02}.get(name, 0.05)
    optimizer = create(OptimizerConfig(name, learning_rate=rate, momentum=0.5), 50, 10)
    start = {"kernel": jnp.array([[1.0, -2.0], [0.5, 1.5]])}
    end = trained(optimizer, start, [lambda params: params] * 50)[-1]
    assert float(jnp.abs(end["kernel"]).max()) < 1.0


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"])
def test_updates_equal_pytorch_s(name, decay, torch):
    config = OptimizerConfig(name, learning_rate=0.1, momentum=0.8, weight_decay=decay)
    start = [1.0, -2.0, 0.5]
    got = trained(create(config), {"kernel": jnp.array(start)}, [lambda p: {"kernel": jnp.sin(3 * p["kernel"])}] * 5)
    weight = torch.tensor(start, requires_grad=True)
    peer = {
        "sgd": lambda: torch.optim.SGD([weight], 0.1, weight_decay=decay),
        "momentum": lambda: torch.optim.SGD([weight], 0.1, momentum=0.8, weight_decay=decay),
        "nesterov": lambda: torch.optim.SGD([weight], 0.1, momentum=0.8, weight_decay=decay, nesterov=True),
        "adagrad": lambda: torch.optim.Adagrad([weight], 0.1, weight_decay=decay),
        "rmsprop": lambda: torch.optim.RMSprop([weight], 0.1, alpha=0.9, weight_decay=decay),
        "adam": lambda: torch.optim.Adam([weight], 0.1, weight_decay=decay),
        "adamw": lambda: torch.optim.AdamW([weight], 0.1, weight_decay=decay),
    }[name]()
    for params in got:
        weight.grad = torch.sin(3 * weight.detach())
        peer.step()
        np.testing.assert_allclose(params["kernel"], weight.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_lars_takes_the_paper_s_step():
    """You, Gitman & Ginsburg 2017, algorithm 1: v = m v + rate ratio (g + decay w), w = w - v."""
    rng = np.random.default_rng(0)
    config = OptimizerConfig("lars", 2.0, momentum=0.9, weight_decay=0.01, schedule="cosine")
    rates = schedules.schedule(config, total_steps=3, steps_per_epoch=3)
    gradients = [{n: rng.standard_normal((3, 4)).astype(np.float32) for n in ("kernel", "bias")} for _ in range(3)]
    start = {n: rng.standard_normal((3, 4)).astype(np.float32) for n in ("kernel", "bias")}
    (w, b), v, u = (start["kernel"], start["bias"]), 0, 0
    for step, params in enumerate(trained(create(config, 3, 3), start, gradients)):
        g, rate = gradients[step]["kernel"], float(np.asarray(rates(step)))
        ratio = 0.001 * np.linalg.norm(w) / (np.linalg.norm(g) + 0.01 * np.linalg.norm(w))
        v = 0.9 * v + rate * ratio * (g + 0.01 * w)
        u = 0.9 * u + rate * gradients[step]["bias"]
        w, b = w - v, b - u
        np.testing.assert_allclose(params["kernel"], w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(params["bias"], b, rtol=1e-5, atol=1e-5)


def test_lamb_takes_the_paper_s_step():
    """You et al. 2020, algorithm 2, with the identity for phi."""
    rng = np.random.default_rng(0)
    gradients = [{n: rng.standard_normal((3, 4)).astype(np.float32) for n in ("kernel", "bias")} for _ in range(3)]
    start = {n: rng.standard_normal((3, 4)).astype(np.float32) for n in ("kernel", "bias")}
    values, m, v = dict(start), dict.fromkeys(start, 0), dict.fromkeys(start, 0)
    for step, params in enumerate(trained(create(OptimizerConfig("lamb", 0.1, weight_decay=0.3)), start, gradients), 1):
        for name, decay in (("kernel", 0.3), ("bias", 0)):
            g, w = gradients[step - 1][name], values[name]
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g**2
            r = m[name] / (1 - 0.9**step) / (np.sqrt(v[name] / (1 - 0.999**step)) + 1e-6) + decay * w
            ratio = np.linalg.norm(w) / np.linalg.norm(r) if name == "kernel" else 1
            values[name] = w - 0.1 * ratio * r
            np.testing.assert_allclose(params[name], values[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_kernel_of_zeros_or_without_a_gradient_does_not_become_nan(name):
    for gradient, weight in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        update = one_update(OptimizerConfig(name), {"kernel": jnp.full(3, gradient)}, {"kernel": jnp.full(3, weight)})
        assert np.isfinite(update["kernel"]).all()
        assert (np.asarray(update["kernel"]) != 0).all() == (gradient != 0)


@pytest.mark.parametrize("shape", [(3, 3, 2, 8), (5, 6), (6, 20)])
def test_muon_makes_the_gradient_of_a_kernel_orthogonal(shape):
    """Close to U V^T of the gradient as a matrix of inputs by outputs: Newton and Schulz leave values near 1."""
    rng = np.random.default_rng(0)
    gradient = rng.standard_normal(shape).astype(np.float32)
    update = one_update(OptimizerConfig("muon", 0.1), {"kernel": gradient}, {"kernel": jnp.zeros(shape)})["kernel"]
    u, _, vt = np.linalg.svd(gradient.reshape(-1, shape[-1]), full_matrices=False)
    matrix = -np.asarray(update).reshape(-1, shape[-1]) / 0.1
    rows, columns = matrix.shape
    # In the basis of the gradient's singular vectors it is diagonal, so it has the very U and V.
    within = u.T @ (matrix / max(1, columns / rows) ** 0.5) @ vt.T
    np.testing.assert_allclose(within, np.diag(np.diag(within)), atol=1e-4)
    assert (np.abs(np.diag(within) - 1) < 0.35).all()


def test_muon_leaves_vectors_to_adam_with_nesterov_s_momentum():
    start = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2)}
    gradients = [lambda params: jax.tree.map(jnp.sin, params)] * 3
    got, expected = (trained(rule, start, gradients) for rule in (create(OptimizerConfig("muon")), optax.nadam(0.1)))
    for name in ("bias", "scale"):
        np.testing.assert_allclose(got[-1][name], expected[-1][name], rtol=1e-5)


# ---- weight decay


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_acts_on_kernels_alone(name):
    config = OptimizerConfig(name, learning_rate=0.5, weight_decay=0.1)
    params = {"layer": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    optimizer = create(config, 1, 1)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    if name in ("gd", "sgd", "momentum", "nesterov", "adamw", "muon"):
        expected = -0.5 * 0.1 * 2.0 * (1.9 if name == "nesterov" else 1)
        np.testing.assert_allclose(updates["layer"]["kernel"], expected, rtol=1e-6)
    assert (np.asarray(updates["layer"]["kernel"]) < 0).all() or name == "lars"
    np.testing.assert_array_equal(updates["layer"]["bias"], 0)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("lars", "lamb")])
def test_decoupled_decay_takes_its_share_of_the_kernel_past_the_moments(name):
    rng = np.random.default_rng(0)
    start = {n: rng.standard_normal((2, 3)).astype(np.float32) for n in ("kernel", "bias")}
    gradients = [{n: rng.standard_normal((2, 3)).astype(np.float32) for n in start} for _ in range(2)]
    plain = OptimizerConfig(name, 0.1)
    decoupled = dataclasses.replace(plain, weight_decay=0.2, decoupled=True)
    expected, got = (trained(create(config, 2, 1), start, gradients)[0] for config in (plain, decoupled))
    np.testing.assert_allclose(got["kernel"], expected["kernel"] - 0.1 * 0.2 * start["kernel"], atol=1e-6)
    np.testing.assert_array_equal(got["bias"], expected["bias"])
    if name in ("adamw", "muon"):
        own = trained(create(dataclasses.replace(decoupled, decoupled=None), 2, 1), start, gradients)
        np.testing.assert_array_equal(own[0]["kernel"], got["kernel"])


def test_adamw_can_be_coupled_and_then_is_adam():
    rng = np.random.default_rng(0)
    start = {"kernel": rng.standard_normal(4).astype(np.float32)}
    gradients = [{"kernel": rng.standard_normal(4).astype(np.float32)} for _ in range(3)]
    coupled = trained(create(OptimizerConfig("adamw", weight_decay=0.1, decoupled=False)), start, gradients)
    adam = trained(create(OptimizerConfig("adam", weight_decay=0.1)), start, gradients)
    np.testing.assert_array_equal(coupled[-1]["kernel"], adam[-1]["kernel"])


# ---- clipping, accumulation, averages


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 3.0, 100.0]))
@settings(deadline=None, max_examples=10)
def test_clipping_equals_pytorch_s(torch, seed, clip):
    rng = np.random.default_rng(seed)
    gradient = {"a": rng.standard_normal(3).astype(np.float32), "b": rng.standard_normal((2, 2)).astype(np.float32)}
    update = one_update(OptimizerConfig("sgd", 1.0, clip=clip), gradient, jax.tree.map(jnp.zeros_like, gradient))
    weights = [torch.zeros(3), torch.zeros(2, 2)]
    for weight, value in zip(weights, gradient.values(), strict=True):
        weight.grad = torch.tensor(value)
    torch.nn.utils.clip_grad_norm_(weights, clip)
    for name, weight in zip(gradient, weights, strict=True):
        np.testing.assert_allclose(-update[name], weight.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_clipping_stands_before_weight_decay_and_counts_no_frozen_part():
    params = {"a": {"kernel": jnp.array([2.0, 0.0])}, "c": {"kernel": jnp.array([1.0])}}
    gradient = {"a": {"kernel": jnp.array([0.0, 4.0])}, "c": {"kernel": jnp.array([100.0])}}
    config = OptimizerConfig("sgd", 1.0, clip=1.0, weight_decay=0.5, rates={"c": 0.0})
    update = one_update(config, gradient, params)
    np.testing.assert_allclose(update["a"]["kernel"], [-1.0, -1.0], rtol=1e-6)
    np.testing.assert_array_equal(update["c"]["kernel"], [0.0])


@pytest.mark.parametrize("name", ["momentum", "adamw", "lars", "muon"])
def test_four_batches_of_32_make_the_updates_of_one_of_128(name):
    """With everything that stands between the gradient and the update switched on."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape).astype(np.float32) for shape in ((3 * 128, 6), (3 * 128, 4)))
    common = {"weight_decay": 0.01, "clip": 0.5, "schedule": "cosine", "warmup_epochs": 0.4, "rates": {"b": 0.5}}
    start = {part: {"kernel": rng.standard_normal((6, 4)).astype(np.float32)} for part in ("a", "b")}

    def gradients(size):
        def loss(params, x, y):
            return ((x @ (params["a"]["kernel"] + params["b"]["kernel"]) - y) ** 2).mean()

        pairs = zip(np.split(x, len(x) // size), np.split(y, len(y) // size), strict=True)
        gradient = jax.jit(jax.grad(loss))
        return [lambda params, pair=pair: gradient(params, *pair) for pair in pairs]

    whole = trained(create(OptimizerConfig(name, **common), 3, 3), start, gradients(128))
    parts = trained(create(OptimizerConfig(name, accumulate=4, **common), 12, 12), start, gradients(32))
    for one, four in zip(whole, parts[3::4], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, four)
    for before, after in itertools.pairwise(parts[3:7]):  # nothing moves in between
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_gradient_descent_makes_one_update_of_an_epoch():
    gradients = [{"kernel": jnp.array([float(i)])} for i in range(6)]
    seen = trained(create(OptimizerConfig("gd", 1.0), 6, 3), {"kernel": jnp.zeros(1)}, gradients)
    np.testing.assert_allclose([float(p["kernel"][0]) for p in seen], [0, 0, -1, -1, -1, -5], rtol=1e-6)


@pytest.mark.parametrize("name", ["gd", "sgd"])
def test_batches_of_one_update_share_its_rate(name):
    config = OptimizerConfig(name, 1.0, schedule="exponential", decay=0.5, accumulate=1 if name == "gd" else 2)
    rate = schedules.schedule(config, total_steps=12, steps_per_epoch=4)
    np.testing.assert_allclose([float(np.asarray(rate(i))) for i in range(12)], [1] * 4 + [0.5] * 4 + [0.25] * 4)
    steps = OptimizerConfig("sgd", 1.0, accumulate=5, schedule="steps", milestones=(0.5,))
    rate = schedules.schedule(steps, total_steps=20, steps_per_epoch=4)
    np.testing.assert_allclose([float(np.asarray(rate(i))) for i in (0, 9, 10, 19)], [1, 1, 0.1, 0.1])


@pytest.mark.parametrize("config", [OptimizerConfig("gd", schedule="plateau"), OptimizerConfig(schedule="one_cycle")])
def test_the_length_of_the_run_changes_no_structure(config):
    params = {"kernel": jnp.ones(2)}
    assert jax.tree.structure(create(config, 1, 1).init(params)) == jax.tree.structure(create(config).init(params))


def test_gradient_descent_asks_for_whole_batches():
    optimizers.require_full_batches(120, 40)
    with pytest.raises(InputError, match="data.batch_size is 50; expected a divisor of the 120 .* such as 40"):
        optimizers.require_full_batches(120, 50)
    with pytest.raises(InputError, match="such as 7"):
        optimizers.require_full_batches(7, 128)


def test_the_average_of_a_constant_is_approached_at_the_decay():
    average, params = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    for _ in range(5):
        average = optimizers.update_average(average, params, 0.9)
    np.testing.assert_allclose(average["w"], 1 - 0.9**5, rtol=1e-5)


# ---- schedules


@pytest.mark.parametrize("name", ScheduleName.__args__)
def test_schedules_warm_up_linearly_to_the_peak_and_never_exceed_it(name):
    config = OptimizerConfig(learning_rate=0.2, schedule=name, warmup_epochs=2.0, milestones=(0.5, 0.75))
    rate = schedules.schedule(config, total_steps=100, steps_per_epoch=10)
    rates = np.asarray(jax.vmap(rate)(jnp.arange(100)))
    first = 0.2 / 25 if name == "one_cycle" else 0.2
    np.testing.assert_allclose(rates[:20], first * np.arange(20) / 20, atol=1e-7)
    np.testing.assert_allclose(rates[20], first, rtol=1e-6)
    assert rates.max() <= 0.2 * (1 + 1e-6)
    if name != "one_cycle":
        assert (np.diff(rates[20:]) <= 1e-9).all()
    if name == "steps":
        np.testing.assert_allclose(rates[[49, 50, 74, 75, 99]], [0.2, 0.02, 0.02, 0.002, 0.002], rtol=1e-5)
    if name == "cosine":
        np.testing.assert_allclose(rates[20:], 0.1 * (1 + np.cos(np.pi * np.arange(80) / 80)), atol=1e-6)
    if name == "exponential":
        np.testing.assert_allclose(rates[20:], 0.2 * 0.95 ** np.repeat(np.arange(8), 10), rtol=1e-5)


def pytorch_s_rates(torch, make, count):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.2)
    peer, rates = make(torch.optim.lr_scheduler, optimizer), [optimizer.param_groups[0]["lr"]]
    for _ in range(count - 1):
        optimizer.step()
        peer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("total", [4, 40])
def test_one_cycle_equals_pytorch_s(total, torch):
    rate = schedules.schedule(OptimizerConfig("sgd", 0.2, schedule="one_cycle"), total_steps=total, steps_per_epoch=1)
    expected = pytorch_s_rates(torch, lambda s, o: s.OneCycleLR(o, 0.2, total_steps=total), total)
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(total)), expected, rtol=1e-4, atol=1e-7)


def test_exponential_and_steps_equal_pytorch_s(torch):
    config = OptimizerConfig("sgd", 0.2, schedule="exponential", decay=0.9)
    rate = schedules.schedule(config, total_steps=30, steps_per_epoch=3)
    expected = pytorch_s_rates(torch, lambda s, o: s.ExponentialLR(o, 0.9), 10)
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(30)), np.repeat(expected, 3), rtol=1e-5)
    config = OptimizerConfig("sgd", 0.2, schedule="steps", drop=0.2, milestones=(0.3, 0.6, 0.8))
    rate = schedules.schedule(config, total_steps=10, steps_per_epoch=1)
    expected = pytorch_s_rates(torch, lambda s, o: s.MultiStepLR(o, [3, 6, 8], 0.2), 10)
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(10)), expected, rtol=1e-5)


PLATEAU = OptimizerConfig("momentum", 0.5, schedule="plateau", plateau_factor=0.3, patience=2)


@given(
    # PyTorch compares in double precision: no value may lie at the threshold, or be lost as a denormal number.
    st.lists(
        st.sampled_from([float("nan"), float("inf"), 1.0, 0.99995, 0.9998])
        | st.integers(0, 200).map(lambda hundredths: hundredths / 100),
        max_size=25,
    ),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=25)
def test_plateau_equals_pytorch_s(torch, values, patience):
    config = dataclasses.replace(PLATEAU, patience=patience)
    state = create(config).init({"kernel": jnp.zeros(1)})
    peer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(peer, factor=0.3, patience=patience, eps=0)
    for value in np.float32(values):
        state = schedules.observe(state, config, float(value))
        scheduler.step(float(value))
        assert schedules.rate_scale(state) == pytest.approx(peer.param_groups[0]["lr"], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate": 2}, {"rates": {"a": 0.5}, "clip": 9.0}, {"accumulate": 2, "rates": {"a": 0.5}}],
    ids=str,
)
def test_plateau_is_found_anywhere_scales_the_updates_and_keeps_its_types(changes):
    config = dataclasses.replace(PLATEAU, patience=0, **changes)
    optimizer = create(config)
    params = {part: {"kernel": jnp.ones(2)} for part in ("a", "b")}
    state = replicate(optimizer.init(params), jax.devices()[:2])
    assert schedules.rate_scale(state) == 1
    once = schedules.observe(state, config, 1.0)
    lowered = schedules.observe(once, config, 1.0)
    assert schedules.rate_scale(once) == 1
    assert schedules.rate_scale(lowered) == pytest.approx(0.3)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(lowered), strict=True):
        assert (before.dtype, before.weak_type, before.sharding) == (after.dtype, after.weak_type, after.sharding)

    def update(state):
        for _ in range(config.accumulate):
            updates, state = optimizer.update(params, state, params)
        return updates, state

    (full, _), (less, after) = update(state), update(lowered)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 0.3 * a, rtol=1e-5), full, less)
    assert schedules.rate_scale(after) == pytest.approx(0.3)


def test_other_schedules_observe_nothing():
    config = OptimizerConfig("adam")
    state = create(config).init({"kernel": jnp.zeros(1)})
    assert schedules.observe(state, config, 1.0) == state
    assert schedules.rate_scale(state) == 1
