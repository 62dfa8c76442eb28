"""Training throughput of LeNet-5 and ResNet-20 beside plain flax layers and PyTorch.

Command: python experiments/benchmarks/training_step.py [--seconds 2 --rounds 7]
Prints: for each network and implementation the images per second of one whole step (forward, backward, momentum
update) at batch 128 in float32: the median over the rounds, the best round, and the median of the ratio to jaxcnn
within a round. All implementations of a network run in turn in every round, so that a slow spell of the machine
meets all of them alike. PyTorch's rows need PyTorch.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from race import Steps, race, require_rounds

import jaxcnn.models
from jaxcnn.cli.terminal import exit_status
from jaxcnn.layers.convolution import compiler_options

BATCH, LEARNING_RATE, MOMENTUM = 128, 0.1, 0.9
SHAPES = {"lenet5": (32, 32, 1), "cifar_resnet20": (32, 32, 3)}


class FlaxLeNet5(nn.Module):
    """LeNet-5 from linen's own layers."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits [N, 10]."""
        del train
        x = nn.avg_pool(nn.tanh(nn.Conv(6, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.avg_pool(nn.tanh(nn.Conv(16, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.tanh(nn.Conv(120, (5, 5), padding="VALID")(x)).reshape(x.shape[0], -1)
        return nn.Dense(10)(nn.tanh(nn.Dense(84)(x)))


class FlaxResNet20(nn.Module):
    """ResNet-20 with option A shortcuts from linen's own layers."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits [N, 10]."""

        def layer(x: jax.Array, features: int, stride: int) -> jax.Array:
            x = nn.Conv(features, (3, 3), stride, padding=1, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(layer(x, 16, 1))
        for features, stride in ((16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)):
            y = layer(nn.relu(layer(x, features, stride)), features, 1)
            x = x[:, ::stride, ::stride]
            extra = (features - x.shape[-1]) // 2
            x = nn.relu(y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra, extra))))
        return nn.Dense(10)(x.mean((1, 2)))


def batch(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Random images [N, H, W, C] in [0, 1] and labels [N]."""
    rng = np.random.default_rng(0)
    return rng.random((BATCH, *shape), np.float32), rng.integers(0, 10, BATCH)


def jax_steps(model: nn.Module, shape: tuple[int, int, int], options: dict[str, str | bool]) -> Steps:
    """The compiled training step of a linen module."""
    images, labels = (jnp.asarray(v) for v in batch(shape))
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=False))()
    params, batch_stats = variables["params"], variables.get("batch_stats", {})

    def step(state: Any) -> Any:
        params, batch_stats, opt_state = state

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            output: Any = model.apply(variables, images, train=True, mutable=["batch_stats"])
            logits, updates = output
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates.get("batch_stats", {})

        gradients, batch_stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    compiled = jax.jit(step, donate_argnums=0, compiler_options=options)
    state = (params, batch_stats, optimizer.init(params))

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state)
        jax.block_until_ready(state)

    return run


def torch_network(name: str) -> Any:
    """The same network in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    if name == "lenet5":
        convolutions = (nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2))
        head = (nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10))
        return nn.Sequential(*convolutions, *head)

    class Block(nn.Module):
        def __init__(self, inputs: int, features: int, stride: int) -> None:
            super().__init__()
            self.stride, self.extra = stride, (features - inputs) // 2
            first = (nn.Conv2d(inputs, features, 3, stride, 1, bias=False), nn.BatchNorm2d(features), nn.ReLU(True))
            second = (nn.Conv2d(features, features, 3, 1, 1, bias=False), nn.BatchNorm2d(features))
            self.layers = nn.Sequential(*first, *second)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            if self.extra:
                shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.extra, self.extra))
            return functional.relu(self.layers(x) + shortcut)

    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True))
    widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
    blocks = (Block(a, b, b // a) for a, b in itertools.pairwise(widths))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def torch_steps(name: str, shape: tuple[int, int, int], channels_last: bool) -> Steps:
    """The training step of the PyTorch network, in either memory layout."""
    import torch

    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, labels = batch(shape)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
    y = torch.from_numpy(labels)
    network = torch_network(name).to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()

    return run


def main(seconds: float = 2.0, rounds: int = 7) -> None:
    """Prints the table.

    Args:
      seconds: duration of one implementation's share of a round.
      rounds: how often all implementations take their turn.
    """
    require_rounds(rounds)
    has_torch = importlib.util.find_spec("torch") is not None
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, batch {BATCH}, float32, images/s")
    if not has_torch:
        print("PyTorch is not installed: its rows are left out.")
    for name, shape in SHAPES.items():
        peers = {"lenet5": FlaxLeNet5, "cifar_resnet20": FlaxResNet20}
        contestants = {
            "jaxcnn": jax_steps(jaxcnn.models.create(name, num_classes=10), shape, compiler_options()),
            "plain flax": jax_steps(peers[name](), shape, {}),
        }
        if has_torch:
            contestants["PyTorch"] = torch_steps(name, shape, channels_last=False)
            contestants["PyTorch channels_last"] = torch_steps(name, shape, channels_last=True)
        rates = race(contestants, BATCH, seconds, rounds)
        print(f"\n{name:24}{'median':>10}{'best':>10}{'jaxcnn / it':>14}")
        for contestant, values in rates.items():
            ratio = np.median(rates["jaxcnn"] / values)
            print(f"{contestant:24}{np.median(values):10,.0f}{values.max():10,.0f}{ratio:14.2f}")


if __name__ == "__main__":
    sys.exit(exit_status(lambda: tyro.cli(main)))
