"""The training benchmark: both sides train the same thing to a similar loss, and it can show what it measured."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.errors import InputError

FOLDER = Path(__file__).parent.parent / "experiments" / "benchmarks"

SMALL = Experiment(
    "digits",
    ModelConfig("lenet5"),
    DataConfig("digits", image_size=28, batch_size=64),
    OptimizerConfig("momentum", learning_rate=0.1, weight_decay=1e-4),
    TrainingConfig(epochs=3, log_every=10),
)


@pytest.fixture
def module(monkeypatch):
    """Imports a file of the benchmarks, which import each other as scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in [name for name, value in sys.modules.items() if str(FOLDER) in (getattr(value, "__file__", "") or "")]:
        del sys.modules[name]


def test_contestants_take_turns_forwards_and_backwards(module):
    calls = []
    results = module("race").in_turn({name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}, 3)
    assert "".join(calls) == "cbaabccba"
    assert results == {"a": [3, 4, 9], "b": [2, 5, 8], "c": [1, 6, 7]}


def test_a_race_measures_images_per_second(module, monkeypatch):
    race = module("race")
    now = [0.0]
    monkeypatch.setattr(race.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        return lambda steps: now.__setitem__(0, now[0] + steps * seconds)

    rates = race.race({"fast": taking(0.01), "slow": taking(0.04)}, 32, 1.0, 5)
    np.testing.assert_allclose(rates["fast"], [3200] * 5)
    np.testing.assert_allclose(rates["slow"], [800] * 5)


def test_a_turn_apart_is_a_process_of_its_own(module):
    turn = module("race").apart(os.getpid)
    assert len({turn(), turn(), os.getpid()}) == 3
    with pytest.raises(ZeroDivisionError):
        module("race").apart(divmod, 1, 0)()


def test_a_mistake_is_a_sentence_and_exit_status_2(module, monkeypatch, tmp_path):
    asked = [sys.executable, "training.py", "--rounds", "0"]
    ended = subprocess.run(asked, cwd=FOLDER, capture_output=True, text=True, check=False)
    expected = (2, "", "jaxcnn: rounds is 0; expected at least 1\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == expected
    with pytest.raises(InputError, match="rounds is -1; expected at least 1"):
        module("training_step").main(rounds=-1)
    training = module("training")
    monkeypatch.setattr(training, "apart", functools.partial)
    monkeypatch.setattr(training, "keep_freed_memory", lambda: None)
    with pytest.raises(InputError, match="nowhere"):  # which the script prints in the same way
        training.main(str(tmp_path / "nowhere"), ("lenet5",), 1)


def test_the_share_outside_the_compiled_step_is_what_invented_epochs_say(module):
    timing = [
        {"step": 4, "images": 3 * 32, "seconds": {"data": 0.05, "step": 0.25, "other": 0.05, "compilation": 9.0}},
        {"step": 10, "images": 6 * 32, "seconds": {"data": 0.2, "step": 0.5, "other": 0.15}},
        {"step": 20, "images": 10 * 32, "seconds": {"step": 1.25, "evaluation": 7.0}},
        {"step": 30, "images": 10 * 32, "seconds": {"data": 0.5, "step": 1.5, "diagnostics": 3.0}},
    ]
    # 9 steps of 0.1 s in 1.2 s, 10 of 0.1 s in 1.25 s, and 10 of 0.1 s before and 0.2 s after in 2 s.
    shares = module("training").outside_step(timing, [0.1, 0.1, 0.2], 10, 32)
    np.testing.assert_allclose(shares, [0.25, 0.2, 0.25])


@pytest.mark.slow
def test_both_sides_train_to_a_similar_loss(module, torch, monkeypatch, capsys):
    training = module("training")
    monkeypatch.setattr(training, "apart", functools.partial)  # here instead: starting processes takes the time
    monkeypatch.setattr(training, "resident_steps", lambda *_: lambda steps: 1e-4)  # and so does compiling
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    tuned = []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: tuned.append(True))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine
    results = training.compare(SMALL, 1, compiled=(False,))
    torch.set_num_threads(threads)
    assert list(results) == ["jaxcnn", "PyTorch", "PyTorch channels_last"]
    own, plain, last = (each for (each,) in results.values())
    assert own.loss == pytest.approx(plain.loss, abs=0.08)
    assert own.loss < 0.3
    assert last.loss == pytest.approx(plain.loss, abs=0.01)  # the same parameters and order
    assert tuned == [True]  # jaxcnn's part alone
    assert len(own.outside) == SMALL.training.epochs
    assert own.step == 1e-4
    assert min(each.images_per_second for each in (own, plain, last)) > 0
    training.show({**results, "PyTorch compiled": ["could not be compiled: no compiler"]}, 64)
    shown = capsys.readouterr().out
    assert f"{own.images_per_second / plain.images_per_second:.2f}" in shown
    assert "PyTorch compiled                  could not be compiled: no compiler" in shown
    assert "is not spent in the compiled step" in shown


def test_pytorch_crops_flips_and_shuffles_as_the_experiment_says(module, torch):
    loop = module("torch_loop")
    images = torch.arange(1, 1 + 6 * 4 * 4 * 2, dtype=torch.uint8).reshape(6, 4, 4, 2)
    labels = torch.arange(6)
    config = DataConfig("digits", batch_size=3, augment={"crop": 2.0, "flip": 0.5})
    augmented = Experiment(data=config, training=TrainingConfig(epochs=200))
    torch.manual_seed(0)
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    seen, epochs = set(), []
    for pixels, chosen in loop.batches(images, labels, augmented):
        epochs.extend(chosen.tolist())
        for picture, label in zip(pixels, chosen.tolist(), strict=True):
            views = {
                (top, left, flip): crop.flip(1) if flip else crop
                for top in range(5)
                for left in range(5)
                for crop in [padded[label, top : top + 4, left : left + 4]]
                for flip in (False, True)
            }
            found = [view for view, expected in views.items() if torch.equal(picture, expected)]
            assert found
            seen.update(found[:1] if len(found) == 1 else [])
    assert all(sorted(epochs[i : i + 6]) == list(range(6)) for i in range(0, len(epochs), 6))
    assert epochs[:6] != epochs[6:12]
    assert len(seen) == 50
    plain = Experiment(data=DataConfig("digits", batch_size=3), training=TrainingConfig(epochs=1))
    for pixels, chosen in loop.batches(images, labels, plain):
        assert torch.equal(pixels, images[chosen])


def test_resnet50_is_left_to_a_gpu(module, monkeypatch):
    training = module("training")
    monkeypatch.setattr(training, "keep_freed_memory", lambda: None)
    assert training.resnet50() == "ResNet-50 at 224 was not run: it needs a GPU, and JAX has cpu."
    assert training.matrix_rate(64) > 0


def test_a_network_is_timed_on_resident_images(module):
    training = module("training")
    spec = training.ModelSpec("mlp", {"width": 16}, 10, (8, 8, 1), (0.5,), (0.3,), ("",) * 10, "bfloat16")
    rate, multiply_adds = training.imagenet_rate(spec, 4)
    assert rate > 0
    assert multiply_adds % 16 == 0 < multiply_adds
