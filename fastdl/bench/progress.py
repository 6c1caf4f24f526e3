"""The rows as they come, and on a terminal a bar with the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from .budget import Limits
from .rows import Row

_NAME = 40  # characters of the row's name beside the bar


class Progress:
    """Prints lines to ``out``; a bar on ``err`` where that is a terminal. Time left goes by the rows' expected cost
    (with a time budget, by what is left of it); rows that a limit refuses cost nothing."""

    def __init__(
        self,
        rows: Sequence[Row],
        limits: Limits,
        budget: float | None = None,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ):
        self._out = sys.stdout if out is None else out
        self._limits = limits
        self._costs = {row.key: 0.0 if limits.refuses(row) else limits.expected(row) for row in rows}
        self._budget = budget
        self._begin = time.perf_counter()
        self._count = 0
        self._bar: Any = None
        err = sys.stderr if err is None else err
        if rows and err.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=budget or sum(self._costs.values()) or 1.0,
                file=err,
                leave=False,
                dynamic_ncols=True,
                smoothing=0.0,  # rows differ by thousands: the mean speed so far says more than the last ones'
                bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            )

    def start(self, row: Row) -> None:
        """A row begins."""
        self._count += 1
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._count}/{len(self._costs)} {row.key[:_NAME]}")

    def done(self, row: Row, line: str) -> None:
        """A row has ended: what there is to say about it."""
        if self._bar is None:
            print(line, file=self._out, flush=True)
            return
        self._bar.write(line, file=self._out)
        spent = time.perf_counter() - self._begin
        gone = min(spent, self._budget) - self._bar.n if self._budget else self._costs[row.key]
        self._bar.update(gone)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
