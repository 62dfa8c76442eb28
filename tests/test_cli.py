"""The command line as a user meets it: what it prints, what it returns, and what it says of mistakes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from commands import invoke

import jaxcnn
from jaxcnn import catalog, cli, data, models
from jaxcnn.cli import terminal
from jaxcnn.cli.terminal import print_json
from jaxcnn.report import gallery
from jaxcnn.train import loop

TRAINED = '{"step": 1, "split": "train", "loss": 2.0, "top1": 0.1}\n'
QUICK = ["--training.epochs", "1", "--data.batch-size", "160", "--model.name", "mlp", "--data.image-size", "8"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unboxed(message: str) -> str:
    """The words of a message; long ones are wrapped in a box."""
    return " ".join(message.replace("│", " ").split())


def test_train_evaluate_and_load_agree(capsys, here):
    status, out, _ = invoke(capsys, "train", "lenet5_digits", *QUICK, "--json")
    assert status == 0
    trained = json.loads(out)
    assert sorted(trained) == ["images_per_second", "run", "seconds", "steps", "top1"]
    assert trained["run"] == "runs/lenet5_digits"
    status, out, _ = invoke(capsys, "evaluate", trained["run"], "--json")
    assert status == 0
    scores = json.loads(out)
    assert sorted(scores) == ["crops", "examples", "loss", "top1", "top5"]
    assert scores["top1"] == trained["top1"]
    status, out, _ = invoke(capsys, "evaluate", trained["run"])
    assert (status, out.split()[:2]) == (0, ["359", "images:"])
    model, state = jaxcnn.load(trained["run"])
    assert type(model).__name__ == "MLP"
    assert int(state.step) == trained["steps"]


@pytest.mark.slow
def test_model_options_are_typed_flags(capsys, here):
    assert invoke(capsys, "train", "lenet5_digits", *QUICK, "--model.options.width", "12")[0] == 0
    assert jaxcnn.load("runs/lenet5_digits")[0].width == 12
    status, _, err = invoke(capsys, "train", "lenet5_digits", "--model.options.poling", "max")
    assert status == 2
    assert "--model.options.pooling" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [("", "crop 2.0 flip 0.5"), ("--data.augment flip 0.25 crop 4", "flip 0.25 crop 4.0"), ("--data.augment", "")],
)
def test_augmentations_take_the_place_of_the_experiment_s(capsys, monkeypatch, words, expected):
    seen = []

    def remember(given, directory, **_):
        seen.append(given.data.augment)
        return loop.Result(str(directory), 0, None, 0.0, 0.0, True)

    monkeypatch.setattr(loop, "train", remember)
    assert invoke(capsys, "train", "resnet8_fashion_mnist", *words.split(), "--training.seed", "1")[0] == 0
    assert [" ".join(f"{name} {strength}" for name, strength in found.items()) for found in seen] == [expected]
    assert invoke(capsys, "train", "resnet8_fashion_mnist", "--data.augment", "crop")[0] == 2


def test_a_run_started_again_is_said_to_be_trained_and_with_another_setting_refused(capsys, here):
    for said in (" s\n", ", trained before\n"):
        status, out, _ = invoke(capsys, "train", "lenet5_digits", *QUICK)
        assert status == 0
        assert out.endswith(said)
    status, _, err = invoke(capsys, "train", "lenet5_digits", *QUICK, "--training.seed", "5")
    assert status == 2
    assert "training.seed was 0 and is now 5; choose another --run" in err


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_explains_itself(capsys, command):
    status, out, _ = invoke(capsys, command, "--help")
    assert status == 0
    assert f"usage: jaxcnn {command}" in out
    assert command in invoke(capsys, "--help")[1]


@pytest.mark.parametrize(
    ("flag", "text", "says"),
    [
        ("--training.epochs", "ten", "'ten' is not a whole number"),
        ("--training.epochs", "1.5", "'1.5' is not a whole number"),
        ("--data.image-size", "none", "'none' is not a whole number or None"),
        ("--optimizer.learning-rate", "0,1", "'0,1' is not a number"),
        ("--optimizer.clip", "-", "'-' is not a number or None"),
    ],
)
def test_a_text_in_the_place_of_a_number_is_refused_in_a_sentence(capsys, flag, text, says):
    status, out, err = invoke(capsys, "train", "lenet5_digits", flag, text)
    assert (status, out) == (2, "")
    assert re.search(f"Error parsing {flag}: {says} [-─]", unboxed(err))


@pytest.mark.parametrize("command", ["train", "search", "retrain", "summary"])
def test_a_command_that_wants_more_explains_itself_in_80_columns(capsys, command):
    status, out, _ = invoke(capsys, command)
    assert status == 2
    assert out.startswith(f"usage: jaxcnn {command} ")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "unknown command 'trian'; did you mean train"),
        (["train", "lenet5_mist"], "unknown experiment 'lenet5_mist'; did you mean lenet5_mnist"),
        (["train", "missing.py"], "experiment file 'missing.py' does not exist"),
        (["train", "--run", "x"], "the experiment comes first"),
        (["train", "lenet5_digits", "--optimizer.learning-rat", "1"], "--optimizer.learning-rate"),
        (["train", "lenet5_digits", "--optimizer.learning-rate", "fast"], "'fast' is not a number"),
        (["train", "lenet5_digits", "--optimizer.learning-rate", "-1"], "expected a positive number"),
        (["train", "lenet5_digits", "--optimizer.name", "adm"], "'adam'"),
        (["train", "lenet5_digits", "--model.name", "lenet4"], "unknown model 'lenet4'; did you mean lenet5"),
        (["train", "lenet5_digits", "--data.dataset", "digts"], "unknown dataset 'digts'; did you mean digits"),
        (["train", "lenet5_digits", "--data.batch-size", "4000"], "data.batch_size is 4000"),
        (["train", "lenet5_digits", "--data.batch-size", "63"], "expected a multiple of the 8 devices"),
        (["train", "lenet5_digits", "--data.dataset", "folder"], "folder"),
        (["train", "lenet5_digits", "--data.image-size", "64"], "lenet5 got images of 64x64; expected 25 to 32"),
        (["train", "lenet5_digits", "--data.augment", "flip", "lots"], "'flip lots' is not names, each followed by a"),
        (["train", "lenet5_digits", "--data.augment", "flip"], "'flip' is not names, each followed by a number"),
        (["train", "lenet5_digits", "--data.augment", "flipp", "0.5"], "unknown augmentation in data.augment 'flipp'"),
        (["train", "lenet5_digits", "--data.augment", "crop", "28"], "expected less than"),
        (["train", "lenet5_digits", "--run", "x" * 300], "File name too long"),
        (["evaluate", "x" * 300], "File name too long"),
        (["evaluate", "nowhere"], "nowhere is not a run directory"),
        (["evaluate"], "run"),
        (["figures", "nowhere"], "nowhere is not a run directory"),
        (["models", "--jsn"], "--json"),
    ],
)
def test_a_mistake_is_one_message_exit_status_2_and_no_traceback(capsys, here, arguments, says):
    status, out, err = invoke(capsys, *arguments)
    assert status == 2
    assert says in unboxed(err)
    assert "Traceback" not in err
    assert out == ""
    assert not list(here.rglob("experiment.json"))


def test_train_continues_what_the_demonstration_has_trained(capsys, monkeypatch):
    seen = []

    def remember(experiment, directory, **_):
        seen.append((experiment, str(directory)))
        return loop.Result(str(directory), 0, None, 0.0, 0.0, False)

    monkeypatch.setattr(loop, "train", remember)
    assert invoke(capsys, "demo")[0] == 0
    assert invoke(capsys, "train", "lenet5_digits", "--run", "runs/demo")[0] == 0
    assert seen[0] == seen[1]


def test_lists_are_the_registries(capsys, here):
    assert json.loads(invoke(capsys, "models", "--json")[1]).keys() == set(models.names())
    assert json.loads(invoke(capsys, "datasets", "--json")[1]) == data.names()
    assert json.loads(invoke(capsys, "experiments", "--json")[1]).keys() == catalog.files().keys()
    for command in ("models", "datasets", "experiments"):
        status, out, _ = invoke(capsys, command)
        assert status == 0
        assert len(out.splitlines()) == len(json.loads(invoke(capsys, command, "--json")[1]))


def test_other_scripts_in_a_folder_of_experiments_are_neither_run_nor_listed(capsys, here):
    (here / "experiments").mkdir()
    (here / "experiments" / "script.py").write_text("raise SystemExit(3)")
    (here / "experiments" / "broken.py").write_text("x = (")
    (here / "experiments" / "mine.py").write_text('"""Mine is listed."""\nEXPERIMENT = undefined()\n')
    status, out, _ = invoke(capsys, "experiments", "--json")
    assert status == 0
    assert json.loads(out)["mine"] == "Mine is listed."
    assert not {"script", "broken"} & json.loads(out).keys()
    status, _, err = invoke(capsys, "train", "experiments/script.py")
    assert (status, "cannot be run: SystemExit" in err) == (2, True)


def test_json_is_json_whatever_the_numbers(capsys):
    print_json({"loss": float("nan"), "top1": 0.5})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "top1": 0.5}


@pytest.mark.slow
def test_a_damaged_run_is_one_sentence_and_no_traceback(capsys, here):
    assert invoke(capsys, "train", "lenet5_digits", *QUICK)[0] == 0
    run = here / "runs" / "lenet5_digits"
    for damage, commands, says in (
        (lambda: (run / "timing.jsonl").write_text('{"step": 8}\n'), ("figures",), "timing.jsonl is damaged (KeyError"),
        (lambda: (run / "timing.jsonl").unlink(), (), ""),
        (
            lambda: (run / "metrics.jsonl").write_text(TRAINED + '{"step": 1, "split": "diagnostics", "dead": [1]}\n'),
            ("figures",),
            "metrics.jsonl has damaged diagnostics (KeyError: 'gradient_norm')",
        ),
        (lambda: (run / "metrics.jsonl").write_text('{"step": 44}\n'), ("figures",), "holds no records of training"),
        (
            lambda: (run / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": "a", "top1": 0}\n'),
            ("figures",),
            "metrics.jsonl is damaged: it holds",
        ),
        (lambda: (run / "metrics.jsonl").write_text("[]\n"), ("train", "figures"), 'an integer "step"'),
        (lambda: [(run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()], ("train", "figures"), "metrics"),
        (lambda: next((run / "checkpoints").rglob("manifest.ocdbt")).write_bytes(b"?"), ("evaluate",), "is damaged"),
        (lambda: (run / "model.json").write_text("{}"), ("evaluate", "figures"), "model.json is damaged"),
    ):
        damage()
        for command in commands:
            arguments = ["lenet5_digits", *QUICK] if command == "train" else [str(run)]
            status, _, err = invoke(capsys, command, *arguments)
            assert status == 2
            assert says in err
            assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_run_with_diagnoses_has_their_figures_too(capsys, here):
    assert invoke(capsys, "train", "lenet5_digits", *QUICK, "--training.diagnose-every", "3")[0] == 0
    status, out, _ = invoke(capsys, "figures", "runs/lenet5_digits")
    names = ("curves", "filters", "predictions", "confusion", "saliency", "gradient_norms", "magnitudes", "dead_relus")
    drawn = [f"runs/lenet5_digits/figures/{name}.{ending}" for name in (*names, "time") for ending in ("pdf", "png")]
    assert (status, out.split()) == (0, drawn)
    assert sorted(map(str, (here / "runs" / "lenet5_digits" / "figures").iterdir())) == sorted(
        str(here / path) for path in drawn
    )


def test_the_pictures_of_predictions_come_from_the_whole_split_and_half_of_them_are_mistakes():
    wrong = np.zeros(1000, bool)
    wrong[100::10] = True
    shown = gallery._spread_over_mistakes(wrong, 20)
    assert len(set(shown)) == 20
    assert wrong[shown].sum() == 10
    assert (np.diff(shown) > 0).all()
    assert shown[-1] >= 900
    assert len(gallery._spread_over_mistakes(np.zeros(5, bool), 20)) == 5


def test_each_diagnosis_is_drawn_as_itself():
    records = [
        {
            "step": step,
            "split": "diagnostics",
            "value": {"conv/kernel": 0.5, "norm/scale": 1.0, "head/kernel": 0.25},
            "gradient": {"conv/kernel": 0.125 * step, "norm/scale": 2.0, "head/kernel": None},
            "gradient_norm": {"conv": 3.0, "norm": 5.0, "head": 4.0},
            "dead": {"norm": 0.75},
        }
        for step in (1, 2)
    ]
    figures = gallery._diagnostics([json.loads(TRAINED), *records])
    norms, sizes, dead = (figures[name].axes for name in ("gradient_norms", "magnitudes", "dead_relus"))
    assert [list(line.get_ydata()) for line in norms[0].lines] == [[3, 4], [3, 4]]  # of layers with a kernel
    np.testing.assert_array_equal(np.asarray(sizes[0].images[0].get_array()).T, [[0.5, 1, 0.25]] * 2)
    assert np.asarray(sizes[1].images[0].get_array())[0].tolist() == [0.125, 0.25]
    assert np.asarray(dead[0].images[0].get_array()).tolist() == [[0.75, 0.75]]
    without = [record | {"dead": {}} for record in records]
    assert figures.keys() - gallery._diagnostics(without).keys() == {"dead_relus"}
    assert gallery._diagnostics([json.loads(TRAINED)]) == {}


@pytest.mark.slow
def test_a_file_where_a_folder_should_be_is_one_sentence(capsys, here):
    assert invoke(capsys, "train", "lenet5_digits", *QUICK)[0] == 0
    figures = here / "runs" / "lenet5_digits" / "figures"
    figures.rmdir()
    figures.write_text("")
    status, _, err = invoke(capsys, "figures", "runs/lenet5_digits")
    assert status == 1
    assert "figures" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues(here):
    command = [sys.executable, "-m", "jaxcnn", "train", "lenet5_digits", "--training.epochs", "9999", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here) as process:
        metrics = here / "runs" / "lenet5_digits" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text()):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert int(jaxcnn.load(here / "runs" / "lenet5_digits")[1].step) == json.loads(out)["steps"] > 0


def test_an_experiment_of_one_s_own_is_a_file(capsys, here):
    (here / "mine.py").write_text(
        '"""Mine."""\n'
        "from jaxcnn.config import DataConfig, Experiment, ModelConfig, TrainingConfig\n"
        'EXPERIMENT = Experiment("mine", ModelConfig("mlp"), DataConfig(), training=TrainingConfig(epochs=1))\n'
    )
    assert invoke(capsys, "train", "mine.py", "--data.batch-size", "160")[0] == 0
    assert (here / "runs" / "mine" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "defines EXPERIMENT as None; expected a jaxcnn.config.Experiment"),
        ("x = (", "cannot be run: SyntaxError"),
        (
            "import jaxcnn.config as c\nEXPERIMENT = c.Experiment(data=c.DataConfig(batch_size=0))",
            "data.batch_size is 0",
        ),
    ],
)
def test_an_experiment_file_that_is_none_is_refused(capsys, here, text, says):
    (here / "mine.py").write_text(text)
    status, _, err = invoke(capsys, "train", "mine.py")
    assert status == 2
    assert says in err


def test_the_command_is_installed_and_survives_a_closed_pipe():
    command = f"{sys.executable} -m jaxcnn models | head -1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=True)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


@pytest.mark.parametrize("name", sorted(catalog.files()))
def test_every_experiment_names_what_exists(name):
    experiment, description = catalog.load(name)
    assert experiment.name == name
    assert description.endswith(".")
    assert experiment.model.name in models.names()
    assert set(experiment.model.options) <= set(models.options(experiment.model.name))
    assert experiment.data.dataset in data.names()
    assert f"jaxcnn train {name}" in catalog.files()[name].read_text()


def test_a_warning_of_the_package_is_a_sentence_and_that_of_another_is_left_alone(capsys):
    def work() -> None:
        for file in (terminal.__file__, "elsewhere.py"):
            for words, kind in (("a map is zero", "UserWarning"), ("an old way", "DeprecationWarning")):
                exec(compile(f"import warnings; warnings.warn({words!r}, {kind})", str(file), "exec"), {})

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown: list[str] = []
        warnings.showwarning = lambda message, *_: shown.append(str(message))
        assert terminal.exit_status(work) == 0
    assert capsys.readouterr().err == "jaxcnn: a map is zero\n"
    assert shown == ["an old way", "a map is zero", "an old way"]
