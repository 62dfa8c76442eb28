"""The command that maximises activations: what it prints, draws and keeps, how it goes on after a kill, mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import invoke, kept, random_weights
from scipy.spatial.distance import cdist

import jaxcnn
from jaxcnn.analysis import maximize as analysis
from jaxcnn.analysis.parametrization import pixels
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.report import maximize as report
from jaxcnn.report import natural, unfinished, ways
from jaxcnn.report.page.opened import open_run
from jaxcnn.report.page.sections import maximised
from jaxcnn.report.subject import open_network
from jaxcnn.report.ways import Way, most_natural
from jaxcnn.train.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A perceptron trained on the bundled digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    experiment = Experiment(
        model=ModelConfig("mlp", {"width": 32, "depth": 2}),
        data=DataConfig("digits", batch_size=32),
        training=TrainingConfig(epochs=4),
    )
    train(experiment, folder)
    return str(folder)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random network for colour images, of 12 classes, in a file of weights."""
    spec = ModelSpec("mlp", {"width": 8, "depth": 2}, 12, (6, 6, 3), (0.3,), (0.4,), ())
    return random_weights(tmp_path_factory.mktemp("weights"), spec)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_class_is_sought_and_drawn(capsys, run, here):
    status, out, err = invoke(capsys, "maximize", run, "--steps", "96", "--json")
    assert status == 0, err
    printed = json.loads(out)
    assert printed["output"] == "maximize-digits"
    assert printed["files"] == ["maximize.npz", "maximize.pdf", "maximize.png"]
    assert sorted(path.name for path in here.iterdir()) == ["maximize-digits"]  # nothing else is left
    assert printed["targets"] == list(range(10))
    arrays, about = kept(here / "maximize-digits" / "maximize.npz")
    assert (about["command"], about["steps"], about["seed"]) == ("maximize", 96, 0)
    assert arrays["images"].shape == (10, 8, 8, 1)
    assert arrays["trace"].shape == (96, 10)
    model, state = jaxcnn.load(run)
    said = jax.nn.softmax(model.apply(state.variables, arrays["images"], train=False))
    np.testing.assert_allclose(printed["probabilities"], np.diag(said), atol=1e-6)
    assert (arrays["trace"][-8:].mean(0) > arrays["trace"][:8].mean(0)).all()


@pytest.mark.slow
def test_ways_are_compared(capsys, run, here):
    arguments = ("maximize", run, "--targets", "3", "7", "--steps", "8", "--compare", "--output", "here")
    status, out, err = invoke(capsys, *arguments)
    assert status == 0, err
    assert "3: probability" in out
    assert "pixels with L1: 3, 7" in err
    arrays, _ = kept(here / "here" / "maximize.npz")
    assert {"images", "images_pixels", "images_pixels_with_l1", "images_pixels_with_l2"} <= arrays.keys()
    assert (here / "here" / "comparison.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_page_of_a_run_shows_what_the_command_finds_in_large_images_too(capsys, here, monkeypatch):
    train(
        Experiment(
            model=ModelConfig("mlp", {"width": 8, "depth": 1}),
            data=DataConfig("digits", image_size=72, limit=32, batch_size=16),
            training=TrainingConfig(epochs=1),
        ),
        here / "large",
    )
    status, _, err = invoke(capsys, "maximize", "large", "--steps", "8")
    assert status == 0, err
    images = kept(here / "maximize-large" / "maximize.npz")[0]["images"]
    monkeypatch.setattr(analysis, "STEPS", 8)
    shown = []
    monkeypatch.setattr(maximised.pictures, "png", shown.append)
    maximised.gather(open_run("large"))
    np.testing.assert_array_equal(np.stack(shown), np.round(255 * images).astype(np.uint8))


def killed_at_each_saving(monkeypatch):
    monkeypatch.setattr(report, "SECONDS", -1.0)
    original = unfinished.write

    def die(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(unfinished, "write", die)
    return original


@pytest.mark.slow
def test_batch_normalisation_is_asked_what_images_are_like(capsys, here, monkeypatch):
    train(
        Experiment(
            model=ModelConfig("cifar_resnet8"),
            data=DataConfig("digits", image_size=33, batch_size=64),
            training=TrainingConfig(epochs=1),
        ),
        here / "normal",
    )
    arguments = ("maximize", "normal", "--steps", "34", "--compare")
    assert invoke(capsys, *arguments, "--output", "whole")[0] == 0
    whole, _ = kept(here / "whole" / "maximize.npz")
    assert whole["images_batch_statistics"].shape == (10, 33, 33, 1)
    assert whole["trace_batch_statistics"].shape == (34, 10)
    model, state = jaxcnn.load("normal")
    said = jax.nn.softmax(model.apply(state.variables, whole["images_batch_statistics"], train=False))
    np.testing.assert_allclose(np.diag(said), whole["values_batch_statistics"], atol=1e-6)
    killed_at_each_saving(monkeypatch)
    stops = 0
    while invoke(capsys, *arguments, "--output", "parts")[0] == 130:
        stops += 1
    assert stops == 10  # each of the five rows within, and at its end
    parts = kept(here / "parts" / "maximize.npz")[0]
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])


def test_the_image_kept_is_that_nearest_to_measured_ones(monkeypatch, run):
    """By hand: the mean over layers of the mean square distance, in deviations, to the five nearest."""
    draw = np.random.default_rng(0)
    seen = tuple(draw.normal(2.0, 3.0, (9, size)) for size in (4, 6))
    found = [draw.normal(2.0, 3.0, (6, size)) for size in (4, 6)]
    monkeypatch.setattr(natural, "each_statistics", lambda *_: found)
    memory = natural.Memory(np.zeros(3), seen)
    network = open_network(run)
    images = np.zeros((6, 2, 2, 1))
    expected = np.zeros(6)
    for real, new in zip(seen, found, strict=True):
        scaled = cdist(new / real.std(0), real / real.std(0), "sqeuclidean") / real.shape[1]
        expected += np.sort(scaled, 1)[:, :5].mean(1) / 2
    np.testing.assert_allclose(memory.distances(network, images), expected)
    way = Way(pixels((2, 2, 1)), True, (), memory)
    best = most_natural(network, way, images, np.arange(3))
    assert best.tolist() == [k + 3 * int(expected[k + 3] < expected[k]) for k in range(3)]


def test_what_a_network_makes_of_measured_images_is_its_surest_logits(run):
    network = open_network(run)
    images = np.random.default_rng(0).random((70, 8, 8, 1), np.float32)
    logits = np.asarray(network.model.apply(network.state.variables, images, train=False))
    expected = np.sort(logits, 0)[-10:].mean(0)
    np.testing.assert_allclose(natural.Memory.of(network, images).levels, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("affordable", "classes", "starts", "together"),
    [(64, 10, 6, [10]), (20, 10, 2, [10]), (64, 1, 60, [1]), (64, 100, 1, [50, 50])],
)
def test_images_that_are_judged_together_are_of_all_classes(monkeypatch, run, affordable, classes, starts, together):
    monkeypatch.setattr(ways, "affordable", lambda *_: affordable)
    way = Way(pixels((8, 8, 1)), True, (), natural.Memory(np.zeros(classes), ()))
    found, pieces = ways.batches(open_network(run), way, classes)
    assert (found, [len(set(piece)) for piece in pieces]) == (starts, together)


def test_units_of_a_layer(capsys, file):
    arguments = ("maximize", "mlp", "--weights", file, "--layer", "hidden1", "--units", "1", "5", "--steps", "30")
    status, out, err = invoke(capsys, *arguments, "--json")
    assert status == 0, err
    printed = json.loads(out)
    assert (printed["layer"], printed["units"], printed["names"]) == ("hidden1", [1, 5], ["hidden1 1", "hidden1 5"])
    model, state = jaxcnn.load("mlp", weights=file)
    arrays, _ = kept(Path(printed["output"]) / "maximize.npz")
    found = jaxcnn.analysis.activations.activations(model, state, arrays["images"], "hidden1")
    np.testing.assert_allclose(printed["activations"], [found[0, 1], found[1, 5]], rtol=1e-5)
    assert (arrays["trace"][-1] > arrays["trace"][0]).all()


def test_a_search_that_was_killed_goes_on(capsys, run, here, monkeypatch):
    arguments = ("maximize", run, "--targets", "3", "--steps", "70", "--json")
    assert invoke(capsys, *arguments, "--output", "whole")[0] == 0
    original = killed_at_each_saving(monkeypatch)
    for _ in range(2):
        assert invoke(capsys, *arguments, "--output", "parts")[0] == 130
    assert not (here / "parts").exists()
    with np.load(here / ".parts.progress" / "0-0.npz") as file:
        assert len(file["trace"]) == 64
    status, _, err = invoke(capsys, *arguments, "--output", "parts", "--seed", "1")
    assert status == 2
    assert "holds a search whose seed is 0; expected 1 to go on with it, or another --output" in err
    monkeypatch.setattr(unfinished, "write", original)
    assert invoke(capsys, *arguments, "--output", "parts")[0] == 0
    assert not (here / ".parts.progress").exists()
    whole, parts = (kept(here / name / "maximize.npz")[0] for name in ("whole", "parts"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_was_killed_goes_on(run, here, how):
    code = (
        "from jaxcnn.report import maximize; maximize.SECONDS = 0.0; from jaxcnn import cli;"
        f"cli.main(['maximize', {run!r}, '--targets', '3', '--steps', '4000', '--output', 'parts'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    file = here / ".parts.progress" / "0-0.npz"
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait() != 0
    with np.load(file) as arrays:
        assert 0 < len(arrays["trace"]) < 4000
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", code.replace("'parts'", "'whole'")], check=True, stdout=subprocess.DEVNULL)
    whole, parts = (kept(here / name / "maximize.npz")[0] for name in ("whole", "parts"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--targets", "12"], "target is class 12; expected classes in [0, 10)"),
        (["--targets", "cat"], "unknown class 'cat'"),
        (["--layer", "hiden1"], "unknown layer 'hiden1'; did you mean hidden1"),
        (["--layer", "hidden1", "--units", "32"], "unit of hidden1 is 32; expected units in [0, 32)"),
        (["--units", "1"], "expected --layer LAYER with them"),
        (["--layer", "hidden1", "--targets", "1"], "expected none with a layer"),
        (["--layer", "hidden1", "--compare"], "expected no layer"),
        (["--l1", "nan"], "the weight of the L1 penalty is nan"),
        (["--l2", "-1"], "the weight of the L2 penalty is -1.0"),
        (["--total-variation", "inf"], "the weight of the total variation penalty is inf"),
        (["--seed", "-1"], "seed is -1; expected 0 to 2^32 - 1"),
        (["--steps", "0"], "steps is 0; expected at least 1"),
        (["--image-size", "9"], "image size is 9"),
        (["--output", "."], "exists; expected a new folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_leave_nothing(capsys, run, here, arguments, says):
    status, out, err = invoke(capsys, "maximize", run, *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "mlp has 12 classes; expected --targets"),
        (["--targets", "1", "--image-size", "9"], "MLP does not take images of 9x9x3"),
        (["--targets", "1", "--image-size", "0"], "image size is 0"),
        (["--targets", "1", "--dataset", "digits"], "has images of 1 channels; expected 3"),
    ],
)
def test_mistakes_about_a_file_of_weights(capsys, file, here, arguments, says):
    status, out, err = invoke(capsys, "maximize", "mlp", "--weights", file, *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert not list(here.iterdir())


# ---- networks that see what people see


def recognised(capsys, here, *arguments, expected):
    status, out, err = invoke(capsys, "maximize", *arguments, "--output", "found", "--json")
    assert status == 0, err
    printed = json.loads(out)
    assert printed["targets"] == expected
    model, state = jaxcnn.load(arguments[0], weights=arguments[2] if len(arguments) > 1 else None)
    arrays, _ = kept(here / "found" / "maximize.npz")
    # Of the picture as a file of eight bits would hold it.
    pictures = np.round(arrays["images"] * 255).astype(np.float32) / 255
    said = jax.nn.softmax(model.apply(state.variables, pictures, train=False))
    assert (np.asarray(said)[range(len(expected)), expected] > 0.99).all()


@pytest.mark.slow
def test_lenet_is_sure_of_all_ten_digits(capsys, here, real_data):
    experiment = Experiment(
        model=ModelConfig("lenet5"),
        data=DataConfig("mnist", directory=str(real_data / "tfds")),
        training=TrainingConfig(epochs=1),
    )
    train(experiment, here / "lenet")
    recognised(capsys, here, "lenet", expected=list(range(10)))


@pytest.mark.slow
def test_resnet20_is_sure_of_all_ten_classes(capsys, here, real_data):
    file, data = real_data / "weights" / "resnet20_cifar10.th", real_data / "tfds"
    known = ("--dataset", "cifar10", "--data.directory", data)
    recognised(capsys, here, "cifar_resnet20", "--weights", file, *known, expected=list(range(10)))


@pytest.mark.slow
def test_squeezenet_is_sure_of_the_lecture_s_six(capsys, here, real_data):
    file = real_data / "weights" / "squeezenet1_0_imagenet.pth"
    names = ("dumbbell", "cup", "dalmatian", "bell pepper", "lemon", "Siberian husky")
    expected = [543, 968, 251, 945, 951, 250]
    recognised(capsys, here, "squeezenet1_0", "--weights", file, "--targets", *names, expected=expected)
