"""Elementwise and row kernels against PyTorch: activations, softmax, losses, embeddings, dropout, optimizers.

pip install '.[peers]' && python bench/elementwise.py --threads 2 [--size large|small] [--only softmax] [--json F]

Most of these are bound by memory: beside each time stands the bandwidth of the bytes that must move, to compare with
the copy of the first row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from harness import compare, duration, environment, save

import fastdl
import fastdl.nn.functional as F
from fastdl import optim

Row = tuple[str, float, Callable[[], Any], Callable[[], Any]]  # name, bytes, ours, torch's


def both(x: np.ndarray, grad: bool = False) -> tuple[Any, Any]:
    return fastdl.tensor(x, requires_grad=grad), torch.tensor(x, requires_grad=grad)


def train(function: Callable[..., Any], x: Any, g: Any, *args: Any, **options: Any) -> Callable[[], None]:
    """Forward and backward of one function."""

    def run() -> None:
        x.grad = None
        function(x, *args, **options).backward(g)

    return run


def rows(n: int) -> Iterator[Row]:
    """All comparisons, on about n float32 numbers."""
    rng = np.random.default_rng(0)
    square = (n // 1024 or 1, min(n, 1024))
    x = rng.standard_normal(square).astype(np.float32)
    mb = x.nbytes
    a, b = both(x)
    yield "copy", 2 * mb, lambda: a.clone(), lambda: b.clone()
    leaf, tleaf = both(x, True)
    g, tg = both(rng.standard_normal(square).astype(np.float32))
    for name in ("relu", "gelu", "silu", "tanh", "sigmoid", "elu", "mish", "softplus", "hardswish"):
        ours, theirs = getattr(F, name), getattr(TF, name)
        yield name, 2 * mb, lambda f=ours: f(a), lambda f=theirs: f(b)
        yield f"{name}, both", 5 * mb, train(ours, leaf, g), train(theirs, tleaf, tg)
    for dim in (-1, 0):
        yield f"softmax dim {dim}", 2 * mb, lambda d=dim: F.softmax(a, d), lambda d=dim: TF.softmax(b, d)
        yield (
            f"log_softmax dim {dim}, both", 5 * mb, train(F.log_softmax, leaf, g, dim),
            train(TF.log_softmax, tleaf, tg, dim),
        )  # fmt: skip
    labels, tlabels = both(rng.integers(0, square[1], square[0]))
    one, tone = both(np.float32(1))
    yield "cross_entropy", mb, lambda: F.cross_entropy(a, labels), lambda: TF.cross_entropy(b, tlabels)
    yield (
        "cross_entropy, both", 2 * mb, train(F.cross_entropy, leaf, one, labels),
        train(TF.cross_entropy, tleaf, tone, tlabels),
    )  # fmt: skip
    t, tt = both(rng.random(square).astype(np.float32))
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"):
        ours, theirs = getattr(F, name), getattr(TF, name)
        yield f"{name}, both", 3 * mb, train(ours, leaf, one, t), train(theirs, tleaf, tone, tt)
    yield "dropout", 2 * mb, lambda: F.dropout(a, 0.5), lambda: TF.dropout(b, 0.5)
    table, ttable = both(rng.standard_normal((10_000, 64)).astype(np.float32), True)
    index, tindex = both(rng.integers(0, 10_000, max(n // 64, 1)))
    yield "embedding", 2 * mb, lambda: F.embedding(index, table), lambda: TF.embedding(tindex, ttable)
    eg, teg = both(rng.standard_normal((max(n // 64, 1), 64)).astype(np.float32))

    def embed() -> None:
        table.grad = None
        F.embedding(index, table).backward(eg)

    def tembed() -> None:
        ttable.grad = None
        TF.embedding(tindex, ttable).backward(teg)

    yield "embedding, both", 3 * mb + table.nbytes, embed, tembed
    for name, options, moved in (
        ("SGD", {"lr": 1e-9}, 3), ("SGD", {"lr": 1e-9, "momentum": 0.9}, 5), ("Adagrad", {"lr": 1e-9}, 5),
        ("RMSprop", {"lr": 1e-9}, 5), ("Adam", {"lr": 1e-9}, 7), ("AdamW", {"lr": 1e-9}, 7),
    ):  # fmt: skip
        params, tparams = zip(*(both(p, True) for p in np.array_split(x.ravel(), 8)), strict=True)
        for p, q in zip(params, tparams, strict=True):
            p.grad, q.grad = both(rng.standard_normal(p.shape).astype(np.float32))
        ours = getattr(optim, name)(params, **options).step
        theirs = getattr(torch.optim, name)(tparams, **options)
        label = name + (", momentum" if "momentum" in options else "")
        yield f"{label}, 8 tensors", moved * mb, ours, theirs.step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=["small", "medium", "large"], default="large")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write raw samples here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    fastdl.set_num_threads(args.threads)
    env = environment()
    n = {"small": 1024, "medium": 65536, "large": 4 << 20}[args.size]
    print(f"{env['cpu']}, {env['isa']}, {args.threads} threads, {env['versions']}, {n} numbers\n")
    print("| op | fastdl | torch | ratio (quartiles) | GB/s |\n|---|---|---|---|---|")
    result = []
    for name, moved, ours, theirs in rows(n):
        if args.only not in name:
            continue
        r = compare(ours, {"torch": theirs}, rounds=args.rounds, block=0.02)
        low, high = r["ratio_quartiles"]
        print(
            f"| {name} | {duration(r['fastdl_s'])} | {duration(r['peer_s'])} "
            f"| **{r['ratio']:.2f}x** ({low:.2f} to {high:.2f}) | {moved / r['fastdl_s'] / 1e9:.1f} |",
            flush=True,
        )
        result.append({"name": name, "bytes": moved, **r})
    ratios = [r["ratio"] for r in result]
    print(f"\ngeometric mean {np.exp(np.mean(np.log(ratios))):.2f}x, behind in {sum(r < 1 for r in ratios)}")
    save(args.json, result)


if __name__ == "__main__":
    main()
