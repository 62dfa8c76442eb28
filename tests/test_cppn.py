"""The encodings of evolution: mutation against Deb's closed form, graphs against an evaluation node by node."""

from __future__ import annotations

import colorsys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.analysis import cppn
from jaxcnn.analysis.cppn import FUNCTIONS, INPUTS, LIMIT, Cppn, Genome
from jaxcnn.analysis.direct import Direct, polynomial_mutation

DRAWS = 4000


@jax.jit
def mutated(key, values, rate, strength):
    return polynomial_mutation(key, values, rate, strength=strength)


@given(seed=st.integers(0, 2**31), strength=st.floats(0, 40), rate=st.floats(0.05, 1))
@settings(deadline=None, max_examples=25)
def test_mutations_are_distributed_as_deb_says(seed, strength, rate):
    # From the middle of a wide range no change is cut off, and half of the range is where |delta| = 1/2.
    found = np.asarray(mutated(jax.random.key(seed), jnp.full(DRAWS, 0.5), rate, strength), np.float64)
    delta = found[found != 0.5] - 0.5
    assert abs(len(delta) / DRAWS - rate) < 5 * np.sqrt(rate * (1 - rate) / DRAWS) + 0.01

    def distribution(delta):
        return 0.5 + np.sign(delta) * (1 - (1 - np.abs(delta)) ** (strength + 1)) / 2

    inside = delta[np.abs(delta) < 0.5]
    low, high = distribution(-0.5), distribution(0.5)
    share = high - low
    assert abs(len(inside) / len(delta) - share) < 5 * np.sqrt(share * (1 - share) / len(delta)) + 0.01
    test: Any = scipy.stats.kstest(inside, lambda delta: (distribution(delta) - low) / (high - low))
    assert test.pvalue > 1e-6


def test_mutations_stay_in_range_and_grow_with_it():
    key, values = jax.random.key(0), jax.random.uniform(jax.random.key(1), (1000,))
    unit = polynomial_mutation(key, values, 0.5)
    assert unit.min() >= 0
    assert unit.max() <= 1
    wide = polynomial_mutation(key, 6 * values - 3, 0.5, low=-3.0, high=3.0)
    np.testing.assert_allclose(wide, 6 * unit - 3, atol=1e-5)


def test_the_direct_encoding_changes_a_tenth_and_half_of_it_after_a_thousand_generations():
    encoding = Direct((60, 60, 3))
    genome = encoding.create(jax.random.key(0))
    kolmogorov: Any = scipy.stats.kstest(np.asarray(genome).ravel(), "uniform")
    assert kolmogorov.pvalue > 1e-6
    for generation, rate in ((0, 0.1), (999, 0.1), (1000, 0.05), (2500, 0.025)):
        child = encoding.mutate(jax.random.key(1), genome, jnp.asarray(generation))
        assert float((child != genome).mean()) == pytest.approx(rate, rel=0.15)
    np.testing.assert_array_equal(encoding.render(genome[None])[0], genome)


ENCODING = Cppn((5, 7, 3), hidden=6)
mutate = jax.jit(jax.vmap(ENCODING.mutate, (0, 0, None)))


def grown(seed: int, count: int = 4, times: int = 60) -> Genome:
    """Genomes after many mutations, so that some of them are full."""
    genomes = jax.vmap(ENCODING.create)(jax.random.split(jax.random.key(seed), count))
    for generation in range(times):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), generation), count)
        genomes = mutate(keys, genomes, jnp.asarray(generation))
    return jax.tree.map(np.asarray, genomes)


def one(genomes: Genome, number: int) -> Genome:
    return jax.tree.map(lambda leaf: leaf[number], genomes)


def by_hand(genome: Genome, inputs: np.ndarray, outputs: int) -> np.ndarray:
    """The outputs [o, P], each node asking those before it."""
    functions = {
        "sine": np.sin,
        "sigmoid": lambda t: 2 / (1 + np.exp(-t)) - 1,
        "gaussian": lambda t: 2 * np.exp(-(t**2)) - 1,
        "linear": lambda t: t,
    }

    def value(node):
        if node < len(inputs):
            return inputs[node]
        before = [m for m in range(len(genome.places)) if genome.connected[m, node]]
        total = sum((np.float64(genome.weights[m, node]) * value(m) for m in before), np.zeros(inputs.shape[1]))
        return functions[FUNCTIONS[genome.functions[node]]](total)

    return np.stack([value(len(inputs) + i) for i in range(outputs)])


@pytest.mark.slow
@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=10)
def test_a_graph_is_evaluated_as_node_by_node(seed):
    genomes, points = grown(seed), cppn.coordinates(5, 7)
    found = np.asarray(evaluated(genomes, points))
    for number in range(4):
        expected = by_hand(one(genomes, number), np.asarray(points, np.float64), 3)
        np.testing.assert_allclose(found[number], expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


evaluated = jax.jit(partial(cppn.evaluate, outputs=3))


@pytest.mark.slow
def test_points_are_evaluated_in_blocks_without_a_difference(monkeypatch):
    genomes, points = grown(1), cppn.coordinates(9, 11)
    whole = cppn.evaluate(genomes, points, 3)
    monkeypatch.setattr(cppn, "_BLOCK", 64)  # 16 points of 4 graphs
    np.testing.assert_allclose(cppn.evaluate(genomes, points, 3), whole, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=10)
def test_graphs_grow_and_stay_graphs(seed):
    genomes = grown(seed)
    first, last = len(INPUTS), len(INPUTS) + 3
    for number in range(4):
        places, functions, connected, weights = one(genomes, number)
        assert (places[:first] == 0).all()
        assert (places[first:last] == 1).all()
        hidden = places[last:][np.isfinite(places[last:])]
        assert ((hidden > 0) & (hidden < 1)).all()
        assert len(hidden) > 0
        starts, ends = np.nonzero(connected)
        assert (places[starts] < places[ends]).all()  # so there is no cycle
        assert np.isfinite(places[ends]).all()
        assert ((functions >= 0) & (functions < len(FUNCTIONS))).all()
        assert np.abs(weights).max() <= LIMIT


def test_a_new_node_stands_in_a_connection_and_a_linear_one_changes_nothing():
    genome = jax.tree.map(jnp.asarray, one(grown(2, times=3), 0))
    before = int(jnp.isfinite(genome.places).sum())
    found = cppn.add_node(jax.random.key(4), genome)
    assert int(jnp.isfinite(found.places).sum()) == before + 1
    assert int(found.connected.sum()) == int(genome.connected.sum()) + 1
    node = int(jnp.argmax(found.places != genome.places))
    linear = found._replace(functions=found.functions.at[node].set(FUNCTIONS.index("linear")))
    inputs = np.asarray(cppn.coordinates(3, 3), np.float64)
    np.testing.assert_allclose(by_hand(linear, inputs, 3), by_hand(genome, inputs, 3), rtol=1e-6, atol=1e-6)


def test_a_full_graph_gets_no_more():
    full = grown(3, times=200)
    assert np.isfinite(full.places).all()
    genome = jax.tree.map(jnp.asarray, one(full, 0))
    same = cppn.add_node(jax.random.key(0), genome)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), same, genome)))
    for seed in range(80):
        genome = cppn.add_connection(jax.random.key(seed), genome)
    before = np.asarray(genome.places)
    assert int(genome.connected.sum()) == int((before[:, None] < before[None]).sum())


def test_pictures_are_in_range_and_colours_are_those_of_hsb():
    image = np.asarray(ENCODING.render(jax.tree.map(jnp.asarray, grown(0))))
    assert image.shape == (4, 5, 7, 3)
    assert image.min() >= 0
    assert image.max() <= 1
    colors = np.random.default_rng(0).random((50, 3))
    expected = [colorsys.hsv_to_rgb(*color) for color in colors]
    np.testing.assert_allclose(cppn.hsb_to_rgb(jnp.asarray(colors)), expected, atol=1e-5)


def test_coordinates_run_from_minus_1_to_1():
    x, y, distance, bias = np.asarray(cppn.coordinates(3, 5)).reshape(4, 3, 5)
    np.testing.assert_allclose(x[0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(y[:, 0], [-1, 0, 1])
    np.testing.assert_allclose(distance, np.hypot(x, y), rtol=1e-6)
    np.testing.assert_array_equal(bias, 1)
