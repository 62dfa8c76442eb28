"""Studies: every arm from every seed, stopped and continued; the table, the arrays, and what is refused."""

from __future__ import annotations

import ast
import csv
import dataclasses
import io
import json
import os
import re
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import invoke
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console
from scipy import stats

from jaxcnn import catalog, config, models
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.study import Study
from jaxcnn.train import loop, study, study_results, study_tables


def arm(rule: str = "sgd", rate: float = 0.1, epochs: int = 2) -> Experiment:
    return Experiment(
        model=ModelConfig("mlp"),
        data=DataConfig("digits", image_size=8, batch_size=160),
        optimizer=OptimizerConfig(rule, learning_rate=rate),
        training=TrainingConfig(epochs=epochs, log_every=3),  # 8 steps an epoch: records of 3, 3 and 2 batches
    )


def small(**arms: Experiment) -> Study:
    arms = arms or {"plain": arm(), "with momentum": arm("momentum", 0.05)}
    return Study("small", "Which is lower?", "Nobody 1999.", arms, arms, "Two epochs.", seeds=(0, 5))


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Of several, all would be compiled for in every run."""
    with pytest.MonkeyPatch.context() as patch:
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: one)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    assert study.train(small(), directory)
    return directory


def metrics(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("metrics.jsonl")}


def records(directory: Path, name: str, seed: int, split: str) -> list[dict]:
    lines = (directory / name / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


@pytest.fixture
def calls(monkeypatch) -> list[Path]:
    """The run directories in which training is called for."""
    called = []
    honest = loop.train

    def train(experiment, directory, **options):
        called.append(directory)
        return honest(experiment, directory, **options)

    monkeypatch.setattr(loop, "train", train)
    return called


def expected(directory: Path, name: str, seeds: tuple[int, ...]) -> np.ndarray:
    """[3 measures, mean and ends], from the records themselves and SciPy's interval of a one-sample test."""
    final = []
    for seed in seeds:
        training, test = (records(directory, name, seed, split) for split in ("train", "test"))
        assert [record["step"] for record in training] == [3, 6, 8, 9, 12, 15, 16]
        one, three, another, last = (record["loss"] for record in training[3:])  # of steps 9, 10 to 12, 13 to 15, 16
        final.append([(one + 3 * three + 3 * another + last) / 8, test[-1]["loss"], test[-1]["top1"]])
    ends = []
    for values in np.array(final).T:
        interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        ends.append([values.mean(), interval.low, interval.high])
    return np.array(ends)


@pytest.mark.slow
def test_the_table_is_what_the_records_say(trained):
    arms = study_results.collect(small(), trained, scale="quick")
    rows = study_results.rows(arms, (0, 5))
    files = study_tables.write(small(), trained, "quick", arms, (0, 5), {})
    assert [file.name for file in files] == ["small.npz", "small.csv", "small.md", "small.tex"]
    table = list(csv.DictReader(io.StringIO(files[1].read_text())))
    page, tex = files[2].read_text(), files[3].read_text().replace(r"$\pm$", "±").replace(r" \\", "").splitlines()
    for number, name in enumerate(small().quick):
        truth = expected(trained, name, (0, 5))
        row, line = rows[number], table[number]
        assert (row.arm, row.finished, row.diverged) == (name, 2, 0)
        np.testing.assert_allclose(
            [dataclasses.astuple(e) for e in (row.training_loss, row.held_out_loss, row.held_out_top1)], truth
        )
        measures = ("training_loss", "test_loss", "test_accuracy")
        written = [[float(line[measure + end]) for end in ("", "_low", "_high")] for measure in measures]
        np.testing.assert_allclose(written, truth)
        assert (line["arm"], line["finished"], line["diverged"]) == (name, "2", "0")
        cells = [name, "2", *(f"{mean:.4f} ± {(high - low) / 2:.4f}" for mean, low, high in truth)]
        assert re.search(r"\| " + r" *\| +".join(map(re.escape, cells)) + r" \|", page)
        assert tex[3 + number].split(" & ") == cells
    assert page.startswith("**Which is lower?**")
    assert "Two epochs. Mean ± half the 95% t-interval over the seeds 0, 5;" in page


@pytest.mark.slow
def test_the_arrays_are_what_the_records_say(trained):
    arms = study_results.collect(small(), trained, scale="quick")
    file = study_tables.write(small(), trained, "quick", arms, (0, 5), {})[0]
    with np.load(file) as arrays:
        np.testing.assert_array_equal(arrays["seeds"], [0, 5])
        for name in small().quick:
            for split in ("train", "test"):
                for row, seed in enumerate((0, 5)):
                    seen = records(trained, name, seed, split)
                    for measure in ("loss", "top1"):
                        truth = [record[measure] for record in seen]
                        np.testing.assert_array_equal(arrays[f"{name}/{split}/{measure}"][row], truth)
                    np.testing.assert_array_equal(arrays[f"{name}/{split}/steps"], [r["step"] for r in seen])
                    np.testing.assert_array_equal(arrays[f"{name}/{split}/epochs"], [r["step"] / 8 for r in seen])


@settings(deadline=None)
@given(hnp.arrays(float, st.tuples(st.integers(2, 6), st.integers(1, 4)), elements=st.floats(-1e3, 1e3)))
def test_the_interval_is_scipy_s(values):
    mean, low, high = study_results.interval(values)
    spread = values.std(axis=0, ddof=1)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    clear = spread > 1e-6  # of equal values SciPy makes NaN
    if clear.any():
        truth = stats.ttest_1samp(values[:, clear], 0.0).confidence_interval(0.95)
        np.testing.assert_allclose([low[clear], high[clear]], [truth.low, truth.high], atol=1e-9)


def test_one_seed_has_no_interval(trained, tmp_path):
    arms = study_results.collect(small(), trained, scale="quick", seeds=(5,))
    row = study_results.rows(arms, (5,))[0]
    assert row.held_out_top1.mean == records(trained, "plain", 5, "test")[-1]["top1"]
    assert np.isnan([row.held_out_top1.low, row.held_out_top1.high]).all()
    assert "±" not in study_tables.markdown_table([row], "test")
    files = study_tables.write(small(), tmp_path, "quick", arms, (5,), {})
    assert "Of the one seed 5;" in files[2].read_text()
    assert {file.stem for file in files} == {"small-seeds-5"}
    assert study_tables.file_name(small(), (5, 0)) == "small"
    assert study_tables.file_name(small(), (7, 5, 0)) == "small-seeds-0-5-7"


class Signalling(io.StringIO):
    """Sends SIGTERM to this process when a text is written for the first time."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def write(self, written: str) -> int:
        if self.text in written and self.text not in self.getvalue():
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(written)


def test_sigterm_saves_and_the_same_call_continues(trained, tmp_path, calls):
    handler = signal.getsignal(signal.SIGTERM)
    # In the first run, which is then continued; and between two, where the second must not be trained to its end.
    for text, begun in (("epoch 1/2", 1), ("run 2 of 2", 3)):
        stopped = Console(file=Signalling(text), width=200)
        assert not study.train(small(), tmp_path, seeds=(0,), console=stopped)
        assert signal.getsignal(signal.SIGTERM) is handler
        assert len(calls) == begun
        assert 0 < saved(calls[-1]) < 16
    assert study.train(small(), tmp_path, seeds=(0,))
    assert [path.parent.name for path in calls] == ["plain", "plain", "with momentum", "with momentum"]
    assert metrics(tmp_path).items() <= metrics(trained).items()
    assert len(metrics(tmp_path)) == 2


def saved(directory: Path) -> int:
    """The step of a run's newest checkpoint."""
    return max(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def test_an_arm_that_diverges_is_said_and_the_others_go_on(tmp_path, calls):
    wild = small(wild=arm(rate=1e12), tame=arm())
    written = io.StringIO()
    assert study.train(wild, tmp_path, seeds=(0,), console=Console(file=written, width=200))
    assert "the training loss is" in written.getvalue()
    assert not (tmp_path / "wild" / "seed-0" / "rollbacks.jsonl").exists()  # another rate would be another arm
    assert study.train(wild, tmp_path, seeds=(0,))
    assert len(calls) == 2
    arms = study_results.collect(wild, tmp_path, scale="quick", seeds=(0,))
    assert set(arms["wild"].diverged) == {0}
    assert arms["tame"].diverged == {}
    assert np.isfinite(arms["wild"].training.loss).all()
    one, other = study_results.rows(arms, (0,))
    assert (one.finished, one.diverged, other.finished, other.diverged) == (0, 1, 1, 0)
    assert np.isnan(one.training_loss.mean)
    assert re.search(r"\| wild +\| +0 +\| +1 \| +diverged \|", study_tables.markdown_table([one, other], "test"))
    assert study_tables.csv_table([one], "test").splitlines()[1] == "wild,0,1,,,,,,,,,"


def test_the_curve_of_an_arm_ends_where_its_first_seed_diverged(trained):
    arms = study_results.collect(small(), trained, scale="quick")
    loss = arms["plain"].training.loss.copy()
    loss[1, 4:] = np.nan
    cut = dataclasses.replace(arms["plain"].training, loss=loss)
    curves = study_results.curves({"plain": dataclasses.replace(arms["plain"], training=cut)})
    _, mean, low, high = curves["training_loss"]["plain"]
    np.testing.assert_allclose(mean[:4], loss[:, :4].mean(axis=0))
    assert np.isnan([mean[4:], low[4:], high[4:]]).all()
    diverged = dataclasses.replace(arms["plain"], diverged={5: 13})
    (row,) = study_results.rows({"plain": diverged}, (0, 5))
    assert (row.finished, row.diverged) == (1, 1)
    assert row.held_out_loss.mean == records(trained, "plain", 0, "test")[-1]["loss"]


def test_what_counts_is_the_end_and_not_the_best(trained):
    plain = study_results.collect(small(), trained, scale="quick")["plain"]
    falling = dataclasses.replace(plain.held_out, top1=np.array([[0.9, 0.5], [0.8, 0.7]]))
    (row,) = study_results.rows({"plain": dataclasses.replace(plain, held_out=falling)}, (0, 5))
    assert row.held_out_top1.mean == pytest.approx(0.6)


def test_names_of_arms_are_escaped():
    nothing = study_results.Estimate(0.5, 0.4, 0.6)
    row = study_results.Row(r"50% & $x_1$ \ a|b", 2, 0, nothing, nothing, nothing)
    tex, table = study_tables.latex_table([row], "test"), study_tables.markdown_table([row], "test")
    assert r"50\% \& \$x\_1\$ \textbackslash{} a|b & 2 & 0.5000 $\pm$ 0.1000 &" in tex
    assert r"a\|b" in table
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            small(**{"plain": arm(rate=0.2), "with momentum": arm("momentum", 0.05)}),
            "arm 'plain': optimizer.learning_rate",
        ),
        (small(plain=arm()), "arm 'with momentum': no longer there"),
        (dataclasses.replace(small(), name="other"), "its name was 'small' and is now 'other'"),
    ],
)
def test_another_study_in_the_same_directory_is_refused(trained, calls, changed, says):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=f"holds another study: {says}.*; choose another --run"):
        study.train(changed, trained)
    assert not calls
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_what_is_no_study_s_directory_is_refused(tmp_path, calls):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is no study's; expected a new or empty directory"):
        study.train(small(), tmp_path)
    with pytest.raises(CheckpointError, match="is no study's"):
        study.train(small(), tmp_path / "mine.txt")
    (tmp_path / "damaged").mkdir()
    for text, says in (
        ("{", "Expecting property name"),
        ("[]", "it holds list; expected an object"),
        ("{}", "it has no 'arms'"),
        ('{"name": "small", "arms": {"plain": {"nam": 1}}}', "unknown setting .nam."),
        ('{"name": "small", "arms": []}', "'list' object has no attribute"),
        ('{"name": "s", "question": "", "source": "", "arms": {"a": {}}, "scale": 3}', "scale is 3; expected quick or"),
    ):
        (tmp_path / "damaged" / "study.json").write_text(text)
        with pytest.raises(CheckpointError, match=rf"study.json is damaged: .*{says}"):
            study.train(small(), tmp_path / "damaged")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "damaged"}
    assert not calls


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (2**32,)])
def test_seeds_that_are_none_are_refused(tmp_path, seeds):
    with pytest.raises(InputError, match="expected at least one, each once"):
        study.train(small(), tmp_path / "new", seeds=seeds)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="expected at least one, each once"):
        dataclasses.replace(small(), seeds=seeds)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quick": {}}, "quick of study 'small' has no arms"),
        ({"paper": {"a/b": arm()}}, "paper has an arm 'a/b'"),
        ({"quick": {"..": arm()}}, "quick has an arm '..'"),
        ({"name": ""}, "a study's name is ''"),
        (
            {"quick": {"a": arm(), "b": dataclasses.replace(arm(), data=DataConfig(validation=0.1))}},
            "data.validation 0 and above",
        ),
    ],
)
def test_a_study_that_is_none_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(small(), **change)


FILE = '''"""A small one."""
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Study

def arm(rule, rate):
    return Experiment(
        model=ModelConfig("mlp"),
        data=DataConfig("digits", image_size=8, batch_size=160),
        optimizer=OptimizerConfig(rule, learning_rate=rate),
        training=TrainingConfig(epochs=2, log_every=3),
    )

ARMS = {"plain": arm("sgd", 0.1), "with momentum": arm("momentum", 0.05)}
STUDY = Study("small", "Which is lower?", "Nobody 1999.", ARMS, ARMS, "Two epochs.", seeds=(0, 5))
'''


def test_one_command_trains_and_draws(trained, tmp_path, monkeypatch, capsys, calls):
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(FILE)
    status, out, _ = invoke(capsys, "study", "small.py", "--run", str(trained), "--json")
    assert (status, calls) == (0, [])
    result = json.loads(out)
    assert (result["study"], result["scale"], result["finished"]) == ("small", "quick", True)
    np.testing.assert_allclose(
        result["arms"][1]["held_out_loss"]["low"], expected(trained, "with momentum", (0, 5))[1, 1]
    )
    assert study.read(trained)[0].file == str(tmp_path / "small.py")
    for ending in ("npz", "csv", "md", "tex", "png", "pdf"):
        assert (trained / f"small.{ending}").stat().st_size > 100
    before = {path.name: path.read_bytes() for path in trained.glob("small.*")}
    status, out, _ = invoke(capsys, "study", "small.py", "--run", str(trained), "--seeds", "5")
    assert {path.name: path.read_bytes() for path in trained.glob("small.*")} == before
    assert {path.name for path in trained.glob("small-*")} == {name.replace(".", "-seeds-5.") for name in before}
    assert len(before) == 6
    assert re.fullmatch(r"\| arm +\| seeds \| +training loss \| +test loss \| +test accuracy \|", out.splitlines()[0])
    status, _, err = invoke(capsys, "study", "small.py", "--run", str(trained), "--seeds", "5", "5")
    assert (status, "seeds are (5, 5)" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["study", "optimizer_fashion_mnist"],
            "unknown study 'optimizer_fashion_mnist'; did you mean optimizers_fashion",
        ),
        (["study", "missing.py"], "study file 'missing.py' does not exist; expected a study's name or a .py file"),
        (["study", "none.py"], "defines STUDY as 3; expected a jaxcnn.study.Study"),
        (["study", "lenet5_mnist"], "unknown study 'lenet5_mnist'"),
        (["study", "small.py", "--scale", "huge"], "'quick'"),
        (["study", "small.py", "--run", "x" * 300], "File name too long"),
        (["study"], "Required options"),
    ],
)
def test_a_mistake_is_one_message_and_exit_status_2(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("none.py").write_text("STUDY = 3")
    Path("small.py").write_text(FILE)
    status, out, err = invoke(capsys, *arguments)
    assert (status, out) == (2, "")
    assert says in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} <= {"none.py", "small.py", "__pycache__"}


def test_studies_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    listed = json.loads(invoke(capsys, "studies", "--json")[1])
    assert listed == catalog.descriptions("study")
    assert listed.keys().isdisjoint(catalog.files())
    assert "optimizers_fashion_mnist" in invoke(capsys, "studies")[1]


@pytest.mark.parametrize("name", sorted(catalog.files("study")))
def test_every_study_says_what_it_asks_and_names_what_exists(name):
    chosen, description = catalog.load_study(name)
    assert chosen.name == name
    assert description.endswith(".")
    text = ast.get_docstring(ast.parse(catalog.files("study")[name].read_text()))
    assert text is not None
    for part in ("Question", "Source", "Command", "Time", "Result"):
        assert re.search(rf"^{part}: \S", text, flags=re.MULTILINE), part
    assert f"jaxcnn study {name}" in text
    assert "TODO" not in text
    assert len(chosen.seeds) >= 3
    for experiment in (*chosen.quick.values(), *chosen.paper.values()):
        assert experiment.model.name in models.names()
        assert set(experiment.model.options) <= set(models.options(experiment.model.name))
        assert re.fullmatch(r"\w+(/[\w.-]+)?", experiment.data.dataset)  # any that TFDS knows will do


SHAPES = {"digits": (8, 8, 1), "fashion_mnist": (28, 28, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize("name", sorted(catalog.files("study")))
def test_every_network_of_the_quick_scale_takes_the_images(name):
    quick = catalog.load_study(name)[0].quick
    distinct = {json.dumps(config.to_json(e) | {"training": 0, "optimizer": 0}): e for e in quick.values()}
    for experiment in distinct.values():
        data = experiment.data
        height, width, channels = SHAPES[data.dataset]
        shape = (1, data.image_size or height, data.image_size or width, channels)
        model = models.create(experiment.model.name, num_classes=10, **experiment.model.options)
        variables = jax.eval_shape(
            lambda shape=shape, model=model: model.init(jax.random.key(0), jnp.zeros(shape), train=False)
        )
        parts = {path.split("/")[0] for path in flatten_dict(variables["params"], sep="/")} | {"rest"}
        assert experiment.optimizer.rates.keys() <= parts
