"""`fastdl bench --device`: the rows on the host executor, and the calls of CuPy (on NumPy, which it copies)."""

import json
import math
import sys
import types

import numpy as np
import pytest
from test_bench import call

from fastdl.bench import attention, conv, elementwise, linear, matmul, rnn, train
from fastdl.bench.device import Device
from fastdl.bench.peers import Peers, check_device

pytestmark = pytest.mark.cpu


def contests(peers):
    """One of each kind, small."""
    yield "matmul", matmul._contest((1, 16, 24, 8, "NT"), "float32", peers)
    yield "matmul", matmul._contest((2, 8, 8, 8, "TN"), "float32", peers)
    yield "linear", linear._forward((5, 8, 6), "float32", peers)
    yield "linear backward", linear._backward((5, 8, 6), "float32", peers)
    shape = (1, 4, 5, 6, 8, 3, 3, 1, 1, 1, 1, 1)
    yield "conv", conv._forward(shape, "float32", peers)
    yield "conv backward", conv._backward(shape, "float32", peers)
    for cell in ("vanilla", "lstm", "gru"):
        yield cell, rnn._forward((cell, 8, 3, 4, 4), "float32", peers)
        yield f"{cell} backward", rnn._both((cell, 8, 3, 4, 4), "float32", peers)
    shape = (1, 2, 1, 8, 8, 16, 1, 2)
    yield "attention", attention._contest(shape, "float32", False, peers)
    yield "attention backward", attention._contest(shape, "float32", True, peers)
    shapes = {"softmax": (4, 10), "layer_norm": (4, 10), "cross_entropy": (4, 10)}
    for name, (_, passes, build) in elementwise.OPS.items():
        images = name.endswith(("norm", "pool")) and name != "layer_norm"
        shape = shapes.get(name, (2, 3, 4, 4) if images else (100,))
        for direction in passes:
            forward = direction in ("forward", "step")
            yield name + ("" if forward else " backward"), build(shape, "float32", direction, peers)


@pytest.fixture
def executor():
    pytest.importorskip("fastdl._cuda_sim", reason="built without the host executor")
    return Device("cuda-sim")


def test_rows_on_the_executor_are_right(executor):
    peers = Peers([], 1, executor)
    for name, contest in contests(peers):
        outputs = contest.ours()
        assert contest.error(executor.host(outputs)) <= contest.limit, name
        contest.after_check()
        contest.ours()


def test_training_steps_on_the_executor_are_right(executor):
    (row,) = [r for r in train.rows("quick", "float32") if r.key == "mlp32 b32 float32 step"]
    contest = row.make(Peers([], 1, executor))
    assert contest.error(executor.host(contest.ours())) <= contest.limit


def test_the_command_on_the_executor(executor, tmp_path, capsys):
    small = ("matmul", "--suite", "small", "--filter", "16x16x16", "--seconds", "0.001")
    status, out, err = call(
        capsys, *small, "--device", "cuda-sim", "--compare", "numpy", "--json", tmp_path / "f"
    )
    assert status == 0, (out, err)
    assert "numpy takes no part: does not compute on cuda-sim" in out
    found = json.loads((tmp_path / "f").read_text())
    assert found["environment"]["device"] == "cuda-sim" and found["rows"][0]["status"] == "ok"


def test_devices_that_are_not_there(capsys):
    status, _, err = call(capsys, "matmul", "--device", "abacus")
    assert status == 2 and "unknown device" in err
    try:
        Device("cuda")
    except RuntimeError:
        status, out, err = call(capsys, "matmul", "--device", "cuda")
        assert status == 2 and "'cuda' is not available" in err and out == ""


def test_a_library_on_the_cpu_does_not_stand_for_a_gpu():
    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
    jax = types.SimpleNamespace(default_backend=lambda: "cpu")
    runtime = types.SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    for name, module in (("torch", torch), ("jax", jax), ("onnxruntime", runtime), ("numpy", np)):
        check_device(name, module, "cpu")
        with pytest.raises(RuntimeError, match="does not compute on cuda"):
            check_device(name, module, "cuda")
    with pytest.raises(RuntimeError, match="does not compute on cpu"):
        check_device("cupy", np, "cpu")
    check_device("cupy", np, "cuda")


# --- CuPy ---

#: What it has nothing for.
LACKING = {"conv", "vanilla", "lstm", "gru"}


class FakeCupy(types.ModuleType):
    """NumPy under CuPy's name: as far as its documentation says, its functions are the same."""

    def __getattr__(self, name):
        return getattr(np, name)


def test_cupys_calls_compute_the_same(monkeypatch):
    cupy, special = FakeCupy("cupy"), types.ModuleType("cupyx.scipy.special")
    special.erf = np.vectorize(math.erf, otypes=[np.float32])
    for name in ("cupyx", "cupyx.scipy"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", special)
    peers = Peers([], 1)
    peers.modules["cupy"] = cupy
    for name, contest in contests(peers):
        gradients = name.endswith("backward") and name not in ("linear backward", "softmax backward")
        if gradients or name in LACKING:
            assert contest.skipped["cupy"].startswith("has no"), name
        else:
            assert list(contest.calls) == ["cupy"] and not contest.skipped, (name, contest.skipped)
            assert contest.error(contest.calls["cupy"]()) <= 2 * contest.limit, name


def test_cupy_takes_no_part_on_the_cpu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy("cupy"))
    status, out, _ = call(capsys, "matmul", "--compare", "cupy", "--filter", "32x32x32", "--seconds", "0.001")
    assert status == 0 and "cupy takes no part: does not compute on cpu" in out
