"""PyTorch's names and layouts: the same network, the same numbers, both ways."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.errors import InputError
from jaxcnn.interop import fitting, torch_names
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.models.registration import TorchNames


class Small(ImageModel):
    """One of each kind of layer that has parameters, and a dense layer that sees a flattened map."""

    @nn.compact
    def __call__(self, images, *, train):
        x = Conv(6, (3, 5), padding=((1, 1), (2, 2)), groups=3, name="conv")(images)
        x = nn.relu(BatchNorm(name="norm")(x, train=train))
        x = nn.relu(nn.Dense(7, name="hidden")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes, name="head")(x)


NAMES = TorchNames(
    {"conv": "features.0", "norm": "features.1", "hidden": "fc.0", "head": "fc.2"}.__getitem__,
    flattened={"hidden": (4, 5)},
    surplus=("aux.",),
)
SHAPE = (4, 5, 3)


def random_state(model, shape, seed=0):
    """A state whose numbers are all different, made without running the initialisers."""
    return filled(jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape)), seed)


def filled(state, seed):
    rng = np.random.default_rng(seed)
    values = {path: rng.random(leaf.shape, np.float32) for path, leaf in fitting.leaves(state).items()}
    return fitting.filled(state.replace(step=jnp.zeros((), jnp.int32), key=jax.random.key(0)), values)


@pytest.fixture
def small():
    return random_state(Small(num_classes=5), SHAPE)


def test_a_network_of_pytorch_computes_the_same(torch, small):
    module = torch.nn.Module()
    module.features = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, (3, 5), padding=(1, 2), groups=3), torch.nn.BatchNorm2d(6)
    )
    module.fc = torch.nn.Sequential(torch.nn.Linear(120, 7), torch.nn.ReLU(), torch.nn.Linear(7, 5))
    exported = torch_names.to_torch(NAMES, small)
    result = module.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in exported.items()})
    assert not result.missing_keys
    assert not result.unexpected_keys
    images = np.random.default_rng(1).random((2, *SHAPE), np.float32)
    module.eval()
    with torch.no_grad():
        maps = torch.relu(module.features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))
        expected = module.fc(maps.flatten(1)).numpy()
    found = Small(num_classes=5).apply(small.variables, jnp.asarray(images), train=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# The large and the deep ones differ from these in their sizes alone.
@pytest.mark.parametrize(
    "name",
    [n for n in models.names() if models.facts(n).parameters < 6_000_000 and "110" not in n and "densenet" not in n]
    + ["densenet40_12"],
)
def test_every_network_survives_the_journey_bit_by_bit(name):
    facts, names = models.facts(name), models.torch_names(name)
    state = random_state(models.create(name), facts.input_shape)
    tensors = torch_names.to_torch(names, state)
    counters = [key for key in tensors if key.endswith("num_batches_tracked")]
    assert len(tensors) - len(counters) == len(fitting.leaves(state))
    again = torch_names.from_torch(names, tensors, filled(state, seed=1))
    for path, leaf in fitting.leaves(state).items():
        assert np.asarray(fitting.leaves(again)[path]).tobytes() == np.asarray(leaf).tobytes(), path


def test_counters_surplus_parts_and_other_precisions_are_accepted(small):
    tensors = torch_names.to_torch(NAMES, small)
    assert tensors["features.1.num_batches_tracked"].dtype == np.int64
    assert tensors["features.1.num_batches_tracked"].shape == ()
    del tensors["features.1.num_batches_tracked"]
    tensors["aux.conv.weight"] = np.zeros(3)
    tensors["fc.2.weight"] = tensors["fc.2.weight"].astype(np.float64)
    tensors["features.0.bias"] = tensors["features.0.bias"].astype(jnp.bfloat16)
    state = torch_names.from_torch(NAMES, tensors, small)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(state.params["head"]["kernel"], small.params["head"]["kernel"])


def test_averaged_parameters_become_the_parameters(small):
    averaged = jax.tree.map(lambda leaf: leaf + 1, small.params)
    tensors = torch_names.to_torch(NAMES, small.replace(ema_params=averaged))
    state = torch_names.from_torch(NAMES, tensors, small.replace(ema_params=small.params))
    for tree in (state.params, state.ema_params):
        np.testing.assert_array_equal(tree["head"]["kernel"], averaged["head"]["kernel"])


def test_a_mismatch_lists_what_is_missing_extra_and_of_another_shape(small):
    tensors = torch_names.to_torch(NAMES, small)
    for name in ("features.0.bias", "features.1.weight", "features.1.bias", "features.1.running_mean"):
        del tensors[name]
    tensors["stem.weight"] = np.zeros(3, np.float32)
    tensors["fc.0.weight"] = np.zeros((7, 121), np.float32)
    with pytest.raises(InputError) as caught:
        torch_names.from_torch(NAMES, tensors, small)
    assert str(caught.value) == (
        "does not fit the network: 4 missing (features.0.bias, features.1.bias, features.1.weight, ...), "
        "1 extra (stem.weight), 1 of another shape (fc.0.weight is (7, 121), expected (7, 120))"
    )


def test_another_width_is_not_called_another_number_of_classes(small):
    tensors = torch_names.to_torch(NAMES, small)
    for changed in (
        {"fc.0.weight": np.zeros((9, 120), np.float32), "fc.0.bias": np.zeros(9, np.float32)},
        {"fc.2.weight": np.zeros((5, 9), np.float32)},
        {"fc.2.weight": np.zeros((10, 9), np.float32), "fc.2.bias": np.zeros(10, np.float32)},
    ):
        with pytest.raises(InputError, match="of another shape") as caught:
            torch_names.from_torch(NAMES, {**tensors, **changed}, small)
        assert "classes" not in str(caught.value)


def test_a_head_for_other_classes_is_called_that_and_can_be_skipped(small):
    tensors = torch_names.to_torch(NAMES, random_state(Small(num_classes=10), SHAPE, seed=1))
    with pytest.raises(InputError, match="; the file is for 10 classes, the network for 5"):
        torch_names.from_torch(NAMES, tensors, small)
    for head in (tensors, {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.2.")}):
        state = torch_names.from_torch(NAMES, head, small, skip=("head",))
        np.testing.assert_array_equal(state.params["head"]["kernel"], small.params["head"]["kernel"])
        np.testing.assert_array_equal(state.params["hidden"]["bias"], tensors["fc.0.bias"])
    with pytest.raises(InputError, match="of another shape"):
        torch_names.from_torch(NAMES, tensors, small, skip=("he", "hidden"))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.full(5, np.nan, np.float32), "numbers in fc.2.bias that are not finite"),
        (np.full(5, 1e300), "numbers in fc.2.bias that are not finite"),
        (np.zeros(5, np.int8), "fc.2.bias as int8; expected floating-point numbers"),
    ],
)
def test_numbers_that_no_layer_can_use_are_refused(small, value, says):
    tensors = torch_names.to_torch(NAMES, small)
    with pytest.raises(InputError, match=says):
        torch_names.from_torch(NAMES, {**tensors, "fc.2.bias": value}, small)


def test_a_part_that_pytorch_does_not_have_is_named(small):
    with pytest.raises(InputError, match="norm is not in the published form"):
        torch_names.to_torch(TorchNames({"conv": "conv", "head": "fc", "hidden": "hidden"}.__getitem__), small)
