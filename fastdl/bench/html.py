"""The report of a run as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any


def page(document: dict[str, Any]) -> str:
    """document: what --json writes. Its samples are left out, medians and quartiles stay."""
    rows = [{k: _known(v) for k, v in row.items() if k != "samples"} for row in document["rows"]]
    # As JSON inside a script element, where only "<" could end it.
    data = json.dumps({**document, "rows": rows}, allow_nan=False).replace("<", "\\u003c")
    return files(__package__).joinpath("report.html").read_text("utf-8").replace("{{document}}", data)


def _known(value: Any) -> Any:
    """JSON has no NaN and no infinity, which errors of wrong results can be."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: str, document: dict[str, Any]) -> None:
    """Writes the page."""
    Path(path).write_text(page(document), "utf-8")
