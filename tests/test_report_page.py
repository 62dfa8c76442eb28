"""The report of a run and of two runs: what the page says, what it holds, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import math
import re
import shlex
import shutil

import numpy as np
import pytest
from commands import invoke
from pages import LENET, Reader, write_study
from PIL import Image
from scipy import stats
from sklearn.metrics import confusion_matrix

from jaxcnn import catalog, config, models
from jaxcnn.config import DataConfig, Experiment, ModelConfig, TrainingConfig
from jaxcnn.data import open_split
from jaxcnn.errors import InputError
from jaxcnn.report.page import comparison, rendering, repetition
from jaxcnn.report.page.opened import open_run
from jaxcnn.report.page.report import write_report
from jaxcnn.report.page.section import sections
from jaxcnn.run import Metrics
from jaxcnn.train import loop
from jaxcnn.train.evaluate import predict_run
from jaxcnn.train.loop import train

AUGMENTED, _ = catalog.load("resnet8_fashion_mnist")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lenet"
    train(LENET, folder)
    return folder


@pytest.fixture(scope="module")
def page(run):
    assert write_report([run]) == run / "report.html"
    return Reader((run / "report.html").read_text())


@pytest.fixture(scope="module")
def answers(run):
    scores, logits, labels = predict_run(run)
    return scores, logits, labels


def test_the_page_states_the_accuracy_with_its_interval(page, answers):
    scores, logits, labels = answers
    right, count, z = int((logits.argmax(1) == labels).sum()), len(labels), stats.norm.ppf(0.975)
    share = right / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)  # Wilson's interval in closed form
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    text = page.text("summary")
    assert f"{scores.top1:.2%}".replace("%", " %") in text
    assert f"{100 * (centre - half):.1f} to {100 * (centre + half):.1f} %" in text
    assert f"{right} of {count} images" in text
    assert "61,706" in text  # parameters of LeNet-5


def test_the_confusion_matrix_counts_the_answers_and_opens_their_images(page, answers):
    _, logits, labels = answers
    predicted = logits.argmax(1)
    expected = confusion_matrix(labels, predicted, labels=np.arange(10))
    buttons = {b["data-cell"]: b["aria-label"] for b in page.all("button") if "data-cell" in b}
    assert set(buttons) == {f"{i}-{j}" for i, j in zip(*np.nonzero(expected), strict=True)}
    for cell, label in buttons.items():
        i, j = map(int, cell.split("-"))
        assert label.startswith(f"{expected[i, j]} of class {i} ")
    [behind] = [found for found in page.json if "cells" in found]
    images = open_split(LENET.data, "test", 0).read(np.arange(len(labels)))[0]
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (probabilities / probabilities.sum(1, keepdims=True)).max(1)
    for cell, indices in behind["cells"].items():
        i, j = map(int, cell.split("-"))
        assert len(indices) == min(expected[i, j], 24)
        assert all(labels[k] == i and predicted[k] == j for k in indices)
        assert (np.diff(confidence[indices]) <= 1e-6).all()
    for index, source in list(behind["pictures"].items())[:5]:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        np.testing.assert_array_equal(pixels, images[int(index), ..., 0])


def test_the_curves_hold_the_records_of_the_run(page, run):
    records = Metrics(run / "metrics.jsonl").read()
    loss = next(found for found in page.json if "Loss" in str(found.get("description")))
    drawn = [(point["series"], point["step"], point["loss"]) for point in loss["data"]["values"]]
    names = {"train": "training", "test": "test"}
    assert sorted(drawn) == sorted((names[r["split"]], r["step"], r["loss"]) for r in records)


def test_the_page_needs_nothing_but_itself(page, run):
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert any("default-src 'none'" in attributes.get("content", "") for attributes in page.all("meta"))
    assert (run / "report.html").stat().st_size < 5_000_000


def test_the_page_can_be_read_aloud(page):
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(image["alt"] for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-controls"):
            assert name not in attributes or attributes[name] in ids
    assert [link["href"] for link in page.all("a")][1:] == [f"#{section['id']}" for section in page.all("section")]


def test_the_sections_are_in_their_order(page):
    shown = [section["id"] for section in page.all("section")]
    assert shown == [name for name in sections() if name in shown]
    assert {"summary", "curves", "confusion", "mistakes", "filters", "saliency"} <= set(shown)
    assert {"layers", "settings", "environment"} <= set(shown)
    positions = [section.position for section in sections().values()]
    assert positions == sorted(set(positions))


@pytest.mark.parametrize(
    "experiment",
    [
        catalog.load("lenet5_digits")[0],
        LENET,
        config.from_json(
            Experiment,
            config.to_json(LENET)
            | {
                "model": config.to_json(LENET.model)
                | {"options": {"activation": "tanh", "pooling": "average"}, "zero_gamma": True},
                "data": config.to_json(LENET.data) | {"augment": {"crop": 2.0, "flip": 0.5}, "directory": "/a b"},
                "optimizer": config.to_json(LENET.optimizer) | {"milestones": [0.3, 0.6], "clip": 1.5},
            },
        ),
        dataclasses.replace(AUGMENTED, data=dataclasses.replace(AUGMENTED.data, augment={"flip": 0.5, "crop": 2.0})),
        dataclasses.replace(AUGMENTED, data=dataclasses.replace(AUGMENTED.data, augment={})),
        dataclasses.replace(AUGMENTED, model=ModelConfig("mlp", {"width": 16, "activation": "tanh"})),
    ],
    ids=[
        "as registered",
        "other numbers",
        "every kind of setting",
        "another order",
        "no augmentations",
        "another network",
    ],
)
def test_the_command_on_the_page_trains_the_experiment_again(capsys, monkeypatch, experiment):
    seen = []

    def remember(given, directory, **_):
        seen.append((given, directory))
        return loop.Result(str(directory), 0, None, 0.0, 0.0, True)

    monkeypatch.setattr(loop, "train", remember)
    words = shlex.split(repetition.command(experiment, "lenet").replace("\\\n", ""))
    assert words[:3] == ["jaxcnn", "train", experiment.name]
    status, _, err = invoke(capsys, *words[1:])
    assert (status, err) == (0, "")
    [(given, directory)] = seen
    options = models.options(experiment.model.name) | dict(
        experiment.model.options
    )  # every option of the network, by its flag
    expected = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, options=options))
    assert config.difference(given, expected) is None
    assert given.data.directory == experiment.data.directory
    assert str(directory) == "runs/lenet-again"


def test_what_no_flags_can_say_is_trained_again_from_python(monkeypatch):
    experiment = Experiment(name="my 'own'", model=ModelConfig("mlp", {"width": 16}))
    text = repetition.command(experiment, "mine")
    assert text.startswith("python - <<'END'\n")
    seen = []
    monkeypatch.setattr(loop, "train", lambda given, directory: seen.append((given, directory)))
    exec(text.partition("\n")[2].rpartition("\n")[0])
    assert seen == [(experiment, "runs/mine-again")]


def test_without_its_images_the_page_says_what_is_missing(run, tmp_path):
    copy = tmp_path / "moved"
    shutil.copytree(run, copy)
    for file, change in (("experiment.json", ("data", {"dataset": "folder", "directory": str(tmp_path / "gone")})),):
        known = json.loads((copy / file).read_text())
        known[change[0]] |= change[1]
        (copy / file).write_text(json.dumps(known))
    found = Reader(write_report([copy]).read_text())
    missing = "Confusion matrix, Most confident mistakes, Saliency and Maximised images"
    assert re.search(f"Not on this page: {missing} , because .*{tmp_path / 'gone'}", found.text(""))
    assert not {"confusion", "mistakes", "saliency", "maximised"} & found.texts.keys()
    last = [r for r in Metrics(copy / "metrics.jsonl").read() if r["split"] == "test"][-1]
    assert f"{last['top1']:.2%}".replace("%", " %") in found.text("summary")
    assert "after step" not in found.text("summary")


def test_an_accuracy_of_an_earlier_step_says_so(run):
    one = open_run(run)
    records = [record for record in one.records if record["step"] < int(one.network.state.step)]
    context = sections()["summary"].gather(dataclasses.replace(one, records=records, images="the images are gone"))
    assert context is not None
    part = rendering.Part("summary", "Summary", "sections/summary.html", context)
    text = Reader(rendering.html(rendering.Page("", "", "", [part]))).text("summary")
    last = [record for record in records if record["split"] == "test"][-1]
    assert f"of {last['examples']} images, after step {last['step']}" in text


def test_runs_on_other_images_are_not_drawn_on_one_axis(run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    one, alike = (dataclasses.replace(open_run(path), images="they are gone") for path in (run, tmp_path / "other"))
    page = comparison.page([one, alike])
    assert "run network accuracy" in Reader(rendering.html(page)).text("summary")
    assert page.parts[0].context["chart"] is not None
    other = dataclasses.replace(alike, experiment=dataclasses.replace(LENET, data=DataConfig("mnist")))
    page = comparison.page([one, other])
    text = Reader(rendering.html(page)).text("summary")
    assert "run network images accuracy" in text
    assert "lenet lenet5 digits" in text
    assert "other lenet5 mnist" in text
    assert page.parts[0].context["chart"] is None


def test_runs_of_one_name_are_trained_again_into_different_directories(run, tmp_path):
    for arm in ("slow", "fast"):
        shutil.copytree(run, tmp_path / arm / "seed-0")
    runs = [dataclasses.replace(open_run(tmp_path / arm / "seed-0"), images="gone") for arm in ("slow", "fast")]
    text = Reader(rendering.html(comparison.page(runs))).text("settings")
    assert re.findall(r"--run (\S+)", text) == ["runs/slow-seed-0-again", "runs/fast-seed-0-again"]


def test_a_command_is_the_same_text_with_no_flag_broken():
    shown = rendering.unbroken("jaxcnn train a-b --run 'x < y' \\\n  --data.batch-size 3")
    assert shown.striptags() == "jaxcnn train a-b --run 'x < y' \\ --data.batch-size 3"
    assert re.findall(r'<span class="flag">(.*?)</span>', shown) == ["--run", "--data.batch-size"]


def test_one_image_is_no_images():
    card = {"index": 0, "picture": "data:,", "true": "cat", "said": ["cat", "dog"]}
    groups = [{"title": "only slow gets right", "count": n, "cards": [card] * n} for n in (1, 2)]
    context = {"titles": ["slow", "fast"], "tests": [], "examples": 3, "groups": groups}
    part = rendering.Part("disagreement", "", "comparison_disagreement.html", context)
    text = Reader(rendering.html(rendering.Page("", "", "", [part], {"mlp is gone": ["It"]})))
    assert re.search(r"right 1 image is cat .* right 2 images is cat", text.text("disagreement"))
    assert "because mlp is gone." in text.text("")


def test_two_runs_are_compared(run, tmp_path, capsys, monkeypatch, answers):
    monkeypatch.chdir(tmp_path)
    other = Experiment(
        name="other", model=ModelConfig("mlp", {"width": 16}), data=LENET.data, training=TrainingConfig(epochs=1)
    )
    train(other, tmp_path / "mlp")
    status, out, _ = invoke(capsys, "report", run, tmp_path / "mlp", "--json")
    assert status == 0
    assert json.loads(out)["output"] == "report-lenet-and-mlp.html"
    found = Reader((tmp_path / "report-lenet-and-mlp.html").read_text())
    _, logits, labels = answers
    first, second = logits.argmax(1) == labels, predict_run(tmp_path / "mlp")[1].argmax(1) == labels
    text = found.text("disagreement")
    assert f"Only lenet gets right {(first & ~second).sum()} image" in text
    assert f"Only mlp gets right {(second & ~first).sum()} image" in text
    assert f"All get wrong {(~second & ~first).sum()} images" in text
    assert "model.name" in found.text("settings")
    assert "data.batch_size" not in found.text("settings").partition("Commands")[0]


def test_options_of_the_network_differ_each_by_itself():
    arms = {
        norm: Experiment(model=ModelConfig("lenet5", {"pooling": "max", "batch_norm": norm})) for norm in (True, False)
    }
    assert repetition.differing({str(arm): one for arm, one in arms.items()}) == {
        "model.options.batch_norm": ["yes", "no"]
    }
    bare = {"a": Experiment(), "b": Experiment(model=ModelConfig("lenet5", {"pooling": "max"}))}
    assert repetition.differing(bare) == {"model.options.pooling": ["average", "max"]}
    written = {"a": Experiment(), "b": Experiment(model=ModelConfig("lenet5", models.options("lenet5")))}
    assert repetition.differing(written) == {}
    unknown = {"a": Experiment(model=ModelConfig("gone.py:net", {"width": 1})), "b": Experiment()}
    assert repetition.differing(unknown)["model.options.width"] == ["1", "–"]  # noqa: RUF001


def test_mistakes_are_refused_in_a_sentence(run, tmp_path, capsys):
    study = tmp_path / "study"
    write_study(study)
    (tmp_path / "empty").mkdir()
    unsaved = tmp_path / "unsaved"
    shutil.copytree(run, unsaved)
    shutil.rmtree(unsaved / "checkpoints")
    for arguments, said in (
        ([tmp_path / "none"], "is not there; expected a run's or a study's directory"),
        ([run / "metrics.jsonl"], "is a file; expected"),
        ([tmp_path / "empty"], "is not a run directory"),
        ([run, run], "names a run twice"),
        ([run, study], "is a study's directory; expected runs"),
        ([unsaved], "checkpoint"),
    ):
        status, _, err = invoke(capsys, "report", *arguments)
        assert (status, err.count("\n")) == (2, 1), err
        assert said in err


def test_runs_of_other_classes_are_not_compared(run, monkeypatch):
    one, other = open_run(run), open_run(run)
    object.__setattr__(
        other.network,
        "spec",
        config.from_json(config.ModelSpec, config.to_json(other.network.spec) | {"class_names": ["a", "b"]}),
    )
    with pytest.raises(InputError, match="has 2 classes, a, b"):
        comparison.page([one, other])
