"""The embedding examples and a program that calls every family, under valgrind's memcheck: no wrong access, no value
that was never set, no block that is not given back. Valgrind knows no AVX-512: the kernels for AVX2 and generic."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdl
from fastdl import _core

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples" / "embed"
PACKAGE = Path(fastdl.__file__).parent
ISAS = [isa for isa in _core.available_isas() if isa in ("generic", "avx2")]
pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(sys.platform != "linux", reason="valgrind is tried on Linux"),
    pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the library has a sanitizer"),
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind on this machine"),
]


def built(source, folder):
    c = source.suffix == ".c"
    compiler = shutil.which(os.environ.get("CC" if c else "CXX", "cc" if c else "c++"))
    if compiler is None:
        pytest.skip("no compiler on this machine: the package was installed from a wheel")
    program = folder / source.stem
    options = ["-std=gnu99" if c else "-std=c++17", "-O1", "-g", "-pthread", f"-I{PACKAGE / 'include'}"]
    libraries = [f"-L{PACKAGE / 'lib'}", "-lfastdl_cpu", "-lm", "-ldl", f"-Wl,-rpath,{PACKAGE / 'lib'}"]
    subprocess.run([compiler, *options, source, "-o", program, *libraries], check=True)
    return program


def memcheck(isa, *command, stdin=b""):
    """What the program printed, and the bytes of heap that it left."""
    environment = {**os.environ, "FASTDL_CPU_ISA": isa, "FASTDL_NUM_THREADS": "3"}
    options = [
        "--leak-check=full",
        "--error-exitcode=99",
        "--errors-for-leak-kinds=definite,indirect,possible",
    ]
    command = ["valgrind", *options, *map(str, command)]
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=500)
    report = done.stderr.decode()
    assert done.returncode == 0, report
    assert "ERROR SUMMARY: 0 errors" in report
    return done.stdout, int(re.search(r"in use at exit: ([\d,]+) bytes", report)[1].replace(",", ""))


@pytest.mark.parametrize("isa", ISAS)
def test_c_example(isa, tmp_path):
    rows, columns = 120, 160
    picture = np.random.default_rng(0).integers(0, 255, (rows, columns), np.uint8)
    header = f"P5 {columns} {rows} 255\n".encode()
    out, left = memcheck(isa, built(EXAMPLES / "c" / "edges.c", tmp_path), stdin=header + picture.tobytes())
    assert len(out) == len(header) + picture.size and left == 0


@pytest.mark.parametrize("isa", ISAS)
def test_cpp_example(isa, tmp_path):
    rng = np.random.default_rng(0)
    with open(tmp_path / "weights", "wb") as file:
        for outputs, inputs in ((512, 64), (300, 512), (10, 300)):
            for shape in ((outputs, inputs), (outputs, 1)):
                np.array(shape, np.int64).tofile(file)
                rng.standard_normal(shape, np.float32).tofile(file)
    requests = (
        "1 2\n" + "\n".join(" ".join(f"{v:.3f}" for v in rng.standard_normal(64)) for _ in range(4)) + "\n"
    )
    program = built(EXAMPLES / "cpp" / "classifier.cpp", tmp_path)
    out, left = memcheck(isa, program, tmp_path / "weights", stdin=requests.encode())
    assert out.startswith(b"error: expected 64 numbers") and len(out.splitlines()) == 5 and left == 0


@pytest.mark.parametrize("isa", ISAS)
def test_example_with_its_own_threads(isa, tmp_path):
    out, left = memcheck(isa, built(EXAMPLES / "threads" / "threads.cpp", tmp_path), "3")
    assert out == b"3 threads of the program's: the same bits\n" and left == 0


@pytest.mark.parametrize("isa", ISAS)
def test_every_family(isa, tmp_path):
    _, left = memcheck(isa, built(TESTS / "embed" / "stress.cpp", tmp_path), "2", "1")
    assert left == 0


def test_loaded_and_unloaded(tmp_path):
    library = PACKAGE / "lib" / "libfastdl_cpu.so"
    out, _ = memcheck(ISAS[-1], built(TESTS / "embed" / "unload.c", tmp_path), library)
    assert out == b"done\n"  # the loader's own memory is left
