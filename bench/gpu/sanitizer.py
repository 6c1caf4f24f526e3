"""Stage: every kernel on small arrays (small_calls.py) under compute-sanitizer, where that is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from stage import Stage, brief, main

TOOLS = ("memcheck", "racecheck", "initcheck")
CALLS = Path(__file__).parent / "small_calls.py"
_PRINTED = 30  # lines of a report that are kept


def program() -> str | None:
    """compute-sanitizer."""
    return shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")


def run(stage: Stage, name: str, command: list[str], seconds: float) -> None:
    """One pass: its summary line and what it printed of errors."""
    begin = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        output, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        output, status = str(late.stdout or ""), None
    print(output)
    found = {"status": status, "seconds": round(time.monotonic() - begin, 1)}
    for key, pattern in (
        ("summary", r"(?:ERROR|RACECHECK) SUMMARY: .*"),
        ("calls", r"called \d+ functions.*"),
    ):
        match = re.search(pattern, output)
        found[key] = match[0] if match else None
    errors = [line for line in output.splitlines() if line.startswith("=========")]
    found["printed"] = errors[:_PRINTED]
    stage.found[name] = found
    if status is None:
        stage.problem(f"{name}: stopped after {seconds:.0f} s")
    elif status:
        stage.problem(f"{name}: exit status {status}: {found['summary'] or brief(output[-300:])}")
    stage.save()


def body(stage: Stage) -> None:
    tool = program()
    calls = [sys.executable, str(CALLS), stage.device]
    if stage.simulated:
        run(stage, "without a tool", [*calls, "20"], stage.left - 3)
    if tool is None:
        stage.found["missing"] = "compute-sanitizer is not installed"
        return
    if stage.simulated:
        return
    share = (stage.left - 3) / len(TOOLS)
    for name in TOOLS:
        options = [f"--tool={name}", "--error-exitcode=86", "--print-limit=20"]
        run(stage, name, [tool, *options, *calls, str(share * 0.7)], share)


if __name__ == "__main__":
    main(body)
