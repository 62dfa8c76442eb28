"""The command that attacks networks: what it prints, draws and keeps, and mistakes."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from commands import invoke, kept
from PIL import Image

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.analysis import adversarial
from jaxcnn.analysis.attacks import pgd
from jaxcnn.analysis.robustness import robust_accuracy
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.data import open_split
from jaxcnn.figures import style
from jaxcnn.interop import weights
from jaxcnn.train.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "digits"
    experiment = Experiment(
        model=ModelConfig("mlp", {"width": 16}),
        data=DataConfig("digits", batch_size=160),
        training=TrainingConfig(epochs=5),
    )
    train(experiment, directory)
    return str(directory)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(style.RC, "savefig.dpi", 40)  # quicker to write
    return tmp_path


def subject(run, count):
    indices = np.linspace(0, 358, count).round().astype(int)
    images, labels = open_split(DataConfig("digits"), "test", 0).read(indices)
    return *jaxcnn.load(run), images.astype(np.float32) / 255, labels


def test_what_each_attack_does_is_kept_with_all_that_made_it(capsys, run, here):
    arguments = ("--method", "pgd", "deepfool", "--epsilon", "0.1", "8/255", "--limit", "20", "--seed", "3", "--json")
    status, out, err = invoke(capsys, "attack", run, *arguments)
    assert (status, err) == (0, "")
    printed = json.loads(out)
    names = [f"{stem}.{end}" for stem in ("pgd", "deepfool", "accuracy") for end in ("pdf", "png")]
    assert printed["output"] == "attack-digits"
    assert printed["files"] == ["attack.npz", *names]
    assert sorted(path.name for path in (here / "attack-digits").iterdir()) == sorted(printed["files"])
    arrays, about = kept(here / "attack-digits" / "attack.npz")
    assert (about["command"], about["methods"], about["seed"]) == ("attack", ["pgd", "deepfool"], 3)
    assert about["images"]["origin"] == "images of the test split of digits"

    model, state, images, labels = subject(run, 20)
    right = np.asarray(model.apply(state.variables, images, train=False)).argmax(-1) == labels
    assert printed["accuracy"] == pytest.approx(right.mean())
    assert printed["examples"] == 20
    sign, nearest = printed["attacks"]
    assert (sign["method"], sign["norm"], sign["epsilons"]) == ("pgd", "linf", pytest.approx([8 / 255, 0.1]))
    for epsilon, made, accuracy in zip(sign["epsilons"], arrays["pgd_images"], sign["accuracy"], strict=True):
        expected = pgd(model, state, images, labels, epsilon=epsilon, key=jax.random.key(3))
        np.testing.assert_allclose(made, expected.images, atol=1e-5)
        assert accuracy == pytest.approx((right & ~np.asarray(expected.success)).mean())
    expected = robust_accuracy(model, state, images, labels, adversarial.attack("deepfool"))
    np.testing.assert_allclose(arrays["deepfool_images"], [expected.found[0].images], atol=1e-5)
    np.testing.assert_allclose(nearest["intervals"], expected.interval)
    assert nearest["median_distance"] == pytest.approx(float(np.median(np.asarray(expected.found[0].l2)[right])))


def test_a_target_is_reached_and_told(capsys, run, here):
    status, out, _ = invoke(
        capsys,
        "attack",
        run,
        "--method",
        "bim",
        "--epsilon",
        "0.5",
        "--targets",
        "3",
        "--limit",
        "6",
        "--output",
        "o",
    )
    assert status == 0
    arrays, about = kept(here / "o" / "attack.npz")
    assert about["targets"] == [3] * 6
    np.testing.assert_array_equal(arrays["bim_success"], arrays["bim_classes"] == 3)
    share = (arrays["bim_success"] | (arrays["predicted"] == 3)).mean()
    assert f"BIM within 128/255: {share:.1%} taken for the target" in out
    assert share > 0.8


@pytest.mark.slow
def test_photographs_without_labels_are_what_the_network_takes_them_for(capsys, here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / name)
    spec = ModelSpec("mlp", {"width": 8}, 7, (8, 8, 1), (0.3,), (0.4,), ())
    weights.write(folder / "mlp.npz", spec, states.create(models.from_spec(spec), jax.random.key(0), spec.input_shape))
    (here / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).rename(here / "pictures" / name)
    given = ("mlp", "--weights", folder / "mlp.npz", "--images", "pictures", "--method", "fgsm", "deepfool")
    status, out, _ = invoke(capsys, "attack", *given, "--epsilon", "0.2")
    assert status == 0
    assert "2 images, not attacked: accuracy 100.0%" in out
    assert "DeepFool: half are fooled at a distance of" in out
    arrays, about = kept(here / "attack-mlp" / "attack.npz")
    assert not about["labelled"]
    np.testing.assert_array_equal(arrays["labels"], arrays["predicted"])
    assert len(arrays["files"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "deep_fool"], "unknown attack 'deep_fool'; did you mean deepfool"),
        (["--seed", "-1"], "seed is -1; expected 0 to 2^32 - 1"),
        (["--epsilon", "-1"], "epsilon is -1; expected a number of at least 0, as 0.03 or 8/255"),
        (["--epsilon", "nan"], "epsilon is nan; expected a number of at least 0"),
        (["--epsilon", "1/0"], "epsilon is 1/0; expected a number of at least 0"),
        (["--epsilon", "8/"], "epsilon is 8/; expected a number of at least 0"),
        (["--epsilon", "8"], "epsilon is 8; expected at most 1, as pixels lie in [0, 1]"),
        (["--epsilon", "8/255", "256/255"], "epsilon is 256/255; expected at most 1"),
        (
            ["--method", "deepfool", "--epsilon", "8/255"],
            "epsilon is 8/255; expected none with deepfool, which does not",
        ),
        (["--method", "pgd_l2", "--epsilon", "8/255"], "epsilon is 8/255; expected none with pgd_l2"),
        (["--epsilon-l2", "0.5", "2"], "epsilon_l2 is 0.5, 2; expected none with fgsm, pgd"),
        (["--method", "pgd_l2", "--epsilon-l2", "much"], "epsilon is much; expected a number of at least 0"),
        (["--targets", "12"], "target is class 12; expected classes in [0, 10)"),
        (["--targets", "1", "2"], "2 targets were given for 5 images; expected one, or one for each"),
        (["--method", "deepfool", "--targets", "1"], "targets were given; expected none with DeepFool"),
        (["--method", "fgsm", "--steps", "5"], "steps is 5; expected none with fgsm, which take one step"),
        (["--method", "pgd", "--steps", "0"], "steps is 0; expected at least 1"),
        (["--limit", "0"], "limit is 0"),
        (["--output", "."], "exists; expected a new folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_leave_nothing(capsys, run, here, arguments, says):
    given = arguments if "--limit" in arguments else [*arguments, "--limit", "5"]
    status, out, err = invoke(capsys, "attack", run, *given)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not list(here.iterdir())


def test_images_must_have_the_network_s_classes(capsys, tmp_path_factory):
    spec = ModelSpec("mlp", {"width": 4}, 7, (8, 8, 1), (0.3,), (0.4,), ())
    path = tmp_path_factory.mktemp("weights") / "seven.npz"
    weights.write(path, spec, states.create(models.from_spec(spec), jax.random.key(0), spec.input_shape))
    status, _, err = invoke(capsys, "attack", "mlp", "--weights", path, "--dataset", "digits")
    assert status == 2
    assert "mlp has 7 classes; expected 10, as the images have" in err
