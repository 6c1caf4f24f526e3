"""`fastdl bench`: what it runs, checks, writes and refuses. Never how fast anything is."""

import json
import sys

import numpy as np
import pytest

from fastdl.bench import report, runner, timing
from fastdl.bench.budget import Budget, Limits
from fastdl.bench.machine import Peaks
from fastdl.bench.peers import Peers
from fastdl.bench.rows import Contest, Row, sample, worst
from fastdl.bench.runner import Outcome
from fastdl.cli import main

PEAKS = Peaks({"float32": 100.0}, [("L2", 1e6, 100.0), ("DRAM", float("inf"), 10.0)])
LIMITS = Limits(PEAKS, 0)


def call(capsys, *args):
    try:
        status = main(["bench", *map(str, args)])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def row(key="thing 1x1 float32 forward", make=None, **options):
    op, shape, dtype, direction = key.split()
    fields = {"group": "things", "flops": 1e6, "bytes": 1e3} | options
    return Row(op=op, shape=shape, dtype=dtype, direction=direction, make=make, **fields)


def outcome(key, ours, **peers):
    return Outcome(row(key), "ok", error=0.0, limit=1.0, samples={"fastdl": ours, **peers})


# --- right before fast ---


def test_worst_error():
    assert worst([(np.array([1.0, 2.0]), np.array([1.0, 4.0]))]) == 0.5
    assert worst([(np.array([np.nan]), np.array([1.0]))]) == float("inf")
    assert worst([(np.zeros(0), np.zeros(0))]) == 0.0
    drawn = sample(np.random.default_rng(0), 1000, 10)
    assert len(set(drawn)) == 10 and drawn[0] == 0 and drawn[-1] == 999


def contest_of(peers, ours, right=True, **calls):
    contest = Contest(peers, ours, lambda outputs: 0.0 if right else 1.0, 0.5)
    contest.calls = calls
    return contest


def run_one(make):
    return runner.run([row(make=make)], Peers([], 1), LIMITS, timing.Plan(seconds=0.001, block=1e-4))[0]


def test_a_wrong_result_fails_and_is_not_timed():
    out = run_one(lambda peers: contest_of(peers, lambda: (1,), right=False))
    assert out.status == "failed" and not out.samples and "0.5" in out.reason


def test_an_error_fails_and_a_narrow_dtype_that_is_not_taken_is_skipped():
    def make(peers):
        raise TypeError("softmax: expected float32, got " + 1000 * "bfloat16")

    assert run_one(make).status == "failed"
    (out,) = runner.run([row("a 1 bfloat16 forward", make)], Peers([], 1), LIMITS, timing.Plan())
    assert out.status == "skipped" and "softmax" in out.reason and len(out.reason) < 200


def test_a_peer_that_raises_is_reported_and_left_out():
    def broken():
        raise RuntimeError("no kernel")

    out = run_one(lambda peers: contest_of(peers, lambda: (1,), good=lambda: (1,), bad=broken))
    assert out.status == "ok" and out.best == "good" and out.skipped == {"bad": "no kernel"}
    assert "took no part: bad no kernel (1 row)" in report.footer([out])


def test_rows_beyond_the_budget_are_reported_as_not_run():
    rows = [row(f"a {i} float32 forward", lambda p: contest_of(p, lambda: (1,))) for i in range(3)]
    outcomes = runner.run(rows, Peers([], 1), LIMITS, timing.Plan(seconds=0.001), budget=1e-9)
    assert [o.status for o in outcomes] == ["not run"] * 3
    assert "3 rows not run" in report.footer(outcomes)


def test_a_budget_leaves_rows_out_evenly():
    rows = [row(f"a {i} float32 forward", flops=(i % 3) * 1e9) for i in range(200)]
    expected = sum(map(LIMITS.expected, rows))
    clock = Budget(expected / 3, rows, LIMITS)
    spent, kept = 0.0, []
    for r in rows:  # rows take as long as expected, but no time passes here
        clock.end -= spent
        spent = 0.0
        share = clock.next_row(r, timing.Plan(seconds=1.0))
        kept.append(share is not None)
        if share:
            assert share.seconds < 0.5
            spent = LIMITS.expected(r)
            clock.took(r, spent)
    assert 55 <= sum(kept) <= 75 and all(any(kept[i : i + 6]) for i in range(190))
    plan = timing.Plan()
    assert Budget(None, rows, LIMITS).next_row(rows[0], plan) is plan


def test_one_thread_is_a_peer():
    import fastdl

    seen = []
    before = fastdl.get_num_threads()
    try:
        fastdl.set_num_threads(2)
        peers = Peers(["one-thread"], 2)
        make = lambda p: contest_of(p, lambda: seen.append(fastdl.get_num_threads()))  # noqa: E731
        (out,) = runner.run([row(make=make)], peers, LIMITS, timing.Plan(seconds=0.001, block=1e-5))
        assert out.best == "one-thread" and set(seen) == {1, 2} and fastdl.get_num_threads() == 2
    finally:
        fastdl.set_num_threads(before)


# --- numbers ---


def test_ceilings():
    assert PEAKS.floor(row(flops=1e9, bytes=1e3)) == (pytest.approx(1e-2), "FMA")
    assert PEAKS.floor(row(flops=1.0, bytes=1e6)) == (pytest.approx(1e-5), "L2")
    assert PEAKS.floor(row(flops=0.0, bytes=1e7)) == (pytest.approx(1e-3), "DRAM")
    assert PEAKS.floor(row(flops=0.0, bytes=1e7, held=1e5)) == (pytest.approx(1e-4), "L2")
    assert PEAKS.floor(row("a 1 bfloat16 forward")) is None


def test_better_ceilings_count():
    second = Peaks({"float32": 90.0}, [("L2", 1e6, 120.0), ("DRAM", float("inf"), 9.0)])
    best = PEAKS.best(second)
    assert best.flops == {"float32": 100.0} and [rate for *_, rate in best.copy] == [120.0, 10.0]


def test_summary():
    outcomes = [
        outcome("a 1 float32 forward", [1.0, 1.0, 1.0], torch=[2.0, 2.0, 2.0], numpy=[9.0]),
        outcome("a 2 float32 forward", [1.0, 1.0, 1.0], torch=[0.5, 0.5, 0.5]),
        outcome("a 3 float32 forward", [1.0], torch=[1.01]),
    ]
    (found,) = report.summary(outcomes).values()
    assert found["geomean"] == pytest.approx(1.01 ** (1 / 3))
    assert (found["worst"], found["worst_row"]) == (0.5, "a 2 float32 forward")
    assert (found["wins"], found["ties"], found["losses"]) == (1, 1, 1)
    text = report.footer(outcomes)
    assert "things float32 forward" in text and "0.50x" in text
    assert "torch 1.00x (3 rows), numpy 9.00x (1 row)" in text


def test_spread_of_a_sweep():
    outcomes = [outcome(f"a {i} float32 forward", [t, 2 * t]) for i, t in ((1, 1e-6), (2, 3e-6))]
    for o in outcomes:
        object.__setattr__(o.row, "group", "sweep")
    assert "3.00x apart" in report.footer(outcomes)


def test_measuring_takes_turns():
    order = []

    def contestant(name):
        return lambda: order.append(name)

    plan = timing.Plan(seconds=0.01, block=1e-6)
    samples = timing.measure({"fastdl": contestant("a"), "peer": contestant("b")}, plan)
    assert len(samples["fastdl"]) == len(samples["peer"]) >= 4
    turns = "".join(name for i, name in enumerate(order) if i == 0 or order[i - 1] != name)
    assert turns == "ab" * (len(turns) // 2)
    cold = timing.measure({"fastdl": contestant("a")}, timing.Plan(seconds=0.01, cold=1000))
    assert len(cold["fastdl"]) >= 4


def document(outcomes, **env):
    env = {"cpu": "x", "cores": 2, "isa": "avx2", "threads": 2, "commit": "", "time": ""} | env
    return env, json.loads(json.dumps(report.document(outcomes, env, PEAKS, {})))


def rounds(center, spread, n=12):
    """Always the same n values around a center."""
    return [center * (1 + spread * (i / (n - 1) - 0.5)) for i in np.random.default_rng(n).permutation(n)]


def test_rows_that_vary_too_much_are_marked():
    quiet = outcome("a 0 float32 forward", rounds(1.0, 0.02), torch=rounds(2.0, 0.02))
    noisy = outcome("a 1 float32 forward", rounds(1.0, 0.02), torch=rounds(2.0, 1.0))
    assert not quiet.noisy and noisy.noisy and not outcome("a 2 float32 forward", [1.0, 9.0]).noisy
    assert "~2.0" in report.line(noisy) and "~" not in report.line(quiet)
    assert "~ 1 row whose ratio" in report.footer([quiet, noisy])
    assert [r["noisy"] for r in document([quiet, noisy])[1]["rows"]] == [False, True]


# --- the command ---

QUICK = ("--compare", "numpy", "--seconds", "0.001", "--filter", "32x32x32")


def test_run_writes_json_and_compares_with_it(tmp_path, capsys):
    file = tmp_path / "run.json"
    status, out, err = call(capsys, "matmul", *QUICK, "--json", file)
    assert status == 0, (out, err)
    assert "peaks: float32" in out and "numpy" in out and "geomean" in out
    found = json.loads(file.read_text())
    assert found["schema"] == "fastdl-bench/1" and found["peaks"]["copy"][-1]["level"] == "DRAM"
    (entry,) = found["rows"]
    assert entry["status"] == "ok" and entry["error"] <= entry["limit"] and entry["isa"]
    assert len(entry["samples"]["fastdl"]) >= 3 and entry["best"] == "numpy"
    status, out, err = call(capsys, "matmul", *QUICK, "--baseline", file, "--fail-above", "99%")
    assert status == 0 and "against" in out
    for times in (s for name, s in entry["samples"].items() if name == "fastdl"):
        times[:] = [t / 1000 for t in times]
    entry["ratios"] = {"numpy": [1e6, 1e6, 1e6]}
    file.write_text(json.dumps(found))
    status, out, err = call(capsys, "matmul", *QUICK, "--baseline", file, "--fail-above", "5%")
    assert status == 1 and "SLOWER" in out


def test_bfloat16_and_all_peers_that_are_there(capsys):
    args = ("--dtype", "bfloat16", "--seconds", "0.001", "--filter", "32x32x32")
    status, out, err = call(capsys, "matmul", *args)
    assert status == 0, (out, err)
    assert "bfloat16 forward" in out


def test_list(capsys):
    status, out, _ = call(capsys, "--suite", "targets", "--list")
    assert status == 0 and len(out.splitlines()) > 500
    assert "(of 16 heads)" in out


@pytest.mark.parametrize(
    "args, words",
    [
        (["matmul", "--suite", "none such"], "unknown suite"),
        (["matmul", "--suite", "resnet50"], "belongs to conv"),
        (["cooking"], "unknown family"),
        (["matmul", "--dtype", "float8"], "unknown dtype"),
        (["matmul", "--compare", "abacus"], "unknown peer"),
        (["matmul", "--baseline", "/nonexistent/old.json"], "/nonexistent/old.json"),
        (["matmul", "--fail-above", "5%"], "--baseline"),
        (["matmul", "--fail-above", "5"], "percentage"),
        (["matmul", "--threads", "0"], "positive"),
        (["matmul", "--time-budget", "-1"], "positive"),
        (["matmul", "--direction", "sideways"], "sideways"),
        (["matmul", "--filter", "no such row"], "no row"),
        (["matmul", "--json", "/nonexistent/x.json"], "cannot be written"),
    ],
)
def test_bad_input_is_an_error_before_anything_runs(capsys, args, words):
    status, out, err = call(capsys, *args)
    assert status == 2 and words in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "other"}', '{"schema": "fastdl-bench/1"}', "\xff"]
)
def test_a_damaged_baseline_is_an_error(tmp_path, capsys, text):
    file = tmp_path / "old.json"
    file.write_bytes(text.encode("latin-1"))
    status, out, err = call(capsys, "matmul", "--baseline", file)
    assert status == 2 and str(file) in err and out == ""


def test_missing_peers_are_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, out, _ = call(capsys, "matmul", "--compare", "torch", *QUICK[2:])
    assert status == 0 and "torch takes no part" in out
