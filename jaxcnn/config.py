"""An experiment as a value: frozen dataclasses, checked on construction, with a JSON round trip."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxcnn.errors import InputError, unknown_name

_T = TypeVar("_T")

Option: TypeAlias = bool | int | float | str


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise InputError(f"{name} is {value!r}; expected {expected}")


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuses what no key can be made of.

    Raises:
      InputError: the seed is not in [0, 2^32).
    """
    _require(0 <= seed < 2**32, name, seed, "0 to 2^32 - 1")


InitializerName: TypeAlias = Literal[
    "normal", "uniform", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "orthogonal"
]
"""Distributions of the initial kernels."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and its architecture options."""

    name: str = "lenet5"
    """Registered model name; `jaxcnn models` lists them."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Architecture options of that model, such as activation or pooling."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean subtracted inside the model, in [0, 1]; None takes the weights', or measures the images."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation, in (0, 1]; None takes the weights', or measures the images."""
    weights: str | None = None
    """Weight file to start from (.pth, .safetensors, .npz), with its mean and std; None starts at random."""
    new_head: bool = True
    """Start the last layer at random though the rest comes from `weights`."""
    initializer: InitializerName | None = None
    """Distribution that every kernel starts from: N(0, 0.01), U(-0.05, 0.05), or the paper's; None is the model's."""
    zero_gamma: bool = False
    """Start the last batch norm of every residual block with the scale 0, so that the block starts as its shortcut."""

    def __post_init__(self) -> None:
        _require((self.mean is None) == (self.std is None), "model.std", self.std, "mean and std together, or neither")
        if self.mean is not None and self.std is not None:
            _require(all(0 <= m <= 1 for m in self.mean), "model.mean", self.mean, "values in [0, 1]")
            _require(all(0 < s <= 1 for s in self.std), "model.std", self.std, "values in (0, 1]")
            _require(len(self.mean) == len(self.std), "model.std", self.std, f"{len(self.mean)} values, as in mean")
        if self.weights is not None:
            chosen = self.initializer
            _require(chosen is None, "model.initializer", chosen, "None, as model.weights says where to start")
            _require(not self.zero_gamma, "model.zero_gamma", True, "False, as model.weights says where to start")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they reach the device."""

    dataset: str = "digits"
    """`digits`, `folder`, or a TFDS image-classification dataset; `jaxcnn datasets` lists them."""
    directory: str | None = None
    """TFDS data directory, or the image folder; None follows TFDS (TFDS_DATA_DIR, ~/tensorflow_datasets)."""
    image_size: int | None = None
    """Height and width in pixels that every image is resized to (bilinear); None keeps the dataset's own."""
    validation: float = 0.0
    """Share of the training split held out for validation, in [0, 1); 0 follows training on the test split."""
    limit: int | None = None
    """Training images that are kept, drawn at random from the seed; None keeps all."""
    batch_size: int = 128
    """Global batch size in examples, over all devices."""
    storage: Literal["auto", "device", "stream"] = "auto"
    """Keep the decoded images on the device, stream them, or decide by size."""
    workers: int = 0
    """Worker processes that decode streamed images; 0 decodes in threads of this process."""
    augment: Mapping[str, float] = field(default_factory=dict)
    """Augmentations in order with their strengths, such as `crop 4 flip 0.5`; see jaxcnn.data.augment."""
    extra_class: str | None = None
    """Images (.npz, as of `jaxcnn fool`) that join the training split as one more class, called after the file."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "data.batch_size", self.batch_size, "at least 1")
        _require(0 <= self.validation < 1, "data.validation", self.validation, "a share in [0, 1)")
        limit, size = self.limit, self.image_size
        _require(limit is None or limit >= 1, "data.limit", limit, "at least 1")
        _require(size is None or 1 <= size <= 4096, "data.image_size", size, "1 to 4096 pixels")
        _require(self.workers >= 0, "data.workers", self.workers, "at least 0")
        for name, strength in self.augment.items():
            _require(
                math.isfinite(strength) and strength >= 0, f"data.augment of {name}", strength, "a number, at least 0"
            )


LossName: TypeAlias = Literal["cross_entropy", "binary_cross_entropy", "mse", "mae"]
"""Losses by name."""


@dataclass(frozen=True)
class LossConfig:
    """What training minimises: the mean over the batch of a sum over the classes, and penalties."""

    name: LossName = "cross_entropy"
    """Of the softmax, of a sigmoid for each class, or squared or absolute errors of the raw outputs."""
    label_smoothing: float = 0.0
    """Share of every target that is spread evenly over all classes, in [0, 1)."""
    l1: float = 0.0
    """Factor of the sum of |w| over all kernels; the squares are `optimizer.weight_decay`."""

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "loss.label_smoothing", smoothing, "a share in [0, 1)")
        _require(math.isfinite(self.l1) and self.l1 >= 0, "loss.l1", self.l1, "a number of at least 0")


OptimizerName: TypeAlias = Literal[
    "gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lars", "lamb", "muon"
]
"""Update rules by name."""
ScheduleName: TypeAlias = Literal["constant", "cosine", "steps", "exponential", "one_cycle", "plateau"]
"""Learning-rate schedules by name."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its learning-rate schedule."""

    name: OptimizerName = "momentum"
    """`gd` makes one update of all batches of an epoch, every other rule one of each batch."""
    learning_rate: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Momentum of `momentum`, `nesterov` and `lars`, in [0, 1)."""
    weight_decay: float = 0.0
    """Decay of kernels (never of biases or batch-norm parameters)."""
    decoupled: bool | None = None
    """Take rate * decay * kernel off the kernel, in place of an L2 penalty's gradient; None does in adamw and muon."""
    clip: float | None = None
    """Largest norm of the gradient of all parameters together, which is scaled down to it; None leaves it."""
    accumulate: int = 1
    """Batches whose mean gradient makes one update."""
    ema: float | None = None
    """Decay per step of a moving average of the parameters, in (0, 1), which evaluation uses; None keeps none."""
    schedule: ScheduleName = "constant"
    """How the learning rate goes on after the warm-up."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of training after which `steps` multiplies the learning rate by `drop`, increasing in (0, 1)."""
    drop: float = 0.1
    """Factor of the learning rate at a milestone of `steps`, in (0, 1)."""
    decay: float = 0.95
    """Factor of the learning rate after every epoch of `exponential`, in (0, 1)."""
    plateau_factor: float = 0.1
    """Factor of the learning rate in `plateau` when the held-out loss has stopped falling, in (0, 1)."""
    patience: int = 10
    """Evaluations without a lower loss that `plateau` lets pass; the next one lowers the learning rate."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factors of the learning rate by part, such as `rest 0 head 1`; 0 freezes, `rest` is what is not named."""

    def __post_init__(self) -> None:
        rate = self.learning_rate
        _require(math.isfinite(rate) and rate > 0, "optimizer.learning_rate", rate, "a positive number")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "a number in [0, 1)")
        for name in ("weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"optimizer.{name}", value, "a number of at least 0")
        inside = self.name not in ("lars", "lamb") or self.decoupled is None
        where = f"None with {self.name}, whose decay is part of its trust ratio"
        _require(inside, "optimizer.decoupled", self.decoupled, where)
        clip, ema = self.clip, self.ema
        _require(clip is None or (math.isfinite(clip) and clip > 0), "optimizer.clip", clip, "a positive number")
        _require(self.accumulate >= 1, "optimizer.accumulate", self.accumulate, "at least 1")
        alone = self.name != "gd" or self.accumulate == 1
        _require(alone, "optimizer.accumulate", self.accumulate, "1 with gd, which takes all batches of an epoch")
        _require(ema is None or 0 < ema < 1, "optimizer.ema", ema, "a number in (0, 1)")
        for name in ("drop", "decay", "plateau_factor"):
            _require(0 < getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "a factor in (0, 1)")
        _require(self.patience >= 0, "optimizer.patience", self.patience, "at least 0")
        ordered = tuple(sorted(set(self.milestones)))
        inside = all(0 < m < 1 for m in self.milestones)
        _require(
            inside and ordered == tuple(self.milestones),
            "optimizer.milestones",
            self.milestones,
            "increasing shares in (0, 1)",
        )
        for part, factor in self.rates.items():
            _require(
                math.isfinite(factor) and factor >= 0, f"optimizer.rates of {part}", factor, "a number, at least 0"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, from which seed, and what to keep."""

    epochs: int = 10
    """Times that all training images are seen."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images and every other random choice."""
    log_every: int = 50
    """Steps between two training records in metrics.jsonl."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; None saves after each epoch."""
    keep: int = 2
    """Newest checkpoints kept, besides the best."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the layers; parameters and batch statistics stay float32."""
    max_rollbacks: int = 3
    """Times a run whose loss is NaN or explodes goes back to a good checkpoint, with a tenth of the learning rate."""
    diagnose_every: int | None = None
    """Steps between two records of gradients, parameters and dead units; None writes none."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "training.epochs", self.epochs, "at least 1")
        check_seed(self.seed, "training.seed")
        _require(self.log_every >= 1, "training.log_every", self.log_every, "at least 1")
        every = self.checkpoint_every
        _require(every is None or every >= 1, "training.checkpoint_every", every, "at least 1")
        _require(self.keep >= 1, "training.keep", self.keep, "at least 1")
        _require(self.max_rollbacks >= 0, "training.max_rollbacks", self.max_rollbacks, "at least 0")
        every = self.diagnose_every
        _require(every is None or every >= 1, "training.diagnose_every", every, "at least 1")


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a training run.

    Which `model` learns which `data`, by which `optimizer`, for how long (`training`), and which `loss` becomes small.
    """

    name: str = "experiment"
    """Of the experiment, without '/'."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        _require(bool(self.name) and "/" not in self.name, "name", self.name, "a file name without '/'")


@dataclass(frozen=True)
class ModelSpec:
    """A model as a run has resolved it: enough to build it again with no dataset at hand."""

    name: str
    """Registered name, or the file that registers it and its name there."""
    options: Mapping[str, Option]
    """Architecture options of that model."""
    num_classes: int
    """Classes that it tells apart."""
    input_shape: tuple[int, int, int]
    """Height and width in pixels, and channels."""
    mean: tuple[float, ...]
    """Per-channel mean subtracted inside the model, in [0, 1]."""
    std: tuple[float, ...]
    """Per-channel standard deviation, in (0, 1]."""
    class_names: tuple[str, ...]
    """Of each class; may be empty."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the layers."""

    @property
    def title(self) -> str:
        """The name without the file."""
        return split_name(self.name)[1]


def split_name(name: str) -> tuple[str | None, str]:
    """The file that registers a network, None for one of jaxcnn's own, and its name there."""
    file, _, own = name.rpartition(":")
    return (file, own) if file.endswith(".py") else (None, name)


def absolute_name(name: str) -> str:
    """The name of a network, which finds its file from any folder, and is the same from all."""
    file, own = split_name(name)
    return own if file is None else f"{canonical(file)}:{own}"


def canonical(file: str | os.PathLike[str]) -> Path:
    """The one path of a file of code from all folders; the file itself may be a link to one of another name."""
    path = Path(os.path.expanduser(file))
    return path.parent.resolve() / path.name


def to_json(value: Any) -> dict[str, Any]:
    """A dataclass of this module as JSON objects, arrays and numbers."""
    return json.loads(json.dumps(dataclasses.asdict(value), allow_nan=False))


def from_json(cls: type[_T], data: Any, where: str = "") -> _T:
    """The dataclass `cls` read back from what `to_json` wrote.

    Args:
      cls: a dataclass of this module.
      data: the decoded JSON value.
      where: dotted path of `data` in the file, for messages.

    Returns:
      The value; `from_json(type(x), to_json(x)) == x`.

    Raises:
      InputError: a field is unknown, missing, of another type or out of range.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where or cls.__name__} is {data!r}; expected an object")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    if unknown := sorted(set(data) - set(fields)):
        raise unknown_name("setting", prefix + unknown[0], [prefix + name for name in fields])
    hints = get_type_hints(cls)
    values = {name: _decode(hints[name], value, prefix + name) for name, value in data.items()}
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(values)):
        raise InputError(f"{prefix + missing[0]} is missing; expected {hints[missing[0]]}")
    return cls(**values)


_INCONSEQUENTIAL = ("name", "data.directory", "data.storage", "data.workers", "training.keep")
_ORDERED = ("data.augment",)
_MOVING = ("data.extra_class",)  # files in a directory that may be moved as a whole


def difference(old: Experiment, new: Experiment) -> str | None:
    """The first setting that makes two experiments train differently, or None.

    The name, where the data lie and how they are read, and how many checkpoints stay change nothing that is computed.
    """
    before, after = _flatten(to_json(old)), _flatten(to_json(new))
    for flat in (before, after):
        for name in _MOVING:
            flat[name] = flat.get(name) and "/".join(PurePath(flat[name]).parts[-2:])
    for name in sorted(before.keys() | after.keys()):
        if name not in _INCONSEQUENTIAL and before.get(name) != after.get(name):
            return f"{name} was {before.get(name)!r} and is now {after.get(name)!r}"
    return None


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = prefix + name
        if path in _ORDERED:
            flat[path] = " ".join(f"{key} {float(number)}" for key, number in value.items())
        else:
            flat |= _flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        if value is not None and len(args) == 2 and types.NoneType in args:
            return _decode(next(member for member in args if member is not types.NoneType), value, where)
        for member in args:
            try:
                return _decode(member, value, where)
            except InputError:
                continue
    elif origin is Literal:
        if value in args:
            return value
        if isinstance(value, str):
            raise unknown_name(where, value, args)
    elif origin is tuple:
        if isinstance(value, list | tuple) and (args[-1] is Ellipsis or len(value) == len(args)):
            members = [args[0]] * len(value) if args[-1] is Ellipsis else args
            return tuple(_decode(m, v, f"{where}[{i}]") for i, (m, v) in enumerate(zip(members, value, strict=True)))
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, dict):
            return {str(k): _decode(args[1], v, f"{where}.{k}") for k, v in value.items()}
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    raise InputError(f"{where} is {value!r}; expected {getattr(kind, '__name__', kind)}")
