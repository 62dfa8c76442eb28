"""Inference throughput of six ImageNet networks beside torchvision's.

Command: python experiments/benchmarks/inference.py [--batch-sizes 1 32 --seconds 2 --rounds 5]
Prints: for each network and batch size the images per second of the forward pass in inference at 224x224 in float32,
jaxcnn's and torchvision's in both memory layouts (the median over the rounds), and the median of the ratio to each
within a round. All implementations run in turn in every round, so that a slow spell of the machine meets all of them
alike. Needs PyTorch and torchvision.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from race import Steps, race, require_rounds

import jaxcnn.models
import jaxcnn.state
from jaxcnn.cli.terminal import exit_status
from jaxcnn.layers.convolution import compiler_options

NETWORKS = ("alexnet", "vgg16", "resnet50", "densenet121", "squeezenet1_0", "mobilenet_v2")


def torchvision_models() -> Any:
    """torchvision's models, which need no compiled part once the operators it registers are known by name."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models

    return torchvision.models


def jax_steps(name: str, images: np.ndarray) -> Steps:
    """The compiled forward pass of jaxcnn's network."""
    model = jaxcnn.models.create(name)
    state = jaxcnn.state.create(model, jax.random.key(0), (224, 224, 3))
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=compiler_options())
    variables, x = state.variables, jnp.asarray(images)

    def run(steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(forward(variables, x))

    return run


def torch_steps(models: Any, name: str, images: np.ndarray, channels_last: bool) -> Steps:
    """The forward pass of torchvision's network, in either memory layout."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    options = {"init_weights": False} if name == "vgg16" else {}
    network = getattr(models, name)(weights=None, **options).eval().to(memory_format=layout)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)

    def run(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                network(x)

    return run


def main(
    networks: Sequence[str] = NETWORKS, batch_sizes: Sequence[int] = (1, 32), seconds: float = 2.0, rounds: int = 5
) -> None:
    """Prints the table.

    Args:
      networks: names that jaxcnn and torchvision share.
      batch_sizes: images at once.
      seconds: duration of one implementation's share of a round.
      rounds: how often all implementations take their turn.
    """
    require_rounds(rounds)
    models = torchvision_models()
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, PyTorch {torch.__version__}, 224x224, float32, images/s\n")
    print("| network | batch | jaxcnn | torchvision | channels_last | jaxcnn / torchvision | jaxcnn / channels_last |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in networks:
        for batch_size in batch_sizes:
            images = np.random.default_rng(0).random((batch_size, 224, 224, 3), np.float32)
            contestants = {
                "jaxcnn": jax_steps(name, images),
                "torchvision": torch_steps(models, name, images, channels_last=False),
                "channels_last": torch_steps(models, name, images, channels_last=True),
            }
            rates = race(contestants, batch_size, seconds, rounds)
            speeds = " | ".join(f"{np.median(values):,.1f}" for values in rates.values())
            ratios = " | ".join(f"{np.median(rates['jaxcnn'] / rates[peer]):.2f}" for peer in list(rates)[1:])
            print(f"| {name} | {batch_size} | {speeds} | {ratios} |", flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: tyro.cli(main)))
