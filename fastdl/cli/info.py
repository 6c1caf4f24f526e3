"""``fastdl info``: what this machine has and what fastdl makes of it."""

from __future__ import annotations

import argparse
import glob
import importlib.util
import os
import platform
import sys
from typing import Any


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = commands.add_parser("info", help="version, instruction sets, threads, caches, measured speed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints. Returns 0."""
    import numpy as np

    import fastdl

    from .. import _core

    rows = [
        ("fastdl", fastdl.__version__),
        ("Python", f"{platform.python_version()}, NumPy {np.__version__}"),
        ("system", f"{platform.system()} {platform.machine()}, {_cpu_name()}"),
        ("ISA", f"{_core.get_cpu_isa()} (available: {', '.join(_core.available_isas())})"),
        ("dtypes", "float32, float64, bfloat16 and float16 (16-bit types: sums in float32)"),
        ("precision", f"{fastdl.get_float32_precision()} (of float32 products)"),
        ("threads", f"{fastdl.get_num_threads()} of {os.cpu_count()} CPUs"),
        ("caches", _caches() or "unknown"),
        ("float32 peak", f"{_core.measure_peak():.0f} GFLOP/s measured"),
        ("copy bandwidth", f"{_core.measure_copy():.1f} GB/s measured"),
    ]
    rows += _devices()
    for name, needed_for in (
        ("matplotlib", "fastdl train --plot"),
        ("sklearn", "the digits"),
        ("cupy", "arrays on a GPU"),
        ("torch", "comparisons"),
    ):
        found = importlib.util.find_spec(name) is not None
        rows.append((name, f"{'found' if found else 'not found'} ({needed_for})"))
    for name, text in rows:
        print(f"{name:<15} {text}")
    return 0


def _devices() -> list[tuple[str, str]]:
    """A row per kind of device besides the CPU: its name, or what is missing."""
    from .. import cuda
    from ..device import backend_of

    rows = []
    for kind in ("cuda", "cuda-sim"):
        try:
            backend_of(kind)
            text = cuda.get_device_name() if kind == "cuda" else "CUDA kernels run by the host executor"
            if kind == "cuda" and cuda.device_count() > 1:
                text += f", and {cuda.device_count() - 1} more"
        except RuntimeError as error:
            text = "not available: " + str(error).partition(": ")[2]
        rows.append((kind, text))
    return rows


def _cpu_name() -> str:
    if sys.platform.startswith("linux"):
        try:
            with open("/proc/cpuinfo") as file:
                for line in file:
                    if line.startswith("model name"):
                        return line.split(":", 1)[1].strip()
        except OSError:
            pass
    return platform.processor() or "unknown CPU"


def _caches() -> str:
    """``L1 data 48K, L1 instruction 32K, L2 2048K, ...`` of the first CPU, from sysfs; empty elsewhere."""
    found = []
    for folder in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        values = [_read(os.path.join(folder, name)) for name in ("level", "type", "size")]
        if all(values):
            level, kind, size = values
            found.append(f"L{level} {'' if kind == 'Unified' else str(kind).lower() + ' '}{size}")
    return ", ".join(found)


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None
