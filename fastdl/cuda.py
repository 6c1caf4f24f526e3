"""GPUs: what scripts ask before they choose a device, and the backend for CuPy's arrays.

Everything runs on CuPy's current stream and device (``cupy.cuda.Stream``, ``cupy.cuda.Device``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np

from . import random
from .backend import Backend

_MISSING = "device 'cuda' is not available"


def make_backend() -> Backend:
    """The backend of this device. Raises RuntimeError that says what is missing: CUDA kernels, a driver, CuPy."""
    kernels = _kernels()
    try:
        count = kernels.device_count()
    except RuntimeError as error:
        raise RuntimeError(f"{_MISSING}: {error}") from None
    if not count:
        raise RuntimeError(f"{_MISSING}: there is no GPU that this process may use")
    try:
        cupy = import_module("cupy")
    except ImportError as error:
        raise RuntimeError(
            f"{_MISSING}: arrays on a GPU are CuPy's (pip install 'fastdl[cuda13]'): {error}"
        ) from None
    return Backend(
        "cuda",
        cupy.ndarray,
        kernels,
        cupy.empty,
        _from_numpy,
        _to_numpy,
        lambda array: array.device.id,
        cupy.empty((), np.float32),
    )


def _kernels() -> Any:
    try:
        return import_module("fastdl._cuda")
    except ImportError as error:
        raise RuntimeError(f"{_MISSING}: fastdl was built without CUDA (FASTDL_CUDA=ON): {error}") from None


def _cupy() -> Any:
    from .device import backend_of

    backend_of("cuda")
    return import_module("cupy")


def _memory_order(array: Any) -> list[int]:
    """The axes from the outermost in memory inwards."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


def _from_numpy(array: Any, index: int | None = None) -> Any:
    """A copy on the current device, or that of ``index``, with the axes in memory as ``array`` has them (CuPy alone
    would bring channels-last images into C order). From pinned memory, the copy happens in stream order."""
    cupy = import_module("cupy")
    order = _memory_order(array)
    with contextlib.nullcontext() if index is None else cupy.cuda.Device(index):
        moved = array.transpose(order)
        if isinstance(array, np.ndarray):
            moved = cupy.array(np.ascontiguousarray(moved).reshape(moved.shape))
        else:  # from another GPU
            moved = moved.copy()
        return moved.transpose(sorted(range(array.ndim), key=order.__getitem__))


def _to_numpy(array: Any) -> np.ndarray:
    """A copy for the CPU, with the axes in memory as ``array`` has them."""
    order = _memory_order(array)
    moved = array.transpose(order).get()
    return moved.transpose(sorted(range(array.ndim), key=order.__getitem__))


def pin(array: np.ndarray) -> np.ndarray:
    """A copy in page-locked memory, from which copies to a GPU run while the CPU goes on. The array itself where there
    is no GPU."""
    if not is_available():
        return array
    _cupy()
    copy = import_module("cupyx").empty_pinned(array.shape, array.dtype)
    copy[...] = array
    return copy


# ------------------------------------------------------------------------------------------- what scripts ask


def is_available() -> bool:
    """Whether tensors can be put on a CUDA device: fastdl has its CUDA kernels, and there are a GPU and CuPy.

    >>> import fastdl
    >>> fastdl.device("cuda" if fastdl.cuda.is_available() else "cpu").type in ("cpu", "cuda")
    True
    """
    from .device import backend_of

    try:
        backend_of("cuda")
    except RuntimeError:
        return False
    return True


def device_count() -> int:
    """Number of CUDA devices that this process may use."""
    try:
        return int(_kernels().device_count())
    except RuntimeError:
        return 0


def get_device_name(device: Any = None) -> str:
    """The name of a GPU, "NVIDIA H100 80GB HBM3" say (default: of the current one). Raises RuntimeError without."""
    cupy = _cupy()
    with _chosen(cupy, device):
        return _kernels().device_name()


def current_device() -> int:
    """The index of the GPU that tensors are put on. Raises RuntimeError without one."""
    return int(_cupy().cuda.Device().id)


def current_stream(device: Any = None) -> Any:
    """CuPy's current stream, on which everything is queued. Raises RuntimeError without a GPU."""
    return _cupy().cuda.get_current_stream()


def synchronize(device: Any = None) -> None:
    """Wait for everything queued on a GPU. What kernels found wrong in their input is raised here: IndexError for a
    label or index out of range. Does nothing where no GPU is in use."""
    from .device import _loaded

    if "cuda-sim" in _loaded:
        from .simulated import wait

        wait("synchronize()")
        _loaded["cuda-sim"].kernels.check()
    if "cuda" in _loaded:
        cupy = _cupy()
        with _chosen(cupy, device):
            cupy.cuda.Device().synchronize()
            _loaded["cuda"].kernels.check()


def empty_cache() -> None:
    """Give memory that CuPy keeps for later arrays back to the driver."""
    from .device import _loaded

    if "cuda" in _loaded:
        cupy = _cupy()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def manual_seed(seed: int) -> None:
    """Seed the numbers drawn for GPUs: they come from the one stream that `fastdl.manual_seed` starts."""
    random.manual_seed(seed)


manual_seed_all = manual_seed


def _chosen(cupy: Any, device: Any) -> Any:
    """A context in which a GPU, by number or name, is the current one."""
    from .device import device as Device

    index = device if isinstance(device, int) or device is None else Device(device).index
    return contextlib.nullcontext() if index is None else cupy.cuda.Device(index)


# ------------------------------------------------------------------------------------------------------ graphs


class graph:
    """A function of fixed work on a GPU, recorded once and replayed as a whole: ``step = graph(step)``.

    The first call runs the function as it is (states are made, memory is found), the second records it and runs the
    recording, later ones run the recording: n calls do what n calls of the function do, bit by bit, without Python or
    a launch per kernel. Recorded are the kernels with the memory they read and write. Give new data to a step by
    writing it into the tensors it reads (``x.copy_(batch)``); it returns the same tensors every time, with new
    contents. What Python decides is decided once: a learning rate, a branch, a shape.

    On the host executor (``device="cuda-sim"``, the default where there is no GPU and that device is in use) there is
    nothing to record: every call runs the function, and holds it to the same rules.

    Raises RuntimeError without a GPU, for a step that draws random numbers (each replay would draw the same ones), and
    for one that waits for the GPU (``item()``, ``print``) while it is recorded.
    """

    def __init__(self, function: Callable[[], Any], device: Any = None):
        self._function = function
        self._simulated = _graph_device(device) == "cuda-sim"
        self._cupy: Any = None if self._simulated else _cupy()
        self._graph: Any = None
        self._pool: Any = None  # the memory the recording works on: nobody else gets it
        self._result: Any = None
        self._warm = False

    def __call__(self) -> Any:
        if not self._warm:
            self._warm = True
            return self._function()
        if self._simulated:
            return self._rerun()
        if self._graph is None:
            self._graph = self._record()
        self._graph.launch()
        return self._result

    def _rerun(self) -> Any:
        """A call on the host executor: the results go into the tensors of the first recording."""
        from .simulated import recording

        with recording(), _without_random_numbers():
            result = self._function()
        if self._graph is None:
            self._graph, self._result = self._function, result
        else:
            _overwrite(self._result, result)
        return self._result

    def _record(self) -> Any:
        cupy = self._cupy
        self._pool = cupy.cuda.MemoryPool()
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        with cupy.cuda.using_allocator(self._pool.malloc), stream:
            stream.begin_capture()
            try:
                with _without_random_numbers():
                    self._result = self._function()
            except BaseException:
                with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            return stream.end_capture()


def _graph_device(device: Any) -> str:
    """The kind of device that a graph is for: the one named, else a GPU, else the executor if it is in use."""
    from .device import _loaded
    from .device import device as Device

    if device is not None:
        return Device(device).type
    return "cuda-sim" if "cuda-sim" in _loaded and not is_available() else "cuda"


@contextlib.contextmanager
def _without_random_numbers() -> Iterator[None]:
    before = random.position()
    yield
    if random.position() != before:
        raise RuntimeError("cuda.graph: the step draws random numbers; each replay would draw the same ones")


def _overwrite(kept: Any, new: Any) -> None:
    """The contents of new results for tensors that were given out before."""
    from .autograd import TensorBase

    if isinstance(kept, TensorBase):
        if kept._data is not new._data:
            kept._data[...] = new._data
    elif isinstance(kept, dict):
        for key, value in kept.items():
            _overwrite(value, new[key])
    elif isinstance(kept, list | tuple):
        for a, b in zip(kept, new, strict=True):
            _overwrite(a, b)
