"""Streams of random numbers of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from .device import check_device

_MASK = (1 << 64) - 1


class Generator(np.random.Generator):
    """A stream of its own for what takes ``generator=``: NumPy's Generator with torch's way of seeding it.

    >>> import fastdl
    >>> fastdl.randperm(3, generator=fastdl.Generator().manual_seed(0)).tolist()
    [2, 0, 1]
    """

    def __reduce__(self) -> tuple:  # NumPy's would make a copy one of its own class
        return _restored, (self.bit_generator,)

    def __init__(self, device: Any = "cpu") -> None:
        check_device(device)
        super().__init__(np.random.Philox())

    def manual_seed(self, seed: int) -> Generator:
        """Start from ``seed`` (any integer; taken modulo 2**64), and return the generator."""
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"manual_seed: expected an integer, got {type(seed).__name__}")
        self.bit_generator.state = np.random.Philox(int(seed) & _MASK).state
        return self


def _restored(bit_generator: Any) -> Generator:
    made = Generator.__new__(Generator)
    np.random.Generator.__init__(made, bit_generator)
    return made
