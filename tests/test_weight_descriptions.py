"""What a file says of its network is checked before anything is built by it."""

from __future__ import annotations

import dataclasses
import json
import random

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn import models
from jaxcnn import state as states
from jaxcnn.config import ModelSpec
from jaxcnn.errors import InputError
from jaxcnn.interop import fitting, torch_file, torch_names, weights

NAME = "lenet5"
SPEC = ModelSpec(NAME, {"activation": "relu", "pooling": "max"}, 10, (32, 32, 1), (0.25,), (0.5,), tuple("0123456789"))


def state():
    return states.create(models.from_spec(SPEC), jax.random.key(0), SPEC.input_shape)


@pytest.mark.parametrize("suffix", [weights.NATIVE, ".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mean": (float("nan"),)}, "mean nan"),
        ({"mean": (1.5,)}, "mean 1.5"),
        ({"std": (0.0,)}, "expected values above 0"),
        ({"std": (float("inf"),)}, "std inf"),
        ({"std": ()}, "one for each channel"),
        ({"num_classes": 0}, "num_classes 0"),
        ({"num_classes": 10**30}, "num_classes 1000"),
        ({"input_shape": (32, -1, 1)}, "input_shape -1"),
        ({"input_shape": (2, 2, 1)}, "2x2"),
        ({"options": {"num_classes": 3}}, "unknown option of lenet5 'num_classes'"),
        ({"options": {"pooling": 3}}, "pooling of lenet5 is 3; expected str"),
        ({"options": {"pooling": "cubic"}}, "cubic"),
        ({"name": "mlp", "options": {"depth": 10**6}}, "depth 1000000; expected 0 to 10"),
        ({"name": "mlp", "options": {"width": -3}}, "width -3"),
        ({"name": "lenet"}, "unknown model 'lenet'"),
    ],
)
def test_a_false_note_is_refused(tmp_path, suffix, changes, says):
    path, spec = tmp_path / f"lenet{suffix}", dataclasses.replace(SPEC, **changes)
    note = json.dumps(dataclasses.asdict(spec))
    if suffix == weights.NATIVE:
        arrays = {name: np.asarray(leaf) for name, leaf in fitting.leaves(state()).items()}
        np.savez(path, allow_pickle=False, model=np.array(note), **arrays)
    else:
        torch_file.write(path, torch_names.to_torch(models.torch_names(NAME), state()), note)
    with pytest.raises(InputError, match=says):
        jaxcnn.load(path)


@pytest.mark.parametrize("suffix", [weights.NATIVE, ".pth", ".safetensors"])
def test_a_mutated_note_loads_or_is_refused(tmp_path, suffix):
    rng, refused = random.Random(0), 0
    tensors = {"head.weight": np.zeros((10, 3), np.float32)}
    for number in range(150):
        note = bytearray(json.dumps(dataclasses.asdict(SPEC)).encode())
        for _ in range(rng.choice([1, 2, 5])):
            note[rng.randrange(len(note))] = rng.choice(b'0123456789"{}[],:ae-.N')
        path = tmp_path / f"{number}{suffix}"
        if suffix == weights.NATIVE:
            np.savez(path, allow_pickle=False, model=np.array(note.decode()), **tensors)
        else:
            torch_file.write(path, tensors, note.decode())
        try:
            spec = weights.read(path).spec
        except InputError:
            refused += 1
        else:
            assert spec is not None
            models.from_spec(dataclasses.replace(spec, options={}))
    assert 50 < refused < 150


def test_a_mutated_native_file_loads_or_is_refused(tmp_path):
    rng, refused = random.Random(0), 0
    weights.write(tmp_path / "good.npz", SPEC, state())
    good = (tmp_path / "good.npz").read_bytes()
    for _ in range(100):
        bad = bytearray(good)
        for _ in range(rng.choice([1, 2, 8])):
            bad[rng.choice([rng.randrange(3000), -1 - rng.randrange(3000)])] = rng.randrange(256)
        (tmp_path / "bad.npz").write_bytes(bytes(bad))
        try:
            weights.read(tmp_path / "bad.npz")
        except InputError:
            refused += 1
    assert refused > 50
