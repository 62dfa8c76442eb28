"""Attribution against captum on the same weights: LeNet-5, ResNet-18, and SqueezeNet as published.

All are equal to 1e-4 of each map's largest magnitude in single precision, with two exceptions: integrated gradients,
which are compared in double precision, and VarGrad, equal to 1e-3, as captum subtracts two large numbers.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn.analysis import grad_cam, guided, occlusion, relevance, saliency
from jaxcnn.analysis.integrated_gradients import integrated_gradients

pytestmark = [
    pytest.mark.slow,  # compiles some thirty gradients
    pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning"),
]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pair(NamedTuple):
    """A network here and there.

    Attributes:
      model, state: ours.
      net: theirs, of images [N, C, H, W] in [0, 1].
      layer, module: whose maps class activation maps are made of.
      images: [N, H, W, C].
      targets: [N].
    """

    model: Any
    state: Any
    net: Any
    layer: str
    module: Any
    images: np.ndarray
    targets: np.ndarray


def standardising(torch, net, mean=MEAN, std=STD):
    """The network after a convolution that standardises: captum knows what to do with one."""
    layer = torch.nn.Conv2d(len(mean), len(mean), 1, groups=len(mean))
    layer.weight.data = (1 / torch.tensor(std)).reshape(-1, 1, 1, 1)
    layer.bias.data = -torch.tensor(mean) / torch.tensor(std)
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return torch.nn.Sequential(layer, net).eval()


def lenet(torch, folder) -> Pair:
    class LeNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c3, self.c5 = (torch.nn.Conv2d(*shape, 5) for shape in ((1, 6), (6, 16), (16, 120)))
            self.f6, self.head = torch.nn.Linear(120, 84), torch.nn.Linear(84, 10)
            self.s2, self.s4 = torch.nn.MaxPool2d(2), torch.nn.MaxPool2d(2)
            self.relus = torch.nn.ModuleList([torch.nn.ReLU() for _ in range(4)])

        def forward(self, x):
            x = self.s2(self.relus[0](self.c1(x)))
            x = self.s4(self.relus[1](self.c3(x)))
            x = self.relus[2](self.c5(x)).flatten(1)
            return self.head(self.relus[3](self.f6(x)))

    torch.manual_seed(0)
    net = LeNet().eval()
    torch.save(net.state_dict(), folder / "lenet.pth")
    fields = {"activation": "relu", "pooling": "max", "mean": (0.0,), "std": (1.0,)}
    model, state = jaxcnn.load("lenet5", weights=folder / "lenet.pth", **fields)
    images = np.random.default_rng(0).random((3, 32, 32, 1), np.float32)
    return Pair(model, state, net, "c3", net.c3, images, np.array([1, 7, 4]))


def resnet18(torch, torchvision, folder) -> Pair:
    torch.manual_seed(1)
    net = torchvision.models.resnet18()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.3)
    torch.save(net.state_dict(), folder / "resnet18.pth")
    model, state = jaxcnn.load("resnet18", weights=folder / "resnet18.pth")
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    targets = np.asarray(model.apply(state.variables, images, train=False).argmax(-1))
    return Pair(model, state, standardising(torch, net), "stage4/block2", net.layer4[1], images, targets)


def squeezenet(torch, torchvision, data) -> Pair:
    file = data / "weights" / "squeezenet1_0_imagenet.pth"
    net = torchvision.models.squeezenet1_0()
    net.load_state_dict(torch.load(file))
    model, state = jaxcnn.load("squeezenet1_0", weights=file)
    photographs = sorted((data / "imagenet_samples").iterdir())[:2]
    images = np.stack([np.asarray(Image.open(file).convert("RGB").resize((96, 96))) for file in photographs])
    images = images.astype(np.float32) / 255
    targets = np.asarray(model.apply(state.variables, images, train=False).argmax(-1))
    return Pair(model, state, standardising(torch, net), "fire9", net.features[12], images, targets)


@pytest.fixture(scope="module", params=["lenet5", "resnet18", "squeezenet1_0"])
def pair(request, torch, torchvision, real_data, tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp("weights")
    match request.param:
        case "lenet5":
            return lenet(torch, folder)
        case "resnet18":
            return resnet18(torch, torchvision, folder)
        case _:
            return squeezenet(torch, torchvision, real_data)


def given(torch, pair):
    images = torch.tensor(pair.images).permute(0, 3, 1, 2).requires_grad_()
    return {"inputs": images, "target": torch.tensor(pair.targets)}


def equal(ours, theirs, tolerance=1e-4):
    """Within the tolerance of the largest magnitude of each map."""
    expected = theirs.detach().permute(0, 2, 3, 1).numpy()
    expected = expected.reshape(ours.shape)
    for one, other in zip(np.asarray(ours), expected, strict=True):
        assert np.abs(other).max() > 0
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


def explain(method, pair, **options):
    return method(pair.model, pair.state, pair.images, pair.targets, **options)


def test_gradient(torch, captum, pair):
    theirs = captum.Saliency(pair.net).attribute(**given(torch, pair))
    equal(explain(saliency.gradient, pair), theirs.amax(1, keepdim=True))


def test_gradient_x_input(torch, captum, pair):
    equal(explain(saliency.gradient_x_input, pair), captum.InputXGradient(pair.net).attribute(**given(torch, pair)))


def wide(torch, pair) -> Pair:
    """In double precision: of so many points some of millions of ReLUs and maxima are so near to their kinks that
    rounding decides."""
    params, statistics = jax.tree.map(lambda x: x.astype(np.float64), (pair.state.params, pair.state.batch_stats))
    return pair._replace(
        model=pair.model.clone(dtype=np.float64),
        state=pair.state.replace(params=params, batch_stats=statistics),
        net=copy.deepcopy(pair.net).double(),
        images=pair.images.astype(np.float64),
    )


def test_integrated_gradients(torch, captum, pair):
    with jax.enable_x64(True):
        pair = wide(torch, pair)
        theirs = captum.IntegratedGradients(pair.net).attribute(**given(torch, pair), n_steps=8, baselines=0.25)
        equal(explain(integrated_gradients, pair, steps=8, baseline=0.25), theirs)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (saliency.smooth_grad, "smoothgrad"),
        (saliency.smooth_grad_squared, "smoothgrad_sq"),
        (saliency.var_grad, "vargrad"),
    ],
)
def test_noise(torch, captum, pair, method, kind, monkeypatch):
    samples, noise = 4, 0.1
    with jax.enable_x64(True):
        pair = wide(torch, pair)
        count, *shape = pair.images.shape
        # The noise that is drawn here is what captum is given: images first, then samples.
        keys = [
            jax.random.fold_in(key, number)
            for key in jax.random.split(jax.random.key(5), count)
            for number in range(samples)
        ]
        drawn = np.stack([jax.random.normal(key, shape) for key in keys])
        spread = np.ptp(pair.images, axis=(1, 2, 3)).repeat(samples)[:, None, None, None]
        monkeypatch.setattr(torch, "normal", lambda mean, std: torch.tensor(noise * spread * drawn).permute(0, 3, 1, 2))
        theirs = captum.NoiseTunnel(captum.Saliency(pair.net)).attribute(
            **given(torch, pair), nt_type=kind, nt_samples=samples, stdevs=1.0, abs=False
        )
        ours = explain(method, pair, key=jax.random.key(5), samples=samples, noise=noise)
    equal(ours, theirs)


@pytest.mark.parametrize(
    ("method", "name"), [(guided.guided_backpropagation, "GuidedBackprop"), (guided.deconvnet, "Deconvolution")]
)
def test_rectified_backwards(torch, captum, pair, method, name):
    theirs = getattr(captum, name)(pair.net).attribute(**given(torch, pair))
    if not theirs.abs().max():  # SqueezeNet's deconvnet: what passes the last fire module backwards is negative
        with pytest.warns(Warning, match="zero everywhere"):
            assert not explain(method, pair).any()
        return
    equal(explain(method, pair), theirs)


def test_grad_cam(torch, captum, pair):
    theirs = captum.LayerGradCam(pair.net, pair.module).attribute(**given(torch, pair), relu_attributions=True)
    theirs = captum.LayerAttribution.interpolate(theirs, pair.images.shape[1:3], "bilinear")
    equal(explain(grad_cam.grad_cam, pair, layer=pair.layer), theirs)


def test_guided_grad_cam(torch, captum, pair):
    theirs = captum.GuidedGradCam(pair.net, pair.module).attribute(**given(torch, pair), interpolate_mode="bilinear")
    equal(explain(grad_cam.guided_grad_cam, pair, layer=pair.layer), theirs)


def test_relevance(torch, captum, pair):
    if "resnet" in type(pair.model).__name__.lower():
        pytest.skip("captum has no rule for additions outside of modules")
    theirs = captum.LRP(pair.net).attribute(**given(torch, pair))
    equal(explain(relevance.lrp, pair, epsilon=1e-9), theirs)


def test_occlusion(torch, captum, pair):
    net = torch.nn.Sequential(pair.net, torch.nn.Softmax(-1))
    channels, patch = pair.images.shape[-1], pair.images.shape[1] // 4
    theirs = captum.Occlusion(net).attribute(
        **given(torch, pair),
        sliding_window_shapes=(channels, patch, patch),
        strides=(channels, patch // 2, patch // 2),
        baselines=0.5,
    )
    equal(explain(occlusion.occlusion, pair, patch=patch, stride=patch // 2), theirs[:, :1])
