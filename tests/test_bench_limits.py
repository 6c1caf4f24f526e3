"""`fastdl bench`: rows that are wrong, too large or too long, and the progress bar."""

import io
import json

import numpy as np
import pytest
from test_bench import LIMITS, PEAKS, call, contest_of, row

from fastdl import ops
from fastdl.bench import budget, machine, runner, timing
from fastdl.bench.budget import Limits
from fastdl.bench.peers import Peers
from fastdl.bench.progress import Progress

pytestmark = pytest.mark.cpu
QUICK = ("matmul", "--filter", "32x32x32", "--seconds", "0.001", "--compare", "numpy")


@pytest.fixture(autouse=True)
def ceilings(monkeypatch):
    """Measuring them takes a second each time."""
    monkeypatch.setattr(machine, "measure_peaks", lambda *args: PEAKS)


# --- wrong kernels and wrong peers ---


def test_a_wrong_kernel_is_printed_as_failed_and_the_exit_status_is_1(monkeypatch, tmp_path, capsys):
    right = ops.matmul

    def wrong(a, b, **options):
        out = right(a, b, **options)
        out[0, 0] += np.float32(0.01)
        return out

    monkeypatch.setattr(ops, "matmul", wrong)
    status, out, err = call(capsys, *QUICK, "--json", tmp_path / "run.json")
    assert status == 1, (out, err)
    assert "FAILED: error" in out and "1 row failed" in out
    (entry,) = json.loads((tmp_path / "run.json").read_text())["rows"]
    assert entry["status"] == "failed" and "samples" not in entry and entry["error"] > entry["limit"]


def test_a_kernel_that_raises_fails_too(monkeypatch, capsys):
    def broken(*args, **options):
        raise ValueError("out of tiles")

    monkeypatch.setattr(ops, "matmul", broken)
    status, out, _ = call(capsys, *QUICK)
    assert status == 1 and "FAILED: ValueError: out of tiles" in out


def test_a_peer_that_computes_something_else_is_left_out_and_said_so(monkeypatch, capsys):
    right = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, out=None: np.multiply(right(a, b, out=out), 1.01, out=out))
    status, out, _ = call(capsys, *QUICK)
    assert status == 0 and "took no part: numpy another result" in out and "x numpy (" not in out


# --- limits ---


def test_a_row_that_would_take_too_long_is_skipped_and_says_so(capsys):
    status, out, _ = call(capsys, *QUICK, "--row-limit", "0.0001")
    assert status == 0 and "skipped: would take some" in out and "--row-limit" in out
    assert "1 row skipped" in out


def test_a_row_that_needs_more_memory_than_there_is(monkeypatch, capsys):
    monkeypatch.setattr(budget, "free_memory", lambda: 1000.0)
    status, out, _ = call(capsys, *QUICK)
    assert status == 0 and "skipped: needs some" in out and "GB are free" in out


def test_memory_that_runs_out_is_no_failure():
    def make(peers):
        raise MemoryError("Unable to allocate 9 TiB")

    (out,) = runner.run([row(make=make)], Peers([], 1), LIMITS, timing.Plan())
    assert out.status == "skipped" and "9 TiB" in out.reason


def test_what_rows_cost():
    light, heavy = row(flops=1e6, bytes=1e3), row(flops=1e12, bytes=1e3)
    again = row(flops=1e6, bytes=1e3, reread=1e12)
    assert Limits(PEAKS, 0).expected(light) < Limits(PEAKS, 4).expected(light)
    assert Limits(PEAKS, 0).expected(heavy) > 10 and Limits(PEAKS, 0).expected(again) > 100
    assert Limits(PEAKS, 0, seconds=5.0).refuses(light) == "" != Limits(PEAKS, 0, seconds=5.0).refuses(heavy)
    assert (
        Limits(PEAKS, 4, memory=1e4).refuses(row(bytes=1e3))
        == ""
        != Limits(PEAKS, 4, memory=8e3).refuses(row(bytes=1e3))
    )
    assert budget.free_memory() is None or budget.free_memory() > 1e6


def test_refused_rows_are_not_part_of_the_time_budget():
    rows = [row(f"a {i} float32 forward", lambda p: contest_of(p, lambda: (1,))) for i in range(3)]
    rows.append(row("a 9 float32 forward", flops=1e15))
    limits = Limits(PEAKS, 0, seconds=60.0)
    outcomes = runner.run(rows, Peers([], 1), limits, timing.Plan(seconds=0.001, block=1e-4), budget=30.0)
    assert [o.status for o in outcomes] == ["ok"] * 3 + ["skipped"]


def test_what_was_measured_is_written_after_ctrl_c(monkeypatch, tmp_path, capsys):
    right, products = runner.run_row, ("matmul", "--compare", "none", "--seconds", "0.001")

    def run_row(row, peers, plan):
        if "32x32x32" in row.key:
            raise KeyboardInterrupt
        return right(row, peers, plan)

    monkeypatch.setattr(runner, "run_row", run_row)
    names = ("--filter", "256x256x256", "--filter", " 32x32x32", "--filter", " 128x128x128")
    status, out, _ = call(capsys, *products, *names, "--json", tmp_path / "run.json")
    assert status == 130 and "2 rows not run: interrupted" in out
    found = json.loads((tmp_path / "run.json").read_text())["rows"]
    assert [r["status"] for r in found] == ["ok", "not run", "not run"]


# --- progress ---


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rows_of(n):
    return [row(f"a {i} float32 forward") for i in range(n)]


def test_on_a_terminal_a_bar_shows_the_row_and_the_time_left():
    out, err = io.StringIO(), Terminal()
    progress = Progress(rows_of(3), LIMITS, out=out, err=err)
    progress._bar.mininterval = 0.0
    for r in rows_of(3):
        progress.start(r)
        progress.done(r, f"line of {r.shape}")
    progress.close()
    assert out.getvalue() == "line of 0\nline of 1\nline of 2\n"
    assert "3/3 a 2 float32" in err.getvalue() and "67%" in err.getvalue() and "<00:00" in err.getvalue()


def test_elsewhere_there_are_lines_alone():
    out, err = io.StringIO(), io.StringIO()
    progress = Progress(rows_of(1), LIMITS, out=out, err=err)
    progress.start(rows_of(1)[0])
    progress.done(rows_of(1)[0], "line")
    progress.close()
    assert (out.getvalue(), err.getvalue()) == ("line\n", "")


def test_the_command_is_quiet_where_nobody_looks(capsys):
    status, out, err = call(capsys, *QUICK)
    assert status == 0 and err == "" and "|" not in out


def test_the_bar_goes_by_the_budget_where_there_is_one():
    err = Terminal()
    progress = Progress(rows_of(2), LIMITS, budget=1e-6, out=io.StringIO(), err=err)
    progress.done(rows_of(2)[0], "")
    assert progress._bar.n == progress._bar.total == 1e-6
    progress.close()


def test_warm_and_cold_exclude_each_other(capsys):
    assert call(capsys, "matmul", "--warm", "--cold")[0] == 2
    assert call(capsys, *QUICK, "--warm")[0] == 0
    assert call(capsys, *QUICK, "--cold")[0] == 0
