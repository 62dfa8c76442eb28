"""The training benchmark: both sides train the same thing to a similar loss, and it can show what it measured."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig

FOLDER = Path(__file__).parent.parent / "experiments" / "benchmarks"

SMALL = Experiment(
    "digits",
    ModelConfig("lenet5"),
    DataConfig("digits", image_size=28, batch_size=64),
    OptimizerConfig("momentum", learning_rate=0.05, weight_decay=1e-4),
    TrainingConfig(epochs=5, log_every=10),
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


def test_both_sides_train_to_a_similar_loss(module, torch, monkeypatch, capsys):
    training = module("training")
    monkeypatch.setattr(training, "apart", functools.partial)  # here instead: starting processes takes the time
    monkeypatch.setattr(training, "keep_freed_memory", lambda: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine
    results = training.compare(SMALL, 1, compiled=(False,))
    torch.set_num_threads(threads)
    assert list(results) == ["jaxcnn", "PyTorch", "PyTorch channels_last"]
    own, plain, last = (each for (each,) in results.values())
    assert own.loss == pytest.approx(plain.loss, abs=0.08)
    assert own.loss < 0.3
    assert last.loss == pytest.approx(plain.loss, abs=0.01)  # the same parameters and order
    assert len(own.outside) == 5
    assert max(own.outside) < 1
    assert min(own.step, *(each.images_per_second for each in (own, plain, last))) > 0
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
