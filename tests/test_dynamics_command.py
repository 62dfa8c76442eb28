"""The command that shows gradients, dead units, the loss around the parameters and fields: what it prints and keeps."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from commands import digits, invoke, kept, random_weights

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import gradients, loss_surface
from jaxcnn.analysis.dead_units import dead_units
from jaxcnn.analysis.effective_receptive_field import effective_receptive_field
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, OptimizerConfig, TrainingConfig
from jaxcnn.interop import weights
from jaxcnn.train.loop import train

MLP = ModelSpec("mlp", {"width": 8, "depth": 3}, 10, (8, 8, 1), (0.3,), (0.4,), ())
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random network in a file of weights."""
    return random_weights(tmp_path_factory.mktemp("weights"), MLP)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_gradients_by_layer_are_those_of_the_function(capsys, file, here):
    given = ("mlp", "--weights", file, "--dataset", "digits", "--limit", "20")
    status, out, _ = invoke(capsys, "dynamics", *given, "--json")
    assert status == 0
    printed = json.loads(out)
    assert (printed["output"], printed["examples"]) == ("dynamics-mlp-gradients", 20)
    assert printed["files"] == ["dynamics.npz", "gradients.pdf", "gradients.png"]
    arrays, about = kept(here / "dynamics-mlp-gradients" / "dynamics.npz")
    assert (about["command"], about["kind"], about["limit"]) == ("dynamics", "gradients", 20)
    np.testing.assert_array_equal(arrays["indices"], np.linspace(0, 358, 20).round())
    model, state = jaxcnn.load("mlp", weights=file)
    batch = digits(arrays["indices"])
    expected = gradients.flow(model, state, *batch)
    np.testing.assert_allclose(arrays["norms_0"], expected.norms, rtol=1e-5)
    assert printed["networks"][0]["layers"] == ["hidden1", "hidden2", "hidden3", "head"]
    np.testing.assert_allclose(printed["networks"][0]["norms"], np.median(expected.norms, axis=1), rtol=1e-5)


@pytest.mark.slow
def test_slices_are_drawn_again_from_what_was_kept(capsys, file, here):
    given = ("mlp", "--weights", file, "--dataset", "digits", "--limit", "20")
    lines = ("--kind", "slices", "--directions", "2", "--points", "5", "--span", "0.5", "--seed", "3")
    status, out, _ = invoke(capsys, "dynamics", *given, *lines)
    assert status == 0
    assert "over 2 directions" in out
    arrays, about = kept(here / "dynamics-mlp-slices" / "dynamics.npz")
    model, state = jaxcnn.load("mlp", weights=file)
    batch = digits(arrays["indices"])
    assert (about["directions"], about["span"], about["points"], about["seed"]) == (2, 0.5, 5, 3)
    along = loss_surface.direction(state, jax.random.fold_in(jax.random.key(3), 1))
    expected = loss_surface.slice_1d(model, state, [batch], along, np.linspace(-0.5, 0.5, 5))
    np.testing.assert_allclose(arrays["losses_0"][1], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_plane_holds_the_slices_of_its_directions(capsys, file, here):
    given = ("mlp", "--weights", file, "--dataset", "digits", "--limit", "20", "--points", "3", "--json")
    for kind in ("plane", "slices"):
        assert invoke(capsys, "dynamics", *given, "--kind", kind)[0] == 0
    plane, lines = (kept(here / f"dynamics-mlp-{kind}" / "dynamics.npz")[0]["losses_0"] for kind in ("plane", "slices"))
    np.testing.assert_allclose(plane[:, 1], lines[0], rtol=1e-5)
    np.testing.assert_allclose(plane[1], lines[1], rtol=1e-5)


@pytest.mark.slow
def test_fields_of_named_layers_and_of_some(capsys, here):
    spec = ModelSpec("cifar_resnet8", {}, 10, (8, 8, 1), (0.3,), (0.4,), ())
    weights.write(here / "resnet.npz", spec, states.create(models.from_spec(spec), KEY, spec.input_shape))
    given = ("cifar_resnet8", "--weights", "resnet.npz", "--dataset", "digits", "--limit", "8", "--kind", "fields")
    status, out, _ = invoke(
        capsys, "dynamics", *given, "--layers", "stem", "stage2/block1", "--output", "two", "--json"
    )
    assert status == 0
    assert json.loads(out)["networks"][0]["layers"]["stem"]["sees"] == [3, 3]
    arrays, _ = kept(here / "two" / "dynamics.npz")
    model, state = jaxcnn.load("cifar_resnet8", weights="resnet.npz")
    images = digits(arrays["indices"])[0]
    expected = effective_receptive_field(model, state, images, "stage2/block1", KEY)
    np.testing.assert_allclose(arrays["heat_0"][1], expected.heat, atol=1e-5)
    assert invoke(capsys, "dynamics", *given, "--output", "some")[0] == 0
    layers = kept(here / "some" / "dynamics.npz")[0]["layers_0"]
    assert len(layers) == 5
    assert layers[0] == "stem"


@pytest.mark.slow
def test_dead_units_stand_at_the_rates_of_the_runs(capsys, here):
    for name, rate, seed in (("a", 0.1, 0), ("b", 3.0, 0), ("c", 3.0, 1)):
        experiment = Experiment(
            model=ModelConfig("mlp", {"width": 16, "depth": 2}),
            data=DataConfig("digits", batch_size=160),
            optimizer=OptimizerConfig("sgd", learning_rate=rate),
            training=TrainingConfig(epochs=1, seed=seed),
        )
        train(experiment, here / name)
    status, out, _ = invoke(capsys, "dynamics", "b", "--beside", "a", "c", "--kind", "dead", "--json")
    assert status == 0
    networks = json.loads(out)["networks"]
    assert [one["learning_rate"] for one in networks] == [3.0, 0.1, 3.0]
    expected = dead_units(*jaxcnn.load("b"), digits(range(359))[0])
    np.testing.assert_allclose(networks[0]["shares"], expected.shares)
    assert networks[0]["rectifiers"] == ["hidden1", "hidden2"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kind", "dead"], "mlp comes from a file of weights; expected a run, which has a learning rate"),
        (["--kind", "fields"], "mlp has no layer with maps"),
        (["--kind", "fields", "--layers", "hidden9"], "unknown layer 'hidden9'"),
        (["--layers", "head"], "layers are ('head',); expected none with gradients"),
        (["--kind", "slices", "--points", "4"], "points is 4; expected an odd number"),
        (["--kind", "slices", "--directions", "0"], "directions is 0"),
        (["--kind", "plane", "--span", "nan"], "span is nan"),
        (["--limit", "0"], "limit is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--kind", "none"], "none"),
        (["--dataset", "digits", "--image-size", "9"], "mlp takes images of 8x8x1; expected 9x9x1, as the images have"),
        (["--beside", "nowhere"], "nowhere is not a run directory"),
        (["--output", "."], "exists; expected a new folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_leave_nothing(capsys, file, here, arguments, says):
    status, out, err = invoke(capsys, "dynamics", "mlp", "--weights", file, "--dataset", "digits", *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not list(here.iterdir())
