"""libfastdl_cpu through ctypes: no compiler, no fastdl package, no NumPy.

python softmax.py LIBRARY     LIBRARY: libfastdl_cpu.so, in the folder that `python -m fastdl --libdir` prints
"""

import ctypes
import sys


class Tensor(ctypes.Structure):
    """fastdl_tensor, which is DLPack's DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )

    def __init__(self, memory: ctypes.Array, *shape: int):
        float32 = (2, 32, 1)
        extents = (ctypes.c_int64 * len(shape))(*shape)
        super().__init__(ctypes.addressof(memory), 1, 0, len(shape), *float32, extents, None, 0)
        self.memory = memory  # kept alive as long as the view


library = ctypes.CDLL(sys.argv[1])
library.fastdl_last_error.restype = ctypes.c_char_p
library.fastdl_softmax_forward.argtypes = (
    ctypes.c_void_p,  # the default context
    ctypes.POINTER(Tensor),
    ctypes.POINTER(Tensor),
    ctypes.c_int32,  # dim
    ctypes.c_int32,  # kind: 0 is softmax
)


def softmax(x: Tensor, out: Tensor, dim: int) -> None:
    if library.fastdl_softmax_forward(None, x, out, dim, 0) != 0:
        raise ValueError(library.fastdl_last_error().decode())


x = (ctypes.c_float * 6)(1, 2, 3, 0, 0, 0)
y = (ctypes.c_float * 6)()
softmax(Tensor(x, 2, 3), Tensor(y, 2, 3), -1)
print(*(f"{value:.4f}" for value in y))
try:
    softmax(Tensor(x, 2, 3), Tensor(y, 3, 2), -1)
except ValueError as error:
    print(error)
