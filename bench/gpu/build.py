"""Stage: the package, built for this GPU from the sources, offline. On the host executor: the one that is installed."""

from __future__ import annotations

import os
import subprocess
import sys

from device import nvidia_smi
from stage import ROOT, Stage, main


def body(stage: Stage) -> None:
    if stage.simulated:
        from fastdl import _cuda_sim

        stage.found["package"] = os.path.dirname(_cuda_sim.__file__)
        return
    capability = nvidia_smi("compute_cap")["compute_cap"].replace(".", "")
    site = stage.work / "site"
    # Machine code for this GPU alone: a third of the time that the package for all takes.
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--target",
        site,
    ]
    command += [
        f"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES={capability}-real",
        "-Ccmake.define.FASTDL_CUDA=ON",
        ROOT,
    ]
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 2)}
    subprocess.run(list(map(str, command)), check=True, env=environment, cwd=stage.work)
    libraries = sorted((site / "fastdl").glob("lib/*.so*"))
    stage.found["architecture"] = f"sm_{capability}"
    stage.found["bytes"] = {p.name: p.stat().st_size for p in libraries}
    # In a process of its own: what it says is what a user would see.
    ask = "import fastdl; print(fastdl.cuda.get_device_name())"
    done = subprocess.run(
        [sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        cwd=stage.work,
        env={**environment, "PYTHONPATH": str(site)},
    )
    if done.returncode:
        stage.problem(f"the package does not see the GPU: {done.stderr.strip().splitlines()[-1]}")
    stage.found["sees"] = done.stdout.strip()


if __name__ == "__main__":
    main(body)
