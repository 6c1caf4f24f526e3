"""What the stages of bench/gpu/run.py share: their arguments, and the JSON file that each keeps up to date, so that
what it had found by then is there when its time is up."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class Stage:
    """One stage: ``device`` to run on, ``work`` folder, ``found`` to write down, seconds ``left``."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--device", choices=("cuda", "cuda-sim"), required=True)
        parser.add_argument("--work", type=Path, required=True)
        parser.add_argument("--json", type=Path, required=True)
        parser.add_argument("--limit", type=float, required=True)
        options = parser.parse_args()
        self.device: str = options.device
        self.simulated = options.device == "cuda-sim"
        self.work: Path = options.work
        self._json: Path = options.json
        self._end = time.monotonic() + options.limit
        self.found: dict[str, Any] = {}
        self.problems: list[str] = []

    @property
    def left(self) -> float:
        """Seconds until this stage is stopped."""
        return self._end - time.monotonic()

    def save(self) -> None:
        """Writes what was found so far."""
        part = self._json.with_suffix(".part")
        part.write_text(json.dumps({"found": self.found, "problems": self.problems}))
        os.replace(part, self._json)

    def problem(self, what: str) -> None:
        """Notes a failure; the stage goes on."""
        print(f"problem: {what}", flush=True)
        self.problems.append(what)
        self.save()


def main(body: Callable[[Stage], None]) -> None:
    """Runs a stage's body and leaves with the status that says how it went."""
    stage = Stage()
    stage.save()
    try:
        body(stage)
    except Exception as error:
        stage.problem(f"{type(error).__name__}: {error}")
        import traceback

        traceback.print_exc()
    stage.save()
    sys.exit(1 if stage.problems else 0)


def brief(problem: Any, longest: int = 300) -> str:
    """A reason in one line that is not too long."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text if len(text) <= longest else text[:longest] + "..."
