"""Class activation maps from gradients: where the maps of a layer that a class needs are active."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.activations import check_layer, layers, watched
from jaxcnn.analysis.attribution import Method, Question, Score, Targets, ask, finish
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.guided import guided, rectified
from jaxcnn.errors import InputError
from jaxcnn.state import State

Weigh = Callable[[Array, Array], Array]


def grad_cam(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    layer: str | None = None,
) -> Float[Array, "n h w"]:
    """The maps A of a layer, weighted by the mean derivative of the score with respect to each.

    L = max(0, sum_c w_c A_c), w_c = mean_ij d y_k / d A_ijc, enlarged to the image bilinearly

    Args:
      model: see `saliency.gradient`, as all arguments but the last.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused.
      chunk: images evaluated at once.
      layer: one of `activations.layers` that computes maps; None is `last_maps`.

    Returns:
      L, at least 0, in logits.

    Raises:
      InputError, RunError: see `saliency.gradient`; or the network has no such layer, or it computes no maps.

    Reference: Selvaraju, Cogswell, Das, Vedantam, Parikh & Batra 2017, "Grad-CAM", equations 1 and 2.
    """
    return finish(_enlarged(ask(model, state, images, targets, key=key, chunk=chunk), state, layer, _mean))


def grad_cam_plus_plus(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    layer: str | None = None,
) -> Float[Array, "n h w"]:
    """Grad-CAM whose weights count every position that speaks for the class as much as every other.

    L = max(0, sum_c w_c A_c), w_c = sum_ij a_ijc max(0, g_ijc), g = d y_k / d A,
    a_ijc = g_ijc^2 / (2 g_ijc^2 + sum_pq A_pqc g_ijc^3)

    The paper's factor exp(y_k), common to all weights, is left out.

    Args:
      model: see `grad_cam`, as all arguments.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused.
      chunk: images evaluated at once.
      layer: one of `activations.layers` that computes maps; None is `last_maps`.

    Returns:
      L, at least 0, in logits.

    Raises:
      InputError, RunError: see `grad_cam`.

    Reference: Chattopadhay, Sarkar, Howlader & Balasubramanian 2018, "Grad-CAM++", equations 10, 11 and 19.
    """
    return finish(_enlarged(ask(model, state, images, targets, key=key, chunk=chunk), state, layer, _spread))


def guided_grad_cam(
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    layer: str | None = None,
) -> Float[Array, "n h w c"]:
    """Guided backpropagation where Grad-CAM is active: the product of the two.

    Args:
      model: see `grad_cam`, as all arguments.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: unused.
      chunk: images evaluated at once.
      layer: of Grad-CAM.

    Returns:
      The product, signed.

    Raises:
      InputError, RunError: see `grad_cam` and `guided.guided_backpropagation`.

    Reference: Selvaraju et al. 2017, section 3.2.
    """
    question = ask(model, state, images, targets, key=key, chunk=chunk)
    where = _enlarged(question, state, layer, _mean)
    return finish(where[..., None] * rectified(question, guided))


def last_maps(model: nn.Module, state: State, image_shape: tuple[int, ...]) -> str:
    """The layer that class activation maps are made of: the last with parameters that computes maps, but for the head.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      image_shape: height and width in pixels, and channels of one image.

    Raises:
      InputError: no layer computes maps of more than one position.
    """
    chosen = None
    for name, shape in layers(model, state, image_shape).items():
        if len(shape) == 3 and shape[0] * shape[1] > 1 and name != "head" and _has(state.variables["params"], name):
            chosen = name
    if chosen is None:
        raise InputError(f"{type(model).__name__} has no layer of maps; expected one of more than one position")
    return chosen


def _has(params: Any, name: str) -> bool:
    """Whether a module has parameters."""
    for part in name.split("/"):
        if part not in params:
            return False
        params = params[part]
    return True


def _enlarged(question: Question, state: State, layer: str | None, weigh: Weigh) -> Float[Array, "n h w"]:
    shape = question.images.shape[1:]
    known = layers(question.model, state, shape)
    name = last_maps(question.model, state, shape) if layer is None else layer
    check_layer(name, known)
    if len(known[name]) != 3:
        raise InputError(f"layer {name} computes values of shape {known[name]}; expected maps (h, w, c)")
    maps = question.map(partial(_cam, question.network, name, known[name], weigh, question.variables))
    return jax.image.resize(maps, (len(maps), *shape[:2]), "bilinear")


def _mean(maps: Array, derivative: Array) -> Array:
    return derivative.mean((1, 2))


def _spread(maps: Array, derivative: Array) -> Array:
    square = derivative**2
    below = 2 * square + maps.sum((1, 2), keepdims=True) * derivative**3
    shares = jnp.where(below == 0, 0, square / jnp.where(below == 0, 1, below))
    return (shares * jnp.maximum(derivative, 0)).sum((1, 2))


@compiled(static_argnums=(0, 1, 2, 3))
def _cam(
    network: tuple[nn.Module, Score],
    layer: str,
    shape: tuple[int, ...],
    weigh: Weigh,
    variables: Any,
    images: Array,
    classes: Array | None,
    _: Any,
) -> Float[Array, "n h w"]:
    model, score = network

    def scored(added: Array) -> tuple[Array, Array]:
        seen: list[Array] = []

        def add(name: str, output: Array) -> Array:
            if name != layer or seen:
                return output
            seen.append(output + added.astype(output.dtype))
            return seen[0]

        logits = watched(model, add, variables, images)
        return score(logits, classes).sum(), seen[0]

    derivative, maps = jax.grad(scored, has_aux=True)(jnp.zeros((len(images), *shape)))
    maps = maps.astype(jnp.float32)
    return jnp.maximum(jnp.einsum("nc,nhwc->nhw", weigh(maps, derivative), maps, precision="highest"), 0)


METHODS = {
    "grad_cam": Method(grad_cam, "Grad-CAM", False, "Selvaraju et al. 2017"),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus, "Grad-CAM++", False, "Chattopadhay et al. 2018"),
    "guided_grad_cam": Method(guided_grad_cam, "Guided Grad-CAM", False, "Selvaraju et al. 2017"),
}
