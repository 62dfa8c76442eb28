"""The convolutions written by hand against autodiff, XLA, PyTorch and the numbers of the lectures."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import comparison
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.testing import assert_array_equal

from jaxcnn.analysis.summary import table
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.pooling import MaxPool
from jaxcnn.ops.convolution import (
    convolution,
    convolution_backward,
    convolution_im2col,
    convolution_library,
    full_padding,
    turn,
)
from jaxcnn.ops.im2col import dilate
from jaxcnn.ops.pooling import max_pool

assert_close = partial(comparison.assert_close, floor=1e-6)
OPS = {"definition": convolution, "im2col": convolution_im2col}
WAYS = {**OPS, "library": convolution_library}
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Case(NamedTuple):
    x: np.ndarray
    kernel: np.ndarray
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    kernel_dilation: tuple[int, ...]

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("strides", "padding", "groups", "kernel_dilation")}

    def arrays(self, dtype: Any = np.float32) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(self.x, dtype), jnp.asarray(self.kernel, dtype)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape)


@st.composite
def cases(draw: st.DrawFn, symmetric: bool = False) -> Case:
    dimensions = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(low, high)] * dimensions))

    kernel_size, strides, dilation, low = each(1, 3), each(1, 4), each(1, 3), each(0, 3)
    high = low if symmetric else each(0, 3)
    smallest = [max(1, d * (k - 1) + 1 - a - b) for k, d, a, b in zip(kernel_size, dilation, low, high, strict=True)]
    size = tuple(n + more for n, more in zip(smallest, each(0, 4), strict=True))
    groups, c, features = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    x = normal(draw(st.integers(1, 2)), *size, c * groups)
    kernel = normal(*kernel_size, c, features * groups)
    return Case(x, kernel, strides, tuple(zip(low, high, strict=True)), groups, dilation)


def library(case: Case):
    """XLA's convolution with exactly the options given."""
    size = "HW"[-len(case.strides) :]
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        case.strides,
        case.padding,
        rhs_dilation=case.kernel_dilation,
        feature_group_count=case.groups,
        dimension_numbers=(f"N{size}C", f"{size}IO", f"N{size}C"),
    )


def with_options(way, case: Case):
    return lambda x, kernel: way(x, kernel, **case.options)


def value_and_gradients(function, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    z, vjp = jax.vjp(function, *arrays)
    return z, *vjp(cotangent(z))


def cotangent(z: Any) -> jax.Array:
    return jnp.asarray(normal(3, *z.shape)[0], z.dtype)


def assert_equal_to_xla(case: Case, dtype: Any, tolerance: float) -> None:
    """Value and both gradients of both ops."""

    def everything(x, kernel):
        functions = [*(with_options(op, case) for op in OPS.values()), library(case)]
        return [value_and_gradients(function, x, kernel) for function in functions]

    *results, expected = jax.jit(everything)(*case.arrays(dtype))
    for result in results:
        assert {a.dtype for a in result} == {jnp.dtype(dtype)}
        assert_close(result, expected, tolerance)


@settings(deadline=None, max_examples=4)
@given(cases())
def test_values_and_gradients_equal_those_of_xla_in_float64(case: Case):
    with jax.enable_x64(True):
        assert_equal_to_xla(case, np.float64, 1e-10)


@settings(deadline=None, max_examples=4)
@given(cases(symmetric=True))
def test_values_and_gradients_of_all_ways_equal_those_of_torch(torch, case: Case):
    dimensions = len(case.strides)
    x = torch.tensor(np.moveaxis(case.x, -1, 1), requires_grad=True)
    kernel = torch.tensor(np.moveaxis(case.kernel, (-1, -2), (0, 1)), requires_grad=True)
    convolve = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[dimensions]
    z = convolve(x, kernel, None, case.strides, [low for low, _ in case.padding], case.kernel_dilation, case.groups)
    dz = cotangent(jax.ShapeDtypeStruct((z.shape[0], *z.shape[2:], z.shape[1]), jnp.float32))
    z.backward(torch.tensor(np.moveaxis(np.asarray(dz, np.float64), -1, 1)))
    expected = (
        np.moveaxis(z.detach().numpy(), 1, -1),
        np.moveaxis(x.grad.numpy(), 1, -1),
        np.moveaxis(kernel.grad.numpy(), (0, 1), (-1, -2)),
    )

    @jax.jit
    def all_ways(x, kernel):
        return [value_and_gradients(with_options(way, case), x, kernel) for way in WAYS.values()]

    for result in all_ways(*case.arrays()):
        assert_close(result, expected, 1e-5)


# Both leave the last padded pixel unseen.
GENERAL = {
    "1-D": Case(normal(2, 9, 4), normal(3, 2, 4), (2,), ((1, 2),), 2, (2,)),
    "2-D": Case(normal(2, 7, 6, 4), normal(3, 2, 2, 6), (2, 1), ((1, 2), (0, 1)), 2, (1, 2)),
}
every_case = pytest.mark.parametrize("case", GENERAL.values(), ids=GENERAL)


@every_op
@every_case
def test_second_order_gradients_equal_those_of_xla(op, case: Case):
    def second(function):
        x, kernel = case.arrays(np.float64)
        gradients = jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), (0, 1))

        def reverse_and_forward(*a):
            reverse = jax.grad(lambda *a: sum(jnp.sum(jnp.sin(g)) for g in gradients(*a)), (0, 1))
            return reverse(*a), jax.jvp(gradients, a, (jnp.cos(x), jnp.cos(kernel)))[1]

        return jax.jit(reverse_and_forward)(x, kernel)

    with jax.enable_x64(True):
        assert_close(second(with_options(op, case)), second(library(case)), 1e-10)


@every_op
def test_vmap_equals_a_loop_over_inputs_kernels_and_their_gradients(op):
    case = GENERAL["2-D"]
    gradients = jax.jit(lambda *a: value_and_gradients(with_options(op, case), *a))
    x, kernel = case.arrays()
    xs, kernels = jnp.stack([x, jnp.sin(x)]), jnp.stack([kernel, jnp.sin(kernel)], 1)
    for inputs, axes in ((xs, (0, 1)), (x, (None, 1))):
        actual = jax.vmap(gradients, axes)(inputs, kernels)
        expected = [gradients(xs[i] if axes[0] == 0 else x, kernels[:, i]) for i in range(2)]
        assert_close(actual, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected), 1e-5)


@every_op
def test_half_precision_is_rounded_once_where_partial_sums_would_lose_digits(op):
    case = GENERAL["2-D"]
    half = tuple(a.astype(jnp.bfloat16) for a in case.arrays())
    actual = jax.jit(lambda *a: value_and_gradients(with_options(op, case), *a))(*half)
    assert {a.dtype for a in actual} == {jnp.dtype(jnp.bfloat16)}
    z, vjp = jax.vjp(library(case), *(a.astype(jnp.float32) for a in half))
    expected = z, *vjp(cotangent(actual[0]).astype(jnp.float32))
    # bfloat16 keeps 8 bits. The products of im2col are rounded before col2im adds them up.
    assert_close(actual, expected, 2**-8 if op is convolution else 2**-7)


@every_op
@every_case
def test_backward_by_hand_equals_autodiff_of_forward(op, case: Case):
    @jax.jit
    def by_hand_and_autodiff(x, kernel):
        z, saved = op.forward(x, kernel, **case.options)
        by_hand = z, *op.backward(saved, cotangent(z), **case.options)
        return by_hand, value_and_gradients(lambda *a: op.forward(*a, **case.options)[0], x, kernel)

    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-10)):
            by_hand, autodiff = by_hand_and_autodiff(*case.arrays(dtype))
            assert_close(by_hand, autodiff, tolerance)


@every_way
def test_one_number_serves_every_dimension(way):
    x, kernel = jnp.asarray(normal(1, 8, 9, 2), jnp.float32), jnp.asarray(normal(2, 3, 2, 1), jnp.float32)
    written_out = way(x, kernel, strides=(2, 2), padding=((1, 1), (1, 1)), kernel_dilation=(2, 2))
    assert_array_equal(way(x, kernel, strides=2, padding=1, kernel_dilation=2), written_out)


EDGES = {
    "one pixel": Case(normal(2, 1, 1, 3), normal(1, 1, 3, 2), (1, 1), ((0, 0), (0, 0)), 1, (1, 1)),
    "one pixel, one dimension": Case(normal(2, 1, 3), normal(1, 3, 2), (5,), ((0, 0),), 1, (3,)),
    "one pixel amid padding": Case(normal(2, 1, 1, 3), normal(3, 3, 3, 2), (1, 1), ((1, 1), (1, 1)), 1, (1, 1)),
    "kernel of the padded input's size": Case(
        normal(2, 3, 2, 2), normal(5, 4, 2, 3), (1, 2), ((1, 1), (2, 0)), 1, (1, 1)
    ),
    "more padding than kernel": Case(normal(2, 2, 1, 2), normal(1, 2, 2, 3), (1, 1), ((3, 2), (4, 0)), 1, (1, 1)),
    "pixels unseen": Case(normal(2, 9, 8, 2), normal(2, 1, 2, 3), (4, 3), ((0, 0), (0, 1)), 1, (1, 1)),
    "only padding seen": Case(normal(2, 1, 2, 2), normal(1, 1, 2, 3), (7, 1), ((5, 0), (0, 3)), 1, (1, 1)),
    "depthwise": Case(normal(2, 5, 4, 6), normal(2, 3, 1, 6), (1, 1), ((0, 0), (1, 1)), 6, (1, 1)),
    "empty batch": Case(normal(0, 5, 4, 2), normal(2, 3, 2, 3), (1, 1), ((0, 0), (1, 1)), 1, (1, 1)),
}


@pytest.mark.parametrize("case", (GENERAL | EDGES).values(), ids=GENERAL | EDGES)
def test_values_and_gradients_equal_those_of_xla_in_float32(case: Case):
    assert_equal_to_xla(case, np.float32, 1e-5)


@every_way
def test_pixels_that_a_stride_larger_than_the_kernel_skips_get_no_gradient(way):
    x, kernel = jnp.asarray(normal(1, 8, 8, 1), jnp.float32), jnp.ones((1, 2, 1, 1))
    dx = jax.grad(lambda x: jnp.sum(way(x, kernel, strides=(3, 4))))(x)
    seen = np.outer([1, 0, 0, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1, 0, 0])
    assert_array_equal(dx[0, :, :, 0], seen)


def picture(*rows: str | tuple[float, ...]) -> jax.Array:
    """Rows of numbers, or of digits, as one image of one channel."""
    return jnp.asarray([[float(v) for v in row] for row in rows], jnp.float32)[None, :, :, None]


def filters(*rows: tuple[float, ...]) -> jax.Array:
    return jnp.asarray(rows, jnp.float32)[:, :, None, None]


STEP = picture(*[(10, 10, 10, 0, 0, 0)] * 6)
DIGITS = picture("100001", "010010", "001100", "100010", "010010", "001010")
SEVEN = picture("3012274", "1589931", "2725513", "0131178", "4216628", "2452239", "1345783")
SCANNED = picture("11100", "01110", "00111", "00110", "01100")
PREWITT = filters((1, 1, 1), (0, 0, 0), (-1, -1, -1))
DIAGONAL = filters((1, -1, -1), (-1, 1, -1), (-1, -1, 1))
ON_DIGITS = [[3, -1, -3, -1], [-3, 1, 0, -3], [-3, -3, 0, 1], [3, -2, -2, -1]]
MIDDLE = [[-1, -1, -1, -1], [-1, -1, -2, 1], [-1, -1, -2, 1], [-1, 0, -4, 3]]
EXAMPLES = {
    "vertical edge": (STEP, filters(*[(1, 0, -1)] * 3), 1, [[0, 30, 30, 0]] * 4),
    "horizontal edge": (STEP.swapaxes(1, 2), PREWITT, 1, [[0] * 4, [30] * 4, [30] * 4, [0] * 4]),
    "stride 2": (SEVEN, filters((0, 0, 0), (1, 0, 2), (-1, 0, 1)), 2, [[17, 29, 9], [3, 10, 19], [15, 12, 16]]),
    "scanning": (SCANNED, filters((1, 0, 1), (0, 1, 0), (1, 0, 1)), 1, [[4, 3, 4], [2, 4, 3], [2, 3, 4]]),
    "diagonal filter": (DIGITS, DIAGONAL, 1, ON_DIGITS),
    "diagonal filter, stride 2": (DIGITS, DIAGONAL, 2, [[3, -3], [-3, 0]]),
    "filter of a middle column": (DIGITS, filters(*[(-1, 1, -1)] * 3), 1, MIDDLE),
}


@every_way
@pytest.mark.parametrize(("x", "kernel", "stride", "expected"), EXAMPLES.values(), ids=EXAMPLES)
def test_worked_examples(way, x, kernel, stride, expected):
    assert_array_equal(way(x, kernel, strides=stride)[0, :, :, 0], expected)


@every_way
def test_sums_and_gradients_of_a_2x2_kernel_on_a_3x3_input_written_out(way):
    x, f, dz = normal(3, 3), normal(2, 2), normal(9, 2, 2)[0]
    (x11, x12, x13), (x21, x22, x23), (x31, x32, x33) = x
    (f11, f12), (f21, f22) = f
    (d11, d12), (d21, d22) = dz
    z = [
        [f11 * x11 + f12 * x12 + f21 * x21 + f22 * x22, f11 * x12 + f12 * x13 + f21 * x22 + f22 * x23],
        [f11 * x21 + f12 * x22 + f21 * x31 + f22 * x32, f11 * x22 + f12 * x23 + f21 * x32 + f22 * x33],
    ]
    df = [
        [x11 * d11 + x12 * d12 + x21 * d21 + x22 * d22, x12 * d11 + x13 * d12 + x22 * d21 + x23 * d22],
        [x21 * d11 + x22 * d12 + x31 * d21 + x32 * d22, x22 * d11 + x23 * d12 + x32 * d21 + x33 * d22],
    ]
    dx = [
        [f11 * d11, f12 * d11 + f11 * d12, f12 * d12],
        [f21 * d11 + f11 * d21, f22 * d11 + f21 * d12 + f12 * d21 + f11 * d22, f22 * d12 + f12 * d22],
        [f21 * d21, f22 * d21 + f21 * d22, f22 * d22],
    ]
    with jax.enable_x64(True):
        image, kernel = jnp.asarray(x)[None, :, :, None], jnp.asarray(f)[:, :, None, None]
        value, vjp = jax.vjp(way, image, kernel)
        dimage, dkernel = vjp(jnp.asarray(dz)[None, :, :, None])
        actual = value[0, :, :, 0], dkernel[:, :, 0, 0], dimage[0, :, :, 0]
        assert_close(actual, tuple(np.asarray(v) for v in (z, df, dx)), 1e-12)


def test_gradients_are_the_convolutions_that_the_lecture_names():
    x, f, dz = picture("123", "456", "789"), filters((1, 2), (3, 4)), picture("12", "34")
    dx, df = convolution_backward((x, f), dz)
    assert_array_equal(df[:, :, 0, 0], convolution_library(x, dz[0, :, :, :, None])[0, :, :, 0])
    full = full_padding((2, 2), ((0, 0), (0, 0)), (1, 1))
    assert full == ((1, 1), (1, 1))
    assert_array_equal(dx, convolution_library(dz, turn(f), padding=full))


def test_the_pieces_of_the_backward_pass():
    assert_array_equal(dilate(picture("12", "34"), (2, 3))[0, :, :, 0], [[1, 0, 0, 2], [0, 0, 0, 0], [3, 0, 0, 4]])
    kernel = jnp.arange(12.0).reshape(2, 3, 2, 1)
    assert_array_equal(turn(kernel)[:, :, 0, 0], [[10, 8, 6], [4, 2, 0]])
    assert_array_equal(turn(kernel)[:, :, 1], turn(kernel)[:, :, 0] + 1)
    assert full_padding((3, 2), ((1, 0), (0, 4)), (2, 1)) == ((3, 4), (1, -3))


class Sequence(nn.Module):
    layers: tuple[nn.Module, ...]

    def __call__(self, images, *, train):
        for layer in self.layers:
            images = layer(images)
        return images


@every_way
def test_sizes_and_weights_of_the_lecture_networks(way):
    def by_hand(network: Sequence, size: tuple[int, int, int]) -> list[tuple[int, ...]]:
        """The sizes of one image through `way` with the kernels of the network, and through `max_pool`."""

        def sizes(key):
            x = jnp.zeros((1, *size))
            params = network.init(key, x, train=False)["params"]
            maps = [x]
            for i, layer in enumerate(network.layers):
                pooled = isinstance(layer, MaxPool)
                maps.append(max_pool(maps[-1], window=2) if pooled else way(maps[-1], params[f"layers_{i}"]["kernel"]))
            return maps

        return [x.shape[1:] for x in jax.eval_shape(sizes, jax.random.key(0))]

    one = Sequence((Conv(100, 3),))
    assert table(one, (100, 100, 3)).totals.parameters == 2_800
    assert by_hand(one, (100, 100, 3)) == [(100, 100, 3), (98, 98, 100)]

    two = Sequence((Conv(20, 5), MaxPool(2), Conv(50, 3), MaxPool(2)))
    rows, expected = table(two, (28, 28, 1)), [(28, 28, 1), (24, 24, 20), (12, 12, 20), (10, 10, 50), (5, 5, 50)]
    assert rows[3].weights == 50 * 180
    assert [row.output_shape for row in rows] == expected
    assert by_hand(two, (28, 28, 1)) == expected
