"""Every network that torchvision has: the same logits, the same gradients, and weights that travel there and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.interop import torch_names

# The names that torchvision and this package share.
NAMES = [
    "alexnet",
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    "googlenet",
    "inception_v3",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "resnext50_32x4d",
    "wide_resnet50_2",
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    "squeezenet1_0",
    "squeezenet1_1",
    "mobilenet_v2",
    "shufflenet_v2_x1_0",
]
# The rest take minutes.
QUICK = {"resnet18", "squeezenet1_1"}
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
AUXILIARY = {"googlenet", "inception_v3"}


def build(torch, torchvision, name):
    """torchvision's network in evaluation mode with random weights and random batch statistics."""
    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False} if name in AUXILIARY else {}
    net = getattr(torchvision.models, name)(weights=None, **options).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
    return net


def convert(net, name, input_shape):
    tensors = {key: value.detach().numpy() for key, value in net.state_dict().items()}
    model = models.create(name, **({"auxiliary": True} if name in AUXILIARY else {}))
    template = jax.eval_shape(lambda: states.create(model, jax.random.key(0), input_shape))
    return model, torch_names.from_torch(models.torch_names(name), tensors, template), tensors


def relative_error(got, expected):
    return np.abs(np.asarray(got) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", EACH)
def test_logits_weights_and_input_gradients_equal_torchvision_s(torch, torchvision, name):
    net = build(torch, torchvision, name)
    shape = models.facts(name).input_shape
    model, state, tensors = convert(net, name, shape)

    back = torch_names.to_torch(models.torch_names(name), state)
    assert back.keys() == tensors.keys()
    for key, value in back.items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)
        assert value.dtype == tensors[key].dtype, key

    rng = np.random.default_rng(0)
    images = rng.standard_normal((1, *shape)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    logits = jax.jit(lambda s, x: model.apply(s.variables, x, train=False))(state, images)
    assert relative_error(logits, expected) < 1e-4

    # At another size in double precision: rounding in single precision moves some of millions of ReLUs and maxima
    # across their kinks, on either side, and one of them is a percent of the largest gradient.
    net.double()
    weights, images = rng.standard_normal((1, 1000)), rng.standard_normal((1, 83, 96, 3))
    pixels = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    expected = net(pixels)
    (expected * torch.tensor(weights)).sum().backward()
    with jax.enable_x64(True):
        wide = model.clone(dtype=jnp.float64)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), state.variables)

        @jax.jit
        def backward(variables, images, weights):
            def weighted(x):
                logits = wide.apply(variables, x, train=False)
                return (logits * weights).sum(), logits

            return jax.grad(weighted, has_aux=True)(images)

        gradients, logits = backward(variables, images, weights)
    assert relative_error(logits, expected.detach().numpy()) < 1e-5
    assert relative_error(gradients, pixels.grad.numpy().transpose(0, 2, 3, 1)) < 1e-5


def test_no_shared_name_is_left_out(torchvision):
    shared = set(models.names()) & set(torchvision.models.list_models(torchvision.models))
    assert shared == set(NAMES)
