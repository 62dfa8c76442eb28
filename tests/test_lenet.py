"""LeNet-5's options: kernels that are factorised, and batch norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models, state
from jaxcnn.analysis import summary
from jaxcnn.errors import InputError

# Weights and biases of C3 and C5, of what comes before them in each form, and of C1, F6 and the output.
COUNTS = {
    "5x5": (25 * 6 + 1) * 16 + (25 * 16 + 1) * 120,
    "3x3": (9 * 6 + 1) * 6 + (9 * 6 + 1) * 16 + (9 * 16 + 1) * 16 + (9 * 16 + 1) * 120,
    "1x5": (5 * 6 + 1) * 6 + (5 * 6 + 1) * 16 + (5 * 16 + 1) * 16 + (5 * 16 + 1) * 120,
}
REST = 156 + 121 * 84 + 85 * 10


@pytest.mark.parametrize("kernels", COUNTS)
def test_factorised_kernels_see_the_same_pixels_with_fewer_weights(kernels):
    model = models.create("lenet5", num_classes=10, kernels=kernels)
    table = summary.table(model, (28, 28, 1))
    assert table.totals.parameters == COUNTS[kernels] + REST
    rows = {row.name: row for row in table.layers}
    assert rows["c3"].output_shape == (10, 10, 16)
    assert rows["c5"].output_shape == (1, 1, 120)
    assert rows["c5"].receptive_field == (32, 32)


def test_batch_norm_stands_before_every_activation():
    model = models.create("lenet5", num_classes=10, batch_norm=True, kernels="3x3")
    one = state.create(model, jax.random.key(0), (28, 28, 1))
    layers = ["c1", "c3_3x3", "c3", "c5_3x3", "c5", "f6"]
    assert set(one.batch_stats) == {f"{layer}_norm" for layer in layers}
    images = jax.random.uniform(jax.random.key(1), (8, 28, 28, 1))
    _, seen = model.apply(
        one.variables, images, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True
    )
    for layer in layers:
        out = np.asarray(seen["intermediates"][f"{layer}_norm"]["__call__"][0])
        np.testing.assert_allclose(out.mean(tuple(range(out.ndim - 1))), 0, atol=1e-4)


def test_unknown_kernels_are_refused():
    model = models.create("lenet5", num_classes=10, kernels="7x7")
    with pytest.raises(InputError, match="unknown kernels '7x7'"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False))


def test_a_narrow_googlenet_has_its_filters_in_proportion():
    for name in ("googlenet_2014", "inception_naive"):
        narrow = summary.table(models.create(name, num_classes=10, width=0.125), (32, 32, 3))
        channels = {row.name: row.output_shape[-1] for row in narrow.layers}
        assert channels["inception3a/conv1x1"] == 8
        assert channels["inception5b/conv3x3"] == 48
    with pytest.raises(InputError, match="width is 0.01; expected at least 1/16"):
        models.create("googlenet", num_classes=10, width=0.01)
