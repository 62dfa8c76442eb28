"""The command that fits a linear classifier to a network's features."""

from __future__ import annotations

import json

import commands
import jax
import pytest

from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.config import ModelSpec
from jaxcnn.interop import weights


def invoke(capsys, *arguments: object) -> tuple[object, str, str]:
    return commands.invoke(capsys, "probe", *arguments)


@pytest.fixture
def lenet(tmp_path):
    spec = ModelSpec("lenet5", models.options("lenet5"), 10, (28, 28, 1), (0.3,), (0.4,), ())
    path = tmp_path / "lenet5.npz"
    weights.write(path, spec, states.create(models.from_spec(spec), jax.random.key(0), spec.input_shape))
    return str(path)


@pytest.mark.slow
def test_features_of_a_random_network_already_tell_digits_apart(capsys, lenet):
    arguments = ("lenet5", "--weights", lenet, "--dataset", "digits", "--image-size", "28", "--json")
    status, out, _ = invoke(capsys, *arguments)
    assert status == 0
    result = json.loads(out)
    assert (result["training_examples"], result["examples"], result["features"]) == (1438, 359, 84)
    assert result["top1"] > 0.9
    few = json.loads(invoke(capsys, *arguments, "--limit", "50")[1])
    assert (few["training_examples"], few["examples"]) == (50, 50)
    assert few["training_top1"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "digts"], "did you mean digits"),
        (["--dataset", "digits"], "lenet5 got images of 8x8"),
        (["--dataset", "digits", "--image-size", "28", "--seed", "-1"], "seed is -1; expected 0 to 2^32 - 1"),
        (["--dataset", "digits", "--image-size", "28", "--penalty", "nan"], "penalty is nan"),
        (["--dataset", "digits", "--limit", "0"], "limit 0"),
    ],
)
def test_a_mistake_is_one_message(capsys, lenet, arguments, says):
    status, out, err = invoke(capsys, "lenet5", "--weights", lenet, *arguments)
    assert (status, out) == (2, "")
    assert says in err


@pytest.mark.slow
def test_squeezenet_s_features_tell_cifar_10_apart(capsys, real_data):
    file = str(real_data / "weights" / "squeezenet1_0_imagenet.pth")
    data = ("--dataset", "cifar10", "--data.directory", str(real_data / "tfds"), "--image-size", "96")
    status, out, _ = invoke(capsys, "squeezenet1_0", "--weights", file, *data, "--limit", "500", "--json")
    assert status == 0
    assert json.loads(out)["top1"] > 0.6
