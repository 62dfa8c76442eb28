"""The registry, and what is particular to LeNet-5, the perceptron and the CIFAR networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import config, models
from jaxcnn import state as states
from jaxcnn.errors import InputError
from jaxcnn.interop import torch_names
from jaxcnn.layers.up_convolution import UpConv


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def abstract_state(model, input_shape):
    return jax.eval_shape(lambda: states.create(model, jax.random.key(0), input_shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "lenet5", "cifar_resnet20", "squeezenet1_1"])
def test_standardisation_happens_inside(name):
    shape = models.facts(name).input_shape if name in ("mlp", "lenet5") else (32, 32, 3)
    channels = shape[-1]
    mean, std = tuple(0.1 * (c + 1) for c in range(channels)), tuple(0.2 + 0.1 * c for c in range(channels))
    plain, inside = models.create(name), models.create(name, mean=mean, std=std)
    state = states.create(plain, jax.random.key(0), shape)
    images = jax.random.uniform(jax.random.key(1), (2, *shape))
    outside = (images - jnp.array(mean).reshape(1, 1, 1, -1)) / jnp.array(std).reshape(1, 1, 1, -1)
    expected = jax.jit(lambda x: plain.apply(state.variables, x, train=False))(outside)
    got = jax.jit(lambda x: inside.apply(state.variables, x, train=False))(images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cifar_resnet20"])
def test_inference_is_a_function_of_the_image_alone(name):
    model = models.create(name)
    shape = models.facts(name).input_shape
    state = states.create(model, jax.random.key(0), shape)
    images = jax.random.uniform(jax.random.key(1), (4, *shape))
    apply = jax.jit(lambda s, x: model.apply(s.variables, x, train=False))
    alone = apply(state, images[:1].repeat(4, axis=0))
    np.testing.assert_allclose(alone[0], apply(state, images)[0], rtol=1e-4, atol=1e-5)


def test_unknown_names_and_options_list_the_nearest():
    with pytest.raises(InputError, match="unknown model 'lenet'; did you mean lenet5"):
        models.create("lenet")
    with pytest.raises(InputError, match="unknown option of lenet5 'poling'; did you mean pooling"):
        models.create("lenet5", poling="max")
    with pytest.raises(InputError, match="unknown activation 'rleu'; did you mean relu"):
        abstract_state(models.create("lenet5", activation="rleu"), (28, 28, 1))
    with pytest.raises(InputError, match="unknown pooling 'maximum'"):
        abstract_state(models.create("lenet5", pooling="maximum"), (28, 28, 1))
    with pytest.raises(InputError, match="option scan of cifar_resnet20 is 1; expected bool"):
        models.create("cifar_resnet20", scan=1)
    with pytest.raises(InputError, match="unknown option of cifar_resnet20 'depth'"):
        models.create("cifar_resnet20", depth=32)


def test_a_model_built_from_its_specification_is_the_model():
    spec = config.ModelSpec("lenet5", {"activation": "relu"}, 4, (28, 28, 1), (0.1,), (0.3,), tuple("abcd"), "bfloat16")
    model = models.from_spec(spec)
    assert model == models.create(
        "lenet5", activation="relu", num_classes=4, mean=(0.1,), std=(0.3,), dtype=jnp.bfloat16
    )


# ---- LeNet-5


def test_lenet5_layer_by_layer():
    state = abstract_state(models.create("lenet5"), (28, 28, 1))
    weights = {name: leaf["kernel"].size for name, leaf in state.params.items()}
    biases = {name: leaf["bias"].size for name, leaf in state.params.items()}
    assert weights == {"c1": 150, "c3": 2_400, "c5": 48_000, "f6": 10_080, "head": 840}
    assert biases == {"c1": 6, "c3": 16, "c5": 120, "f6": 84, "head": 10}


@pytest.mark.parametrize("size", [28, 32])
def test_lenet5_feature_maps_have_the_paper_s_sizes(size):
    model = models.create("lenet5")
    _, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, capture_intermediates=True),
        jnp.zeros((1, size, size, 1)),
    )
    shapes = {
        name: out["__call__"][0].shape[1:] for name, out in variables["intermediates"].items() if name != "__call__"
    }
    assert shapes == {
        "c1": (28, 28, 6),
        "s2": (14, 14, 6),
        "c3": (10, 10, 16),
        "s4": (5, 5, 16),
        "c5": (1, 1, 120),
        "f6": (84,),
        "head": (10,),
    }


def test_lenet5_equals_pytorch(torch):
    model = models.create("lenet5")
    state = states.create(model, jax.random.key(0), (28, 28, 1))
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.Tanh(), torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(6, 16, 5), torch.nn.Tanh(), torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(16, 120, 5), torch.nn.Tanh(), torch.nn.Flatten(),
        torch.nn.Linear(120, 84), torch.nn.Tanh(), torch.nn.Linear(84, 10),
    )  # fmt: skip
    layers = [layer for layer in net if hasattr(layer, "weight")]
    with torch.no_grad():
        for name, layer in zip(["c1", "c3", "c5", "f6", "head"], layers, strict=True):
            kernel = np.asarray(state.params[name]["kernel"])
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer.weight.copy_(torch.tensor(kernel.transpose(axes)))
            layer.bias.copy_(torch.tensor(np.asarray(state.params[name]["bias"])))
        images = np.random.default_rng(0).random((5, 28, 28, 1), np.float32)
        expected = net(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(model.apply(state.variables, images, train=False), expected, rtol=1e-4, atol=1e-5)


def test_lenet5_refuses_sizes_it_has_no_form_for():
    with pytest.raises(InputError, match="lenet5 got images of 64x64; expected 25 to 32"):
        abstract_state(models.create("lenet5"), (64, 64, 1))


# ---- multi-layer perceptron


def test_mlp_of_depth_zero_is_softmax_regression():
    state = states.create(models.create("mlp", depth=0), jax.random.key(0), (8, 8, 1))
    images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))
    logits = models.create("mlp", depth=0).apply(state.variables, images, train=False)
    expected = images.reshape(3, 64) @ state.params["head"]["kernel"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_mlp_refuses_impossible_options():
    with pytest.raises(InputError, match="dropout is 1.0"):
        models.create("mlp", dropout=1.0)


# ---- CIFAR residual and plain networks


def gradients(model, state, images):
    def objective(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits[:, 0].sum(), (logits, updates)

    return jax.jit(jax.grad(objective, has_aux=True))(state.params)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.slow
def test_scanned_and_rematerialised_blocks_compute_the_same_with_the_same_names(residual):
    name = "cifar_resnet20" if residual else "cifar_plain20"
    plain = models.create(name)
    scanned = models.create(name, scan=True, remat=True)
    state = states.create(scanned, jax.random.key(0), (16, 16, 3))
    other = abstract_state(plain, (16, 16, 3))
    assert jax.tree.structure(state.params) == jax.tree.structure(other.params)
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, other.params)
    assert sorted(state.params["stage2"]) == ["block1", "block2", "block3"]
    images = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))
    grads, (logits, updates) = gradients(plain, state, images)
    scanned_grads, (scanned_logits, scanned_updates) = gradients(scanned, state, images)
    np.testing.assert_allclose(scanned_logits, logits, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), scanned_updates, updates)
    for got, expected in zip(jax.tree.leaves(scanned_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max() + 1e-5)


@pytest.mark.slow
def test_with_one_block_in_a_stage_nothing_is_left_to_scan():
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    plain, scanned = (
        models.create("cifar_resnet8", scan=scan).init_with_output(jax.random.key(0), images, train=False)
        for scan in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, scanned, plain)


@pytest.mark.slow
def test_blocks_scanned_start_from_different_numbers():
    state = states.create(models.create("cifar_resnet20", scan=True), jax.random.key(0), (16, 16, 3))
    kernels = [state.params["stage1"][f"block{i}"]["conv1"]["kernel"] for i in (1, 2, 3)]
    assert not any(np.array_equal(kernels[i], kernels[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
    np.testing.assert_allclose(np.std(kernels[1]), np.sqrt(2 / (9 * 16)), rtol=0.1)


@pytest.mark.slow
def test_a_residual_network_whose_branches_are_silent_passes_its_input_on():
    model = models.create("cifar_resnet20")
    state = states.create(model, jax.random.key(0), (32, 32, 3))
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "norm2" in str(path) else leaf, state.params
    )
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
    _, variables = model.apply(
        {"params": silent, "batch_stats": state.batch_stats},
        images,
        train=False,
        mutable=["intermediates"],
        capture_intermediates=True,
    )
    outputs = variables["intermediates"]
    stem = jnp.maximum(outputs["stem_norm"]["__call__"][0], 0)
    last = outputs["stage3"]["__call__"][0]
    assert last.shape == (2, 8, 8, 64)
    # Option A: every fourth pixel, and zeros on both sides of the channels.
    np.testing.assert_array_equal(last[..., 24:40], stem[:, ::4, ::4])
    np.testing.assert_array_equal(last[..., :24], 0)
    np.testing.assert_array_equal(last[..., 40:], 0)


@pytest.mark.parametrize("depth", [21, 2])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    from jaxcnn.models.cifar_resnet import CifarResNet

    with pytest.raises(InputError, match=f"depth is {depth}; expected 6n \\+ 2"):
        CifarResNet(depth=depth)


# ---- weights for PyTorch


def test_the_first_dense_layer_sees_the_map_in_pytorch_s_order():
    model = models.create("alexnet_2012")
    template = jax.eval_shape(lambda: states.create(model, jax.random.key(0), (227, 227, 3)))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template.replace(key=None))
    rng = np.random.default_rng(0)
    state.params["fc6"]["kernel"][:] = rng.standard_normal((9216, 4096), np.float32)
    weight = torch_names.to_torch(models.torch_names("alexnet_2012"), state)["fc6.weight"]
    image = rng.standard_normal((1, 6, 6, 256), np.float32)
    there = image.transpose(0, 3, 1, 2).reshape(1, -1) @ weight.T
    np.testing.assert_allclose(there, image.reshape(1, -1) @ state.params["fc6"]["kernel"], rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_up_convolutions_are_laid_out_as_pytorch_s(torch):
    model = models.create("unet", features=4, padding="same")
    state = states.create(model, jax.random.key(0), (32, 32, 1))
    names = models.torch_names("unet")
    tensors = torch_names.to_torch(names, state)
    layer = torch.nn.ConvTranspose2d(64, 32, 2, 2)
    layer.load_state_dict({"weight": torch.tensor(tensors["up4.weight"]), "bias": torch.tensor(tensors["up4.bias"])})
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 64)).astype(np.float32)
    with torch.no_grad():
        expected = layer(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    up = UpConv(32).apply({"params": state.params["up4"]}, jnp.asarray(x))
    np.testing.assert_allclose(up, expected, rtol=1e-4, atol=1e-5)
    back = torch_names.from_torch(names, tensors, state)
    jax.tree.map(np.testing.assert_array_equal, back.params, state.params)
