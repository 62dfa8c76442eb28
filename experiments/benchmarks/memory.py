"""Memory of attribution for one image and for many: the network evaluates a bounded number of them at once.

Command: python experiments/benchmarks/memory.py [--network squeezenet1_0 --counts 1 1000 --methods gradient grad_cam]
Prints: for each method and number of images the peak of the resident memory over what the process held before the
call (the network and the images among it), and that peak without the maps themselves. Each is measured in a process of
its own. Linux only: it reads /proc.
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
import tyro

import jaxcnn.models
import jaxcnn.state
from jaxcnn.analysis import attribution
from jaxcnn.cli.terminal import exit_status


def measure(network: str, method: str, count: int) -> tuple[int, int]:
    """Bytes of the peak over what was there before the call, and of the maps."""
    shape = jaxcnn.models.facts(network).input_shape
    model = jaxcnn.models.create(network)
    state = jaxcnn.state.create(model, jax.random.key(0), shape)
    # Drawn in place by NumPy: what JAX needs to draw as many would be freed only after the first look.
    drawn = np.random.default_rng(1).random((count, *shape), np.float32)
    images = jax.device_put(drawn).block_until_ready()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    maps = attribution.method(method).function(model, state, images, 0).block_until_ready()
    return _resident("VmHWM") - before, maps.nbytes


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def main(
    network: str = "squeezenet1_0",
    counts: tuple[int, ...] = (1, 1000),
    methods: tuple[str, ...] = ("gradient", "grad_cam"),
) -> None:
    """Measure the memory of attribution.

    Args:
      network: A registered network, with random weights.
      counts: Numbers of images.
      methods: Names of attribution methods.
    """
    print(f"{'method':24} {'images':>6} {'peak (MB)':>10} {'without maps (MB)':>18}")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for method in methods:
            for count in counts:
                peak, maps = processes.submit(measure, network, method, count).result()
                print(f"{method:24} {count:6} {peak / 1e6:10,.0f} {(peak - maps) / 1e6:18,.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: tyro.cli(main)))
