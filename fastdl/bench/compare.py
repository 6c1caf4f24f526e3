"""``fastdl bench compare OLD.json NEW.json``: which rows became faster or slower, and which cannot be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .baseline import MACHINE
from .report import geomean
from .runner import OK

FASTER, SLOWER, SAME, UNSURE = "FASTER", "SLOWER", "SAME", "UNSURE"
_RESAMPLES = 2000
_CONFIDENCE = 0.99
_FEWEST = 4  # rounds: fewer medians than that can be resampled from fewer say nothing


@dataclass(frozen=True)
class Verdict:
    """change: speed of the new run by the old one's, above 1 is faster; low and high bound it with 99 % confidence.
    against: the peer that the speeds are measured by, "" for the clock."""

    key: str
    verdict: str
    change: float
    low: float
    high: float
    against: str


def change_of_medians(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """(change, low, high) of the median of ``new`` by that of ``old``: a percentile bootstrap of 2,000 resamples of
    both (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13), 99 % confidence, always the same
    resamples. Samples are positive."""
    rng = np.random.default_rng(0)
    medians = []
    for values in (old, new):
        drawn = rng.integers(0, len(values), (_RESAMPLES, len(values)))
        medians.append(np.median(np.log(np.asarray(values))[drawn], axis=1))
    outside = 50 * (1 - _CONFIDENCE)
    low, high = np.exp(np.percentile(medians[1] - medians[0], [outside, 100 - outside]))
    return float(np.median(new) / np.median(old)), float(low), float(high)


def verdict(change: tuple[float, float, float], rounds: int, margin: float) -> str:
    """FASTER or SLOWER if the whole interval lies beyond the margin, SAME if it lies within, else UNSURE."""
    _, low, high = change
    if rounds < _FEWEST:
        return UNSURE
    if low > 1 + margin:
        return FASTER
    if high < 1 / (1 + margin):
        return SLOWER
    return SAME if low >= 1 / (1 + margin) and high <= 1 + margin else UNSURE


def compare(old: dict[str, Any], new: dict[str, Any], margin: float) -> list[Verdict]:
    """A verdict for every row that both have. Speeds are ratios to a peer, round by round, where both have one in
    common, else times, if both are of one machine."""
    before = {row["key"]: row for row in old["rows"] if row.get("status") == OK and row.get("samples")}
    same = all(old["environment"].get(k) == new["environment"].get(k) for k in MACHINE)
    found = []
    for row in new["rows"]:
        was = before.get(row["key"])
        if was is None or row.get("status") != OK or not row.get("samples"):
            continue
        common = [n for n in row["ratios"] if n in was["ratios"]]
        # The peer that was measured most often, of those the one closest to us.
        peer = max(common, key=lambda n: (len(row["samples"][n]), -row["ratios"][n][1]), default="")
        if not peer and not same:
            continue
        series = [_speeds(entry["samples"], peer) for entry in (was, row)]
        change = change_of_medians(*series)
        found.append(Verdict(row["key"], verdict(change, min(map(len, series)), margin), *change, peer))
    return found


def _speeds(samples: dict[str, list[float]], peer: str) -> list[float]:
    ours = samples["fastdl"]
    return [b / a for a, b in zip(ours, samples[peer])] if peer else [1 / a for a in ours]


def text(verdicts: Sequence[Verdict], margin: float) -> str:
    """A line for each row that changed or cannot be told, and the counts."""
    if not verdicts:
        return "no row in common that was measured"
    lines = []
    for v in sorted(verdicts, key=lambda v: v.change):
        if v.verdict != SAME:
            by = f"by {v.against}" if v.against else "by the clock"
            lines.append(f"{v.verdict:<7} {v.change:5.2f}x ({v.low:.2f}-{v.high:.2f}) {v.key}, {by}")
    counts = Counter(v.verdict for v in verdicts)
    total = ", ".join(f"{counts[name]} {name}" for name in (FASTER, SLOWER, SAME, UNSURE))
    lines.append(
        f"{len(verdicts)} rows: {total}; geometric mean {geomean(v.change for v in verdicts):.3f}x "
        f"(margin {margin:.0%}, {_CONFIDENCE:.0%} confidence)"
    )
    return "\n".join(lines)
