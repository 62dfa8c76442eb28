"""Whether maps depend on what the network has learned: they must change when it is forgotten.

Layers are drawn anew, from the logits down or one at a time, or the network is one that learned permuted labels, and
the maps are compared with those of the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import numpy as np
import scipy.stats
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn import state as states
from jaxcnn.analysis import activations, attribution
from jaxcnn.analysis.attribution import Targets, ask
from jaxcnn.analysis.comparison import Interval, interval
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.state import State

By: TypeAlias = Literal["block", "layer"]
"""What counts as a layer: everything under one name in the network, or each module that has parameters itself."""

_SMALLEST = 7  # pixels, the window of the structural similarity


class Similarities(NamedTuple):
    """How alike two maps are, for each image: 1 for the same map.

    The rank correlations are of all values of a map, and of their magnitudes. The other two are of pictures: magnitudes
    added up over channels, from 0 at the smallest to 1 at the 99th percentile and above.

    Attributes:
      spearman: rank correlation of the values, in [-1, 1]; 0 if either map is the same everywhere.
      spearman_absolute: rank correlation of the magnitudes, likewise.
      ssim: structural similarity of the pictures, in [-1, 1].
      hog: Pearson correlation of the pictures' histograms of oriented gradients; 0 if either has no gradient.
    """

    spearman: Float[np.ndarray, " n"]
    spearman_absolute: Float[np.ndarray, " n"]
    ssim: Float[np.ndarray, " n"]
    hog: Float[np.ndarray, " n"]

    def intervals(self) -> dict[str, Interval]:
        """The mean of each over images with its 95 % confidence interval, see `comparison.interval`.

        Raises:
          InputError: there are fewer than two images.
        """
        return {name: interval(values) for name, values in self._asdict().items()}


class Step(NamedTuple):
    """The maps of a network of which something was drawn anew.

    Attributes:
      layer: which was, in a cascade after all those of the steps before.
      maps: what the method says then, [N, H, W] or [N, H, W, C].
      originals: what it said of the network as it was, the same array in every step.
      similarities: of the two.
    """

    layer: str
    maps: np.ndarray
    originals: np.ndarray
    similarities: Similarities


def cascading_randomisation(
    method: str | Callable[..., Array],
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    by: By = "block",
) -> tuple[Step, ...]:
    """The maps as layer after layer is drawn anew, from the one next to the logits down to the image.

    What is explained stays, and the method draws the same each time.

    Args:
      method: its name, or a function called as `method(model, state, images, targets, key=..., chunk=...)`.
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained; None is the class that the network as it was predicts.
      key: of the parameters and the method; None is `jax.random.key(0)`.
      chunk: images that the network evaluates at once.
      by: what counts as a layer.

    Returns:
      A step for each of `layers_with_parameters`, the last of them first.

    Raises:
      InputError: there is no such method, a side of the images is shorter than 7 pixels, or see `saliency.gradient`.

    Warns:
      DeadMapWarning: a map of a network drawn anew is zero everywhere; the correlations are 0 there.

    Reference: Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim 2018, "Sanity Checks for Saliency Maps", section 4.1.
    """
    return _steps(method, model, state, images, targets, key, chunk, by, cascading=True)


def independent_randomisation(
    method: str | Callable[..., Array],
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
    by: By = "block",
) -> tuple[Step, ...]:
    """The maps as one layer at a time is drawn anew, the others as they were.

    Args:
      method: see `cascading_randomisation`, as all arguments.
      model: the network.
      state: its state.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained.
      key: of the parameters and the method.
      chunk: images that the network evaluates at once.
      by: what counts as a layer.

    Returns:
      A step for each of `layers_with_parameters`, the last of them first.

    Raises:
      InputError: see `cascading_randomisation`.

    Warns:
      DeadMapWarning: see `cascading_randomisation`.

    Reference: Adebayo et al. 2018, section 4.2.
    """
    return _steps(method, model, state, images, targets, key, chunk, by, cascading=False)


def label_randomisation(
    method: str | Callable[..., Array],
    model: nn.Module,
    state: State,
    other_state: State,
    images: ArrayLike,
    targets: Targets = None,
    *,
    key: Key[Array, ""] | None = None,
    chunk: int | None = None,
) -> Similarities:
    """How alike the maps are of a network trained on the labels and of one trained on permuted labels.

    Args:
      method: see `cascading_randomisation`, as all arguments but `other_state`.
      model: the network.
      state: as trained on the labels.
      other_state: as trained on permuted labels, to the same accuracy on them.
      images: floats [N, H, W, C] in [0, 1].
      targets: what is explained; None is the class that the network trained on the labels predicts.
      key: of the method.
      chunk: images that the network evaluates at once.

    Raises:
      InputError: see `cascading_randomisation`.

    Reference: Adebayo et al. 2018, section 5.
    """
    explain = _explained(method, model, state, images, targets, key, chunk)
    return similarities(explain(other_state), explain(state))


def layers_with_parameters(
    model: nn.Module, state: State, image_shape: tuple[int, int, int], *, by: By = "block"
) -> tuple[str, ...]:
    """The layers that can be drawn anew, in the order in which they finish.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      image_shape: height and width in pixels, and channels of one image.
      by: "block" for the first names in the network, "layer" for the paths, joined by slashes, of the modules that
        have parameters themselves.

    Returns:
      Their names. What is not called in inference, or returns no array, comes first.
    """
    finished = {name: place for place, name in enumerate(activations.layers(model, state, image_shape))}

    def place(layer: str) -> int:
        return max((p for name, p in finished.items() if _within(name, layer)), default=-1)

    paths = flatten_dict(state.params)
    names = dict.fromkeys(path[0] if by == "block" else "/".join(path[:-1] or path) for path in paths)
    return tuple(sorted(names, key=place))


def randomise(
    model: nn.Module,
    state: State,
    key: Key[Array, ""],
    layers: Iterable[str],
    image_shape: tuple[int, int, int],
) -> State:
    """The state with the parameters and batch statistics of some layers as in a new network.

    The same key draws the same for a layer whichever others are drawn. The optimiser's state is not touched.

    Args:
      model: a module called as `model(images, train=...)`.
      state: its state.
      key: of the new network.
      layers: names as in `layers_with_parameters`, of blocks or of modules.
      image_shape: height and width in pixels, and channels of one image.

    Raises:
      InputError: there is no such layer; the message lists the nearest names.
    """
    names = tuple(layers)
    paths = flatten_dict(state.params)
    known = {"/".join(path[:end]) for path in paths for end in range(1, len(path) + 1)}
    for name in names:
        if name not in known:
            raise unknown_name("layer", name, known)
    return _mixed(state, states.create(model, key, image_shape), names)


def similarities(maps: ArrayLike, originals: ArrayLike) -> Similarities:
    """How alike maps are to others of the same images.

    Args:
      maps: [N, H, W] or [N, H, W, C], H and W at least 7.
      originals: of the same shape.

    Raises:
      InputError: the shapes differ or are too small.
    """
    from skimage.metrics import structural_similarity  # slow to import, and needed by nothing else

    first, second = (np.asarray(values, np.float64) for values in (maps, originals))
    if first.shape != second.shape or first.ndim not in (3, 4) or min(first.shape[1:3]) < _SMALLEST:
        raise InputError(
            f"maps have shapes {first.shape} and {second.shape}; expected the same, [N, H, W] or [N, H, W, C], of at "
            f"least {_SMALLEST} pixels a side"
        )
    count = len(first)
    pictures = [_pictures(values) for values in (first, second)]
    return Similarities(
        _rank_correlation(first.reshape(count, -1), second.reshape(count, -1)),
        _rank_correlation(np.abs(first).reshape(count, -1), np.abs(second).reshape(count, -1)),
        np.array([structural_similarity(a, b, data_range=1.0) for a, b in zip(*pictures, strict=True)]),
        _correlation(*(_histograms(values) for values in pictures)),
    )


def _explained(
    method: str | Callable[..., Array],
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets,
    key: Array | None,
    chunk: int | None,
) -> Callable[[State], np.ndarray]:
    """From a state to the maps, everything else being the same."""
    function = attribution.method(method).function if isinstance(method, str) else method
    question = ask(model, state, images, targets, chunk=chunk).resolved()
    if min(question.images.shape[1:3]) < _SMALLEST:
        raise InputError(f"images have shape {question.images.shape}; expected sides of at least {_SMALLEST} pixels")
    return lambda state: np.asarray(function(model, state, question.images, question.targets, key=key, chunk=chunk))


def _steps(
    method: str | Callable[..., Array],
    model: nn.Module,
    state: State,
    images: ArrayLike,
    targets: Targets,
    key: Array | None,
    chunk: int | None,
    by: By,
    *,
    cascading: bool,
) -> tuple[Step, ...]:
    draw, method_key = jax.random.split(jax.random.key(0) if key is None else key)
    explain = _explained(method, model, state, images, targets, method_key, chunk)
    height, width, channels = np.shape(images)[1:]
    layers = layers_with_parameters(model, state, (height, width, channels), by=by)[::-1]
    fresh = states.create(model, draw, (height, width, channels))
    originals = explain(state)
    steps = []
    for number, layer in enumerate(layers):
        maps = explain(_mixed(state, fresh, layers[: number + 1] if cascading else (layer,)))
        steps.append(Step(layer, maps, originals, similarities(maps, originals)))
    return tuple(steps)


def _mixed(state: State, fresh: State, layers: tuple[str, ...]) -> State:
    def mix(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        values = flatten_dict(new)
        return unflatten_dict(
            {
                path: values[path] if any(_within("/".join(path), layer) for layer in layers) else value
                for path, value in flatten_dict(old).items()
            }
        )

    return state.replace(
        params=mix(state.params, fresh.params),
        batch_stats=mix(state.batch_stats, fresh.batch_stats),
        ema_params=None if state.ema_params is None else mix(state.ema_params, fresh.params),
    )


def _within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(layer + "/")


def _pictures(maps: np.ndarray) -> Float[np.ndarray, "n h w"]:
    """Magnitudes in [0, 1], so that a few bright pixels do not leave the rest black."""
    values = np.abs(maps).reshape(*maps.shape[:3], -1).sum(-1)
    low = values.min((1, 2), keepdims=True)
    high = np.percentile(values, 99, axis=(1, 2), keepdims=True)
    high = np.where(high > low, high, values.max((1, 2), keepdims=True))  # a map of a few bright pixels
    return np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1)


def _histograms(pictures: np.ndarray) -> Float[np.ndarray, "n f"]:
    from skimage.feature import hog

    side = max(1, min(16, min(pictures.shape[1:]) // 4))
    return np.stack([hog(picture, pixels_per_cell=(side, side)) for picture in pictures])


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, " n"]:
    return _correlation(*(scipy.stats.rankdata(values, axis=1) for values in (first, second)))


def _correlation(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, " n"]:
    """Pearson's, of the rows; 0 where either is constant."""
    first, second = (values - values.mean(1, keepdims=True) for values in (first, second))
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return (first * second).sum(1) / np.where(size > 0, size, 1)
