"""The convolution against XLA's own and PyTorch's, under every transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcnn.errors import InputError
from jaxcnn.layers.convolution import Conv, compiler_options, convolve

Pair = tuple[int, int]


class Case(NamedTuple):
    x: jax.Array
    kernel: jax.Array
    strides: Pair
    padding: tuple[Pair, Pair]
    groups: int
    kernel_dilation: Pair

    @property
    def options(self) -> dict[str, Any]:
        names = ("strides", "padding", "groups", "kernel_dilation")
        return {name: getattr(self, name) for name in names}


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def cases(draw: st.DrawFn, asymmetric: bool = True) -> Case:
    kernel_size, dilation, strides = draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(1, 3))
    padding = draw(st.tuples(pairs(0, 5), pairs(0, 5)))
    if not asymmetric:
        padding = ((padding[0][0],) * 2, (padding[1][0],) * 2)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]
    size = tuple(max(1, s - sum(p)) + draw(st.integers(0, 5)) for s, p in zip(spans, padding, strict=True))
    groups, (inputs, outputs) = draw(st.integers(1, 3)), draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 2)]))
    x = normal((draw(st.integers(1, 3)), *size, inputs * groups))
    return Case(x, normal((*kernel_size, inputs, outputs * groups)), strides, padding, groups, dilation)


def normal(shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers; from NumPy, which compiles nothing for every new shape."""
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape, np.float32))


def reference(case: Case):
    """XLA's own convolution with the case's geometry, as a function of input and kernel."""
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        case.strides,
        case.padding,
        rhs_dilation=case.kernel_dilation,
        feature_group_count=case.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def small_case(groups: int = 1, inputs: int = 2, outputs: int = 3) -> Case:
    return Case(
        normal((8, 9, 7, inputs * groups)),
        normal((3, 2, inputs, outputs * groups)),
        (2, 1),
        ((1, 2), (0, 1)),
        groups,
        (1, 2),
    )


def loss(case: Case, function=None):
    """A scalar function of input and kernel that is not linear in the output."""
    function = function or ours(case)
    return lambda x, kernel: jnp.mean(jnp.tanh(function(x, kernel)) ** 3)


def ours(case: Case):
    return lambda x, kernel: convolve(x, kernel, **case.options)


@settings(deadline=None, max_examples=5)
@given(cases())
def test_output_gradients_and_forward_mode_equal_those_of_xla(case: Case):
    def everything(function):
        def of(x, kernel):
            y, vjp = jax.vjp(function, x, kernel)
            tangent = jax.jvp(function, (x, kernel), (jnp.cos(x), jnp.cos(kernel)))[1]
            return y, vjp(jnp.cos(y)), tangent

        return jax.jit(of)(case.x, case.kernel)

    assert_close(everything(ours(case)), everything(reference(case)))


@settings(deadline=None, max_examples=10)
@given(cases(asymmetric=False))
def test_output_and_gradients_equal_those_of_torch(torch, case: Case):
    x = torch.tensor(np.asarray(case.x).transpose(0, 3, 1, 2), requires_grad=True)
    kernel = torch.tensor(np.asarray(case.kernel).transpose(3, 2, 0, 1), requires_grad=True)
    padding = (case.padding[0][0], case.padding[1][0])
    y = torch.nn.functional.conv2d(x, kernel, None, case.strides, padding, case.kernel_dilation, case.groups)
    cotangent = np.asarray(normal(tuple(y.shape)))
    y.backward(torch.tensor(cotangent))

    @jax.jit
    def actual(x, kernel, cotangent):
        y, vjp = jax.vjp(ours(case), x, kernel)
        return y, *vjp(cotangent)

    y, dx, dkernel = (v.detach().numpy() for v in (y, x.grad, kernel.grad))
    expected = (y.transpose(0, 2, 3, 1), dx.transpose(0, 2, 3, 1), dkernel.transpose(2, 3, 1, 0))
    assert_close(actual(case.x, case.kernel, cotangent.transpose(0, 2, 3, 1)), expected)


SPECIAL = {
    "dense": small_case(),
    "grouped": small_case(2),
    "depthwise": small_case(3, 1, 1),
    "1x1": Case(normal((2, 5, 4, 3)), normal((1, 1, 3, 2)), (1, 1), ((0, 0), (0, 0)), 1, (1, 1)),
    "1x1, strided": Case(normal((2, 5, 4, 3)), normal((1, 1, 3, 2)), (2, 1), ((0, 0), (0, 0)), 1, (1, 1)),
    "kernel of the input's size": Case(normal((2, 5, 4, 3)), normal((5, 4, 3, 2)), (2, 3), ((0, 0), (0, 0)), 1, (1, 1)),
}


@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_second_order_gradients_equal_those_of_xla(case: Case):

    def penalty(function):
        def of_gradients(x, kernel):
            return sum(jnp.sum(jnp.sin(100 * g)) for g in jax.grad(function, (0, 1))(x, kernel))

        return jax.jit(jax.value_and_grad(of_gradients, (0, 1)))(case.x, case.kernel)

    assert_close(penalty(loss(case)), penalty(loss(case, reference(case))), 1e-4)


def test_hessian_vector_product_by_forward_over_reverse_equals_reverse_over_reverse():
    case = small_case()
    gradient = jax.grad(lambda kernel: loss(case)(case.x, kernel))
    vector = jnp.cos(case.kernel)
    forward = jax.jit(lambda kernel: jax.jvp(gradient, (kernel,), (vector,))[1])(case.kernel)
    reverse = jax.jit(jax.grad(lambda kernel: jnp.vdot(gradient(kernel), vector)))(case.kernel)
    assert_close(forward, reverse)


@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_vmap_gives_the_gradient_of_each_example(case: Case):
    gradient = jax.jit(jax.grad(loss(case), (0, 1)))
    actual = jax.vmap(gradient, (0, None))(case.x[:, None], case.kernel)
    each = [gradient(x[None], case.kernel) for x in case.x]
    assert_close(actual, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))


@pytest.mark.parametrize("axes", [(1, None), (None, 2), (2, 0)])
def test_vmap_over_either_argument_and_its_gradient_equal_those_of_xla(axes):
    case = small_case(2)
    x = case.x if axes[0] is None else jnp.stack([case.x, jnp.sin(case.x)], axes[0])
    kernel = case.kernel if axes[1] is None else jnp.stack([case.kernel, jnp.sin(case.kernel)], axes[1])

    def outputs_and_gradients(function):
        batched = jax.vmap(function, axes)
        return jax.jit(jax.value_and_grad(lambda x, kernel: jnp.sum(batched(x, kernel)), (0, 1)))(x, kernel)

    assert_close(outputs_and_gradients(loss(case)), outputs_and_gradients(loss(case, reference(case))), 2e-5)


def test_gradient_inside_scan_equals_the_one_outside():
    case = small_case(2)
    gradient = jax.jit(jax.grad(loss(case), (0, 1)))
    inside = jax.jit(lambda x, kernel: lax.scan(lambda _, x: (None, gradient(x[None], kernel)), None, x)[1])
    each = [gradient(x[None], case.kernel) for x in case.x]
    assert_close(inside(case.x, case.kernel), jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))


def test_gradient_through_scan_and_checkpoint_equals_the_unrolled_one():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    kernels = jax.random.normal(jax.random.key(1), (4, 3, 3, 3, 3)) / 5
    layer = jax.checkpoint(lambda x, kernel: jnp.tanh(convolve(x, kernel, padding=1)))

    def scanned(kernels):
        return jnp.sum(lax.scan(lambda x, kernel: (layer(x, kernel), None), x, kernels)[0] ** 2)

    def unrolled(kernels):
        y = x
        for kernel in kernels:
            y = jnp.tanh(
                lax.conv_general_dilated(y, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return jnp.sum(y**2)

    assert_close(jax.jit(jax.grad(scanned))(kernels), jax.jit(jax.grad(unrolled))(kernels))


def test_gradients_on_eight_devices_average_to_the_gradient_on_one():
    case = small_case(2)

    def gradient(x, kernel):
        return lax.pmean(jax.grad(loss(case), 1)(x, kernel), "batch")

    on_eight = jax.pmap(gradient, axis_name="batch", in_axes=(0, None), out_axes=None)
    assert jax.device_count() == 8
    assert_close(on_eight(case.x[:, None], case.kernel), jax.jit(jax.grad(loss(case), 1))(case.x, case.kernel))


def test_half_precision_agrees_with_float32():
    case = small_case(2)
    half = case._replace(x=case.x.astype(jnp.bfloat16), kernel=case.kernel.astype(jnp.bfloat16))
    actual = jax.value_and_grad(loss(half), (0, 1))(half.x, half.kernel)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(actual, jax.value_and_grad(loss(case), (0, 1))(case.x, case.kernel), 0.05)


def test_other_backends_get_the_convolution_of_xla_unchanged(monkeypatch):
    case = small_case()
    assert "conv_general_dilated" not in str(jax.make_jaxpr(ours(case))(case.x, case.kernel))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in str(jax.make_jaxpr(ours(case))(case.x, case.kernel))
    assert compiler_options() == {}


def test_compiler_options_are_accepted_and_leave_a_step_on_eight_devices_unchanged():
    case = small_case()

    def step(kernel, x):
        return kernel - 0.1 * lax.pmean(jax.grad(loss(case), 1)(x, kernel), "batch")

    mapped = jax.pmap(step, axis_name="batch", in_axes=(None, 0), out_axes=None)
    optioned = jax.jit(mapped, compiler_options=compiler_options())
    assert_close(optioned(case.kernel, case.x[:, None]), mapped(case.kernel, case.x[:, None]))


@pytest.mark.parametrize("use_bias", [False, True])
def test_module_holds_float32_parameters_and_applies_them(use_bias: bool):
    x = jax.random.normal(jax.random.key(0), (2, 9, 7, 4))
    module = Conv(
        6, (3, 2), strides=2, padding=((1, 0), (2, 1)), groups=2, use_bias=use_bias, bias_init=jax.nn.initializers.ones
    )
    variables = module.init(jax.random.key(1), x)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"kernel": (3, 2, 2, 6)} | ({"bias": (6,)} if use_bias else {})
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    case = Case(x, variables["params"]["kernel"], (2, 2), ((1, 0), (2, 1)), 2, (1, 1))
    assert_close(module.apply(variables, x), reference(case)(x, case.kernel) + float(use_bias))


def test_module_computes_in_its_dtype_with_float32_parameters_and_gradients():
    x = jnp.ones((1, 5, 5, 3))
    module = Conv(2, 3, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    assert module.apply(variables, x).dtype == jnp.bfloat16
    gradients = jax.grad(lambda v: jnp.sum(module.apply(v, x).astype(jnp.float32)))(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, gradients))} == {jnp.dtype(jnp.float32)}


def test_input_smaller_than_the_kernel_is_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"\(1, 3, 9, 2\).*smaller than kernel \(5, 5, 2, 4\)"):
        Conv(4, 5).init(jax.random.key(0), jnp.zeros((1, 3, 9, 2)))
    assert Conv(4, 5, padding=((2, 0), (0, 0))).init(jax.random.key(0), jnp.zeros((1, 3, 9, 2)))


@pytest.mark.parametrize(("channels", "features"), [(3, 4), (4, 3)])
def test_channels_that_groups_do_not_divide_are_refused_with_both_shapes(channels: int, features: int):
    with pytest.raises(InputError, match=rf"\(1, 5, 5, {channels}\).*\(3, 3, .*, {features}\).*2 groups"):
        Conv(features, 3, groups=2).init(jax.random.key(0), jnp.zeros((1, 5, 5, channels)))


def test_input_of_other_channels_than_the_kernel_is_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"\(1, 5, 5, 3\) does not fit kernel \(3, 3, 4, 2\)"):
        convolve(jnp.zeros((1, 5, 5, 3)), jnp.zeros((3, 3, 4, 2)))
