"""A trained network from its run directory or from a file of weights, and back to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxcnn import models, run
from jaxcnn import state as states
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import ModelSpec
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.interop import weights as files
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.state import State
from jaxcnn.train import optimizers

Which: TypeAlias = Literal["latest", "best"] | int
"""A checkpoint of a run: the newest, the one with the best accuracy, or that of a step."""


def load(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    checkpoint: Which = "latest",
    **fields: Any,
) -> tuple[ImageModel, State]:
    """A trained network and its state.

    Args:
      source: a run directory, a file that `jaxcnn convert` wrote, or, with `weights`, the name of a network.
      weights: a file of PyTorch's or an .npz; None if the source has them.
      checkpoint: of a run: "latest", "best" (the one with the best accuracy), or a step.
      **fields: of the network called by its name, see `models.create`; by default those that the file notes, and the
        published ones where it notes none.

    Returns:
      The module, and the state on the default device.

    Raises:
      InputError: the file is damaged or does not fit the network, or there is no such network or option.
      CheckpointError: the directory is not a run, has no such checkpoint, or the checkpoint is damaged.
    """
    if weights is not None:
        return load_named(str(source), weights, **fields)[1:]
    if fields:
        raise InputError(f"{source} is not a name with weights, so {next(iter(fields))} cannot be chosen")
    return _load_described(source, checkpoint)[1:]


def convert(source: str | Path, target: str | Path, *, model: str | None = None, **fields: Any) -> files.Written:
    """Copies the parameters and batch statistics of a network into a file of another format.

    Args:
      source: a run directory, or a file of weights.
      target: a new file: .npz, or one of `torch_file.SUFFIXES` with PyTorch's names and layouts.
      model: the name of the network in a file that this function did not write, and that does not say it.
      **fields: of that network, see `models.create`.

    Returns:
      What was written.

    Raises:
      InputError: the source is damaged, does not fit the network or does not name it; the target exists.
    """
    path = Path(source)
    if not os.path.exists(path):
        raise InputError(f"{path} is not there; expected a run directory or a file of weights")
    if os.path.isdir(path):
        if model is not None or fields:
            raise InputError(f"{source} says itself which network it is for; expected no model with it")
        spec, _, state = _load_described(source, "latest")
    else:
        contents = files.read(path, model)
        name = model or (contents.spec.name if contents.spec else None)
        if name is None:
            raise InputError(f"{source} does not say which network it is for; expected its name, as --model resnet18")
        spec, _, state = _load_contents(name, contents, fields)
    return files.write(target, spec, state)


def load_named(name: str, weights: str | Path, **fields: Any) -> tuple[ModelSpec, ImageModel, State]:
    """What `load` gives for the name of a network, and the network's description."""
    models.facts(name)  # a mistyped name is found before the file is read
    return _load_contents(name, files.read(weights, name), fields)


def _load_contents(
    name: str, contents: files.Contents, fields: Mapping[str, Any]
) -> tuple[ModelSpec, ImageModel, State]:
    facts, spec = models.facts(name), contents.spec
    known: dict[str, Any]
    if spec is not None:
        known = {"mean": spec.mean, "std": spec.std, "num_classes": spec.num_classes, **spec.options}
        known["dtype"] = getattr(jnp, spec.precision)
    else:
        known = {"mean": facts.preprocessing.mean, "std": facts.preprocessing.std}
        surplus = models.torch_names(name).surplus
        if surplus and "auxiliary" in models.options(name):
            known["auxiliary"] = any(tensor.startswith(surplus) for tensor in contents.arrays)
    model = models.create(name, **{**known, **fields})
    resolved = ModelSpec(
        name=name,
        options={option: getattr(model, option) for option in models.options(name)},
        num_classes=model.num_classes,
        input_shape=spec.input_shape if spec else facts.input_shape,
        mean=tuple(model.mean),
        std=tuple(model.std),
        class_names=spec.class_names if spec else (),
        precision="bfloat16" if model.dtype == jnp.bfloat16 else "float32",
    )
    return resolved, model, files.fit(contents, name, _placeholder(model, resolved.input_shape))


def _load_described(source: str | Path, checkpoint: Which) -> tuple[ModelSpec, ImageModel, State]:
    path = Path(source)
    if os.path.exists(path) and not os.path.isdir(path):
        contents = files.read(path)
        if contents.spec is None:
            raise InputError(
                f"{source} does not say which network it is for; expected the network's name with it, as in "
                f"load(MODEL, weights={str(source)!r}) or MODEL --weights {source}"
            )
        return _load_contents(contents.spec.name, contents, {})
    if str(source) in models.names() and not os.path.exists(path):
        raise InputError(
            f"{source} is a network without weights; expected a file of them with it, as in "
            f"load({str(source)!r}, weights=FILE) or {source} --weights FILE"
        )
    experiment, spec = run.read(path)
    model = models.from_spec(spec)
    # Only the structure of the optimiser's state matters here, and the length of the run does not change it.
    optimizer = optimizers.create(experiment.optimizer, total_steps=1, steps_per_epoch=1)
    template = jax.eval_shape(lambda: states.create(model, jax.random.key(0), spec.input_shape, optimizer))
    if experiment.optimizer.ema is not None:
        template = template.replace(ema_params=template.params)
    with Checkpoints(path / "checkpoints", read_only=True) as checkpoints:
        step = (
            {"latest": checkpoints.latest, "best": checkpoints.best}[checkpoint]()
            if isinstance(checkpoint, str)
            else checkpoint
        )
        if step is None:
            raise CheckpointError(f"{source} has no {checkpoint} checkpoint yet")
        return spec, model, checkpoints.restore(template, step)[0]


def _placeholder(model: ImageModel, input_shape: tuple[int, int, int]) -> State:
    """A state whose parameters are shapes only: random ones would be thrown away."""
    try:
        state = jax.eval_shape(lambda: states.create(model, jax.random.key(0), input_shape))
    except InputError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # The description of a file may contradict itself in ways that only its network can tell.
        shape = "x".join(map(str, input_shape))
        raise InputError(f"the network cannot be built for images of {shape}: {str(error)[:300]}") from error
    return state.replace(step=jnp.zeros((), jnp.int32), key=jax.random.key(0))
