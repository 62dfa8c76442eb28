"""The command that lesions networks: what it prints, draws and keeps, and mistakes."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from commands import digits, invoke, kept, random_weights

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import gradients, lesion
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.figures import style
from jaxcnn.interop import weights
from jaxcnn.report import beside
from jaxcnn.report.subject import Network
from jaxcnn.state import State
from jaxcnn.train.loop import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two networks of one architecture, from two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        experiment = Experiment(
            model=ModelConfig("mlp", {"width": 16, "depth": 4}),
            data=DataConfig("digits", batch_size=160),
            training=TrainingConfig(epochs=1, seed=seed),
        )
        train(experiment, folder / f"digits{seed}")
    return [str(folder / f"digits{seed}") for seed in (0, 1)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random residual network in a file of weights."""
    spec = ModelSpec("cifar_resnet8", {}, 10, (8, 8, 1), (0.3,), (0.4,), ())
    return random_weights(tmp_path_factory.mktemp("weights"), spec)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_block_is_deleted_by_itself(capsys, runs, here):
    status, out, _ = invoke(capsys, "lesion", runs[0], "--beside", runs[1], "--limit", "100", "--json")
    assert status == 0
    printed = json.loads(out)
    assert (printed["output"], printed["examples"]) == ("lesion-digits0-delete", 100)
    assert printed["files"] == ["lesion.npz", "delete.pdf", "delete.png"]
    assert sorted(path.name for path in (here / "lesion-digits0-delete").iterdir()) == sorted(printed["files"])
    arrays, about = kept(here / "lesion-digits0-delete" / "lesion.npz")
    assert (about["command"], about["kind"], about["network"]) == ("lesion", "delete", runs[0])
    assert [other["network"] for other in about["beside"]] == [runs[1]]
    np.testing.assert_array_equal(arrays["indices"], np.linspace(0, 358, 100).round())
    batch = digits(arrays["indices"])
    for number, run in enumerate(runs):
        expected = lesion.single(*jaxcnn.load(run), [batch])
        np.testing.assert_array_equal(arrays[f"errors_{number}"], expected.errors)
        one = printed["networks"][number]
        assert (one["network"], one["intact"]) == (run, expected.intact)
        assert [block["name"] for block in one["blocks"]] == [f"hidden{i}" for i in range(1, 5)] + ["head"]
        assert one["errors"] == [None, *expected.errors[1:4], None]
        np.testing.assert_array_equal(arrays[f"blocks_{number}"], [block.name for block in expected.blocks])


def test_each_number_is_drawn_once_and_in_order(capsys, runs, here, monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, _: figures.append(figure) or [])
    given = (runs[0], "--kind", "random", "--counts", "3", "1", "1", "0", "--repeats", "2", "--limit", "10", "--json")
    status, out, _ = invoke(capsys, "lesion", *given)
    assert status == 0
    assert json.loads(out)["networks"][0]["counts"] == [0, 1, 3]
    assert kept(here / "lesion-digits0-random" / "lesion.npz")[1]["counts"] == [0, 1, 3]
    assert figures[0].axes[0].lines[0].get_xdata().tolist() == [0, 1, 3]


@pytest.mark.slow
def test_random_blocks_and_orders_are_drawn_again_from_what_was_kept(capsys, runs, here):
    model, state = jaxcnn.load(runs[0])
    batch = digits(range(359))
    arguments = (runs[0], "--repeats", "3", "--seed", "5")
    status, out, _ = invoke(capsys, "lesion", *arguments, "--kind", "random", "--counts", "1", "3")
    assert status == 0
    assert "digits0: 3 deleted: error" in out
    arrays, about = kept(here / "lesion-digits0-random" / "lesion.npz")
    again = lesion.several(model, state, [batch], about["counts"], about["repeats"], jax.random.key(about["seed"]))
    np.testing.assert_array_equal(arrays["deleted_0"], again.deleted)
    np.testing.assert_array_equal(arrays["errors_0"], again.errors)

    status, out, _ = invoke(capsys, "lesion", *arguments, "--kind", "shuffle", "--json")
    assert status == 0
    arrays, about = kept(here / "lesion-digits0-shuffle" / "lesion.npz")
    again = lesion.shuffle(model, state, [batch], range(11), 3, jax.random.key(5))
    for name in ("orders", "tau", "errors", "swaps"):
        np.testing.assert_array_equal(arrays[f"{name}_0"], getattr(again, name))
    np.testing.assert_allclose(json.loads(out)["networks"][0]["tau"], again.tau)


@pytest.mark.slow
def test_paths_go_through_the_blocks_of_a_residual_network(capsys, file, here):
    given = ("cifar_resnet8", "--weights", file, "--dataset", "digits", "--kind", "paths", "--limit", "8")
    status, out, _ = invoke(capsys, "lesion", *given, "--repeats", "2", "--output", "here")
    assert status == 0
    assert "cifar_resnet8: mean length" in out
    arrays, _ = kept(here / "here" / "lesion.npz")
    model, state = jaxcnn.load("cifar_resnet8", weights=file)
    again = gradients.paths(model, state, *digits(arrays["indices"]), 2, jax.random.key(0))
    np.testing.assert_allclose(arrays["norms_0"], again.norms, rtol=1e-4)
    np.testing.assert_array_equal(arrays["kept_0"], again.kept)
    assert (here / "here" / "paths.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kind", "random", "--counts", "4"], "counts are (4,); expected whole numbers from 0 to 3"),
        (["--counts", "1"], "counts are (1,); expected none where each block is deleted by itself"),
        (["--kind", "paths"], "MLP has no residual blocks"),
        (["--kind", "shuffle", "--repeats", "0"], "repeats is 0"),
        (["--limit", "0"], "limit is 0"),
        (["--beside", "nowhere"], "nowhere is not a run directory"),
        (["--kind", "none"], "none"),
        (["--output", "."], "exists; expected a new folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_leave_nothing(capsys, runs, here, arguments, says):
    status, out, err = invoke(capsys, "lesion", runs[0], *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not list(here.iterdir())


def test_images_must_have_the_network_s_classes(capsys, file, tmp_path_factory):
    spec = ModelSpec("mlp", {"width": 4, "depth": 2}, 7, (8, 8, 1), (0.3,), (0.4,), ())
    path = tmp_path_factory.mktemp("weights") / "seven.npz"
    weights.write(path, spec, states.create(models.from_spec(spec), jax.random.key(0), spec.input_shape))
    status, _, err = invoke(capsys, "lesion", "mlp", "--weights", path, "--dataset", "digits")
    assert status == 2
    assert "mlp has 7 classes; expected 10, as the images have" in err


def network(name, architecture="mlp", **options):
    spec = ModelSpec("mlp", {"width": 2}, 10, (8, 8, 1), (0.3,), (0.4,), ())
    model, state = models.from_spec(spec), State(0, {}, {}, (), None, None)
    return Network(name, None, None, replace(spec, name=architecture, options=options), model, state)


def test_networks_of_one_name_are_told_apart_by_their_folders():
    def called(*names):
        return beside.names([network(name) for name in names])

    assert called("runs/a", "runs/b") == ["a", "b"]
    seeds = ("plain/seed-0", "resnet/seed-0", "resnet/seed-1")
    assert called(*(f"runs/{seed}" for seed in seeds)) == list(seeds)
    assert called("runs/a", "runs/a") == ["a", "a"]


def test_architectures_are_called_by_what_differs():
    relu, tanh = (network("run", activation=activation, depth=3) for activation in ("relu", "tanh"))
    assert beside.by_architecture([(relu, 1), (relu, 2)]) == {"mlp": [1, 2]}
    by_activation = beside.by_architecture([(relu, 1), (tanh, 2), (relu, 3)])
    assert by_activation == {"activation relu": [1, 3], "activation tanh": [2]}
    others = [(relu, 1), (tanh, 2), (network("run", "lenet5", activation="relu"), 3)]
    assert list(beside.by_architecture(others)) == ["mlp (activation relu)", "mlp (activation tanh)", "lenet5"]
