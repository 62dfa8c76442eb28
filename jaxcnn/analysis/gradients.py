"""How the gradient fares on its way back: its size at every layer, and along the paths through a residual network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Key
from scipy.stats import binom

from jaxcnn.analysis.activations import layers, unrolled, watched
from jaxcnn.analysis.blocks import Block, Part, parts
from jaxcnn.analysis.checks import check_chunk, checked_images, checked_targets
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.errors import InputError, RunError
from jaxcnn.state import State


class Flow(NamedTuple):
    """The gradient at every layer.

    Attributes:
      layers: names of those that have a kernel, in the order of execution.
      norms: for each image the L2 norm of the derivative of its loss by what the layer computes, before an activation.
    """

    layers: tuple[str, ...]
    norms: Float[np.ndarray, "l n"]


class Paths(NamedTuple):
    """The gradient at the image along single paths through a residual network, by their length.

    Attributes:
      blocks: the residual blocks, in the order of execution.
      lengths: through how many branches the paths lead; through every other block they take the shortcut.
      kept: those branches, of each length and repeat.
      norms: the L2 norm of the derivative of the loss by the image along the path alone, the mean over the images.
    """

    blocks: tuple[Block, ...]
    lengths: Int[np.ndarray, " k"]
    kept: Bool[np.ndarray, "k r b"]
    norms: Float[np.ndarray, "k r"]

    @property
    def shares(self) -> Float[np.ndarray, " k"]:
        """Of all paths those of each length: binomial, as a path goes one of two ways at each block."""
        return binom.pmf(self.lengths, len(self.blocks), 0.5)

    @property
    def contributions(self) -> Float[np.ndarray, " k"]:
        """What the paths of each length bring, their share times their mean norm, over the sum of these, if above 0."""
        brought = self.shares * self.norms.mean(1)
        return brought / (brought.sum() or 1)


def flow(model: nn.Module, state: State, images: ArrayLike, labels: ArrayLike, *, chunk: int | None = None) -> Flow:
    """The size of the gradient at every layer, which vanishes or explodes on the way from the last to the first.

    delta_l = |d loss / d z_l| of each image, z_l = W_l h_(l-1) + b_l

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N], for the cross-entropy.
      chunk: images that the network evaluates at once; None takes as many as `chunks.MEMORY` holds.

    Returns:
      In inference, as batch norm then leaves each image its own gradient.

    Raises:
      InputError: an argument is not as expected.
      RunError: a gradient is not finite.

    Reference: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """
    pixels, classes, size = _checked(model, state, images, labels, chunk)
    kernels = {path.removesuffix("/kernel") for path in flatten_dict(state.variables["params"], sep="/")}
    shapes = {name: shape for name, shape in layers(model, state, pixels.shape[1:]).items() if name in kernels}
    found = [
        _flow(model, tuple(shapes.items()), state.variables, pixels[some], classes[some])
        for some in pieces(len(pixels), size)
    ]
    return Flow(tuple(shapes), _finite(join(found, len(pixels))).T)


def paths(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    labels: ArrayLike,
    repeats: int,
    key: Key[Array, ""],
    *,
    lengths: Sequence[int] | None = None,
    chunk: int | None = None,
) -> Paths:
    """The gradient along random single paths of each length: through the branches of k blocks, past those of the rest.

    The forward pass is that of the whole network; backwards, y = F(x) + shortcut(x) hands the gradient either to F
    alone, at the k blocks, or to the shortcut alone.

    Args:
      model: see `flow`; with residual blocks, see `blocks.blocks`.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      labels: integers [N], for the cross-entropy.
      repeats: paths of each length, at least 1.
      key: decides which; those of one length do not depend on the other lengths.
      lengths: numbers k, each once; None takes all from 0 to that of the blocks.
      chunk: see `flow`.

    Raises:
      InputError: an argument is not as expected, or the network has no residual blocks.
      RunError: a gradient is not finite.

    Reference: Veit, Wilber & Belongie, "Residual networks behave like ensembles of relatively shallow networks", 2016,
    section 5.
    """
    pixels, classes, size = _checked(model, state, images, labels, chunk)
    height, width, channels = pixels.shape[1:]
    known = parts(model, state, (height, width, channels))
    if not known or not known[0].block.residual:
        raise InputError(
            f"{type(model).__name__} has no residual blocks called stage1/block1 and so on that hold conv1; "
            "expected a network of stages of them"
        )
    wanted = tuple(range(len(known) + 1) if lengths is None else lengths)
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; expected at least 1")
    if not wanted or not 0 <= min(wanted) <= max(wanted) <= len(known) or len(set(wanted)) < len(wanted):
        raise InputError(
            f"lengths are {wanted}; expected whole numbers from 0 to {len(known)}, as there are blocks, each once"
        )
    kept = np.zeros((len(wanted), repeats, len(known)), bool)
    for row, length in zip(kept, wanted, strict=True):
        drawn = np.asarray(jax.random.uniform(jax.random.fold_in(key, length), row.shape)).argsort(-1)
        np.put_along_axis(row, drawn[:, :length], True, -1)

    def norm(path: np.ndarray) -> Array:
        found = [
            _along(model, known, state.variables, jnp.asarray(path, pixels.dtype), pixels[some], classes[some])
            for some in pieces(len(pixels), size)
        ]
        return join(found, len(pixels)).mean()

    different, number = np.unique(kept.reshape(-1, len(known)), axis=0, return_inverse=True)
    norms = _finite(jnp.stack([norm(path) for path in different]))[number.ravel()]
    named = tuple(part.block for part in known)
    return Paths(named, np.array(wanted, np.int64), kept, norms.reshape(len(wanted), repeats))


def _checked(
    model: nn.Module, state: State, images: ArrayLike, labels: ArrayLike, chunk: int | None
) -> tuple[Array, Array, int]:
    pixels = checked_images(images)
    check_chunk(chunk)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), state.variables, pixels)
    classes = checked_targets(labels, *logits.shape)
    return pixels, classes, chunk or affordable(model, state.variables, pixels.shape[1:])


def _finite(norms: Array) -> np.ndarray:
    values = np.asarray(norms)
    if not np.isfinite(values).all():
        raise RunError("a gradient is not finite; expected a network with finite gradients")
    return values


def _norms(gradient: Array) -> Float[Array, " n"]:
    return jnp.sqrt(jnp.square(gradient.reshape(len(gradient), -1)).sum(-1))


@partial(jax.jit, static_argnums=(0, 1))
def _flow(
    model: nn.Module, shapes: tuple[tuple[str, tuple[int, ...]], ...], variables: Any, images: Array, labels: Array
) -> Float[Array, "n l"]:
    """A zero is added to what each layer computes at its first call, by which the loss is differentiated."""

    def loss(zeros: dict[str, Array]) -> Array:
        left = dict(zeros)
        logits = watched(model, lambda name, output: output + left.pop(name, 0), variables, images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    zeros = {name: jnp.zeros((len(images), *shape)) for name, shape in shapes}
    gradients = jax.grad(loss)(zeros)
    return jnp.stack([_norms(gradients[name]) for name, _ in shapes], -1)


@partial(jax.jit, static_argnums=(0, 1))
def _along(
    model: nn.Module, known: tuple[Part, ...], variables: Any, path: Array, images: Array, labels: Array
) -> Float[Array, " n"]:
    """The norm at each image of the gradient along a path, which holds 1 for a branch and 0 for a shortcut."""
    numbers = {part.block.name: number for number, part in enumerate(known)}
    ends = {part.ends[0] for part in known}

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        name = "/".join(context.module.path)
        if context.method_name != "__call__" or name not in {*numbers, *ends}:
            return call(*args, **kwargs)
        if name in ends:
            return lax.stop_gradient(call(*args, **kwargs))
        # Outside of the network the block has another path, so that its branch's end lets the gradient pass.
        whole: Any = context.module.clone(parent=None).apply(dict(context.module.variables), *args, **kwargs)
        shortcut = _difference(call(*args, **kwargs))
        branch = _difference(whole) - shortcut
        kept = path[numbers[name]]
        return lax.stop_gradient(whole) + kept * branch + (1 - kept) * shortcut

    def loss(images: Array) -> Array:
        with nn.intercept_methods(intercept):
            logits: Any = unrolled(model).apply(variables, images, train=False)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    return _norms(jax.grad(loss)(images))


def _difference(values: Array) -> Array:
    """Zero, with the derivative of the values."""
    return values - lax.stop_gradient(values)
