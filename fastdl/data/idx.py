"""IDX files, the format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist, "The IDX file format").

Bytes 0 and 1 are zero, byte 2 names the type, byte 3 the number of dimensions; then one big-endian uint32 per
dimension; then the values, big-endian, last dimension fastest.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from typing import Any

import numpy as np

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file, plain or gzipped (told apart by content, not by name), into a native-order array.

    Raises ValueError naming the file, what was expected and what came, for a file that is truncated, has
    trailing bytes, or is no IDX file; OSError when it cannot be read.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "labels-idx1-ubyte")
    >>> write_idx(path, np.array([3, 1, 4], np.uint8))
    >>> read_idx(path)
    array([3, 1, 4], dtype=uint8)
    """
    name = os.fspath(path)
    with open(path, "rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not gzipped:
            return _parse(raw, name)
        import gzip

        try:
            with gzip.open(raw) as stream:
                return _parse(stream, name)
        except EOFError:
            raise ValueError(f"{name}: truncated gzip stream") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{name}: corrupt gzip stream ({error})") from None


def _parse(stream: Any, name: str) -> np.ndarray:
    head = stream.read(4)
    if len(head) < 4:
        raise ValueError(f"{name}: expected an IDX header of at least 4 bytes, got {len(head)}")
    if head[:2] != b"\0\0" or head[2] not in _TYPES:
        known = ", ".join(f"{code:#04x}" for code in _TYPES)
        raise ValueError(
            f"{name}: not an IDX file: expected two zero bytes and a type code in {known}, "
            f"got {head.hex(' ')}"
        )
    dtype, ndim = np.dtype(_TYPES[head[2]]), head[3]
    dims = stream.read(4 * ndim)
    if len(dims) < 4 * ndim:
        raise ValueError(f"{name}: expected {4 * ndim} bytes of dimensions for rank {ndim}, got {len(dims)}")
    shape = struct.unpack(f">{ndim}I", dims)
    expected = math.prod(shape) * dtype.itemsize
    # In pieces: a corrupt header may promise far more bytes than there is memory, and one byte past the end
    # shows trailing data (and makes gzip verify its checksum).
    data = bytearray()
    while len(data) <= expected and (piece := stream.read(min(_CHUNK, expected + 1 - len(data)))):
        data += piece
    if len(data) < expected:
        raise ValueError(f"{name}: truncated: expected {expected} bytes for shape {shape}, got {len(data)}")
    if len(data) > expected:
        raise ValueError(f"{name}: trailing bytes: expected {expected} bytes for shape {shape}, got more")
    try:
        values = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{name}: cannot hold shape {shape} in an array ({error})") from None
    return values.astype(dtype.newbyteorder("="), copy=False)


def write_idx(path: str | os.PathLike[str], array: Any) -> None:
    """Writes an array as an IDX file, gzipped when the name ends in ``.gz``.

    Raises TypeError for dtypes IDX does not have.
    """
    array = np.asarray(array)
    codes = {np.dtype(text).newbyteorder("="): code for code, text in _TYPES.items()}
    code = codes.get(array.dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"write_idx: expected one of {', '.join(map(str, codes))}, got {array.dtype}")
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    content = header + array.astype(_TYPES[code]).tobytes()
    if os.fspath(path).endswith(".gz"):
        import gzip

        content = gzip.compress(content, mtime=0)
    with open(path, "wb") as file:
        file.write(content)
