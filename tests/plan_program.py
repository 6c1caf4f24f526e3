"""Programs that print how a kernel's work is cut up: functions of shapes, compiled by themselves."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
H100 = 132  # multiprocessors

marks = [
    pytest.mark.cpu,
    pytest.mark.skipif(not COMPILER or os.name != "posix", reason="needs a C++ compiler on a POSIX system"),
]


class Plan(NamedTuple):
    """What a program prints."""

    fits: int
    columns: int
    cluster: int
    parts: int
    k_each: int


def build(folder, source):
    """The path of the program."""
    (folder / "plan.cpp").write_text(source)
    command = [COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc"]
    subprocess.run([*command, folder / "plan.cpp", "-o", folder / "plan"], check=True)
    return folder / "plan"


def numbers(program, *given):
    """What it prints for these."""
    done = subprocess.run([program, *map(str, given)], check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def run(program, *given):
    return Plan(*numbers(program, *given))
