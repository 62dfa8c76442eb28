"""The summary of a network: exact counts, exact receptive fields, and what has been printed about it."""

from __future__ import annotations

import csv
import functools
import io
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcnn import models, run
from jaxcnn.analysis import printed_tables, receptive_field, summary, summary_formats
from jaxcnn.analysis.receptive_field import Reach
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.errors import InputError
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from jaxcnn.layers.up_convolution import UpConv

# A hundred layers and more are traced for seconds; of these the deep ones repeat the blocks of others at other depths.
LONG = ("cifar_plain1", "cifar_resnet1", "densenet", "inception", "resnet101", "resnet152", "resnet200", "stochastic")
DEEP = ("cifar_plain1202", "densenet264", "resnet101_v", "resnet152_v", "resnet200")


def _case(name: str):
    marks = [pytest.mark.slow] if name.startswith(LONG) else []
    return pytest.param(name, marks=[*marks, pytest.mark.deep] if name.startswith(DEEP) else marks)


EACH = [_case(name) for name in models.names()]


@functools.cache
def tabulate(name: str, **options) -> summary.Table:
    return summary.table(models.create(name, **options), models.facts(name).input_shape, name=name)


@pytest.mark.parametrize("name", EACH)
def test_totals_are_the_published_facts(name):
    table, facts = tabulate(name), models.facts(name)
    assert table.totals.parameters == facts.parameters
    assert table.totals.multiply_adds == facts.multiply_adds
    assert table[0].output_shape == facts.input_shape
    run_in_inference = [row for row in table if row.kind != "training_only"]
    assert run_in_inference[-1].output_shape[-1] == facts.num_classes
    assert all(np.prod(row.output_shape) == row.activation_values > 0 for row in run_in_inference)
    assert len({row.name for row in table}) == len(table)


def test_lenet5_is_the_lectures():
    rows = {row.name: row for row in tabulate("lenet5")}
    assert [(row.weights, row.biases) for row in rows.values() if row.weights] == [
        (150, 6),
        (2400, 16),
        (48000, 120),
        (10080, 84),
        (840, 10),
    ]
    assert [rows[name].output_shape for name in ("c1", "s2", "c3", "s4", "c5")] == [
        (28, 28, 6),
        (14, 14, 6),
        (10, 10, 16),
        (5, 5, 16),
        (1, 1, 120),
    ]
    assert [rows[name].receptive_field for name in ("c1", "s2", "c3", "s4", "c5")] == [
        (5, 5),
        (6, 6),
        (14, 14),
        (16, 16),
        (32, 32),
    ]
    assert rows["c5"].whole_image
    assert not rows["s4"].whole_image
    assert (rows["c1"].kernel, rows["s2"].stride, rows["f6"].kernel) == ((5, 5), (2, 2), None)


def test_vgg16_is_the_lectures_page():
    table = tabulate("vgg16")
    assert table.totals.activation_values == 15_237_608
    assert table.totals.activation_bytes == 4 * 15_237_608
    claims = printed_tables.claims(table)
    wrong = {(claim.row, claim.quantity): (claim.printed, claim.true) for claim in claims if claim.verdict != "agrees"}
    assert wrong == {
        ("total", "activations"): ("24M", 15_237_608),
        ("total", "bytes forward"): ("93 MB", 60_950_432),
    }
    assert len(claims) == 19 + 16 + 3
    assert "24M" in summary_formats.text(table)


def test_googlenet_is_the_papers_table():
    table = tabulate("googlenet_2014")
    claims = printed_tables.claims(table)
    assert len(claims) == 24
    # The true numbers are computed from the table's own structure; the network must have them, too.
    assert all(claim.true == claim.network for claim in claims)
    assert {(claim.row, claim.quantity, claim.true) for claim in claims if claim.verdict == "wrong"} == {
        ("convolution 7x7/2", "weights", 9_408),
        ("convolution 7x7/2", "multiply-adds", 118_013_952),
        ("inception (4c)", "weights", 509_440),
        ("inception (5a)", "weights", 1_042_432),
        ("inception (5a)", "multiply-adds", 51_079_168),
    }


def test_the_other_googlenet_shows_its_own_numbers_too():
    table = tabulate("googlenet")
    claims = printed_tables.claims(table)
    assert [c.true for c in claims] == [c.true for c in printed_tables.claims(tabulate("googlenet_2014"))]
    # A 3x3 kernel in place of 5x5 saves 16 weights for each pair of channels.
    modules = {claim.row: claim for claim in claims if claim.quantity == "weights"}
    assert modules["inception (3a)"].network == modules["inception (3a)"].true - 16 * 16 * 32
    assert modules["convolution 3x3/1"].network == modules["convolution 3x3/1"].true
    header = next(line for line in summary_formats.text(table).splitlines() if line.startswith("line "))
    assert header.split() == ["line", "quantity", "printed", "true", "googlenet", "printed/true", "verdict"]


@pytest.mark.parametrize("name", ["alexnet", "alexnet_2012"])
def test_alexnet_has_not_15_convolutions(name):
    (claim,) = printed_tables.claims(tabulate(name))
    assert (claim.printed, claim.true, claim.verdict) == ("15", 5, "wrong")


def test_what_is_not_the_published_form_has_no_comparison():
    assert printed_tables.claims(tabulate("lenet5")) == []
    assert printed_tables.claims(tabulate("alexnet", num_classes=10)) == []


# Araujo, Norris & Sim 2019, and by their formula.
@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [("alexnet", "pool5", 195), ("vgg16", "conv5_3", 196), ("vgg16", "pool5", 212), ("vgg16", "fc6", 404)],
)
def test_receptive_fields_are_the_published_ones(name, layer, size):
    assert {row.name: row for row in tabulate(name)}[layer].receptive_field == (size, size)


# The same article's table: the field of the last map of each network.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("inception_v2", 699),
        ("inception_v3", 1311),
        ("inception_resnet_v2", 3039),
        ("mobilenet_v2", 491),
        ("resnet50_v1", 483),
        ("resnet101_v1", 1027),
        ("resnet152_v1", 1507),
        ("resnet50", 427),  # by the formula: the stride in the 3x3 convolution comes later
    ],
)
def test_the_largest_receptive_field_is_the_published_one(name, size):
    maps = [row for row in tabulate(name) if len(row.output_shape) == 3]
    assert max(row.receptive_field[0] for row in maps) == max(row.receptive_field[1] for row in maps) == size


class Tower(nn.Module):
    """Positive weights and no biases: an output answers to every pixel that it can see."""

    kind: str

    @nn.compact
    def __call__(self, x, *, train):
        def conv(x, *args, **fields):
            fields = {"use_bias": False, "kernel_init": nn.initializers.constant(0.1)} | fields
            return Conv(2, *args, **fields)(x)

        if self.kind == "plain":
            x = conv(x, 3, 2, 1)
            x = MaxPool(3, 2, padding=1)(x)
            x = nn.relu(conv(x, (1, 5), padding=((0, 0), (2, 2))))
        elif self.kind == "dilated":
            x = conv(conv(x, 3, padding=2, kernel_dilation=2), (3, 2), (2, 1), kernel_dilation=(3, 1))
        elif self.kind == "subsampled shortcut":
            y = conv(conv(x, 3, 2, 1), 3, 1, 1)
            x = y + jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 1)))
        elif self.kind == "branches":
            x = jnp.concatenate([conv(x, 1), conv(conv(x, 1), 5, padding=2), AveragePool(3, 1, 1)(x)], -1)
            x = AveragePool(3, 2, ceil_mode=True)(x)
        elif self.kind == "stacked":
            x = jnp.stack([conv(x, 3, padding=1), conv(x, (1, 7), padding=((0, 0), (3, 3)))]).mean(axis=0)
        elif self.kind == "shuffled":
            x = conv(x, 3, 2, 1)
            n, h, w, c = x.shape
            x = conv(x.reshape(n, h, w, 2, c // 2).swapaxes(3, 4).reshape(n, h, w, c), 3, padding=1)
        elif self.kind == "cropped":
            x = conv(jnp.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)))[:, 1:, 2:-2], 3)
        elif self.kind == "adaptive":
            x = AdaptiveAveragePool((7, 12))(conv(x, 3, padding=1))
        elif self.kind == "upsampled":
            y = UpConv(2, nn.initializers.constant(0.1))(conv(MaxPool(2)(conv(x, 3)), 3))
            x = conv(jnp.concatenate([x[:, 3:-3, 3:-3], y], -1), 3)
        elif self.kind == "gated":
            gate = nn.Dense(2, use_bias=False, kernel_init=nn.initializers.constant(0.1))(GlobalAveragePool()(x))
            x = conv(x, 3, padding=1) * gate.reshape(-1, 1, 1, 2)
        return x


KINDS = ["plain", "dilated", "subsampled shortcut", "branches", "stacked", "shuffled", "cropped", "adaptive"]
KINDS += ["upsampled", "gated"]


@pytest.mark.parametrize("kind", KINDS)
def test_receptive_fields_are_the_pixels_that_change_an_output(kind):
    height, width = 24, 30
    model = Tower(kind)
    images = np.ones((1 + height + width, height, width, 1), np.float32)
    for i in range(height):
        images[1 + i, i] = 2
    for i in range(width):
        images[1 + height + i, :, i] = 2
    variables = model.init(jax.random.key(0), jnp.asarray(images[:1]), train=False)
    answers = np.asarray(model.apply(variables, jnp.asarray(images), train=False)).sum(-1)
    changed = answers[1:] != answers[:1]

    class Last(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return Conv(1, 1, name="last")(Tower(kind)(x, train=train))

    row = summary.table(Last(), (height, width, 1))[-1]
    assert row.name == "last"
    assert row.output_shape[:2] == answers.shape[1:]
    extents = []
    for rows in (changed[:height], changed[height:]):
        seen = rows.reshape(len(rows), -1)
        first, last = seen.argmax(0), len(rows) - 1 - seen[::-1].argmax(0)
        extents.append(int((last - first).max()) + 1)
    assert (min(row.receptive_field[0], height), min(row.receptive_field[1], width)) == tuple(extents)
    assert row.whole_image == (kind == "gated")


layers = st.one_of(
    st.builds(receptive_field.window, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3)),
    st.builds(receptive_field.transposed, st.integers(1, 4), st.integers(1, 3)),
    st.builds(receptive_field.adaptive, st.integers(1, 9), st.integers(1, 9)),
)


@given(inner=layers, middle=layers, outer=layers, position=st.integers(-20, 20))
@settings(deadline=None)
def test_reaches_compose(inner: Reach, middle: Reach, outer: Reach, position: int):
    first, last = position, position
    for layer in (outer, middle, inner):
        first, last = layer.interval(first)[0], layer.interval(last)[1]
    assert outer.of(middle).of(inner).interval(position) == (first, last)
    assert outer.of(middle.of(inner)).interval(position) == (first, last)


@given(size=st.integers(1, 5), stride=st.integers(1, 4), position=st.integers(0, 20))
@settings(deadline=None)
def test_a_transposed_convolution_reaches_what_reaches_it(size: int, stride: int, position: int):
    sources = [i for i in range(-9, 30) if i * stride <= position < i * stride + size]
    first, last = receptive_field.transposed(size, stride).interval(position)
    assert list(range(first, last + 1)) == sources


def test_scanned_and_recomputed_blocks_have_their_own_rows():
    assert tabulate("cifar_resnet20", scan=True, remat=True).layers == tabulate("cifar_resnet20").layers


class WithAuxiliary(nn.Module):
    """A part that inference leaves out, a layer that is called twice, and a parameter outside of any layer."""

    @nn.compact
    def __call__(self, x, *, train):
        if train or self.is_initializing():
            nn.Dense(7, name="auxiliary")(x)
        shared = Conv(1, 3, padding=1, name="shared")
        x = Slope(name="slope")(shared(shared(x)))
        return nn.Dense(2, name="head")(x.reshape(x.shape[0], -1))


class Slope(nn.Module):
    @nn.compact
    def __call__(self, x):
        slope = self.param("slope", nn.initializers.ones, (1, 1, 1, x.shape[-1]))
        return jnp.maximum(x, slope * x)


def test_every_parameter_is_counted_once():
    table = summary.table(WithAuxiliary(), (4, 4, 1))
    rows = [(row.name, row.kind, row.weights, row.biases, row.multiply_adds) for row in table]
    assert rows == [
        ("input", "input", 0, 0, 0),
        ("shared", "convolution", 9, 1, 9 * 16),
        ("shared", "convolution", 0, 0, 9 * 16),
        ("slope", "slope", 1, 0, 0),
        ("head", "dense", 32, 2, 32),
        ("training only", "training_only", 7, 7, 0),
    ]
    assert [row.receptive_field for row in table][:5] == [(1, 1), (3, 3), (5, 5), (5, 5), (8, 8)]


class Loose(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x, *, train):
        if self.kind == "reduce_window":
            return nn.max_pool(x, (2, 2))
        if self.kind == "scan":
            return lax.scan(lambda c, _: (c + 1, None), x, None, length=2)[0]
        return lax.conv(x, jnp.ones((1, 4, 3, 3)), (1, 1), "SAME")


@pytest.mark.parametrize("kind", ["conv_general_dilated", "reduce_window", "scan"])
def test_what_has_no_row_is_refused(kind):
    with pytest.raises(InputError, match=f"computes {kind}.* outside of its layers"):
        summary.table(Loose(kind), (4, 4, 1))


def test_memory_follows_from_the_batch_the_precision_and_the_optimizer():
    model = models.create("lenet5")
    one = summary.table(model, (32, 32, 1)).totals
    parameters, activations = 4 * one.parameters, 4 * one.activation_values
    assert (one.parameter_bytes, one.activation_bytes) == (parameters, activations)
    assert (one.forward_bytes, one.forward_backward_bytes) == (parameters + activations, 2 * (parameters + activations))
    assert one.optimizer_bytes == parameters
    many = summary.table(model, (32, 32, 1), batch_size=8, optimizer=optax.adam(0.1)).totals
    assert many.forward_bytes == parameters + 8 * activations
    assert many.optimizer_bytes == 2 * parameters + 4  # and the count of steps
    half = summary.table(model.clone(dtype=jnp.bfloat16), (32, 32, 1)).totals
    assert half.activation_bytes == 2 * (one.activation_values - 10) + 4 * 10  # logits stay float32
    assert half.parameter_bytes == parameters


def test_groups_sum_the_rows_of_a_module():
    table = tabulate("cifar_resnet20")
    assert summary.groups(table, len(table)) == list(table)
    for limit in (20, 7, 1):
        rows = summary.groups(table, limit)
        for count in ("parameters", "multiply_adds", "activation_bytes"):
            assert sum(getattr(row, count) for row in rows) == getattr(table.totals, count)
    assert [row.name for row in rows] == ["input", "stem", "stem_norm", "stage1", "stage2", "stage3", "average", "head"]


def test_formats_say_the_same():
    table = tabulate("alexnet_2012")
    rows = list(csv.DictReader(io.StringIO(summary_formats.csv(table))))
    values = json.loads(json.dumps(summary_formats.json(table)))
    assert len(rows) == len(values["layers"]) == len(table)
    for row, layer, truth in zip(rows, values["layers"], table, strict=True):
        for name in ("activation_values", "weights", "biases", "parameters", "multiply_adds"):
            assert int(row[name]) == layer[name] == getattr(truth, name)
        assert row["output_shape"] == "x".join(map(str, layer["output_shape"]))
    conv2 = values["layers"][4]
    assert (conv2["name"], conv2["kind"], conv2["kernel"], conv2["groups"]) == ("conv2", "convolution", [5, 5], 2)
    for form in (summary_formats.text, summary_formats.markdown):
        assert "5x5, 2 groups" in form(table)
        assert "60,965,224" in form(table)
        assert "355x355*" in form(table)
    body = [line for line in summary_formats.markdown(table).splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in body} == {12, 7}
    lines = summary_formats.text(table).splitlines()
    assert len({len(line) for line in lines[1 : len(table) + 3]}) == 1


def test_the_command(capsys, tmp_path):
    status, out, _ = invoke(capsys, "summary", "lenet5", "--json", "--input", "28", "28", "1", "--optimizer", "adam")
    assert status == 0
    result = json.loads(out)
    assert {"model", "input", "layers", "totals"} <= result.keys()
    assert (result["model"], result["input"]) == ("lenet5", [28, 28, 1])
    keys = "name kind kernel stride output_shape activation_values parameters multiply_adds receptive_field"
    assert all(set(keys.split()) <= layer.keys() for layer in result["layers"])
    assert {"parameters", "multiply_adds", "activation_values", "activation_bytes"} <= result["totals"].keys()
    status, out, err = invoke(
        capsys, "summary", "mlp", "--model.options.width", "7", "--figure", str(tmp_path / "m.pdf")
    )
    assert (status, f"{784 * 7 + 7 * 10:,}" in out) == (0, True)
    assert err.split() == [str(tmp_path / "m.pdf"), str(tmp_path / "m.png")]
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("m.pdf", "m.png"))
    status, _, err = invoke(capsys, "summary", "mlp", "--figure", str(tmp_path / "m.png"))
    assert (status, "exists already" in err) == (2, True)
    assert invoke(capsys, "summary", "mlp", "--format", "csv")[1].startswith("name,kind,kernel,stride,")
    assert invoke(capsys, "summary", "mlp", "--format", "markdown")[1].startswith("**mlp**")


def test_the_command_reads_a_run_directory(capsys, tmp_path):
    spec = ModelSpec("mlp", {"width": 5}, 3, (6, 6, 1), (0.5,), (0.5,), ("a", "b", "c"))
    with run.open(tmp_path / "run", Experiment(name="x"), spec):
        pass
    status, out, _ = invoke(capsys, "summary", str(tmp_path / "run"), "--json")
    assert status == 0
    result = json.loads(out)
    assert (result["model"], result["input"], result["totals"]["multiply_adds"]) == ("mlp", [6, 6, 1], 36 * 5 + 5 * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alexnte"], "did you mean alexnet"),
        (["runs/nothing"], "not a run directory"),
        (["--json"], "the model comes first"),
        (["alexnet", "--input", "30", "30", "3"], "pooling got a map"),
        (["alexnet", "--input", "0", "30", "3"], "at least 1"),
        (["lenet5", "--model.options.poling", "max"], "--model.options.pooling"),
        (["mlp", "--model.num-classes", "0"], "num_classes of mlp is 0; expected at least 1"),
        (["mlp", "--figure", "."], "expected a file name that ends in .pdf or .png"),
        (["mlp", "--figure", "m.svg"], "expected a file name that ends in .pdf or .png"),
    ],
)
def test_the_command_refuses(capsys, arguments, message):
    status, out, err = invoke(capsys, "summary", *arguments)
    assert status == 2
    assert out == ""
    assert message in err
