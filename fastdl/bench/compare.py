"""``fastdl bench compare OLD.json NEW.json`` and ``--baseline``: which rows became faster or slower."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .report import geomean
from .runner import OK

MACHINE = ("cpu", "cores", "isa", "threads", "device", "gpu")  # where these are equal, times can be compared
FASTER, SLOWER, SAME, UNSURE = "FASTER", "SLOWER", "SAME", "UNSURE"
_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Verdict:
    """change: speed of the new run by the old one's, above 1 is faster; low and high bound it with 99 % confidence (0
    and infinity if the rounds are too few for that). against: the peer that the speeds are measured by, "" for the
    clock."""

    key: str
    group: str
    verdict: str
    change: float
    low: float
    high: float
    against: str


@functools.cache
def _rank(n: int, m: int) -> int:
    """Which of the n * m ordered differences bounds their shift from below: the largest k for which the Mann-Whitney
    statistic is less than k with probability at most (1 - confidence) / 2 in samples of one distribution. 0: none."""
    # How many of the orders of n and m values have each value of the statistic: the coefficients of the Gaussian
    # binomial coefficient of n + m over n, the product of (1 - q^(m+i)) / (1 - q^i).
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for j in range(n * m, m + i - 1, -1):
            counts[j] -= counts[j - m - i]
        for j in range(i, n * m + 1):
            counts[j] += counts[j - i]
    limit = (1 - _CONFIDENCE) / 2 * math.comb(n + m, n)
    return sum(total <= limit for total in itertools.accumulate(counts))


def change_between(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """(change, low, high) from ``old`` to ``new``, positive samples: the median of all quotients, and around it the
    exact interval of the Mann-Whitney test (Hodges & Lehmann 1963; Hollander, Wolfe & Chicken 2014, section 4.3), which
    supposes no shape of the distribution."""
    differences = np.sort(np.subtract.outer(np.log(new), np.log(old)).ravel())
    k = _rank(len(old), len(new))
    low, high = (differences[k - 1], differences[-k]) if k else (-math.inf, math.inf)
    return float(np.exp(np.median(differences))), float(np.exp(low)), float(np.exp(high))


def verdict(change: tuple[float, float, float], margin: float) -> str:
    """FASTER or SLOWER if the whole interval lies beyond the margin, SAME if it lies within, else UNSURE."""
    _, low, high = change
    if low > 1 + margin:
        return FASTER
    if high < 1 / (1 + margin):
        return SLOWER
    return SAME if low >= 1 / (1 + margin) and high <= 1 + margin else UNSURE


def compare(old: dict[str, Any], new: dict[str, Any], margin: float) -> list[Verdict]:
    """A verdict for every row that both have. Speeds are ratios to a peer, round by round, where both have one in
    common, else times, if both are of one machine."""
    before = {row["key"]: row for row in old["rows"] if row.get("status") == OK and row.get("samples")}
    environments = [{"device": "cpu"} | d["environment"] for d in (old, new)]  # older files are all of CPUs
    same = all(environments[0].get(k) == environments[1].get(k) for k in MACHINE)
    found = []
    for row in new["rows"]:
        was = before.get(row["key"])
        if was is None or row.get("status") != OK or not row.get("samples"):
            continue
        common = [n for n in row["ratios"] if n in was["ratios"]]
        # The peer that was measured most often, of those the one closest to us.
        peer = max(
            common,
            key=lambda n: (min(len(was["samples"][n]), len(row["samples"][n])), -row["ratios"][n][1]),
            default="",
        )
        if not peer and not same:
            continue
        change = change_between(*(_speeds(entry["samples"], peer) for entry in (was, row)))
        group = f"{row['group']} {row['dtype']} {row['direction']}"
        found.append(Verdict(row["key"], group, verdict(change, margin), *change, peer))
    return found


def _speeds(samples: dict[str, list[float]], peer: str) -> list[float]:
    ours = samples["fastdl"]
    return [b / a for a, b in zip(ours, samples[peer])] if peer else [1 / a for a in ours]


def text(verdicts: Sequence[Verdict], margin: float) -> str:
    """A line for each row that changed or cannot be told, the geometric means of the groups, and the counts."""
    if not verdicts:
        return "no row in common that was measured"
    lines = []
    for v in sorted(verdicts, key=lambda v: v.change):
        if v.verdict != SAME:
            by = f"by {v.against}" if v.against else "by the clock"
            lines.append(f"{v.verdict:<7} {v.change:5.2f}x ({v.low:.2f}-{v.high:.2f}) {v.key}, {by}")
    groups: dict[str, list[Verdict]] = {}
    for v in verdicts:
        groups.setdefault(v.group, []).append(v)
    if len(groups) > 1:
        lines += [
            f"{name:<42} {len(g):>4} rows {geomean(v.change for v in g):.3f}x" for name, g in groups.items()
        ]
    counts = Counter(v.verdict for v in verdicts)
    total = ", ".join(f"{counts[name]} {name}" for name in (FASTER, SLOWER, SAME, UNSURE))
    chance = len(verdicts) * (1 - _CONFIDENCE)
    lines.append(
        f"{len(verdicts)} rows: {total}; geometric mean {geomean(v.change for v in verdicts):.3f}x "
        f"(margin {margin:.0%}, {_CONFIDENCE:.0%} confidence: had nothing changed, chance would call {chance:.2g} of "
        "them FASTER or SLOWER at most)"
    )
    return "\n".join(lines)
