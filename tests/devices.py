"""`pytest --device cuda-sim|cuda`: the same tests on CUDA kernels, run by the host executor or by a GPU.

Tests call the kernels of ``fastdl._core`` on NumPy arrays, by themselves or through fastdl. Here a stand-in for that
module passes the calls on to ``fastdl._cuda_sim`` as they are, or to ``fastdl._cuda`` with copies of the arrays on the
GPU. It has no kernels of the CPU to fall back on: a test that needs one which is missing is skipped, and so is one
whose arrays are too large for the executor or whose kernels take it too long.
"""

import functools
import importlib
import sys
import time
import types
from collections import Counter

import numpy as np
import pytest

#: Of arrays of one call on the executor, which takes some 10 microseconds per element.
MOST_ELEMENTS = 1 << 15
#: Of one test's kernels there.
MOST_SECONDS = 15.0

#: Arguments that are NumPy arrays on every device: lengths are read before a kernel runs.
ON_THE_HOST = {"rnn_forward": 4, "rnn_backward": 7}

#: About the CPU itself (its instruction sets, its threads, its library), or about things that run no kernels.
CPU_ONLY = (
    *("simt", "test_bad_input_abi", "test_bench", "test_c_abi", "test_cli", "test_conv_winograd", "test_data"),
    *("test_device", "test_gemm_split", "test_helpers", "test_init", "test_io", "test_memory", "test_references"),
    *("test_references_torch", "test_threads", "test_train"),
    *("test_cuda_abi", "test_cuda_graph", "test_embed", "test_gpu_faults"),  # which choose their device themselves
)  # fmt: skip


class Core(types.ModuleType):
    """Stands for ``fastdl._core``."""

    def __init__(self, device):
        super().__init__("fastdl._core")
        self._device = device
        self._cpu = importlib.import_module("fastdl._core")
        self._cuda = importlib.import_module("fastdl._cuda_sim" if device == "cuda-sim" else "fastdl._cuda")
        self._level = 0
        self.seconds = 0.0  # of this test's kernels
        self.testing = False  # what modules compute as they are collected is no test: the CPU may do it
        for name in ("version", "empty", "pooled_bytes", "release_pool", "get_num_threads"):
            setattr(self, name, getattr(self._cpu, name))
        for name in ("measure_peak", "measure_peak_bfloat16", "measure_copy"):
            setattr(self, name, lambda: pytest.skip("about the CPU itself"))
        self.available_isas = lambda: [device]
        self.get_cpu_isa = lambda: device
        self.set_cpu_isa = lambda name: None
        self.set_num_threads = lambda count: None
        self.get_float32_precision = self._cuda.get_float32_precision
        self.set_float32_precision = self._cuda.set_float32_precision

    def __dir__(self):
        return dir(self._cpu)

    def __getattr__(self, name):
        if name.startswith("_") or not hasattr(self._cpu, name):
            raise AttributeError(name)
        if not self.testing:
            return getattr(self._cpu, name)
        kernel = getattr(self._cuda, name, None)
        if kernel is None:
            pytest.skip(f"no CUDA kernel for {name} yet")
        if isinstance(kernel, type):
            mirror = self._device == "cuda" and name == "ParameterGroup"
            call = functools.partial(MirroredGroup, kernel) if mirror else kernel
        else:
            call = functools.partial(self._call, kernel)
        setattr(self, name, call)
        return call

    def _call(self, kernel, *args, **options):
        if self._device == "cuda":
            return mirrored(kernel, args, options)
        if sum(a.size for a in args if isinstance(a, np.ndarray)) > MOST_ELEMENTS:
            pytest.skip("too large for the executor")
        if self.seconds > MOST_SECONDS:
            pytest.skip("too long for the executor")
        start = time.perf_counter()
        try:
            result = kernel(*args, **options)
            self._cuda.check()  # what a kernel found wrong in its input, raised where the CPU raises it
            return result
        finally:
            self.seconds += time.perf_counter() - start


def mirrored(kernel, args, options):
    """A call with copies of its NumPy arrays on the GPU, which are copied back after it."""
    from fastdl import _cuda, cuda

    copies = []

    def move(value):
        if isinstance(value, np.ndarray):
            copies.append((value, cuda._from_numpy(value)))
            return copies[-1][1]
        return [move(v) for v in value] if isinstance(value, list) else value

    host = ON_THE_HOST.get(kernel.__name__)
    moved = [a if i == host else move(a) for i, a in enumerate(args)]
    result = kernel(*moved, **options)
    _cuda.check()
    for array, copy in copies:
        if array.flags.writeable:
            array[...] = cuda._to_numpy(copy)
    return result


class MirroredGroup:
    """A ParameterGroup whose Tensors hold NumPy arrays: each step is made by a new one on copies of them."""

    def __init__(self, kind, *args):
        self.kind, self.args, self.fresh = kind, args, []
        self.arrays = [p._data for p in args[0]]

    def set_fresh(self, indices):
        self.fresh = list(indices)

    def __getattr__(self, name):
        return functools.partial(self._step, name)

    def _step(self, name, *options):
        from fastdl import _cuda, cuda

        params, state = self.args[0], self.args[1]
        if any(p._data is not a for p, a in zip(params, self.arrays)):
            return False
        tensors = [*params, *(p.grad for p in params if p.grad is not None)]
        tensors += [v for p in params if p in state for v in state[p].values() if hasattr(v, "_data")]
        homes = [(t, t._data) for t in tensors]
        try:
            for t, array in homes:
                t._data = cuda._from_numpy(array)
            group = self.kind(*self.args)
            group.set_fresh(self.fresh)
            done = getattr(group, name)(*options)
            _cuda.check()
            for t, array in homes:
                array[...] = cuda._to_numpy(t._data)
        finally:
            for t, array in homes:
                t._data = array
        if done:
            self.fresh = []
        return done


core = None  # the stand-in, where there is one


def install(device):
    """Put the stand-in where fastdl and tests look for its kernels, before either imports them."""
    global core
    import fastdl
    from fastdl import backend
    from fastdl.cuda import make_backend

    if device == "cuda":
        make_backend()  # says what is missing
    core = Core(device)
    sys.modules["fastdl._core"] = fastdl._core = backend._core = core


def cuda_kernels():
    """The CUDA kernels on NumPy arrays, for tests of what is special to them: those of the GPU with ``--device cuda``,
    else the executor's; a skip where it was not built."""
    if core is not None and core._device == "cuda":
        return core
    return pytest.importorskip("fastdl._cuda_sim", reason="built without the host executor")


def thread_counts():
    """What a test of equal bits goes through. CUDA kernels know no threads of the CPU: those run twice."""
    return (1, 2, 3, 7) if core is None else (1, 2)


def is_about_the_cpu(item):
    """Whether a test says nothing about CUDA kernels."""
    parts = {part.removesuffix(".py") for part in item.path.parts}
    return not parts.isdisjoint(CPU_ONLY) or item.get_closest_marker("cpu") is not None


def summarize(reporter):
    """How many tests were skipped, by reason."""
    skipped = reporter.stats.get("skipped", [])
    reasons = Counter(r.longrepr[2] for r in skipped if isinstance(r.longrepr, tuple))
    reporter.section(
        f"on {core._device}: {len(reporter.stats.get('passed', []))} passed, {len(skipped)} skipped"
    )
    for reason, count in reasons.most_common():
        reporter.line(f"{count:6d}  {reason.removeprefix('Skipped: ')}")
