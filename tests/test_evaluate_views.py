"""Evaluation in several views against averages taken by hand, and dense layers slid over images against windows."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from PIL import Image

import jaxcnn
from jaxcnn import cli, models
from jaxcnn import state as states
from jaxcnn.config import DataConfig, Experiment, ModelConfig, ModelSpec, TrainingConfig
from jaxcnn.data import crops, open_split, photographs
from jaxcnn.errors import InputError
from jaxcnn.interop import weights
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.image_model import ImageModel
from jaxcnn.layers.pooling import AdaptiveAveragePool, GlobalAveragePool, MaxPool
from jaxcnn.loading import convert
from jaxcnn.train import views
from jaxcnn.train.evaluate import evaluate_dataset, evaluate_photographs, evaluate_run, predict_run, with_views
from jaxcnn.train.loop import train


def average(logits: np.ndarray) -> np.ndarray:
    """Probabilities [n, k] from the logits of views [v, n, k]."""
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1).mean(axis=0)


def assert_scores(scores, probabilities, labels) -> None:
    order = np.argsort(-probabilities, axis=1)
    assert scores.examples == len(labels)
    assert scores.top1 == pytest.approx(np.mean(order[:, 0] == labels))
    assert scores.top5 == pytest.approx(np.mean((order[:, :5] == labels[:, None]).any(axis=1)))
    assert scores.loss == pytest.approx(-np.log(probabilities[np.arange(len(labels)), labels]).mean(), rel=1e-4)


# ---- dense layers as convolutions


class Small(ImageModel):
    """VGG in small: two strides of 2, a map pooled to 3x3, two dense layers."""

    border: int = 0

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = self.standardize(images)
        for i in (1, 2):
            kernel = 1 + 2 * self.border
            x = MaxPool(2, name=f"pool{i}")(nn.relu(Conv(4, kernel, padding=self.border, name=f"conv{i}")(x)))
        x = AdaptiveAveragePool(3, name="average")(x)
        x = nn.relu(nn.Dense(7, name="fc6", bias_init=nn.initializers.normal())(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(6, name="fc7")(x)))
        return nn.Dense(self.num_classes, name="head")(x)


class Global(ImageModel):
    """A network whose last map is averaged."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.relu(Conv(4, 3, 2, 1, name="conv1")(self.standardize(images)))
        return nn.Dense(self.num_classes, name="head")(GlobalAveragePool(name="average")(x))


FLATTENED = {"fc6": (3, 3)}


@partial(jax.jit, static_argnums=0)
def forward(model, variables, images):
    return model.apply(variables, images, train=False)


@partial(jax.jit, static_argnums=0)
def slide(model, variables, images):
    return views.class_scores(model, variables, images, FLATTENED)


def network(kind=Small, channels=2, **fields):
    model = kind(num_classes=5, mean=(0.4,), std=(0.3,), **fields)
    return model, {"params": states.create(model, jax.random.key(0), (12, 12, channels)).params}


def pixels(n: int, height: int, width: int, channels: int = 2):
    return jnp.asarray(np.random.default_rng(height * width).random((n, height, width, channels), np.float32))


@pytest.fixture(scope="module", params=["no padding", "padding that meets no weight"])
def small(request):
    """Convolutions see nothing beyond a window: unpadded, or padded with kernels that are zero but for their centre."""
    if request.param == "no padding":
        return network()
    model, variables = network(border=1)
    params = dict(variables["params"])
    for name in ("conv1", "conv2"):
        centre = jnp.zeros_like(params[name]["kernel"]).at[1, 1].set(params[name]["kernel"][1, 1])
        params[name] = {**params[name], "kernel": centre}
    return model, {"params": params}


def test_dense_scores_of_the_network_s_own_size_are_its_logits():
    model, variables = network(border=1)
    images = pixels(3, 12, 12)
    scores = slide(model, variables, images)
    assert scores.shape == (3, 1, 1, 5)
    np.testing.assert_allclose(scores[:, 0, 0], forward(model, variables, images), rtol=1e-5, atol=1e-6)


def test_dense_scores_of_a_larger_image_are_those_of_its_windows(small):
    images = pixels(2, 20, 27)
    scores = slide(*small, images)
    assert scores.shape == (2, 3, 4, 5)  # every fourth pixel; the last three columns fill no stride
    for p, q in np.ndindex(3, 4):
        window = images[:, 4 * p : 4 * p + 12, 4 * q : 4 * q + 12]
        np.testing.assert_allclose(scores[:, p, q], forward(*small, window), rtol=1e-5, atol=1e-6, err_msg=f"{p}, {q}")


def test_a_network_that_averages_its_map_takes_the_whole_image_as_it_is():
    model, variables = network(Global)
    images = pixels(2, 16, 21)
    scores = slide(model, variables, images)
    assert scores.shape == (2, 1, 1, 5)
    np.testing.assert_allclose(scores[:, 0, 0], forward(model, variables, images), rtol=1e-6)


def test_what_cannot_be_slid_over_an_image_is_refused():
    model, variables = network()
    with pytest.raises(InputError, match="is smaller than kernel"):
        slide(model, variables, pixels(1, 11, 30))
    mlp = models.create("mlp", num_classes=5)
    state = states.create(mlp, jax.random.key(0), (12, 12, 2))
    with pytest.raises(InputError, match="images are 13x12, and MLP has dense layers for one size alone"):
        views.class_scores(mlp, state.variables, pixels(1, 13, 12), {})


@pytest.mark.parametrize(
    ("name", "places"),
    [("vgg11", (3, 6)), ("vgg16_bn", (3, 6)), ("alexnet", (3, 6)), ("alexnet_2012", (2, 5)), ("googlenet", (1, 1))],
)
def test_registered_networks_have_maps_of_class_scores(name, places):
    model, shape = models.create(name, num_classes=10), models.facts(name).input_shape
    variables = jax.eval_shape(lambda: states.create(model, jax.random.key(0), shape)).variables
    flattened = models.torch_names(name).flattened
    whole = jax.ShapeDtypeStruct((2, 288, 384, 3), jnp.float32)
    scores = jax.eval_shape(lambda v, x: views.class_scores(model, v, x, flattened), variables, whole)
    assert scores.shape == (2, *places, 10)


@pytest.mark.slow
def test_alexnet_s_dense_scores_at_224_are_its_logits():
    model = models.create("alexnet", num_classes=10)
    state = states.create(model, jax.random.key(0), (224, 224, 3))
    images = pixels(2, 224, 224, 3)
    scores = views.class_scores(model, state.variables, images, models.torch_names("alexnet").flattened)
    expected = model.apply(state.variables, images, train=False)
    np.testing.assert_allclose(scores[:, 0, 0], expected, rtol=1e-4, atol=1e-5)


# ---- averages


def test_the_log_of_the_mean_is_scipy_s_whatever_the_order_and_the_size_of_the_logits():
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((4, 6, 3)) * np.array([1, 30, 1000, 3000]).reshape(4, 1, 1)).astype(np.float32)
    rows = rng.permutation(24)
    mean = views.LogMean(6)
    for part in np.array_split(rows, 5):
        mean.add((part % 6).tolist(), logits.reshape(24, 3)[part])
    expected = scipy.special.logsumexp(scipy.special.log_softmax(logits.astype(np.float64), -1), 0) - np.log(4)
    np.testing.assert_allclose(mean.result(), expected, rtol=1e-6, atol=1e-6)


def test_views_are_averaged_after_the_softmax(torchvision, torch):
    from torchvision.transforms import functional

    model, variables = network()
    images = pixels(3, 14, 17)
    module = views.Views(model, crops.ten_boxes((16, 19), (12, 12)), (12, 12), padding=1)
    found = forward(module, variables, images)
    padded = torch.nn.functional.pad(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2), (1, 1, 1, 1))
    logits = [
        forward(model, variables, jnp.asarray(crop.permute(0, 2, 3, 1).numpy()))
        for crop in functional.ten_crop(padded, [12, 12])
    ]
    np.testing.assert_allclose(np.exp(found), average(np.stack(logits)), rtol=1e-4, atol=1e-6)


def test_dense_views_average_the_scores_over_the_image_before_the_softmax():
    model, variables = network()
    images = pixels(2, 16, 20)
    boxes = (crops.Box(0, 0, False), crops.Box(0, 0, True))
    found = forward(views.Views(model, boxes, (16, 20), flattened=tuple(FLATTENED.items())), variables, images)
    logits = []
    for way in (images, images[:, :, ::-1]):
        windows = [way[:, 4 * p : 4 * p + 12, 4 * q : 4 * q + 12] for p, q in np.ndindex(2, 3)]
        logits.append(np.mean([forward(model, variables, window) for window in windows], axis=0))
    np.testing.assert_allclose(np.exp(found), average(np.stack(logits)), rtol=1e-4, atol=1e-6)


# ---- runs and datasets


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "digits"
    experiment = Experiment(
        model=ModelConfig("mlp", {"width": 16}),
        data=DataConfig("digits", batch_size=160),
        training=TrainingConfig(epochs=2),
    )
    train(experiment, directory)
    return directory


def on_digits(run, image_size: int | None, border: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the ten 8x8 crops of the test images padded by `border`, one crop at a time, and the labels."""
    model, state = jaxcnn.load(run)
    source = open_split(DataConfig("digits", image_size=image_size), "test", 0)
    images, labels = source.read(range(len(source)))
    padded = np.pad(images.astype(np.float32) / 255, ((0, 0), (border, border), (border, border), (0, 0)))
    logits = []
    for way in (padded, padded[:, :, ::-1]):
        for top, left in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)):
            crop = jnp.asarray(way[:, top : top + 8, left : left + 8])
            logits.append(forward(model, state.variables, crop))
    return average(np.stack(logits)), labels


@pytest.mark.slow
def test_a_run_is_scored_by_the_mean_over_ten_crops_of_the_padded_image(run):
    expected, labels = on_digits(run, None, border=1)
    assert_scores(evaluate_run(run, crops=10), expected, labels)
    scores, found, again = predict_run(run, crops=10)
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4, atol=1e-6)
    assert scores == evaluate_run(run, crops=10)
    assert scores.loss != evaluate_run(run).loss


def test_one_view_of_a_run_is_the_image(run):
    scores, logits, labels = predict_run(run)
    assert evaluate_run(run) == evaluate_run(run, crops=1) == scores
    assert_scores(scores, scipy.special.softmax(logits.astype(np.float64), axis=1), labels)


@pytest.mark.slow
def test_a_dataset_larger_than_the_network_s_input_is_cut_to_it(run, tmp_path):
    convert(run, tmp_path / "mlp.npz")
    config = DataConfig("digits", image_size=10, batch_size=100)
    expected, labels = on_digits(run, 10, border=0)
    assert_scores(evaluate_dataset("mlp", tmp_path / "mlp.npz", config, crops=10), expected, labels)
    own = evaluate_dataset("mlp", tmp_path / "mlp.npz", DataConfig("digits"), crops=10)
    assert dataclasses.asdict(own) == pytest.approx(dataclasses.asdict(evaluate_run(run, crops=10)))


def test_dense_views_of_a_dataset_are_the_whole_images_and_their_mirror_images():
    model, spec = models.create("vgg11", num_classes=10), ModelSpec("vgg11", {}, 10, (24, 24, 1), (0.5,), (0.5,), ())
    source = open_split(DataConfig("digits", image_size=36), "test", 0)
    module = with_views(model, spec, source, "dense")
    assert isinstance(module, views.Views)
    assert [tuple(box) for box in module.boxes] == [(0, 0, False), (0, 0, True)]
    assert (module.size, module.padding, module.flattened) == ((36, 36), 0, (("fc6", (7, 7)),))


def test_views_that_the_images_do_not_have_are_refused(run):
    with pytest.raises(
        InputError, match="crops are 144, with images of 8x8 for a network of 8x8; expected photographs"
    ):
        evaluate_run(run, crops=144)
    with pytest.raises(InputError, match="crops are dense, with images of 8x8 for a network of 8x8; expected larger"):
        evaluate_run(run, crops="dense")


# ---- photographs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, shape in (("n01440764_a", (40, 60)), ("n01443537_b", (50, 30)), ("n02110341_c", (80, 120))):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path / f"{name}.png")
    return path


def opened(folder) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


LABELS = np.array([0, 1, 251])


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """Random networks of ImageNet's classes in files, sure enough of themselves that averages differ."""
    path = tmp_path_factory.mktemp("weights")
    for name in ("mlp", "squeezenet1_1"):
        spec = ModelSpec(name, {"width": 16} if name == "mlp" else {}, 1000, (32, 32, 3), (0.5,), (0.25,), ())
        state = states.create(models.from_spec(spec), jax.random.key(0), spec.input_shape)
        head = {**state.params["head"], "kernel": state.params["head"]["kernel"] * (4 if name == "mlp" else 50)}
        weights.write(path / f"{name}.npz", spec, state.replace(params={**state.params, "head": head}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("mlp", 144), ("squeezenet1_1", 10)])
def test_photographs_are_scored_by_the_mean_over_their_views(weighted, folder, name, count):
    def cut(image):
        return crops.many_of_photograph(image, 32) if count == 144 else crops.ten_of_photograph(image, 256, (32, 32))

    model, state = jaxcnn.load(weighted / f"{name}.npz")
    batches = [jnp.asarray(cut(image).astype(np.float32) / 255) for image in opened(folder)]
    expected = np.stack([average(forward(model, state.variables, batch)) for batch in batches])
    config = DataConfig(batch_size=24)  # divides neither ten nor what the 8 devices share
    scores = evaluate_photographs(name, weighted / f"{name}.npz", folder, config, crops=count)
    assert_scores(scores, expected, LABELS)
    for seen, row in zip(scores.predictions, expected, strict=True):
        np.testing.assert_allclose(seen.probabilities, np.sort(row)[::-1][:5], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 128])
def test_dense_photographs_are_whole_and_of_several_scales(folder, batch_size):
    model, variables = network(channels=3)
    state = states.create(model, jax.random.key(0), (12, 12, 3))
    assert jax.tree.all(jax.tree.map(np.array_equal, state.params, variables["params"]))
    expected = []
    for image in opened(folder):
        posteriors = []
        for side in (14, 20):
            height, width = (int(side * n / min(image.shape[:2])) for n in image.shape[:2])
            scaled = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
            for way in (scaled, scaled[:, ::-1]):
                scores = slide(model, variables, jnp.asarray(way[None].astype(np.float32) / 255))
                posteriors.append(scipy.special.softmax(np.asarray(scores, np.float64).mean((0, 1, 2))))
        expected.append(np.mean(posteriors, axis=0))
    source = photographs.open_photographs(folder, (12, 12, 3), None)
    found = views.dense_photographs(model, state, source, FLATTENED, scales=(14, 20), batch_size=batch_size)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r"scales are \(48, 11\); expected some of at least the network's 12"):
        views.dense_photographs(model, state, source, FLATTENED, scales=(48, 11))


def test_networks_that_cannot_take_the_views_are_refused(weighted, folder):
    name, path = "mlp", weighted / "mlp.npz"
    with pytest.raises(InputError, match="images are 32x48, and MLP has dense layers for one size alone"):
        evaluate_photographs(name, path, folder, DataConfig(), crops="dense", scales=(32,))
    with pytest.raises(InputError, match="the photographs are scaled whole for crops of 32x32"):
        evaluate_photographs(name, path, folder, DataConfig(), crops=10)


# ---- the command line


def invoke(capsys, *arguments: str) -> tuple[int, str, str]:
    status = 0
    try:
        cli.main(list(map(str, arguments)))
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_says_which_crops(run, capsys):
    status, out, _ = invoke(capsys, "evaluate", run, "--crops", "10", "--json")
    assert status == 0
    assert json.loads(out) == {**dataclasses.asdict(evaluate_run(run, crops=10)), "crops": 10}
    assert json.loads(invoke(capsys, "evaluate", run, "--json")[1])["crops"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--crops", "9"], "9"),
        (["--crops", "144"], "crops are 144"),
        (["--crops", "dense", "--scales", "256"], "--scales goes with --images FOLDER --crops dense"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, words, says):
    status, out, err = invoke(capsys, "evaluate", run, *words)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_more_views_name_as_many_of_the_photographs(real_data, capsys):
    """One central crop names 18 of the 23 first and 22 among five; averages are less sure, so their loss is larger."""
    path = real_data / "weights" / "squeezenet1_0_imagenet.pth"
    words = ["evaluate", "squeezenet1_0", "--weights", path, "--images", real_data / "imagenet_samples", "--json"]
    for count, top1, top5, loss in ((1, 18, 22, 0.729), (10, 18, 22, 0.810), (144, 19, 22, 0.897)):
        scores = json.loads(invoke(capsys, *words, "--crops", str(count))[1])
        assert (scores["top1"], scores["top5"]) == pytest.approx((top1 / 23, top5 / 23))
        assert scores["loss"] == pytest.approx(loss, abs=0.005)
