"""Stage: what the numbers depend on: the GPU, its driver and clocks, the toolkit, the packages."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata

from stage import Stage, brief, main

QUERY = (
    "name,driver_version,memory.total,compute_cap,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,"
    "temperature.gpu,ecc.mode.current"
)
PACKAGES = (
    "numpy",
    "ml_dtypes",
    "cupy-cuda13x",
    "torch",
    "flash-attn",
    "nvidia-cublas",
    "nvidia-cudnn-cu13",
    "triton",
)


def nvidia_smi(query: str = QUERY) -> dict[str, str]:
    """The first GPU, as nvidia-smi describes it. Raises RuntimeError where it cannot."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise RuntimeError("nvidia-smi is not installed")
    command = [tool, f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise RuntimeError(brief(done.stdout + done.stderr))
    return dict(zip(query.split(","), (v.strip() for v in done.stdout.splitlines()[0].split(","))))


def version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def body(stage: Stage) -> None:
    stage.found["host"] = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    stage.found["packages"] = {p: version(p) for p in PACKAGES}
    compiler = shutil.which("nvcc")
    if compiler:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=20)
        stage.found["nvcc"] = done.stdout.strip().splitlines()[-1]
    if stage.simulated:
        stage.found["name"] = "fastdl host executor"
        return
    try:
        found = nvidia_smi()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        stage.problem(f"no GPU to describe: {error}")
        return
    stage.found.update({"name": found.pop("name"), "driver": found.pop("driver_version")}, properties=found)


if __name__ == "__main__":
    main(body)
