"""Initial kernels against their moments, their distributions, PyTorch's formulas and orthogonality itself."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.config import InitializerName
from jaxcnn.errors import InputError
from jaxcnn.layers.initializers import initialize, zero_gamma

NAMES = InitializerName.__args__
SHAPES = {"conv": (3, 3, 32, 48), "grouped": (3, 3, 8, 96), "depthwise": (5, 5, 1, 256), "dense": (400, 30)}


def network(shapes=SHAPES):
    return {
        layer: {"kernel": jnp.full(shape, 7.0), "bias": jnp.full(shape[-1], 2.0)} for layer, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def drawn():
    return {name: initialize(network(), name, jax.random.key(0)) for name in NAMES}


def expected(name, shape):
    """The distribution, from the fans written out."""
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    a, b = math.sqrt(6 / (fan_in + fan_out)), math.sqrt(6 / fan_in)
    return {
        "normal": stats.norm(0, 0.01),
        "uniform": stats.uniform(-0.05, 0.1),
        "glorot_uniform": stats.uniform(-a, 2 * a),
        "glorot_normal": stats.norm(0, math.sqrt(2 / (fan_in + fan_out))),
        "he_uniform": stats.uniform(-b, 2 * b),
        "he_normal": stats.norm(0, math.sqrt(2 / fan_in)),
    }[name]


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "orthogonal"])
def test_kernels_follow_the_named_distribution(name, layer, drawn):
    values, distribution = np.asarray(drawn[name][layer]["kernel"]).ravel(), expected(name, SHAPES[layer])
    assert abs(values.mean()) < 4 * distribution.std() / math.sqrt(values.size)
    assert values.std() == pytest.approx(distribution.std(), rel=0.05)
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-3
    # Neither another family of the same variance nor a variance a tenth off would pass.
    another = stats.norm(0, distribution.std()) if "uniform" in name else stats.uniform(-0.017, 0.034)
    assert stats.kstest(values, another.cdf).pvalue < 1e-6
    assert stats.kstest(values / 1.2, distribution.cdf).pvalue < 1e-6


@pytest.mark.parametrize("layer", SHAPES)
def test_deviations_equal_those_of_pytorch_s_formulas(layer, drawn, torch):
    shape = SHAPES[layer]
    weight = torch.empty(shape[-1], shape[-2], *shape[:-2])
    torch.manual_seed(0)
    for name, fill in {
        "glorot_uniform": torch.nn.init.xavier_uniform_,
        "glorot_normal": torch.nn.init.xavier_normal_,
        "he_uniform": lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu"),
        "he_normal": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
    }.items():
        values = np.asarray(drawn[name][layer]["kernel"])
        assert values.std() == pytest.approx(fill(weight).std().item(), rel=0.06), name
        if "uniform" in name:
            assert np.abs(values).max() == pytest.approx(weight.abs().max().item(), rel=0.01), name


@pytest.mark.parametrize("layer", SHAPES)
def test_orthogonal_kernels_are_orthogonal(layer, drawn):
    matrix = np.asarray(drawn["orthogonal"][layer]["kernel"]).reshape(-1, SHAPES[layer][-1])
    smaller = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(smaller, np.eye(len(smaller)), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_only_kernels_change_and_each_has_its_own_values(name, drawn):
    for layer, shape in SHAPES.items():
        np.testing.assert_array_equal(drawn[name][layer]["bias"], 2.0)
        assert drawn[name][layer]["kernel"].shape == shape
    twins = initialize(network({"a": (3, 3, 4, 8), "b": (3, 3, 4, 8)}), name, jax.random.key(0))
    assert not np.isclose(twins["a"]["kernel"], twins["b"]["kernel"]).any()
    alone = initialize(network({"b": (3, 3, 4, 8)}), name, jax.random.key(0))
    np.testing.assert_array_equal(alone["b"]["kernel"], twins["b"]["kernel"])
    other = initialize(network({"b": (3, 3, 4, 8)}), name, jax.random.key(1))
    assert not np.isclose(other["b"]["kernel"], alone["b"]["kernel"]).any()


def test_the_values_are_those_of_yesterday():
    """A hash that changes from process to process would end reproducibility and nothing else."""
    values = initialize({"stage1": {"conv1": {"kernel": jnp.zeros((2,))}}}, "uniform", jax.random.key(0))
    place = 0x6C30F76F  # CRC-32 of "stage1/conv1/kernel"
    direct = jax.random.uniform(jax.random.fold_in(jax.random.key(0), place), (2,), jnp.float32, -0.05, 0.05)
    np.testing.assert_array_equal(values["stage1"]["conv1"]["kernel"], direct)


@pytest.mark.slow
def test_a_residual_network_of_zero_gammas_is_its_shortcuts():
    model = models.create("cifar_resnet20", num_classes=3)
    state = states.create(model, jax.random.key(0), (8, 8, 3))
    params = zero_gamma(state.params, "stage./block./norm2")
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), params, state.params)
    paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, c in jax.tree.leaves_with_path(changed) if c]
    assert paths == [f"stage{s}/block{b}/norm2/scale" for s in (1, 2, 3) for b in (1, 2, 3)]

    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    silent = {"params": params, "batch_stats": state.batch_stats}
    blocks = model.apply(silent, images, train=False, capture_intermediates=lambda m, _: "Block" in type(m).__name__)
    found = jax.tree.leaves(blocks[1]["intermediates"]["stage1"])
    assert len(found) == 3
    np.testing.assert_array_equal(found[0], found[2])
    assert float(jnp.abs(found[0]).max()) > 0


@pytest.mark.parametrize("norms", [None, "stage./block./norm9"])
def test_a_network_without_such_batch_norms_is_refused(norms):
    with pytest.raises(InputError, match="model.zero_gamma is True; expected a network whose residual blocks end"):
        zero_gamma({"stage1": {"block1": {"norm1": {"scale": jnp.ones(2)}}}}, norms)
