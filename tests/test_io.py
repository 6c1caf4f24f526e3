import errno
import json
import os
import shutil
import stat
import subprocess
import tempfile

import ml_dtypes
import numpy as np
import pytest

from fastdl import io
from fastdl.io import files
from fastdl.tensor import Tensor


def everything():
    rng = np.random.default_rng(0)
    return {
        "weight": rng.normal(size=(3, 4)).astype(np.float32),
        "double": rng.normal(size=5),
        "half": rng.normal(size=(2, 2)).astype(np.float16),
        "brain": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        "labels": np.arange(4),
        "mask": np.array([True, False]),
        "bytes": np.arange(3, dtype=np.uint8),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "negative": np.arange(6.0)[::-1],
    }


def same(a, b):
    a, b = (v.numpy() if isinstance(v, Tensor) else np.asarray(v) for v in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_state_dict_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    state = everything()
    io.save(state, path, {"note": "hello"})
    back, metadata = io.load_with_metadata(path)
    assert metadata == {"note": "hello"} and back.keys() == state.keys()
    assert all(isinstance(v, Tensor) for v in back.values())
    assert [key for key in state if not same(back[key], state[key])] == []
    assert back["weight"].numpy().flags.writeable
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_flat_files_are_plain_safetensors(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "x.safetensors"
    io.save({"a": Tensor(np.ones(3, np.float32))}, path)
    assert load_file(path)["a"].tolist() == [1, 1, 1]
    save_file({"b": np.zeros(2, np.int32)}, path)
    assert same(io.load(path)["b"], np.zeros(2, np.int32))
    io.save({}, path)
    assert io.load(path) == {}


def test_nested_round_trip(tmp_path):
    path = tmp_path / "nested.safetensors"
    value = {
        "state": {0: {"step": 3, "avg": np.ones(2, np.float32)}, 1: {}},
        "betas": (0.9, 0.1 + 0.2),
        "list": [None, True, "text", -1, float("inf"), {"$tensor": "not one"}],
        "big": 2**80,
        "a": {"b": np.zeros(1)},
        "a.b": np.ones(1),
        "generic": np.float32(0.5),
    }
    io.save(value, path)
    back = io.load(path)
    assert back["betas"] == value["betas"] and isinstance(back["betas"], tuple)
    assert back["list"] == value["list"] and back["big"] == 2**80 and back["generic"] == 0.5
    assert list(back["state"]) == [0, 1] and back["state"][0]["step"] == 3
    assert back["state"][0]["avg"].tolist() == [1, 1]
    assert back["a"]["b"].tolist() == [0] and back["a.b"].tolist() == [1]


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"a": {1, 2}}, {("x",): 1}, {"a": np.array(["text"])}, object()]
)
def test_unsaveable_values_leave_nothing(tmp_path, value):
    with pytest.raises(TypeError, match="save: "):
        io.save(value, tmp_path / "x.safetensors")
    with pytest.raises(TypeError, match="metadata"):
        io.save({}, tmp_path / "x.safetensors", {"a": 1})
    assert os.listdir(tmp_path) == []


# --- atomic writing -----------------------------------------------------------------------------------------


def test_overwrite_keeps_permissions_and_links(tmp_path):
    real, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    io.save({"a": np.zeros(1)}, real)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(real.stat().st_mode) == 0o666 & ~mask
    real.chmod(0o640)
    link.symlink_to(real)
    io.save({"a": np.ones(1)}, link)
    assert link.is_symlink() and io.load(real)["a"].tolist() == [1]
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_failed_write_changes_nothing(tmp_path, monkeypatch, step, code):
    path = tmp_path / "x.safetensors"
    io.save({"a": np.zeros(1)}, path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    if step == "write":
        monkeypatch.setattr(files.tempfile, "mkstemp", fail)
    else:
        monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match=f"x.safetensors.*{os.strerror(code)}") as caught:
        io.save({"a": np.ones(1)}, path)
    monkeypatch.undo()
    assert caught.value.errno == code and path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_interrupt_while_writing_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    io.save({"a": np.zeros(1)}, path)

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        io.save({"a": np.ones(1)}, path)
    assert io.load(path)["a"].tolist() == [0] and os.listdir(tmp_path) == ["x.safetensors"]


def test_impossible_places(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "x.safetensors", tmp_path / "none" / "x.safetensors", tmp_path):
        with pytest.raises(OSError, match="cannot write"):
            io.save({"a": np.zeros(1)}, path)
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="cannot write"):
        io.save({"a": np.zeros(1)}, tmp_path / "x.safetensors")
    tmp_path.chmod(0o755)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def tiny_disk():
    """A file system of 64 KiB, where this test may mount one."""
    folder = tempfile.mkdtemp()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        os.rmdir(folder)
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)
    os.rmdir(folder)


def test_full_disk(tiny_disk):
    path = os.path.join(tiny_disk, "x.safetensors")
    io.save({"a": np.zeros(10)}, path)
    with pytest.raises(OSError, match=r"x\.safetensors: No space left") as caught:
        io.save({"a": np.zeros(100_000)}, path)
    assert caught.value.errno == errno.ENOSPC
    assert io.load(path)["a"].tolist() == [0] * 10 and os.listdir(tiny_disk) == ["x.safetensors"]


# --- bad files ----------------------------------------------------------------------------------------------


def frame(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "expected at least 8 bytes, got 0"),
        (b"1234567", "got 7"),
        (b"PK\x03\x04" + bytes(60), "not a safetensors file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "not a safetensors file"),
        (frame({"a": ENTRY}, bytes(8))[:30], "truncated: expected a header of"),
        (frame({"a": ENTRY}, bytes(7)), "truncated: expected 8 bytes of tensors, got 7"),
        (frame({"a": ENTRY}, bytes(9)), "expected 8 bytes of tensors, got 9"),
        (frame(b"{nonsense"), "header"),
        (frame({"a": 3}), "header"),
        (frame({"a": {**ENTRY, "data_offsets": "no"}}, bytes(8)), "header"),
        (frame({"a": {**ENTRY, "shape": [3]}}, bytes(8)), "corrupt"),
        (frame({"a": {**ENTRY, "dtype": "F33"}}, bytes(8)), "corrupt"),
        (frame(b"[1]"), "not a safetensors file"),
        (frame(b"\xff" * 8), "not a safetensors file"),
        (frame({"__metadata__": {"fastdl.tree": "{"}, "a": ENTRY}, bytes(8)), "fastdl.tree"),
        (frame({"__metadata__": {"fastdl.tree": '{"$tensor": "b"}'}, "a": ENTRY}, bytes(8)), "fastdl.tree"),
        (frame({"__metadata__": {"fastdl.tree": '{"$pairs": [[[], 1]]}'}}), "fastdl.tree"),
    ],
)
def test_bad_files_are_named(tmp_path, content, text):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    for read in (io.load, io.read_checkpoint):
        with pytest.raises(ValueError, match=f"(?s)bad.safetensors: .*{text}"):
            read(path)


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "cut.safetensors"
    io.save({"a": np.arange(10.0), "b": {"c": np.ones(3)}}, path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.safetensors: "):
            io.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        io.load(tmp_path / "none.safetensors")
    with pytest.raises(OSError):
        io.load(tmp_path)


# --- checkpoints --------------------------------------------------------------------------------------------


class Part:
    """Stands for a model, an optimizer or a scheduler."""

    def __init__(self, value):
        self.value = np.full(3, value, np.float32)
        self.steps = value

    def state_dict(self):
        return {"value": self.value, "steps": self.steps, "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}

    def load_state_dict(self, state, strict=True):
        value = state["value"].numpy() if isinstance(state["value"], Tensor) else state["value"]
        if value.shape != self.value.shape:
            raise ValueError(f"value: expected shape {self.value.shape}, got {value.shape}")
        self.value[...] = value
        self.steps = state["steps"]


def test_checkpoint_round_trip(tmp_path):
    from fastdl import random
    from fastdl.data import DataLoader, TensorDataset

    def loader():
        return DataLoader(TensorDataset(np.arange(8)), 2, shuffle=True, seed=3)

    path = tmp_path / "c.safetensors"
    random.manual_seed(11)
    random.generator().random(5)
    first = loader()
    list(first)
    io.save_checkpoint(
        path,
        Part(1),
        Part(2),
        Part(3),
        first,
        epoch=4,
        extra={"history": [1.5]},
        metadata={"model": "cnn", "n": [1]},
    )
    expected = random.generator().random(3)
    expected_order = [b[0].tolist() for b in first]
    random.manual_seed(0)
    parts, second = [Part(0), Part(0), Part(0)], loader()
    content = io.load_checkpoint(path, *parts, second)
    assert [p.steps for p in parts] == [1, 2, 3] and [p.value[0] for p in parts] == [1, 2, 3]
    assert content["epoch"] == 4 and content["extra"] == {"history": [1.5]}
    assert content["metadata"] == {"model": "cnn", "n": [1]}
    assert (random.generator().random(3) == expected).all()
    assert [b[0].tolist() for b in second] == expected_order


def test_checkpoint_that_does_not_fit_changes_nothing(tmp_path):
    path = tmp_path / "c.safetensors"
    other = Part(5)
    other.value = np.zeros(4, np.float32)
    io.save_checkpoint(path, Part(1), other, rng=False)
    model, optimizer = Part(7), Part(8)
    with pytest.raises(
        ValueError, match=r"c\.safetensors: does not fit this optimizer: .*\(3,\), got \(4,\)"
    ):
        io.load_checkpoint(path, model, optimizer)
    assert model.value.tolist() == [7, 7, 7] and model.steps == 7 and optimizer.value.tolist() == [8, 8, 8]
    with pytest.raises(ValueError, match="state of the scheduler, it has none"):
        io.load_checkpoint(path, model, scheduler=Part(1))
    assert model.steps == 7


def test_foreign_and_newer_files_are_no_checkpoints(tmp_path):
    path = tmp_path / "c.safetensors"
    io.save({"a": np.zeros(1)}, path)
    with pytest.raises(ValueError, match="expected a fastdl checkpoint"):
        io.load_checkpoint(path)
    io.save({"epoch": 1}, path, {"fastdl.checkpoint": "2"})
    with pytest.raises(ValueError, match="expected checkpoint version 1, got 2"):
        io.load_checkpoint(path)


def test_flipped_bytes_raise_value_errors_only(tmp_path, rng):
    path = tmp_path / "flipped.safetensors"
    io.save_checkpoint(path, Part(1), epoch=2, extra={"a": [1, 2.5, {"b": np.ones(3)}], "c": {3: (1, 2)}})
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(200):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            io.load_checkpoint(path, Part(0))
        except ValueError as error:
            assert "flipped.safetensors" in str(error)
