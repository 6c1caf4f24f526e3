"""What tests of whole programs on a GPU share: the device they run on."""

import os

import pytest

import fastdl
from fastdl.device import backend_of


def _device():
    """The one that $FASTDL_TEST_DEVICE names, which then has to be there; else "cuda" where there is a GPU, else
    "cuda-sim" where it was built, else None."""
    if named := os.environ.get("FASTDL_TEST_DEVICE"):
        backend_of(named)
        return named
    if fastdl.cuda.is_available():
        return "cuda"
    try:
        backend_of("cuda-sim")
    except RuntimeError:
        return None
    return "cuda-sim"


DEVICE = _device()
needs_gpu = pytest.mark.skipif(DEVICE is None, reason="neither a GPU nor the host executor (FASTDL_SIMT=ON)")


def has_kernels(*names):
    """Whether the device has all of these kernels yet."""
    return DEVICE is not None and all(hasattr(backend_of(DEVICE).kernels, name) for name in names)
