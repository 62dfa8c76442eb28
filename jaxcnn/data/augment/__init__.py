"""Augmentation on the device: pure functions of a key, one compiled program for a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxcnn.data.augment.augmentation import Augmentation
from jaxcnn.errors import unknown_name
from jaxcnn.registry import discover

AUGMENTATIONS: dict[str, Augmentation] = discover("jaxcnn.data.augment", "AUGMENTATIONS")
"""Every augmentation by name."""

Augment: TypeAlias = Callable[..., tuple[Float[Array, "n h w c"], Float[Array, "n k"]]]


def make(augment: Mapping[str, float]) -> Augment:
    """The function that augments a batch, compiled once for each shape.

    Every picture has a key of its own, made from its position in the global batch, so how many devices share the batch
    changes nothing; only `mixup` and `cutmix` find their partners within a device's share (their share of the mixture
    and their rectangle are the same everywhere).

    Args:
      augment: strengths by name, in the order in which they are applied.

    Returns:
      A function of (key, images [n, h, w, c] in [0, 1], targets [n, k], first), where targets are probabilities and
      `first` is the position of images[0] in the global batch; it returns images and targets of the same shapes and
      types.

    Raises:
      InputError: an unknown name, or a strength out of its range; where the function is called, pictures that an
        augmentation cannot take.
    """
    for name, strength in augment.items():
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation in data.augment", name, AUGMENTATIONS)
        AUGMENTATIONS[name].check(name, strength)
    chain = [(AUGMENTATIONS[name], strength) for name, strength in augment.items()]

    @jax.jit
    def augmented(
        key: Key[Array, ""], images: Float[Array, "n h w c"], targets: Float[Array, "n k"], first: Int[Array, ""] | int
    ) -> tuple[Float[Array, "n h w c"], Float[Array, "n k"]]:
        positions = first + jnp.arange(len(images))
        for number, (augmentation, strength) in enumerate(chain):
            own = jax.random.fold_in(key, number)
            if augmentation.mixes:
                images, targets = augmentation.apply(own, images, targets, strength)
            else:
                keys = jax.vmap(jax.random.fold_in, (None, 0))(own, positions)
                images = jax.vmap(augmentation.apply, (0, 0, None))(keys, images, strength)
        return images, targets

    return augmented


def check(augment: Mapping[str, float], image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Refuses what cannot be done to pictures of a shape, before anything is compiled.

    Raises:
      InputError: see `make`.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    jax.eval_shape(make(augment), jax.random.key(0), images, jax.ShapeDtypeStruct((2, num_classes), jnp.float32), 0)
