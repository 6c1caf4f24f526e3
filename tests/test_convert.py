"""Conversions to and from bfloat16 and float16, bit for bit."""

import ml_dtypes
import numpy as np
import pytest

from fastdl import _core

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
DTYPES = [BF16, F16]


def convert(x, dtype):
    out = np.empty_like(x, dtype)  # keeps the layout
    out.fill(7)
    _core.convert(x, out)
    return out


def bits(x):
    return x.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[x.dtype.itemsize])


def assert_same_bits(actual, expected):
    """NaN of any payload equals NaN; -0 differs from 0."""
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(actual.astype(np.float32)), nan)
    np.testing.assert_array_equal(bits(actual)[~nan], bits(expected)[~nan])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@np.errstate(invalid="ignore")
def test_every_pattern_widens_exactly_and_comes_back(isa, dtype):
    every = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(dtype)
    wide = convert(every, np.float32)
    assert_same_bits(wide, every.astype(np.float32))
    back = convert(wide, dtype)
    assert_same_bits(back, every)
    nan = np.isnan(wide)
    quiet = {BF16: 0x40, F16: 0x200}[dtype]
    if isa.startswith("cuda"):
        assert (bits(back)[nan] & quiet).all()
    else:
        np.testing.assert_array_equal(
            bits(back)[nan], bits(every)[nan] | quiet
        )  # sign and payload kept, quiet


@np.errstate(invalid="ignore")  # NumPy on ARM warns where it widens signalling NaNs
def interesting_floats(dtype, rng):
    """Random float32 of all magnitudes, both neighbours and the middle of adjacent 16-bit numbers, special values."""
    anything = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    every = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(dtype).astype(np.float32)
    every = np.sort(every[np.isfinite(every)])
    middle = ((every[1:].astype(np.float64) + every[:-1].astype(np.float64)) / 2).astype(np.float32)
    around = [np.nextafter(middle, np.float32(s * np.inf)) for s in (-1, 1)]
    largest = np.float32(ml_dtypes.finfo(dtype).max)
    edge = largest + largest * np.float32(2.0 ** (-ml_dtypes.finfo(dtype).nmant - 2))
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, largest, edge]
    special += [np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(np.inf))]
    special = np.array(special, np.float32)
    return np.concatenate([anything, every, middle, *around, special, -special])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_narrowing_rounds_to_nearest_even(isa, dtype, rng):
    x = interesting_floats(dtype, rng)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(dtype)
    assert_same_bits(convert(x, dtype), expected)
    assert np.isinf(convert(np.array([3.4e38], np.float32), F16)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_is_quiet_whatever_its_payload(isa, dtype):
    signalling = np.array([0x7F800001, 0xFF800001, 0x7F80FFFF, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    for count in (1, 5, 16):  # partial and full vectors
        x = np.resize(signalling, count).view(np.float32)
        y = convert(x, dtype)
        assert np.isnan(y.astype(np.float32)).all()
        assert (bits(y) & {BF16: 0x40, F16: 0x200}[dtype]).all()
        if not isa.startswith("cuda"):  # PTX's cvt knows one NaN, 0x7FFF
            np.testing.assert_array_equal(bits(y) >> 15, bits(x) >> 31)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lengths_layouts_and_threads(isa, threads, dtype, rng):
    for n in [0, 1, 7, 15, 16, 17, 33, 100_003]:
        x = rng.normal(size=n).astype(np.float32)
        guarded = np.full(n + 2, 3, dtype)
        _core.convert(x, guarded[1:-1])
        assert_same_bits(guarded[1:-1], x.astype(dtype))
        assert guarded[0] == 3 and guarded[-1] == 3
        wide = np.full(n + 2, 3, np.float32)
        _core.convert(guarded[1:-1], wide[1:-1])
        assert_same_bits(wide[1:-1], x.astype(dtype).astype(np.float32))
        assert wide[0] == 3 and wide[-1] == 3
    x = rng.normal(size=(6, 5, 40, 20)).astype(np.float32)
    for view in [
        x.transpose(3, 1, 0, 2),
        x[::2, ::-1, 3:30:5],
        x[:, :, :, 0],
        np.broadcast_to(x[:, :1], x.shape),
    ]:
        assert_same_bits(convert(view, dtype), view.astype(dtype))
        out = np.zeros(view.shape[::-1], dtype).T
        _core.convert(view, out)
        assert_same_bits(out, view.astype(dtype))
        assert_same_bits(convert(out[::2], np.float32), view.astype(dtype).astype(np.float32)[::2])


def test_from_one_16_bit_type_to_the_other(isa, rng):
    x = (rng.normal(size=(5, 1000)) * 10.0 ** rng.integers(-8, 4, (5, 1000))).astype(F16)
    assert_same_bits(convert(x, BF16), x.astype(np.float32).astype(BF16))
    y = x.astype(BF16)
    assert_same_bits(convert(y.T, F16), y.astype(np.float32).astype(F16).T)
    assert_same_bits(convert(y[:, ::2], BF16), y[:, ::2])


def test_convert_refuses():
    x, y = np.zeros(3, np.float32), np.zeros(3, BF16)
    with pytest.raises(
        TypeError, match="convert: expected float32, bfloat16 or float16, got float64 to bfloat16"
    ):
        _core.convert(x.astype(np.float64), y)
    with pytest.raises(
        TypeError, match="convert: expected x to be float32, float64, bfloat16 or float16, got int32"
    ):
        _core.convert(x.astype(np.int32), y)
    with pytest.raises(ValueError, match="shape"):
        _core.convert(x[:2], y)
    with pytest.raises(ValueError, match="share memory"):
        _core.convert(x, np.lib.stride_tricks.as_strided(y, (3,), (0,)))
    with pytest.raises(TypeError, match="not supported"):
        _core.convert(x, np.zeros(3, ml_dtypes.float8_e5m2))
    with pytest.raises(TypeError, match="not supported"):
        _core.convert(x, np.zeros(3, "V2"))
