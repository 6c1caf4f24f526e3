"""Hostile calls of every compiled function: wrong shapes, dtypes, strides, None, read-only and overlapping outputs.

A call either succeeds, and then no output keeps its poison, or raises, and then no output has changed.
"""

import os

import numpy as np
import pytest
from kernel_calls import BFLOAT16, FUNCTIONS, Cases, Out, conv_options, pool_options

from fastdl import _core

ERRORS = (ValueError, TypeError, IndexError, RuntimeError, MemoryError)
CALLS = 60  # per function and seed
DTYPES = ["f2", BFLOAT16, "f4", "f8", "i4", "i8", "u1", "?", ">f4", "c8", "i2"]


def spaced(a, rng):
    """The same values in another layout: transposed memory, every second element, backwards."""
    if a.ndim == 0:
        return a.copy()
    order = rng.permutation(a.ndim)
    b = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    if rng.random() < 0.5:
        dim = int(rng.integers(a.ndim))
        wide = np.repeat(b, 2, axis=dim)
        b = wide[(slice(None),) * dim + (slice(None, None, 2),)]
    if rng.random() < 0.5:
        dim = int(rng.integers(a.ndim))
        b = np.flip(np.flip(b, dim).copy(), dim)
    return b


def wrong(a, rng):
    """Something that does not belong in a's place."""
    kind = rng.integers(12)
    if kind == 0:
        return None
    if kind == 1:
        return a.astype(DTYPES[rng.integers(len(DTYPES))])
    if kind == 2:
        return np.broadcast_to(a.ravel()[:1].reshape((1,) * a.ndim) if a.size else a, a.shape)
    if kind == 3:
        b = a.copy()
        b.flags.writeable = False
        return b
    if kind == 4 and a.ndim:
        return a[(slice(None),) * int(rng.integers(a.ndim)) + (slice(0, 0),)]
    if kind == 5 and a.ndim:
        return np.concatenate([a, a], axis=int(rng.integers(a.ndim)))
    if kind == 6:
        return a[..., None] if rng.random() < 0.5 else a[None]
    if kind == 7 and a.ndim:
        return a[0] if a.shape[0] else a.reshape(-1)
    if kind == 8:
        if a.size == 0:
            return a
        raw = np.zeros(a.nbytes + 1, np.uint8)
        b = raw[1:].view(a.dtype).reshape(a.shape)
        b[...] = a
        return b
    if kind == 9:
        return rng.choice(np.array([3, 2.5, "text", [1, [2]], {}], dtype=object))
    if kind == 10 and a.size and a.ndim:  # elements that share memory in part, and may be written
        strides = (a.itemsize,) * a.ndim
        return np.lib.stride_tricks.as_strided(a.copy(), a.shape, strides)
    if kind == 11 and a.dtype.kind == "i":
        return a + rng.choice(np.array([-1, -200, 1000, 2**31 - 1, 2**40, -(2**62)])).astype(a.dtype)
    return a.reshape(-1)


def is_float(a):
    return a.dtype.kind == "f" or a.dtype == BFLOAT16


def base_of(a):
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def realise(argument, rng, dtype, outs):
    if isinstance(argument, list) and argument and isinstance(argument[0], (np.ndarray, Out)):
        return [realise(a, rng, dtype, outs) for a in argument]
    if not isinstance(argument, Out):
        return argument
    a = np.empty(argument.shape, argument.dtype or dtype)
    if isinstance(argument.values, np.ndarray):
        a[...] = argument.values
    else:
        a.fill(np.nan if is_float(a) else -77)
    outs.append((argument, a))
    return a


def mutate(arguments, outs, rng):
    """Changes up to two arrays; returns whether the call is still a right one."""
    slots = [(arguments, i) for i, a in enumerate(arguments) if isinstance(a, np.ndarray)]
    for a in arguments:
        if isinstance(a, list):
            slots += [(a, i) for i, item in enumerate(a) if isinstance(item, np.ndarray)]
    right = True
    for _ in range(rng.integers(0, 3)):
        where, i = slots[rng.integers(len(slots))]
        before = where[i]
        if not isinstance(before, np.ndarray):
            continue
        if rng.random() < 0.4:
            where[i] = spaced(before, rng)
        else:
            where[i] = wrong(before, rng)
            right = False
        for k, (spec, out) in enumerate(outs):
            if out is before:
                outs[k] = (spec, where[i])
    return right


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hostile_calls(name, rng):
    function = getattr(_core, name)
    succeeded = 0
    with np.errstate(all="ignore"):
        for _ in range(CALLS):
            cases = Cases(rng)
            outs = []
            arguments = [realise(a, rng, cases.dtype, outs) for a in getattr(cases, name)()]
            right = mutate(arguments, outs, rng)
            arrays = [(spec, a) for spec, a in outs if isinstance(a, np.ndarray)]
            before = [base_of(a).tobytes() for _, a in arrays]
            try:
                function(*arguments)
            except ERRORS as error:
                assert str(error), "an error without a message"
                assert before == [base_of(a).tobytes() for _, a in arrays], (
                    f"{error}: but an output has changed"
                )
                continue
            if not right:
                continue
            succeeded += 1
            for spec, a in arrays:
                if isinstance(spec.values, str):
                    continue
                poison = np.isnan(a) if is_float(a) else a == -77
                assert not poison.any(), f"output {a.shape}, strides {a.strides}: not written"
    assert succeeded >= 5


def test_every_function_is_called():
    assert [n for n in FUNCTIONS if not hasattr(Cases, n)] == []


# What the fuzzer or a reader found, one by one.


def test_output_elements_share_memory():
    x, out = np.ones((3, 4), np.float32), np.zeros(4, np.float32)
    shared = np.lib.stride_tricks.as_strided(out, (3, 4), (0, 4))
    with pytest.raises(ValueError, match="share memory"):
        _core.activation_forward(x, shared, 1, 0.0, 0.0)
    with pytest.raises(ValueError, match="share memory"):
        _core.matmul(x, np.ones((4, 4), np.float32), None, None, shared, 1.0, 0.0, 0, 0.0, 0.0)
    assert not out.any()


@pytest.mark.parametrize("channels, outputs", [(0, 3), (3, 0), (0, 0)])
def test_conv_weight_gradient_without_channels(channels, outputs):
    out = np.full((outputs, channels, 3, 3), np.nan, np.float32)
    bias = np.full(outputs, np.nan, np.float32)
    x, grad = np.ones((2, channels, 5, 5), np.float32), np.ones((2, outputs, 5, 5), np.float32)
    _core.conv_backward_weight(grad, None, x, out, bias, conv_options())
    np.testing.assert_array_equal(bias, 50)


def test_conv_sizes_that_overflow():
    x, w, out = (
        np.ones((1, 1, 4, 4, 4), np.float32),
        np.ones((1, 1, 1, 1, 1), np.float32),
        np.zeros((1, 1, 3, 3, 3)),
    )
    big = 2**62
    for options in (conv_options(padding=big, stride=big), conv_options(padding=2**40, stride=2**40)):
        with pytest.raises(ValueError):
            _core.conv_forward(x, w, None, None, out.astype(np.float32), options)
        with pytest.raises(ValueError):
            _core.conv_backward_data(out.astype(np.float32), None, w, x.copy(), options)


@pytest.mark.parametrize("ndim", [2, 6, 16])
def test_conv_pool_backward_of_too_few_or_many_axes(ndim):
    x, pooled, indices = np.ones((1,) * ndim, "f4"), np.ones((1,) * ndim, "f4"), np.zeros((1,) * ndim, "i4")
    with pytest.raises(ValueError, match="spatial axes"):
        _core.conv_pool_backward(pooled, pooled, indices, x, x, x.copy(), None, None, conv_options(kind=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride": 0},
        {"dilation": 0},
        {"padding": -1},
        {"dilation": 2**62},
        {"padding": 2**62, "stride": 2**62},
    ],
)
def test_conv_pool_backward_of_sizes_that_overflow(wrong):
    x, w, pooled = np.ones((1, 1, 4, 4), "f4"), np.ones((1, 1, 3, 3), "f4"), np.ones((1, 1, 1, 1), "f4")
    with pytest.raises(ValueError):
        _core.conv_pool_backward(
            pooled,
            pooled,
            np.zeros((1, 1, 1, 1), "i4"),
            x,
            w,
            x.copy(),
            None,
            None,
            conv_options(kind=1, **wrong),
        )


def test_conv_data_gradient_with_a_huge_stride():
    grad, w, grad_x = (
        np.ones((1, 1, 1), np.float32),
        np.ones((1, 1, 1), np.float32),
        np.full((1, 1, 3), np.nan, "f4"),
    )
    _core.conv_backward_data(grad, None, w, grad_x, conv_options(stride=2**40, padding=0))
    np.testing.assert_array_equal(grad_x, [[[1, 0, 0]]])


def test_max_pool_window_without_elements():
    """Kernel 2 with dilation 3 and padding 1 straddles an input of 2 elements."""
    options = _core.PoolOptions([2] * 3, [1] * 3, [1] * 3, [3] * 3, False, True, 0)
    x, out = np.ones((1, 20, 2), np.float32), np.zeros((1, 20, 1), np.float32)
    _core.max_pool_forward(x, out, None, options)
    np.testing.assert_array_equal(out, -np.inf)
    indices = np.zeros(out.shape, np.int64)
    _core.max_pool_forward(x, out, indices, options)
    np.testing.assert_array_equal(out, -np.inf)
    np.testing.assert_array_equal(indices, -1)
    grad = np.full(x.shape, np.nan, np.float32)
    _core.max_pool_backward(np.ones_like(out), indices, grad, options)
    np.testing.assert_array_equal(grad, 0)


def test_pool_of_an_empty_plane():
    options = _core.PoolOptions([2] * 3, [2] * 3, [1] * 3, [1] * 3, False, True, 0)
    with pytest.raises(ValueError, match="empty"):
        _core.avg_pool_forward(np.zeros((1, 1, 0), np.float32), np.zeros((1, 1, 1), np.float32), options)


def test_pool_indices_beyond_int32_contribute_nothing():
    grad = np.full((1, 1, 4), np.nan, np.float32)
    indices = np.array([[[2**32, 2]]])
    _core.max_pool_backward(np.ones((1, 1, 2), np.float32), indices, grad, pool_options())
    np.testing.assert_array_equal(grad, [[[0, 0, 1, 0]]])


def test_group_norm_backward_without_statistics():
    x = np.ones((2, 4, 3), np.float32)
    with pytest.raises(ValueError, match="mean and rstd"):
        _core.group_norm_backward(x, x, None, None, None, x.copy(), None, None, 2)


def test_bag_backward_checks_what_it_follows():
    weight, grad = np.ones((3, 2), np.float32), np.ones((2, 2), np.float32)
    indices, offsets = np.array([0, 1, 2]), np.array([0, 1])
    out = np.zeros_like(weight)
    with pytest.raises(IndexError, match="max_indices"):
        _core.embedding_bag_backward(
            grad, weight, indices, offsets, None, np.full((2, 2), 1000), out, None, 2, False, False, -1
        )
    with pytest.raises(ValueError, match="per_sample_weights"):
        _core.embedding_bag_backward(
            grad, weight, indices, offsets, None, None, None, np.zeros((), "f4"), 0, False, False, -1
        )
    assert not out.any()


def test_bag_indices_behind_the_last_offset_count_for_nothing():
    weight, indices, offsets = np.ones((3, 2), np.float32), np.array([0, 1, 1, 2]), np.array([0, 2])
    grad = np.full((1, 2), 5, np.float32)
    out, scales = np.full_like(weight, np.nan), np.full(4, np.nan, np.float32)
    _core.embedding_bag_backward(
        grad, weight, indices, offsets, np.ones(4, "f4"), None, out, scales, 0, True, False, -1
    )
    np.testing.assert_array_equal(out, [[5, 5], [5, 5], [0, 0]])
    np.testing.assert_array_equal(scales, [10, 10, 0, 0])


def test_damaged_packed_operand():
    b = np.ones((3, 4), np.float32)
    packed = np.zeros(_core.matmul_packed_b_size(b), np.float32)
    _core.matmul_pack_b(b, packed)
    for k, n in ((-1, 4), (2**62, 2**62), (2**40, 2**40)):
        damaged = packed.copy()
        damaged[6:10].view(np.int64)[:] = k, n
        with pytest.raises(ValueError):
            _core.matmul_packed(
                np.ones((2, 3), "f4"), damaged, None, None, np.zeros((2, 4), "f4"), 1, 0, 0, 0, 0
            )


def test_rnn_reserve_size_overflow():
    with pytest.raises(ValueError, match="too many"):
        _core.rnn_reserve_size(_core.RnnOptions(3, 2, True, True, False, 0.0, 0, 0), 2**62, 2**40, 2**40)


@pytest.mark.parametrize("shape", [(2**61,), (2**60,), (2**63 - 1,), (2**62, 4), (2**40, 2**40)])
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="AddressSanitizer ends a process that asks for so much",
)
def test_empty_of_an_impossible_size(shape):
    with pytest.raises((ValueError, MemoryError)):
        _core.empty(shape, np.dtype("f4"))


def test_empty_of_objects():
    assert _core.empty((1 << 17,), np.dtype(object))[-1] is None
