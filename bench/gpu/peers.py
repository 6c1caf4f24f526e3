"""What a GPU and its vendor's libraries reach: the ceilings and peers for fastdl's CUDA kernels to be measured against.

    python bench/gpu/peers.py --json bench/results/peers-h100.json

Everything runs through PyTorch (cuBLAS, cuDNN, FlashAttention) on random data, with the L2 cache flushed before
each timed call, medians of CUDA-event times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = "cuda"
BF16, F32 = torch.bfloat16, torch.float32

# (C, H = W, O, kernel, stride, padding) of ResNet-50, batch 32: He et al. 2016, table 1.
RESNET50 = [
    (3, 224, 64, 7, 2, 3),
    (64, 56, 64, 1, 1, 0),
    (64, 56, 64, 3, 1, 1),
    (64, 56, 256, 1, 1, 0),
    (256, 56, 128, 1, 1, 0),
    (128, 56, 128, 3, 2, 1),
    (128, 28, 512, 1, 1, 0),
    (256, 28, 256, 3, 2, 1),
    (256, 14, 256, 3, 1, 1),
    (256, 14, 1024, 1, 1, 0),
    (512, 14, 512, 3, 2, 1),
    (512, 7, 512, 3, 1, 1),
    (2048, 7, 512, 1, 1, 0),
]


def seconds(function: Callable[[], Any], repeats: int = 15) -> float:
    """Median time of one call with cold caches."""
    flush = torch.empty(256 << 20, dtype=torch.int8, device=DEVICE)
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def randn(*shape: int, dtype: torch.dtype = BF16, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, device=DEVICE, requires_grad=grad)


def row(
    op: str, shape: Any, dtype: torch.dtype, time_s: float, flop: float = 0, bytes_: float = 0
) -> dict[str, Any]:
    result = {"op": op, "shape": shape, "dtype": str(dtype).removeprefix("torch."), "seconds": time_s}
    if flop:
        result["tflops"] = flop / time_s / 1e12
    if bytes_:
        result["gb_per_s"] = bytes_ / time_s / 1e9
    print(json.dumps(result), flush=True)
    return result


def copy() -> list[dict[str, Any]]:
    x = randn(1 << 30)
    y = torch.empty_like(x)
    return [row("copy", [1 << 30], BF16, seconds(lambda: y.copy_(x)), bytes_=2 * x.nbytes)]


def matmuls() -> list[dict[str, Any]]:
    rows = []
    for name, dtype, tf32 in (("matmul", BF16, False), ("matmul", F32, False), ("matmul tf32", F32, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        for n in (1024, 2048, 4096, 8192):
            a, b = randn(n, n, dtype=dtype), randn(n, n, dtype=dtype)
            rows.append(row(name, [n, n, n], dtype, seconds(lambda a=a, b=b: a @ b), 2 * n**3))
    torch.backends.cuda.matmul.allow_tf32 = False
    return rows


def attention() -> list[dict[str, Any]]:
    rows = []
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    for name, backend in backends.items():
        for d, s, causal in (
            (64, 2048, False),
            (64, 8192, True),
            (128, 2048, False),
            (128, 8192, False),
            (128, 8192, True),
        ):
            heads = 2048 // d
            q, k, v = (randn(16384 // s, heads, s, d, grad=True) for _ in range(3))
            flop = 4 * (16384 // s) * heads * s * s * d / (2 if causal else 1)
            shape = [16384 // s, heads, s, d, "causal" if causal else "full"]
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
                grad = torch.randn_like(out)
                run = lambda q=q, k=k, v=v, c=causal: F.scaled_dot_product_attention(q, k, v, is_causal=c)  # noqa: E731
                rows.append(row(f"attention forward, {name}", shape, BF16, seconds(run), flop))
                back = lambda o=out, g=grad, i=(q, k, v): torch.autograd.grad(o, i, g, retain_graph=True)  # noqa: E731
                rows.append(row(f"attention backward, {name}", shape, BF16, seconds(back), 2.5 * flop))
    return rows


def convolutions() -> list[dict[str, Any]]:
    rows = []
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    for dtype in (BF16, F32):
        for c, n, o, k, stride, padding in RESNET50:
            x = randn(32, c, n, n, dtype=dtype, grad=True).to(memory_format=torch.channels_last)
            w = randn(o, c, k, k, dtype=dtype, grad=True).to(memory_format=torch.channels_last)
            out = F.conv2d(x, w, stride=stride, padding=padding)
            flop = 2 * out.numel() * c * k * k
            shape = [32, c, n, o, k, stride, padding]
            run = lambda x=x, w=w, s=stride, p=padding: F.conv2d(x, w, stride=s, padding=p)  # noqa: E731
            rows.append(row("conv forward", shape, dtype, seconds(run), flop))
            grad = torch.randn_like(out)
            back = lambda o=out, g=grad, i=(x, w): torch.autograd.grad(o, i, g, retain_graph=True)  # noqa: E731
            rows.append(row("conv backward", shape, dtype, seconds(back), 2 * flop))
    return rows


def recurrent() -> list[dict[str, Any]]:
    rows = []
    for dtype in (BF16, F32):
        for batch, hidden, steps in ((16, 256, 1024), (16, 768, 1024), (16, 1536, 1024), (64, 1024, 128)):
            lstm = torch.nn.LSTM(hidden, hidden).to(DEVICE, dtype)
            x = randn(steps, batch, hidden, dtype=dtype, grad=True)
            flop = 2 * steps * batch * 8 * hidden * hidden
            shape = [steps, batch, hidden]
            with torch.no_grad():
                rows.append(row("lstm inference", shape, dtype, seconds(lambda m=lstm, x=x: m(x), 7), flop))
            rows.append(
                row(
                    "lstm forward+backward",
                    shape,
                    dtype,
                    seconds(lambda m=lstm, x=x: m(x)[0].sum().backward(), 7),
                    3 * flop,
                )
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="write the rows here")
    args = parser.parse_args()
    query = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit"
    smi = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True
    )
    environment = {
        "gpu": torch.cuda.get_device_name(),
        "nvidia_smi": dict(zip(query.split(","), (v.strip() for v in smi.stdout.split(",")), strict=False)),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    rows = []
    for part in (copy, matmuls, attention, convolutions, recurrent):
        try:
            rows += part()
        except RuntimeError as error:  # a backend this build lacks: say so and go on
            rows.append({"op": part.__name__, "error": str(error).splitlines()[0]})
            print(rows[-1])
    if args.json:
        Path(args.json).write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
