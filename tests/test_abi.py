"""The public headers and what they promise: they compile by themselves in every dialect, say something of every
function, and keep their binary interface."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import abi_layout
import pytest

import fastdl

INCLUDE = Path(fastdl.__file__).parent / "include"
HEADERS = sorted(p.name for p in (INCLUDE / "fastdl").glob("*.h*"))
SOURCES = Path(__file__).parents[1] / "csrc"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wundef", "-Werror"]
pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of Unix compilers"),
]


def compiler(language):
    variable, name = {"c": ("CC", "cc"), "c++": ("CXX", "c++")}[language]
    path = shutil.which(os.environ.get(variable, name))
    if path is None:
        pytest.skip("no compiler on this machine: the package was installed from a wheel")
    return path


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_compiles_by_itself(header, tmp_path):
    """In every standard from C99 and C++17 on; included twice, and beside the CUDA headers' own."""
    c = [("c", ["-std=c99", "-Wstrict-prototypes", "-Wc++-compat"]), ("c", ["-std=c11"]), ("c", ["-std=c17"])]
    cpp = [("c++", ["-std=c++17", "-Wold-style-cast"]), ("c++", ["-std=c++20"])]
    for language, options in cpp if header.endswith(".hpp") else c + cpp:
        source = tmp_path / f"program.{language.replace('+', 'p')}"
        source.write_text(
            f"#include <fastdl/{header}>\n#include <fastdl/{header}>\nint main(void) {{ return 0; }}\n"
        )
        command = [compiler(language), "-x", language, *options, *WARNINGS, f"-I{INCLUDE}", "-fsyntax-only"]
        subprocess.run([*command, str(source)], check=True)


def test_binary_interface_is_that_listed():
    """A line that is gone or has changed breaks whoever has compiled against it; a new one belongs in the list."""
    listed = set((Path(__file__).parent / "abi.txt").read_text().splitlines())
    now = set(abi_layout.lines(INCLUDE, compiler("c")))
    assert not listed - now, "programs compiled against an older header break"
    assert not now - listed, "new: python tests/abi_layout.py > tests/abi.txt"


@pytest.mark.parametrize(
    "header", [h for h in HEADERS if h.endswith(".h") and h not in ("fastdl.h", "cuda.h")]
)
def test_every_function_is_described(header):
    text = (INCLUDE / "fastdl" / header).read_text()
    bare = re.findall(r"[;{]\n+FASTDL_API[^;]*?(fastdl_\w+)\(", text)
    # These stand under another function, whose comment is for both.
    shared = {"fastdl_fold", "fastdl_matmul_pack_b", "fastdl_set_num_threads", "fastdl_set_float32_precision"}
    assert set(bare) <= {*shared, "fastdl_set_cpu_isa"}
    costs = re.findall(r"Cost|Costs|costs|Cheap", text)
    assert costs or header == "measure.h"


def test_the_library_neither_ends_the_process_nor_prints():
    if not SOURCES.is_dir():
        pytest.skip("no sources beside these tests")
    wrong = re.compile(
        r"\b(abort|exit|_exit|quick_exit|terminate|assert|f?printf|f?puts|putchar|perror)\s*\("
        r"|std::c(err|out|log)\b|\bstd(err|out)\b"
    )
    found = []
    for folder in ("common", "cpu", "cuda", "include"):
        for path in sorted(p for p in (SOURCES / folder).rglob("*") if p.is_file() and p.suffix != ".txt"):
            code = re.sub(r"/\*.*?\*/|//[^\n]*|\"(\\.|[^\"\\\n])*\"", "", path.read_text(), flags=re.DOTALL)
            found += [f"{path.relative_to(SOURCES)}: {m[0]}" for m in wrong.finditer(code)]
    assert found == []
