"""Stage: what this GPU makes of the PTX wrappers' golden inputs, for tests/golden/ (tests/golden_wrappers.py)."""

from __future__ import annotations

import os
import shutil
import sys

from device import nvidia_smi
from stage import ROOT, Stage, main

sys.path.insert(0, str(ROOT / "tests"))
import golden_wrappers as golden


def body(stage: Stage) -> None:
    program = stage.work / "wrappers"
    if stage.simulated:
        golden.build(os.environ.get("CXX", "g++"), program)
    else:
        capability = nvidia_smi("compute_cap")["compute_cap"].replace(".", "")
        golden.build(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc", program, f"sm_{capability}")
    path = golden.record(program, stage.work, stage.work)
    device, cases = golden.load(path)
    stage.found.update(
        device=device, file=path.name, words={name: int(out.size) for name, (_, out) in cases.items()}
    )
    again = {name: golden.run(program, name, given, stage.work) for name, (given, _) in cases.items()}
    for name, (_, out) in cases.items():
        if (again[name] != out).any():
            stage.problem(f"{name}: two runs differ")
    if not stage.simulated:
        shutil.copy(path, golden.FOLDER / path.name)
        # How the executor compares, at once: the same that tests/test_golden.py says afterwards.
        host = golden.build(os.environ.get("CXX", "g++"), stage.work / "host_wrappers")
        for name, (given, out) in cases.items():
            difference = golden.difference(name, given, golden.run(host, name, given, stage.work), out)
            if difference:
                stage.problem(f"the host executor differs: {difference}")


if __name__ == "__main__":
    main(body)
