"""``fastdl info``: what this machine has and what fastdl makes of it."""

from __future__ import annotations

import argparse
import glob
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
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

    peak, copy = _peak(), _copy_rate()
    rows = [
        ("fastdl", fastdl.__version__),
        ("Python", f"{platform.python_version()}, NumPy {np.__version__}"),
        ("system", f"{platform.system()} {platform.machine()}, {_cpu_name()}"),
        ("ISA", f"{_core.cpu_isa()} (available: {', '.join(_core.available_isas())})"),
        ("threads", f"{fastdl.get_num_threads()} of {os.cpu_count()} CPUs"),
        ("caches", _caches() or "unknown"),
        ("float32 peak", peak),
        ("copy bandwidth", copy),
    ]
    for name, needed_for in (
        ("matplotlib", "fastdl train --plot"),
        ("sklearn", "the digits"),
        ("cupy", "GPU arrays"),
        ("torch", "comparisons"),
    ):
        found = importlib.util.find_spec(name) is not None
        rows.append((name, f"{'found' if found else 'not found'} ({needed_for})"))
    for name, text in rows:
        print(f"{name:<15} {text}")
    return 0


def _peak() -> str:
    from .. import _core

    if hasattr(_core, "measure_peak"):
        return f"{_core.measure_peak() / 1e9:.0f} GFLOP/s measured"
    import numpy as np

    from .. import ops

    n = 1024
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    return (
        f"{2 * n**3 / _best(lambda: ops.matmul(a, b)) / 1e9:.0f} GFLOP/s reached in a {n} x {n} x {n} matmul"
    )


def _copy_rate() -> str:
    from .. import _core

    if hasattr(_core, "measure_copy"):
        return f"{_core.measure_copy() / 1e9:.1f} GB/s (read + written)"
    import numpy as np

    source = np.ones(1 << 24, np.float32)  # 64 MiB: past the caches of most machines
    target = np.zeros_like(source)
    seconds = _best(lambda: np.copyto(target, source))
    return f"{2 * source.nbytes / seconds / 1e9:.1f} GB/s (read + written, one thread)"


def _best(action: Callable[[], Any], budget: float = 0.5) -> float:
    """Seconds of the fastest call within the time budget."""
    action()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


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
