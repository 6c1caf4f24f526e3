"""`import fastdl` loads what every program needs, and nothing else: that is what keeps it quick."""

import subprocess
import sys

import pytest


def loaded(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize("statement", ["import fastdl", "import fastdl.cli"])
def test_no_peer_and_no_benchmark(statement):
    modules = loaded(statement)
    assert "fastdl.tensor" in modules
    assert not [m for m in modules if m.startswith(("torch", "jax", "onnx", "cupy", "fastdl.bench"))]


def test_the_slow_parts_wait_for_their_first_use():
    slow = {"numpy.random", "ml_dtypes", "safetensors", "tqdm", "fastdl._core", "fastdl.nn", "fastdl.train"}
    assert not slow & (loaded("import fastdl") - loaded("import numpy"))
    assert "numpy.random" in loaded("import fastdl; fastdl.Generator")
    assert {"numpy.random", "fastdl._core"} <= loaded("import fastdl; fastdl.rand(2) @ fastdl.rand(2)")
