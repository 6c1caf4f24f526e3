"""Where tensors live: the CPU; "cuda", a GPU, whose arrays are CuPy's; "cuda-sim", the host executor, which runs the
CUDA kernels on the CPU. Devices other than the CPU are loaded when they are first named."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import backend
from .locks import process_lock

KINDS = ("cpu", "cuda", "cuda-sim", "mps", "xpu", "meta")  # what a string in `Tensor.to` may name

_MODULES = {"cuda": "fastdl.cuda", "cuda-sim": "fastdl.simulated"}  # each has make_backend()
_loaded: dict[str, backend.Backend] = {}
_lock = process_lock()  # for loading one


class device:
    """A device by name: ``device("cpu")``, ``device("cuda")``, ``device("cuda:1")``, ``device("cuda-sim")``.

    Any can be named; using one that is not there raises RuntimeError.

    >>> device("cuda:1").type, device("cuda:1").index
    ('cuda', 1)
    """

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, name: Any, index: int | None = None):
        if isinstance(name, device):
            name, index = name.type, name.index
        if not isinstance(name, str):
            raise TypeError(f"device: expected a name such as 'cpu', got {name.__class__.__name__}")
        kind, colon, number = name.partition(":")
        if not kind.replace("-", "").isalnum() or (colon and not number.isdigit()):
            raise ValueError(f"device: expected a name such as 'cpu' or 'cuda:0', got {name!r}")
        self.type = kind
        self.index = int(number) if colon else index

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str(self) == other
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))


cpu = device("cpu")


def gpu(which: Any) -> device:
    """A GPU by number or name."""
    return device("cuda", which) if isinstance(which, int) else device(which)


def backend_of(kind: str) -> backend.Backend | None:
    """The backend of a kind of device, None for the CPU; loaded if need be. Raises RuntimeError if it is not there."""
    if kind == "cpu":
        return None
    if kind not in _loaded:
        if kind not in _MODULES:
            raise RuntimeError(
                f"device {kind!r} is not available: fastdl computes on 'cpu', 'cuda' and 'cuda-sim'"
            )
        with _lock:
            if kind not in _loaded:
                made = import_module(_MODULES[kind]).make_backend()
                made.kernels.set_float32_precision(backend.kernels(None).get_float32_precision())
                _loaded[kind] = backend._others[made.array] = made
    return _loaded[kind]


def check_device(where: object) -> None:
    """Raise RuntimeError for a device that fastdl cannot compute on here."""
    if where is not None and where is not cpu:
        _backend_at(device(where))


def _backend_at(where: device) -> backend.Backend | None:
    """The backend of a device, None for the CPU. Raises RuntimeError if it is not there, its index included."""
    other = backend_of(where.type)
    if other is not None and where.index and where.index >= (count := other.kernels.device_count()):
        raise RuntimeError(
            f"device '{where}' is not available: there {'is' if count == 1 else 'are'} {count} of its kind"
        )
    return other


def of(array: Any) -> device:
    """The device of an array."""
    other = backend.of(array)
    return cpu if other is None else device(other.name, other.index(array))


def is_on(array: Any, where: object) -> bool:
    """Whether an array is on a device. Raises RuntimeError for one that is not there."""
    wanted = device(where)
    other = _backend_at(wanted)
    if other is None:
        return backend.of(array) is None
    return array.__class__ is other.array and wanted.index in (None, other.index(array))


def place(array: Any, where: object) -> Any:
    """An array on a device: itself if it is there already, else a copy. None: where it is."""
    if where is None or is_on(array, where):
        return array
    wanted = device(where)
    other = _backend_at(wanted)
    if other is None:
        return backend.to_numpy(array)
    return other.from_numpy(
        array if array.__class__ is other.array else backend.to_numpy(array), wanted.index
    )


def like(where: object) -> Any:
    """For NumPy's ``like=``: creation functions given it make their array on that device."""
    if where is None:
        return None
    other = backend_of(device(where).type)
    return None if other is None else other.prototype
