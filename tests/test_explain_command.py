"""The commands that show what a network's layers look for: files, results as arrays, and mistakes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import invoke, kept
from PIL import Image
from test_figures import words

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis.patches import top_patches
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.data import imagenet, open_split, photographs
from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.interop import weights
from jaxcnn.report import results
from jaxcnn.report.subject import open_network, open_subject
from jaxcnn.train.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "digits"
    experiment = Experiment(
        model=ModelConfig("mlp", {"width": 16}),
        data=DataConfig("digits", batch_size=160),
        training=TrainingConfig(epochs=1),
    )
    train(experiment, directory)
    return str(directory)


SPECS = {
    "lenet5": ModelSpec("lenet5", {}, 10, (28, 28, 1), (0.3,), (0.4,), ()),
    "squeezenet1_1": ModelSpec("squeezenet1_1", {}, 1000, (48, 48, 3), (0.5,), (0.25,), ()),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random networks in files of weights."""
    folder = tmp_path_factory.mktemp("weights")
    for name, spec in SPECS.items():
        state = states.create(models.from_spec(spec), jax.random.key(0), spec.input_shape)
        weights.write(folder / f"{name}.npz", spec, state)
    return {name: str(folder / f"{name}.npz") for name in SPECS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (400, 300)), ("a.png", (280, 350)), ("c.jpg", (500, 280))):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path / name)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- filters


@pytest.mark.slow
def test_the_kernels_of_the_first_layer_are_drawn_and_kept(capsys, files, here):
    status, out, _ = invoke(capsys, "filters", "lenet5", "--weights", files["lenet5"], "--json")
    assert status == 0
    assert json.loads(out) == {
        "output": "filters-lenet5",
        "files": ["filters.npz", "filters.pdf", "filters.png"],
        "layer": "c1",
        "shape": [5, 5, 1, 6],
    }
    assert sorted(path.name for path in (here / "filters-lenet5").iterdir()) == json.loads(out)["files"]
    arrays, about = kept(here / "filters-lenet5" / "filters.npz")
    kernel = jaxcnn.load("lenet5", weights=files["lenet5"])[1].params["c1"]["kernel"]
    np.testing.assert_array_equal(arrays["kernels"], kernel)
    assert (about["network"], about["weights"], about["layer"]) == ("lenet5", files["lenet5"], "c1")
    assert about["model"]["input_shape"] == [28, 28, 1]
    assert about["environment"]["jax"] == jax.__version__


@pytest.mark.slow
def test_the_kernels_of_another_layer_go_by_its_name(capsys, files, here):
    arguments = ("filters", "squeezenet1_1", "--weights", files["squeezenet1_1"], "--layer")
    status, out, _ = invoke(capsys, *arguments, "fire2/expand3x3")
    assert (status, out.splitlines()[0]) == (0, "fire2/expand3x3: 64 kernels of 3x3x16")
    assert out.split()[-1] == "filters-squeezenet1_1-fire2-expand3x3/filters.png"
    arrays, _ = kept(here / "filters-squeezenet1_1-fire2-expand3x3" / "filters.npz")
    assert arrays["kernels"].shape == (3, 3, 16, 64)
    status, out, err = invoke(capsys, *arguments, "fire2/expand")
    assert (status, out) == (2, "")
    assert "unknown convolution 'fire2/expand'; did you mean fire2/expand" in err


def test_a_run_has_filters_too(capsys, run, here):
    status, out, _ = invoke(capsys, "filters", run, "--output", "new/folder")
    assert status == 0
    assert "16 kernels of 8x8x1" in out
    assert (here / "new" / "folder" / "filters.png").stat().st_size > 1000


# ---- patches


def test_a_run_s_patches_come_from_its_own_split(capsys, run, here):
    status, out, _ = invoke(capsys, "patches", run, "--layer", "hidden1", "--units", "3", "1", "--k", "4", "--json")
    assert status == 0
    printed = json.loads(out)
    assert (printed["output"], printed["examples"], printed["receptive_field"]) == (
        "patches-digits-hidden1",
        359,
        [8, 8],
    )
    model, state = jaxcnn.load(run)
    images = open_split(DataConfig("digits"), "test", 0).read(range(359))[0].astype(np.float32) / 255
    expected = top_patches(model, state, [images], "hidden1", (3, 1), k=4)
    arrays, about = kept(here / "patches-digits-hidden1" / "patches.npz")
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(arrays[name], values, rtol=1e-5)
    np.testing.assert_array_equal(arrays["units"], [3, 1])
    for row, unit in enumerate(printed["units"]):
        assert unit["unit"] == (3, 1)[row]
        for name in ("values", "indices", "positions", "boxes"):
            np.testing.assert_array_equal(np.float32(unit[name]), np.float32(arrays[name][row]))
    assert about["images"]["origin"] == "images of the test split of digits"
    assert about["images"]["count"] == 359
    assert (about["network"], about["step"], about["command"], about["k"]) == (run, int(state.step), "patches", 4)


def test_where_the_first_units_are_shown_it_is_said(capsys, run, here, monkeypatch):
    figures = []

    def seen(folder, name, arrays, about, drawn):
        figures.append(drawn["patches"])
        return []

    monkeypatch.setattr(results, "write", seen)
    status, out, _ = invoke(capsys, "patches", run, "--layer", "hidden1", "--k", "2")
    assert status == 0
    assert out.startswith("hidden1: sees 8x8 pixels; 359 images; units 0 to 9 of 16\nunit 0: ")
    assert "digits, hidden1, units 0 to 9 of 16: the 2 of" in " ".join(" ".join(words(figures[0])).split())
    assert "units" not in invoke(capsys, "patches", run, "--layer", "hidden1", "--units", "3", "--k", "2")[1]


@pytest.mark.slow
def test_what_was_kept_is_enough_to_repeat_it(capsys, files, here):
    arguments = ("patches", "lenet5", "--weights", files["lenet5"], "--dataset", "digits", "--image-size", "28")
    status, out, _ = invoke(capsys, *arguments, "--split", "train", "--layer", "c3", "--k", "5", "--output", "here")
    assert status == 0
    assert out.startswith("c3: sees 14x14 pixels; 1438 images; units 0 to 9 of 16\nunit 0: ")
    arrays, about = kept(here / "here" / "patches.npz")
    assert arrays["patches"].shape == (10, 5, 14, 14, 1)
    chosen = about["images"]
    subject = open_subject(
        open_network(about["network"], weights=about["weights"]),
        dataset=chosen["dataset"],
        split=chosen["split"],
        image_size=chosen["image_size"],
    )
    network = subject.network
    again = top_patches(network.model, network.state, subject.batches(), about["layer"], arrays["units"], k=about["k"])
    for name, values in again._asdict().items():
        np.testing.assert_array_equal(arrays[name], values)


@pytest.mark.slow
def test_photographs_are_cut_as_for_the_published_weights(capsys, files, folder, here):
    arguments = ("patches", "squeezenet1_1", "--weights", files["squeezenet1_1"], "--images", folder)
    status, out, _ = invoke(capsys, *arguments, "--layer", "conv1", "--units", "0", "5", "--json")
    assert status == 0
    printed = json.loads(out)
    assert printed["receptive_field"] == [3, 3]
    arrays, _ = kept(here / "patches-squeezenet1_1-conv1" / "patches.npz")
    assert arrays["values"].shape == (2, 3)  # of three photographs no nine
    for row, unit in enumerate(printed["units"]):
        assert sorted(Path(file).name for file in unit["files"]) == ["a.png", "b.png", "c.jpg"]
        assert unit["files"] == arrays["files"][row].tolist()
        for column, file in enumerate(unit["files"]):
            whole = photographs.cut(np.asarray(Image.open(file)), 256, 48, 48).astype(np.float32) / 255
            top, left, bottom, right = arrays["boxes"][row, column]
            np.testing.assert_array_equal(arrays["patches"][row, column], whole[top:bottom, left:right])


def test_nothing_that_exists_is_written_over(capsys, files, here):
    (here / "kept").mkdir()
    (here / "kept" / "file").write_text("mine")
    (here / "file").write_text("mine")
    for command, *rest in (("filters",), ("patches", "--dataset", "digits", "--image-size", "28", "--layer", "c1")):
        for output, says in (("kept", "kept exists"), ("file", "file exists"), ("file/new", "file/new cannot be made")):
            status, out, err = invoke(
                capsys, command, "lenet5", "--weights", files["lenet5"], *rest, "--output", output
            )
            assert (status, out) == (2, "")
            assert says in err
    assert sorted(path.name for path in here.rglob("*")) == ["file", "file", "kept"]
    assert (here / "kept" / "file").read_text() == (here / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_not_there_at_all(capsys, files, here, monkeypatch):
    def full(figure, stem):
        Path(f"{stem}.pdf").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(style, "save", full)
    status, out, err = invoke(capsys, "filters", "lenet5", "--weights", files["lenet5"])
    assert (status, out) == (1, "")
    assert "filters-lenet5 cannot be written: No space left on device" in err
    assert not list(here.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(here, monkeypatch):
    def refused(self, *args, **options):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        with pytest.raises(InputError, match="deep/new cannot be made: Read-only file system"):
            results.new_folder("deep/new")
    with pytest.raises(InputError, match="cannot be made: .*embedded null"):
        results.new_folder("a\0b")
    assert results.new_folder("deep/new") == Path("deep/new")
    assert not list(here.iterdir())


def test_a_file_of_weights_is_told_by_where_it_is_and_what_is_in_it(files, monkeypatch):
    file = Path(files["lenet5"])
    monkeypatch.chdir(file.parent)
    about = open_network("lenet5", weights=file.name).about()
    assert about["weights"] == str(file.resolve())
    assert about["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_folder_that_appears_meanwhile_is_left_alone(here):
    folder = results.new_folder("late")
    (here / "late").mkdir()
    with pytest.raises(InputError, match="late exists"):
        results.write(folder, "numbers", {"one": np.ones(1)}, {}, {})
    assert list(here.rglob("*")) == [here / "late"]


DIGITS = ["--dataset", "digits", "--image-size", "28"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--layer", "c1"], "nowhere is not a run directory"),
        (["lenet5", "--layer", "c1"], "lenet5 is a network without weights"),
        (["FILE", "--layer", "c1"], "is a file; expected a run directory, or a network's name with --weights"),
        (["lenet5", "--weights", "FILE", "--layer", "c1"], "expected --images FOLDER or --dataset NAME"),
        (["lenet", "--weights", "FILE", *DIGITS, "--layer", "c1"], "did you mean lenet5"),
        (["lenet5", "--weights", "none.npz", *DIGITS, "--layer", "c1"], "none.npz"),
        (["lenet5", "--weights", "FILE", *DIGITS], "--layer"),
        (["lenet5", "--weights", "FILE", *DIGITS, "--layer", "c9"], "unknown layer 'c9'; did you mean"),
        (["lenet5", "--weights", "FILE", *DIGITS, "--layer", "c1", "--units", "6"], "expected integers in [0, 6)"),
        (["lenet5", "--weights", "FILE", *DIGITS, "--layer", "c1", "--k", "0"], "k is 0"),
        (["lenet5", "--weights", "FILE", "--dataset", "digts", "--layer", "c1"], "did you mean digits"),
        (["lenet5", "--weights", "FILE", "--dataset", "digits", "--layer", "c1"], "lenet5 got images of 8x8"),
        (["lenet5", "--weights", "FILE", *DIGITS, "--images", "x", "--layer", "c1"], "expected one of them"),
        (["lenet5", "--weights", "FILE", "--images", "nothing", "--layer", "c1"], "nothing is not there"),
        (["lenet5", "--weights", "FILE", "--images", "x", "--split", "test", "--layer", "c1"], "--split and"),
        (["lenet5", "--weights", "FILE", "--checkpoint", "best", *DIGITS, "--layer", "c1"], "checkpoint is best"),
        (["RUN", "--image-size", "9", "--layer", "hidden1"], "expected none with the run's own images"),
        (["RUN", "--checkpoint", "77", "--layer", "hidden1"], "77"),
        (["squeezenet1_1", "--weights", "OTHER", *DIGITS, "--layer", "conv1"], "images of 1 channels; expected 3"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(capsys, run, files, here, arguments, says):
    stand_ins = {"RUN": run, "FILE": files["lenet5"], "OTHER": files["squeezenet1_1"]}
    status, out, err = invoke(capsys, "patches", *(stand_ins.get(word, word) for word in arguments))
    assert (status, out) == (2, "")
    assert says in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not list(here.iterdir())


# ---- what all such commands begin with


def test_a_subject_has_the_images_of_a_run(run):
    subject = open_subject(open_network(run), split="train")
    assert (len(subject.source), subject.labelled, subject.files) == (1438, True, None)
    assert subject.class_names == tuple(map(str, range(10)))
    batches = list(subject.batches(500))
    assert [len(batch) for batch in batches] == [500, 500, 438]
    images = open_split(DataConfig("digits"), "train", 0).read(range(1438))[0]
    np.testing.assert_array_equal(np.concatenate(batches), images.astype(np.float32) / 255)
    np.testing.assert_array_equal(subject.read([1437, 3]), np.concatenate(batches)[[1437, 3]])


def test_a_subject_reads_images_when_they_are_asked_for(run, monkeypatch):
    subject = open_subject(open_network(run))
    asked = []
    read = type(subject.source).read
    monkeypatch.setattr(type(subject.source), "read", lambda self, i: asked.append(list(i)) or read(self, i))
    batches = subject.batches(200)
    assert asked == []
    next(batches)
    assert asked == [list(range(200))]


def test_a_run_sees_photographs_whole_as_it_sees_its_own_images(run, folder):
    subject = open_subject(open_network(run), images=str(folder))
    assert subject.class_names == tuple(map(str, range(10)))  # and not ImageNet's
    assert not subject.labelled
    assert [Path(file).name for file in subject.files or ()] == ["a.png", "b.png", "c.jpg"]
    grey = Image.open(folder / "b.png").convert("L")
    expected = photographs.cut(np.asarray(grey)[..., None], None, 8, 8)
    np.testing.assert_array_equal(subject.read([1])[0], expected.astype(np.float32) / 255)


def test_the_classes_of_a_network_of_a_thousand_are_imagenet_s(files, folder):
    network = open_network("squeezenet1_1", weights=files["squeezenet1_1"])
    subject = open_subject(network, images=str(folder), image_size=32)
    assert subject.class_names == imagenet.names()
    assert subject.source.image_shape == (32, 32, 3)


def test_another_dataset_may_be_looked_at(files):
    network = open_network("lenet5", weights=files["lenet5"])
    subject = open_subject(network, dataset="digits", image_size=28)
    assert subject.origin == "images of the test split of digits"
    with pytest.raises(InputError, match="there is no validation split"):
        open_subject(network, dataset="digits", split="validation")


def test_the_true_classes_are_known_where_the_network_calls_them_so_too(run, files, folder, tmp_path):
    labels = list(map(str, open_split(DataConfig("digits"), "test", 0).read([0, 1])[1]))
    assert open_subject(open_network(run)).read_named([0, 1])[1] == labels
    assert open_subject(open_network(run), images=str(folder)).read_named([0])[1] is None  # nothing says them
    spelt = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert open_subject(open_network(run), dataset="digits").read_named([0, 1])[1] == labels  # its own, though named
    for kind in ("two", "nine", "digits/2", "digits/9"):
        path = tmp_path / ("pictures" if "/" not in kind else "") / kind
        path.mkdir(parents=True)
        for number in range(5):
            Image.new("L", (28, 28), 40 * number).save(path / f"{number}.png")
    numbers = tuple(map(str, range(10)))  # of digits by their name, of others as they come: they say nothing
    for number, names in enumerate((spelt, numbers, ())):
        file = tmp_path / f"{number}.npz"
        known = open_network("lenet5", weights=files["lenet5"])
        weights.write(file, dataclasses.replace(known.spec, class_names=names), known.state)
        network = open_network("lenet5", weights=str(file))
        assert open_subject(network, dataset="digits", image_size=28).read_named([0, 1])[1] is None
        pictures = open_subject(network, dataset="folder", data_directory=str(tmp_path / "pictures"))
        assert pictures.read_named([0, 1])[1] == (["nine", "two"] if names == spelt else None)
        numbered = open_subject(network, dataset="folder", data_directory=str(tmp_path / "digits"))
        assert numbered.read_named([0, 1])[1] is None


@pytest.mark.slow
def test_squeezenet_s_patches_of_photographs(capsys, real_data, here):
    arguments = ("squeezenet1_0", "--weights", real_data / "weights" / "squeezenet1_0_imagenet.pth")
    chosen = ("--images", real_data / "imagenet_samples", "--layer", "fire5", "--units", "0", "1", "--json")
    status, out, _ = invoke(capsys, "patches", *arguments, *chosen)
    assert status == 0
    printed = json.loads(out)
    assert printed["examples"] == 23
    assert all(Path(file).is_file() for unit in printed["units"] for file in unit["files"])
