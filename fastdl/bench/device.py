"""Where the rows run: arrays to the device and back, waiting for it, its name and ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .machine import Peaks

NAMES = ("cpu", "cuda", "cuda-sim")
_COPIED, _SIDE = 1 << 30, 8192  # bytes copied and products' size on a GPU, whose caches hold far less
_SMALL = (1 << 20, 64)  # the same for the host executor
_TRIALS = 5


class Device:
    """The CPU; "cuda", where arrays are CuPy's; "cuda-sim", the host executor of the CUDA kernels, for tests. Raises
    RuntimeError for one that is not there."""

    def __init__(self, name: str = "cpu"):
        from ..device import backend_of

        self.name = name
        self._backend: Any = backend_of(name)

    def put(self, array: np.ndarray) -> Any:
        """A host array there, with its strides; on the CPU the array itself."""
        return array if self._backend is None else self._backend.from_numpy(array)

    def host(self, value: Any) -> Any:
        """What a call gave back, on the CPU: an array, or a list of what a list or tuple holds."""
        if isinstance(value, (list, tuple)):
            return [self.host(v) for v in value]
        if self._backend is not None and isinstance(value, self._backend.array):
            return self._backend.to_numpy(value)
        return value

    def wait(self) -> None:
        """Until all that was queued is done."""
        if self.name == "cuda":
            import_module("cupy").cuda.Device().synchronize()

    def release(self) -> None:
        """Memory that libraries keep for later, back to the GPU."""
        if self.name == "cuda":
            import_module("cupy").get_default_memory_pool().free_all_blocks()

    def free_memory(self) -> float | None:
        """Bytes free on the GPU; None elsewhere."""
        return float(import_module("cupy").cuda.runtime.memGetInfo()[0]) if self.name == "cuda" else None

    def describe(self) -> dict[str, Any]:
        """For the header and the JSON file."""
        if self.name != "cuda":
            return {"device": self.name}
        cupy = import_module("cupy")
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        name = properties["name"]
        isa = f"sm_{properties['major']}{properties['minor']}"
        return {"device": "cuda", "gpu": name.decode() if isinstance(name, bytes) else str(name), "isa": isa}

    def measure_peaks(self, modules: dict[str, Any]) -> Peaks:
        """Ceilings of a GPU: a large copy, and the rate of cuBLAS at a large product: CuPy's in float32, PyTorch's
        (where it takes part) in bfloat16. Of the executor: its own rates, which mean nothing."""
        small = self.name != "cuda"
        size, n = _SMALL if small else (_COPIED, _SIDE)
        source = self.put(np.resize(np.random.default_rng(0).standard_normal(1 << 18, np.float32), size // 4))
        target = source.copy()

        def copy() -> None:
            target[...] = source

        flops = {"float32": self._rate(self._product(n, small), 2.0 * n**3)}
        torch = modules.get("torch")
        if torch is not None and not small:
            a = torch.randn(n, n, device="cuda").bfloat16()
            flops["bfloat16"] = self._rate(lambda: a @ a, 2.0 * n**3)
        return Peaks(flops, [("DRAM", float("inf"), self._rate(copy, 2.0 * size))])

    def _product(self, n: int, small: bool) -> Callable[[], Any]:
        a = self.put(np.random.default_rng(0).standard_normal((n, n), np.float32))
        if small:
            from .. import ops

            return lambda: ops.matmul(a, a)
        cupy = import_module("cupy")
        return lambda: cupy.matmul(a, a)

    def _rate(self, call: Callable[[], Any], work: float) -> float:
        """1e9 units of work per second, the best of a few calls after the first."""
        best = float("inf")
        for trial in range(_TRIALS + 1):
            start = time.perf_counter()
            call()
            self.wait()
            if trial:
                best = min(best, time.perf_counter() - start)
        return work / best / 1e9
