"""Stage: the tests. First those of whole programs (what a user does: tensors, modules, graphs, faults), then those of
the kernels, with ``--device``."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from stage import ROOT, Stage, main

PROGRAMS = ["test_device.py", "test_cuda_graph.py", "test_gpu_faults.py"]
_MOST_FAILURES = 40  # whose messages are kept


def pytest(stage: Stage, name: str, arguments: list[str], seconds: float, workers: int) -> dict[str, Any]:
    """Runs pytest for at most so many seconds; counts what was reported by then."""
    report = stage.work / f"{name}.jsonl"
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_report"]
    if workers > 1 and importlib.util.find_spec("xdist"):
        command += ["-n", str(workers), "--dist", "worksteal"]
    environment = {**os.environ, "FASTDL_TEST_REPORT": str(report), "FASTDL_TEST_DEVICE": stage.device}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent / "plugin"), environment.get("PYTHONPATH", "")]
    )
    timed_out = False
    process = subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    counts = Counter(line["outcome"] for line in lines)
    reasons = Counter(line["why"] for line in lines if line["outcome"] == "skipped")
    failures = [{"test": line["test"], "why": line["why"]} for line in lines if line["outcome"] == "failed"]
    found = {
        **counts,
        "timed_out": timed_out,
        "status": process.returncode,
        "failures": failures[:_MOST_FAILURES],
    }
    found["skipped_because"] = dict(reasons.most_common(20))
    stage.found[name] = found
    if timed_out:
        stage.problem(f"{name}: stopped after {seconds:.0f} s with {sum(counts.values())} tests done")
    elif process.returncode:
        stage.problem(f"{name}: {counts['failed']} failed (exit status {process.returncode})")
    if not counts["passed"]:
        stage.problem(f"{name}: no test passed")
    stage.save()
    return found


def body(stage: Stage) -> None:
    folder = ROOT / "tests"
    programs = [str(folder / name) for name in PROGRAMS if (folder / name).exists()]
    workers = 1 if stage.simulated else max(1, min(8, (os.cpu_count() or 2) // 2))
    if stage.simulated:
        pytest(stage, "programs", ["--every", "20", *programs], stage.left / 2 - 2, workers)
        kernels = ["--device", "cuda-sim", "--every", "25", str(folder / "test_softmax.py")]
    else:
        pytest(stage, "programs", programs, stage.left / 3, workers)
        kernels = ["--device", "cuda", str(folder)]
    pytest(stage, "kernels", kernels, stage.left - 3, workers)


if __name__ == "__main__":
    main(body)
