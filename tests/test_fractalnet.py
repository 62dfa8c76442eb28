"""Fractal networks: the recursion, the joins and the dropped paths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import state as states
from jaxcnn.errors import InputError
from jaxcnn.models.fractalnet import Block, FractalNet, Unit, join, local_paths

SHAPE = (32, 32, 3)


def small(**fields):
    return FractalNet(columns=3, width=4, num_classes=3, **fields)


def pooled(x):
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max(axis=(2, 4))


def both(key):
    return {"dropout": key, "drop_path": key}


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_block_is_the_paper_s_recursion(columns):
    common = (0.0, "relu", jnp.float32, None)
    block = Block(columns, 0, 5, 0.0, 0.15, False, *common[1:])
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    y, variables = block.init_with_output(jax.random.key(1), x, None, train=False)
    assert len(variables["params"]) == 2**columns - 1

    def unit(c, index, x):
        name = f"column{c}_unit{index}"
        own = {collection: tree[name] for collection, tree in variables.items()}
        return Unit(5, *common).apply(own, x, train=False)

    def fractal(depth, start, x):
        """The outputs that f_depth joins, its first row being `start`."""
        c = columns - depth + 1
        own = unit(c, start // 2 ** (depth - 1) + 1, x)
        if depth == 1:
            return [own]
        half = 2 ** (depth - 2)
        middle = fractal(depth - 1, start, x)
        return [own, *fractal(depth - 1, start + half, sum(middle) / len(middle))]

    outputs = [pooled(out) for out in fractal(columns, 0, x)]
    np.testing.assert_allclose(y, sum(outputs) / columns, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_column_alone_runs_its_units_alone():
    images = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
    state = states.create(small(), jax.random.key(0), SHAPE)
    for column in (1, 2, 3):
        _, seen = small(column=column).apply(
            state.variables, images, train=False, mutable=["intermediates"], capture_intermediates=True
        )
        blocks = [tree for name, tree in seen["intermediates"].items() if name.startswith("block")]
        units = {name for tree in blocks for name in tree if "unit" in name}
        assert units == {f"column{column}_unit{i + 1}" for i in range(2 ** (column - 1))}


def test_joins_drop_at_the_given_rate_and_keep_one_at_least():
    keep = np.asarray(local_paths(jax.random.key(0), 4000, 3, 0.15))
    assert keep.any(axis=1).all()
    # All three fall with 0.15^3, and one of them is then saved.
    assert np.mean(keep) == pytest.approx(0.85 + 0.15**3 / 3, abs=0.01)
    all_dropped = np.asarray(local_paths(jax.random.key(0), 3000, 3, 1.0))
    np.testing.assert_array_equal(all_dropped.sum(axis=1), 1)
    np.testing.assert_allclose(all_dropped.mean(axis=0), 1 / 3, atol=0.04)


def test_a_join_is_the_mean_of_what_is_kept():
    inputs = [jnp.full((3, 1, 1, 1), value) for value in (1.0, 2.0, 6.0)]
    keep = jnp.array([[True, True, True], [True, False, True], [False, True, False]])
    np.testing.assert_allclose(join(inputs, keep).ravel(), [3.0, 3.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(join(inputs, None).ravel(), [3.0] * 3, rtol=1e-6)


@pytest.mark.slow
def test_global_drop_path_keeps_one_column_through_the_whole_network():
    model = small(global_share=1.0, dropout=0.0)
    state = states.create(model, jax.random.key(0), SHAPE)
    image = jax.random.uniform(jax.random.key(1), (1, *SHAPE))

    @jax.jit
    def gradients(key):
        def objective(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, _ = model.apply(variables, image, train=True, mutable=["batch_stats"], rngs=both(key))
            return (logits**2).sum()

        return jax.grad(objective)(state.params)

    chosen = set()
    for seed in range(8):
        trained = set()
        for name, tree in gradients(jax.random.key(seed)).items():
            for unit in tree if name.startswith("block") else ():
                if bool((tree[unit]["norm"]["scale"] != 0).any()):
                    trained.add(unit)
        columns = {int(unit[len("column")]) for unit in trained}
        assert len(columns) == 1
        assert len(trained) == 2 ** (max(columns) - 1)
        chosen |= columns
    assert chosen == {1, 2, 3}


@pytest.mark.slow
def test_local_drop_path_trains_several_columns_and_inference_is_certain():
    model = FractalNet(columns=2, width=4, num_classes=3, global_share=0.0)
    state = states.create(model, jax.random.key(0), SHAPE)
    images = jax.random.uniform(jax.random.key(1), (2, *SHAPE))

    @jax.jit
    def logits(key):
        return model.apply(state.variables, images, train=True, mutable=["batch_stats"], rngs=both(key))[0]

    assert np.abs(logits(jax.random.key(0)) - logits(jax.random.key(1))).max() > 0
    inference = jax.jit(lambda x: model.apply(state.variables, x, train=False))
    np.testing.assert_allclose(inference(images)[:1], inference(images[:1].repeat(2, axis=0))[:1], rtol=1e-4, atol=1e-5)


def test_impossible_options_are_refused():
    with pytest.raises(InputError, match="column is 4; expected 1 to 3, or 0 for all"):
        small(column=4)
    with pytest.raises(InputError, match="drop_path is 1.5; expected a probability"):
        small(drop_path=1.5)
