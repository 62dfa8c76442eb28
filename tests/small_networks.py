"""Networks as small as a test needs them, and what goes with them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxcnn.state

SHAPE = (9, 11, 3)
CLASSES = 4


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(CLASSES, name="head")(images.reshape(len(images), -1))


class Small(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding=1, name="conv")((images - 0.4) / 0.2))
        return nn.Dense(CLASSES, name="head")(x.reshape(len(x), -1))


class Constant(nn.Module):
    """As sure of its last class as can be, whatever it sees."""

    @nn.compact
    def __call__(self, images, *, train):
        bias = self.param("bias", nn.initializers.constant(100.0), ())
        return jnp.zeros((len(images), CLASSES)).at[:, -1].set(bias)


class Rounding(nn.Module):
    """What it says depends a little on how many images it sees, as rounding does."""

    @nn.compact
    def __call__(self, images, *, train):
        logits = nn.Dense(CLASSES)(images.reshape(len(images), -1))
        return logits.at[:, 1].add(1e-5 * len(images))


def state_of(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> jaxcnn.state.State:
    return jaxcnn.state.create(model, jax.random.key(0), shape)


def images_of(count: int, seed: int = 1, shape: tuple[int, int, int] = SHAPE) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (count, *shape))
