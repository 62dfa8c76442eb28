"""MAP-Elites: the archive keeps the best, the same key gives the same bits, and so does an evolution in parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import CLASSES, SHAPE, Linear, Small, state_of

from jaxcnn.analysis import evolution
from jaxcnn.analysis.cppn import Cppn
from jaxcnn.analysis.direct import Direct
from jaxcnn.errors import InputError

MODEL, STATE = Small(), state_of(Small())


def evolve(encoding="direct", generations=6, archive=None, seed=0, chunk=4, population=10):
    return evolution.map_elites(
        MODEL,
        STATE,
        SHAPE,
        key=jax.random.key(seed),
        encoding=encoding,
        generations=generations,
        population=population,
        archive=archive,
        chunk=chunk,
    )


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, other)))


def probabilities(images):
    return np.asarray(jax.nn.softmax(MODEL.apply(STATE.variables, images, train=False)))


def by_hand(generations, population, chunk, seed=0):
    """Genomes and confidences, child by child: what a child is, is asked of the encoding, what is kept is not."""
    encoding, key = Direct(SHAPE), jax.random.key(seed)
    genomes, kept = [None] * CLASSES, np.full(CLASSES, -1.0)
    for generation in range(generations):
        now = jax.random.fold_in(key, generation)
        children = []
        for number in range(population):
            create, parent, mutate = jax.random.split(jax.random.fold_in(now, number), 3)
            chosen = genomes[int(jax.random.randint(parent, (), 0, CLASSES))]
            children.append(
                encoding.create(create) if chosen is None else encoding.mutate(mutate, chosen, jnp.asarray(generation))
            )
        for child in children:
            for target, sure in enumerate(probabilities(child[None])[0]):
                if sure > kept[target]:
                    genomes[target], kept[target] = child, sure
    return np.stack(genomes), kept


def test_evolution_is_map_elites():
    found = evolve(generations=3, population=5, chunk=5)
    genomes, kept = by_hand(3, 5, 5)
    np.testing.assert_allclose(found.archive.confidences, kept, rtol=1e-5)
    np.testing.assert_allclose(found.archive.genomes, genomes, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["direct", "cppn"])
def test_the_archive_keeps_the_best_of_every_class(encoding):
    found = evolve(encoding, generations=25)
    assert found.history.shape == (25, CLASSES)
    assert (np.diff(found.history, axis=0) >= 0).all()
    assert (found.history[-1] > found.history[0]).all()
    np.testing.assert_array_equal(found.history[-1], found.archive.confidences)
    images = evolution.images(found.archive, encoding, SHAPE)
    assert images.shape == (CLASSES, *SHAPE)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    np.testing.assert_allclose(probabilities(images)[range(CLASSES), range(CLASSES)], found.history[-1], rtol=1e-4)
    some = evolution.images(found.archive, encoding, SHAPE, targets=np.array([2, 0]))
    np.testing.assert_allclose(some, images[jnp.array([2, 0])], atol=1e-6)


@pytest.mark.parametrize("encoding", ["direct", "cppn"])
def test_the_same_key_gives_the_same_bits_and_so_do_parts(encoding):
    whole, again, other = (evolve(encoding, seed=seed) for seed in (0, 0, 1))
    assert same(whole, again)
    assert not same(whole.archive.confidences, other.archive.confidences)
    first = evolve(encoding, generations=2)
    assert int(first.archive.generation) == 2
    history = first.history
    # As it comes from a file.
    archive = jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), first.archive)
    second = evolve(encoding, archive=archive)
    assert same(second.archive, whole.archive)
    np.testing.assert_array_equal(np.concatenate([history, second.history]), whole.history)


@pytest.mark.slow
def test_children_beyond_the_chunks_change_nothing():
    np.testing.assert_allclose(evolve(chunk=10).history, evolve(chunk=3).history, rtol=1e-5)


def test_what_the_network_says_nothing_of_is_not_kept():
    broken = STATE.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, STATE.params))
    found = evolution.map_elites(
        MODEL, broken, SHAPE, key=jax.random.key(0), encoding="direct", generations=2, population=3
    )
    np.testing.assert_array_equal(found.history, -1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"encoding": "cpn"}, "unknown encoding 'cpn'; did you mean cppn?"),
        ({"population": 0}, "population is 0"),
        ({"generations": 0}, "generations is 0; expected more than the 0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_mistakes_are_told_in_a_sentence(given, says, unchecked):
    with pytest.raises(InputError) as caught:
        evolve(**given)
    assert says in str(caught.value)


def test_an_archive_goes_with_its_network_and_encoding():
    archive = evolution.begin(MODEL, STATE, SHAPE, "direct")
    with pytest.raises(InputError, match="expected .* for this network and encoding"):
        evolve("cppn", archive=archive)
    with pytest.raises(InputError, match="generations is 6; expected more than the 6 that there were"):
        evolve(archive=evolve().archive)
    with pytest.raises(InputError, match=r"targets hold class 4; expected classes in \[0, 4\)"):
        evolution.images(archive, "direct", SHAPE, targets=np.array([4]))
    with pytest.raises(InputError, match="1 or 3 channels"):
        evolution.begin(Linear(), STATE, (8, 8, 2), "cppn")
    assert evolution.encoding_of("cppn", SHAPE) == Cppn(SHAPE)
