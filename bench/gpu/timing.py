"""Interleaved timing on a GPU: CUDA events, caches emptied before every call. On the host executor: a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]
_FLUSHED = 256 << 20  # bytes written before each call: more than any L2 cache holds


class GpuTimer:
    """Milliseconds of a call between two events of CuPy's current stream. PyTorch's default stream is the same one."""

    def __init__(self, flushed: int = _FLUSHED):
        import cupy

        self._cupy = cupy
        self._buffer = cupy.empty(flushed, cupy.uint8)

    def flush(self) -> None:
        """Writes over the caches. The kernel also gives Python the time to queue the call that follows."""
        self._buffer.fill(1)

    def start(self) -> Any:
        event = self._cupy.cuda.Event()
        event.record()
        return event

    stop = start

    def wait(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    def between(self, start: Any, stop: Any) -> float:
        return float(self._cupy.cuda.get_elapsed_time(start, stop))


class HostTimer:
    """The same by the clock, for the host executor, which ends each call before it returns."""

    def flush(self) -> None:
        pass

    def start(self) -> float:
        return time.perf_counter()

    stop = start

    def wait(self) -> None:
        pass

    def between(self, start: float, stop: float) -> float:
        return 1e3 * (stop - start)


def measure(timer: Any, calls: Mapping[str, Call], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every contestant, round by round, A B A B, for at most ``rounds`` rounds that begin within
    ``seconds``. Everyone has run before: nothing is compiled or tuned in here."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + seconds
    for done in range(rounds):
        if done and time.monotonic() > end:
            break
        events = {}
        for name, call in calls.items():
            timer.flush()
            start = timer.start()
            call()
            events[name] = (start, timer.stop())
        timer.wait()
        for name, pair in events.items():
            samples[name].append(timer.between(*pair))
    return samples


def median(values: list[float]) -> float:
    """The middle one."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def quartiles(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    ordered = sorted(values)
    return [ordered[round(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75)]
