"""A network in a user's own file: trained, evaluated, tabulated and reported by its name there, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import invoke

import jaxcnn
from jaxcnn import catalog, models, run
from jaxcnn.errors import InputError
from jaxcnn.interop import weights
from jaxcnn.report.subject import open_network
from jaxcnn.train import search_space

FILE = '''"""Softmax regression."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.config import DataConfig, Experiment, ModelConfig, TrainingConfig
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.models.registration import Facts, Registration
from jaxcnn.study import Study


class Softmax(ImageModel):
    """logits = s (W x + b)."""

    scale: float = 1.0

    @nn.compact
    def __call__(self, images, *, train):
        x = self.standardize(images).reshape(len(images), -1)
        return self.scale * nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


MODELS = {"softmax": Registration(Softmax, Facts("Cox", 1958, (8, 8, 1), 10))}
EXPERIMENT = Experiment(
    "own", ModelConfig("softmax"), DataConfig("digits", batch_size=160), training=TrainingConfig(epochs=1)
)
ARMS = {"one": EXPERIMENT}
STUDY = Study("own", "How well?", "Nobody.", ARMS, ARMS, "One.")
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(FILE)
    return tmp_path


@pytest.fixture
def trained(here, capsys) -> dict:
    status, out, err = invoke(capsys, "train", "own.py", "--model.options.scale", "0.5", "--json")
    assert status == 0, err
    return json.loads(out)


def test_it_is_trained_and_opened_from_anywhere(trained, here, capsys, monkeypatch):
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    status, out, err = invoke(capsys, "evaluate", here / "runs" / "own", "--json")
    assert status == 0, err
    assert json.loads(out)["top1"] == trained["top1"] > 0.5
    again = ("train", "../own.py", "--model.options.scale", "0.5", "--run", "../runs/own")
    status, _, err = invoke(capsys, *again)
    assert status == 0, err
    model, state = jaxcnn.load(here / "runs" / "own")
    assert (type(model).__name__, vars(model)["scale"]) == ("Softmax", 0.5)
    head = state.params["head"]
    image = np.random.default_rng(0).random((1, 8, 8, 1), np.float32)
    standard = (image.ravel() - np.asarray(model.mean)) / np.asarray(model.std)
    logits = 0.5 * (standard @ np.asarray(head["kernel"]) + np.asarray(head["bias"]))
    np.testing.assert_allclose(model.apply(state.variables, image, train=False)[0], logits, rtol=1e-4, atol=1e-5)
    status, out, _ = invoke(capsys, "summary", here / "runs" / "own", "--json")
    assert (status, json.loads(out)["model"], json.loads(out)["totals"]["parameters"]) == (0, "softmax", 650)
    (here / "own.py").rename(here / "other.py")
    status, _, err = invoke(capsys, "evaluate", here / "runs" / "own")
    assert (status, "own.py does not exist; expected the file that defines the network" in err) == (2, True)


@pytest.mark.slow
def test_it_is_reported(trained, capsys):
    status, _, err = invoke(capsys, "report", "runs/own")
    assert status == 0, err
    page = Path("runs/own/report.html").read_text()
    assert "softmax on digits: 10 classes" in page
    assert "Not on this page" not in page


def test_its_weights_are_written_and_read_by_the_name_alone(trained, here, capsys):
    assert invoke(capsys, "convert", "runs/own", "own.npz")[0] == 0
    assert weights.read(here / "own.npz", "own.py:softmax").spec.name == "softmax"
    assert jaxcnn.load("own.py:softmax", weights="own.npz")[0].scale == 0.5
    status, _, err = invoke(capsys, "convert", "own.npz", "own.pth")
    assert (status, "unknown model 'softmax'" in err) == (2, True)
    assert "(one in a file of your own is FILE.py:NAME)" in err
    assert invoke(capsys, "convert", "own.npz", "own.pth", "--model", "own.py:softmax")[0] == 0
    assert jaxcnn.load("own.py:softmax", weights="own.pth")[0].scale == 0.5


def test_a_file_of_weights_does_not_say_what_is_executed(trained, here):
    spec, _, state = jaxcnn.loading._load_described("runs/own", "latest")
    (here / "evil.py").write_text(f"open({str(here / 'executed')!r}, 'w')\n{FILE}")
    weights.write(here / "own.npz", spec, state)
    with np.load(here / "own.npz") as file:
        arrays = dict(file)
    arrays["model"] = np.array(json.dumps(json.loads(str(arrays["model"])) | {"name": f"{here}/evil.py:softmax"}))
    np.savez(here / "evil.npz", **arrays)
    for name in (None, f"{here}/evil.py:softmax"):
        with pytest.raises(InputError, match=r"evil.npz is for .*evil.py:softmax; expected"):
            weights.read(here / "evil.npz", name)
    assert not (here / "executed").exists()


def test_a_study_goes_on_from_another_folder(here, capsys, monkeypatch):
    assert invoke(capsys, "study", "own.py", "--run", "runs/study", "--seeds", "0")[0] == 0
    (here / "runs/study/one/seed-0/outcome.jsonl").unlink()  # as if it had been stopped at the end of the run
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    status, _, err = invoke(capsys, "study", "../own.py", "--run", "../runs/study", "--seeds", "0", "1")
    assert status == 0, err
    assert all((here / f"runs/study/one/seed-{seed}/outcome.jsonl").is_file() for seed in (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("search", [["own.py"], ["lenet5_digits", "--model.name", "own.py:softmax"]])
def test_what_a_search_found_is_trained_from_another_folder(here, capsys, monkeypatch, search):
    network = ["--training.epochs", "1", "--data.batch-size", "160", "--trials", "1", "--run", "found"]
    status, _, err = invoke(capsys, "search", *search, *network)
    assert status == 0, err
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    status, _, err = invoke(
        capsys, "search", *(word.replace("own.py", "../own.py") for word in search), *network[:-1], "../found"
    )
    assert status == 0, err
    status, _, err = invoke(capsys, "train", "../found/best.py")
    assert status == 0, err
    assert run.read(next((here / "elsewhere/runs").iterdir()))[1].name == f"{here}/own.py:softmax"


def test_a_search_over_networks_is_the_same_from_everywhere(here, monkeypatch):
    folder = here / "a, b"
    folder.mkdir()
    (here / "own.py").rename(folder / "own.py")
    monkeypatch.chdir(folder)
    experiment = catalog.load("lenet5_digits")[0]
    space = search_space.parse(experiment, {"model.name": "own.py:softmax, lenet5"})
    assert space["model.name"].choices == (f"{folder}/own.py:softmax", "lenet5")
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder / "inside")
    assert search_space.parse(experiment, {"model.name": "../own.py:softmax,lenet5"}) == space
    with pytest.raises(InputError, match="expected at least two different values"):
        search_space.parse(experiment, {"model.name": "../own.py:softmax,../inside/../own.py:softmax"})
    own = catalog.load("../own.py")[0]
    relative = dataclasses.replace(
        own, model=dataclasses.replace(own.model, name="../own.py:softmax", options={"scale": 0.5})
    )
    for one in (own, relative):
        assert list(search_space.parse(one, {"optimizer.learning-rate": "0.1:1"})) == ["optimizer.learning_rate"]


def test_its_file_may_be_a_link(here):
    (here / "stored").write_text(FILE)
    (here / "linked.py").symlink_to(here / "stored")
    assert models.options(catalog.load("linked.py")[0].model.name) == {"scale": 1.0}


def test_its_file_is_executed_once_and_anew_when_it_has_changed(here):
    (here / "own.py").write_text(f"{FILE}\nwith open('executed', 'a') as file:\n    file.write('.')\n")
    network = catalog.load("own.py")[0].model.name
    assert type(models.create(network)).scale == models.options("own.py:softmax")["scale"] == 1.0
    assert (here / "executed").read_text() == "."
    (here / "own.py").write_text(FILE.replace("scale: float = 1.0", "scale: float = 2.0"))
    assert models.options(network) == {"scale": 2.0}
    (here / "own.py").write_text("VALUE = 1\nraise RuntimeError('no')")
    with pytest.raises(InputError, match="RuntimeError: no"):
        models.options(network)
    assert not any(
        getattr(module, "__file__", None) == str(here / "own.py") and hasattr(module, "VALUE")
        for module in tuple(sys.modules.values())
    )


def test_it_is_found_in_the_home_directory(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.chdir("/")
    assert models.options("~/own.py:softmax") == {"scale": 1.0}
    assert catalog.load("~/own.py")[0].model.name == f"{here}/own.py:softmax"
    with pytest.raises(InputError, match="~nobody-at-all/own.py does not exist"):
        models.options("~nobody-at-all/own.py:softmax")


@pytest.mark.parametrize("value", ["5", "[1]", "{'softmax': 1}"])
def test_a_constant_of_an_experiment_s_own_is_no_registry(here, value):
    (here / "other.py").write_text(
        f"{FILE.partition('MODELS =')[0]}MODELS = {value}\n"
        "EXPERIMENT = Experiment('own', ModelConfig('lenet5'), DataConfig('digits'))\n"
    )
    assert catalog.load("other.py")[0].model.name == "lenet5"


def test_its_figures_and_folders_are_called_by_its_name_alone(trained, here, capsys):
    assert invoke(capsys, "convert", "runs/own", "own.npz")[0] == 0
    network = open_network("own.py:softmax", weights="own.npz")
    assert network.title == "softmax"
    assert network.about()["network"] == f"{here}/own.py:softmax"


def test_any_experiment_takes_it_and_so_does_a_study(here, capsys):
    status, out, _ = invoke(capsys, "train", "lenet5_digits", "--model.name", "own.py:softmax", "--help")
    assert status == 0
    assert "--model.options.scale" in out
    arm = catalog.load_study("own.py")[0].quick["one"]
    assert models.options(arm.model.name) == {"scale": 1.0}
    assert invoke(capsys, "summary", "own.py:softmax")[1].startswith("softmax, input 8x8x1")


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (FILE, "own.py:sofmax", "own.py 'sofmax'; did you mean softmax?"),
        (FILE, "gone.py:softmax", "gone.py does not exist; expected the file that defines the network"),
        ("MODELS = [1]", "own.py:softmax", "own.py defines MODELS as [1]; expected jaxcnn.models.registration"),
        ("MODELS = {'softmax': 1}", "own.py:softmax", "own.py defines MODELS as {'softmax': 1}; expected"),
        ("raise RuntimeError('no')", "own.py:softmax", "own.py cannot be run: RuntimeError: no"),
        ("class", "own.py:softmax", "own.py cannot be run: SyntaxError: "),
        (FILE.replace('"softmax":', '"lenet5":'), "own.py:lenet5", "own.py registers 'lenet5', which is a network of"),
        (FILE, "own.py", "model is 'own.py'; expected FILE.py:NAME"),
        (FILE, "softmax", "(one in a file of your own is FILE.py:NAME)"),
    ],
)
def test_what_registers_no_such_network_is_refused(here, capsys, text, name, says):
    (here / "own.py").write_text(text)
    status, out, err = invoke(capsys, "train", "lenet5_digits", "--model.name", name)
    assert (status, out) == (2, "")
    assert says in err
    assert not (here / "runs").exists()
