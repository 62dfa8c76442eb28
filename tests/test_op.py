"""What every operation written by hand shares: how forward and backward become one differentiable function."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import InputError
from jaxcnn.ops.op import Op, check_floating


def scaled_forward(x, w, labels, *, factor=1.0):
    """z = factor x w, where the labels only pass by."""
    return factor * x * w, (x, w)


def wrong_backward(saved, dz, *, factor=1.0):
    """Twice the true gradient, so that one sees who is asked."""
    x, w = saved
    return 2 * factor * dz * w, 2 * factor * dz * x, None


scaled = Op(scaled_forward, wrong_backward)
X, W, LABELS = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), jnp.array([0, 1])


def test_the_value_is_forward_s_and_the_gradient_is_backward_s():
    np.testing.assert_array_equal(scaled(X, W, LABELS, factor=5.0), 5 * X * W)
    dx, dw = jax.grad(lambda x, w: scaled(x, w, LABELS, factor=5.0).sum(), (0, 1))(X, W)
    np.testing.assert_array_equal(dx, 10 * W)
    np.testing.assert_array_equal(dw, 10 * X)


def test_arrays_may_be_given_by_name_and_options_keep_their_defaults():
    gradient = jax.grad(lambda w: scaled(X, labels=LABELS, w=w).sum())(W)
    np.testing.assert_array_equal(gradient, 2 * X)
    with pytest.raises(TypeError, match="unexpected keyword argument 'facto'"):
        scaled(X, W, LABELS, facto=5.0)


def test_jit_vmap_and_second_derivatives_pass_through():
    def loss(x):
        return scaled(x, x, LABELS).sum()  # its gradient is 4 x by the wrong backward pass

    xs = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(loss)))(xs), 4 * xs)
    np.testing.assert_array_equal(jax.jacrev(jax.grad(loss))(X), 4 * np.eye(2))


def test_what_forward_saved_is_differentiated_in_turn():
    # The backward pass by y = exp(x), which forward kept.
    exponential = Op(lambda x: (jnp.exp(x), jnp.exp(x)), lambda y, dz: (dz * y,))
    third = jax.grad(jax.grad(jax.grad(lambda x: exponential(2 * x))))
    np.testing.assert_allclose(third(jnp.asarray(0.5)), 8 * np.e, rtol=1e-6)


def test_a_hessian_takes_forward_mode_over_the_backward_pass():
    exponential = Op(lambda x: (jnp.exp(x), jnp.exp(x)), lambda y, dz: (dz * y,))
    hessian = jax.hessian(lambda x: exponential(2 * x).sum())(X)
    np.testing.assert_allclose(hessian, np.diag(4 * np.exp(2 * X)), rtol=1e-6)


def test_a_gradient_has_the_type_of_its_array():
    half = X.astype(jnp.bfloat16)
    dx, dw = jax.grad(lambda x, w: scaled(x, w, LABELS).sum(), (0, 1))(half, W)
    assert (dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.float32)


def test_an_op_is_known_by_its_name():
    assert (scaled.__name__, repr(scaled)) == ("scaled", "Op(scaled)")
    assert scaled.__doc__ == scaled_forward.__doc__
    assert list(inspect.signature(scaled).parameters) == ["x", "w", "labels", "factor"]


def test_integers_are_refused_with_every_shape():
    with pytest.raises(
        InputError, match=r"scaled got x \(2,\) of float32 and labels \(2,\) of int32; expected floating"
    ):
        check_floating("scaled", x=X, labels=LABELS)
