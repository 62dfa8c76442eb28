"""Receptive fields against the pixels that matter, the strongest patches against a sort of all images, their figure."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_figures import check_legible, picture, words

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import summary
from jaxcnn.analysis.activations import activations, layers
from jaxcnn.analysis.patches import GREY, box, receptive_fields, top_patches
from jaxcnn.errors import InputError, RunError
from jaxcnn.figures import style
from jaxcnn.figures.patches import patches as draw
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.layers.up_convolution import UpConv

POSITIVE = nn.initializers.constant(0.1)


class Block(nn.Module):
    """A module that holds others and convolves outside of any."""

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(2, (3, 2), (2, 1), "SAME", use_bias=False, kernel_init=POSITIVE, name="conv")(x)
        return nn.relu(nn.max_pool(y, (2, 3), (1, 2), "SAME"))


class Positive(nn.Module):
    """Positive weights and no biases: an activation answers to every pixel that it can see."""

    kind: str

    @nn.compact
    def __call__(self, images, *, train):
        conv = partial(Conv, 2, use_bias=False, kernel_init=POSITIVE)
        x = images
        if self.kind == "strides and padding":
            x = MaxPool(3, 2, padding=1, name="pool")(conv(3, 2, 1, name="conv1")(x))
            x = nn.relu(conv((1, 5), padding=((0, 0), (4, 2)), name="conv2")(x))
            x = AveragePool(2, 1, name="average")(x)
        elif self.kind == "flax":
            x = Block(name="block")(x)
            conv = partial(nn.Conv, 2, use_bias=False, kernel_init=POSITIVE)
            x = nn.avg_pool(conv((2, 2), padding="VALID", kernel_dilation=(1, 3), name="dilated")(x), (2, 2))
            x = conv((1, 1), name="last")(x)
        elif self.kind == "transposed":
            x = conv(3, 3, name="conv")(x)
            x = nn.ConvTranspose(2, (3, 2), (2, 3), use_bias=False, kernel_init=POSITIVE, name="flax")(x)
            x = UpConv(2, POSITIVE, name="up")(x)
        elif self.kind == "branches":
            wide = conv(5, padding=2, name="wide")(x)
            x = jnp.concatenate([conv(1, name="narrow")(x), wide], -1)
            x = AdaptiveAveragePool((5, 4), name="adaptive")(x)
        elif self.kind == "gated":
            gate = nn.Dense(2, use_bias=False, kernel_init=POSITIVE, name="gate")(GlobalAveragePool(name="mean")(x))
            x = conv(3, name="last")(conv(3, name="conv")(x) * gate.reshape(-1, 1, 1, 2))
        return nn.Dense(3, name="head", use_bias=False, kernel_init=POSITIVE)(x.reshape(len(x), -1))


SHAPE = (11, 13, 1)


def edges(seen: np.ndarray) -> list[tuple[int, ...]]:
    """The box around the true values of each of several arrays [h, w]; all zeros where there are none."""
    boxes = []
    for mask in seen:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if len(rows) else (0, 0, 0, 0))
    return boxes


@pytest.mark.parametrize("kind", ["strides and padding", "flax", "transposed", "branches", "gated"])
def test_every_position_sees_exactly_the_pixels_that_change_it(kind):
    model = Positive(kind)
    state = states.create(model, jax.random.key(0), SHAPE)
    height, width, _ = SHAPE
    images = np.full((1 + height * width, *SHAPE), 0.01, np.float32)
    images.reshape(len(images), -1)[range(1, len(images)), range(height * width)] = (
        1.0  # above whatever else a window holds
    )
    known, fields = layers(model, state, SHAPE), receptive_fields(model, SHAPE)
    assert list(fields) == list(known)
    for layer, shape in known.items():
        answers = np.asarray(activations(model, state, images, layer)).reshape(len(images), -1, shape[-1]).sum(-1)
        seen = (answers[1:] != answers[:1]).T.reshape(-1, height, width)
        positions = [divmod(i, shape[1]) if len(shape) == 3 else (0, 0) for i in range(len(seen))]
        found = [box(fields[layer], *position, (height, width)) for position in positions]
        empty = [i for i, (top, left, bottom, right) in enumerate(found) if bottom == top or right == left]
        assert [found[i] if i not in empty else (0, 0, 0, 0) for i in range(len(found))] == edges(seen), layer
        for position in positions:  # the same box, but for the padding
            whole, inside = box(fields[layer], *position), box(fields[layer], *position, (height, width))
            assert tuple(np.clip(whole, 0, (height, width) * 2))[:2] == inside[:2]


LENET = models.create("lenet5", num_classes=10)
LENET_SHAPE = (28, 28, 1)
LENET_STATE = states.create(LENET, jax.random.key(0), LENET_SHAPE)


@partial(jax.jit, static_argnums=1)
def sensitivity(image, layer, row, column):
    """Of a sum over the units of one position, to every pixel, by automatic differentiation."""

    def answer(image):
        outputs: Any = LENET.apply(
            LENET_STATE.variables, image[None], train=False, capture_intermediates=True, mutable=["intermediates"]
        )[1]
        return jnp.abs(outputs["intermediates"][layer]["__call__"][0][0, row, column]).sum()

    return jnp.abs(jax.grad(answer)(image)).sum(-1)


@given(layer=st.sampled_from(["c1", "s2", "c3", "s4"]), place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)))
@example("s4", (0.0, 0.999))
@settings(deadline=None, max_examples=4)
def test_lenet_s_gradient_is_zero_outside_of_the_box_and_not_on_its_border(layer, place):
    height, width, _ = layers(LENET, LENET_STATE, LENET_SHAPE)[layer]
    row, column = int(place[0] * height), int(place[1] * width)
    image = jax.random.uniform(jax.random.key(1), LENET_SHAPE)
    seen = np.asarray(sensitivity(image, layer, row, column)) != 0
    assert edges(seen[None]) == [box(receptive_fields(LENET, LENET_SHAPE)[layer], row, column, (28, 28))]


ZOO = ["squeezenet1_0", "cifar_resnet20", "unet", "shufflenet_v2_x1_0", "googlenet"]


@pytest.mark.parametrize(
    "name", [*ZOO, *(pytest.param(n, marks=pytest.mark.slow) for n in models.names() if n not in ZOO)]
)
def test_the_rows_of_the_summary_have_the_same_fields(name):
    model, shape = models.create(name), models.facts(name).input_shape
    fields = receptive_fields(model, shape)
    rows = {row.name: row for row in summary.table(model, shape) if row.receptive_field and row.kind != "input"}
    assert rows.keys() <= fields.keys()
    for layer, row in rows.items():
        assert (fields[layer].reach[0].size, fields[layer].reach[1].size) == row.receptive_field


# ---- the strongest patches


class Small(nn.Module):
    """Whole-numbered weights on pixels of few levels: many activations are equal."""

    @nn.compact
    def __call__(self, images, *, train):
        x = Conv(3, 3, 2, 1, name="conv")(images)
        x = nn.relu(Conv(4, 2, name="second")(x))
        return nn.Dense(5, name="head")(x.reshape(len(x), -1))


def whole_numbers(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(rng.integers(-1, 2, a.shape), jnp.float32), tree)


SMALL, SMALL_SHAPE = Small(), (6, 7, 3)
SMALL_STATE = states.create(SMALL, jax.random.key(0), SMALL_SHAPE)
SMALL_STATE = SMALL_STATE.replace(params=whole_numbers(SMALL_STATE.params))
POOL = np.random.default_rng(1).integers(0, 3, (40, *SMALL_SHAPE)).astype(np.float32) / 2
FIELDS = receptive_fields(SMALL, SMALL_SHAPE)


def split(images, size):
    return [images[start : start + size] for start in range(0, len(images), size)]


def sorted_by_hand(images, layer, unit, k):
    """(value, image, position) of the k strongest images: all of them sorted."""
    maps = np.asarray(activations(SMALL, SMALL_STATE, images, layer))[..., unit].reshape(len(images), -1)
    width = layers(SMALL, SMALL_STATE, SMALL_SHAPE)[layer][1] if layer != "head" else 1
    best = sorted(((-float(row.max()), i, int(row.argmax())) for i, row in enumerate(maps)))[:k]
    return [(-value, image, divmod(where, width)) for value, image, where in best]


@given(
    layer=st.sampled_from(["conv", "second", "head"]),
    count=st.integers(1, 25),
    start=st.integers(0, 15),
    k=st.integers(1, 12),
    size=st.integers(1, 25),
    chunk=st.sampled_from([1, 4, None]),
    units=st.sampled_from([None, (2,), (1, 0)]),
)
@settings(deadline=None, max_examples=4)
def test_the_patches_are_the_first_of_all_images_sorted(layer, count, start, k, size, chunk, units):
    images = POOL[start : start + count]
    found = top_patches(SMALL, SMALL_STATE, split(images, size), layer, units, k=k, chunk=chunk)
    chosen = range(layers(SMALL, SMALL_STATE, SMALL_SHAPE)[layer][-1]) if units is None else units
    assert found.values.shape == (len(chosen), min(k, count))
    border = 9
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), constant_values=GREY)
    for row, unit in enumerate(chosen):
        for column, (value, image, position) in enumerate(sorted_by_hand(images, layer, unit, k)):
            assert found.values[row, column] == pytest.approx(value, abs=1e-5)
            assert found.indices[row, column] == image
            assert tuple(found.positions[row, column]) == position
            top, left, bottom, right = box(FIELDS[layer], *position)
            assert tuple(found.boxes[row, column]) == (top, left, bottom, right)
            if layer == "conv":
                expected = padded[image, border + top : border + bottom, border + left : border + right]
                assert expected.shape == (3, 3, 3)
            elif layer == "second":  # sees 5x5 of 6x7
                expected = padded[image, border + top : border + bottom, border + left : border + right]
                assert expected.shape == (5, 5, 3)
            else:
                expected = images[image]
            np.testing.assert_array_equal(found.patches[row, column], expected)
    assert found.receptive_field == (FIELDS[layer].reach[0].size, FIELDS[layer].reach[1].size)


class Wide(nn.Module):
    """Sees 9x3 of images of 6x7, never all of their rows."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(2)(Conv(1, (9, 3), padding=((6, 2), (1, 1)), name="conv")(images).mean((1, 2)))


def test_a_field_higher_than_the_image_shows_the_rows_it_sees_in_their_places():
    model = Wide()
    state = states.create(model, jax.random.key(0), SMALL_SHAPE)
    found = top_patches(model, state, [POOL], "conv", k=40)
    assert found.receptive_field == (9, 3)
    assert found.patches.shape == (1, 40, 6, 3, 3)
    assert len({*found.positions[0, :, 0]}) > 1
    padded = np.pad(POOL, ((0, 0), (0, 0), (1, 1), (0, 0)), constant_values=GREY)
    for image, (row, column), patch in zip(found.indices[0], found.positions[0], found.patches[0], strict=True):
        expected = padded[image, :, column : column + 3].copy()
        expected[: max(row - 6, 0)] = expected[row + 3 :] = GREY
        np.testing.assert_array_equal(patch, expected)


class Dark(nn.Module):
    """Answers strongest where it sees padding alone, on every side of the image."""

    @nn.compact
    def __call__(self, images, *, train):
        kernel = nn.initializers.constant(-1.0)
        for axis, name in enumerate(("rows", "columns")):
            sides = ((4, 4), (0, 0)) if axis == 0 else ((0, 0), (0, 5))
            images = Conv(1, 2, padding=sides, kernel_init=kernel if axis == 0 else nn.initializers.ones, name=name)(
                images
            )
        return nn.Dense(2, name="head")(images.reshape(len(images), -1))


def test_a_patch_of_padding_alone_is_grey():
    model = Dark()
    state = states.create(model, jax.random.key(0), SMALL_SHAPE)
    found = top_patches(model, state, [POOL[:3]], "columns", k=1)
    top, _, bottom, _ = found.boxes[0, 0]
    assert bottom <= 0 or top >= 6
    np.testing.assert_array_equal(found.patches, np.full((1, 1, 3, 3, 3), GREY))
    assert box(receptive_fields(model, SMALL_SHAPE)["columns"], 0, 0, (6, 7)) == (0, 0, 0, 3)
    assert box(receptive_fields(model, SMALL_SHAPE)["columns"], 12, 9, (6, 7)) == (6, 7, 6, 7)


@pytest.mark.slow
def test_the_stream_is_read_batch_by_batch_and_forgotten():
    alive = []

    def stream():
        for images in split(POOL, 4):
            alive.append(sum(reference() is not None for reference in references))
            batch = images.copy()
            references.append(weakref.ref(batch))
            yield batch
            del batch

    references: list[weakref.ref] = []
    found = top_patches(SMALL, SMALL_STATE, stream(), "second", k=3)
    assert len(alive) == 10
    assert max(alive) <= 1
    gc.collect()
    assert not any(reference() is not None for reference in references)
    np.testing.assert_array_equal(found.patches, top_patches(SMALL, SMALL_STATE, [POOL], "second", k=3).patches)


def test_one_program_serves_batches_of_all_sizes():
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            traces.append(images.shape[0])
            return nn.Dense(2, name="head")(images.reshape(len(images), -1))

    model = Counted()
    state = states.create(model, jax.random.key(0), SMALL_SHAPE)
    traces.clear()
    top_patches(model, state, [POOL[:7], POOL[7:9], POOL[9:30]], "head", chunk=5)
    assert [count for count in traces if count != 1] == [5]


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([POOL], {"k": 0}, "k is 0; expected at least 1"),
        ([POOL], {"chunk": 0}, "chunk is 0; expected at least 1"),
        ([POOL], {"layer": "secnd"}, "unknown layer 'secnd'; did you mean second"),
        ([POOL], {"units": (0, 4)}, r"units are \(0, 4\); expected integers in \[0, 4\), as second has"),
        ([POOL], {"units": (-1,)}, r"units are \(-1,\); expected"),
        ([POOL], {"units": ()}, r"units are \(\); expected"),
        ([POOL], {"units": np.array([0.5])}, r"units are \[0.5\]; expected integers"),
        ([], {}, "the stream holds no images"),
        ([POOL, POOL[:, :5]], {}, r"images 40 and on have shape \(5, 7, 3\); expected \(6, 7, 3\)"),
        ([POOL * 255], {}, r"images hold values from 0 to 255; expected values in \[0, 1\]"),
        ([POOL[0]], {}, r"images have shape \(6, 7, 3\); expected \[N, H, W, C\]"),
        ([POOL[:0]], {}, r"images have shape \(0, 6, 7, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(batches, options, message):
    with pytest.raises(InputError, match=message):
        top_patches(SMALL, SMALL_STATE, batches, **{"layer": "second"} | options)


def test_activations_that_are_not_finite_are_refused():
    broken = SMALL_STATE.replace(params=jax.tree.map(lambda a: a.at[..., 0].set(jnp.nan), SMALL_STATE.params))
    with pytest.raises(RunError, match="conv gives NaN or infinity for image 0"):
        top_patches(SMALL, broken, [POOL], "conv")


class Tokens(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, images, *, train):
        n, h, w, c = images.shape
        if self.kind == "tokens":
            x = nn.Dense(4, name="layer")(images.reshape(n, h * w, c))
        else:
            x = nn.Dense(4, name="layer")(images.swapaxes(1, 2))
        return x.mean(tuple(range(1, x.ndim - 1)))


@pytest.mark.parametrize("kind", ["tokens", "turned"])
def test_a_layer_that_is_no_map_of_the_image_is_refused(kind):
    model = Tokens(kind)
    state = states.create(model, jax.random.key(0), SMALL_SHAPE)
    with pytest.raises(InputError, match=r"layer has the output \(.*\); expected \(h, w, units\) or \(units,\)"):
        top_patches(model, state, [POOL], "layer")


# ---- the figure

rng = np.random.default_rng(0)
TEXTS = {
    "layer": "squeezenet1_0, fire9/expand3x3",
    "receptive_field": (143, 143),
    "source": "9,999 images of the test split",
}


@given(
    units=st.integers(1, 6),
    k=st.integers(1, 12),
    side=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    largest=st.sampled_from([1e-7, 1.0, 12345.678]),
    width=st.sampled_from([style.COLUMN, style.PAGE]),
)
@settings(deadline=None, max_examples=6)
def test_a_figure_shows_every_patch_and_says_what_they_are(units, k, side, largest, width):
    images = rng.random((units, k, *side, 3), np.float32)
    values = -np.sort(-largest * rng.normal(size=(units, k)))
    figure = draw(images, values, range(500, 500 + units), **TEXTS, width=width)
    check_legible(figure)
    assert figure.get_figwidth() == width
    shown = np.stack([picture(axes) for axes in figure.axes]).reshape(images.shape)
    np.testing.assert_array_equal(shown, images)
    assert all(spine.get_visible() for axes in figure.axes for spine in axes.spines.values())
    text = " ".join(" ".join(words(figure)).split())
    assert f"the {k} of 9,999 images of the test split that each unit answers to strongest" in text
    assert "143×143 pixels" in text  # noqa: RUF001
    for row in range(units):
        strongest = f"{values[row, 0]:.0f}" if abs(values[row, 0]) >= 1000 else style.number(values[row, 0])
        assert f"unit {500 + row} {strongest.replace('-', '−')}" in text  # noqa: RUF001


@pytest.mark.parametrize(
    ("images", "values", "message"),
    [
        (np.zeros((2, 3, 4, 4, 1)), np.zeros((2, 2)), r"patches have shape \(2, 3, 4, 4, 1\), values \(2, 2\)"),
        (np.zeros((3, 4, 4, 1)), np.zeros((3, 4)), "expected"),
        (np.zeros((1, 3, 4, 4, 1)), np.zeros((1, 3)), "there are 2 units"),
        (np.zeros((2, 3, 4, 4, 2)), np.zeros((2, 3)), "1 or 3 channels"),
        (np.full((2, 3, 4, 4, 1), 2.0), np.zeros((2, 3)), "values from 2 to 2"),
        (np.zeros((2, 3, 4, 4, 1)), np.full((2, 3), np.nan), "values hold NaN"),
    ],
)
def test_a_figure_of_what_does_not_fit_is_refused(images, values, message):
    with pytest.raises(InputError, match=message):
        draw(images, values, [0, 1], **TEXTS)
