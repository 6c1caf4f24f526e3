"""RNN, GRU and LSTM side by side with PyTorch: forward (no gradients) and forward + backward, interleaved in one run.

    python bench/rnn.py [--kinds lstm,gru] [--hidden 64,256,1024] [--batch 1,16,64] [--steps 50] [--threads 2]

Both sides get the same weights and inputs (input_size = hidden_size). Rounds alternate A B A B with a pause in between,
so that neither side's idle threads run into the other's time; the ratio is that of the medians (above 1: fastdl is
faster), and on a shared machine only the ratio means something.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import geometric_mean, median

import numpy as np
import torch

import fastdl

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def pair(kind: str, hidden: int, batch: int, steps: int, backward: bool) -> tuple[Callable, Callable]:
    """The same work for fastdl and for torch."""
    name = kind.upper()
    theirs = getattr(torch.nn, name)(hidden, hidden)
    ours = getattr(fastdl.nn, name)(hidden, hidden)
    ours.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    values = np.random.default_rng(0).standard_normal((steps, batch, hidden)).astype(np.float32)
    x_ours = fastdl.tensor(values, requires_grad=backward)
    x_theirs = torch.tensor(values, requires_grad=backward)

    def train(layer, x):
        def step():
            y, _ = layer(x)
            y.backward(grad[layer])
            layer.zero_grad()
            x.grad = None

        return step

    def infer(layer, x, no_grad):
        def step():
            with no_grad():
                layer(x)

        return step

    if not backward:
        return infer(ours, x_ours, fastdl.no_grad), infer(theirs, x_theirs, torch.no_grad)
    g = np.random.default_rng(1).standard_normal((steps, batch, hidden)).astype(np.float32)
    grad = {ours: fastdl.tensor(g), theirs: torch.tensor(g)}
    return train(ours, x_ours), train(theirs, x_theirs)


def compare(a: Callable, b: Callable, rounds: int, budget: float) -> tuple[float, float]:
    """Median seconds of each, interleaved."""

    def run(f: Callable, n: int) -> float:
        f()
        start = time.perf_counter()
        for _ in range(n):
            f()
        return (time.perf_counter() - start) / n

    once = max(run(a, 1), run(b, 1))
    n = max(1, int(budget / rounds / 2 / once))
    times: tuple[list, list] = ([], [])
    for _ in range(rounds):
        for f, t in zip((a, b), times, strict=True):
            time.sleep(0.005)
            t.append(run(f, n))
    return median(times[0]), median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="lstm,gru,rnn")
    parser.add_argument("--hidden", default="64,128,256,512,1024")
    parser.add_argument("--batch", default="1,8,32,64")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=float, default=0.6, help="seconds per row, both sides together")
    parser.add_argument("--modes", default="fwd,fwd+bwd")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    fastdl.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, {args.threads} threads, T = {args.steps}, float32, input_size = hidden_size"
    )
    print(
        f"{'op':5} {'H':>5} {'B':>3} {'mode':8} {'fastdl ms':>10} {'torch ms':>10} {'GFLOP/s':>8} {'ratio':>6}"
    )
    ratios: dict[tuple, list] = {}
    for kind in args.kinds.split(","):
        for hidden in map(int, args.hidden.split(",")):
            for batch in map(int, args.batch.split(",")):
                for mode in args.modes.split(","):
                    a, b = compare(
                        *pair(kind, hidden, batch, args.steps, mode == "fwd+bwd"), args.rounds, args.budget
                    )
                    flops = (
                        4.0
                        * GATES[kind]
                        * hidden
                        * hidden
                        * batch
                        * args.steps
                        * (3 if mode == "fwd+bwd" else 1)
                    )
                    ratios.setdefault((kind, mode), []).append(b / a)
                    print(
                        f"{kind:5} {hidden:5} {batch:3} {mode:8} {a * 1e3:10.3f} {b * 1e3:10.3f} "
                        f"{flops / a / 1e9:8.1f} {b / a:6.2f}",
                        flush=True,
                    )
    for (kind, mode), r in ratios.items():
        print(
            f"{kind} {mode}: geometric mean {geometric_mean(r):.2f}, median {median(r):.2f}, worst {min(r):.2f}"
        )


if __name__ == "__main__":
    main()
