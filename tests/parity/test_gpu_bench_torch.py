"""The rows of bench/gpu as PyTorch computes them, here on the CPU: the calls are right, and so are fastdl's results."""

import importlib
import sys
from pathlib import Path

import pytest
from gpu import DEVICE

torch = pytest.importorskip("torch")
FOLDER = Path(__file__).parent.parent.parent / "bench" / "gpu"

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(DEVICE != "cuda-sim", reason="needs the host executor (FASTDL_SIMT=ON)"),
    pytest.mark.skipif(not FOLDER.exists(), reason="bench/ is not there"),
    pytest.mark.filterwarnings("ignore"),
]


def test_every_row_agrees_with_torch(monkeypatch):
    from fastdl.device import backend_of

    monkeypatch.syspath_prepend(str(FOLDER))
    compare = importlib.import_module("compare")

    class Machine(compare.Machine):
        def __init__(self):
            self.backend, self.timer = backend_of("cuda-sim"), compare.HostTimer()
            self.peers, self.missing = {"torch": torch}, {"cupy": "no GPU"}

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(compare, "_ROUNDS", 1)
    compared = 0
    for row in compare.all_rows(True):
        report = compare.run_row(row, Machine())
        if report["status"] == "missing":
            continue
        assert report["status"] == "ok", report
        assert "torch" not in report["missing_peers"] or row.torch is None, report
        compared += "torch" not in report["missing_peers"]
    assert compared > 10
    for name in [n for n, m in sys.modules.items() if str(FOLDER) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]
