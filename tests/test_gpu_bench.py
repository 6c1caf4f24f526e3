"""bench/gpu/run.sh without a GPU: how stages end, what they make of the tools they call, and that every row can be
built. (.ci/run also runs all of it, small, on the host executor.)"""

import importlib
import json
import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "bench" / "gpu"

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(not FOLDER.exists(), reason="bench/ is not there"),
    pytest.mark.skipif(os.name != "posix", reason="a bash script and process groups"),
]


@pytest.fixture
def module(monkeypatch):
    """A module of bench/gpu by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run_stages(module, monkeypatch, tmp_path, **bodies):
    """The whole command with stages of these bodies."""
    run = module("run")
    stages = tmp_path / "stages"
    stages.mkdir()
    (stages / "stage.py").write_text((FOLDER / "stage.py").read_text())
    for name, body in bodies.items():
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        text = (
            f"import sys, time, subprocess\nfrom stage import main\n\ndef body(stage):\n{lines}\nmain(body)\n"
        )
        (stages / f"{name}.py").write_text(text)
    monkeypatch.setattr(run, "HERE", stages)
    monkeypatch.setattr(run, "STAGES", dict.fromkeys(bodies, 2.0))
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "cuda-sim", str(tmp_path / "out")])
    status = run.main()
    return status, json.loads((tmp_path / "out" / "results.json").read_text())


def test_a_failing_stage_is_noted_and_the_next_ones_run(module, monkeypatch, tmp_path, capfd):
    status, results = run_stages(
        module,
        monkeypatch,
        tmp_path,
        device="stage.found['name'] = 'a GPU'",
        build="stage.found['bytes'] = 3\nraise ValueError('no compiler')",
        tests="stage.found['passed'] = 7\nstage.save()\nsubprocess.Popen(['sleep', '60'])\ntime.sleep(60)",
        golden="sys.exit(9)",
        ceilings="stage.found['copy_gigabytes_per_second'] = 200.0",
        compare="stage.found['rows'] = [{'key': 'a', 'family': 'memory', 'gigabytes_per_second': 150.0}]",
    )
    assert status == 1 and "FAILED" in capfd.readouterr().out
    ends = {name: s["status"] for name, s in results["stages"].items()}
    assert ends == {"device": "ok", "build": "failed", "tests": "timed out", "golden": "failed",
                    "ceilings": "ok", "compare": "ok"}  # fmt: skip
    assert results["device"]["name"] == "a GPU" and results["tests"] == {"passed": 7}
    assert results["build"] == {"bytes": 3}
    assert results["stages"]["build"]["problems"] == ["ValueError: no compiler"]
    assert results["rows"][0]["of_copy_rate"] == 0.75
    assert results["stages"]["tests"]["seconds"] < 20
    assert "no compiler" in (tmp_path / "out" / "log.txt").read_text()


def test_status_0_when_all_passed(module, monkeypatch, tmp_path):
    status, results = run_stages(
        module, monkeypatch, tmp_path, device="pass", compare="stage.found['rows'] = []"
    )
    assert status == 0 and results["rows"] == [] and results["commit"]


def test_without_time_the_rest_is_not_run(module, monkeypatch, tmp_path):
    monkeypatch.setattr(module("run"), "TOTAL", 11.0)
    status, results = run_stages(module, monkeypatch, tmp_path, device="time.sleep(1.6)", tests="pass")
    assert status == 1 and results["stages"]["tests"]["status"] == "not run"


def test_the_command_refuses_what_it_does_not_know():
    done = subprocess.run([FOLDER / "run.sh", "--stages", "nonsense"], capture_output=True, text=True,
                          env={**os.environ, "PYTHON": sys.executable})  # fmt: skip
    assert done.returncode == 2 and "no stage nonsense" in done.stderr


def test_the_gpu_is_described_by_nvidia_smi(module, monkeypatch, tmp_path):
    line = "NVIDIA H100 80GB HBM3, 580.1, 81559 MiB, 9.0, 1980 MHz, 2619 MHz, 1980 MHz, 2619 MHz, 700 W, 31, Enabled"
    executable(tmp_path / "nvidia-smi", f"#!/bin/sh\necho '{line}'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = module("device").nvidia_smi()
    assert found["name"] == "NVIDIA H100 80GB HBM3" and found["compute_cap"] == "9.0"
    executable(tmp_path / "nvidia-smi", "#!/bin/sh\necho 'no devices were found' >&2\nexit 6\n")
    with pytest.raises(RuntimeError, match="no devices were found"):
        module("device").nvidia_smi()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(RuntimeError, match="not installed"):
        module("device").nvidia_smi()


class FakeStage:
    simulated, device, left = False, "cuda", 30.0

    def __init__(self, work):
        self.work, self.found, self.problems = work, {}, []

    def save(self):
        pass

    def problem(self, what):
        self.problems.append(what)


def test_what_compute_sanitizer_says(module, monkeypatch, tmp_path):
    sanitizer, stage = module("sanitizer"), FakeStage(tmp_path)
    tool = executable(tmp_path / "compute-sanitizer", """#!/bin/sh
echo "========= COMPUTE-SANITIZER"
case "$1" in
  *memcheck) echo "called 40 functions; no kernels: none"; echo "========= ERROR SUMMARY: 0 errors"; exit 0;;
  *racecheck) echo "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)"; exit 86;;
  *) sleep 20;;
esac
""")  # fmt: skip
    monkeypatch.setattr(sanitizer, "program", lambda: str(tool))
    monkeypatch.setattr(sanitizer, "TOOLS", ("memcheck", "racecheck"))
    sanitizer.body(stage)
    assert stage.found["memcheck"]["calls"].startswith("called 40")
    assert (
        stage.found["racecheck"]["status"] == 86
        and len(stage.problems) == 1
        and "2 hazards" in stage.problems[0]
    )
    sanitizer.run(stage, "initcheck", [str(tool), "--tool=initcheck"], 1.0)
    assert "stopped after 1 s" in stage.problems[-1]
    monkeypatch.setattr(sanitizer, "program", lambda: None)
    sanitizer.body(absent := FakeStage(tmp_path))
    assert "not installed" in absent.found["missing"] and not absent.problems


def test_pytest_is_counted_as_it_goes(module, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tests", raising=False)  # this folder, under pytest
    tests, stage = module("tests"), FakeStage(tmp_path)
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "test_some.py").write_text("""import time, pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
def test_other(): pytest.skip("no such kernel")
def test_slow(): time.sleep(30)
""")
    (suite / "pytest.ini").write_text("[pytest]\n")
    found = tests.pytest(stage, "kernels", ["-c", str(suite / "pytest.ini"), str(suite)], 8.0, 1)
    assert (found["passed"], found["failed"], found["skipped"], found["timed_out"]) == (1, 1, 1, True)
    assert "one is not two" in found["failures"][0]["why"] and "no such kernel" in str(
        found["skipped_because"]
    )
    assert "3 tests done" in stage.problems[0]


class FakeEvent:
    clock = 0.0

    def record(self):
        FakeEvent.clock += 1.0
        self.at = FakeEvent.clock


def test_timing_by_events(module, monkeypatch):
    stream = types.SimpleNamespace(synchronize=lambda: None)
    cuda = types.SimpleNamespace(
        Event=FakeEvent,
        get_elapsed_time=lambda a, b: b.at - a.at,
        get_current_stream=lambda: stream,
    )
    fake = types.SimpleNamespace(cuda=cuda, empty=np.empty, uint8=np.uint8)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    timing = module("timing")
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    samples = timing.measure(timing.GpuTimer(1 << 10), calls, 10.0, 3)
    assert samples == {"a": [1.0] * 3, "b": [1.0] * 3} and order == list("ababab")
    assert timing.quartiles([5.0, 1.0, 3.0]) == [3.0, 3.0, 5.0] or timing.median([5.0, 1.0, 3.0]) == 3.0


def test_every_row_has_inputs_and_a_name(module):
    """Of the full size too, as far as that costs no memory."""
    compare = module("compare")
    full, small = compare.all_rows(False), compare.all_rows(True)
    assert len({row.key for row in full}) == len(full) and {r.family for r in full} == {
        r.family for r in small
    }
    for row in small:
        arrays = row.inputs(np.random.default_rng(0))
        assert row.bytes > 0 and all(a.size for a in arrays)
        if row.family != "memory":
            assert row.flops > 0
    wanted = (
        "matmul 4096^3 bfloat16",
        "attention 2x16x4096x128 causal",
        "lstm H768",
        "224 64@7x7",
        "highest",
        "high ",
    )
    assert all(any(w in row.key for row in full) for w in wanted)


def test_wrong_results_are_noticed(module):
    compare = module("compare")
    good = [np.arange(6.0).reshape(2, 3)]
    assert compare.worst(good, good) == 0
    assert compare.worst([good[0] + 1], good) == pytest.approx(0.2)
    assert compare.worst([good[0] * np.nan], good) == float("inf")
