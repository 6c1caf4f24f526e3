"""Interleaved timing: A B A B in one process, medians and quartiles, and the peers' threads out of the way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

OURS = "fastdl"
_PAUSE = 0.001
_TRIALS = 2  # rounds in which all take part
_FAR = 2
_LONG = 6  # blocks: a call longer than this needs no other one to warm up
_LONGEST_WAIT = 0.2  # OpenBLAS spins longest of all, some 50 ms


@dataclass(frozen=True)
class Plan:
    """How long to measure a row: rounds of one block per contestant, a block being calls for ``block`` seconds.

    A peer that takes over ``dropped`` times as long as the best one in the first two rounds is not timed again.
    """

    seconds: float = 0.4
    block: float = 0.003
    rounds: tuple[int, int] = (2, 15)
    cold: int = 0  # bytes to sweep before every call, to empty the caches
    dropped: float = 1.5


def settle(limit: float = _LONGEST_WAIT) -> float:
    """Waits until no other thread of this process is running: a pool's threads spin for a while after a call, and
    would take the next contestant's core. Returns the seconds waited."""
    begin = time.perf_counter()
    if not os.path.isdir("/proc/self/task"):
        time.sleep(0.02)
        return time.perf_counter() - begin
    me = str(threading.get_native_id())
    while True:
        time.sleep(_PAUSE)
        if not any(_runs(task) for task in os.listdir("/proc/self/task") if task != me):
            break
        if time.perf_counter() - begin > limit:
            break
    return time.perf_counter() - begin


def _runs(task: str) -> bool:
    try:
        with open(f"/proc/self/task/{task}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(None, 1)[0] == b"R"
    except OSError:
        return False


class _Sweep:
    """Empties the caches by writing more than they hold."""

    def __init__(self, size: int):
        self.buffer = np.zeros(size // 8 + 1, np.int64)

    def __call__(self) -> None:
        self.buffer += 1


def measure(
    calls: Mapping[str, Callable[[], Any]], plan: Plan, wait: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds per call of each contestant, round by round. ``calls[OURS]`` is fastdl; every call has run before.
    ``wait`` is called at the end of what is timed: on a GPU, calls return before they are done.

    All take their turn in each round: wait for quiet, one call to wake the threads and the caches up (unless cold), a
    block of timed calls.
    """
    clock = time.perf_counter
    sweep = _Sweep(plan.cold) if plan.cold else None
    samples: dict[str, list[float]] = {name: [] for name in calls}
    counts: dict[str, int] = {}
    begin = clock()
    live = list(calls)
    rounds, done = _TRIALS + 1, 0
    while done < rounds:
        for name in live:
            call = calls[name]
            settle()
            if sweep:
                sweep()
                settle()
                start = clock()
                call()
                wait()
                samples[name].append(clock() - start)
                continue
            if counts.get(name) != 0:
                start = clock()
                call()
                wait()
                once = clock() - start
                if name not in counts:
                    if once < plan.block:
                        start = clock()
                        call()
                        wait()
                        once = max(clock() - start, 1e-7)
                    counts[name] = max(1, min(100_000, round(plan.block / once)))
                    if once > _LONG * plan.block:
                        counts[name] = 0
                        samples[name].append(once)
                        continue
            repeats = range(counts[name] or 1)
            start = clock()
            for _ in repeats:
                call()
            wait()
            samples[name].append((clock() - start) / len(repeats))
        done += 1
        if done <= _TRIALS:  # at first only those far behind leave: a single sample may be an accident
            live = _contenders(samples, plan.dropped if done == _TRIALS else _FAR * plan.dropped)
            begin = clock()
        elif done == _TRIALS + 1:
            per_round = max(clock() - begin, 1e-9)
            rounds = done + int(np.clip(plan.seconds / per_round, plan.rounds[0], plan.rounds[1]))
    return samples


def _contenders(samples: Mapping[str, list[float]], factor: float) -> list[str]:
    others = {name: min(times) for name, times in samples.items() if name != OURS}
    best = min(others.values(), default=0.0)
    return [name for name in samples if name == OURS or others[name] <= factor * best]


def quartiles(values: Any) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)
