"""Runs the stages one after the other, each in a process of its own with its own time limit, and puts what they found
into one JSON file. A stage that fails or runs out of time is noted, and the next one runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOTAL = 540.0  # seconds: ends well inside ten minutes
#: Each stage with the most seconds it may take. The longer ones end by themselves when their time is nearly up.
STAGES = {
    "device": 15.0,
    "build": 190.0,
    "golden": 50.0,
    "tests": 120.0,
    "sanitizer": 75.0,
    "ceilings": 20.0,
    "compare": 105.0,
}


def run_stage(name: str, limit: float, device: str, work: Path, log: Any) -> dict[str, Any]:
    """One stage: status "ok", "failed" or "timed out", what it found, and its problems."""
    result = work / f"{name}.json"
    command = [sys.executable, HERE / f"{name}.py", "--device", device, "--work", work]
    command += ["--json", result, "--limit", str(limit)]
    begin = time.monotonic()
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=_environment(work),
    )
    try:
        status = "ok" if process.wait(limit + 3) == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "timed out"
    finally:
        _end(process)
    report: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - begin, 1), "limit": limit}
    try:
        return {**report, **json.loads(result.read_text())}
    except (OSError, ValueError):
        return {
            **report,
            "found": {},
            "problems": [f"{name}.py left no result (exit status {process.poll()})"],
        }


def _end(process: subprocess.Popen) -> None:
    """Whatever a stage started goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(work: Path) -> dict[str, str]:
    """With the package that the build stage has installed, if it has, in front."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    paths = [str(work / "site"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    return environment


def summary(stages: dict[str, Any], tail: str) -> str:
    """What a person wants to know first."""
    lines = [f"{name}: {s['status']} ({s['seconds']:.0f} s)" for name, s in stages.items()]
    for name, s in stages.items():
        lines += [f"  {name}: {p}" for p in s["problems"][:20]]
    return "\n".join([*lines, tail])


def main() -> int:
    """Runs all stages. Returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--device", choices=("cuda", "cuda-sim"), default="cuda")
    parser.add_argument("--stages", default=",".join(STAGES), help="which of them, by commas")
    options = parser.parse_args()
    wanted = options.stages.split(",")
    if unknown := set(wanted) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + TOTAL
    stages: dict[str, Any] = {}
    results: dict[str, Any] = {
        "schema": 1,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
    }
    work = Path(tempfile.mkdtemp(prefix="fastdl-gpu-"))
    try:
        with open(out / "log.txt", "w") as log:
            for name in wanted:
                log.write(f"\n=== {name} ===\n")
                log.flush()
                left = end - time.monotonic() - 5
                if left < 5:
                    stages[name] = _not_run()
                else:
                    stages[name] = run_stage(name, min(STAGES[name], left), options.device, work, log)
                print(f"{name}: {stages[name]['status']} ({stages[name]['seconds']:.0f} s)", flush=True)
                results.update(_collected(stages))
                (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        for file in work.glob("*.npz"):
            shutil.copy(file, out / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    good = all(s["status"] == "ok" for s in stages.values())
    print(summary(stages, f"{out / 'results.json'}: {'all stages passed' if good else 'FAILED'}"))
    return 0 if good else 1


def _not_run() -> dict[str, Any]:
    problems = ["no time was left"]
    return {"status": "not run", "seconds": 0.0, "limit": 0.0, "found": {}, "problems": problems}


def _collected(stages: dict[str, Any]) -> dict[str, Any]:
    """The results by what they are about; what each stage came to beside them."""
    found = {name: s["found"] for name, s in stages.items()}
    about = {
        "stages": {
            name: {k: s[k] for k in ("status", "seconds", "limit", "problems")} for name, s in stages.items()
        }
    }
    rows = found.get("compare", {}).get("rows", [])
    copied = found.get("ceilings", {}).get("copy_gigabytes_per_second")
    for row in rows:
        if row["family"] == "memory" and copied and "gigabytes_per_second" in row:
            row["of_copy_rate"] = row["gigabytes_per_second"] / copied
    return {
        "device": found.get("device", {}),
        "build": found.get("build", {}),
        "ceilings": found.get("ceilings", {}),
        "golden": found.get("golden", {}),
        "tests": found.get("tests", {}),
        "sanitizer": found.get("sanitizer", {}),
        "peers": found.get("compare", {}).get("peers", {}),
        "rows": rows,
        **about,
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
