"""Runs rows: build, check, time, one after the other."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .machine import Peaks
from .peers import Peers, to_numpy
from .rows import NARROW, Contest, Row, brief
from .timing import OURS, Plan, measure, quartiles

OK, FAILED, SKIPPED, LATE = "ok", "failed", "skipped", "not run"


@dataclass
class Outcome:
    """What came out of a row. status: "ok", "failed" (wrong or an error: ``reason``), "skipped" (fastdl does not do
    this), "not run" (the time budget was spent). samples: seconds per call, round by round, of fastdl and of each
    peer variant. Peers that cannot take part stand in ``skipped`` with the reason."""

    row: Row
    status: str
    reason: str = ""
    error: float | None = None
    limit: float | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    floor: float | None = None
    bound: str = ""

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
    def roofline(self) -> float | None:
        """The fraction of the ceiling that was reached."""
        return self.floor / self.seconds[1] if self.floor and self.samples else None


def run(
    rows: Sequence[Row],
    peers: Peers,
    peaks: Peaks,
    plan: Plan,
    budget: float | None = None,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """All rows, each reported as soon as it is done. With a budget in seconds, every row gets an equal part of what is
    left, and those for which nothing is left are "not run"."""
    begin = time.perf_counter()
    outcomes = []
    for i, row in enumerate(rows):
        share = plan
        if budget is not None:
            left = budget - (time.perf_counter() - begin)
            if left <= 0:
                outcomes.append(Outcome(row, LATE, "the time budget was spent"))
                report(outcomes[-1])
                continue
            # Building and checking takes about as long as timing does.
            share = replace(plan, seconds=min(plan.seconds, left / (len(rows) - i) / 2))
        outcome = run_row(row, peers, share)
        floor = peaks.floor(row)
        if floor:
            outcome.floor, outcome.bound = floor
        outcomes.append(outcome)
        report(outcome)
    return outcomes


def run_row(row: Row, peers: Peers, plan: Plan) -> Outcome:
    """One row: its contest is built, checked and timed. Never raises for what a kernel or a peer does."""
    try:
        contest = row.make(peers)
        outputs = contest.ours()
    except (TypeError, ValueError, RuntimeError, MemoryError) as problem:
        if isinstance(problem, TypeError) and row.dtype in NARROW:
            return Outcome(row, SKIPPED, brief(problem))  # not every op takes every narrow dtype
        return Outcome(row, FAILED, brief(f"{type(problem).__name__}: {problem}"))
    error = contest.error(outputs)
    outcome = Outcome(row, OK, error=error, limit=contest.limit, skipped=contest.skipped)
    if not error <= contest.limit:
        outcome.status = FAILED
        outcome.reason = f"error {error:.2g}, at most {contest.limit:.2g} is right"
        return outcome
    _check_peers(contest)
    del outputs
    if contest.after_check:
        contest.after_check()
    gc.collect()
    outcome.samples = measure({OURS: contest.ours, **contest.calls}, plan)
    return outcome


def _check_peers(contest: Contest) -> None:
    """Calls every peer once; one that raises, or computes something else, is taken out."""
    for name, call in list(contest.calls.items()):
        try:
            outputs: Any = call()
            if name in contest.checked:
                error = contest.error([to_numpy(value) for value in outputs])
                if not error <= 30 * contest.limit:
                    contest.drop(name, f"another result (error {error:.2g})")
        except Exception as problem:
            contest.drop(name, problem)
