"""Files of PyTorch's, and files that pretend to be: they load, or one sentence says why not, and nothing runs."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import random
import struct
import subprocess
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import InputError
from jaxcnn.interop import torch_file

BFLOAT16 = np.dtype(jnp.bfloat16)


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(size=4),
        "half": rng.normal(size=(2, 5)).astype(np.float16),
        "brain": rng.normal(size=(3, 2)).astype(BFLOAT16),
        "norm.num_batches_tracked": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False]),
        "bytes": np.arange(5, dtype=np.uint8),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.fixture
def file(tmp_path):
    """Writes bytes to a file."""

    def write(content: bytes, name: str = "weights.pth"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def archive(data_pkl: bytes, members: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, content in {"archive/data.pkl": data_pkl, "archive/data/0": bytes(16), **(members or {})}.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def tensor_pickle(key="0", count=4, offset=0, shape=(4,), strides=(1,), storage="FloatStorage", extra=b"") -> bytes:
    """A state dict {"w": tensor} by opcodes, with whatever numbers are asked for."""

    def literal(value) -> bytes:
        return pickle.dumps(value, 2)[2:-1]  # without PROTO and STOP

    return b"".join(
        [
            b"\x80\x02}",
            literal("w"),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(" + literal("storage") + f"ctorch\n{storage}\n".encode() + literal(key) + literal("cpu"),
            literal(count) + b"tQ",
            literal(offset) + literal(shape) + literal(strides) + b"\x89ccollections\nOrderedDict\n)Rt",
            b"Rs" + extra + b".",
        ]
    )


@pytest.mark.parametrize("suffix", torch_file.SUFFIXES)
def test_what_is_written_is_read_bit_by_bit(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    torch_file.write(path, tensors())
    found = torch_file.read(path)
    expected = tensors()
    assert_same({name: found[name] for name in expected}, expected)
    assert os.listdir(tmp_path) == [path.name]
    first = path.read_bytes()
    path.unlink()
    torch_file.write(path, tensors())
    assert path.read_bytes() == first


@pytest.mark.parametrize("suffix", torch_file.PICKLED)
def test_pytorch_loads_what_is_written(torch, tmp_path, suffix):
    torch_file.write(tmp_path / f"weights{suffix}", tensors())
    loaded = torch.load(tmp_path / f"weights{suffix}", weights_only=True)
    assert list(loaded) == list(tensors())
    for name, tensor in tensors().items():
        again = loaded[name].view(torch.int16).numpy().view(BFLOAT16) if name == "brain" else loaded[name].numpy()
        assert_same({name: again}, {name: tensor})


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_what_pytorch_writes_is_read(torch, tmp_path, options):
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = {
        "plain": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[:, 1:, ::2],
        "last": base[-1, -1, -1],
        "expanded": torch.ones(3, 1)[:, 0],
        "tied": base,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.tensor([1.5, 2.5], dtype=torch.float16),
        "double": torch.tensor([1.5, 2.5], dtype=torch.float64),
        "brain": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        "counter": torch.tensor(3),
        "small": torch.ones(3, dtype=torch.uint16),
        "empty": torch.zeros(0, 4),
    }
    path = tmp_path / "weights.pth"
    torch.save(state, path, **options)
    found = torch_file.read(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().float().numpy() if name == "brain" else tensor.detach().numpy()
        assert found[name].shape == expected.shape
        np.testing.assert_array_equal(found[name].astype(expected.dtype), expected)
        assert found[name].dtype == (BFLOAT16 if name == "brain" else expected.dtype)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_taken_out_of_its_checkpoint(torch, tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    parallel = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in module.state_dict().items())
    checkpoint = {
        "epoch": 3,
        "best_prec1": 91.78,
        "arch": "resnet20",
        "history": [1.0, None, (2, True)],
        "shape": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "best": np.float64(0.5),
    }
    plain = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in parallel.items()}
    contents = (
        module.state_dict(),
        parallel,
        {**checkpoint, "state_dict": parallel},
        {**checkpoint, "model_state_dict": compiled},
        {**checkpoint, "model": plain},
    )
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.pth"
        if "model" in content:
            content["model"] = module.state_dict()
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert_same(torch_file.read(path), plain)


def test_a_tensor_that_repeats_numbers_is_explained(torch, tmp_path):
    torch.save({"w": torch.zeros(1).expand(64)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"of shape \(64,\) that repeats 1 numbers; expected one that has its own"):
        torch_file.read(tmp_path / "weights.pth")


def test_the_published_files_are_read(real_data):
    squeezenet = torch_file.read(real_data / "weights" / "squeezenet1_0_imagenet.pth")
    assert (len(squeezenet), sum(tensor.size for tensor in squeezenet.values())) == (52, 1_248_424)
    resnet = torch_file.read(real_data / "weights" / "resnet20_cifar10.th")
    assert resnet["conv1.weight"].shape == (16, 3, 3, 3)


def test_a_safetensors_file_by_the_letter_of_its_format(file):
    header = json.dumps({"b": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}, "__metadata__": {"x": "y"}})
    path = file(struct.pack("<Q", len(header)) + header.encode() + b"\x80\x3f\x00\x40", "weights.bin")
    assert torch_file.read(path)["b"].tolist() == [1.0, 2.0]


# ---- what is refused


class Calls:
    """Pickled, it asks whoever unpickles it to call a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails if anything that a hostile file would call is called."""
    called = []
    for module, name in ((os, "system"), (subprocess, "Popen"), (pickle, "loads"), (pickle, "load")):
        monkeypatch.setattr(module, name, lambda *a, name=name, **k: called.append(name))
    yield
    assert not called


HOSTILE = {
    "os.system": pickle.dumps({"w": Calls(os.system, "echo pwned")}, 2),
    "eval": pickle.dumps({"w": Calls(eval, "__import__('os').system('echo')")}, 2),
    "eval, protocol 4": pickle.dumps({"w": Calls(eval, "1")}, 4),
    "getattr": pickle.dumps(Calls(getattr, "", "join"), 2),
    "instance": b"\x80\x02(i__builtin__\neval\n.",
    "object": b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00echoo.",
    "new object": b"\x80\x02cos\nsystem\n)\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "text protocol": b"cos\nsystem\n(S'echo'\ntR.",
    "calls a type": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "calls a string": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "builds a string": b"\x80\x02X\x01\x00\x00\x00a}b.",
    "nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "long name": b"\x80\x02cos\n" + b"x" * 100_000 + b"\n.",
    "nested key": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "holds itself": b"\x80\x02]q\x00h\x00a.",
    "doubles": b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 1000 + b".",
    "empty": b"",
    "no stop": b"\x80\x02}",
    "stack underflow": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "no memo": b"\x80\x02h\x05.",
    "long string": b"\x80\x02X\xff\xff\xff\x7fa.",
    "longer string": b"\x80\x04\x8d" + b"\xff" * 8 + b"a.",
    "long integer": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "unknown opcode": b"\x80\x02\xff.",
    "a number": pickle.dumps(3, 2),
    "no tensors": pickle.dumps({"epoch": 3}, 2),
    "claims more": tensor_pickle(count=2**40, shape=(2**40,)),
    "claims absurdly more": tensor_pickle(count=2**80, shape=(2**80,)),
    "claims less": tensor_pickle(count=2),
    "negative count": tensor_pickle(count=-4),
    "reaches behind": tensor_pickle(offset=1),
    "reaches far": tensor_pickle(offset=2**61),
    "before the beginning": tensor_pickle(offset=-1),
    "strides out": tensor_pickle(strides=(2,)),
    "strides backwards": tensor_pickle(strides=(-1,)),
    "expands": tensor_pickle(shape=(2**40,), strides=(0,)),
    "empty but huge": tensor_pickle(shape=(0, 2**61, 2**61), strides=(1, 1, 1)),
    "many axes": tensor_pickle(shape=(1,) * 100, strides=(1,) * 100),
    "axes differ": tensor_pickle(strides=(1, 1)),
    "not a number": tensor_pickle(shape=("4",)),
    "no storage": tensor_pickle(key="1"),
    "storage elsewhere": tensor_pickle(key="../0"),
    "storage is a number": tensor_pickle(key=0),
    "unknown storage": tensor_pickle(storage="QInt8Storage"),
    "no storage at all": tensor_pickle(storage="float32"),
}


@pytest.mark.parametrize("container", ["zip", "plain", "legacy"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_refused(file, nothing_runs, case, container):
    content = HOSTILE[case]
    if container == "zip":
        content = archive(content)
    elif container == "legacy":
        content = legacy(content)
    with pytest.raises(InputError, match=r"weights\.pth (is|has|holds|would|calls|refers|lists|describes) ") as caught:
        torch_file.read(file(content))
    assert len(str(caught.value)) < 500


def legacy(tree: bytes) -> bytes:
    parts = [
        pickle.dumps(torch_file._MAGIC, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}, 2),
        tree,
        pickle.dumps(["0"], 2),
        struct.pack("<q", 4) + bytes(16),
    ]
    return b"".join(parts)


def test_the_hostile_files_are_good_but_for_what_they_are_hostile_in(file):
    for content in (archive(tensor_pickle()), legacy(tensor_pickle())):
        assert_same(torch_file.read(file(content)), {"w": np.zeros(4, np.float32)})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive(tensor_pickle(), {"archive/../../evil": b""}), "a member called 'archive/../../evil'"),
        (archive(tensor_pickle(), {"..\\evil": b""}), "a member called"),
        (archive(tensor_pickle(), {"/etc/passwd": b""}), "a member called '/etc/passwd'"),
        (archive(tensor_pickle(), {"other/data.pkl": b""}), "2 members called data.pkl"),
        (archive(tensor_pickle(), compression=zipfile.ZIP_DEFLATED), "compressed member"),
        (archive(tensor_pickle(), {"archive/byteorder": b"big"}), "big-endian"),
        (archive(b"\x80\x02}" + b"0}" * 2**22 + b"."), "expected names and shapes, in at most 8388608"),
        (archive(tensor_pickle()).replace(bytes(16), b"\1" * 16), "is damaged .BadZipFile: Bad CRC-32"),
        (archive(tensor_pickle())[:-30], "is damaged"),
        (archive(pickle.dumps({"net": {}, "optimizer": {}}, 2)), "holds no tensors but 'net', 'optimizer'"),
        (legacy(tensor_pickle())[:-3], "ends inside the storage '0'"),
        (legacy(tensor_pickle()).replace(b"little_endian", b"middle_endian"), "big-endian"),
        (legacy(tensor_pickle()).replace(struct.pack("<q", 4), struct.pack("<q", 2**62)), "ends inside"),
        (legacy(tensor_pickle()).replace(struct.pack("<q", 4), struct.pack("<q", 3)), "its pickle claims 16"),
        (b"", "is no file of PyTorch's"),
        (b"GIF89a" * 10, "is no file of PyTorch's"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is no file of PyTorch's"),
    ],
)
def test_a_broken_container_is_explained(file, nothing_runs, content, says):
    with pytest.raises(InputError, match=says):
        torch_file.read(file(content))


def test_overlapping_members_are_not_read_again_and_again(file):
    content = bytearray(archive(tensor_pickle(), {f"archive/data/{i}": b"" for i in range(1, 30)}))
    # Every member of the directory now claims the first one's bytes.
    position = content.index(b"PK\x01\x02")
    sizes = content[position + 20 : position + 28]
    while (position := content.find(b"PK\x01\x02", position)) >= 0:
        content[position + 20 : position + 28] = sizes
        position += 4
    with pytest.raises(InputError, match="expected fewer"):
        torch_file.read(file(bytes(content)))


def safetensors(header: object, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16), **more) -> dict[str, object]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}, **more}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (safetensors(entry(shape=[2**40], offsets=[0, 2**42])), r"expected 4398046511104 bytes from 0"),
        (safetensors(entry(offsets=[-16, 0])), "at bytes -16"),
        (safetensors(entry(offsets=[16, 0])), "at bytes 16"),
        (safetensors(entry(shape=[-2, -2])), "no list of at most 32 sizes"),
        (safetensors(entry(shape=[2**70])), "no list of at most 32 sizes"),
        (safetensors(entry(shape=[1] * 100)), "no list of at most 32 sizes"),
        (safetensors(entry(shape=[4.0])), "no list of at most 32 sizes"),
        (safetensors(entry(dtype="F8_E4M3")), "of type 'F8_E4M3'"),
        (safetensors(entry(dtype=[])), "is damaged"),
        (safetensors(entry(offsets=[0])), "is damaged"),
        (safetensors({"w": 3}), "is damaged"),
        (safetensors(entry(v=entry()["w"])), "at bytes 0 to 16"),
        (safetensors(entry(), bytes(20)), "4 bytes behind"),
        (safetensors(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "is damaged"),
        (safetensors(b'{"w":1,"w":2}'), "one name twice"),
        (safetensors(b"{" + b" " * 20), "is damaged"),
        (safetensors(b'{"w":' + b"9" * 10_000 + b"}"), "is damaged"),
        (safetensors({}, b""), "holds no tensors but nothing"),
        (struct.pack("<Q", 2**60) + b"{}" + bytes(20), "is no file of PyTorch's"),
    ],
)
def test_a_hostile_safetensors_file_is_refused(file, content, says):
    with pytest.raises(InputError, match=says):
        torch_file.read(file(content, "weights.safetensors"))


def originals(tmp_path, torch) -> dict[str, bytes]:
    """Small files by our own writer, and by PyTorch where it is installed."""
    small = {"conv.weight": np.ones((2, 1, 2, 2), np.float32), "conv.bias": np.zeros(2, np.float16)}
    made = {"own": archive(tensor_pickle()), "own legacy": legacy(tensor_pickle())}
    for suffix in (".pth", ".safetensors"):
        torch_file.write(tmp_path / f"small{suffix}", small)
        made[suffix] = (tmp_path / f"small{suffix}").read_bytes()
    if torch is not None:
        for zipped in (True, False):
            buffer = io.BytesIO()
            checkpoint = {"state_dict": torch.nn.Conv2d(1, 2, 2).state_dict(), "epoch": 3, "best": 0.5}
            torch.save(checkpoint, buffer, _use_new_zipfile_serialization=zipped)
            made[f"torch, zipped: {zipped}"] = buffer.getvalue()
    return made


def mutated(content: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        where, length = rng.randrange(len(mutant) + 1), rng.choice([1, 1, 2, 8, 64])
        match rng.randrange(6):
            case 0:
                mutant[where : where + 1] = bytes([rng.randrange(256)])
            case 1:
                mutant[where:where] = rng.randbytes(length)
            case 2:
                del mutant[where : where + length]
            case 3:
                mutant[where : where + length] = rng.choice([b"\xff", b"\x00", b"\x7f", b"\x80"]) * length
            case 4:
                other = rng.randrange(len(mutant) + 1)
                mutant[where : where + length] = mutant[other : other + length]
            case 5 if len(mutant) > 1:
                del mutant[rng.randrange(1, len(mutant)) :]
    return bytes(mutant)


def with_matching_checksums(content: bytes, rng: random.Random) -> bytes:
    """A zip archive whose members are mutated, not the archive, so that the mutants reach the pickle reader."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, mutated(member, rng) if member and name.endswith("data.pkl") else member)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["us", "PyTorch"])
def test_a_mutated_file_loads_or_is_refused(file, tmp_path, nothing_runs, request, by):
    rng = random.Random(0)
    made = originals(tmp_path, request.getfixturevalue("torch") if by == "PyTorch" else None)
    chosen = {name: content for name, content in made.items() if ("torch" in name) == (by == "PyTorch")}
    loaded = refused = 0
    for content in chosen.values():
        for attempt in range(500):
            zipped = content.startswith(b"PK")
            mutant = with_matching_checksums(content, rng) if zipped and attempt % 2 else mutated(content, rng)
            try:
                tensors = torch_file.read(file(mutant))
            except InputError:
                refused += 1
            else:
                loaded += 1
                assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())
    assert loaded > 20
    assert refused > 400
