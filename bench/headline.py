"""The README's table: fastdl against PyTorch on the CPU, in one process, and the sizes and times of the package.

pip install '.[peers]' && python bench/headline.py --threads 2 [--json out.json] [--build]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import compare, duration, environment, save

import fastdl
import fastdl.nn.functional as F
from fastdl import models, nn, ops, optim

Pair = tuple[Callable[[], Any], dict[str, Callable[[], Any]]]


def matmul(n: int) -> Pair:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n)).astype(np.float32) for _ in range(2))
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: ops.matmul(a, b), {"torch": lambda: torch.mm(ta, tb)}


def torch_step(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, **adam: Any) -> Callable[[], Any]:
    optimizer = torch.optim.Adam(model.parameters(), **adam)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def our_step(model: nn.Module, x: Any, y: Any) -> Callable[[], Any]:
    optimizer = optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def torch_cnn() -> torch.nn.Module:
    t = torch.nn
    layers: list[torch.nn.Module] = [
        t.Conv2d(1, 32, 3),
        t.ReLU(),
        t.MaxPool2d(2),
        t.Conv2d(32, 64, 3),
        t.ReLU(),
    ]
    layers += [t.MaxPool2d(2), t.Conv2d(64, 64, 3), t.ReLU(), t.Flatten(), t.Linear(576, 64), t.ReLU()]
    return t.Sequential(*layers, t.Linear(64, 10))


def data(batch: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *shape)).astype(np.float32), rng.integers(0, 10, batch)


def cnn_step(batch: int) -> Pair:
    x, y = data(batch, 1, 28, 28)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    last = torch_cnn().to(memory_format=torch.channels_last)
    peers = {
        "torch": torch_step(torch_cnn(), tx, ty, fused=True),
        "torch channels_last": torch_step(last, tx.to(memory_format=torch.channels_last), ty, fused=True),
    }
    return our_step(models.cnn((1, 28, 28), 10), fastdl.from_numpy(x), fastdl.from_numpy(y)), peers


def torch_mlp() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def our_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 32, activation="relu"), nn.Linear(32, 10))


def mlp_step() -> Pair:
    x, y = data(32, 32)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    peers = {
        "torch": torch_step(torch_mlp(), tx, ty),
        "torch fused Adam": torch_step(torch_mlp(), tx, ty, fused=True),
    }
    return our_step(our_mlp(), fastdl.from_numpy(x), fastdl.from_numpy(y)), peers


def mlp_inference() -> Pair:
    x, _ = data(32, 32)
    ours, theirs, ox, tx = our_mlp().eval(), torch_mlp().eval(), fastdl.from_numpy(x), torch.from_numpy(x)

    def run_ours() -> None:
        with fastdl.inference_mode():
            for _ in range(100):
                ours(ox)

    def run_theirs() -> None:
        with torch.inference_mode():
            for _ in range(100):
                theirs(tx)

    return run_ours, {"torch": run_theirs}


SPEED: list[tuple[str, Callable[[], Pair], float]] = [
    *((f"matmul float32 {n} x {n} x {n}", lambda n=n: matmul(n), 0.9) for n in (512, 1024, 2048)),
    ("CNN training step, batch 32", lambda: cnn_step(32), 2.0),
    ("CNN training step, batch 128", lambda: cnn_step(128), 2.0),
    ("32-32-10 MLP training step, batch 32", mlp_step, 4.0),
    ("32-32-10 MLP inference, batch 32 (100 calls)", mlp_inference, 2.0),
]


def import_time() -> float:
    """Seconds that `import fastdl` takes beyond `import numpy`, median of fresh interpreters."""
    code = "import numpy, time; t = time.perf_counter(); import fastdl; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(11)
    ]
    return statistics.median(runs)


def clean_build() -> tuple[float, int]:
    """Seconds of a build of the wheel from nothing (packages of the build already downloaded), and its bytes."""
    with tempfile.TemporaryDirectory() as out:
        root = Path(__file__).resolve().parent.parent
        source = Path(out) / "source"
        shutil.copytree(root, source, ignore=shutil.ignore_patterns("build", ".git", "*.so", "lib"))
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, str(source)]
        begin = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - begin, next(Path(out).glob("*.whl")).stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="write raw samples here")
    parser.add_argument("--build", action="store_true", help="also time a clean build of the wheel")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    fastdl.set_num_threads(args.threads)
    env = environment()
    print(f"{env['cpu']}, {env['isa']}, {args.threads} threads, {env['versions']}, commit {env['commit']}\n")
    rows: list[dict[str, Any]] = []
    print("| what | fastdl | best peer | ratio (quartiles) | target |\n|---|---|---|---|---|")
    for name, make, target in SPEED:
        r = compare(*make(), rounds=args.rounds)
        low, high = r["ratio_quartiles"]
        rest = [f"{ratio:.2f}x {n}" for n, ratio in r["ratio_to_each"].items() if n != r["peer"]]
        others = "; " + ", ".join(rest) if rest else ""
        print(
            f"| {name} | {duration(r['fastdl_s'])} | {r['peer']} {duration(r['peer_s'])} "
            f"| **{r['ratio']:.2f}x** ({low:.2f} to {high:.2f}){others} | {target}x |",
            flush=True,
        )
        rows.append({"name": name, "target": target, **r})
    seconds = import_time()
    print(f"| `import fastdl` beyond NumPy's | {duration(seconds)} | | | < 50 ms |")
    rows.append({"name": "import", "seconds": seconds})
    if args.build:
        seconds, size = clean_build()
        print(f"| clean build of the wheel | {duration(seconds)} | | | < 180 s |")
        print(f"| wheel | {size / 1e6:.2f} MB | | | < 5 MB |")
        rows.append({"name": "build", "seconds": seconds, "bytes": size})
    save(args.json, rows)


if __name__ == "__main__":
    main()
