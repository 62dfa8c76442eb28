"""U-Net, its up-convolution, and what segmentation adds to training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.data.pipeline import Batch
from jaxcnn.errors import InputError
from jaxcnn.layers.up_convolution import UpConv
from jaxcnn.train import segmentation
from jaxcnn.train.losses import cross_entropy
from jaxcnn.train.parallel import map_train_step, replicate
from jaxcnn.train.step import AXIS, make_train_step


def logits_shape(side, **options):
    model = models.create("unet", **options)
    images = jax.ShapeDtypeStruct((1, *side, 1), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], images).shape


def test_sizes_are_the_published_ones():
    assert logits_shape((572, 572)) == (1, 388, 388, 2)
    assert logits_shape((188, 204)) == (1, 4, 20, 2)
    assert logits_shape((32, 48), padding="same") == (1, 32, 48, 2)


@pytest.mark.parametrize(
    ("side", "options", "says"),
    [
        ((570, 572), {}, "unet with valid padding got images of 570x572; expected sides of 16 n \\+ 12 pixels"),
        ((172, 188), {}, "at least 188"),
        ((64, 40), {"padding": "same"}, "unet with same padding got images of 64x40; expected sides of 16 n pixels"),
        ((64, 64), {"padding": "zero"}, "unknown padding 'zero'"),
    ],
)
def test_other_sizes_are_refused(side, options, says):
    with pytest.raises(InputError, match=says):
        logits_shape(side, **options)


def test_up_convolution_equals_pytorch(torch):
    layer = UpConv(3)
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)
    params = layer.init(jax.random.key(0), jnp.asarray(x))["params"]
    params["bias"] = jnp.arange(3.0)
    reference = torch.nn.ConvTranspose2d(6, 3, 2, stride=2)
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(np.asarray(params["kernel"]).transpose(2, 3, 0, 1)))
        reference.bias.copy_(torch.tensor(np.asarray(params["bias"])))
        expected = reference(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(layer.apply({"params": params}, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_up_convolution_starts_with_the_variance_of_its_fan_in():
    kernel = UpConv(256).init(jax.random.key(0), jnp.zeros((1, 1, 1, 512)))["params"]["kernel"]
    assert float(kernel.var()) == pytest.approx(2 / 512, rel=0.02)


@pytest.mark.slow
def test_weighted_cross_entropy_is_the_weighted_sum():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((2, 3, 4, 5)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 5, (2, 3, 4)))
    weights = jnp.asarray(rng.random((2, 3, 4)), jnp.float32)
    energy = segmentation.weighted_cross_entropy(logits, labels, weights)
    probabilities = np.asarray(jax.nn.softmax(logits))
    for n in range(2):
        expected = 0.0
        for i, j in np.ndindex(3, 4):
            expected -= weights[n, i, j] * np.log(probabilities[n, i, j, labels[n, i, j]])
        np.testing.assert_allclose(energy[n], expected, rtol=1e-5)
    plain = segmentation.weighted_cross_entropy(logits, labels, jnp.ones_like(weights))
    np.testing.assert_allclose(plain, cross_entropy(logits, labels).sum(axis=(1, 2)), rtol=1e-6)


def test_weights_between_two_objects_have_a_closed_form():
    # Everything left of column 10 and right of column 17: from column c the borders are c - 9 and 18 - c away.
    objects = np.zeros((20, 28), int)
    objects[:, :10], objects[:, 18:] = 1, 2
    weights = segmentation.weight_map(objects, (0.5, 2.0))
    column = np.arange(28)
    distances = np.abs(column - 9) + np.abs(column - 18)
    expected = np.where(objects[0] == 0, 0.5, 2.0) + 10 * np.exp(-(distances**2) / 50)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, weights.shape), rtol=1e-6)
    assert weights.dtype == np.float32


def test_weights_of_three_objects_by_search():
    objects = np.zeros((16, 18), int)
    objects[2:6, 3:7], objects[1:5, 9:15], objects[9:14, 5:12] = 1, 2, 7
    weights = segmentation.weight_map(objects, separation=4.0, sigma=3.0)
    borders = []
    for number in (1, 2, 7):
        rows, columns = np.nonzero(objects == number)
        outermost = (
            (rows == rows.min()) | (rows == rows.max()) | (columns == columns.min()) | (columns == columns.max())
        )
        borders.append(np.stack([rows[outermost], columns[outermost]], axis=1))
    for pixel in np.ndindex(objects.shape):
        nearest = sorted(np.sqrt(((border - np.array([pixel])) ** 2).sum(1)).min() for border in borders)
        expected = 1 + 4 * np.exp(-((nearest[0] + nearest[1]) ** 2) / 18)
        assert weights[pixel] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objects", [np.zeros((5, 6), int), np.ones((5, 6), int), np.eye(6, dtype=int)])
def test_fewer_than_two_objects_leave_the_class_weights(objects):
    weights = segmentation.weight_map(objects, (1.0, 3.0))
    np.testing.assert_array_equal(weights, np.where(objects == 0, 1.0, 3.0))


def test_intersection_over_union_equals_a_loop_and_leaves_absent_classes_out():
    rng = np.random.default_rng(0)
    predictions, labels = rng.choice([0, 1, 3], (2, 2, 7, 8))
    first, second = (segmentation.confusion(jnp.asarray(predictions[i]), jnp.asarray(labels[i]), 4) for i in (0, 1))
    per_class, mean = segmentation.intersection_over_union(first + second)
    expected = []
    for c in (0, 1, 3):
        found, either = (predictions == c) & (labels == c), (predictions == c) | (labels == c)
        expected.append(found.sum() / either.sum())
        assert float(per_class[c]) == pytest.approx(expected[-1])
    assert np.isnan(per_class[2])
    assert float(mean) == pytest.approx(np.mean(expected))


def disks(n, side):
    """Bright disks on a dark noisy ground, and the class of every pixel."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    centres, radii = rng.uniform(0.3 * side, 0.7 * side, (n, 2)), rng.uniform(0.15 * side, 0.3 * side, n)
    labels = np.stack([(y - cy) ** 2 + (x - cx) ** 2 < r**2 for (cy, cx), r in zip(centres, radii, strict=True)])
    images = 60 + 100 * labels + rng.normal(0, 15, labels.shape)
    return images.clip(0, 255).astype(np.uint8)[..., None], labels.astype(np.int32)


@pytest.mark.slow
def test_training_finds_the_disks():
    model = models.create("unet", features=8, padding="same", dropout=0.0, mean=(0.3,), std=(0.2,), axis_name=AXIS)
    optimizer = optax.adam(1e-3)
    state = states.create(model, jax.random.key(0), (64, 64, 1), optimizer)
    images, labels = disks(4, 64)

    weights = jnp.stack([segmentation.weight_map(y) for y in labels])

    @jax.jit
    def evaluate(state):
        logits = model.apply(state.variables, images / np.float32(255), train=False)
        loss = segmentation.weighted_cross_entropy(logits, jnp.asarray(labels), weights).mean()
        counts = segmentation.confusion(logits.argmax(-1), jnp.asarray(labels), 2)
        return loss, segmentation.intersection_over_union(counts)[1]

    loss, overlap = evaluate(state)
    devices = jax.devices()[:1]
    step = map_train_step(make_train_step(model, optimizer), devices)
    batch = Batch(jnp.asarray(images[None]), jnp.asarray(labels[None]), jnp.ones((1, 4), bool))
    state = replicate(state, devices)
    for _ in range(20):
        state, _ = step(state, batch)
    after, found = evaluate(state)
    assert after < 0.5 * loss
    assert found > max(0.8, overlap)
