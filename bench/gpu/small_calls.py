"""Every kernel of the device once or twice on small arrays: what compute-sanitizer watches.

small_calls.py DEVICE [SECONDS]: prints how many functions were called, and which are missing.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))
import devices


def realised(value: object, dtype: np.dtype) -> object:
    """An argument with its outputs allocated."""
    from kernel_calls import Out

    if isinstance(value, Out):
        out = np.zeros(value.shape, value.dtype or dtype)
        if isinstance(value.values, np.ndarray):
            out[...] = value.values
        return out
    return [realised(v, dtype) for v in value] if isinstance(value, list) else value


def main() -> None:
    """Calls them all."""
    device, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    from fastdl import backend

    devices.MOST_ELEMENTS = devices.MOST_SECONDS = sys.maxsize  # which are for tests
    devices.install(device)
    module = devices.core
    module.testing = True
    from kernel_calls import FUNCTIONS, Cases  # which look at the kernels in force

    end = time.monotonic() + seconds
    called, missing, late = [], [], []
    names = [f for f in FUNCTIONS if not f.startswith("measure")]
    for name in names:
        if not hasattr(module._cuda, name):
            missing.append(name)
            continue
        for dtype in (np.float32, "bfloat16", np.float64):
            if time.monotonic() > end:
                late.append(name)
                break
            module.seconds = 0.0
            cases = Cases(np.random.default_rng(len(called)), dtype if dtype != "bfloat16" else _bfloat16())
            getattr(backend._core, name)(*[realised(a, cases.dtype) for a in getattr(cases, name)()])
            # By Hopper's kernels, which small ones do not get, and by those they keep away.
            for part, family, kernel in (
                ("matmul", "MATMUL", "sm90"),
                ("matmul", "MATMUL", "sm90_few"),
                ("linear", "MATMUL", "sm90"),
                ("linear", "MATMUL", "sm90_few"),
                ("conv", "CONV", "sm90"),
                ("attention", "ATTENTION", "sm90"),
                ("rnn", "RNN", "sm90"),
                ("rnn", "RNN", "portable"),
            ):
                if part in name:
                    os.environ[f"FASTDL_CUDA_{family}"] = kernel
                    getattr(backend._core, name)(*[realised(a, cases.dtype) for a in getattr(cases, name)()])
                    del os.environ[f"FASTDL_CUDA_{family}"]
        else:
            called.append(name)
    _hopper_attention(backend._core.attention_forward)
    _hopper_gradients(backend._core)
    module._cuda.check()
    print(f"called {len(called)} functions; no kernels: {', '.join(missing) or 'none'}")
    print(f"no time: {', '.join(late) or 'none'}")


def _hopper_attention(forward: Any) -> None:
    """Of Hopper's kernels, those for few queries and for many, with what is done to scores."""
    os.environ["FASTDL_CUDA_ATTENTION"] = "sm90"
    for queries in (3, 70):
        q, k = (np.ones((1, heads, rows, 64), _bfloat16()) for heads, rows in ((4, queries), (2, 400)))
        seen = np.broadcast_to(np.arange(400) < 300, (1, 4, queries, 400))
        for mask, dropout in ((seen, 0.0), (seen, 0.3), (seen.astype(np.float32), 0.3)):
            lse = np.zeros((1, 4, queries), np.float32)
            forward(q, k, k, mask, np.zeros_like(q), lse, None, False, dropout, 0, 0)
    del os.environ["FASTDL_CUDA_ATTENTION"]


def _hopper_gradients(core: Any) -> None:
    """Of attention on Hopper, in one pass and in two."""
    os.environ["FASTDL_CUDA_ATTENTION"] = "sm90"
    for way in ("one-pass", "two-passes"):
        os.environ["FASTDL_CUDA_ATTENTION_BACKWARD"] = way
        for features, seen in ((64, None), (96, 300), (128, 300), (192, 300), (256, 300)):
            q, k = (np.ones((1, *rows, features), _bfloat16()) for rows in ((4, 70), (2, 400)))
            mask = None if seen is None else np.broadcast_to(np.arange(400) < seen, (1, 4, 70, 400))
            out, lse, rest = np.zeros_like(q), np.zeros((1, 4, 70), np.float32), (None, False, 0.0, 0, 0)
            core.attention_forward(q, k, k, mask, out, lse, *rest)
            grads = [np.zeros_like(x) for x in (q, k, k)]
            core.attention_backward(q, q, k, k, mask, out, lse, *grads, None, *rest)
    del os.environ["FASTDL_CUDA_ATTENTION"], os.environ["FASTDL_CUDA_ATTENTION_BACKWARD"]


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


if __name__ == "__main__":
    main()
