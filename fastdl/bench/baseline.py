"""Files of earlier runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .report import SCHEMA


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


def title(document: dict[str, Any], path: str) -> str:
    """Which run a file holds."""
    env = document["environment"]
    return (
        f"{path} ({env.get('cpu')}, {env.get('isa')}, commit {env.get('commit') or '?'}, {env.get('time')})"
    )
