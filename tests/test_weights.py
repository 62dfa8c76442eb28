"""Weights in files from end to end: loading, converting, evaluating, and what the command line says of mistakes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import invoke
from PIL import Image

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.config import DataConfig, ModelSpec
from jaxcnn.data import imagenet, photographs
from jaxcnn.errors import InputError
from jaxcnn.interop import fitting, torch_file, torch_names, weights
from jaxcnn.loading import convert, load_named
from jaxcnn.train.evaluate import evaluate_dataset, evaluate_photographs
from jaxcnn.train.loop import train

NAME = "lenet5"
OPTIONS = models.options(NAME) | {"activation": "relu", "pooling": "max"}
SPEC = ModelSpec(NAME, OPTIONS, 10, (32, 32, 1), (0.25,), (0.5,), tuple("0123456789"))


def make(spec: ModelSpec = SPEC, seed: int = 0):
    return states.create(models.from_spec(spec), jax.random.key(seed), spec.input_shape)


def zeros(model, input_shape):
    state = jax.eval_shape(lambda: states.create(model, jax.random.key(0), input_shape))
    return fitting.filled(state, {path: np.zeros(leaf.shape) for path, leaf in fitting.leaves(state).items()})


def write_foreign(path, state) -> None:
    """Writes what PyTorch would: a file that does not say which network it is for."""
    torch_file.write(path, torch_names.to_torch(models.torch_names(NAME), state))


def assert_equal(left, right) -> None:
    left, right = (fitting.leaves(state) for state in (left, right))
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert np.asarray(leaf).tobytes() == np.asarray(right[path]).tobytes(), path


@pytest.mark.parametrize("suffix", [weights.NATIVE, *torch_file.SUFFIXES])
def test_every_format_restores_the_same_bits(tmp_path, suffix):
    path, state = tmp_path / f"lenet{suffix}", make()
    written = weights.write(path, SPEC, state)
    assert (written.model, written.tensors, written.parameters) == (NAME, 10, 61_706)
    assert written.bytes == path.stat().st_size
    assert_equal(weights.fit(weights.read(path, NAME), NAME, make(seed=1)), state)
    skipped = weights.fit(weights.read(path, NAME), NAME, make(seed=1), skip=("head",))
    assert_equal(skipped.replace(params={**skipped.params, "head": state.params["head"]}), state)
    assert_equal(skipped.replace(params={**state.params, "head": skipped.params["head"]}), skipped)
    np.testing.assert_array_equal(skipped.params["head"]["kernel"], make(seed=1).params["head"]["kernel"])


def test_a_native_file_says_itself_which_network_it_is_for(tmp_path):
    path, state = tmp_path / "lenet.npz", make()
    weights.write(path, SPEC, state)
    model, loaded = jaxcnn.load(path)
    assert (model.pooling, model.mean, model.std) == ("max", (0.25,), (0.5,))
    assert_equal(loaded, state)
    images = jnp.full((1, 32, 32, 1), 0.3)
    expected = models.from_spec(SPEC).apply(state.variables, images, train=False)
    np.testing.assert_array_equal(model.apply(loaded.variables, images, train=False), expected)
    # By its name, with what the file says of it.
    named, again = jaxcnn.load(NAME, weights=path)
    assert named == model
    assert_equal(again, state)
    with pytest.raises(InputError, match="is for lenet5; expected mlp"):
        jaxcnn.load("mlp", weights=path)
    with pytest.raises(InputError, match="num_classes cannot be chosen"):
        jaxcnn.load(path, num_classes=3)


@pytest.mark.parametrize("suffix", [weights.NATIVE, *torch_file.SUFFIXES])
def test_every_format_notes_the_network(tmp_path, suffix):
    path, state = tmp_path / f"lenet{suffix}", make()
    weights.write(path, SPEC, state)
    assert weights.read(path).spec == SPEC
    assert weights.standardisation(path, NAME) == ((0.25,), (0.5,))
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 1), np.float32))
    expected = models.from_spec(SPEC).apply(state.variables, images, train=False)
    for source in ({"source": path}, {"source": NAME, "weights": path}):
        model, loaded = jaxcnn.load(**source)
        np.testing.assert_array_equal(model.apply(loaded.variables, images, train=False), expected)
    assert jaxcnn.load(NAME, weights=path, activation="tanh")[0].activation == "tanh"
    for name, target in ((None, "again.npz"), (NAME, "again.pth"), (None, "again.safetensors")):
        convert(path, tmp_path / target, model=name)
        assert weights.read(tmp_path / target).spec == SPEC
        assert_equal(weights.fit(weights.read(tmp_path / target, NAME), NAME, make(seed=1)), state)
    with pytest.raises(InputError, match="is for lenet5; expected mlp"):
        convert(path, tmp_path / "other.npz", model="mlp")


def test_pytorch_reads_a_file_that_notes_its_network(tmp_path, torch):
    weights.write(tmp_path / "lenet.pth", SPEC, make())
    loaded = torch.load(tmp_path / "lenet.pth", weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == {
        name: tensor.shape for name, tensor in torch_file.read(tmp_path / "lenet.pth").items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_built_where_the_file_has_them(tmp_path, name):
    for auxiliary in (False, True):
        model = models.create(name, num_classes=3, auxiliary=auxiliary)
        state = zeros(model, models.facts(name).input_shape)
        path = tmp_path / f"{auxiliary}.pth"
        torch_file.write(path, torch_names.to_torch(models.torch_names(name), state))
        spec, _, loaded = load_named(name, path, num_classes=3)
        assert spec.options["auxiliary"] is auxiliary
        assert fitting.leaves(loaded).keys() == fitting.leaves(state).keys()


def test_other_classes_are_never_called_imagenets(tmp_path):
    for classes, says in ((10, "squeezenet1_1 has 10 classes"), (1000, "is for the classes 0, 1, 2, ...")):
        model = models.create("squeezenet1_1", num_classes=classes)
        names = tuple(map(str, range(classes)))
        spec = ModelSpec("squeezenet1_1", {}, classes, (64, 64, 3), (0.5,), (0.5,), names)
        weights.write(tmp_path / f"{classes}.npz", spec, zeros(model, (64, 64, 3)))
        with pytest.raises(InputError, match=says):
            evaluate_photographs("squeezenet1_1", tmp_path / f"{classes}.npz", tmp_path, DataConfig())


def test_a_network_is_loaded_by_its_name(tmp_path):
    path, state = tmp_path / "lenet.pth", make()
    write_foreign(path, state)
    model, loaded = jaxcnn.load(NAME, weights=path, pooling="max", mean=(0.25,), std=(0.5,), activation="relu")
    assert_equal(loaded, state)
    assert int(loaded.step) == 0
    jax.random.fold_in(loaded.key, 1)
    assert model.num_classes == 10
    with pytest.raises(InputError, match=r"lenet\.pth does not fit .* the file is for 10 classes, the network for 7"):
        jaxcnn.load(NAME, weights=path, num_classes=7)
    with pytest.raises(InputError, match="unknown option of lenet5 'poling'"):
        jaxcnn.load(NAME, weights=path, poling="max")
    with pytest.raises(InputError, match="lenet5 is a network without weights; expected a file of them"):
        jaxcnn.load(NAME)


@pytest.mark.slow
def test_a_run_is_converted_there_and_back(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = jaxcnn.config.Experiment(
        model=jaxcnn.config.ModelConfig("mlp", {"width": 12}),
        data=DataConfig("digits", batch_size=160),
        training=jaxcnn.config.TrainingConfig(epochs=1),
    )
    train(experiment, "run")
    status, out, _ = invoke(capsys, "convert", "run", "mlp.npz", "--json")
    assert status == 0
    assert json.loads(out) == {
        "file": "mlp.npz",
        "model": "mlp",
        "tensors": 4,
        "parameters": 65 * 12 + 130,
        "bytes": os.path.getsize("mlp.npz"),
    }
    status, out, _ = invoke(capsys, "convert", "mlp.npz", "mlp.safetensors")
    assert (status, out) == (
        0,
        f"mlp.safetensors: mlp, 4 tensors, 910 parameters, {os.path.getsize('mlp.safetensors'):,} bytes\n",
    )
    assert sorted(torch_file.read("mlp.safetensors")) == ["head.bias", "head.weight", "hidden1.bias", "hidden1.weight"]
    _, state = jaxcnn.load("run")
    assert_equal(jaxcnn.load("mlp.npz")[1], state)
    scores = [
        invoke(capsys, "evaluate", *words, "--json")
        for words in (
            ["run"],
            ["mlp", "--weights", "mlp.npz", "--dataset", "digits"],
        )
    ]
    assert [status for status, _, _ in scores] == [0, 0]
    assert json.loads(scores[0][1]) == pytest.approx(json.loads(scores[1][1]))  # in batches of other sizes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["convert", "lenet.pth", "out.npz"], "lenet.pth does not say which network it is for"),
        (["convert", "lenet.pth", "lenet.npz", "--model", "lenet5"], "lenet.npz exists"),
        (["convert", "lenet.pth", "out.h5", "--model", "lenet5"], "out.h5 ends in '.h5'; expected .npz, .pth"),
        (["convert", "lenet.pth", "out.npz", "--model", "lenet"], "unknown model 'lenet'; did you mean lenet5"),
        (["convert", "lenet.pth", "out.npz", "--model", "mlp"], "2 missing (hidden1.bias, hidden1.weight), 8 extra"),
        (["convert", "lenet.npz", "out.pth", "--model", "mlp"], "lenet.npz is for lenet5; expected mlp"),
        (["convert", "nowhere", "out.pth"], "nowhere is not there"),
        (["convert", ".", "out.pth"], ". is not a run directory: it has no experiment.json"),
        (["convert", "pipe", "out.npz", "--model", "lenet5"], "pipe is a pipe or a device"),
        (["convert", "lenet.npz", "dangling.npz"], "dangling.npz exists"),
        (["convert", "lenet.npz", f"{'x' * 300}.npz"], "x.npz cannot be written: File name too long"),
        (["evaluate", "lenet.pth"], "lenet.pth is a file; expected a run directory, or MODEL --weights lenet.pth"),
        (["evaluate", "lenet5", "--weights", "lenet.pth", "--dataset", "digits", "--checkpoint", "0"], "--checkpoint"),
        (["evaluate", "lenet5", "--weights", "lenet.pth", "--images", ".", "--split", "test"], "--split and"),
        (["evaluate", "lenet5", "--weights", "lenet.pth", "--images", ".", "--data.directory", "."], "--split and"),
        (["evaluate", "run", "--batch-size", "3"], "go with --weights FILE"),
        (["convert", "broken.npz", "out.pth"], "broken.npz is no .npz"),
        (["evaluate", "lenet5", "--weights", "lenet.pth"], "--images FOLDER or --dataset NAME"),
        (["evaluate", "lenet5", "--dataset", "digits"], "go with --weights FILE"),
        (["evaluate", "lenet5", "--weights", "lenet.pth", "--images", "."], "lenet5 has 10 classes; expected"),
        (["evaluate", "lenet5", "--weights", "lenet.pth", "--dataset", "digit"], "digit"),
        (["evaluate", "lenet5", "--weights", "thousand.npz", "--images", "."], "holds no pictures"),
        (["evaluate", "alexnet", "--weights", "lenet.npz", "--images", "."], "is for lenet5; expected alexnet"),
        (["evaluate", "cifar_resnet20", "--weights", "x.pth", "--dataset", "digits"], "x.pth cannot be read"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_foreign(tmp_path / "lenet.pth", make())
    weights.write(tmp_path / "lenet.npz", SPEC, make())
    thousand = dataclasses.replace(SPEC, num_classes=1000, class_names=())
    weights.write(tmp_path / "thousand.npz", thousand, make(thousand))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling.npz").symlink_to("nowhere")
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    status, out, err = invoke(capsys, *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.startswith("jaxcnn: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("member", "content", "says"),
    [
        ("params/head/bias.npy", b"\x93NUMPY", "is damaged"),
        ("params/head/bias.npy", None, "1 missing .params/head/bias."),
        ("params/head/new.npy", "array", "1 extra .params/head/new."),
        ("params/head/bias.npy", "huge", r"of shape \(1099511627776,\) in 0 bytes"),
        ("params/head/bias.npy", "object", "as object"),
        ("params/head/bias.npy", "nan", "not finite"),
        ("model.npy", None, "does not say which network"),
        ("model.npy", "array", "is damaged"),
        ("../evil.npy", "array", "has a member called"),
    ],
)
def test_a_broken_native_file_is_refused(tmp_path, member, content, says):
    weights.write(tmp_path / "good.npz", SPEC, make())
    if content in ("array", "object", "nan"):
        stream = io.BytesIO()
        array = {"array": np.zeros(3), "object": np.array([{}], object), "nan": np.full(10, np.nan)}[content]
        np.save(stream, array, allow_pickle=True)
        content = stream.getvalue()
    elif content == "huge":
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
        content = stream.getvalue()
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad:
        for name in dict.fromkeys([*good.namelist(), member]):
            if name != member:
                bad.writestr(name, good.read(name))
            elif content is not None:
                bad.writestr(name, content)
    with pytest.raises(InputError, match=says):
        jaxcnn.load(tmp_path / "bad.npz")


# ---- photographs


def test_imagenet_has_its_classes():
    classes = imagenet.classes()
    assert len(classes) == len({entry.synset for entry in classes}) == 1000
    assert [entry.synset for entry in classes] == sorted(entry.synset for entry in classes)
    assert imagenet.label("n02110341_dalmatian.JPEG") == imagenet.names().index("dalmatian")
    assert imagenet.label("Great_White_Shark") == 2
    assert imagenet.label("crane") is None  # a bird or a machine
    assert imagenet.label("n99999999") is None


def test_photographs_are_cut_as_torchvision_cuts_them(torchvision):
    from torchvision import transforms

    rng = np.random.default_rng(0)
    for height, width in ((61, 97), (97, 61), (64, 64), (33, 40), (50, 51)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        steps = transforms.Compose([transforms.Resize(40), transforms.CenterCrop((32, 35))])
        np.testing.assert_array_equal(photographs.cut(image, 40, 32, 35), np.asarray(steps(Image.fromarray(image))))


def picture(path, size=(30, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path)


def test_the_layouts_of_a_folder_of_photographs(tmp_path):
    picture(tmp_path / "named" / "n01440764_a.png")
    picture(tmp_path / "named" / "n01443537.jpg", size=(20, 50))
    picture(tmp_path / "folders" / "n01440764" / "a.png")
    picture(tmp_path / "folders" / "goldfish" / "b.png")
    picture(tmp_path / "mine" / "a.png")
    for layout, labels in (("named", [0, 1]), ("folders", [1, 0]), ("mine", [0])):
        source = photographs.open_photographs(tmp_path / layout, (16, 16, 3), 18)
        assert source.labelled == (layout != "mine")
        images, found = source.read(range(len(source)))
        assert (images.shape, found.tolist()) == ((len(labels), 16, 16, 3), labels)
    for path, says in (
        ("named/mine.png", "mine.png names no class of ImageNet"),
        ("folders/cats/c.png", "cats names no class of ImageNet"),
        ("folders/stray.png", "stray.png lies beside class folders"),
    ):
        picture(tmp_path / path)
        with pytest.raises(InputError, match=says):
            photographs.open_photographs(tmp_path / path.split("/")[0], (16, 16, 3), 18)
    with pytest.raises(InputError, match="the crop is 300 pixels"):
        photographs.open_photographs(tmp_path / "mine", (300, 300, 3), 256)
    with pytest.raises(InputError, match="nowhere is not there"):
        photographs.open_photographs(tmp_path / "nowhere", (16, 16, 3), 18)


@pytest.mark.slow
def test_squeezenet_names_the_photographs(real_data, capsys):
    path = str(real_data / "weights" / "squeezenet1_0_imagenet.pth")
    status, out, _ = invoke(
        capsys,
        "evaluate",
        "squeezenet1_0",
        "--weights",
        path,
        "--images",
        str(real_data / "imagenet_samples"),
        "--json",
    )
    assert status == 0
    scores = json.loads(out)
    assert sorted(scores) == ["crops", "examples", "loss", "predictions", "top1", "top5"]
    assert scores["examples"] == len(scores["predictions"]) == 23
    assert scores["top5"] >= 18 / 23
    for seen in scores["predictions"]:
        assert len(seen["names"]) == len(seen["probabilities"]) == 5
        assert seen["probabilities"] == sorted(seen["probabilities"], reverse=True)
    assert sum(seen["label"] == seen["names"][0] for seen in scores["predictions"]) == round(scores["top1"] * 23)


@pytest.mark.slow
def test_photographs_without_labels_are_named_and_not_scored(real_data, tmp_path, capsys):
    sample = next((real_data / "imagenet_samples").glob("*dalmatian*"))
    (tmp_path / "mine.jpg").write_bytes(sample.read_bytes())
    path = str(real_data / "weights" / "squeezenet1_0_imagenet.pth")
    status, out, _ = invoke(capsys, "evaluate", "squeezenet1_0", "--weights", path, "--images", str(tmp_path))
    assert status == 0
    assert "dalmatian" in out
    assert out.endswith("1 images; their names begin with no synset, so they are not scored\n")
    scores = evaluate_photographs("squeezenet1_0", path, tmp_path, DataConfig())
    assert (scores.top1, scores.top5, scores.loss) == (None, None, None)
    assert scores.predictions[0].label is None


@pytest.mark.slow
def test_the_published_cifar_network_scores_what_pytorch_scores(real_data):
    config = DataConfig("cifar10", directory=str(real_data / "tfds"), batch_size=400)
    scores = evaluate_dataset("cifar_resnet20", real_data / "weights" / "resnet20_cifar10.th", config)
    # On the original pixels it is 0.9178; this copy of CIFAR-10 is JPEG-compressed, and PyTorch gives 0.8103 on it.
    assert scores.examples == 10_000
    assert abs(scores.top1 - 0.8103) < 0.0005
    with pytest.raises(InputError, match="mnist has images of 1 channels; expected 3"):
        evaluate_dataset(
            "cifar_resnet20",
            real_data / "weights" / "resnet20_cifar10.th",
            DataConfig("mnist", directory=str(real_data / "tfds"), image_size=32),
        )
