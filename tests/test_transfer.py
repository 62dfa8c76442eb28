"""Features and linear probes against plain NumPy and SciPy's minimiser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import transfer
from jaxcnn.errors import InputError, JaxcnnError


@pytest.mark.slow
def test_features_are_what_the_head_sees():
    model = models.create("cifar_resnet20")
    state = states.create(model, jax.random.key(0), (32, 32, 3))
    images = jax.random.uniform(jax.random.key(1), (5, 32, 32, 3))
    found = transfer.features(model, state, images, chunk=2)
    assert found.shape == (5, 64)
    head = state.params["head"]
    logits = model.apply(state.variables, images, train=False)
    np.testing.assert_allclose(found @ head["kernel"] + head["bias"][None], logits, rtol=1e-4, atol=1e-5)


def problem(seed=0, n=60, d=7, k=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * rng.uniform(0.1, 10, d) + rng.uniform(-5, 5, d)
    x[:, 0] = 3.0  # a feature that never varies tells nothing, and harms nothing
    return x.astype(np.float32), rng.integers(0, k, n).astype(np.int32)


@pytest.mark.slow
def test_the_probe_is_the_minimum_that_scipy_finds():
    x, y = problem()
    probe = transfer.linear_probe(jnp.asarray(x), jnp.asarray(y), 3, penalty=0.05, tolerance=1e-5)
    standard = (x - x.mean(0)) / np.where(x.std(0) > 1e-6, x.std(0), 1)

    def objective(flat):
        w, b = flat[:21].reshape(7, 3), flat[21:]
        losses = -scipy.special.log_softmax(standard @ w + b, axis=1)[np.arange(60), y]
        return losses.mean() + 0.025 * np.square(w).sum()

    best = scipy.optimize.minimize(objective, np.zeros(24), tol=1e-10).x
    expected = standard @ best[:21].reshape(7, 3) + best[21:]
    got = np.asarray(probe.logits(jnp.asarray(x)))
    # A constant added to every class changes no probability.
    np.testing.assert_allclose(scipy.special.softmax(got, 1), scipy.special.softmax(expected, 1), atol=2e-4)


@pytest.mark.slow
def test_a_probe_that_cannot_be_found_is_said_so():
    x, y = problem()
    with pytest.raises(JaxcnnError, match="the probe's gradient is still .* after 1 steps"):
        transfer.linear_probe(jnp.asarray(x), jnp.asarray(y), 3, steps=1)
    with pytest.raises(InputError, match=r"labels in \[0, 2\)"):
        transfer.linear_probe(jnp.asarray(x), jnp.asarray(y), 2)
    model = models.create("mlp")
    state = states.create(model, jax.random.key(0), (4, 4, 1))
    with pytest.raises(InputError, match="images have shape"):
        transfer.features(model, state, jnp.zeros((0, 4, 4, 1)))
