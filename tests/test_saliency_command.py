"""The commands that explain images and compare methods: files, arrays that repeat, sentences and mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import invoke, kept
from jax.core import Tracer
from PIL import Image

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import attribution, comparison
from jaxcnn.analysis.occlusion import occlusion_grid
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.data import open_split
from jaxcnn.figures import style
from jaxcnn.interop import weights
from jaxcnn.report.saliency import choose, heard, options
from jaxcnn.report.subject import open_network, open_subject
from jaxcnn.train.loop import train

QUICK = ["gradient", "smooth_grad"]


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


SPEC = ModelSpec("lenet5", {}, 10, (28, 28, 1), (0.3,), (0.4,), (*(f"class {k}" for k in range(9)), "class_3"))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A random network in a file of weights; two of its classes go by the same name."""
    path = tmp_path_factory.mktemp("weights") / "lenet5.npz"
    weights.write(path, SPEC, states.create(models.from_spec(SPEC), jax.random.key(0), SPEC.input_shape))
    return ["lenet5", "--weights", str(path)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png", "c.png"):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(path / name)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(style.RC, "savefig.dpi", 40)  # quicker to write
    return tmp_path


def digits(run):
    images = open_split(DataConfig("digits"), "test", 0).read(range(359))[0].astype(np.float32) / 255
    model, state = jaxcnn.load(run)
    return model, state, images


# ---- saliency


@pytest.mark.slow
def test_each_method_s_maps_are_kept_with_all_that_made_them(capsys, run, here):
    arguments = ("saliency", run, "--methods", *QUICK, "--limit", "3", "--seed", "5", "--json")
    status, out, err = invoke(capsys, *arguments)
    assert (status, err) == (0, "")
    printed = json.loads(out)
    assert printed["output"] == "saliency-digits"
    assert printed["files"]["gradient"] == [f"gradient/gradient.{end}" for end in ("npz", "pdf", "png")]
    assert printed["files"]["sheets"] == ["sheets/images.npz", "sheets/sheet.pdf", "sheets/sheet.png"]
    assert all(
        (here / "saliency-digits" / file).stat().st_size for files in printed["files"].values() for file in files
    )
    model, state, images = digits(run)
    indices = [0, 179, 358]
    logits = model.apply(state.variables, images[indices], train=False)
    np.testing.assert_allclose(
        [image["probability"] for image in printed["images"]], jax.nn.softmax(logits).max(-1), rtol=1e-5
    )
    labels = open_split(DataConfig("digits"), "test", 0).read(indices)[1]
    assert [image["true"] for image in printed["images"]] == [str(label) for label in labels]
    for name in QUICK:
        arrays, about = kept(here / "saliency-digits" / name / f"{name}.npz")
        np.testing.assert_array_equal(arrays["indices"], indices)
        np.testing.assert_array_equal(arrays["targets"], logits.argmax(-1))
        expected = attribution.method(name).function(model, state, images[indices], key=jax.random.key(5))
        np.testing.assert_allclose(arrays["maps"], expected, rtol=1e-4, atol=1e-6)
        assert about["options"] == options(attribution.method(name).function)
        assert (about["method"], about["seed"], about["network"], about["step"]) == (name, 5, run, int(state.step))
        assert about["images"]["origin"] == "images of the test split of digits"
        assert about["environment"]["jax"] == jax.__version__
    np.testing.assert_array_equal(kept(here / "saliency-digits/sheets/images.npz")[0]["images"], images[indices])


def test_the_options_of_every_method_can_be_kept():
    for method in attribution.methods().values():
        assert json.loads(json.dumps(options(method.function))) == options(method.function)
    assert options(attribution.method("smooth_grad").function) == {"samples": 50, "noise": 0.15}


@pytest.mark.slow
def test_methods_that_do_not_apply_are_left_out_of_all_and_refused_by_name(capsys, run, here, monkeypatch):
    known = attribution.methods()
    chosen = {name: known[name] for name in ("grad_cam", "gradient", "guided_backpropagation")}
    monkeypatch.setattr(attribution, "methods", lambda: chosen)
    status, out, err = invoke(capsys, "saliency", run, "--limit", "2", "--output", "all")
    assert status == 0
    lines = err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("jaxcnn: grad_cam is left out: ")
    assert "has no layer of maps" in lines[0]
    assert sorted(path.name for path in (here / "all").iterdir()) == ["gradient", "guided_backpropagation", "sheets"]
    assert "all/gradient/gradient.npz" in out
    assert "image 358: " in out
    status, out, err = invoke(capsys, "saliency", run, "--methods", "gradient", "grad_cam", "--output", "named")
    assert (status, out) == (2, "")
    assert "grad_cam: MLP has no layer of maps" in err
    assert not (here / "named").exists()


@pytest.mark.slow
def test_dead_maps_are_said(capsys, network, folder, monkeypatch):
    dead = attribution.Method(
        lambda model, state, images, targets, *, key, chunk=None: attribution.finish(0 * jnp.asarray(images)),
        "dead",
        True,
        "",
    )
    monkeypatch.setattr(attribution, "methods", lambda: {"dead": dead})
    status, out, err = invoke(capsys, "saliency", *network, "--images", folder, "--methods", "dead")
    assert status == 0
    assert err.startswith("jaxcnn: dead: 3 of 3 maps are zero everywhere")
    assert "dead/dead.png" in out


def test_images_whose_maps_are_dead_go_by_their_numbers(run):
    chosen = choose(open_subject(open_network(run)), limit=3)
    said = []
    maps = jnp.ones((3, 8, 8)).at[1].set(0)
    heard(lambda: attribution.finish(maps), "some method", chosen, said.append)
    assert chosen.names == ["image 0", "image 179", "image 358"]
    assert len(said) == 1
    assert said[0].startswith("some method: 1 of 3 maps are zero everywhere (image 179): what is explained")


def test_what_is_stopped_between_two_methods_leaves_nothing(capsys, run, here, monkeypatch):
    def stopped(model, state, images, targets, *, key, chunk=None):
        if isinstance(images, Tracer):  # only asked whether it applies
            return images.sum(-1)
        raise KeyboardInterrupt

    known = {"gradient": attribution.method("gradient"), "stopped": attribution.Method(stopped, "Stopped", False, "")}
    monkeypatch.setattr(attribution, "methods", lambda: known)
    assert invoke(capsys, "saliency", run, "--limit", "2")[0] == 130
    assert not list(here.iterdir())


@pytest.mark.slow
def test_targets_go_by_name_or_number(capsys, network, folder, here):
    asked = ("saliency", *network, "--images", folder, "--methods", "gradient", "--json")
    status, out, _ = invoke(capsys, *asked, "--targets", "CLASS_7", "2", "class 0", "--output", "each")
    assert status == 0
    printed = json.loads(out)
    assert [(image["target"], image["class"]) for image in printed["images"]] == [
        (7, "class 7"),
        (2, "class 2"),
        (0, "class 0"),
    ]
    assert [Path(image["file"]).name for image in printed["images"]] == ["a.png", "b.png", "c.png"]
    arrays, about = kept(here / "each" / "gradient" / "gradient.npz")
    assert arrays["targets"].tolist() == [7, 2, 0]
    assert about["classes"] == ["class 7", "class 2", "class 0"]
    assert [Path(file).name for file in arrays["files"]] == ["a.png", "b.png", "c.png"]
    status, out, _ = invoke(capsys, *asked, "--targets", "9", "--limit", "2", "--output", "one")
    assert [image["target"] for image in json.loads(out)["images"]] == [9, 9]


@pytest.mark.slow
def test_many_images_make_several_figures(capsys, run, here):
    status, out, _ = invoke(capsys, "saliency", run, "--methods", "gradient", "--limit", "10", "--json")
    assert status == 0
    files = json.loads(out)["files"]
    assert files["gradient"][1::2] == ["gradient/gradient-1.pdf", "gradient/gradient-2.pdf"]
    assert files["sheets"][1::2] == ["sheets/sheet-1.pdf", "sheets/sheet-2.pdf"]
    arrays, _ = kept(here / "saliency-digits" / "gradient" / "gradient.npz")
    assert arrays["maps"].shape == (10, 8, 8)


# ---- occlusion


@pytest.mark.slow
def test_occlusion_keeps_what_it_draws(capsys, run, here):
    arguments = ("occlusion", run, "--limit", "5", "--targets", "3", "--patch", "3", "--stride", "2")
    status, out, err = invoke(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    printed = json.loads(out)
    assert printed["files"] == ["occlusion.npz"] + [f"occlusion-{i}.{end}" for i in (1, 2) for end in ("pdf", "png")]
    arrays, about = kept(here / "occlusion-digits" / "occlusion.npz")
    model, state, images = digits(run)
    expected = occlusion_grid(model, state, images[arrays["indices"]], 3, patch=3, stride=2)
    np.testing.assert_allclose(arrays["grid_probabilities"], expected.probabilities, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(arrays["grid_classes"], expected.classes)
    np.testing.assert_array_equal(arrays["tops"], expected.tops)
    assert (about["patch"], about["stride"], about["value"], about["command"]) == (3, 2, 0.5, "occlusion")
    assert printed["positions"] == [len(expected.tops), len(expected.lefts)]
    np.testing.assert_allclose(printed["least_probabilities"], expected.probabilities.min((1, 2)), rtol=1e-5)
    status, out, _ = invoke(capsys, *arguments, "--output", "again")
    assert status == 0
    assert out.startswith("a patch of 3x3 pixels at 4x4 positions\nimage 0: 3 ")


# ---- trust


def test_methods_are_compared_beside_random_maps(capsys, run, here):
    arguments = ("trust", run, "--methods", *QUICK, "--limit", "6", "--measures", "--seed", "3")
    status, out, err = invoke(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    printed = json.loads(out)
    model, state, images = digits(run)
    arrays, about = kept(here / "trust-digits" / "trust.npz")
    chosen = images[arrays["indices"]]
    expected = comparison.compare(
        model, state, chosen, QUICK, key=jax.random.key(3), measures=("deletion", "insertion")
    )
    assert [(row["method"], row["measure"]) for row in printed["rows"]] == [(r.method, r.measure) for r in expected]
    np.testing.assert_allclose([row["mean"] for row in printed["rows"]], [row.mean for row in expected], rtol=1e-4)
    assert about["table"]["rows"] == printed["rows"]
    assert about["methods"] == [*QUICK, *comparison.BASELINES]
    assert about["network"] == str(Path(run).resolve())
    assert about["measure_options"]["insertion"] == {"steps": None, "region": 1, "sigma": 5.0}
    assert (about["randomise"], about["similarities"]) == (False, [])
    assert arrays["values"].shape == (2, 4, 6)  # measures, methods, images
    np.testing.assert_allclose(arrays["values"].mean(-1).ravel(), [row["mean"] for row in printed["rows"]], rtol=1e-6)
    np.testing.assert_array_equal(arrays["images"], chosen)
    made = attribution.method("gradient").function(model, state, chosen, arrays["targets"])
    np.testing.assert_allclose(arrays["maps_gradient"], made, rtol=1e-4, atol=1e-6)
    assert arrays["maps_random"].shape == arrays["maps_smooth_random"].shape == chosen.shape[:3]
    assert arrays["deletion"].shape == arrays["insertion"].shape == (4, 6, images.shape[1] + 1)
    areas = np.trapezoid(arrays["deletion"], arrays["shares"], axis=-1).mean(-1)
    np.testing.assert_allclose(areas, [row["mean"] for row in printed["rows"][:4]], rtol=1e-4)
    assert printed["files"] == ["trust.npz", "trust.csv", "trust.md", "curves.pdf", "curves.png"]
    assert "| deletion | gradient |" in (here / "trust-digits" / "trust.md").read_text()
    lines = list(csv.DictReader((here / "trust-digits" / "trust.csv").read_text().splitlines()))
    assert [float(line["mean"]) for line in lines] == [row["mean"] for row in printed["rows"]]
    status, out, _ = invoke(capsys, *arguments, "--magnitudes", "--region", "3", "--output", "again")
    assert status == 0
    assert "trust.md" in out
    _, about = kept(here / "again" / "trust.npz")
    assert about["magnitudes"]
    squares = comparison.compare(
        *(model, state, chosen, QUICK), key=jax.random.key(3), measures=["insertion"], magnitudes=True, region=3
    )
    means = [row["mean"] for row in about["table"]["rows"] if row["measure"] == "insertion"]
    np.testing.assert_allclose(means, [row.mean for row in squares], rtol=1e-4)


@pytest.mark.slow
def test_the_network_may_be_drawn_anew(capsys, run, here):
    arguments = ("trust", run, "--methods", "gradient", "--limit", "3", "--measures", "--randomise", "--json")
    status, out, _ = invoke(capsys, *arguments)
    assert status == 0
    assert {"cascade.png", "similarity.png"} <= set(json.loads(out)["files"])
    arrays, about = kept(here / "trust-digits" / "trust.npz")
    assert about["similarities"] == ["spearman_absolute", "ssim", "hog"]
    assert arrays["layers"][0] == "head"
    assert arrays["similarities"].shape == (1, 3, len(arrays["layers"]), 3)  # methods, measures, layers, images
    assert np.abs(arrays["similarities"]).max() <= 1 + 1e-6
    assert arrays["similarities"].std() > 0


# ---- mistakes


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("saliency", ["--methods", "gradiend"], "unknown attribution method 'gradiend'; did you mean gradient"),
        ("saliency", ["--methods", "all", "gradiend"], "unknown attribution method 'gradiend'; did you mean gradient"),
        ("saliency", ["--methods"], "no method was named; expected all"),
        ("saliency", ["--seed", "-1"], "seed is -1; expected 0 to 2^32 - 1"),
        ("trust", ["--seed", "99999999999999999999"], "seed is 99999999999999999999; expected 0 to 2^32 - 1"),
        ("saliency", ["--targets=--5"], "unknown class '--5'"),
        ("saliency", ["--limit", "0"], "limit is 0"),
        ("saliency", ["--targets", "1", "2"], "2 targets were given for 3 images"),
        ("saliency", ["--targets", "10"], "target is class 10; expected classes in [0, 10)"),
        ("saliency", ["--targets=-1"], "target is class -1; expected classes in [0, 10)"),
        ("saliency", ["--targets", "clas 7"], "unknown class 'clas 7'; did you mean class 7"),
        ("saliency", ["--targets", "class 3"], "is the name of the classes [3, 9]; expected the number of one"),
        ("saliency", ["--output", "kept"], "kept exists"),
        ("occlusion", ["--patch", "29"], "patch is 29"),
        ("occlusion", ["--stride", "9"], "stride 9"),
        ("occlusion", ["--limit", "-1"], "limit is -1"),
        ("occlusion", ["--output", "kept"], "kept exists"),
        ("trust", ["--measures", "rod"], "unknown measure 'rod'; did you mean road"),
        ("trust", ["--limit", "1"], "expected at least 2 images"),
        ("trust", ["--methods", "rize"], "did you mean rise"),
        ("trust", ["--output", "kept"], "kept exists"),
        ("trust", ["--methods", "gradient", "--region", "0"], "the side of a region is 0"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(capsys, network, folder, here, command, arguments, says):
    (here / "kept").mkdir()
    (here / "kept" / "file").write_text("mine")
    status, out, err = invoke(capsys, command, *network, "--images", folder, *arguments)
    assert (status, out) == (2, "")
    assert says in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert [path.name for path in here.rglob("*")] == ["kept", "file"]
    assert (here / "kept" / "file").read_text() == "mine"


def test_a_broken_photograph_and_a_full_disk_are_said(capsys, network, folder, here, monkeypatch):
    (here / "pictures").mkdir()
    (here / "pictures" / "a.png").write_bytes(b"no picture")
    status, out, err = invoke(capsys, "occlusion", *network, "--images", "pictures")
    assert (status, out) == (2, "")
    assert "a.png" in err

    def full(figure, stem):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(style, "save", full)
    status, out, err = invoke(capsys, "saliency", *network, "--images", folder, "--methods", "gradient")
    assert (status, out) == (1, "")
    assert "cannot be written: No space left on device" in err
    assert [path.name for path in here.iterdir()] == ["pictures"]


@pytest.mark.slow
def test_all_methods_explain_photographs_to_squeezenet(capsys, real_data, here):
    arguments = ("squeezenet1_0", "--weights", real_data / "weights" / "squeezenet1_0_imagenet.pth")
    status, out, _ = invoke(capsys, "saliency", *arguments, "--images", real_data / "imagenet_samples", "--json")
    assert status == 0
    printed = json.loads(out)
    assert printed["left_out"] == {}
    assert set(printed["files"]) == {*attribution.methods(), "sheets"}
    assert len(printed["images"]) == 8
