"""Files of our own appear whole, and in nobody's place; of others, only what is a file is read."""

from __future__ import annotations

import os

import numpy as np
import pytest

from jaxcnn.errors import InputError
from jaxcnn.interop import torch_file
from jaxcnn.interop.files import created

TENSORS = {"w": np.ones(3, np.float32)}


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"weights\.pth exists"):
        torch_file.write(path, TENSORS)
    assert path.read_bytes() == b"mine"
    with pytest.raises(InputError, match=r"'\.ckpt'; expected \.pth, \.pt, \.th, \.safetensors"):
        torch_file.write(tmp_path / "weights.ckpt", TENSORS)
    with pytest.raises(InputError, match="not a folder"):
        torch_file.write(tmp_path / "no" / "weights.pth", TENSORS)
    with pytest.raises(KeyError):
        torch_file.write(tmp_path / "complex.pth", {"w": np.ones(2, complex)})
    assert os.listdir(tmp_path) == ["weights.pth"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("no links here")

    path = tmp_path / "weights.pth"
    for links in (True, False):
        with pytest.raises(InputError, match=r"weights\.pth exists"), created(path):
            path.write_bytes(b"mine")
        assert path.read_bytes() == b"mine"
        path.unlink()
        with created(path) as file:
            file.write(b"ours")
        assert path.read_bytes() == b"ours"
        assert os.listdir(tmp_path) == ["weights.pth"]
        path.unlink()
        if links:
            monkeypatch.setattr(os, "link", refuse)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth cannot be read: No such file"):
        torch_file.read(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        torch_file.read(tmp_path)
