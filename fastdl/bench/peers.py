"""The libraries fastdl is compared with: which are there, their threads, how arrays get in and out."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .device import Device

NAMES = ("torch", "numpy", "jax", "onnxruntime", "cupy")
ONE_THREAD = "one-thread"  # fastdl itself with one thread, as a peer


class Peers:
    """The libraries that take part. missing: why the others that were asked for do not."""

    def __init__(self, names: Sequence[str], threads: int, device: Device | None = None):
        self.threads = threads
        self.device = device or Device()
        self.modules: dict[str, ModuleType] = {}
        self.missing: dict[str, str] = {}
        limit_affinity(threads)
        self.one_thread = ONE_THREAD in names
        for name in names:
            if name == ONE_THREAD:
                continue
            try:
                self.modules[name] = importlib.import_module(name)
                if name == "onnxruntime":
                    importlib.import_module("onnx")  # builds the models
                check_device(name, self.modules[name], self.device.name)
            except (ImportError, RuntimeError) as problem:
                self.modules.pop(name, None)
                self.missing[name] = str(problem)
        self.set_threads(threads)

    def set_threads(self, threads: int) -> None:
        """Tells the libraries that have a setting; jax follows the process's CPUs only."""
        self.threads = threads
        if "torch" in self.modules:
            self.modules["torch"].set_num_threads(threads)
        if "numpy" in self.modules:
            set_openblas_threads(threads)

    def put(self, *arrays: np.ndarray) -> Any:
        """Host arrays on the device: one array, or a list of several."""
        there = [self.device.put(a) for a in arrays]
        return there[0] if len(there) == 1 else there

    def tensor(self, array: np.ndarray) -> Any:
        """A torch tensor on the array's memory, bfloat16 included; on a GPU a copy."""
        torch = self.modules["torch"]
        if array.dtype.name == "bfloat16":
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        return tensor.to(self.device.name)

    def formats(self, *arrays: np.ndarray) -> dict[str, list[Any]]:
        """The arrays (N, C, H, W) as torch tensors in both memory formats, by the name of the variant."""
        torch = self.modules["torch"]
        kinds = {"": torch.contiguous_format, "channels_last": torch.channels_last}
        dense = [self.tensor(np.ascontiguousarray(a)) for a in arrays]
        return {name: [t.contiguous(memory_format=kind) for t in dense] for name, kind in kinds.items()}

    @contextlib.contextmanager
    def single_numpy(self) -> Iterator[None]:
        """NumPy's products on one thread: those of a check are small, and its threads would spin for long after it."""
        set_openblas_threads(1)
        try:
            yield
        finally:
            set_openblas_threads(self.threads)

    def versions(self) -> dict[str, str]:
        """Version of each library."""
        return {name: str(module.__version__) for name, module in self.modules.items()}


def check_device(name: str, module: Any, device: str) -> None:
    """Raises RuntimeError if a library does not compute on a device: its CPU must not stand for a GPU."""
    if device == "cpu":
        able = name != "cupy"
    elif device == "cuda":
        able = (
            name == "cupy"
            or (name == "torch" and module.cuda.is_available())
            or (name == "jax" and module.default_backend() == "gpu")
            or (name == "onnxruntime" and "CUDAExecutionProvider" in module.get_available_providers())
        )
    else:
        able = False
    if not able:
        raise RuntimeError(f"does not compute on {device} here")


def limit_affinity(threads: int) -> None:
    """Keeps the process, and so jax, which has no other setting, on as many CPUs as there are threads."""
    if hasattr(os, "sched_getaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        if threads < len(cpus):
            os.sched_setaffinity(0, cpus[:threads])


def set_openblas_threads(threads: int) -> bool:
    """Sets the thread count of NumPy's OpenBLAS, if that is what it uses. True if it was found."""
    function = _openblas()
    if function is not None:
        function(threads)
    return function is not None


@functools.cache
def _openblas() -> Any:
    """Its function that sets the thread count."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if re.search(r"openblas[^/]*\.so", line)}
    except OSError:
        return None
    for path in paths:
        library = ctypes.CDLL(path)
        for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
            function = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
            if function is not None:
                return function
    return None


def with_one_thread(call: Callable[[], Any], threads: int) -> Callable[[], Any]:
    """``call`` on one of fastdl's ``threads``."""
    from .. import _core

    def run() -> Any:
        _core.set_num_threads(1)
        try:
            return call()
        finally:
            _core.set_num_threads(threads)

    return run


def nhwc(array: np.ndarray) -> np.ndarray:
    """(N, C, H, W) as (N, H, W, C), the layout of jax."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def nchw(arrays: Sequence[Any]) -> list[Any]:
    """Outputs of jax, of which images are (N, H, W, C), as (N, C, H, W)."""
    return [np.moveaxis(a, -1, 1) if a.ndim == 4 else a for a in arrays]


def to_numpy(value: Any) -> Any:
    """An array of what a peer returned (bfloat16 widened), a list of a list of them."""
    if isinstance(value, (list, tuple)):
        return [to_numpy(v) for v in value]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()
        return value.numpy()
    if type(value).__module__.partition(".")[0] == "cupy":
        value = value.get()
    return np.asarray(value)


def jitted(jax: Any, function: Callable[..., Any], *arrays: np.ndarray) -> Callable[[], Any]:
    """``function`` of the arrays, compiled by jax; the call waits for the result. Its ``operands`` may be replaced."""
    compiled = jax.jit(function)
    operands = [jax.numpy.asarray(a) for a in arrays]

    def run() -> Any:
        return jax.block_until_ready(compiled(*operands))

    run.operands = operands  # type: ignore[attr-defined]
    return run


def onnx_call(
    onnxruntime: Any,
    peers: Peers,
    node: str,
    inputs: Sequence[np.ndarray | None],
    constants: int = 0,
    outputs: Sequence[str] = ("y",),
    opset: int = 20,
    **attributes: Any,
) -> Callable[[], Any]:
    """A call of a model of one node. The last ``constants`` inputs are weights, which onnxruntime may rearrange once.

    Results land in memory that is bound once.
    """
    import onnx
    from onnx import helper, numpy_helper

    def kind(array: np.ndarray) -> int:
        if array.dtype.name == "bfloat16":
            return onnx.TensorProto.BFLOAT16
        return helper.np_dtype_to_tensor_dtype(array.dtype)

    names = [f"i{i}" if a is not None else "" for i, a in enumerate(inputs)]
    fixed = len(inputs) - constants
    first = next(a for a in inputs if a is not None)
    graph = helper.make_graph(
        [helper.make_node(node, names, list(outputs), **attributes)],
        "row",
        [
            helper.make_tensor_value_info(n, kind(a), a.shape)
            for n, a in zip(names[:fixed], inputs)
            if a is not None
        ],
        [helper.make_tensor_value_info(name, kind(first), None) for name in outputs if name],
        [
            numpy_helper.from_array(np.ascontiguousarray(a), n)
            for n, a in zip(names[fixed:], inputs[fixed:])
            if a is not None
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = peers.threads
    options.log_severity_level = 4
    # Long enough to stay awake from call to call (without spinning, small products take twice as long); the default
    # of 31 ms would be waited for in every round.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "2000")
    place = "cuda" if peers.device.name == "cuda" else "cpu"
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=[f"{place.upper()}ExecutionProvider"]
    )
    binding = session.io_binding()
    held = []
    for name, array in zip(names[:fixed], inputs):
        if array is not None:
            held.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), place))
            binding.bind_ortvalue_input(name, held[-1])
    named = [name for name in outputs if name]
    for name in named:
        binding.bind_output(name, place)
    session.run_with_iobinding(binding)
    results = binding.get_outputs()
    for name, value in zip(named, results):
        binding.bind_ortvalue_output(name, value)

    def run() -> tuple:
        session.run_with_iobinding(binding)
        return tuple(results)  # OrtValues: `to_numpy` copies them

    run.held = held  # type: ignore[attr-defined]
    return run
