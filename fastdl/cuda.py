"""What scripts ask before they choose a device. This build computes on the CPU only, and says so here."""

from __future__ import annotations


def is_available() -> bool:
    """Whether tensors can be put on a CUDA device: not in this build.

    >>> import fastdl
    >>> fastdl.device("cuda" if fastdl.cuda.is_available() else "cpu")
    device(type='cpu')
    """
    return False


def device_count() -> int:
    """Number of CUDA devices that tensors can be put on: none in this build."""
    return 0


def manual_seed(seed: int) -> None:
    """Seed the generators of the CUDA devices, of which there are none."""


manual_seed_all = manual_seed


def synchronize(device: object = None) -> None:
    """Wait for the CUDA devices, of which there are none."""


def empty_cache() -> None:
    """Free cached device memory, of which there is none."""
