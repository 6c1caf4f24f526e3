"""The small projects of examples/embed, built and run as their readers would."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdl

EXAMPLES = Path(__file__).parents[1] / "examples" / "embed"
PACKAGE = Path(fastdl.__file__).parent
pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the library has a sanitizer"),
]


def run(*command, stdin=None):
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(PACKAGE.parent), os.environ.get("PYTHONPATH", ""))),
        },
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout


def built(project, folder, *options):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on this machine")
    # Where `python -m fastdl --cmakedir` points.
    run(
        "cmake",
        "-S",
        EXAMPLES / project,
        "-B",
        folder,
        f"-Dfastdl_DIR={PACKAGE / 'share/cmake/fastdl'}",
        *options,
    )
    run("cmake", "--build", folder)
    return folder


def need(*modules):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module} in this environment")


@pytest.fixture
def picture():
    """A bright rectangle on dark ground."""
    pixels = np.full((48, 64), 20, np.uint8)
    pixels[12:36, 16:48] = 200
    return pixels


def check_edges(program, picture):
    out = run(program, stdin=b"P5 64 48 255\n" + picture.tobytes())
    assert out.startswith(b"P5 64 48 255\n")
    edges = np.frombuffer(out[-picture.size :], np.uint8).reshape(picture.shape)
    assert edges[24, 15] == edges[24, 16] == edges[24, 47] == edges[24, 48] == 180
    assert not edges[14:34, 18:46].any() and not edges[2:10, 2:62].any()
    wrong = subprocess.run([program], input=b"P5 64 48 255\n123", capture_output=True, text=False)
    assert wrong.returncode == 1 and wrong.stderr == b"edges: the picture is cut short\n"


def test_c(tmp_path, picture):
    check_edges(built("c", tmp_path) / "edges", picture)


@pytest.mark.skipif(sys.platform == "win32", reason="the flags are those of Unix compilers")
def test_c_by_pkg_config(tmp_path, picture):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if shutil.which("pkg-config") is None or compiler is None:
        pytest.skip("no pkg-config or no C compiler on this machine")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(PACKAGE / "lib" / "pkgconfig")}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fastdl"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout.split()
    program = tmp_path / "edges"
    run(compiler, EXAMPLES / "c" / "edges.c", "-o", program, *flags, "-lm", f"-Wl,-rpath,{PACKAGE / 'lib'}")
    check_edges(program, picture)


def test_cpp_server_answers_as_the_model_does(tmp_path):
    need("sklearn")
    program = built("cpp", tmp_path) / "classifier"
    weights, requests = tmp_path / "weights", tmp_path / "requests"
    expected = run(sys.executable, EXAMPLES / "cpp" / "export.py", weights, requests).split()
    answers = run(program, weights, stdin=b"1 2 3\n" + requests.read_bytes()).splitlines()
    assert answers[0] == b"error: expected 64 numbers, got 3"
    assert answers[1:] == expected and len(expected) == 297


def test_threads_of_the_program(tmp_path):
    out = run(built("threads", tmp_path) / "threads", 3)
    assert out == b"3 threads of the program's: the same bits\n"


def test_another_version_is_not_found(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on this machine")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(p LANGUAGES C)\nfind_package(fastdl 0.99 CONFIG)\n"
        "message(STATUS found=${fastdl_FOUND})\nfind_package(fastdl CONFIG COMPONENTS nonesuch)\n"
        "message(STATUS component=${fastdl_FOUND})\n"
    )
    out = run("cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-Dfastdl_DIR={PACKAGE / 'share/cmake/fastdl'}")
    assert (
        b"found=0" in out
        and b"component=" in out
        and b"component=TRUE" not in out
        and b"component=1" not in out
    )


def test_ctypes():
    out = run(sys.executable, "-I", EXAMPLES / "ctypes" / "softmax.py", PACKAGE / "lib" / "libfastdl_cpu.so")
    lines = out.decode().splitlines()
    assert lines[0] == "0.0900 0.2447 0.6652 0.3333 0.3333 0.3333"
    assert lines[1] == "softmax: expected out to have the shape of x, (2, 3), got (3, 2)"


def test_arrays():
    assert b"(2, 8, 128, 64) float32" in run(sys.executable, EXAMPLES / "arrays" / "attention.py")


def test_dlpack():
    out = run(sys.executable, EXAMPLES / "dlpack" / "share.py").decode().splitlines()
    installed = [name for name in ("numpy", "torch", "jax") if importlib.util.find_spec(name)]
    assert [line.split()[0] for line in out] == installed


def test_torch_operator():
    need("torch")
    assert b"opcheck: all as they should be" in run(sys.executable, EXAMPLES / "torch" / "attention.py")


def test_jax_ffi_call(tmp_path):
    need("jax")
    library = built("jax", tmp_path, f"-DPython_EXECUTABLE={sys.executable}") / "libfastdl_jax.so"
    out = run(sys.executable, EXAMPLES / "jax" / "layer_norm.py", library)
    assert b"layer_norm: weight of shape (50,)" in out and b"values and gradients as JAX computes them" in out
