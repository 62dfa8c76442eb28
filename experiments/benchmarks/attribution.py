"""Attribution maps per second beside captum's, on the same weights, images and machine.

Command: python experiments/benchmarks/attribution.py [--networks resnet18 squeezenet1_0 --batch-size 8 --rounds 3]
Prints: for each network and method the maps per second, jaxcnn's and captum's (the median over the rounds), the median
of their ratio within a round, and by how much the maps differ, relative to the largest value (noise is drawn by each
itself, so that SmoothGrad's are not compared). Both take their turn in every round. captum is given as many copies of
an image at once as jaxcnn takes, where it can be told. Needs PyTorch, torchvision and captum.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import captum.attr
import jax
import numpy as np
import torch
import tyro
from inference import torchvision_models
from race import in_turn, require_rounds

import jaxcnn.models
import jaxcnn.state
from jaxcnn.allocator import keep_freed_memory
from jaxcnn.analysis.chunks import affordable
from jaxcnn.analysis.grad_cam import grad_cam
from jaxcnn.analysis.integrated_gradients import integrated_gradients
from jaxcnn.analysis.occlusion import occlusion
from jaxcnn.analysis.saliency import gradient, smooth_grad
from jaxcnn.cli.terminal import exit_status
from jaxcnn.interop import torch_names

LAST_MAPS = {"resnet18": ("stage4/block2", "layer4.1"), "squeezenet1_0": ("fire9", "features.12")}
"""The layer that Grad-CAM takes, here and in torchvision."""

COPIES, PATCH, STRIDE = 50, 15, 8


def build(models: Any, name: str, shape: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """torchvision's network with random weights and batch statistics, and jaxcnn's with the same: model, state, net."""
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False  # captum's hooks need what a ReLU is given
    preprocessing = jaxcnn.models.facts(name).preprocessing
    model = jaxcnn.models.create(name, mean=preprocessing.mean, std=preprocessing.std)
    template = jax.eval_shape(lambda: jaxcnn.state.create(model, jax.random.key(0), shape))
    tensors = {key: value.detach().numpy() for key, value in net.state_dict().items()}
    state = torch_names.from_torch(jaxcnn.models.torch_names(name), tensors, template)
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))

    class Standardised(torch.nn.Module):
        """The network of images in [0, 1], as jaxcnn's is."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net((x - mean) / std)

    return model, state, Standardised()


def contestants(
    name: str, built: tuple[Any, Any, Any], images: np.ndarray, targets: np.ndarray
) -> dict[str, tuple[Callable[[], np.ndarray], Callable[[], np.ndarray], int, bool]]:
    """By method: jaxcnn's maps and captum's, of how many images, and whether they are comparable."""
    model, state, net = built
    here, there = LAST_MAPS[name]
    at_once = affordable(model, state.variables, images.shape[1:])
    pixels, classes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(targets)
    attr: Any = captum.attr
    saliency, layer = attr.Saliency(net), net.net.get_submodule(there)
    probable = torch.nn.Sequential(net, torch.nn.Softmax(-1))

    def ours(method: Any, count: int, **options: Any) -> Callable[[], np.ndarray]:
        return lambda: np.asarray(method(model, state, images[:count], targets[:count], **options))

    def theirs(attribute: Any, count: int) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            maps = attribute(pixels[:count].clone().requires_grad_(), target=classes[:count])
            return maps.detach().numpy().transpose(0, 2, 3, 1)

        return run

    def cam(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        maps: Any = attr.LayerGradCam(net, layer).attribute(x, target=target, relu_attributions=True)
        return attr.LayerAttribution.interpolate(maps, images.shape[1:3], "bilinear")

    def hide(x: torch.Tensor, target: torch.Tensor) -> Any:
        square = {"sliding_window_shapes": (3, PATCH, PATCH), "strides": (3, STRIDE, STRIDE), "baselines": 0.5}
        with torch.no_grad():
            return attr.Occlusion(probable).attribute(x, target=target, perturbations_per_eval=at_once, **square)

    noisy = partial(attr.NoiseTunnel(saliency).attribute, nt_samples=COPIES, nt_samples_batch_size=at_once)
    noisy = partial(noisy, stdevs=0.15, abs=False)
    path = partial(attr.IntegratedGradients(net).attribute, n_steps=COPIES, internal_batch_size=at_once)
    whole = len(images)
    key = jax.random.key(0)
    return {
        "gradient": (ours(gradient, whole), theirs(saliency.attribute, whole), whole, True),
        "SmoothGrad-50": (ours(smooth_grad, 1, samples=COPIES, key=key), theirs(noisy, 1), 1, False),
        "integrated gradients, 50": (ours(integrated_gradients, 1, steps=COPIES), theirs(path, 1), 1, True),
        "Grad-CAM": (ours(grad_cam, whole, layer=here), theirs(cam, whole), whole, True),
        "occlusion 15x15, 8": (ours(occlusion, 1, patch=PATCH, stride=STRIDE), theirs(hide, 1), 1, True),
    }


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, relative to the largest magnitude; where ours has no channels, to their largest over channels."""
    if ours.ndim == 3:
        theirs = theirs.max(-1)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def main(
    networks: Sequence[str] = tuple(LAST_MAPS), batch_size: int = 8, rounds: int = 3, image_size: int = 224
) -> None:
    """Prints the table.

    Args:
      networks: Of resnet18 and squeezenet1_0.
      batch_size: Images at once of gradient and Grad-CAM; the methods that take many copies of an image take one image.
      rounds: How often both take their turn.
      image_size: Height and width.
    """
    require_rounds(rounds)
    models = torchvision_models()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, PyTorch {torch.__version__}, captum", end=" ")
    print(f"{captum.__version__}, {image_size}x{image_size}, float32, maps/s\n")
    print("| network | method | images | jaxcnn | captum | jaxcnn / captum | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    shape = (image_size, image_size, 3)
    for name in networks:
        built = build(models, name, shape)
        images = np.random.default_rng(0).random((batch_size, *shape), np.float32)
        with torch.no_grad():  # the likeliest classes, as the score of others may be zero everywhere
            targets = built[2](torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).argmax(1).numpy()
        for method, (ours, theirs, count, comparable) in contestants(name, built, images, targets).items():
            apart = f"{difference(ours(), theirs()):.0e}" if comparable else "-"
            if not comparable:
                ours()  # compile

            def rate(run: Callable[[], np.ndarray], count: int = count) -> float:
                start = time.perf_counter()
                run()
                return count / (time.perf_counter() - start)

            found = in_turn({"ours": partial(rate, ours), "theirs": partial(rate, theirs)}, rounds)
            own, peer = np.array(found["ours"]), np.array(found["theirs"])
            speeds = f"{np.median(own):.3g} | {np.median(peer):.3g} | {np.median(own / peer):.2f}"
            print(f"| {name} | {method} | {count} | {speeds} | {apart} |", flush=True)


if __name__ == "__main__":
    keep_freed_memory()  # as the command does, before there are threads; PyTorch has its turns under the same
    sys.exit(exit_status(lambda: tyro.cli(main)))
