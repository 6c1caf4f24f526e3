"""How long rows take and how much memory, before they run: for limits, time budgets and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .machine import Peaks
from .rows import Row
from .timing import Plan

_OVERHEAD = 0.1  # s per contestant: set up, compiled, checked, and the shortest measurement
_CALLS = 5  # at least, of each contestant: one to check, the first rounds, the fewest rounds after them
_REACHED = 0.5  # of the ceilings, by all contestants on the whole
_OWN, _EACH = (
    2.0,
    1.5,
)  # a row's arrays are held so often: by fastdl with the samples in float64, by each peer
_USABLE = 0.9  # of the memory that is free
_LATELY = 0.1  # weight of the last row in a running mean
_MEASURED = 0.4  # part of a row's time that goes into rounds beyond the first


@dataclass(frozen=True)
class Limits:
    """What a row may cost. peaks, peers: of the machine, and how many libraries take part beside fastdl. seconds: the
    longest that a row may take, None for any time. memory: bytes; None: what is free when the row begins."""

    peaks: Peaks
    peers: int
    seconds: float | None = None
    memory: float | None = None

    def expected(self, row: Row) -> float:
        """Seconds that a row takes with all peers, roughly."""
        flops = self.peaks.flops.get(row.dtype) or self.peaks.flops["float32"]
        once = row.flops / (flops * 1e9) + (row.bytes + row.reread) / (self.peaks.copy[-1][2] * 1e9)
        return (1 + self.peers) * (_OVERHEAD + _CALLS * once / _REACHED)

    def refuses(self, row: Row) -> str:
        """Why a row is too much, "" if it is not."""
        seconds = self.expected(row)
        if self.seconds is not None and seconds > self.seconds:
            return f"would take some {seconds:.0f} s, more than the {self.seconds:g} s of --row-limit"
        need = (row.held or row.bytes) * (_OWN + _EACH * self.peers)
        free = self.memory if self.memory is not None else free_memory()
        if free is not None and need > _USABLE * free:
            return (
                f"needs some {need / 1e9:.1f} GB with the copies of its peers, {free / 1e9:.1f} GB are free"
            )
        return ""


def free_memory() -> float | None:
    """Bytes that programs can still have without swapping; None where the system does not say."""
    try:
        with Path("/proc/meminfo").open() as lines:
            return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


class Budget:
    """Spreads seconds over the rows that are left: they are measured for less time and, where that is not enough,
    left out evenly over the whole list."""

    def __init__(self, seconds: float | None, rows: Sequence[Row], limits: Limits):
        self.end = None if seconds is None else time.perf_counter() + seconds
        self.limits = limits
        self.left = sum(map(limits.expected, rows))  # seconds that the rows should take
        self.credit = 1.0  # the first row runs, so that there is something to go by
        self.slowness = 1.0  # of this machine, lately: seconds taken by seconds expected

    def next_row(self, row: Row, plan: Plan) -> Plan | None:
        """How to measure the next row, or None if it has to be left out."""
        if self.end is None:
            return plan
        now, expected = time.perf_counter(), self.limits.expected(row)
        part = (self.end - now) / (self.left * self.slowness)  # of the rows that can still run
        self.left -= expected
        self.credit = min(self.credit + part, 1.0 + part)
        if self.credit < 1.0 or part <= 0:
            return None
        self.credit -= 1.0
        return replace(plan, seconds=min(plan.seconds, _MEASURED * part * expected))

    def took(self, row: Row, seconds: float) -> None:
        """Learns from a row that ran."""
        self.slowness += _LATELY * (seconds / self.limits.expected(row) - self.slowness)
