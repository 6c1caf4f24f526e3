"""Convolution layers, forward and gradients, fastdl against PyTorch on the CPU (its better memory format).

pip install '.[peers]' && python bench/conv.py [--suite cnn|resnet50|depthwise] [--threads 2] [--json out.json]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import compare, duration, environment, save

import fastdl
from fastdl import ops

# name, input shape, output channels, kernel, stride, padding, groups, whether the input wants a gradient
Layer = tuple[str, tuple[int, ...], int, int, int, int, int, bool]
SUITES: dict[str, list[Layer]] = {
    "cnn": [
        ("conv1 1->32", (32, 1, 28, 28), 32, 3, 1, 0, 1, False),
        ("conv2 32->64", (32, 32, 13, 13), 64, 3, 1, 0, 1, True),
        ("conv3 64->64", (32, 64, 5, 5), 64, 3, 1, 0, 1, True),
    ],
    "resnet50": [
        ("stem 7x7/2", (4, 3, 224, 224), 64, 7, 2, 3, 1, False),
        ("56 1x1 64->256", (4, 64, 56, 56), 256, 1, 1, 0, 1, True),
        ("56 3x3 64", (4, 64, 56, 56), 64, 3, 1, 1, 1, True),
        ("56 1x1/2 256->512", (4, 256, 56, 56), 512, 1, 2, 0, 1, True),
        ("28 3x3 128", (4, 128, 28, 28), 128, 3, 1, 1, 1, True),
        ("28 3x3/2 256", (4, 256, 28, 28), 256, 3, 2, 1, 1, True),
        ("14 3x3 256", (4, 256, 14, 14), 256, 3, 1, 1, 1, True),
        ("14 1x1 1024->256", (4, 1024, 14, 14), 256, 1, 1, 0, 1, True),
        ("7 3x3 512", (4, 512, 7, 7), 512, 3, 1, 1, 1, True),
        ("7 1x1 512->2048", (4, 512, 7, 7), 2048, 1, 1, 0, 1, True),
    ],
    "depthwise": [
        ("112 3x3 32", (4, 32, 112, 112), 32, 3, 1, 1, 32, True),
        ("28 3x3/2 192", (4, 192, 28, 28), 192, 3, 2, 1, 192, True),
        ("14 3x3 384", (4, 384, 14, 14), 384, 3, 1, 1, 384, True),
        ("28 3x3 256 in 32 groups", (4, 256, 28, 28), 256, 3, 1, 1, 32, True),
    ],
}


def channels_last(a: np.ndarray) -> np.ndarray:
    """The same values with the channel's stride 1."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def cases(layer: Layer) -> list[tuple[str, float, Callable[[], Any], dict[str, Callable[[], Any]]]]:
    """(pass, floating-point operations, fastdl's call, torch's calls)"""
    name, shape, out, kernel, stride, padding, groups, wants = layer
    rng = np.random.default_rng(0)
    x = channels_last(rng.standard_normal(shape).astype(np.float32))
    w = rng.standard_normal((out, shape[1] // groups, kernel, kernel)).astype(np.float32)
    b = rng.standard_normal(out).astype(np.float32)
    options = (stride, padding, 1, groups)
    y = ops.conv(x, w, b, *options)
    grad = channels_last(rng.standard_normal(y.shape).astype(np.float32))
    flops = 2.0 * y.size * w[0].size

    def torch_forward(format: Any) -> Callable[[], Any]:
        tx, tw = (torch.from_numpy(a).contiguous(memory_format=format) for a in (x, w))
        tb = torch.from_numpy(b)
        return lambda: torch.nn.functional.conv2d(tx, tw, tb, stride, padding, 1, groups)

    def torch_backward(format: Any, mask: list[bool]) -> Callable[[], Any]:
        tg, tx, tw = (torch.from_numpy(a).contiguous(memory_format=format) for a in (grad, x, w))
        two = [[v, v] for v in (stride, padding, 1)]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(tg, tx, tw, [out], *two, False, [0, 0], groups, mask)

    formats = {"torch": torch.contiguous_format, "torch channels_last": torch.channels_last}

    def both(make: Callable[..., Any], *args: Any) -> dict[str, Callable[[], Any]]:
        return {k: make(f, *args) for k, f in formats.items()}

    def backward(*needs: bool) -> Any:
        return lambda: ops.conv_backward(grad, x, w, *options, needs=needs)

    with torch.no_grad():
        rows = [(f"{name} forward", flops, lambda: ops.conv(x, w, b, *options), both(torch_forward))]
        if wants:
            data = both(torch_backward, [True, False, False])
            rows.append((f"{name} data gradient", flops, backward(True, False, False), data))
        weight = both(torch_backward, [False, True, True])
        rows.append((f"{name} weight gradient", flops, backward(False, True, True), weight))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block", type=float, default=0.1, help="seconds per measurement")
    parser.add_argument("--json")
    args = parser.parse_args()
    fastdl.set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    print(", ".join(f"{k} {v}" for k, v in environment().items() if k != "versions"))
    rows = []
    for suite in SUITES if args.suite == "all" else [args.suite]:
        ratios = []
        for layer in SUITES[suite]:
            for name, flops, ours, theirs in cases(layer):
                row = compare(ours, theirs, args.rounds, args.block) | {"suite": suite, "name": name}
                row["gflops"] = flops / row["fastdl_s"] / 1e9
                rows.append(row)
                ratios.append(row["ratio"])
                low, high = row["ratio_quartiles"]
                print(
                    f"{suite:10} {name:38} {duration(row['fastdl_s']):>8} {row['gflops']:6.0f} GFLOP/s   "
                    f"{row['peer']:20} {duration(row['peer_s']):>8}   {row['ratio']:5.2f}x ({low:.2f} - {high:.2f})",
                    flush=True,
                )
        print(f"{suite:10} geometric mean {statistics.geometric_mean(ratios):.2f}x")
    save(args.json, rows)


if __name__ == "__main__":
    main()
