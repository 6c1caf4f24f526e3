"""Text for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .machine import Peaks
from .runner import FAILED, LATE, OK, SKIPPED, Outcome
from .timing import OURS, quartiles

SCHEMA = "fastdl-bench/1"
_TIE = 0.03


def header(env: dict[str, Any], peaks: Peaks, missing: dict[str, str]) -> str:
    """The machine, versions and ceilings."""
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    lines = [
        f"{env['gpu']}, {env['isa']}; {env['cpu']}"
        if "gpu" in env
        else f"{env['cpu']}, {env['isa']}, {_count(env['threads'], 'thread')} on {_count(env['cores'], 'CPU')}"
        + (f", commit {env['commit']}" if env["commit"] else ""),
        versions,
        ceilings(peaks),
    ]
    lines += [f"{name} takes no part: {reason}" for name, reason in missing.items()]
    lines.append(
        f"\n{'row':<66} {'time':>8} {'IQR':>5} {'GFLOP/s':>8} {'GB/s':>6} {'roof':>9} {'error':>8}  peers (time / ours)"
    )
    return "\n".join(lines)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n > 1 else ''}"


def ceilings(peaks: Peaks) -> str:
    """The measured peaks."""
    bfloat16 = peaks.flops.get("bfloat16")
    copies = ", ".join(f"{name} {rate:.0f}" for name, _, rate in peaks.copy)
    return (
        f"peaks: float32 {peaks.flops['float32']:.0f} GFLOP/s, bfloat16 "
        + (f"{bfloat16:.0f} GFLOP/s" if bfloat16 else "n/a")
        + f"; copy {copies} GB/s"
    )


def line(outcome: Outcome) -> str:
    """One row."""
    row = outcome.row
    name = row.key + (f" ({row.note})" if row.note else "")
    if outcome.status != OK:
        label = {FAILED: "FAILED", SKIPPED: "skipped", LATE: "not run"}[outcome.status]
        return f"{name:<66} {label}: {outcome.reason}"
    low, middle, high = outcome.seconds
    rate = f"{row.flops / middle / 1e9:8.1f}" if row.flops else f"{'':8}"
    roof = f"{outcome.roofline:4.0%} {outcome.bound:>4}" if outcome.roofline else "n/a"
    return (
        f"{name:<66} {duration(middle):>8} {(high - low) / middle:5.0%} {rate} {row.bytes / middle / 1e9:6.1f} "
        f"{roof:>9} {outcome.error:8.1e}  {_peers(outcome)}"
    )


def _peers(outcome: Outcome) -> str:
    best = outcome.best
    if best is None:
        return ""
    names = sorted((n for n in outcome.samples if n not in (OURS, best)), key=lambda n: outcome.ratio(n)[1])
    low, middle, high = outcome.ratio(best)
    text = f"{'~' if outcome.noisy else ''}{middle:.2f}x {best} ({low:.2f}-{high:.2f})"
    return ", ".join([text, *(f"{outcome.ratio(name)[1]:.2f} {name}" for name in names)])


def geomean(values: Iterable[float]) -> float:
    """The geometric mean, NaN of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Per group, dtype and direction: rows, geometric mean and worst of the ratio to each row's best peer, wins, ties
    (within 3 %) and losses, and the mean fraction of the ceiling."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status == OK:
            row = outcome.row
            groups.setdefault(f"{row.group} {row.dtype} {row.direction}", []).append(outcome)
    result = {}
    for name, members in groups.items():
        ratios = {o.row.key: o.ratio(o.best)[1] for o in members if o.best}
        roofs = [o.roofline for o in members if o.roofline]
        worst = min(ratios, key=ratios.__getitem__, default=None)
        result[name] = {
            "rows": len(members),
            "compared": len(ratios),
            "geomean": geomean(ratios.values()) if ratios else None,
            "worst": ratios[worst] if worst else None,
            "worst_row": worst,
            "wins": sum(r > 1 + _TIE for r in ratios.values()),
            "ties": sum(abs(r - 1) <= _TIE for r in ratios.values()),
            "losses": sum(r < 1 - _TIE for r in ratios.values()),
            "roofline": geomean(roofs) if roofs else None,
            "lowest_roofline": min(roofs, default=None),
        }
    return result


def footer(outcomes: Sequence[Outcome]) -> str:
    """Geometric means per group, the worst five rows, what failed."""
    lines = [
        "",
        f"{'group':<42} {'rows':>5} {'geomean':>8} {'worst':>6} {'won':>4} {'tied':>4} {'lost':>4} {'roofline':>9}"
        "  worst row",
    ]
    for name, s in summary(outcomes).items():
        ratio = f"{s['geomean']:7.2f}x {s['worst']:5.2f}x" if s["geomean"] else f"{'':8} {'':6}"
        roof = f"{s['roofline']:9.0%}" if s["roofline"] else f"{'n/a':>9}"
        score = f"{s['wins']:>4} {s['ties']:>4} {s['losses']:>4}"
        lines.append(f"{name:<42} {s['rows']:>5} {ratio} {score} {roof}  {s['worst_row'] or ''}")
    lines += _libraries([o for o in outcomes if o.status == OK])
    lines += _spread([o for o in outcomes if o.status == OK and o.row.group == "sweep"])
    compared = [o for o in outcomes if o.status == OK and o.best]
    if len(compared) > 5:
        lines.append("\nworst five:")
        lines += [f"  {line(o)}" for o in sorted(compared, key=lambda o: o.ratio(o.best or "")[1])[:5]]
    noisy = sum(o.noisy for o in compared)
    if noisy:
        lines.append(
            f"\n~ {_count(noisy, 'row')} whose ratio varied too much to mean anything: something else was running"
        )
    absent = Counter(f"{name} {reason}" for o in outcomes for name, reason in o.skipped.items())
    if absent:
        lines.append(
            "\ntook no part: " + "; ".join(f"{text} ({_count(n, 'row')})" for text, n in absent.items())
        )
    for status in (FAILED, SKIPPED, LATE):
        members = [o for o in outcomes if o.status == status]
        if members:
            reasons = dict.fromkeys(o.reason for o in members)
            lines.append(f"\n{_count(len(members), 'row')} {status}: {'; '.join(list(reasons)[:3])}")
    return "\n".join(lines)


def _libraries(outcomes: Sequence[Outcome]) -> list[str]:
    """Each peer by itself, over the rows it took part in."""
    ratios: dict[str, list[float]] = {}
    for outcome in outcomes:
        best: dict[str, float] = {}
        for name in outcome.samples:
            if name != OURS:
                library, ratio = name.split()[0], outcome.ratio(name)[1]
                best[library] = min(ratio, best.get(library, ratio))
        for library, ratio in best.items():
            ratios.setdefault(library, []).append(ratio)
    parts = [f"{name} {geomean(r):.2f}x ({_count(len(r), 'row')})" for name, r in ratios.items()]
    return ["", f"geometric mean over each peer's rows: {', '.join(parts)}"] if len(parts) > 1 else []


def _spread(outcomes: Sequence[Outcome]) -> list[str]:
    """How even the cost per operation is over the sizes of a sweep, each size at its best."""
    lines = []
    for name in dict.fromkeys(n for o in outcomes for n in o.samples):
        costs = {
            o.row.shape: min(o.samples[name]) / o.row.flops * 1e12
            for o in outcomes
            if len(o.samples.get(name, ())) > 1
        }
        if len(costs) < 2:
            continue
        low, middle, high = quartiles(list(costs.values()))
        dearest = max(costs, key=costs.__getitem__)
        lines.append(
            f"cost per operation over {len(costs)} sizes, {name}: median {middle:.3f} ps ({low:.3f}-{high:.3f}), "
            f"lowest {min(costs.values()):.3f}, highest {costs[dearest]:.3f} at {dearest}: "
            f"{costs[dearest] / min(costs.values()):.2f}x apart"
        )
    return ["", *lines] if lines else []


def document(
    outcomes: Sequence[Outcome], env: dict[str, Any], peaks: Peaks, missing: dict[str, str]
) -> dict[str, Any]:
    """What --json writes; docs/benchmarks.md describes it."""
    return {
        "schema": SCHEMA,
        "environment": env,
        "peaks": {
            "gflops": peaks.flops,
            "copy": [
                {"level": n, "bytes": None if math.isinf(b) else b, "gbytes": r} for n, b, r in peaks.copy
            ],
        },
        "missing": missing,
        "summary": summary(outcomes),
        "rows": [_entry(outcome, env["isa"]) for outcome in outcomes],
    }


def _entry(outcome: Outcome, isa: str) -> dict[str, Any]:
    row = outcome.row
    entry: dict[str, Any] = {
        "key": row.key,
        "group": row.group,
        "op": row.op,
        "shape": row.shape,
        "dtype": row.dtype,
        "direction": row.direction,
        "note": row.note,
        "isa": isa,
        "status": outcome.status,
        "reason": outcome.reason,
        "flops": row.flops,
        "bytes": row.bytes,
        "error": outcome.error,
        "limit": outcome.limit,
        "skipped": outcome.skipped,
    }
    if outcome.samples:
        low, middle, high = outcome.seconds
        entry |= {
            "seconds": middle,
            "seconds_quartiles": [low, high],
            "gflops": row.flops / middle / 1e9,
            "gbytes": row.bytes / middle / 1e9,
            "roofline": outcome.roofline,
            "bound": outcome.bound,
            "best": outcome.best,
            "noisy": outcome.noisy,
            "ratios": {n: list(outcome.ratio(n)) for n in outcome.samples if n != OURS},
            "samples": outcome.samples,
        }
    return entry


def write(path: str, value: dict[str, Any]) -> None:
    """Writes the JSON file in one go."""
    Path(path).write_text(json.dumps(value, indent=1) + "\n")


def duration(seconds: float) -> str:
    """A time with three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
