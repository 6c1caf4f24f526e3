"""The same values in every memory layout a kernel may meet."""

import numpy as np


def strided_variants(x, poison=True):
    """Yields (name, array): arrays equal to x, each laid out in memory in another way.

    The memory around and between the elements holds NaN (where the dtype has one), so that a kernel which
    reads what it was not given shows it.
    """
    x = np.asarray(x)
    fill = np.nan if poison and np.issubdtype(x.dtype, np.floating) else 0
    yield "contiguous", x.copy(order="C")
    yield "unaligned", _unaligned(x)
    if x.ndim == 0:
        return
    yield "offset", _inside(x, fill, step=1)
    yield "every-second", _inside(x, fill, step=2)
    yield "negative", _negative(x)
    if x.ndim >= 2:
        yield "fortran", np.asfortranarray(x)
        yield "transposed-pair", np.ascontiguousarray(np.swapaxes(x, -1, -2)).swapaxes(-1, -2)
    if x.ndim >= 3:
        yield "channels-last", np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    broadcast = _broadcast(x)
    if broadcast is not None:
        yield "broadcast", broadcast


def _unaligned(x):
    """C-contiguous, at an address that is a multiple of the item size and of nothing larger."""
    item = x.dtype.itemsize
    buffer = np.zeros(x.nbytes + 128, np.uint8)
    start = (-buffer.ctypes.data) % 64 + item
    out = buffer[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def _inside(x, fill, step):
    """A slice with an offset (and a step) of a larger array."""
    big = np.full(tuple(step * n + 3 for n in x.shape), fill, x.dtype)
    out = big[tuple(slice(1, 1 + step * n, step) for n in x.shape)]
    out[...] = x
    return out


def _negative(x):
    """Every axis runs backwards through memory."""
    flip = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[flip])[flip]


def _broadcast(x):
    """Stride 0 along the first axis on which x is constant, or None."""
    for axis, n in enumerate(x.shape):
        first = x.take([0], axis) if n else None
        if n > 1 and np.array_equal(np.broadcast_to(first, x.shape), x, equal_nan=x.dtype.kind == "f"):
            return np.broadcast_to(first, x.shape)
    return None
