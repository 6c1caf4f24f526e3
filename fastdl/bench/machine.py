"""What the numbers depend on: the machine, its measured ceilings, versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MIB = 1 << 20


@dataclass(frozen=True)
class Peaks:
    """Ceilings measured in this run. flops: 1e9 operations per second by dtype (missing: not measured). copy: levels
    from the innermost: (name, bytes it holds for all threads, 1e9 bytes read plus written per second)."""

    flops: dict[str, float]
    copy: list[tuple[str, float, float]]

    def best(self, other: Peaks) -> Peaks:
        """The higher of two measurements of each ceiling: whatever else runs on a machine can only lower one."""
        flops = {name: max(value, other.flops.get(name, 0.0)) for name, value in self.flops.items()}
        pairs = zip(self.copy, other.copy)
        return Peaks(flops, [(name, holds, max(rate, o[2])) for (name, holds, rate), o in pairs])

    def floor(self, row: Any) -> tuple[float, str] | None:
        """The shortest time (s) in which the row's operations and bytes can be done, and which of them it is; None if
        the dtype's peak is unknown."""
        level, rate = self._level(row.held or row.bytes)
        memory = row.bytes / (rate * 1e9)
        if not row.flops:
            return memory, level
        peak = self.flops.get(row.dtype)
        if peak is None:
            return None
        compute = row.flops / (peak * 1e9)
        return (compute, "FMA") if compute >= memory else (memory, level)

    def _level(self, size: float) -> tuple[str, float]:
        for name, holds, rate in self.copy:
            if size <= holds:
                return name, rate
        return self.copy[-1][0], self.copy[-1][2]


def measure_peaks(threads: int, cold: bool = False) -> Peaks:
    """Takes about a second. ``cold``: without the caches. A bfloat16 peak is there where the instruction set has
    bfloat16 products."""
    from .. import _core

    flops = {"float32": _core.measure_peak()}
    flops["float64"] = flops["float32"] / 2  # half as many lanes
    bfloat16 = getattr(_core, "measure_peak_bfloat16", None)
    if bfloat16 is not None:
        peak = bfloat16()
        if peak:
            flops["bfloat16"] = peak
    l2, l3 = cache_size(2), cache_size(3)
    levels = []
    for name, holds in (("L2", l2 * threads), ("L3", l3)):
        if holds and not cold:  # half of it filled: source and copy of a quarter each
            levels.append((name, 0.75 * holds, _core.measure_copy(holds // 4)))
    dram = max(256 * _MIB, 4 * l3)
    levels.append(("DRAM", float("inf"), _core.measure_copy(dram)))
    return Peaks(flops, levels)


def cache_size(level: int) -> int:
    """Bytes of the first CPU's cache, 0 if unknown."""
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            found, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if found == str(level) and kind != "Instruction":
            return int(size.rstrip("KMG")) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1], 1)
    return 0


def environment(versions: dict[str, str], device: dict[str, Any]) -> dict[str, Any]:
    """The machine and the software, for the header and the JSON file; ``device`` is what Device.describe says."""
    import fastdl

    from .. import _core
    from ..cli.info import _cpu_name

    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": _core.get_cpu_isa(),
        "threads": _core.get_num_threads(),
        **device,
        "versions": {
            "fastdl": fastdl.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            **versions,
        },
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def commit() -> str:
    """The commit of the checkout that this package runs from, with + after local changes; empty elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:

        def git(*args: str) -> str:
            run = subprocess.run(["git", *args], capture_output=True, text=True, cwd=root, timeout=10)
            return run.stdout.strip() if run.returncode == 0 else ""

        name = git("rev-parse", "--short", "HEAD")
        return name + ("+" if name and git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
