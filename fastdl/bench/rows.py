"""What is measured: rows, and the contest that each of them stands for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..dtypes import as_dtype
from .peers import Peers

DTYPES = ("float32", "bfloat16", "float64")
NARROW = ("bfloat16",)
#: Rows in which no library records a graph.
WITHOUT_GRAPH = ("forward", "backward")
DIRECTIONS = ("forward", "backward", "both", "step")
_LONGEST_REASON = 160
_DRAWN = (1 << 22) + 15  # random numbers; a prime, so that rows of arrays do not repeat
Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One measurement.

    group: the line of the summary it counts in. direction: "forward", "backward" (the gradients alone), "both" (a
    forward and a backward call) or "step" (of training). flops, bytes: what the work cannot do without: the
    multiply-adds (2 each), and every input read once and every output written once. held: bytes of all arrays
    together, where it is not ``bytes``. note: what was cut to keep the row affordable. reread: bytes read once more in
    any implementation (recurrent weights at every step), of which only the expected time knows.
    """

    group: str
    op: str
    shape: str
    dtype: str
    direction: str
    flops: float
    bytes: float
    make: Callable[[Peers], Contest] = field(repr=False, compare=False)
    note: str = ""
    held: float = 0.0
    reread: float = 0.0

    @property
    def key(self) -> str:
        """Names the row in JSON files, filters and baselines."""
        return f"{self.op} {self.shape} {self.dtype} {self.direction}"


class Contest:
    """The same work done by fastdl (``ours``) and by peers.

    error: the largest error of a call's outputs (a tuple of arrays) against float64; up to ``limit`` it is right.
    Peers are built through `add`, which notes why one cannot take part.
    """

    def __init__(self, peers: Peers, ours: Call, error: Callable[[Sequence[Any]], float], limit: float):
        self.wanted = peers
        self.ours = ours
        self.error = error
        self.limit = limit
        self.calls: dict[str, Call] = {}
        self.skipped: dict[str, str] = {}
        self._fills: list[Callable[[], Any]] = []
        #: What makes outputs like ours of a peer's, which are then checked too.
        self.converted: dict[str, Callable[[list], Sequence[Any]]] = {}

    def add(self, library: str, build: Callable[[Any], Mapping[str, Call]], as_ours: Any = list) -> None:
        """Lets ``library`` take part if it is wanted: ``build(module)`` returns its variants' calls by name.
        ``as_ours`` makes of a call's outputs what ours are like, for the check; None where nothing can be checked."""
        if library not in self.wanted.modules:
            return
        try:
            calls = build(self.wanted.modules[library])
        except Exception as problem:
            self.skip(library, problem)
            return
        for variant, call in calls.items():
            name = f"{library} {variant}".strip()
            self.calls[name] = call
            if as_ours is not None:
                self.converted[name] = as_ours

    def fill(self, array: Any, values: np.ndarray) -> None:
        """``array``, somebody's input, gets ``values`` between check and timing (where the check needs another one)."""

        def copy() -> None:
            if hasattr(array, "copy_"):
                array.copy_(self.wanted.tensor(values))
            else:
                array[...] = self.wanted.put(values)

        self._fills.append(copy)

    def replace(self, call: Any, index: int, values: np.ndarray) -> None:
        """The same for an operand of a call of `jitted`: jax's arrays do not change."""
        jnp = self.wanted.modules["jax"].numpy
        self._fills.append(lambda: call.operands.__setitem__(index, jnp.array(values)))

    def after_check(self) -> None:
        """Inputs as the timing wants them."""
        for fill in self._fills:
            fill()

    def skip(self, library: str, reason: Any) -> None:
        """Notes that ``library``, if it was wanted, cannot do this."""
        if library in self.wanted.modules:
            self.skipped[library] = brief(reason)

    def drop(self, name: str, reason: Any) -> None:
        """Takes a variant out that failed when it was called."""
        self.calls.pop(name)
        self.skipped[name] = brief(reason)


def brief(problem: Any) -> str:
    """A reason in one line that is not too long."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


@functools.lru_cache(4)
def _normal(dtype: str, scale: float) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal(_DRAWN, np.float32) * np.float32(scale)
    return values.astype(as_dtype(dtype), copy=False)


def random(rng: np.random.Generator, shape: Sequence[int], dtype: str, scale: float = 1.0) -> np.ndarray:
    """Normal numbers: never zeros, which run faster on some processors. The same few million again and again, from
    another place each time: drawing and rounding new ones would take longer than many a measurement."""
    values, size = _normal(dtype, scale), math.prod(shape)
    if size == 0:
        return np.empty(shape, values.dtype)
    start, out = int(rng.integers(_DRAWN)), np.empty(size, values.dtype)
    done = 0
    while done < size:
        part = values[start : start + size - done]
        out[done : done + len(part)] = part
        done, start = done + len(part), 0
    return out.reshape(shape)


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return as_dtype(dtype).itemsize


def worst(pairs: Sequence[tuple[Any, Any]]) -> float:
    """The largest error of (actual, expected) pairs, relative to the largest number expected; infinite for NaN."""
    error = 0.0
    for actual, expected in pairs:
        expected = np.asarray(expected, np.float64)
        if expected.size == 0:
            continue
        scale = float(np.abs(expected).max()) or 1.0
        difference = float(np.abs(np.asarray(actual).astype(np.float64) - expected).max()) / scale
        error = max(error, difference if difference == difference else float("inf"))
    return error


def sample(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """``count`` different indices below ``size`` (all if there are fewer), with the first and the last."""
    if size <= count:
        return np.arange(size)
    inner = rng.choice(size - 2, count - 2, replace=False) + 1
    return np.concatenate([[0], np.sort(inner), [size - 1]])
