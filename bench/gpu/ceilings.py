"""Stage: what this GPU can do at most, measured: bytes copied, and bfloat16 products by mma.sync (from registers: the
ceiling of the portable path, not of the GPU). On the host executor, its own rates, which mean nothing."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
from device import nvidia_smi
from stage import Stage, main
from timing import GpuTimer, HostTimer, measure, median


def copy_rate(stage: Stage) -> float:
    """Gigabytes read and written per second by a copy of what no cache holds."""
    from fastdl.device import backend_of

    backend: Any = backend_of(stage.device)
    elements = 1 << 18 if stage.simulated else 1 << 28
    source = backend.empty((elements,), np.float32)
    source[...] = 1.5
    target = backend.empty((elements,), np.float32)

    def copy() -> None:
        target[...] = source

    copy()
    timer = HostTimer() if stage.simulated else GpuTimer()
    samples = measure(timer, {"copy": copy}, 2.0, 20)["copy"]
    return 2 * 4 * elements / median(samples) / 1e6


def body(stage: Stage) -> None:
    stage.found["copy_gigabytes_per_second"] = copy_rate(stage)
    stage.save()
    program = stage.work / "wrappers"  # of the stage golden
    if not program.exists():
        stage.problem("no program of tests/golden/wrappers.cu: the stage golden has not built it")
        return
    done = subprocess.run([program, "rate"], capture_output=True, text=True, timeout=max(1.0, stage.left - 2))
    if done.returncode:
        stage.problem(f"wrappers rate: exit status {done.returncode}: {done.stderr}")
        return
    stage.found["mma_bfloat16_teraflops"] = float(done.stdout)
    if not stage.simulated:
        stage.found["clocks_after"] = nvidia_smi("clocks.sm,clocks.mem,temperature.gpu,power.draw")


if __name__ == "__main__":
    main(body)
