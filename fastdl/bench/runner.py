"""Runs rows: build, check, time, one after the other."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..autograd import inference_mode
from ..backend import release_memory
from .budget import Budget, Limits
from .machine import Peaks
from .peers import ONE_THREAD, Peers, to_numpy, with_one_thread
from .rows import NARROW, WITHOUT_GRAPH, Contest, Row, brief
from .timing import OURS, Plan, measure, quartiles

_ANY = (TypeError, ValueError, RuntimeError, MemoryError)
#: Of the quartiles of a ratio, by its median: neighbouring calls of two libraries differ by a few percent on an idle
#: machine, and half of the rounds being this far apart says that something else was running.
NOISY = 0.25
INTERRUPTED = "interrupted"
OK, FAILED, SKIPPED, LATE = "ok", "failed", "skipped", "not run"


@dataclass
class Outcome:
    """What came out of a row. status: "ok", "failed" (wrong or an error: ``reason``), "skipped" (fastdl does not do
    this, or it needs more time or memory than there is), "not run" (the time budget was spent). samples: seconds per
    call, round by round, of fastdl and of each peer variant. Peers that cannot take part stand in ``skipped`` with the
    reason."""

    row: Row
    status: str
    reason: str = ""
    error: float | None = None
    limit: float | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    floor: float | None = None
    bound: str = ""

    def hold_against(self, peaks: Peaks) -> None:
        """Sets the shortest possible time and what bounds it."""
        self.floor, self.bound = peaks.floor(self.row) or (None, "")

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Quartiles of fastdl's time."""
        return quartiles(self.samples[OURS])

    def ratio(self, peer: str) -> tuple[float, float, float]:
        """Quartiles of the peer's time by ours, round by round: above 1 fastdl is faster."""
        pairs = zip(self.samples[OURS], self.samples[peer])
        return quartiles([theirs / ours for ours, theirs in pairs])

    @property
    def best(self) -> str | None:
        """The fastest peer."""
        peers = [name for name in self.samples if name != OURS]
        return min(peers, key=lambda name: quartiles(self.samples[name])[1], default=None)

    @property
    def noisy(self) -> bool:
        """Whether the ratio to the best peer varied too much from round to round to mean anything."""
        if self.best is None:
            return False
        low, middle, high = self.ratio(self.best)
        return high - low > NOISY * middle

    @property
    def roofline(self) -> float | None:
        """The fraction of the ceiling that was reached."""
        return self.floor / self.seconds[1] if self.floor and self.samples else None


def run(
    rows: Sequence[Row],
    peers: Peers,
    limits: Limits,
    plan: Plan,
    budget: float | None = None,
    report: Callable[[Outcome], None] = lambda outcome: None,
    start: Callable[[Row], None] = lambda row: None,
) -> list[Outcome]:
    """All rows, each reported as soon as it is done. Rows that need more than ``limits`` are "skipped". With a budget
    in seconds, rows are measured for less time and, where that is not enough, left out evenly over the whole list:
    those are "not run", as are the rest after Ctrl-C."""
    outcomes: list[Outcome] = []
    interrupted = False
    gc.collect()
    gc.freeze()  # the libraries' own objects, which would make each later collection take a tenth of a second
    refused = {row.key: limits.refuses(row) for row in rows}
    clock = Budget(budget, [row for row in rows if not refused[row.key]], limits)

    def measured(row: Row) -> Outcome:
        start(row)
        reason = refused[row.key] or limits.refuses(row)  # memory may have gone meanwhile
        if reason:
            return Outcome(row, SKIPPED, reason)
        if interrupted:
            return Outcome(row, LATE, INTERRUPTED)
        share = clock.next_row(row, plan)
        if share is None:
            return Outcome(row, LATE, "no time left for it in the budget")
        begin = time.perf_counter()
        outcome = run_row(row, peers, share)
        clock.took(row, time.perf_counter() - begin)
        outcome.hold_against(limits.peaks)
        return outcome

    try:
        for row in rows:
            try:
                outcomes.append(measured(row))
            except KeyboardInterrupt:  # what was measured is still written
                interrupted = True
                outcomes.append(Outcome(row, LATE, INTERRUPTED))
            try:
                report(outcomes[-1])
            except KeyboardInterrupt:
                interrupted = True
    finally:
        gc.unfreeze()
    return outcomes


def run_row(row: Row, peers: Peers, plan: Plan) -> Outcome:
    """One row: its contest is built, checked and timed. Never raises for what a kernel or a peer does."""
    gc.collect()
    release_memory()
    peers.device.release()
    try:
        contest = row.make(peers)
    except _ANY as problem:
        return _refused(row, problem)
    with contextlib.ExitStack() as modes:
        if row.direction in WITHOUT_GRAPH:  # entered once: a call of microseconds should not pay for it
            modes.enter_context(inference_mode())
            if "torch" in peers.modules:
                modes.enter_context(peers.modules["torch"].inference_mode())
        return _run(row, contest, peers, plan)


def _refused(row: Row, problem: Exception) -> Outcome:
    if isinstance(problem, MemoryError):
        return Outcome(row, SKIPPED, brief(f"not enough memory: {problem}"))
    if isinstance(problem, TypeError) and row.dtype in NARROW:
        return Outcome(row, SKIPPED, brief(problem))  # not every op takes every narrow dtype
    return Outcome(row, FAILED, brief(f"{type(problem).__name__}: {problem}"))


def _run(row: Row, contest: Contest, peers: Peers, plan: Plan) -> Outcome:
    try:
        outputs = contest.ours()
    except _ANY as problem:
        return _refused(row, problem)
    with peers.single_numpy():
        error = contest.error(peers.device.host(outputs))
    outcome = Outcome(row, OK, error=error, limit=contest.limit, skipped=contest.skipped)
    if not error <= contest.limit:
        outcome.status = FAILED
        outcome.reason = f"error {error:.2g}, at most {contest.limit:.2g} is right"
        return outcome
    _check_peers(contest, peers)
    del outputs
    contest.after_check()
    if peers.one_thread:
        contest.calls[ONE_THREAD] = with_one_thread(contest.ours, peers.threads)
    outcome.samples = measure({OURS: contest.ours, **contest.calls}, plan, peers.device.wait)
    return outcome


def _check_peers(contest: Contest, peers: Peers) -> None:
    """Calls every peer once; one that raises, or computes something else, is taken out."""
    for name, call in list(contest.calls.items()):
        try:
            outputs: Any = call()
            as_ours = contest.converted.get(name)
            if as_ours is not None:
                with peers.single_numpy():
                    error = contest.error(as_ours([to_numpy(value) for value in outputs]))
                if not error <= 30 * contest.limit:
                    contest.drop(name, f"another result (error {error:.2g})")
        except Exception as problem:
            contest.drop(name, problem)
