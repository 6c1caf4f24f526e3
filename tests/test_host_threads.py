"""What a host relies on, by programs that use the library without Python (tests/embed): its own thread pool, options
of other versions, calls from several threads at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastdl
from fastdl import _core

SOURCES = Path(__file__).parent / "embed"
PACKAGE = Path(fastdl.__file__).parent
pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of Unix compilers"),
    pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the library has a sanitizer"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """program("name"): the compiled tests/embed/name.cpp."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler on this machine: the package was installed from a wheel")
    folder = tmp_path_factory.mktemp("programs")

    def build(name):
        target = folder / name
        if not target.exists():
            options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]
            libraries = [f"-L{PACKAGE / 'lib'}", "-lfastdl_cpu", f"-Wl,-rpath,{PACKAGE / 'lib'}"]
            sources = [f"-I{PACKAGE / 'include'}", str(SOURCES / f"{name}.cpp"), "-o", str(target)]
            subprocess.run([compiler, *options, *sources, *libraries], check=True)
        return target

    return build


def run(program, **environment):
    return subprocess.run(
        [program], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("isa", _core.available_isas())
def test_results_on_a_hosts_own_threads(program, isa):
    done = run(program("host_threads"), FASTDL_CPU_ISA=isa)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == 2 * "8: the context's parallel_for has run 3 chunks of 4\n"


def test_options_of_other_versions(program):
    done = run(program("options"))
    assert done.returncode == 0, done.stdout + done.stderr
    version = fastdl.__version__
    assert done.stdout == (
        f"compiled against the header of fastdl 3.2.1, which the library of fastdl {version} does not serve\n"
    )


@pytest.mark.parametrize("isa", [_core.get_cpu_isa(), "generic"])
def test_many_threads_at_once(program, isa):
    done = run(program("stress"), FASTDL_CPU_ISA=isa)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("isa", _core.available_isas())
def test_a_hosts_allocator_and_want_of_memory(program, isa):
    """Every block of scratch is the host's; any allocation may fail, of the host's and of the C++ heap."""
    done = run(program("memory"), FASTDL_CPU_ISA=isa)
    assert done.returncode == 0, done.stdout + done.stderr
