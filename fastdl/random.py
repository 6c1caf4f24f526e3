"""Random numbers: one seed for initialisation, shuffling and dropout.

The seed drives two streams of the Philox counter generator (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011). `generator` gives NumPy's, for `rand`, `randn`, initialisers and shuffles. Dropout kernels
compute their numbers from (seed, offset + element) themselves, so a mask does not depend on the number of threads;
`next_offset` hands each call its own stretch of the counter.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .autograd import TensorBase, wrap
from .locks import process_lock

_MASK = (1 << 64) - 1
_lock = process_lock()
_seed = 0
_offset = 0
_philox: Any = None
_generator: Any = None


def _after_fork() -> None:
    if _philox is not None:
        _philox.lock._at_fork_reinit()  # a thread that was drawing, and is not in the child, holds NumPy's lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def manual_seed(seed: int) -> None:
    """Start both streams from ``seed`` (any integer; taken modulo 2**64).

    >>> import fastdl
    >>> fastdl.manual_seed(0); a = fastdl.rand(2)
    >>> fastdl.manual_seed(0); fastdl.equal(a, fastdl.rand(2))
    True
    """
    global _seed, _offset, _philox, _generator
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"manual_seed: expected an integer, got {type(seed).__name__}")
    with _lock:
        _seed = int(seed) & _MASK
        _offset = 0
        # Key word 1 keeps this stream apart from the dropout kernels', whose key is (seed, 0).
        _philox = np.random.Philox(key=np.array([_seed, 1], np.uint64))
        _generator = np.random.Generator(_philox)


def seed() -> int:
    """Seed from the operating system, and return that seed."""
    value = int.from_bytes(os.urandom(8), "little")
    manual_seed(value)
    return value


def _seed_if_unseeded() -> None:
    with _lock:
        if _generator is None:
            seed()


def initial_seed() -> int:
    """The seed in force."""
    generator()
    return _seed


def generator() -> np.random.Generator:
    """The NumPy generator behind `rand`, `randn`, initialisation and shuffling."""
    if _generator is None:
        _seed_if_unseeded()
    return _generator


def next_offset(count: int) -> tuple[int, int]:
    """(seed, offset) for a kernel that will draw ``count`` numbers; no two calls overlap."""
    global _offset
    if _generator is None:
        _seed_if_unseeded()
    with _lock:
        offset = _offset
        _offset = (offset + int(count)) & _MASK
        return _seed, offset


def position() -> Any:
    """Something that changes with every draw."""
    generator()
    with _lock, _philox.lock:  # NumPy's generators hold the latter while they draw
        state = _philox.state
        return _seed, _offset, state["state"]["counter"].tolist(), state["buffer_pos"]


def get_rng_state() -> Any:
    """Everything `set_rng_state` needs to go on from here: a uint8 tensor of 120 bytes."""
    generator()
    with _lock, _philox.lock:
        s = _philox.state
        words = [_seed, _offset, *s["state"]["counter"], *s["state"]["key"], *s["buffer"]]
        words += [s["buffer_pos"], s["has_uint32"], s["uinteger"]]
        return wrap(np.array([int(w) & _MASK for w in words], "<u8").view(np.uint8))


def set_rng_state(state: Any) -> None:
    """Go on from a state that `get_rng_state` gave. Raises TypeError or ValueError for anything else."""
    global _seed, _offset
    data = state._data if isinstance(state, TensorBase) else np.asarray(state)
    if data.dtype != np.uint8:
        raise TypeError(f"set_rng_state: expected a uint8 tensor, got {data.dtype}")
    if data.shape != (120,):
        raise ValueError(f"set_rng_state: expected shape (120,), got {data.shape}")
    words = np.ascontiguousarray(data).view("<u8")
    generator()
    with _lock, _philox.lock:
        _philox.state = {
            "bit_generator": "Philox",
            "state": {"counter": words[2:6].copy(), "key": words[6:8].copy()},
            "buffer": words[8:12].copy(),
            "buffer_pos": int(words[12]),
            "has_uint32": int(words[13]),
            "uinteger": int(words[14]),
        }
        _seed, _offset = int(words[0]), int(words[1])
