"""Comparison with an earlier run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .report import SCHEMA, geomean
from .runner import OK, Outcome
from .timing import quartiles

MACHINE = ("cpu", "cores", "isa", "threads")


@dataclass(frozen=True)
class Change:
    """How a row's speed changed: above 1 it is faster now. ratio: of the ratios to the best common peer, None without
    one. time: of fastdl's times, None on another machine. certain: the quartiles of then and now do not overlap."""

    key: str
    group: str
    ratio: float | None
    time: float | None
    certain: bool

    @property
    def value(self) -> float:
        """The ratio's change where there is one (it holds on a busy machine), else the time's."""
        change = self.ratio if self.ratio is not None else self.time
        return 1.0 if change is None else change


def load(path: str) -> dict[str, Any]:
    """Reads a file that --json wrote. Raises ValueError where it is none, OSError where it cannot be read."""
    try:
        found = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path}: not a JSON file: {problem}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        schema = found.get("schema") if isinstance(found, dict) else None
        raise ValueError(f"{path}: expected a file of fastdl bench --json ({SCHEMA}), got schema {schema!r}")
    if not isinstance(found.get("rows"), list) or not isinstance(found.get("environment"), dict):
        raise ValueError(f"{path}: rows or environment are missing")
    return found


def compare(outcomes: Sequence[Outcome], env: dict[str, Any], old: dict[str, Any]) -> list[Change]:
    """The changes of all rows that both runs have."""
    before = {row["key"]: row for row in old["rows"] if row.get("status") == OK and row.get("samples")}
    same = all(env.get(k) == old["environment"].get(k) for k in MACHINE)
    changes = []
    for outcome in outcomes:
        row = before.get(outcome.row.key)
        if outcome.status != OK or row is None:
            continue
        group = f"{outcome.row.group} {outcome.row.dtype} {outcome.row.direction}"
        low, middle, high = outcome.seconds
        was_low, was, was_high = quartiles(row["samples"]["fastdl"])
        time = was / middle if same else None
        apart = high < was_low or was_high < low
        ratio = None
        common = [n for n in row["ratios"] if n in outcome.samples]
        if common:
            # The best of the common peers, in each run: which variant won does not matter.
            now_ratio = min((outcome.ratio(n) for n in common), key=lambda q: q[1])
            was_ratio = min((row["ratios"][n] for n in common), key=lambda q: q[1])
            ratio = now_ratio[1] / was_ratio[1]
            apart = now_ratio[2] < was_ratio[0] or was_ratio[2] < now_ratio[0]
        if ratio is not None or time is not None:
            changes.append(Change(outcome.row.key, group, ratio, time, apart))
    return changes


def slower(changes: Sequence[Change], fraction: float) -> list[Change]:
    """Those that certainly lost more than ``fraction`` of their speed, the worst first."""
    lost = [c for c in changes if c.certain and c.value < 1 - fraction]
    return sorted(lost, key=lambda c: c.value)


def text(changes: Sequence[Change], old: dict[str, Any], path: str, fraction: float) -> str:
    """The comparison for people."""
    env = old["environment"]
    lines = [
        f"\nagainst {path} ({env.get('cpu')}, {env.get('isa')}, commit {env.get('commit') or '?'}, {env.get('time')}):"
    ]
    if not changes:
        return f"{lines[0]} no row in common"
    groups: dict[str, list[Change]] = {}
    for change in changes:
        groups.setdefault(change.group, []).append(change)
    for name, members in groups.items():
        times = [c.time for c in members if c.time is not None]
        ratios = [c.ratio for c in members if c.ratio is not None]
        parts = []
        if ratios:
            parts.append(f"ratio to peers {geomean(ratios):.3f}x")
        if times:
            parts.append(f"speed {geomean(times):.3f}x")
        lines.append(f"  {name:<42} {len(members):>4} rows  {', '.join(parts)}")
    for change in slower(changes, fraction):
        lines.append(f"  slower: {change.key}: {change.value:.2f}x")
    return "\n".join(lines)
