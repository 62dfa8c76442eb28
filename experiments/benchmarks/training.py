"""Training from end to end: jaxcnn's loop beside a plain PyTorch loop, and ResNet-50 on a GPU.

Command: python experiments/benchmarks/training.py --data ~/tensorflow_datasets [--networks lenet5 --rounds 3]
Prints: for LeNet-5 on MNIST and ResNet-20 on CIFAR-10 (padded crops and flips) the training images per second of the
whole loop (data, augmentation, step, logging; neither compiling nor evaluating nor saving): the median over the
rounds, the best round, the median of the ratio to jaxcnn within a round, and the loss at the end, which must be
alike. Then the share of jaxcnn's time that is not spent in the compiled step. Where JAX has a GPU, ResNet-50 at 224
in bfloat16, in images per second and as a share of the chip's measured bfloat16 matrix rate.

Every turn is a process of its own that trains the experiment from its beginning, and all implementations take their
turn in every round, so that a slow spell of the machine meets all of them alike. Images, batch size, rule and records
are the same on both sides; PyTorch draws its own first parameters and its own order. The allocator's settings are part
of jaxcnn: PyTorch runs with those that a process has.
PyTorch's rows need PyTorch; its compiled rows a C++ compiler (on a GPU, Triton).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from race import Outcome, apart, in_turn, require_rounds

from jaxcnn.allocator import keep_freed_memory
from jaxcnn.cli.terminal import exit_status
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, OptimizerConfig, TrainingConfig

if TYPE_CHECKING:
    from jaxcnn.data.pipeline import Batch

# JAX, NumPy and PyTorch are imported where they are needed: the allocator is set before they start their threads.

_RULE = OptimizerConfig("momentum", learning_rate=0.05, weight_decay=1e-4)
EXPERIMENTS = (
    Experiment("LeNet-5 on MNIST", ModelConfig("lenet5"), DataConfig("mnist"), _RULE, TrainingConfig(epochs=6)),
    Experiment(
        "ResNet-20 on CIFAR-10",
        ModelConfig("cifar_resnet20"),
        DataConfig("cifar10", augment={"crop": 4.0, "flip": 0.5}),
        _RULE,
        TrainingConfig(epochs=1),
    ),
)
IMAGENET = ModelSpec(
    "resnet50", {}, 1000, (224, 224, 3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), ("",) * 1000, "bfloat16"
)


# ---- jaxcnn


def resident_steps(experiment: Experiment, spec: ModelSpec, batch: Batch) -> Callable[[int], float]:
    """The training step that the loop compiles, on one batch that is there already.

    Args:
      experiment: its optimizer, loss and augmentation count.
      spec: the network.
      batch: images and labels on the devices.

    Returns:
      A function from a number of steps to the mean seconds of one, the host staying two steps ahead as in the loop.
    """
    import jax

    from jaxcnn import models, state
    from jaxcnn.train import optimizers
    from jaxcnn.train.parallel import map_train_step, replicate
    from jaxcnn.train.step import AXIS, make_train_step

    model = models.from_spec(spec, axis_name=AXIS)
    optimizer = optimizers.create(experiment.optimizer, total_steps=1000, steps_per_epoch=100)
    step = map_train_step(make_train_step(model, optimizer, experiment), jax.devices())
    initial = state.create(model, jax.random.key(0), spec.input_shape, optimizer)
    current, _ = step(replicate(initial, jax.devices()), batch)

    def run(steps: int) -> float:
        nonlocal current
        jax.block_until_ready(current)
        start = time.perf_counter()
        ahead: list[Any] = []
        for _ in range(steps):
            current, metrics = step(current, batch)
            ahead = [*ahead[-2:], metrics]
            jax.block_until_ready(ahead[0])
        jax.block_until_ready(current)
        return (time.perf_counter() - start) / steps

    run(2)
    return run


def train_jaxcnn(experiment: Experiment) -> Outcome:
    """Trains with jaxcnn, and times the compiled step by itself after every epoch, while the loop's clock stands."""
    keep_freed_memory()
    import jax
    import numpy as np
    from rich.console import Console

    from jaxcnn import run
    from jaxcnn.data import open_split, pipeline, plan
    from jaxcnn.train import diagnostics
    from jaxcnn.train.loop import train
    from jaxcnn.train.start import resolve

    source, devices = open_split(experiment.data, "train", experiment.training.seed), jax.devices()
    epoch = plan.steps_per_epoch(len(source), experiment.data.batch_size)
    batches = pipeline.training(source, experiment.data, seed=0, start_step=0, stop_step=1, devices=devices)
    resident = resident_steps(experiment, resolve(experiment, source), next(iter(batches)))
    repeats = max(1, min(epoch // 20, 15))
    alone: list[float] = []

    def evaluated(*_: object) -> None:
        alone.append(float(np.median([resident(20) for _ in range(repeats)])))

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        terminal = Console(file=io.StringIO(), force_terminal=True)  # with the progress bar and its thread
        train(experiment, directory, console=terminal, evaluated=evaluated)
        rate = diagnostics.read_timing(directory)[1]
        timing = run.Metrics(directory / "timing.jsonl").read()
        losses = [record["loss"] for record in run.metrics(directory).read() if record["split"] == "train"]
    outside = outside_step(timing, alone, epoch, experiment.data.batch_size)
    return Outcome(rate, float(np.mean(losses[-3:])), float(np.median(alone)), outside)


def outside_step(
    timing: Sequence[Mapping[str, Any]], alone: Sequence[float], steps_per_epoch: int, batch_size: int
) -> tuple[float, ...]:
    """The share of the loop's time that was not spent in the compiled step, 1 - steps * step / seconds, of each epoch.

    Args:
      timing: the records of timing.jsonl.
      alone: seconds of the compiled step by itself, measured after every epoch.
      steps_per_epoch: optimisation steps of an epoch.
      batch_size: images of a step.
    """
    shares = []
    for number, after in enumerate(alone):
        records = [record for record in timing if (record["step"] - 1) // steps_per_epoch == number]
        seconds = sum(r["seconds"].get(part, 0.0) for r in records for part in ("data", "step", "other"))
        steps = sum(record["images"] for record in records) / batch_size
        # The machine drifts, so the step counts as it was before the epoch and after it (before the first it was not).
        step = (alone[max(number - 1, 0)] + after) / 2
        shares.append(1 - steps * step / seconds)
    return tuple(shares)


# ---- PyTorch


def write_images(experiment: Experiment, file: Path) -> None:
    """Writes what PyTorch trains on: the training split as jaxcnn decodes it, with the mean and std it measures."""
    import numpy as np

    from jaxcnn.data import open_split, pipeline
    from jaxcnn.train.start import resolve

    source = open_split(experiment.data, "train", experiment.training.seed)
    images, labels = pipeline.decode(source)
    spec = resolve(experiment, source)
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
    np.savez(file, images=images, labels=labels.astype(np.int64), mean=mean, std=std)


def train_torch(experiment: Experiment, file: Path, channels_last: bool, compiled: bool) -> Outcome | str:
    """What `torch_loop.train` gives; PyTorch is first imported here, in the process of this turn."""
    import torch_loop

    return torch_loop.train(experiment, file, channels_last=channels_last, compiled=compiled)


# ---- the comparison


def compare(
    experiment: Experiment, rounds: int, compiled: Sequence[bool] = (False, True)
) -> dict[str, list[Outcome | str]]:
    """What each implementation gives in each round, jaxcnn first.

    Args:
      experiment: what all of them train.
      rounds: how often all take their turn.
      compiled: whether PyTorch runs plain, compiled, or both; each in both memory layouts.
    """
    turns: dict[str, Callable[[], Outcome | str]] = {"jaxcnn": apart(train_jaxcnn, experiment)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        if importlib.util.find_spec("torch"):
            apart(write_images, experiment, file)()
            for compiling, channels_last in itertools.product(compiled, (False, True)):
                name = " ".join(["PyTorch", *["channels_last"] * channels_last, *["compiled"] * compiling])
                turns[name] = apart(train_torch, experiment, file, channels_last, compiling)
        return in_turn(turns, rounds)


def show(results: dict[str, list[Outcome | str]], batch_size: int) -> None:
    """Prints the table of one experiment, and where jaxcnn's time went."""
    import numpy as np

    ran = {name: [each for each in turns if isinstance(each, Outcome)] for name, turns in results.items()}
    rates = {name: np.array([each.images_per_second for each in turns]) for name, turns in ran.items()}
    print(f"{'':34}{'median':>10}{'best':>10}{'jaxcnn / it':>14}{'loss':>9}")
    for name, values in rates.items():
        if len(values) < len(results[name]):
            print(f"{name:34}{next(each for each in results[name] if isinstance(each, str))}")
            continue
        ratio = np.median(rates["jaxcnn"] / values)
        loss = np.median([each.loss for each in ran[name]])
        print(f"{name:34}{np.median(values):10,.0f}{values.max():10,.0f}{ratio:14.2f}{loss:9.3f}")
    own = ran["jaxcnn"]
    outside = np.array([share for each in own for share in each.outside])
    low, middle, high = np.quantile(outside, (0.25, 0.5, 0.75))
    step = np.median([each.step for each in own])
    print(
        f"jaxcnn: {middle:.1%} of the time is not spent in the compiled step (quartiles {low:.1%} and {high:.1%} of "
        f"{len(outside)} epochs), which takes {1e3 * step:.2f} ms by itself, {batch_size / step:,.0f} images/s"
    )


# ---- ResNet-50 on a GPU


def matrix_rate(size: int) -> float:
    """Floating-point operations per second of a bfloat16 product of two square matrices of `size` rows."""
    import jax
    import jax.numpy as jnp

    # Products of such matrices stay of one size, and numbers that vary draw the power that real ones do.
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)
    a /= size**0.5
    product = jax.jit(jnp.matmul)
    rates = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(20):
            b = product(a, b)
        b.block_until_ready()
        rates.append(20 * 2 * size**3 / (time.perf_counter() - start))
    return max(rates[1:])


def imagenet_rate(spec: ModelSpec, batch_size: int) -> tuple[float, int]:
    """Images per second and device of a network's training step on a resident batch, and its multiply-adds an image.

    Args:
      spec: the network.
      batch_size: images of a step on each device.
    """
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxcnn import models
    from jaxcnn.analysis import summary
    from jaxcnn.data.pipeline import Batch
    from jaxcnn.train.parallel import replicated
    from jaxcnn.train.step import AXIS

    devices, rng = jax.devices(), np.random.default_rng(0)
    shape = (len(devices), batch_size)
    images = rng.integers(0, 256, (*shape, *spec.input_shape), np.uint8)
    labels = rng.integers(0, spec.num_classes, shape, np.int32)
    sharding = NamedSharding(replicated(devices).mesh, PartitionSpec(AXIS))
    batch = Batch(*jax.device_put((images, labels, np.ones(shape, bool)), sharding))
    run = resident_steps(Experiment(optimizer=_RULE), spec, batch)
    seconds = float(np.median([run(20) for _ in range(5)]))
    return batch_size / seconds, summary.table(models.from_spec(spec), spec.input_shape).totals.multiply_adds


def resnet50() -> str:
    """One line about ResNet-50 at 224 in bfloat16, at the largest batch of 256, 128 or 64 that fits on the GPU."""
    keep_freed_memory()
    import jax

    if jax.default_backend() != "gpu":
        return f"ResNet-50 at 224 was not run: it needs a GPU, and JAX has {jax.devices()[0].device_kind}."
    peak = matrix_rate(8192)
    for batch_size in (256, 128, 64):
        try:
            rate, multiply_adds = imagenet_rate(IMAGENET, batch_size)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            continue
        # The gradients with respect to inputs and kernels cost as much again each.
        share = rate * 3 * 2 * multiply_adds / peak
        return (
            f"ResNet-50 at 224, bfloat16, batch {batch_size}, on {jax.devices()[0].device_kind}: {rate:,.0f} images/s, "
            f"{share:.1%} of the {peak / 1e12:,.0f} TFLOP/s of a matrix product"
        )
    return "ResNet-50 at 224 was not run: not even a batch of 64 fits into the GPU's memory."


def main(
    data: str | None = None,
    networks: Sequence[Literal["lenet5", "cifar_resnet20"]] = ("lenet5", "cifar_resnet20"),
    rounds: int = 3,
) -> None:
    """Prints the tables.

    Args:
      data: TFDS data directory with mnist and cifar10; None follows TFDS (TFDS_DATA_DIR, ~/tensorflow_datasets).
      networks: those of the experiments that are run.
      rounds: how often all implementations take their turn.
    """
    require_rounds(rounds)
    print(f"jax {version('jax')}, {os.cpu_count()} CPU cores, float32, images/s")
    if not importlib.util.find_spec("torch"):
        print("PyTorch is not installed: its rows are left out.")
    for experiment in EXPERIMENTS:
        if experiment.model.name in networks:
            experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, directory=data))
            print(f"\n{experiment.name}, batch {experiment.data.batch_size}, epochs: {experiment.training.epochs}")
            show(compare(experiment, rounds), experiment.data.batch_size)
    print(f"\n{apart(resnet50)()}")


if __name__ == "__main__":
    sys.exit(exit_status(lambda: tyro.cli(main)))
