"""Where the microseconds of small models go: a 32-32-10 MLP at batch 32, piece by piece, fastdl beside PyTorch.

pip install '.[peers]' && python bench/mlp_small.py --threads 2 [--json out.json]

Everything here is overhead, so besides the medians of interleaved blocks (`harness.compare`) the fastest block of
each side is shown: what the code costs when nobody else wants the core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import compare, duration, environment, save
from headline import data, our_mlp, torch_mlp

import fastdl
import fastdl.nn.functional as F
from fastdl import optim

Pair = tuple[Callable[[], Any], dict[str, Callable[[], Any]]]
ADAMS: dict[str, dict[str, Any]] = {
    "torch": {},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
}


def pieces(batch: int) -> dict[str, Pair]:
    """Both sides of every piece of a training step, and of the whole."""
    x, y = data(batch, 32)
    ox, oy, tx, ty = fastdl.from_numpy(x), fastdl.from_numpy(y), torch.from_numpy(x), torch.from_numpy(y)
    ours, theirs = our_mlp(), torch_mlp()
    cross_entropy = torch.nn.functional.cross_entropy
    optimizer = optim.Adam(ours.parameters())
    others = {name: torch.optim.Adam(theirs.parameters(), **options) for name, options in ADAMS.items()}

    def our_step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(ours(ox), oy).backward()
        optimizer.step()

    def their_step(adam: torch.optim.Adam) -> Callable[[], None]:
        def step() -> None:
            adam.zero_grad()
            cross_entropy(theirs(tx), ty).backward()
            adam.step()

        return step

    def our_gradients() -> None:
        ours.zero_grad()
        F.cross_entropy(ours(ox), oy).backward()

    def their_gradients() -> None:
        theirs.zero_grad()
        cross_entropy(theirs(tx), ty).backward()

    our_gradients()
    their_gradients()
    return {
        "forward": (lambda: ours(ox), {"torch": lambda: theirs(tx)}),
        "forward and loss": (
            lambda: F.cross_entropy(ours(ox), oy),
            {"torch": lambda: cross_entropy(theirs(tx), ty)},
        ),
        "forward, loss, backward": (our_gradients, {"torch": their_gradients}),
        "Adam": (optimizer.step, {name: adam.step for name, adam in others.items()}),
        "training step": (our_step, {name: their_step(adam) for name, adam in others.items()}),
    }


def inference(batch: int) -> Pair:
    """Both sides of 100 calls without gradients."""
    x, _ = data(batch, 32)
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", help="write raw samples here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    fastdl.set_num_threads(args.threads)
    env = environment()
    print(f"{env['cpu']}, {env['isa']}, {args.threads} threads, {env['versions']}, commit {env['commit']}\n")
    rows: list[dict[str, Any]] = []
    print(
        "| 32-32-10 MLP | fastdl: median, fastest | best peer: median, fastest | ratio (quartiles) | of fastest |"
    )
    print("|---|---|---|---|---|")
    for name, pair in {"inference x 100": inference(args.batch_size), **pieces(args.batch_size)}.items():
        r = compare(*pair, rounds=args.rounds, block=0.004)
        low, high = r["ratio_quartiles"]
        fastest = {side: min(times) for side, times in r["samples"].items()}
        peer = min((side for side in fastest if side != "fastdl"), key=fastest.__getitem__)
        print(
            f"| {name} | {duration(r['fastdl_s'])}, {duration(fastest['fastdl'])} "
            f"| {r['peer']} {duration(r['peer_s'])}, {peer} {duration(fastest[peer])} "
            f"| **{r['ratio']:.2f}x** ({low:.2f} to {high:.2f}) | {fastest[peer] / fastest['fastdl']:.2f}x |",
            flush=True,
        )
        rows.append({"name": name, **r})
    save(args.json, rows)


if __name__ == "__main__":
    main()
