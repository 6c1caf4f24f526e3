"""The host executor's bodies of the PTX wrappers held to what GPUs made of the same inputs: tests/golden/*.npz, which
bench/gpu/run.sh records."""

import os
import re
import shutil

import golden_wrappers as golden
import numpy as np
import pytest

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
RECORDED = sorted(golden.FOLDER.glob("*.npz"))

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.timeout(600),  # the first test compiles the executor
    pytest.mark.skipif(not COMPILER or os.name != "posix", reason="needs a C++ compiler on a POSIX system"),
    pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="builds a program of its own"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return golden.build(COMPILER, tmp_path_factory.mktemp("golden") / "wrappers")


@pytest.mark.skipif(not RECORDED, reason="no GPU has recorded tests/golden/*.npz yet (bench/gpu/run.sh does)")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_executor_agrees_with_a_gpu(program, tmp_path, path):
    device, cases = golden.load(path)
    assert "host executor" not in device, "recorded without a GPU"
    assert cases.keys() == golden.INPUTS.keys(), "record it again: the cases have changed"
    found = [
        golden.difference(name, given, golden.run(program, name, given, tmp_path), expected)
        for name, (given, expected) in cases.items()
    ]
    assert not any(found), "\n".join(filter(None, found))


def test_every_wrapper_has_a_case(program):
    """One of two bodies in csrc/cuda/ptx wants a case in tests/golden/wrappers.cu and inputs in golden_wrappers.py."""
    calls = set(re.findall(r"ptx::(\w+)", golden.SOURCE.read_text()))
    wrappers = {
        name
        for header in (golden.ROOT / "csrc/cuda/ptx").glob("*.cuh")
        for on_device in re.findall(r"#ifndef FASTDL_SIMT\n(.*?)\n#else", header.read_text(), re.DOTALL)
        for name in re.findall(r"__device__ __forceinline__ \w+ (\w+)\(", on_device)
    }
    assert len(wrappers) >= 9 and wrappers <= calls
    assert golden.cases(program)[1].keys() == golden.INPUTS.keys()


@pytest.fixture(scope="module")
def recorded(program, tmp_path_factory):
    """A file like a GPU's, made by the executor."""
    folder = tmp_path_factory.mktemp("recorded")
    return golden.load(golden.record(program, folder, folder))


def test_recording_and_comparing(program, recorded, tmp_path):
    device, cases = recorded
    assert device == "fastdl host executor"
    for name, (given, expected) in cases.items():
        np.testing.assert_array_equal(given, golden.inputs()[name])
        assert golden.difference(name, given, golden.run(program, name, given, tmp_path), expected) is None


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # signalling NaN
def test_formulas(recorded):
    """The cases mean what they are called: against NumPy."""
    cases = recorded[1]
    for dtype in ("bfloat16", "float16"):
        given, out = cases[f"widen_{dtype}"]
        bits = given.ravel().astype(np.uint16)
        np.testing.assert_array_equal(
            out.view(np.float32).ravel().astype(np.float64), golden._widened(bits, dtype)
        )
        given, out = cases[f"mma_{dtype}"]  # the first two: ordinary numbers
        for fragments, result in zip(given[:2], out[:2], strict=True):
            a, b, c = golden._matrices(fragments, dtype)
            np.testing.assert_allclose(
                result.view(np.float32), golden._fragment(a @ b + c), rtol=1e-6, atol=1e-5
            )
    given, out = cases["cp_async"]
    for lane, result in zip(given.reshape(-1, 8), out.reshape(-1, 4), strict=True):
        valid = int(lane[4]) % 17
        assert result.tobytes() == lane.tobytes()[:valid] + bytes(16 - valid)
    given, out = cases["ldmatrix"]
    rows = given[0, :, :4].copy().view(np.uint16)  # row r of matrix m is that of lane 8 m + r
    np.testing.assert_array_equal(out[0].view(np.uint16)[5, 2:4], rows[8 * 1 + 1][2:4])


@pytest.mark.parametrize("name", golden.INPUTS)
def test_a_wrong_word_is_found(recorded, name):
    given, expected = recorded[1][name]
    rng = np.random.default_rng(1)
    for _ in range(5):
        where = tuple(rng.integers(0, expected.shape))
        wrong = expected.copy()
        wrong[where] ^= 0x00800000 if name.startswith("mma") else 1  # twice or half a sum; one bit
        if name.startswith("mma") and not np.isfinite(wrong.view(np.float32)[where]):
            wrong[where] = 0x42F6E979
        message = golden.difference(name, given, wrong, expected)
        if message is None:  # a sum of terms that cancel may be off by as much as they are
            assert name.startswith("mma")
            continue
        assert f"{name}: 1 of {expected.size} words differ" in message and str(where[0]) in message


def test_sums_that_differ_in_the_last_place_are_near(recorded):
    for name in ("mma_bfloat16", "mma_float16"):
        given, expected = recorded[1][name]
        finite = np.isfinite(expected.view(np.float32))
        assert golden.difference(name, given, expected + finite.astype(np.uint32), expected) is None
        swapped = expected[:, :, ::-1].copy()
        assert "words differ" in golden.difference(name, given, swapped, expected)
    assert "shapes" in golden.difference(name, given, expected[:1], expected)
