"""Side-by-side timing: fastdl and a peer, interleaved A B A B in one process, medians and spread of their ratio.

Times on a shared machine drift by tens of percent; the ratio of neighbouring blocks drifts far less, so the ratio is
what is reported. Each block repeats one side for at least ``block`` seconds, after warming up, so that the other
side's threads and caches are out of the way.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def block_time(function: Callable[[], Any], seconds: float) -> float:
    """Seconds per call of ``function``, over a block of at least ``seconds``."""
    function()
    calls, total, batch = 0, 0.0, 1
    while total < seconds:
        begin = time.perf_counter()
        for _ in range(batch):
            function()
        total += time.perf_counter() - begin
        calls += batch
        batch = max(1, int(calls / total * seconds / 4))
    return total / calls


def compare(
    ours: Callable[[], Any], theirs: dict[str, Callable[[], Any]], rounds: int = 7, block: float = 0.1
) -> dict[str, Any]:
    """Times ``ours`` against each of ``theirs``; the peer of the result is the fastest of them.

    Returns seconds (medians), the ratio peer / ours (median over rounds; above 1 fastdl is faster) and its
    quartiles.
    """
    names = list(theirs)
    for function in (ours, *theirs.values()):
        block_time(function, block)
    samples: dict[str, list[float]] = {name: [] for name in ("fastdl", *names)}
    for _ in range(rounds):
        samples["fastdl"].append(block_time(ours, block))
        for name in names:
            samples[name].append(block_time(theirs[name], block))
    best = min(names, key=lambda n: statistics.median(samples[n]))
    ratios = {n: [b / a for a, b in zip(samples["fastdl"], samples[n], strict=True)] for n in names}
    low, middle, high = np.percentile(ratios[best], [25, 50, 75])
    return {
        "fastdl_s": statistics.median(samples["fastdl"]),
        "peer": best,
        "peer_s": statistics.median(samples[best]),
        "ratio": float(middle),
        "ratio_quartiles": [float(low), float(high)],
        "ratio_to_each": {n: statistics.median(r) for n, r in ratios.items()},
        "samples": samples,
    }


def environment() -> dict[str, Any]:
    """What the numbers depend on: machine, versions, instruction set, threads, commit."""
    import fastdl
    from fastdl import _core

    cpu = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    versions = {"fastdl": fastdl.__version__, "numpy": np.__version__, "python": platform.python_version()}
    if "torch" in sys.modules:
        versions["torch"] = sys.modules["torch"].__version__
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": _core.get_cpu_isa(),
        "threads": _core.get_num_threads(),
        "versions": versions,
        "commit": commit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def save(path: str | None, rows: list[dict[str, Any]]) -> None:
    """Write rows and environment as JSON, if a path is given."""
    if path:
        Path(path).write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


def duration(seconds: float) -> str:
    """A time with three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
