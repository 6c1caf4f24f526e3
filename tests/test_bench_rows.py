"""`fastdl bench`: its rows, and that they are right."""

import json
import random
from importlib import resources

import numpy as np
import pytest
from test_bench import row as row_named

from fastdl.bench import suites
from fastdl.bench.peers import Peers, to_numpy
from fastdl.bench.workloads import deepbench

pytestmark = pytest.mark.cpu


# --- the rows ---


def test_every_suite_of_every_family_has_rows_with_unique_names():
    for name in suites.FAMILIES:
        for suite in suites.family(name).SUITES:
            rows = suites.select([name], [suite], ["float32"])
            keys = [row.key for row in rows]
            assert keys and len(set(keys)) == len(keys), (name, suite)
            assert all(row.bytes > 0 and row.flops >= 0 for row in rows)


def keys(family, suite, dtype="float32", **options):
    return [r.key for r in suites.select([family], suite.split(","), [dtype], **options)]


def test_products():
    assert len(keys("matmul", "squares")) == 9
    small = keys("matmul", "small")
    assert {"matmul 16x16x16 NN float32 forward", "matmul 64x128x128x64 NN float32 forward"} <= set(small)
    assert len(keys("matmul", "sweep")) == 101
    targets = suites.select(["matmul"], ["targets"], ["float32"])
    assert {*keys("matmul", "squares"), *small} < {r.key for r in targets} and len(targets) == 136
    assert "matmul 64x1760x1760 NT float32 forward" in {
        r.key for r in targets
    }  # DeepBench: 1760, 64, 1760, TN
    assert all(r.flops <= 20e9 for r in targets if "4096x4096x4096" not in r.key and "3072x3072" not in r.key)


def test_deepbench_has_every_row_of_its_file():
    def found(family):
        return {r.key for r in suites.select([family], ["deepbench"], ["float32"])}

    products, convolutions = found("matmul"), found("conv")
    for m, n, k, layout in [*deepbench("gemm"), *deepbench("gemm_inference")]:
        assert f"matmul {n}x{m}x{k} {layout[::-1]} float32 forward" in products
    for n, c, h, w, k, r, s, *_ in [*deepbench("conv"), *deepbench("conv_inference")]:
        for direction in ("forward", "backward"):
            assert any(
                key.startswith(f"conv {n}x{c}x{h}x{w} {k}@{r}x{s} ") and key.endswith(direction)
                for key in convolutions
            )
    recurrent, attention = found("rnn"), found("attention")
    for cell, hidden, batch, steps in [*deepbench("rnn"), *deepbench("rnn_inference")]:
        name = f"{'rnn' if cell == 'vanilla' else cell} h{hidden} b{batch} t{steps} float32"
        assert {f"{name} forward", f"{name} both"} <= recurrent
    assert len(attention) == 2 * len(deepbench("attention"))
    assert not any(
        r.note for f in suites.FAMILIES[:4] for r in suites.family(f).rows("deepbench", "float32")
    )  # nothing is cut


def test_the_file_of_deepbench_comes_with_the_package():
    text = resources.files("fastdl.bench").joinpath("deepbench.json").read_text()
    rows = {name: len(part["rows"]) for name, part in json.loads(text).items() if isinstance(part, dict)}
    assert rows == {
        **{"gemm": 160, "gemm_inference": 75, "conv": 94, "conv_inference": 107},
        **{"rnn": 53, "rnn_inference": 69, "attention": 9},
    }


def test_a_transformer_has_all_its_parts():
    found = {(r.op, r.direction) for r in suites.select(suites.FAMILIES, ["transformer"], ["float32"])}
    for op in ("linear", "layer_norm", "gelu", "softmax"):
        assert {(op, "forward"), (op, "backward")} <= found
    assert {
        ("attention", "both"),
        ("cross_entropy", "both"),
        ("adam", "step"),
        ("transformer", "step"),
    } <= found


def test_all_is_every_suite():
    everything = {r.key for r in suites.select(suites.FAMILIES, ["all"], ["float32"])}
    for name in suites.suites():
        if name not in ("sweep", "scaling"):
            part = {r.key for r in suites.select(suites.FAMILIES, [name], ["float32"])}
            assert part <= everything, name


def test_convolutions():
    both = keys("conv", "resnet50")
    assert len(both) == 2 * len(keys("conv", "resnet50", direction="forward"))
    assert "conv 8x3x224x224 64@7x7 s2 p3 float32 forward" in both
    assert "conv 8x512x7x7 2048@1x1 s1 p0 float32 backward" in both
    assert len(keys("conv", "deepbench", direction="backward")) == 191
    assert all(" g" in key for key in keys("conv", "depthwise"))
    assert set(keys("conv", "targets")) < set(keys("conv", "resnet50,depthwise,deepbench"))


def test_recurrent_layers_and_attention():
    rows = suites.select(["rnn"], ["targets"], ["bfloat16"])
    assert {"lstm", "gru"} == {r.op for r in rows}
    cut = next(r for r in rows if r.shape.startswith("h2048 b32 ") and r.op == "gru")
    assert cut.note == "of 1500 steps" and cut.shape.endswith("t12")
    assert "lstm h1024 b16 t25 bfloat16 both" in {r.key for r in rows}
    attention = suites.select(["attention"], ["targets"], ["float32"])
    assert len(attention) == 18
    assert "attention 4x32/8x1x8192 d128 float32 forward" in {r.key for r in attention}
    assert max(r.flops for r in attention if r.direction == "forward") < 150e9


def test_memory_bound_ops_and_steps():
    found = keys("elementwise", "targets")
    for op in ("softmax", "layer_norm", "batch_norm", "gelu", "max_pool", "dropout", "cross_entropy", "adam"):
        assert sum(key.startswith(op) for key in found) >= 5
    assert not any("step" in key for key in keys("elementwise", "targets", "bfloat16"))
    assert keys("train", "targets") == [
        *("cnn b32 float32 step", "cnn b128 float32 step", "mlp b32 float32 step", "mlp b128 float32 step"),
        *("lstm64 b32 float32 step", "transformer b32 float32 step", "mlp32 b32 float32 step"),
        "mlp32 b32 float32 forward",
    ]
    assert keys("train", "targets", "bfloat16") == []


def test_selection():
    assert keys("conv", "quick", filters=["64x56x56 backward"]) == [
        "conv 8x64x56x56 64@3x3 s1 p1 float32 backward"
    ]
    thinned = suites.select(["matmul", "conv"], ["targets"], ["float32"], sample=3)
    groups = [(r.group, r.direction) for r in thinned]
    assert {groups.count(g) for g in set(groups)} == {3}


def test_a_sample_is_spread_over_ops_and_sizes():
    """The list repeats its sizes op by op: taking each eighth row would take few of them."""
    rows = suites.select(["elementwise"], ["sizes"], ["float32"], direction="forward")
    some = suites.thin(rows, 10)
    assert len(some) == 10 and [r for r in rows if r in some] == some and suites.thin(rows, 10) == some
    assert len({r.op for r in some}) >= 7 and len({int(np.log10(r.bytes)) for r in some}) >= 4
    assert suites.thin(rows, 1000) == rows


def test_every_row_has_about_the_same_chance_to_be_drawn(monkeypatch):
    rows = [row_named(f"a {i} float32 forward") for i in range(7)]
    drawn, generator = np.zeros(7), random.Random(1)
    monkeypatch.setattr(suites.random, "Random", lambda seed: generator)
    for _ in range(700):
        for r in suites.thin(rows, 3):
            drawn[int(r.shape)] += 1
    assert np.all(np.abs(drawn - 300) < 60)  # of 2,100 draws; a standard deviation is some 13


# --- right before fast ---


def light(name, dtype):
    """The quick rows that take milliseconds."""
    rows = [r for r in suites.select([name], ["quick"], [dtype]) if r.flops < 2e9]
    assert rows or (name, dtype) == ("train", "float64")
    return rows


@pytest.mark.parametrize("name", suites.FAMILIES)
def test_quick_rows_are_right(name):
    """The checks against float64 that precede every timing, for every kind of row, NumPy alone beside fastdl."""
    peers = Peers(["numpy"], 2)
    for dtype in ("float32", "float64"):
        for row in light(name, dtype):
            contest = row.make(peers)
            error = contest.error(contest.ours())
            assert error <= contest.limit, (row.key, error, contest.limit)
            assert not contest.calls or row.op == "matmul"  # NumPy has nothing else of this


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_steps_are_right_and_wrong_ones_are_noticed(dtype):
    rows = [
        r for r in suites.select(["train"], ["train"], [dtype]) if r.direction == "step" and r.flops < 1e9
    ]
    assert {"linear", "mlp", "cnn", "rnn64", "lstm64", "autoencoder", "gan"} <= {r.op for r in rows}
    for row in rows:
        contest = row.make(Peers([], 2))
        outputs = contest.ours()
        assert contest.error(outputs) <= contest.limit, row.key
        assert contest.error(tuple(1.05 * to_numpy(o) for o in outputs)) > contest.limit, row.key
        if dtype == "float32":
            contest.ours()  # another step has other gradients
            assert contest.error(outputs) > contest.limit, row.key


@pytest.mark.parametrize("name, most", [("conv", 1.1e8), ("matmul", 1e8), ("rnn", 5e7)])
def test_rows_of_the_targets_are_right(name, most):
    """The small ones: odd kernels, strides beyond the kernel, windows wholly in the padding, transposes."""
    rows = [r for r in suites.select([name], ["targets"], ["float32"]) if r.flops <= most]
    assert len(rows) >= 10
    for row in rows:
        contest = row.make(Peers([], 2))
        error = contest.error(contest.ours())
        assert error <= contest.limit, (row.key, error, contest.limit)


@pytest.mark.parametrize("name", ["conv", "rnn", "attention"])
def test_the_checks_notice_wrong_results(name):
    for row in light(name, "float32"):
        contest = row.make(Peers([], 2))
        outputs = contest.ours()

        def spoil(value):
            if isinstance(value, (list, tuple)):
                return [spoil(v) for v in value]
            return None if value is None else value * np.float32(1.01)

        assert contest.error(spoil(outputs)) > contest.limit, row.key
