"""What a run starts from: the model that fits the images, and the state at step 0."""

from __future__ import annotations

import math
import os
from pathlib import Path

import jax
import numpy as np
import optax
from jax.tree_util import tree_leaves_with_path

from jaxcnn import models, run
from jaxcnn import state as states
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.data.spec import Source
from jaxcnn.errors import InputError
from jaxcnn.interop import weights
from jaxcnn.layers import initializers
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.state import State


def resolve(experiment: Experiment, source: Source, directory: str | Path | None = None) -> ModelSpec:
    """The model that an experiment trains on `source`: its classes, its input shape, how it standardises pixels.

    Args:
      experiment: what to train.
      source: the training images.
      directory: a run directory that may have resolved a start from weights before, and then needs them no more.
    """
    if len(source.class_names) < 2:
        raise InputError(f"{experiment.data.dataset} has the one class {source.class_names}; expected at least two")
    mean, std = experiment.model.mean, experiment.model.std
    if mean is None or std is None:
        start = experiment.model.weights
        if start is None:
            mean, std = pixel_statistics(source)
        elif directory is not None and os.path.isfile(os.path.join(directory, "model.json")):
            known = run.read(directory)[1]
            mean, std = known.mean, known.std
        else:
            mean, std = weights.standardisation(start, experiment.model.name)
    return ModelSpec(
        name=experiment.model.name,
        options=models.options(experiment.model.name) | dict(experiment.model.options),
        num_classes=len(source.class_names),
        input_shape=source.image_shape,
        mean=mean,
        std=std,
        class_names=source.class_names,
        precision=experiment.training.precision,
    )


def pixel_statistics(source: Source, limit: int = 5000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in [0, 1], over `limit` images spread evenly over the split."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int))
    counts = np.zeros((source.image_shape[-1], 256), np.int64)
    for part in np.array_split(chosen, -(-len(chosen) // 256)):
        images, _ = source.read(part)
        counts += [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(len(counts))]
    # Sums of whole numbers are exact, so every machine finds the same statistics and can continue the run.
    values, pixels = np.arange(256), int(counts[0].sum())
    sums, squares = (counts @ values).tolist(), (counts @ values**2).tolist()
    mean = tuple(s / pixels / 255 for s in sums)
    std = tuple(math.sqrt(pixels * q - s * s) / pixels / 255 for s, q in zip(sums, squares, strict=True))
    # A channel that never varies carries nothing, and dividing by its zero deviation would make it NaN.
    return mean, tuple(s or 1.0 for s in std)


def from_weights(experiment: Experiment, spec: ModelSpec, state: State) -> State:
    """The state with the values of the experiment's weight file, but for new last layers."""
    file = experiment.model.weights
    if file is None:
        return state
    contents = weights.read(file, spec.name)
    for option, value in (contents.spec.options if contents.spec else {}).items():
        # Numbers that matter show in the shapes; a word, such as the kind of activation, does not.
        if isinstance(value, str) and spec.options.get(option, value) != value:
            raise InputError(f"{file} has {option} {value!r}; expected {spec.options[option]!r}, as in the experiment")
    heads: set[str] = set()
    if experiment.model.new_head:
        leaves = tree_leaves_with_path(state.params)
        paths = [jax.tree_util.keystr(path[:-1], simple=True, separator="/") for path, _ in leaves]
        heads = {path for path in paths if path.split("/")[-1] == "head"}  # auxiliary classifiers have theirs
    return weights.fit(contents, spec.name, state, skip=sorted(heads))


def initial(
    experiment: Experiment, model: ImageModel, spec: ModelSpec, optimizer: optax.GradientTransformation
) -> State:
    """The state at step 0, with the distribution of the kernels that the experiment asks for."""
    config, key = experiment.model, jax.random.key(experiment.training.seed)
    state = states.create(model, key, spec.input_shape, optimizer)
    params = state.params
    if config.initializer is not None:
        params = initializers.initialize(params, config.initializer, key)
    if config.zero_gamma:
        params = initializers.zero_gamma(params, model.branch_norms)
    return state if params is state.params else state.replace(params=params, opt_state=optimizer.init(params))
