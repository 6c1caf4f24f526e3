"""Matrix products beside PyTorch's and NumPy's, interleaved A B A B in one process.

    python bench/matmul.py [--threads 2] [--set square|small|skinny|linear|batch|all] [--dtype float32] [--rounds 7]

Every row: the median time of a call, GFLOP/s, and the ratio peer time / fastdl time (above 1: fastdl is faster) of the
medians and of the best blocks (which tell more on a machine that does other work as well). Random data, because zeros
run faster; a peer that is not installed is reported as such.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from harness import block_time, compare

import fastdl
from fastdl import _core, ops

try:
    import torch
except ImportError:
    torch = None

SETS: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "square": [("mm", (s, s, s)) for s in (256, 384, 512, 768, 1024, 1536, 2048)],
    "small": [("linear", (s, s, s)) for s in (8, 16, 32, 48, 64, 96, 128, 192)],
    "skinny": [
        ("mm", (1, 1024, 1024)), ("linear", (1, 1024, 1024)), ("mm", (1, 4096, 4096)), ("mm", (1024, 1, 1024)),
        ("mm", (4, 1024, 1024)), ("linear", (8, 1024, 1024)), ("linear", (16, 4096, 1024)), ("mm", (4096, 64, 64)),
        ("mm", (64, 64, 25088)), ("mm", (2048, 16, 2048)),
    ],
    "linear": [
        ("linear", (32, 512, 784)), ("linear", (32, 10, 512)), ("linear", (32, 64, 3136)), ("linear", (128, 768, 768)),
        ("linear", (512, 3072, 768)), ("linear", (512, 768, 3072)), ("linear_backward", (32, 512, 784)),
        ("linear_backward", (32, 32, 32)), ("linear_backward", (512, 768, 768)),
    ],
    "batch": [
        ("bmm", (16, 16, 16, 512)), ("bmm", (64, 64, 64, 96)), ("bmm", (128, 128, 64, 48)), ("bmm", (512, 512, 64, 16)),
    ],
}  # fmt: skip


def contestants(op: str, shape: tuple[int, ...], dtype: str) -> tuple[dict[str, Callable], float]:
    """The same call in each library, and how many operations it is."""
    rng = np.random.default_rng(0)
    m, n, k = shape[:3]
    batch = shape[3:]

    def random(*s: int) -> np.ndarray:
        return rng.standard_normal(s).astype(dtype)

    calls: dict[str, Callable] = {}
    if op in ("mm", "bmm"):
        a, b, out = random(*batch, m, k), random(*batch, k, n), np.empty((*batch, m, n), dtype)
        calls["fastdl"] = lambda: ops.matmul(a, b, out=out)
        calls["numpy"] = lambda: np.matmul(a, b, out=out)
        if torch:
            ta, tb, tout = (
                torch.from_numpy(a),
                torch.from_numpy(b),
                torch.empty(*batch, m, n, dtype=getattr(torch, dtype)),
            )
            calls["torch"] = lambda: torch.matmul(ta, tb, out=tout)
        return calls, 2.0 * m * n * k * (batch[0] if batch else 1)
    x, w, bias, grad = random(m, k), random(n, k), random(n), random(m, n)
    if op == "linear":
        calls["fastdl"] = lambda: ops.linear(x, w, bias, "relu")
        calls["numpy"] = lambda: np.maximum(x @ w.T + bias, 0)
        if torch:
            tx, tw, tbias = map(torch.from_numpy, (x, w, bias))
            linear = torch.nn.functional.linear
            calls["torch"] = lambda: linear(tx, tw, tbias).relu_()
        return calls, 2.0 * m * n * k
    calls["fastdl"] = lambda: ops.linear_backward(grad, x, w)
    calls["numpy"] = lambda: (grad @ w, grad.T @ x, grad.sum(0))
    if torch:
        tx, tw, tgrad = map(torch.from_numpy, (x, w, grad))
        calls["torch"] = lambda: (tgrad @ tw, tgrad.T @ tx, tgrad.sum(0))
    return calls, 4.0 * m * n * k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", default="all", choices=[*SETS, "all"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block", type=float, default=0.05, help="seconds that one side runs at a time")
    parser.add_argument("--isa")
    parser.add_argument(
        "--numpy", action="store_true", help="run NumPy as well (its threads get in the others' way)"
    )
    args = parser.parse_args()
    fastdl.set_num_threads(args.threads)
    if args.isa:
        _core.set_cpu_isa(args.isa)
    if torch:
        torch.set_num_threads(args.threads)
    peak = _core.measure_peak()
    print(
        f"{args.dtype}, {args.threads} threads, {_core.get_cpu_isa()}, peak {peak:.0f} GFLOP/s float32, "
        f"copy {_core.measure_copy():.0f} GB/s, torch {torch.__version__ if torch else 'not installed'}"
    )
    print(
        f"{'op':16} {'shape':>17} {'fastdl us':>10} {'GFLOP/s':>8} {'torch us':>10} {'ratio':>6} {'best':>6}"
    )
    ratios = []
    for name in SETS if args.set == "all" else [args.set]:
        for op, shape in SETS[name]:
            calls, operations = contestants(op, shape, args.dtype)
            ours = calls.pop("fastdl")
            if not args.numpy:
                del calls["numpy"]
            head = f"{op:16} {'x'.join(map(str, shape)):>17}"
            if not calls:
                t = block_time(ours, args.block * args.rounds)
                print(f"{head} {t * 1e6:10.2f} {operations / t / 1e9:8.1f}")
                continue
            r = compare(ours, calls, args.rounds, args.block)
            best = min(r["samples"][r["peer"]]) / min(r["samples"]["fastdl"])
            ratios.append(r["ratio"])
            t = r["fastdl_s"]
            print(
                f"{head} {t * 1e6:10.2f} {operations / t / 1e9:8.1f} {r['peer_s'] * 1e6:10.2f} {r['ratio']:6.2f} "
                f"{best:6.2f}" + (f"  ({r['peer']})" if r["peer"] != "torch" else ""),
                flush=True,
            )
    if ratios:
        mean = float(np.exp(np.mean(np.log(ratios))))
        print(
            f"geometric mean {mean:.2f}, worst {min(ratios):.2f}, "
            f"faster in {sum(r > 1 for r in ratios)} of {len(ratios)}"
        )


if __name__ == "__main__":
    main()
