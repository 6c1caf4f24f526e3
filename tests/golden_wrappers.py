"""Golden outputs of the PTX wrappers (csrc/cuda/ptx): the inputs, the program that runs the wrappers on them
(tests/golden/wrappers.cu, compiled for a GPU or for the host executor), the recorded files, and how two are compared.

A recorded file, tests/golden/<device>.npz, holds ``device`` and for each case ``<case>.in`` and ``<case>.out``: words
of 32 bits, (warps, 32 lanes, words per lane).
"""

import re
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "golden"
SOURCE = FOLDER / "wrappers.cu"
LANES = 32


# --------------------------------------------------------------------------------------------------------- inputs


def _words(x):
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def _narrowed(x, name):
    """The bits of float32 numbers cut to bfloat16, or rounded to float16."""
    if name == "bfloat16":
        return (_words(x) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return x.astype(np.float16).view(np.uint16)


def _floats(rng, count):
    """Float32 of all kinds: random bits, the middles of 16-bit neighbours and what is beside them, edges."""
    bits = rng.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    ties = rng.integers(0, 2**16, count).astype(np.uint32) << 16 | 0x8000
    half = rng.integers(0x0400, 0x7C00, count).astype(np.uint16).view(np.float16).astype(np.float32)
    half_ties = _words(half) | 0x1000
    tiny = rng.integers(0x32000000, 0x39000000, count).astype(np.uint32)  # float16's subnormals
    special = [
        0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-45,
        3.4028235e38,
        65504,
        65519.996,
        65520,
        2.0**-24,
        2.0**-25,
    ]
    edges = np.resize(_words(special), count)
    near = [ties, ties + 1, ties - 1, half_ties, half_ties + 1, half_ties - 1, tiny, tiny | 0x80000000]
    return np.concatenate([bits, edges, *near])


def _mma(rng, name):
    """A (16, 16), B (16, 8) and C (16, 8) of 28 problems as fragments: ordinary numbers, wide ranges, integers whose
    products are exact, cancellation, infinities and NaN."""
    kinds = []
    for _ in range(4):
        a, b, c = rng.standard_normal((16, 16)), rng.standard_normal((16, 8)), rng.standard_normal((16, 8))
        wide = [2.0 ** rng.integers(-10, 11, x.shape) for x in (a, b, c)]
        whole = [rng.integers(-8, 9, x.shape) for x in (a, b, c)]
        kinds += [
            (a, b, c),
            (a, b, 0 * c),
            (a, b, 1000 * c),
            tuple(x * w for x, w in zip((a, b, c), wide)),
            whole,
        ]
        kinds.append((np.concatenate([a[:, :8], -a[:, :8]], 1), np.concatenate([b[:8], b[:8]]), 2.0**-12 * c))
        special = a.copy(), b.copy(), c.copy()
        for x in special:
            x.flat[rng.integers(0, x.size, 2)] = rng.choice([np.inf, -np.inf, np.nan, 0.0], 2)
        kinds.append(special)
    fragments = np.zeros((len(kinds), LANES, 10), np.uint32)
    lane = np.arange(LANES)
    g, t = lane // 4, lane % 4
    for k, (a, b, c) in enumerate(kinds):
        a, b = (_narrowed(np.asarray(x, np.float32), name).astype(np.uint32) for x in (a, b))
        for i in range(4):
            row, column = g + 8 * (i % 2), 2 * t + 8 * (i // 2)
            fragments[k, :, i] = a[row, column] | a[row, column + 1] << 16
        for i in range(2):
            fragments[k, :, 4 + i] = b[2 * t + 8 * i, g] | b[2 * t + 8 * i + 1, g] << 16
        for i in range(4):
            fragments[k, :, 6 + i] = _words(np.asarray(c, np.float32)[g + 8 * (i // 2), 2 * t + i % 2])
    return fragments


def _ldmatrix(rng):
    rows = rng.integers(0, 2**32, (6, LANES, 4), dtype=np.uint64).astype(np.uint32)
    which = [np.arange(LANES), *[rng.permutation(LANES) for _ in range(4)], rng.integers(0, LANES, LANES)]
    return np.concatenate([rows, np.stack(which)[..., None].astype(np.uint32)], 2)


def _cp_async(rng):
    words = rng.integers(0, 2**32, (4, LANES, 8), dtype=np.uint64).astype(np.uint32)
    words[..., 4] = np.arange(4 * LANES).reshape(4, LANES) % 17
    return words


def _exponents(rng):
    special = [0.0, -0.0, 1.0, -1.0, 127.5, 128.0, -126.0, -126.5, -149.0, -1e30, np.inf, -np.inf, np.nan]
    return _words(np.concatenate([rng.uniform(-130, 130, 4083), special])).reshape(-1, LANES, 1)


def _pairs(rng):
    x = _floats(rng, 64)
    return np.stack([x, rng.permutation(x)], 1).reshape(-1, LANES, 2)


#: Of a problem of sm_90's cases: four warps, a row of 128 bytes to a lane, and two of them to a cluster.
GROUP = 4


def _whole(rng, dtype):
    """Small integers, the sums of whose products are exact whatever their order: they show where everything lies."""
    if dtype == "tfloat32":
        return _words(rng.integers(-8, 9, (4 * GROUP, LANES, 32)))
    bits = _narrowed(rng.integers(-8, 9, (4 * GROUP, LANES, 64)).astype(np.float32), dtype)
    return np.ascontiguousarray(bits).view(np.uint32)


def _ordinary(rng, dtype):
    """Normal numbers, and those of wide ranges: one instruction's sums of 16 products show how they are rounded."""
    x = rng.standard_normal((4 * GROUP, LANES, 64))
    x[GROUP:] *= 2.0 ** rng.integers(-6, 7, x[GROUP:].shape)
    return np.ascontiguousarray(_narrowed(x.astype(np.float32), dtype)).view(np.uint32)


def _any(rng):
    return rng.integers(0, 2**32, (4 * GROUP, LANES, 32), dtype=np.uint64).astype(np.uint32)


#: What only compute capability 9.0 has.
HOPPER = {
    "wgmma_bfloat16": lambda rng: _whole(rng, "bfloat16"),
    "wgmma_bfloat16_transposed_a": lambda rng: _whole(rng, "bfloat16"),
    "wgmma_bfloat16_transposed_b": lambda rng: _whole(rng, "bfloat16"),
    "wgmma_float16_transposed": lambda rng: _whole(rng, "float16"),
    "wgmma_float16_rows_of_64": lambda rng: _whole(rng, "float16"),
    "wgmma_bfloat16_rows_of_32": lambda rng: _whole(rng, "bfloat16"),
    **{
        f"wgmma_{name}": lambda rng, name=name: _whole(rng, name.split("_")[0])
        for name in (
            "bfloat16_8_columns",
            "float16_8_columns_transposed",
            "float16_16_columns",
            "bfloat16_16_columns_rows_of_32",
            "bfloat16_32_columns_rows_of_64",
            "bfloat16_transposed_b_rows_of_64",
            "bfloat16_left_in_registers_8_columns",
            "float16_left_in_registers_16_columns",
            "bfloat16_left_in_registers_32_columns",
        )
    },
    "mma_warpgroup_bfloat16": lambda rng: _ordinary(rng, "bfloat16"),
    "mma_warpgroup_float16": lambda rng: _ordinary(rng, "float16"),
    "wgmma_tfloat32": lambda rng: _whole(rng, "tfloat32"),
    "wgmma_bfloat16_left_in_registers": lambda rng: _whole(rng, "bfloat16"),
    "wgmma_float16_left_in_registers": lambda rng: _whole(rng, "float16"),
    "tensor_load": _any,
    "tensor_load_swizzled_128": _any,
    "tensor_load_swizzled_64": _any,
    "tensor_load_swizzled_32": _any,
    **{f"tensor_load_im2col_{d}d{m}": _any for m in ("", "_multicast") for d in (1, 2, 3)},
    "cluster_of_two": _any,
    "store_async": _any,
    "stmatrix": _any,
    "stmatrix_transposed": _any,
    "bulk_lines": _any,
}

EVERY = np.arange(65536, dtype=np.uint32).reshape(-1, LANES, 1)
INPUTS = {
    "mma_bfloat16": lambda rng: _mma(rng, "bfloat16"),
    "mma_float16": lambda rng: _mma(rng, "float16"),
    "ldmatrix": _ldmatrix,
    "ldmatrix_transposed": _ldmatrix,
    "cp_async": _cp_async,
    "opaque": lambda rng: EVERY[:1],
    "relaxed": lambda rng: _any(rng)[..., :4],
    "exp2": _exponents,
    "widen_bfloat16": lambda rng: EVERY,
    "widen_float16": lambda rng: EVERY,
    "narrow_bfloat16": lambda rng: _floats(rng, 512).reshape(-1, LANES, 1),
    "narrow_float16": lambda rng: _floats(rng, 512).reshape(-1, LANES, 1),
    "pack_bfloat16": _pairs,
    "pack_float16": _pairs,
    **HOPPER,
}


def inputs(seed=0):
    """The words every case is given."""
    return {name: make(np.random.default_rng([seed, i])) for i, (name, make) in enumerate(INPUTS.items())}


# --------------------------------------------------------------------------------------------------- the program


def build(compiler, output, arch=None):
    """Compiles the program: with nvcc for a GPU of ``arch`` ("sm_90"), else for the host executor."""
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
    if arch:
        target = [f"-arch={arch}"]
        if arch == "sm_90":  # its own instructions are those of sm_90a
            target = ["-gencode=arch=compute_90a,code=sm_90a", "-DFASTDL_GOLDEN_HOPPER"]
        command = [compiler, "-std=c++17", "-O2", "--expt-relaxed-constexpr", *target, *include, SOURCE]
    else:
        flags = ["-std=c++17", "-O1", "-pthread", "-Wno-unknown-pragmas", "-DFASTDL_SIMT", *include]
        executor = sorted((ROOT / "csrc/simt").glob("*.cpp"))
        command = [compiler, *flags, f"-I{ROOT / 'csrc/simt/include'}", "-x", "c++", SOURCE, *executor]
    done = subprocess.run([*map(str, command), "-o", str(output)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return output


def cases(program):
    """The device's name, and the words per lane (in, out) of every case."""
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    sizes = (line.split() for line in lines[1:])
    return lines[0], {name: (int(a), int(b)) for name, a, b in sizes}


def run(program, name, words, folder):
    """What one case makes of its input; files go through ``folder``."""
    _, sizes = cases(program)
    source, result = Path(folder) / f"{name}.in", Path(folder) / f"{name}.out"
    source.write_bytes(np.ascontiguousarray(words, np.uint32).tobytes())
    done = subprocess.run([program, name, source, result], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: exit status {done.returncode}: {done.stderr}")
    return np.fromfile(result, np.uint32).reshape(len(words), LANES, sizes[name][1])


def record(program, folder, scratch, given=None):
    """Runs every case and writes <folder>/<device>.npz. Returns its path."""
    device, _ = cases(program)
    arrays = {"device": np.array(device)}
    available = cases(program)[1]
    for name, words in (given or inputs()).items():
        if name not in available:  # another generation's
            continue
        arrays[f"{name}.in"] = words
        arrays[f"{name}.out"] = run(program, name, words, scratch)
    path = Path(folder) / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".npz")
    np.savez_compressed(path, **arrays)
    return path


def load(path):
    """The device's name, and (input, output) of every case of a recorded file."""
    with np.load(path, allow_pickle=False) as file:
        names = [key.removesuffix(".in") for key in file.files if key.endswith(".in")]
        return str(file["device"]), {name: (file[f"{name}.in"], file[f"{name}.out"]) for name in names}


# ----------------------------------------------------------------------------------------------------- comparison


def difference(name, given, actual, golden):
    """What is wrong with ``actual``, or None: the same bits, or, for matrix products, as near as sums that are cut off
    somewhere can be, or, for 2^x, within twice the error that the PTX manual allows."""
    if actual.shape != golden.shape:
        return f"{name}: shapes {actual.shape} and {golden.shape}"
    if name.startswith("mma"):
        wrong = ~_near(name.removeprefix("mma_"), given, actual, golden)
    elif name == "exp2":
        x, y = (words.view(np.float32).astype(np.float64) for words in (actual, golden))
        with np.errstate(invalid="ignore"):  # infinities
            near = np.isfinite(y) & (np.abs(x - y) <= 2.0**-21 * y)
            wrong = ~(near | (x == y) | (np.isnan(x) & np.isnan(y)))
    else:
        wrong = actual != golden
    if not wrong.any():
        return None
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{name}: {int(wrong.sum())} of {wrong.size} words differ, first (warp, lane, word) {where}: "
        f"{actual[where]:#010x}, golden {golden[where]:#010x}"
    )


def _near(dtype, given, actual, golden):
    """Tensor cores line the 17 terms of a sum up with the largest of them and cut off what is more than 23 bits below
    it (more on newer ones), then what the result has no room for."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        x, y = (words.view(np.float32).astype(np.float64) for words in (actual, golden))
    warpgroup = dtype.startswith("warpgroup_")
    largest = (
        _largest_of_warpgroups(given, dtype.removeprefix("warpgroup_")) if warpgroup else np.empty(x.shape)
    )
    for k, fragments in enumerate([] if warpgroup else given):
        a, b, c = _matrices(fragments, dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            terms = np.concatenate([np.abs(a[:, None, :] * b.T[None]), np.abs(c)[..., None]], 2)
        largest[k] = _fragment(terms.max(2))
    with np.errstate(invalid="ignore"):
        near = np.abs(x - y) <= 18 * 2.0**-23 * largest
    return near | (x == y) | (np.isnan(x) & np.isnan(y))


def _largest_of_warpgroups(given, dtype):
    """For each sum of 16 products of wgmma, the largest of them: rows 0 to 63 of a problem times rows 64 to 127."""
    largest = []
    warp, lane, i = np.ogrid[:4, :LANES, :32]
    row, column = 16 * warp + lane // 4 + 8 * (i % 4 // 2), 8 * (i // 4) + 2 * (lane % 4) + i % 2
    for words in given.reshape(-1, 4 * LANES, 32):
        x = _widened(np.ascontiguousarray(words[:, :8]).view(np.uint16).ravel(), dtype).reshape(128, 16)
        largest.append(np.abs(x[:64, None] * x[None, 64:]).max(2)[row, column])
    return np.concatenate(largest)


def _matrices(fragments, dtype):
    """A, B and C of one warp's input of mma, in float64."""
    a, b, c = np.zeros((16, 16), np.uint16), np.zeros((16, 8), np.uint16), np.zeros((16, 8), np.float32)
    lane = np.arange(LANES)
    g, t = lane // 4, lane % 4
    for e in range(2):
        for i in range(4):
            a[g + 8 * (i % 2), 2 * t + 8 * (i // 2) + e] = fragments[:, i] >> 16 * e & 0xFFFF
        for i in range(2):
            b[2 * t + 8 * i + e, g] = fragments[:, 4 + i] >> 16 * e & 0xFFFF
    for i in range(4):
        c[g + 8 * (i // 2), 2 * t + i % 2] = np.ascontiguousarray(fragments[:, 6 + i]).view(np.float32)
    return *(_widened(x, dtype) for x in (a, b)), c.astype(np.float64)


def _widened(bits, dtype):
    with np.errstate(invalid="ignore"):  # signalling NaN
        if dtype == "float16":
            return bits.view(np.float16).astype(np.float64)
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _fragment(matrix):
    """A (16, 8) matrix as mma's lanes hold it, (32, 4)."""
    lane, i = np.arange(LANES)[:, None], np.arange(4)[None]
    return matrix[lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2]
