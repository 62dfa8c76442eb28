"""The results that the README states, reached by its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


def jaxcnn(*arguments: str) -> dict[str, float]:
    """What a command prints, run as a user runs it: on the devices that there are."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "jaxcnn", *arguments, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "seeds", "accuracy"),
    [("lenet5_mnist", "012", 0.990), ("resnet8_mnist", "012", 0.994), ("resnet8_fashion_mnist", "0", 0.925)],
)
def test_an_experiment_reaches_its_accuracy_over_its_seeds(experiment, seeds, accuracy, real_data, tmp_path):
    results = []
    for seed in seeds:
        run = str(tmp_path / seed)
        data = ("--data.directory", str(real_data / "tfds"))
        trained = jaxcnn("train", experiment, *data, "--training.seed", seed, "--run", run)
        scores = jaxcnn("evaluate", run)
        assert scores["examples"] == 10_000
        assert scores["top1"] == trained["top1"]
        results.append(trained["top1"])
    assert sum(results) / len(results) >= accuracy
