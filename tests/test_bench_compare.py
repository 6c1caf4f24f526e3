"""`fastdl bench compare`, `--baseline` and `fastdl bench report`: what two runs say, and the page of one."""

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_bench import PEAKS, call, document, outcome, rounds, row

from fastdl.bench import compare, html
from fastdl.bench.compare import change_between, verdict
from fastdl.bench.runner import Outcome

pytestmark = pytest.mark.cpu

# --- two runs ---


@pytest.mark.parametrize(
    "old, new, expected",
    [
        (rounds(2.0, 0.02), rounds(2.0, 0.02), "SAME"),
        (rounds(2.0, 0.02), rounds(2.3, 0.02), "FASTER"),
        (rounds(2.0, 0.02), rounds(1.7, 0.02), "SLOWER"),
        (rounds(2.0, 1.0), rounds(2.1, 1.0), "UNSURE"),  # too noisy
        (rounds(2.0, 0.02), rounds(2.06, 0.02), "UNSURE"),  # at the margin
        ([2.0] * 4, [4.0] * 4, "UNSURE"),  # too few: 1 in 35 pairs of samples of 4 does not overlap
        ([2.0] * 5, [4.0] * 5, "FASTER"),  # 1 in 126
    ],
)
def test_verdicts(old, new, expected):
    change = change_between(old, new)
    assert verdict(change, 0.03) == expected
    assert change[1] <= change[0] <= change[2]


@pytest.mark.parametrize("n, m", [(4, 4), (5, 5), (3, 9), (6, 6), (5, 8)])
def test_the_rank_is_that_of_all_orders_counted(n, m):
    statistics = []
    for places in itertools.combinations(range(n + m), n):
        others = [p for p in range(n + m) if p not in places]
        statistics.append(sum(a > b for a in places for b in others))
    below = [np.mean(np.array(statistics) < k) for k in range(1, n * m + 1)]
    assert compare._rank(n, m) == sum(p <= 0.005 for p in below) == compare._rank(m, n)


NOISE = {
    "normal": lambda rng, n: np.exp(rng.normal(0, 0.1, n)),
    "outliers": lambda rng, n: np.where(rng.random(n) < 0.2, 3.0, 1.0) * np.exp(rng.normal(0, 0.05, n)),
    "heavy tails": lambda rng, n: np.exp(np.clip(0.05 * rng.standard_cauchy(n), -9, 9)),
}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n, m", [(5, 5), (6, 12), (17, 17)])
def test_false_alarms_are_as_rare_as_they_say(noise, n, m):
    """Two runs of the same thing, without a margin: at most 1 % are called FASTER or SLOWER, whatever the noise."""
    rng, alarms, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        change = change_between(NOISE[noise](rng, n), NOISE[noise](rng, m))
        alarms += verdict(change, 0.0) in (compare.FASTER, compare.SLOWER)
    assert alarms <= 0.01 * trials + 4 * (0.01 * trials) ** 0.5


def test_a_recorded_run_has_not_changed_within_itself():
    """Even against odd rounds of real samples, ratios and times, without a margin."""
    file = Path(__file__).parents[1] / "bench/results/targets-sample-epyc-2-threads.json"
    if not file.exists():
        pytest.skip("no recorded results here")
    verdicts = []
    for entry in json.loads(file.read_text())["rows"]:
        for peer in (entry["best"], "") if entry.get("ratios") else ():
            speeds = compare._speeds(entry["samples"], peer)
            if len(speeds) >= 10:
                verdicts.append(verdict(change_between(speeds[::2], speeds[1::2]), 0.0))
    assert len(verdicts) > 100 and sum(v != compare.UNSURE for v in verdicts) <= 4


@pytest.mark.parametrize("noise", NOISE)
def test_changes_are_found(noise):
    """By half, in seventeen rounds, at the default margin."""
    rng, found = np.random.default_rng(0), {"FASTER": 0, "SLOWER": 0}
    for _ in range(200):
        for factor, name in ((1.5, "FASTER"), (1 / 1.5, "SLOWER")):
            change = change_between(NOISE[noise](rng, 17), factor * NOISE[noise](rng, 17))
            found[name] += verdict(change, 0.03) == name
            assert verdict(change, 0.03) not in {"FASTER", "SLOWER", "SAME"} - {name}
    assert min(found.values()) >= 160


def test_intervals_hold_the_true_change_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        old, new = (np.exp(rng.normal(shift, 0.05, 12)) for shift in (0.0, 0.1))
        _, low, high = change_between(old, new)
        hits += low <= np.exp(0.1) <= high
    assert 975 <= hits < 1000


def test_compare_goes_by_the_common_peer_else_by_the_clock():
    old = [
        outcome("a 0 float32 forward", rounds(1.0, 0.01), torch=rounds(2.0, 0.01)),
        outcome("a 1 float32 forward", rounds(1.0, 0.01)),
    ]
    new = [
        outcome("a 0 float32 forward", rounds(2.0, 0.01), torch=rounds(4.0, 0.01)),
        outcome("a 1 float32 forward", rounds(2.0, 0.01)),
        outcome("a 2 float32 forward", rounds(2.0, 0.01)),
    ]
    found = compare.compare(document(old)[1], document(new)[1], 0.03)
    assert [(v.verdict, v.against) for v in found] == [("SAME", "torch"), ("SLOWER", "")]
    elsewhere = compare.compare(document(old)[1], document(new, cpu="y")[1], 0.03)
    assert [v.key for v in elsewhere] == ["a 0 float32 forward"]
    text = compare.text(found, 0.03)
    assert "SLOWER   0.50x" in text and "2 rows: 0 FASTER, 1 SLOWER, 1 SAME, 0 UNSURE" in text
    assert "no row in common" in compare.text([], 0.03)


def test_compare_command(tmp_path, capsys):
    for name, time in (("old", 1.0), ("new", 1.5)):
        _, found = document([outcome("a 0 float32 forward", rounds(time, 0.01))])
        (tmp_path / name).write_text(json.dumps(found))
    status, out, _ = call(capsys, "compare", tmp_path / "old", tmp_path / "new")
    assert status == 0 and "SLOWER" in out
    assert call(capsys, "compare", tmp_path / "old", tmp_path / "new", "--fail-above", "5%")[0] == 1
    assert call(capsys, "compare", tmp_path / "new", tmp_path / "old", "--fail-above", "5%")[0] == 0
    assert call(capsys, "compare", tmp_path / "old", tmp_path / "new", "--fail-above", "90%")[0] == 0
    assert call(capsys, "compare", tmp_path / "old")[0] == 2


def test_baseline():
    old = [outcome(f"a {i} float32 forward", rounds(1.0, 0.02), torch=rounds(2.0, 0.02)) for i in range(3)]
    _, was = document(old)
    now = [
        outcome("a 0 float32 forward", rounds(1.0, 0.02), torch=rounds(2.0, 0.02)),  # the same
        outcome("a 1 float32 forward", rounds(2.0, 0.02), torch=rounds(4.0, 0.02)),  # a slower machine
        outcome("a 2 float32 forward", rounds(2.0, 0.02), torch=rounds(2.0, 0.02)),  # half as fast
        outcome("a 9 float32 forward", [1.0]),  # new
    ]
    found = compare.compare(was, document(now)[1], 0.05)
    assert [v.verdict for v in found] == ["SAME", "SAME", "SLOWER"]
    assert found[2].change == pytest.approx(0.5, rel=0.05)
    assert [v.verdict for v in compare.compare(was, document(now)[1], 1.5)] == ["SAME"] * 3


# --- the page ---


def page_document():
    slow = outcome("a 1 float32 forward", rounds(4.0, 0.02), torch=rounds(2.0, 0.02))
    slow.row = row("a </script><b>1 float32 forward")
    wrong = Outcome(row("b 1 float32 forward"), "failed", reason="error nan", error=float("nan"), limit=1.0)
    good = outcome("c 1 float32 forward", rounds(1.0, 0.02), torch=rounds(2.0, 0.02))
    for o in (slow, good):
        o.hold_against(PEAKS)
    return document([slow, wrong, good], versions={"fastdl": "0"})[1]


def test_page_holds_the_run_and_nothing_from_elsewhere():
    page = html.page(page_document())
    assert not re.search(r"(src|href)=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    found = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [r["key"] for r in found["rows"]] == [
        "a </script><b>1 float32 forward",
        "b 1 float32 forward",
        "c 1 float32 forward",
    ]
    assert found["rows"][1]["error"] is None and "samples" not in found["rows"][0]


def test_page_in_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine")
    html.write(str(tmp_path / "page.html"), page_document())
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=500,900",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    dom = subprocess.run(
        [browser, *options, "--dump-dom", f"file://{tmp_path / 'page.html'}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LD_PRELOAD": ""},
    ).stdout
    body = dom[dom.index('<tbody id="rows">') : dom.index("</tbody>")]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in body.split("<tr>")[1:]]
    # The worst ratio first; what was not measured last.
    assert [line[0] for line in cells] == [
        "a &lt;/script&gt;&lt;b&gt;1 float32 forward",
        "c 1 float32 forward",
        "b 1 float32 forward: error nan",
    ]
    assert cells[0][2:4] == ["0.50x", "torch"] and cells[2][1] == "failed"
    assert dom.count("<circle") == 2 and dom.count("<rect") == 1 and "3 of 3 rows" in dom


def test_report_command(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps(page_document()))
    assert call(capsys, "report", tmp_path / "run.json", "--html", tmp_path / "run.html")[0] == 0
    assert "fastdl bench" in (tmp_path / "run.html").read_text()
    assert call(capsys, "report", tmp_path / "run.json")[0] == 2
    assert call(capsys, "report", tmp_path / "run.json", "--html", "/nonexistent/x.html")[0] == 2
