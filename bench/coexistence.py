"""Whether fastdl's threads slow down those of PyTorch and scikit-learn in the same process.

    python bench/coexistence.py --seconds 25 --json coexistence.json      # needs torch and scikit-learn
    python bench/coexistence.py --report coexistence.json

Two processes with both libraries loaded take turns; one never imports fastdl, the other has its thread pool running.
Only one computes at a time, and every turn begins and ends when no thread of the process runs any more. A turn is one
call of a workload (a call of the other library, on all CPUs) that wakes its threads, then 20 ms of calls, three at
least; it counts with the median of their times. In each round, for each workload:

* without: the process without fastdl, idle for 100 ms beforehand;
* idle: a fastdl kernel on all threads, 100 ms without work, then the calls;
* after: every call immediately behind a fastdl kernel on all threads, whose workers still poll for the next one;
* serial: every call immediately behind the same kernel on the calling thread alone: no worker polls.

Reported: the medians over the rounds of idle / without and of after / serial, with 95 % intervals (order statistics).
A new run with the same ``--json`` adds its rounds, by a new pair of processes, to those in the file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODES = ("without", "idle", "after", "serial")
RATIOS = {"idle": ("idle", "without"), "after": ("after", "serial")}
IDLE = 0.1  # seconds without work
BLOCK = 0.02  # seconds of calls


def workloads() -> dict[str, Callable[[], Any]]:
    """Compute-bound calls on the thread pools of PyTorch (oneDNN, MKL, its own loops) and scikit-learn (OpenMP)."""
    import numpy as np
    import torch
    from sklearn.cluster import KMeans
    from sklearn.ensemble import HistGradientBoostingRegressor

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    small, large = torch.randn(384, 384), torch.randn(1024, 1024)
    images, kernels = torch.randn(16, 64, 28, 28), torch.randn(64, 64, 3, 3)
    rng = np.random.default_rng(0)
    points, targets = rng.standard_normal((20_000, 16)).astype(np.float32), rng.standard_normal(20_000)
    means = KMeans(8, init=points[:8], n_init=1, max_iter=5, tol=0.0)
    trees = HistGradientBoostingRegressor(max_iter=2, max_leaf_nodes=15, early_stopping=False)
    return {
        "torch matmul 384": lambda: small @ small,
        "torch matmul 1024": lambda: large @ large,
        "torch conv2d 3x3": lambda: torch.conv2d(images, kernels, padding=1),
        "scikit-learn KMeans": lambda: means.fit(points),
        "scikit-learn HistGradientBoosting": lambda: trees.fit(points, targets),
    }


def settler() -> Callable[[], Any]:
    """fastdl.bench.timing.settle, without importing fastdl."""
    package = importlib.util.find_spec("fastdl")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "bench" / "timing.py"
    spec = importlib.util.spec_from_file_location("timing", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["timing"] = module
    spec.loader.exec_module(module)
    return module.settle


def serve(with_fastdl: bool) -> None:
    """One of the processes: reads "mode workload" lines, answers with seconds."""
    import warnings

    warnings.filterwarnings("ignore")
    calls, settle = workloads(), settler()
    if with_fastdl:
        import numpy as np

        import fastdl

        threads = fastdl.get_num_threads()
        a = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)

        def kernel(count: int) -> None:
            fastdl.set_num_threads(count)
            fastdl.ops.matmul(a, a)

        kernel(threads)
    else:
        assert "fastdl" not in sys.modules
    for call in calls.values():
        call()
        call()
    settle()
    print(json.dumps(list(calls)), flush=True)
    for line in sys.stdin:
        mode, _, name = line.strip().partition(" ")
        call = calls[name]
        if mode == "idle":
            kernel(threads)
        if mode in ("without", "idle"):
            time.sleep(IDLE)
        call()
        times: list[float] = []
        while sum(times) < BLOCK or len(times) < 3:
            if mode in ("after", "serial"):
                kernel(threads if mode == "after" else 1)
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        settle()
        print(statistics.median(times), flush=True)


def run(seconds: float) -> dict[str, dict[str, list[float]]]:
    """Rounds of turns for that long: seconds per call, by workload and mode."""
    pair = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in ("without", "with")
    ]

    def read(process: Any) -> Any:
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError("one of the processes has died")
        return json.loads(answer)

    names, same = [read(p) for p in pair]
    assert names == same
    samples: dict[str, dict[str, list[float]]] = {name: {mode: [] for mode in MODES} for name in names}
    begin, turn = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        for name in names:
            for mode in MODES if turn % 2 else MODES[::-1]:
                process = pair[mode != "without"]
                assert process.stdin is not None
                process.stdin.write(f"{mode} {name}\n")
                process.stdin.flush()
                samples[name][mode].append(read(process))
        turn += 1
    for process in pair:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    return samples


def interval(values: list[float]) -> tuple[float, float, float]:
    """(low, median, high): the median and a 95 % interval for it that assumes no distribution."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * n**0.5  # 1.96 standard deviations of Binomial(n, 1/2)
    low, high = max(0, int(n / 2 - reach)), min(n - 1, int(n / 2 + reach))
    return ordered[low], ordered[n // 2], ordered[high]


def report(result: dict[str, Any]) -> None:
    """A table, by workload: the time of a call, and the ratios."""
    runs = result["runs"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    print(f"{result['cpu']}, {result['cpus']} CPUs, {versions}; {len(runs)} runs")
    print(f"{'':36}{'ms':>8}{'rounds':>8}   idle / without           after / serial")
    for name in runs[0]:
        line = (
            f"{name:36}{1e3 * interval(pool(runs, name, 'without'))[1]:8.2f}{len(pool(runs, name, 'idle')):8}"
        )
        for over, under in RATIOS.values():
            ratios = [x / y for x, y in zip(pool(runs, name, over), pool(runs, name, under))]
            low, middle, high = interval(ratios)
            line += f"   {middle:.3f} ({low:.3f} to {high:.3f}) "
        print(line)


def pool(runs: list[dict], name: str, mode: str) -> list[float]:
    """The samples of all runs."""
    return [x for samples in runs for x in samples[name][mode]]


def describe() -> dict[str, Any]:
    """The machine and the versions, from a process of its own: this one loads no library."""
    program = (
        "import json, platform, torch, sklearn, fastdl; from fastdl.bench.machine import environment as e; "
        "m = e(dict(torch=torch.__version__, sklearn=sklearn.__version__), {}); "
        "print(json.dumps(dict(cpu=m['cpu'], cpus=m['cores'], versions=m['versions'], commit=m['commit'])))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", type=Path, metavar="FILE")
    parser.add_argument("--serve", choices=("without", "with"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve == "with")
        return
    if options.report:
        report(json.loads(options.report.read_text()))
        return
    samples = run(options.seconds)
    rounded = {
        name: {m: [round(x, 7) for x in v] for m, v in modes.items()} for name, modes in samples.items()
    }
    known = options.json and options.json.exists()
    result = json.loads(options.json.read_text()) if known else {**describe(), "runs": []}
    result["runs"].append(rounded)
    if options.json:
        options.json.write_text(json.dumps(result) + "\n")
    report(result)


if __name__ == "__main__":
    main()
