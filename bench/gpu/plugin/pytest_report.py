"""A pytest plugin: one line of JSON per finished test into $FASTDL_TEST_REPORT, at once, so that a run that is stopped
has told what it knew."""

from __future__ import annotations

import json
import os
from typing import Any

_LONGEST = 300


def pytest_runtest_logreport(report: Any) -> None:
    """Called where the tests are reported: with pytest-xdist, in the process that hands them out."""
    path = os.environ.get("FASTDL_TEST_REPORT")
    if path is None or "PYTEST_XDIST_WORKER" in os.environ:
        return
    if report.when == "call" or report.outcome != "passed":
        if report.when == "teardown" and report.outcome == "passed":
            return
        why = ""
        if report.outcome == "skipped":
            why = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        elif report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash is not None else str(report.longrepr)
        line = {"test": report.nodeid, "outcome": report.outcome, "why": " ".join(why.split())[:_LONGEST]}
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
