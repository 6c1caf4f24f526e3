"""Which rows a command line asks for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .rows import DTYPES, Row

FAMILIES = ("matmul", "conv", "rnn", "attention", "elementwise", "train")
ALL = "all"  # the suite of all rows but those that are about something else than speed beside peers:
_SPECIAL = ("scaling", "sweep")


def family(name: str) -> Any:
    """The module of a family."""
    return import_module(f"{__package__}.{name}")


def suites() -> dict[str, list[str]]:
    """The names of all suites, and the families that have them."""
    found: dict[str, list[str]] = {ALL: list(FAMILIES)}
    for name in FAMILIES:
        for suite in family(name).SUITES:
            found.setdefault(suite, []).append(name)
    return found


def _suites_of(name: str, wanted: Sequence[str]) -> list[str]:
    """Those of a family that are wanted."""
    own = family(name).SUITES
    return (
        [s for s in own if s not in _SPECIAL or s in wanted]
        if ALL in wanted
        else [s for s in wanted if s in own]
    )


def select(
    families: Sequence[str],
    names: Sequence[str],
    dtypes: Sequence[str],
    direction: str = "both",
    filters: Sequence[str] = (),
    sample: int | None = None,
) -> list[Row]:
    """The rows of the suites in these families, each once.

    direction: "forward", "backward" (all rows that have a backward pass in them) or "both". filters: keep rows whose
    key contains all words of one of them. sample: at most so many rows of each group (see `thin`). Raises ValueError
    for a name that no suite, family or dtype has.
    """
    known = suites()
    for name in families:
        if name not in FAMILIES:
            raise ValueError(f"unknown family {name!r}: expected one of {', '.join(FAMILIES)}, all")
    for name in names:
        if name not in known:
            raise ValueError(f"unknown suite {name!r}: expected one of {', '.join(sorted(known))}")
        if not set(known[name]) & set(families):
            raise ValueError(
                f"suite {name!r} belongs to {', '.join(known[name])}, not to {', '.join(families)}"
            )
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    rows: dict[str, Row] = {}
    for name in families:
        for suite in _suites_of(name, names):
            for dtype in dtypes:
                for row in family(name).rows(suite, dtype):
                    rows.setdefault(row.key, row)
    kept = [
        row
        for row in rows.values()
        if (direction == "both" or (row.direction == "forward") == (direction == "forward"))
        and (not filters or any(all(word in row.key for word in f.split()) for f in filters))
    ]
    return thin(kept, sample) if sample else kept


def thin(rows: Sequence[Row], count: int) -> list[Row]:
    """At most ``count`` rows of each group, dtype and direction: one out of each of ``count`` equal stretches of the
    list, drawn at random (always the same). Every row has the same chance; taking each tenth would take one size alone
    where the sizes repeat after ten."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.group, row.dtype, row.direction), []).append(row)
    kept = set()
    for members in groups.values():
        rng = random.Random(0)
        length = len(members) / count
        if length > 1:
            kept |= {members[int((i + rng.random()) * length)].key for i in range(count)}
        else:
            kept |= {row.key for row in members}
    return [row for row in rows if row.key in kept]
