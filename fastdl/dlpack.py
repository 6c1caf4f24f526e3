"""DLPack with bfloat16, which NumPy's lacks: bfloat16 arrays pass through it as uint16, and the type code in the
capsule's header is put right on the way (https://dmlc.github.io/dlpack/latest/c_api.html)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

_UINT, _BFLOAT = 1, 4  # DLDataTypeCode
# Where DLTensor.dtype.code stands: after data (8 bytes), device (8), ndim (4); a versioned capsule has the version (8),
# manager_ctx (8), deleter (8) and flags (8) before that.
_PLACES = {b"dltensor": 20, b"dltensor_versioned": 52}

_api = ctypes.pythonapi
_is_valid = _api.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
_pointer = _api.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p


def _code(capsule: Any) -> Any:
    """The type code in a capsule's header, as something to read and write; None for capsules of another kind."""
    for name, place in _PLACES.items():
        if _is_valid(capsule, name):
            return ctypes.c_uint8.from_address(_pointer(capsule, name) + place)
    return None


def to_dlpack(array: np.ndarray, **options: Any) -> Any:
    """The capsule that shares an array's memory."""
    if array.dtype.name != "bfloat16":
        return array.__dlpack__(**options)
    capsule = array.view(np.uint16).__dlpack__(**options)
    code = _code(capsule)
    if code is None:
        raise BufferError("__dlpack__: NumPy gave a capsule of a kind that is not known here")
    code.value = _BFLOAT
    return capsule


class _Bits:
    """Stands for an exporter of bfloat16, whose tensor it shows to NumPy as uint16."""

    def __init__(self, source: Any):
        self.source = source
        self.found = False

    def __dlpack__(self, **options: Any) -> Any:
        try:
            capsule = self.source.__dlpack__(**options)
        except TypeError:  # an exporter from before DLPack 1.0 knows no options
            capsule = self.source.__dlpack__()
        code = _code(capsule)
        if code is not None and code.value == _BFLOAT:
            code.value = _UINT
            self.found = True
        return capsule

    def __dlpack_device__(self) -> Any:
        return self.source.__dlpack_device__()


def from_dlpack(source: Any) -> np.ndarray:
    """An array that shares the memory of any object with ``__dlpack__``."""
    bits = _Bits(source)
    array = np.from_dlpack(bits)
    if not bits.found:
        return array
    from .dtypes import as_dtype

    return array.view(as_dtype("bfloat16"))
