"""`fastdl bench`: what it runs, checks, writes and refuses. Never how fast anything is."""

import json

import pytest

from fastdl.bench import suites
from fastdl.cli import main


def call(capsys, *args):
    try:
        status = main(["bench", *map(str, args)])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


QUICK = ("--compare", "numpy", "--seconds", "0.001", "--filter", "32x32x32")


def test_every_suite_of_every_family_has_rows_with_unique_names():
    for name in suites.FAMILIES:
        for suite in suites.family(name).SUITES:
            rows = suites.family(name).rows(suite, "float32")
            keys = [row.key for row in rows]
            assert keys and len(set(keys)) == len(keys), (name, suite)
            assert all(row.bytes > 0 and row.flops >= 0 for row in rows)


def test_deepbench_products_are_the_files():
    rows = suites.select(["matmul"], ["deepbench"], ["float32"])
    assert len(rows) == 51
    assert all(row.flops <= 20e9 for row in rows)
    assert "matmul 64x1760x1760 NT float32 forward" in {
        row.key for row in rows
    }  # DeepBench: 1760, 64, 1760, TN


@pytest.mark.parametrize("name", suites.FAMILIES)
def test_quick_rows_are_right(name):
    """The checks against float64 that precede every timing, for every kind of row, NumPy alone beside fastdl."""
    from fastdl.bench.peers import Peers

    peers = Peers(["numpy"], 2)
    for dtype in ("float32", "float64"):
        for row in suites.select([name], ["quick"], [dtype]):
            contest = row.make(peers)
            error = contest.error(contest.ours())
            assert error <= contest.limit, (row.key, error, contest.limit)


def test_run_writes_json_and_compares_with_it(tmp_path, capsys):
    file = tmp_path / "run.json"
    status, out, err = call(capsys, "matmul", *QUICK, "--json", file)
    assert status == 0, (out, err)
    assert "numpy" in out and "geomean" in out
    found = json.loads(file.read_text())
    (row,) = found["rows"]
    assert row["status"] == "ok" and row["error"] <= row["limit"]
    assert len(row["samples"]["fastdl"]) >= 3 and row["best"] == "numpy"
    status, out, err = call(capsys, "matmul", *QUICK, "--baseline", file, "--fail-above", "99%")
    assert status == 0 and "against" in out


@pytest.mark.parametrize(
    "args, words",
    [
        (["matmul", "--suite", "none such"], "unknown suite"),
        (["cooking"], "unknown family"),
        (["matmul", "--dtype", "float8"], "unknown dtype"),
        (["matmul", "--compare", "abacus"], "unknown peer"),
        (["matmul", "--baseline", "/nonexistent/old.json"], "/nonexistent/old.json"),
        (["matmul", "--fail-above", "5%"], "--baseline"),
        (["matmul", "--fail-above", "5"], "percentage"),
        (["matmul", "--threads", "0"], "positive"),
        (["matmul", "--filter", "no such row"], "no row"),
        (["matmul", "--json", "/nonexistent/x.json"], "cannot be written"),
    ],
)
def test_bad_input_is_an_error_before_anything_runs(capsys, args, words):
    status, out, err = call(capsys, *args)
    assert status == 2 and words in err and err.count("\n") == 1 and out == ""
