"""A plain PyTorch training loop, as fast as plain gets: what `training.py` compares jaxcnn's with."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from race import Outcome
from torch import Tensor
from torch.nn import functional
from training_step import torch_network

from jaxcnn.config import Experiment, OptimizerConfig


def batches(images: Tensor, labels: Tensor, experiment: Experiment) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of every epoch: one gather of images on the device that shuffles, crops and flips.

    Args:
      images: uint8 [N, H, W, C].
      labels: int64 [N].
      experiment: epochs, batch size, `crop` and `flip`.

    Yields:
      Pixels, uint8 [n, H, W, C], and labels [n].
    """
    device, (height, width), size = images.device, images.shape[1:3], experiment.data.batch_size
    augment = experiment.data.augment
    pad, flip = int(augment.get("crop", 0)), augment.get("flip", 0.0)
    padded = functional.pad(images, (0, 0, pad, pad, pad, pad))
    down, right = torch.arange(height, device=device), torch.arange(width, device=device)
    for _ in range(experiment.training.epochs):
        order = torch.randperm(len(images), device=device)
        for first in range(0, len(images) - size + 1, size):
            chosen = order[first : first + size]
            if not augment:
                yield images[chosen], labels[chosen]
                continue
            top, left = torch.randint(2 * pad + 1, (2, size, 1), device=device)
            rows = down + top
            columns = torch.where(torch.rand(size, 1, device=device) < flip, right.flip(0), right) + left
            yield padded[chosen[:, None, None], rows[:, :, None], columns[:, None]], labels[chosen]


def sgd(network: torch.nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """SGD with momentum, and weight decay of the kernels alone."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, config.learning_rate, config.momentum, fused=True)


def train(experiment: Experiment, file: Path, *, channels_last: bool, compiled: bool) -> Outcome | str:
    """Trains the network of an experiment from its beginning, without evaluating it.

    Args:
      experiment: what to train.
      file: .npz of `images`, `labels`, `mean` and `std`.
      channels_last: memory layout of the network and its input.
      compiled: through `torch.compile`.

    Returns:
      What it gave, or why it could not be compiled.
    """
    torch.manual_seed(experiment.training.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # as XLA's default on a GPU
    layout = torch.channels_last if channels_last else torch.contiguous_format
    stored = {name: torch.from_numpy(array).to(device) for name, array in np.load(file).items()}
    images, labels = stored["images"], stored["labels"]
    mean, std = (stored[name].view(1, -1, 1, 1) for name in ("mean", "std"))
    network = torch_network(experiment.model.name)
    if missing := 32 - images.shape[1]:  # LeNet-5 pads what is smaller
        network[0] = torch.nn.Conv2d(images.shape[-1], 6, 5, padding=missing // 2)
    network = network.to(device, memory_format=layout)
    optimizer = sgd(network, experiment.optimizer)

    def forward(pixels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout) / 255
        logits = network((x - mean) / std)
        return functional.cross_entropy(logits, truth), (logits.argmax(1) == truth).float().mean()

    apply: Any = torch.compile(forward) if compiled else forward
    epoch = len(images) // experiment.data.batch_size
    step, start, losses, pending = 0, 0.0, [], []
    with tempfile.TemporaryFile("w") as log:
        for pixels, truth in batches(images, labels, experiment):
            optimizer.zero_grad()
            try:
                loss, top1 = apply(pixels, truth)
                loss.backward()
            except Exception as error:
                if compiled and step == 0:  # no C++ compiler, or no Triton
                    return f"could not be compiled: {type(error).__name__}: {error}".partition("\n")[0]
                raise
            optimizer.step()
            step += 1
            pending.append(torch.stack((loss.detach(), top1)))
            if step == 1:
                pending[0].tolist()  # waits for the step
                start = time.perf_counter()
            if step % experiment.training.log_every == 0 or step % epoch == 0:
                mean_loss, accuracy = torch.stack(pending).mean(0).tolist()
                log.write(json.dumps({"step": step, "loss": mean_loss, "top1": accuracy}) + "\n")
                losses.append(mean_loss)
                pending = []
    seconds = time.perf_counter() - start
    return Outcome((step - 1) * experiment.data.batch_size / seconds, float(np.mean(losses[-3:])))
