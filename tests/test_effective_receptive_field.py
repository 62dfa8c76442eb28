"""The effective receptive field against repeated convolution of boxes, and inside of what a unit can see at all."""

from __future__ import annotations

from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lesion import IMAGES as PICTURES
from test_lesion import RESNET, resnet

from jaxcnn import state as states
from jaxcnn.analysis.effective_receptive_field import effective_receptive_field
from jaxcnn.errors import InputError, RunError
from jaxcnn.layers.convolution import Conv

SHAPE = (15, 17, 2)
KEY = jax.random.key(0)
IMAGES = jax.random.uniform(jax.random.key(1), (3, *SHAPE))


class Boxes(nn.Module):
    """Convolutions with uniform kernels, and nothing else."""

    depth: int
    padding: int = 1

    @nn.compact
    def __call__(self, images, *, train):
        x = images
        for i in range(self.depth):
            fields = {"use_bias": False, "kernel_init": nn.initializers.constant(0.1), "name": f"conv{i + 1}"}
            x = Conv(1, 3, padding=self.padding, **fields)(x)
        return nn.Dense(2, name="head")(x.reshape(len(x), -1))


@pytest.mark.parametrize(("depth", "padding"), [(1, 1), (3, 1), (3, 0)])
def test_a_stack_of_uniform_kernels_is_a_box_convolved_with_itself(depth, padding):
    model = Boxes(depth, padding)
    found = effective_receptive_field(model, states.create(model, KEY, SHAPE), IMAGES, f"conv{depth}", KEY)
    profile = reduce(np.convolve, [np.ones(3)] * depth)
    pattern = np.outer(profile, profile) / profile.max() ** 2
    shrunk = 0 if padding else 2 * depth
    assert found.position == ((15 - shrunk) // 2, (17 - shrunk) // 2)
    top, left, bottom, right = found.box
    assert (bottom - top, right - left) == (2 * depth + 1,) * 2
    assert (top, left) == (7 - depth, 8 - depth)  # around the middle of the image
    np.testing.assert_allclose(found.heat[top:bottom, left:right], pattern, rtol=1e-5)
    outside = found.heat.copy()
    outside[top:bottom, left:right] = 0
    np.testing.assert_array_equal(outside, 0)
    assert found.side == np.sqrt((pattern > 0.0455).sum())


def test_of_a_deep_stack_the_middle_matters():
    model = Boxes(6)
    found = effective_receptive_field(model, states.create(model, KEY, SHAPE), IMAGES, "conv6", KEY)
    assert found.box == (1, 2, 14, 15)  # 13 pixels
    # Sums of six steps of variance 2/3: two standard deviations to either side are 8 pixels, in the plane a disc.
    assert 7 < found.side < 10


@pytest.mark.slow
def test_it_is_the_mean_of_sizes_over_images_and_colours_with_a_draw_for_each():
    found = effective_receptive_field(RESNET, resnet(), PICTURES, "stage2/block1", KEY, chunk=4)
    weights = jax.random.normal(KEY, (6, 32))

    @jax.jit
    def one(image, g):
        def centre(image):
            _, seen = RESNET.apply(
                resnet().variables, image[None], train=False, capture_intermediates=True, mutable=["intermediates"]
            )
            return (g * seen["intermediates"]["stage2"]["block1"]["__call__"][0][0, 2, 2]).sum()

        return jnp.abs(jax.grad(centre)(image)).mean(-1)

    heat = np.mean([one(image, g) for image, g in zip(PICTURES, weights, strict=True)], axis=0)
    np.testing.assert_allclose(found.heat, heat / heat.max(), rtol=1e-3, atol=1e-5)
    assert found.position == (2, 2)


def test_mistakes_are_told_in_a_sentence():
    model = Boxes(1)
    state = states.create(model, KEY, SHAPE)
    with pytest.raises(InputError, match="unknown layer 'conv9'; did you mean conv1"):
        effective_receptive_field(model, state, IMAGES, "conv9", KEY)
    with pytest.raises(InputError, match=r"head has the output \(2,\); expected maps"):
        effective_receptive_field(model, state, IMAGES, "head", KEY)
    with pytest.raises(InputError, match="chunk is 0"):
        effective_receptive_field(model, state, IMAGES, "conv1", KEY, chunk=0)
    with pytest.raises(InputError, match="images hold values from"):
        effective_receptive_field(model, state, 2 * IMAGES, "conv1", KEY)
    nothing = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    with pytest.raises(RunError, match="the derivative of conv1 is zero or not finite"):
        effective_receptive_field(model, nothing, IMAGES, "conv1", KEY)
