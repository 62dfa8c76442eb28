"""What goes on inside a network while it trains: sizes of parameters and gradients, and ReLUs that died."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array

from jaxcnn.errors import CheckpointError
from jaxcnn.layers import rectifiers
from jaxcnn.layers.rectifiers import Rectified
from jaxcnn.run import Metrics
from jaxcnn.state import State
from jaxcnn.train.step import AXIS

Objective: TypeAlias = Callable[[Any, State, Any], Any]

SPLIT = "diagnostics"


class Diagnosis(flax.struct.PyTreeNode):
    """What one training batch shows of a network; the names are static, in the order of the forward pass.

    Attributes:
      parameters: P paths, such as "stage1/block1/conv1/kernel".
      layers: L modules that have parameters, such as "stage1/block1/conv1".
      rectifiers: R ReLUs, each named after the layer that it takes, such as "stage1/block1/norm1".
      value: mean absolute value of each parameter, [P].
      gradient: mean absolute value of its gradient, [P].
      norm: L2 norm of the gradient of each layer's parameters, [L].
      dead: share of each ReLU's units (channels) that are zero at every position of every example, [R]; NaN for a
        ReLU that was not executed.
      zero: share of each ReLU's values that are zero, [R]; NaN likewise.
      gradients: the gradient of each parameter itself, P arrays.
    """

    # Not array types: JAX rebuilds pytrees around shapes, shardings and other placeholders.
    parameters: tuple[str, ...] = flax.struct.field(pytree_node=False)
    layers: tuple[str, ...] = flax.struct.field(pytree_node=False)
    rectifiers: tuple[str, ...] = flax.struct.field(pytree_node=False)
    value: Any
    gradient: Any
    norm: Any
    dead: Any
    zero: Any
    gradients: Any


DiagnosticsStep: TypeAlias = Callable[[State, Any], Diagnosis]


def make_diagnostics_step(objective: Objective) -> DiagnosticsStep:
    """Looks at the gradient step of a batch without taking it, for one device under a mapped axis named `AXIS`.

    Gradients are averaged over the axis, and a unit is dead if it is zero on every device. A ReLU is any max(x, 0) of
    an array with a batch, found in the traced program: the networks need not know, and ReLUs inside `jax.jit`,
    `jax.checkpoint`, `lax.scan` and `lax.cond` are seen, those in a `lax.while_loop` are not.

    Args:
      objective: a function of (params, state, batch) to the training loss of one device's share, or to that loss and
        more, as training differentiates it.

    Returns:
      A function from (state, batch) to the diagnosis; the state stays as it is.
    """

    def step(state: State, batch: Any) -> Diagnosis:
        called: list[str] = []
        with nn.intercept_methods(rectifiers.marker(called)):
            program = jax.make_jaxpr(lambda params: objective(params, state, batch))(state.params)

        def loss(params: Any) -> tuple[Array, list[Rectified]]:
            outputs, found = rectifiers.evaluate(program, jax.tree.leaves(params))
            return outputs[0], found

        gradients, found = jax.grad(loss, has_aux=True)(state.params)
        gradients, zero = jax.lax.pmean((gradients, [rectified.zero for rectified in found]), AXIS)
        alive = jax.lax.pmax([rectified.alive for rectified in found], AXIS)
        dead = [(1 - units).mean(-1) for units in alive]

        values: dict[str, Any] = flatten_dict(state.params, sep="/")
        gradients: dict[str, Any] = flatten_dict(gradients, sep="/")
        parameters, scanned = _forward_order(values, called)
        layers = tuple(dict.fromkeys(path.rpartition("/")[0] for path in parameters))
        names, order = _executions([(rectified.name, rectified.zero.size) for rectified in found], scanned)
        squares = dict.fromkeys(layers, jnp.zeros(()))
        for path in parameters:
            squares[path.rpartition("/")[0]] += jnp.sum(jnp.square(gradients[path]))
        return Diagnosis(
            parameters=parameters,
            layers=layers,
            rectifiers=rectifiers.distinct([names[i] for i in order]),
            value=jnp.stack([jnp.abs(values[path]).mean() for path in parameters]),
            gradient=jnp.stack([jnp.abs(gradients[path]).mean() for path in parameters]),
            norm=jnp.sqrt(jnp.stack(list(squares.values()))),
            dead=_concatenated(dead)[order],
            zero=_concatenated(zero)[order],
            gradients=tuple(gradients[path] for path in parameters),
        )

    return step


# ---- records of metrics.jsonl

_FIELDS = {
    "value": "parameters",
    "gradient": "parameters",
    "gradient_norm": "layers",
    "dead": "rectifiers",
    "zero": "rectifiers",
}


def record(step: int, diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis as a record for metrics.jsonl, whose objects keep the order of the forward pass.

    Args:
      step: the optimisation step, from 1, whose gradient was looked at.
      diagnosis: what was seen.

    Returns:
      JSON values: "step", "split", and objects "value", "gradient" (by parameter), "gradient_norm" (by layer), "dead"
      and "zero" (by ReLU), in which a number that is not finite is None.
    """
    result: dict[str, Any] = {"step": step, "split": SPLIT}
    for name, kind in _FIELDS.items():
        numbers = np.asarray(diagnosis.norm if name == "gradient_norm" else getattr(diagnosis, name)).tolist()
        finite = [number if math.isfinite(number) else None for number in numbers]
        result[name] = dict(zip(getattr(diagnosis, kind), finite, strict=True))
    return result


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by names such as "gradient_norm/conv1", as TensorBoard takes them."""
    return {f"{name}/{path}": number for name in _FIELDS for path, number in record[name].items() if number is not None}


class Series(NamedTuple):
    """One quantity over training, as figures take it.

    Attributes:
      steps: T optimisation steps.
      names: N parameters, layers or ReLUs, in the order of the forward pass.
      values: [T, N], NaN where there was no finite number.
    """

    steps: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray

    def select(self, keep: Callable[[str], bool]) -> Series:
        """The series of the names that `keep` accepts, such as kernels alone."""
        chosen = [i for i, name in enumerate(self.names) if keep(name)]
        return Series(self.steps, tuple(self.names[i] for i in chosen), self.values[:, chosen])


def series(records: Iterable[Mapping[str, Any]], quantity: str) -> Series:
    """One quantity of all diagnoses among the records of a run.

    Args:
      records: of metrics.jsonl, of any split.
      quantity: "value", "gradient", "gradient_norm", "dead" or "zero".

    Returns:
      The series; without a diagnosis, of no steps and no names.
    """
    chosen = [entry for entry in records if entry.get("split") == SPLIT]
    names = tuple(dict.fromkeys(name for entry in chosen for name in entry[quantity]))
    values = [[entry[quantity].get(name) for name in names] for entry in chosen]
    steps = np.array([entry["step"] for entry in chosen], int)
    return Series(steps, names, np.array(values, float).reshape(len(chosen), len(names)))


# ---- the clock

Part: TypeAlias = Literal["data", "step", "compilation", "diagnostics", "evaluation", "checkpoint", "other"]

_TRAINING: tuple[Part, ...] = ("data", "step", "other")


class Timing:
    """Where a run's wall time goes, in timing.jsonl, so that metrics.jsonl stays a function of the seed alone.

    The clock is read once at the end of each part of the work, so the parts add up to the whole. Records after `step`,
    of work that a kill made vain, are dropped.

    Args:
      directory: the run directory; None writes nothing.
      step: optimisation steps done already.
      clock: seconds from any moment.
    """

    def __init__(self, directory: Path | None, *, step: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._file = None if directory is None else Metrics(directory / "timing.jsonl")
        if self._file is not None:
            self._file.truncate(step)
        self._clock, self._last = clock, clock()
        self._seconds: dict[str, float] = {}
        self._images, self._spent = 0, 0.0

    @property
    def images_per_second(self) -> float:
        """Training images over the time spent in training, as far as it has been written; 0 before."""
        return self._images / self._spent if self._spent else 0.0

    def lap(self, part: Part) -> None:
        """Counts the time since the last lap, or since the beginning, for `part`."""
        now = self._clock()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._last
        self._last = now

    def write(self, step: int, images: int) -> float:
        """Appends the seconds of each part since the last record.

        Args:
          step: optimisation steps done.
          images: training images since the last record, without those of a step that was compiled.

        Returns:
          Those images over the time spent in training them.
        """
        spent = sum(self._seconds.get(part, 0.0) for part in _TRAINING)
        rate = images / spent if spent else 0.0
        if self._file is not None:
            self._file.append({"step": step, "images": images, "images_per_second": rate, "seconds": self._seconds})
        self._seconds = {}
        self._images, self._spent = self._images + images, self._spent + spent
        return rate


def read_timing(directory: Path) -> tuple[dict[str, float], float]:
    """Seconds of each part of a run, the longest first, and training images per second while it trained.

    Compilation, evaluation, diagnostics and saving are not training. Without the file there are none.

    Raises:
      CheckpointError: the file is damaged.
    """
    seconds: dict[str, float] = {}
    images, file = 0, Metrics(directory / "timing.jsonl")
    try:
        for entry in file.read():
            images += entry["images"]
            for part, spent in entry["seconds"].items():
                seconds[part] = seconds.get(part, 0.0) + spent
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file.path} is damaged ({type(error).__name__}: {error}); expected the records of training, or no file"
        ) from error
    spent = sum(seconds.get(part, 0.0) for part in _TRAINING)
    return dict(sorted(seconds.items(), key=lambda item: -item[1])), images / spent if spent else 0.0


# ---- names: which module, in the order of the forward pass


def _natural(path: str) -> list[tuple[str, int]]:
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"([^\d/]*)(\d*)", path)]


def _forward_order(
    parameters: Iterable[str], called: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Paths of parameters in the order in which their modules are called, and what scanned modules stand for.

    A module that is called and has no parameters of its own name in the state, as the body of a scan over stacked
    parameters, stands for its siblings that are there and not called.
    """
    position = {path: place for place, path in reversed(list(enumerate(called)))}
    owned = {path[:end] for path in parameters for end, letter in enumerate(path) if letter == "/"}
    uncalled = sorted(owned - position.keys(), key=_natural)
    uncalled = [path for path in uncalled if path.rpartition("/")[0] not in uncalled]
    scanned = {}
    for path in position.keys() - owned:
        siblings = tuple(other for other in uncalled if other.rpartition("/")[0] == path.rpartition("/")[0])
        if siblings and any(inner.startswith(path + "/") for inner in position):
            scanned[path] = siblings
    instance = {sibling: (body, place) for body, siblings in scanned.items() for place, sibling in enumerate(siblings)}

    def place(path: str) -> tuple[Any, ...]:
        module, _, name = path.rpartition("/")
        for end in [i for i, letter in enumerate(path) if letter == "/"]:
            if path[:end] in instance:
                body, number = instance[path[:end]]
                inner = position.get(body + module[end:], len(called))
                return position[body], number, inner, name == "bias", _natural(path)
        return position.get(module, len(called)), 0, 0, name == "bias", _natural(path)

    return tuple(sorted(parameters, key=place)), scanned


def _executions(
    rectifiers: Sequence[tuple[str, int]], scanned: Mapping[str, Sequence[str]]
) -> tuple[list[str], np.ndarray]:
    """Names for each execution of each ReLU, given how often it is executed, and their order in the forward pass."""
    names: list[str] = []
    keys: list[tuple[int, int, int]] = []
    first: dict[str, int] = {}
    for number, (path, count) in enumerate(rectifiers):
        bodies = [body for body in scanned if (path + "/").startswith(body + "/") and len(scanned[body]) == count]
        body = bodies[0] if bodies else path
        group = first.setdefault(body, number) if bodies else number
        for i in range(count):
            instance = scanned[body][i] if bodies else path if count == 1 else f"{path}/{i + 1}"
            names.append(instance + path[len(body) :])
            keys.append((group, i, number))
    return names, np.array(sorted(range(len(names)), key=keys.__getitem__), int)


def _concatenated(shares: Sequence[Array]) -> Array:
    # A mean multiplies by a rounded reciprocal, so a share of all may come out above 1.
    return jnp.minimum(jnp.concatenate([jnp.zeros(0), *(share.ravel() for share in shares)]), 1)
