"""What a search varies: settings of an experiment by their dotted names, each with a range or with choices."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from jaxcnn import models
from jaxcnn.config import Experiment, Option, absolute_name, from_json, to_json
from jaxcnn.errors import InputError, unknown_name

Distribution: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution
Space: TypeAlias = Mapping[str, Distribution]

# They decide which images trials are scored on, or for how long they train, or cannot change the score.
_HELD = (
    *("name", "data.dataset", "data.directory", "data.validation", "data.storage", "data.workers"),
    *("training.epochs", "training.seed", "training.max_rollbacks", "training.log_every", "training.keep"),
    *("training.checkpoint_every", "training.diagnose_every"),
)


def default(experiment: Experiment) -> Space:
    """The learning rate and the weight decay, each over a factor of 100 around the experiment's own, on log scales.

    A weight decay of 0 has no surroundings; it is searched from 1e-6 to 1e-2.
    """
    rate, decay = experiment.optimizer.learning_rate, experiment.optimizer.weight_decay
    low, high = (decay / 10, decay * 10) if decay else (1e-6, 1e-2)
    return {
        "optimizer.learning_rate": FloatDistribution(rate / 10, rate * 10, log=True),
        "optimizer.weight_decay": FloatDistribution(low, high, log=True),
    }


def parse(experiment: Experiment, varied: Mapping[str, str]) -> Space:
    """The space that text describes, checked by building the network with all choices and with the ends of all ranges.

    Args:
      experiment: what is searched around.
      varied: by dotted setting, as on the command line: `LOW:HIGH`, `LOW:HIGH:log` or `LOW:HIGH:STEP` of a number
        (a step, of a whole number), or choices separated by commas.

    Returns:
      The space; its settings are named with underscores, as in Python.

    Raises:
      InputError: no such setting, one that cannot be varied, or a value that the setting or the network refuses.
    """
    texts: dict[str, str] = {}
    for spelling, text in varied.items():
        name = spelling.replace("-", "_")
        if name in texts:
            raise InputError(f"{name} varies over {texts[name]!r} and over {text!r}; expected one of them")
        texts[name] = text
    name = absolute_name(experiment.model.name)
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, name=name))
    networks = [name]
    if "model.name" in texts:
        networks = [absolute_name(choice.strip()) for choice in texts["model.name"].split(",")]
    kinds = _kinds(experiment, networks[0])
    space: dict[str, Distribution] = {}
    for name, text in texts.items():
        if name in _HELD:
            raise InputError(f"{name} cannot be varied; expected a setting that changes how a network learns")
        if name not in kinds:
            raise unknown_name("setting", name, kinds.keys() - set(_HELD))
        kind = kinds[name]
        if kind in (int, float) and ":" in text:
            space[name] = _range(name, text, kind)
        else:
            values = networks if name == "model.name" else [_value(name, part, kind) for part in text.split(",")]
            space[name] = _choices(name, text, values, kind)
    for network in networks:
        for name, distribution in space.items():
            for value in _ends(distribution):
                chosen = apply(experiment, {"model.name": network, name: value})
                if name.startswith("model.") or name == "data.image_size":
                    _require_traceable(chosen)
    return space


def apply(experiment: Experiment, parameters: Mapping[str, Option]) -> Experiment:
    """The experiment with some settings changed; a network that is not its own starts from that network's options.

    Args:
      experiment: what to change.
      parameters: values by dotted setting.

    Raises:
      InputError: a value is of another type or out of range.
    """
    data = to_json(experiment)
    if parameters.get("model.name", experiment.model.name) != experiment.model.name:
        data["model"]["options"] = {}
    for name, value in parameters.items():
        *parents, last = name.split(".")
        target = data
        for parent in parents:
            target = target[parent]
        target[last] = value
    return from_json(Experiment, data)


def own(experiment: Experiment, space: Space) -> dict[str, Option] | None:
    """The experiment's own values of what the space varies, or None where it has none or one lies outside."""
    values = {}
    for name, distribution in space.items():
        value: Any = to_json(experiment)
        value["model"]["options"] = models.options(experiment.model.name) | value["model"]["options"]
        for part in name.split("."):
            value = value.get(part)
        if not _contains(distribution, value):
            return None
        values[name] = value
    return values


def _contains(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if value is None or not distribution.low <= value <= distribution.high:
        return False
    return isinstance(distribution, FloatDistribution) or (value - distribution.low) % distribution.step == 0


def _require_traceable(experiment: Experiment) -> None:
    """Refuses what the network would refuse only when its trial begins, hours later perhaps."""
    name = experiment.model.name
    model = models.create(name, **experiment.model.options)
    height, width, channels = models.facts(name).input_shape
    size = experiment.data.image_size
    images = jax.ShapeDtypeStruct((1, size or height, size or width, channels), jnp.float32)
    jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)


def _kinds(experiment: Experiment, network: str) -> dict[str, type]:
    """The types of the settings that can be varied, by dotted name."""
    known = {f"model.options.{name}": type(value) for name, value in models.options(network).items()}
    known |= {f"data.augment.{name}": float for name in experiment.data.augment}
    known |= {f"optimizer.rates.{name}": float for name in experiment.optimizer.rates}

    def collect(cls: type, prefix: str) -> None:
        for name, hint in get_type_hints(cls).items():
            if dataclasses.is_dataclass(hint):
                collect(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
                continue
            if get_origin(hint) in (Union, types.UnionType):
                (hint,) = (member for member in get_args(hint) if member is not types.NoneType)
            kind = type(get_args(hint)[0]) if isinstance(next(iter(get_args(hint)), None), str) else hint
            if kind in (bool, int, float, str):
                known[prefix + name] = kind

    collect(Experiment, "")
    return known


def _value(name: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name} is {text!r}; expected true or false")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; expected {'a whole number' if kind is int else 'a number'}") from None
    if not math.isfinite(value):
        raise InputError(f"{name} is {text!r}; expected a finite number")
    return value


def _range(name: str, text: str, kind: type) -> Distribution:
    first, _, rest = text.partition(":")
    second, _, how = rest.partition(":")
    low, high = _value(name, first, kind), _value(name, second, kind)
    if not low < high:
        raise InputError(f"{name} ranges over {text!r}; expected LOW:HIGH with LOW below HIGH")
    log = how == "log"
    if log and low <= 0:
        raise InputError(f"{name} ranges over {text!r}; expected LOW above 0 on a log scale")
    if kind is float:
        if how not in ("", "log"):
            raise InputError(f"{name} ranges over {text!r}; expected LOW:HIGH or LOW:HIGH:log")
        return FloatDistribution(low, high, log=log)
    step = 1 if how in ("", "log") else _value(name, how, int)
    if not 1 <= step <= high - low:
        raise InputError(f"{name} ranges over {text!r} in steps of {step}; expected 1 to {high - low}")
    return IntDistribution(low, high - (high - low) % step, log=log, step=step)


def _choices(name: str, text: str, values: Sequence[Any], kind: type) -> Distribution:
    if len(values) < 2 or len(set(values)) < len(values):
        ranges = ", or a range LOW:HIGH, LOW:HIGH:log" if kind in (int, float) else ""
        raise InputError(f"{name} varies over {text!r}; expected at least two different values a,b{ranges}")
    return CategoricalDistribution(values)


def _ends(distribution: Distribution) -> Sequence[Any]:
    categorical = isinstance(distribution, CategoricalDistribution)
    return distribution.choices if categorical else (distribution.low, distribution.high)
