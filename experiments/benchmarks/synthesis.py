"""Activation maximisation beside a plain PyTorch loop: the same objective, parametrisation, transforms and optimiser.

Command: python experiments/benchmarks/synthesis.py [--batch-sizes 1 16 --seconds 5 --rounds 5]
Prints: for SqueezeNet 1.0 and ResNet-18 at 224x224 in float32 and each batch size the steps per second of gradient
ascent on a logit (Fourier coefficients with 1/f amplitudes, clipping, padding, scale, rotation, jitter, Adam),
jaxcnn's and PyTorch's (the median over the rounds), and the median of their ratio within a round. Both run in turn in
every round, so that a slow spell of the machine meets both alike. PyTorch scales and turns in one `grid_sample`. Then
evolution's evaluations per second (MAP-Elites, 200 children a generation: drawn, evaluated and kept) for LeNet-5 with
both encodings and SqueezeNet with CPPNs. Needs PyTorch and torchvision. With the defaults, ten minutes at most.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch
import tyro
from inference import torchvision_models
from race import Steps, race, require_rounds

import jaxcnn.models
import jaxcnn.state
from jaxcnn.allocator import keep_freed_memory
from jaxcnn.analysis import evolution, maximize, parametrization
from jaxcnn.analysis.evolution import EncodingName
from jaxcnn.analysis.objectives import logit
from jaxcnn.analysis.transforms import Jitter, Pad, Rotate, Scale, robust
from jaxcnn.cli.terminal import exit_status

NETWORKS = ("squeezenet1_0", "resnet18")
EVOLUTIONS: tuple[tuple[str, EncodingName], ...] = (
    ("lenet5", "direct"),
    ("lenet5", "cppn"),
    ("squeezenet1_0", "cppn"),
)
POPULATION = 200
SIZE = 224
TARGET = 7


def jax_steps(name: str, batch_size: int) -> Steps:
    """jaxcnn's loop, a segment of steps at a time."""
    model = jaxcnn.models.create(name)
    state = jaxcnn.state.create(model, jax.random.key(0), (SIZE, SIZE, 3))
    space = parametrization.fourier((SIZE, SIZE, 3))
    progress = None

    def run(steps: int) -> None:
        nonlocal progress
        asked = {"key": jax.random.key(0), "count": batch_size, "parametrization": space}
        found = maximize.run(model, state, logit(TARGET), steps=steps, progress=progress, **asked)
        progress = jax.block_until_ready(found).progress

    return run


def torch_steps(models: Any, name: str, batch_size: int) -> Steps:
    """The plain loop."""
    network = getattr(models, name)(weights=None).eval().requires_grad_(False)
    space = parametrization.fourier((SIZE, SIZE, 3))
    amplitudes = torch.from_numpy(np.array(space.amplitudes)).permute(2, 0, 1)[None]
    colors = torch.from_numpy(np.array(space.colors))
    coefficients = maximize.START * torch.randn(batch_size, 3, SIZE, SIZE // 2 + 1, 2)
    coefficients.requires_grad_()
    adam = torch.optim.Adam([coefficients], maximize.RATE)
    pad, scale, rotate, jitter = robust(SIZE, SIZE)
    assert isinstance(pad, Pad)
    assert isinstance(scale, Scale)
    assert isinstance(rotate, Rotate)
    assert isinstance(jitter, Jitter)

    def step() -> None:
        waves = torch.view_as_complex(coefficients) * amplitudes
        planes = torch.fft.irfft2(waves, s=(SIZE, SIZE), norm="ortho")
        images = (0.5 + torch.einsum("nkhw,ck->nchw", planes, colors)).clip(0, 1)
        x = torch.nn.functional.pad(images - 0.5, (pad.pixels,) * 4)
        factor = np.random.uniform(scale.lowest, scale.highest)  # noqa: NPY002
        angle = np.deg2rad(np.random.uniform(-rotate.degrees, rotate.degrees))  # noqa: NPY002
        cosine, sine = np.cos(angle) / factor, np.sin(angle) / factor
        turn = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0]], dtype=torch.float32)
        grid = torch.nn.functional.affine_grid(turn[None].expand(batch_size, -1, -1), list(x.shape), False)
        x = torch.nn.functional.grid_sample(x, grid, align_corners=False)
        row, column = np.random.randint(0, jitter.pixels + 1, 2)  # noqa: NPY002
        x = x[:, :, row : row + SIZE, column : column + SIZE] + 0.5
        adam.zero_grad()
        (-network(x)[:, TARGET].sum()).backward()
        adam.step()

    def run(steps: int) -> None:
        for _ in range(steps):
            step()

    return run


def evolution_steps(name: str, encoding: EncodingName) -> Steps:
    """Generations of the evolution of images for all classes, each going on from the archive before it."""
    model = jaxcnn.models.create(name)
    shape = jaxcnn.models.facts(name).input_shape
    state = jaxcnn.state.create(model, jax.random.key(0), shape)
    archive = None

    def run(generations: int) -> None:
        nonlocal archive
        until = generations + (0 if archive is None else int(archive.generation))
        asked = {"key": jax.random.key(0), "encoding": encoding, "population": POPULATION}
        found = evolution.map_elites(model, state, shape, generations=until, archive=archive, **asked)
        archive = jax.block_until_ready(found.archive)

    return run


def main(
    networks: Sequence[str] = NETWORKS,
    batch_sizes: Sequence[int] = (1, 16),
    evolutions: Sequence[tuple[str, EncodingName]] = EVOLUTIONS,
    seconds: float = 5.0,
    rounds: int = 5,
) -> None:
    """Prints the tables.

    Args:
      networks: names that jaxcnn and torchvision share.
      batch_sizes: images at once.
      evolutions: networks and the encodings of their images.
      seconds: duration of one loop's share of a round.
      rounds: how often both take their turn.
    """
    require_rounds(rounds)
    models = torchvision_models()
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, PyTorch {torch.__version__}, {SIZE}x{SIZE}, float32, steps/s\n")
    print("| network | batch | jaxcnn | PyTorch | jaxcnn / PyTorch |")
    print("| --- | --- | --- | --- | --- |")
    for name in networks:
        for batch_size in batch_sizes:
            loops = {"jaxcnn": jax_steps(name, batch_size), "PyTorch": torch_steps(models, name, batch_size)}
            rates = {way: values / batch_size for way, values in race(loops, batch_size, seconds, rounds).items()}
            speeds = " | ".join(f"{np.median(values):,.2f}" for values in rates.values())
            print(
                f"| {name} | {batch_size} | {speeds} | {np.median(rates['jaxcnn'] / rates['PyTorch']):.2f} |",
                flush=True,
            )
    print("\n| network | encoding | evaluations/s |")
    print("| --- | --- | --- |")
    for name, encoding in evolutions:
        rates = race({"jaxcnn": evolution_steps(name, encoding)}, POPULATION, seconds, rounds)
        print(f"| {name} | {encoding} | {np.median(rates['jaxcnn']):,.0f} |", flush=True)


if __name__ == "__main__":
    keep_freed_memory()  # as the command does, before there are threads; PyTorch has its turns under the same
    sys.exit(exit_status(lambda: tyro.cli(main)))
