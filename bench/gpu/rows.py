"""What is measured: a row is one piece of work, done by fastdl and by its peers on the same numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

Call = Callable[[], Any]
_DRAWN = (1 << 22) + 7  # numbers: odd, so that rows do not repeat
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Row:
    """inputs(rng): host arrays. ours(*arrays): given them on a device, the call to time, which returns its outputs.
    torch(module, *tensors), cupy(module, *arrays): the peers' calls by variant. flops, bytes: what the work cannot do
    without. kernels: what fastdl needs for it; a row whose kernels are missing is reported so. precision: of float32
    products. target: the ratio that the slowest of our times may be of the peer's best, or of the copy rate."""

    family: str
    shape: str
    dtype: str
    direction: str
    flops: float
    bytes: float
    kernels: tuple[str, ...]
    inputs: Callable[[np.random.Generator], Sequence[np.ndarray]] = field(repr=False)
    ours: Callable[..., Call] = field(repr=False)
    torch: Callable[..., dict[str, Call]] | None = field(default=None, repr=False)
    cupy: Callable[..., dict[str, Call]] | None = field(default=None, repr=False)
    precision: str = ""
    limit: float = 2e-2  # the largest error of the results, relative to the largest of them
    target: float | None = None

    @property
    def key(self) -> str:
        """Names the row."""
        return " ".join(w for w in (self.family, self.shape, self.dtype, self.precision, self.direction) if w)


@cache
def _normal(dtype: str, scale: float) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal(_DRAWN, np.float32) * np.float32(scale)
    return values.astype(DTYPES[dtype], copy=False)


def random(rng: np.random.Generator, shape: Sequence[int], dtype: str, scale: float = 1.0) -> np.ndarray:
    """Normal numbers: never zeros, which take less power and so run faster. The same few million again and again, from
    another place each time: drawing gigabytes would take longer than what is to be measured."""
    values, size, start = _normal(dtype, scale), math.prod(shape), int(rng.integers(_DRAWN))
    return np.resize(np.concatenate([values[start:], values[:start]]), size).reshape(shape)


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) with the channels innermost in memory."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return DTYPES[dtype].itemsize


def forced(family: str, kernel: str, call: Call) -> Call:
    """The call, for which FASTDL_CUDA_<family> names the kernels, if given."""

    def with_kernel() -> Any:
        os.environ[f"FASTDL_CUDA_{family}"] = kernel  # read at every call
        try:
            return call()
        finally:
            del os.environ[f"FASTDL_CUDA_{family}"]

    return with_kernel if kernel else call


def no_tf32(torch: Any) -> None:
    """PyTorch's float32 as float32, for rows of that precision."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
