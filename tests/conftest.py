"""Test configuration: emulated devices, strict numerics, checked array shapes, and the real data at hand."""

from __future__ import annotations

import gc
import importlib.util
import os
import tempfile

# The collector looks again and again at what never goes away: libraries, and programs that stay compiled.
gc.set_threshold(100_000, 20, 100)

# Compiling is most of what the tests do, and LLVM's optimisation most of that; XLA's own stays on.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
# Many tests, and the commands they start, compile the same programs. These are kept while the tests run, and nowhere
# that is there before and after; the workers inherit the folder.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="jaxcnn-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

from jaxtyping import install_import_hook

_hook = install_import_hook("jaxcnn", "beartype.beartype")

from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets and weights; absent, the test is skipped, but never in CI."""
    folder = os.environ.get("JAXCNN_TEST_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    reason = "set JAXCNN_TEST_DATA to a folder holding tfds/mnist, tfds/cifar10, ... to run this test"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def torch():
    """PyTorch as an oracle; absent, the test is skipped, but never in CI."""
    if not os.environ.get("CI"):
        pytest.importorskip("torch", reason="PyTorch is the oracle here: pip install torch")
    import torch

    torch.set_num_threads(1)  # the tests are two processes already, and its threads wait for each other by spinning
    return torch


@pytest.fixture(scope="session")
def captum(torch):
    """captum as an oracle of attribution; absent, the test is skipped, but never in CI."""
    if os.environ.get("CI"):
        import captum.attr

        return captum.attr
    return pytest.importorskip("captum.attr", reason="captum is the oracle here: pip install --no-deps captum")


@pytest.fixture(scope="session")
def torchvision(torch):
    """torchvision as an oracle; its models need no compiled part once the operators it registers are known by name."""
    if not os.environ.get("CI") and importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is the oracle here: pip install --no-deps torchvision")
    try:
        import torchvision
    except RuntimeError:  # its compiled part is of another build of PyTorch and has not registered them
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

    return torchvision


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without jaxtyping, whose hook refuses some inputs before the function can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
