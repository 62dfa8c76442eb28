"""The command that fools a network: what it prints, draws and keeps, that it goes on, and mistakes."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from commands import invoke, kept, random_weights

import jaxcnn
from jaxcnn.analysis import evolution, fooling
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.figures import fooling as figures
from jaxcnn.figures import style
from jaxcnn.report import climbing, evolving, unfinished
from jaxcnn.train.loop import train

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random small network in a file of weights."""
    spec = ModelSpec("mlp", {"width": 16, "depth": 2}, 10, (8, 8, 1), (0.3,), (0.4,), NAMES)
    return random_weights(tmp_path_factory.mktemp("weights"), spec)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ascent_is_printed_and_kept(capsys, file, here):
    given = ("mlp", "--weights", file, "--targets", "three", "0", "--confidence", "0.9", "--seed", "4", "--json")
    status, out, _ = invoke(capsys, "fool", *given)
    assert status == 0
    printed = json.loads(out)
    assert printed["output"] == "fool-mlp-gradient"
    assert printed["targets"] == [3, 0]
    assert printed["median_confidence"] == pytest.approx(np.median(printed["confidences"]))
    assert sorted(path.name for path in (here / "fool-mlp-gradient").iterdir()) == sorted(printed["files"])
    arrays, about = kept(here / "fool-mlp-gradient" / "fooling.npz")
    model, state = jaxcnn.load("mlp", weights=file)
    key = jax.random.fold_in(jax.random.key(4), 0)
    asked = {"image_shape": (8, 8, 1), "confidence": about["confidence"]}
    again = fooling.ascend(model, state, np.array([3, 0]), key=key, **asked)
    np.testing.assert_array_equal(arrays["images"], np.round(np.asarray(again.images) * 255))
    np.testing.assert_array_equal(arrays["confidences"], np.float32(printed["confidences"]))
    rounded = jax.nn.softmax(model.apply(state.variables, np.float32(arrays["images"]) / 255, train=False))
    np.testing.assert_allclose(printed["rounded_confidences"], np.asarray(rounded)[[0, 1], [3, 0]], rtol=1e-5)


EVOLVE = ("--method", "direct", "--generations", "24", "--population", "6", "--seed", "2")


@pytest.mark.slow
def test_evolution_goes_on_after_an_interruption(capsys, file, here, monkeypatch):
    given = ("fool", "mlp", "--weights", file, *EVOLVE)
    status, out, err = invoke(capsys, *given, "--output", "whole", "--targets", "1", "7", "--json")
    assert status == 0
    assert "generation 24: median confidence" in err
    printed = json.loads(out)
    assert {"fooling.npz", "generations.pdf", "film.png", "evolution.gif"} <= set(printed["files"])
    model, state = jaxcnn.load("mlp", weights=file)
    asked = {"key": jax.random.key(2), "encoding": "direct", "generations": 24, "population": 6}
    found = evolution.map_elites(model, state, (8, 8, 1), **asked)
    whole, _ = kept(here / "whole" / "fooling.npz")
    np.testing.assert_array_equal(whole["history"], found.history)
    np.testing.assert_array_equal(whole["confidences"], found.history[-1][[1, 7]])
    assert whole["frames"].shape == (len(evolving.moments(24)), 2, 8, 8, 1)

    calls = []

    def interrupted(*args, **kwargs):
        calls.append(kwargs["generations"])
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = evolution.map_elites
    monkeypatch.setattr(unfinished, "SAVED", -1.0)  # saved at every look
    monkeypatch.setattr(evolution, "map_elites", interrupted)
    again = (*given, "--output", "parts", "--targets", "1", "7")
    assert invoke(capsys, *again)[0] == 130
    assert not (here / "parts").exists()
    assert (here / "parts.evolution.npz").exists()
    other, _, err = invoke(capsys, *given, "--output", "parts", "--seed", "9", "--targets", "1", "7")
    assert other == 2
    assert "parts.evolution.npz holds an evolution whose seed is 2; expected 9" in err
    assert invoke(capsys, *again)[0] == 0
    assert calls[9] == calls[8]  # from where it was, not from the beginning
    assert not (here / "parts.evolution.npz").exists()
    parts, _ = kept(here / "parts" / "fooling.npz")
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value)


def test_what_was_stopped_while_it_drew_the_animation_can_go_on(capsys, file, here, monkeypatch):
    def stopped(path, *_):
        path.write_bytes(b"GIF89a")
        raise KeyboardInterrupt

    monkeypatch.setattr(unfinished, "SAVED", -1.0)
    monkeypatch.setattr(style, "save", lambda *_: [])
    given = ("--method", "direct", "--generations", "2", "--population", "1", "--targets", "1", "--output", "new")
    monkeypatch.setattr(figures, "animate", stopped)
    assert invoke(capsys, "fool", "mlp", "--weights", file, *given)[0] == 130
    assert [path.name for path in here.iterdir()] == ["new.evolution.npz"]


def test_an_ascent_goes_on_after_an_interruption(capsys, file, here, monkeypatch):
    """Its images are those of each group by itself, and the same after an interruption as without one."""
    monkeypatch.setattr(climbing, "GROUP", 4)
    monkeypatch.setattr(unfinished, "SAVED", -1.0)
    given = ("fool", "mlp", "--weights", file, "--confidence", "0.9", "--output")
    status, out, err = invoke(capsys, *given, "whole", "--json")
    assert status == 0
    assert "8 of 10 classes: median confidence 0." in err
    assert {"steps.png", "images.pdf"} <= set(json.loads(out)["files"])
    whole, _ = kept(here / "whole" / "fooling.npz")
    assert whole["history"].shape == (whole["steps"].max() + 1, 10)
    np.testing.assert_array_equal(whole["history"][-1], whole["confidences"])
    model, state = jaxcnn.load("mlp", weights=file)
    key = jax.random.fold_in(jax.random.key(0), 1)
    group = fooling.ascend(model, state, np.arange(4, 8), key=key, image_shape=(8, 8, 1), confidence=0.9)
    np.testing.assert_array_equal(whole["images"][4:8], np.round(np.asarray(group.images) * 255))

    calls = []

    def interrupted(model, state, targets, **asked):
        calls.append(list(targets))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(model, state, targets, **asked)

    original = fooling.ascend
    monkeypatch.setattr(fooling, "ascend", interrupted)
    assert invoke(capsys, *given, "parts")[0] == 130
    assert (here / "parts.ascent.npz").exists()
    status, _, err = invoke(capsys, *given, "parts", "--targets", "1", "2", "3", "4", "5")
    assert status == 2
    assert "parts.ascent.npz" in err
    assert invoke(capsys, *given, "parts")[0] == 0
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7], [8, 9]]
    assert not (here / "parts.ascent.npz").exists()
    parts, _ = kept(here / "parts" / "fooling.npz")
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value)


@pytest.mark.parametrize("content", [b"PK nothing", b"\x93NUMPY", b"\x80\x04N.", b""])
def test_a_damaged_evolution_is_told(capsys, file, here, content):
    (here / "x.evolution.npz").write_bytes(content)
    status, _, err = invoke(capsys, "fool", "mlp", "--weights", file, *EVOLVE, "--output", "x")
    assert status == 2
    assert "x.evolution.npz is not an evolution that can go on (it is no whole .npz file); expected one" in err
    assert "delete the file, or choose another --output" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--targets", "10"], "target is class 10; expected classes in [0, 10)"),
        (["--targets", "tree"], "unknown class 'tree'; did you mean three"),
        (["--generations", "5"], "generations is 5; expected none, as the method gradient has no such setting"),
        (["--method", "cppn", "--steps", "5"], "steps is 5; expected none"),
        (["--method", "direct", "--population", "0"], "population is 0"),
        (["--method", "cppn", "--generations", "0"], "generations is 0; expected at least 1"),
        (["--seed", "-1"], "seed is -1; expected 0 to 2^32 - 1"),
        (["--confidence", "2"], "confidence is 2.0"),
        (["--step-size", "inf"], "step_size is inf; expected a number above 0"),
        (["--penalty", "nan"], "penalty is nan; expected a number of at least 0"),
        (["--output", "."], "exists; expected a new folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_leave_nothing(capsys, file, here, arguments, says):
    status, out, err = invoke(capsys, "fool", "mlp", "--weights", file, *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not list(here.iterdir())


# ---- networks that see what people see


@pytest.fixture(scope="module")
def lenet(tmp_path_factory, real_data):
    """LeNet-5 after an epoch on MNIST."""
    folder = tmp_path_factory.mktemp("runs") / "lenet"
    experiment = Experiment(
        model=ModelConfig("lenet5"),
        data=DataConfig("mnist", directory=str(real_data / "tfds")),
        training=TrainingConfig(epochs=1),
    )
    train(experiment, folder)
    return folder


def fooled(capsys, here, *arguments, expected):
    """How sure the network is of the images that were found, by its own account of them."""
    status, out, err = invoke(capsys, "fool", *arguments, "--output", "found", "--json")
    assert status == 0, err
    printed = json.loads(out)
    assert printed["targets"] == expected
    model, state = jaxcnn.load(arguments[0], weights=arguments[2] if arguments[1] == "--weights" else None)
    # Of the pictures as a file of eight bits holds them.
    pictures = np.float32(kept(here / "found" / "fooling.npz")[0]["images"]) / 255
    said = np.asarray(jax.nn.softmax(model.apply(state.variables, pictures, train=False)))
    sure = np.median(said[range(len(expected)), expected])
    assert printed["median_confidence"] == pytest.approx(sure, abs=1e-3)
    return min(sure, printed["median_confidence"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("gradient",), ("direct", "--generations", "200"), ("cppn", "--generations", "200")]
)
def test_lenet_is_sure_of_images_of_no_digit(capsys, here, lenet, arguments):
    sure = fooled(capsys, here, lenet, "--method", *arguments, expected=list(range(10)))
    assert sure >= 0.9999


@pytest.mark.slow
def test_squeezenet_is_sure_of_noise(capsys, here, real_data):
    file = real_data / "weights" / "squeezenet1_0_imagenet.pth"
    targets = list(range(0, 1000, 50))
    sure = fooled(capsys, here, "squeezenet1_0", "--weights", file, "--targets", *targets, expected=targets)
    assert sure >= 0.99
