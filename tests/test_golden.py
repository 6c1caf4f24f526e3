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
    expected = golden.INPUTS.keys() - ({} if "wgmma_bfloat16" in cases else golden.HOPPER.keys())
    assert cases.keys() == expected, "record it again: the cases have changed"
    found = [
        golden.difference(name, given, golden.run(program, name, given, tmp_path), expected)
        for name, (given, expected) in cases.items()
    ]
    assert not any(found), "\n".join(filter(None, found))


def test_every_wrapper_has_a_case(program):
    """One of two bodies in csrc/cuda/ptx wants a case in tests/golden/wrappers.cu and inputs in golden_wrappers.py."""
    sources = [golden.SOURCE, golden.SOURCE.with_name("hopper.cuh")]
    calls = {name for source in sources for name in re.findall(r"ptx::(\w+)", source.read_text())}
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
    given, out = cases["exp2"]
    with np.errstate(over="ignore"):
        exact = np.exp2(given.view(np.float32))
    exact[exact < 2.0**-126] = 0  # subnormal
    np.testing.assert_allclose(out.view(np.float32), exact, rtol=2.0**-21)
    given, out = cases["cp_async"]
    for lane, result in zip(given.reshape(-1, 8), out.reshape(-1, 4), strict=True):
        valid = int(lane[4]) % 17
        assert result.tobytes() == lane.tobytes()[:valid] + bytes(16 - valid)
    given, out = cases["ldmatrix"]
    rows = given[0, :, :4].copy().view(np.uint16)  # row r of matrix m is that of lane 8 m + r
    np.testing.assert_array_equal(out[0].view(np.uint16)[5, 2:4], rows[8 * 1 + 1][2:4])


def _matrix(words, dtype, row_bytes=128):
    """Rows of 128 bytes of a problem's 128 lanes, or their beginnings, in float64."""
    rows = np.ascontiguousarray(words.reshape(128, 32)[:, : row_bytes // 4])
    if dtype == "tfloat32":
        return rows.view(np.float32).astype(np.float64)
    return golden._widened(rows.view(np.uint16).ravel(), dtype).reshape(128, -1)


def _sums(out, columns):
    """The 64 x columns sums of 128 lanes."""
    values = out.view(np.float32).reshape(4, 8, 4, columns // 8, 2, 2)  # warp, g, t, j, half, e
    return values.transpose(0, 4, 1, 3, 2, 5).reshape(64, columns)


@pytest.mark.parametrize(
    "name, dtype, columns, transposed_a, transposed_b, row_bytes",
    [
        ("wgmma_bfloat16", "bfloat16", 64, False, False, 128),
        ("wgmma_bfloat16_transposed_a", "bfloat16", 128, True, False, 128),
        ("wgmma_bfloat16_transposed_b", "bfloat16", 256, False, True, 128),
        ("wgmma_bfloat16_transposed_b_rows_of_64", "bfloat16", 128, False, True, 64),
        ("wgmma_float16_transposed", "float16", 64, True, True, 128),
        ("wgmma_float16_rows_of_64", "float16", 128, False, False, 64),
        ("wgmma_bfloat16_rows_of_32", "bfloat16", 64, False, False, 32),
        ("wgmma_bfloat16_8_columns", "bfloat16", 8, False, False, 128),
        ("wgmma_float16_8_columns_transposed", "float16", 8, True, True, 128),
        ("wgmma_float16_16_columns", "float16", 16, True, False, 128),
        ("wgmma_bfloat16_16_columns_rows_of_32", "bfloat16", 16, False, True, 32),
        ("wgmma_bfloat16_32_columns_rows_of_64", "bfloat16", 32, False, True, 64),
        ("wgmma_tfloat32", "tfloat32", 64, False, False, 128),
    ],
)
def test_formulas_of_wgmma(recorded, name, dtype, columns, transposed_a, transposed_b, row_bytes):
    given, out = recorded[1][name]
    for words, result in zip(given.reshape(-1, 128, 32), out.reshape(-1, 128, out.shape[2]), strict=True):
        rows = _matrix(words, dtype, row_bytes)
        upper, lower = rows[:64], rows[64:]
        a = upper.T if transposed_a else upper
        tiles = [lower, upper] * 2  # of 64 columns
        b = np.concatenate([t if transposed_b else t.T for t in tiles], 1)[: a.shape[1], :columns]
        np.testing.assert_array_equal(_sums(np.ascontiguousarray(result), columns), a @ b)


@pytest.mark.parametrize(
    "name, columns",
    [
        ("bfloat16_left_in_registers", 128),
        ("float16_left_in_registers", 96),
        ("bfloat16_left_in_registers_8_columns", 8),
        ("float16_left_in_registers_16_columns", 16),
        ("bfloat16_left_in_registers_32_columns", 32),
    ],
)
def test_formulas_of_wgmma_with_a_factor_in_registers(recorded, name, columns):
    given, out = recorded[1][f"wgmma_{name}"]
    dtype = name.split("_")[0]
    for words, result in zip(given.reshape(-1, 128, 32), out.reshape(-1, 128, out.shape[2]), strict=True):
        rows = _matrix(words, dtype)
        b = np.concatenate([rows[64:], rows[:64]], 1)[:, :columns]
        np.testing.assert_array_equal(_sums(np.ascontiguousarray(result), columns), rows[:64] @ b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_formulas_of_wgmma_with_ordinary_numbers(recorded, dtype):
    given, out = recorded[1][f"mma_warpgroup_{dtype}"]
    for words, result in zip(given.reshape(-1, 128, 32), out.reshape(-1, 128, 32), strict=True):
        rows = _matrix(words, dtype, 32)
        scale = np.abs(rows[:64]) @ np.abs(rows[64:].T)
        error = np.abs(_sums(np.ascontiguousarray(result), 64) - rows[:64] @ rows[64:].T)
        assert (error <= 2.0**-22 * scale).all() and error.any()  # cut off, so not exact


@pytest.mark.parametrize(
    "name, row_bytes", [("", 128), ("_swizzled_128", 128), ("_swizzled_64", 64), ("_swizzled_32", 32)]
)
def test_formulas_of_tensor_load(recorded, name, row_bytes):
    given, out = recorded[1][f"tensor_load{name}"]
    tensor = np.zeros(
        (given.shape[0] * 32 + 64, 128), np.uint16
    )  # two rows of zeros before it, zeros around it
    tensor[2 : given.shape[0] * 32 - 1, :61] = given.view(np.uint16).reshape(-1, 64)[:-3, :61]
    for problem, image in enumerate(out.reshape(-1, 1024)):
        row = 0 if problem == 0 else problem * 128 + 98
        column = 64 - row_bytes // 2 + 8
        box = np.ascontiguousarray(tensor[row : row + 32, column : column + row_bytes // 2]).view(np.uint8)
        expected = np.zeros(4096, np.uint8)
        place = np.arange(box.size)
        bits = {"": 0, "_swizzled_128": 7, "_swizzled_64": 3, "_swizzled_32": 1}[name]
        expected[place ^ (place >> 7 & bits) << 4] = box.ravel()
        np.testing.assert_array_equal(image.view(np.uint8), expected)


#: Of tests/golden/hopper.cuh: sizes, corners, steps, offsets, W first.
IM2COL = {
    1: ((11,), (-2,), (-1,), (2,), (3,)),
    2: ((7, 5), (-1, -2), (-2, 1), (1, 2), (2, 1)),
    3: ((3, 4, 5), (-1, 0, -1), (0, 1, -2), (1, 3, 2), (1, 0, 2)),
}


@pytest.mark.parametrize("multicast", [False, True])
@pytest.mark.parametrize("axes", IM2COL)
def test_formulas_of_im2col(recorded, axes, multicast):
    """Against the columns that NumPy makes of the whole images, padded with zeros."""
    size, lower, upper, step, offset = IM2COL[axes]
    given, out = recorded[1][f"tensor_load_im2col_{axes}d{'_multicast' if multicast else ''}"]
    pixels = given.view(np.uint16).reshape(-1, 64).copy()
    pixels[:, 61:] = 0
    count = len(pixels) // np.prod(size)
    images = pixels[: count * np.prod(size)].reshape(count, *size[::-1], 64)
    margin = 8
    padded = np.pad(images, [(0, 0), *[(margin, margin)] * axes, (0, 0)])
    positions = [range(lo, n + hi, s) for n, lo, hi, s in zip(size, lower, upper, step)][::-1]
    taps = [np.array(p) + margin + o for p, o in zip(positions, offset[::-1])]
    columns = padded[np.ix_(range(count), *taps, range(64))].reshape(-1, 64)
    each = len(columns) // count
    columns = np.concatenate([columns, np.zeros((32, 64), np.uint16)])
    place = np.arange(32 * 128)
    for problem, result in enumerate(out.reshape(-1, 1024)):
        if multicast:
            problem = problem // 2 * 2
        image = count - 1 if problem == 3 else problem
        first = image * each + each // len(positions[0])  # one step into the outermost axis
        expected = np.zeros(4096, np.uint8)
        box = np.ascontiguousarray(columns[first : first + 32])
        expected[place ^ (place >> 7 & 7) << 4] = box.view(np.uint8).ravel()
        np.testing.assert_array_equal(result.view(np.uint8), expected)


def test_formulas_of_clusters_and_stores(recorded):
    given, out = recorded[1]["cluster_of_two"]
    lanes = given.reshape(-1, 2, 128, 32)  # cluster, block, lane
    for rows, results in zip(lanes, out.reshape(-1, 2, 128, 10), strict=True):
        brought = np.concatenate([rows[0, :16], rows[1, :16]]).reshape(128, 8)
        for block in range(2):
            np.testing.assert_array_equal(results[block, :, :8], brought)
            np.testing.assert_array_equal(
                results[block, :, 8], brought[:, 0] * np.uint32(3) + np.arange(128, dtype=np.uint32)
            )
            np.testing.assert_array_equal(results[block, :, 9], brought.ravel()[:128])
    for name, transposed in (("stmatrix", False), ("stmatrix_transposed", True)):
        given, out = recorded[1][name]
        for words, rows in zip(given.reshape(-1, 4, 32, 32), out.reshape(-1, 128, 32), strict=True):
            expected = np.full((128, 64), 0xABAB, np.uint16)
            for warp, half, matrix in np.ndindex(4, 2, 4):
                register = np.ascontiguousarray(words[warp, :, 4 * half + matrix]).view(np.uint16)
                fragment = register.reshape(8, 8)  # lanes 4g + t hold elements 2t, 2t + 1 of row g
                block = fragment.T if transposed else fragment
                column = half * 32 + matrix * 8
                expected[warp * 8 : warp * 8 + 8, column : column + 8] = block
            # The tensor has 61 columns; stores are clipped by whole 16 bytes, behind the 64th.
            np.testing.assert_array_equal(np.ascontiguousarray(rows).view(np.uint16), expected)


@pytest.mark.parametrize("name", golden.INPUTS)
def test_a_wrong_word_is_found(recorded, name):
    given, expected = recorded[1][name]
    rng = np.random.default_rng(1)
    by_value = name.startswith("mma") or name == "exp2"
    for _ in range(5):
        where = tuple(rng.integers(0, expected.shape))
        wrong = expected.copy()
        wrong[where] ^= 0x00800000 if by_value else 1  # twice or half a number; one bit
        if by_value and not np.isfinite(wrong.view(np.float32)[where]):
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
