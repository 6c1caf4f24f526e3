"""Every op on arrays of bfloat16 and float16. (The conversions: test_convert.py.)"""

import ml_dtypes
import numpy as np
import pytest
from kernel_calls import FUNCTIONS, Cases, Out
from test_convert import BF16, DTYPES, F16, assert_same_bits

from fastdl import _core, ops

UNIT_ROUNDOFF = {BF16: 2.0**-8, F16: 2.0**-11}


def assert_nearly(actual, wide, cancelled=2.0**-16):
    """Within two steps of bfloat16 of the float32 result, or of what is lost where large terms cancel."""
    actual = actual.astype(np.float32)
    scale = np.abs(wide[np.isfinite(wide)]).max(initial=0)
    np.testing.assert_allclose(actual, wide, rtol=2**-7, atol=cancelled * scale)


# These have kernels of their own for bfloat16, which may add up in another order: the last place may differ.
NATIVE_BFLOAT16 = {
    "matmul", "linear", "linear_backward", "conv_forward", "conv_backward", "conv_transpose_forward",
    "conv_transpose_backward",
}  # fmt: skip
# Recurrent states and attention weights are rounded inside, so that single results may differ more: these are held
# to float64 in tests/test_rnn_bf16.py, tests/test_rnn_cuda.py and tests/test_attention.py.
ROUNDED_INSIDE = {"rnn_forward", "rnn_backward", "attention_forward", "attention_backward"}
ROUNDING_INSIDE = {
    BF16: {"avx512_bf16", "amx", "amx_emulated", "cuda-sim", "cuda"},
    F16: {"cuda-sim", "cuda"},
}
# The CUDA kernels read 16-bit rows in wider packs than float32 ones, or multiply them as they are, so their sums have
# another order; where maxima meet, conv_pool_backward rounds their sum.
ANOTHER_ORDER_ON_CUDA = {
    "layer_norm_forward", "rms_norm_forward", "conv_backward_data", "conv_backward_weight",
    "conv_transpose_backward_data", "conv_transpose_backward_weight", "conv_pool_backward", *NATIVE_BFLOAT16,
}  # fmt: skip
ELSEWHERE = {"convert", "matmul_packed_b_size", "matmul_pack_b", "matmul_packed"}  # have tests of their own


def memory_orders(a, rng):
    """The same array in C order, in another order of dims, as every second element of a larger one, backwards."""
    if a.ndim == 0:
        return a
    order = rng.permutation(a.ndim)
    moved = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    strided = np.repeat(a, 2, axis=-1)[..., ::2]
    backwards = np.flip(np.flip(a, 0).copy(), 0)
    return [a, moved, strided, backwards][rng.integers(4)]


def realised_all(arguments, dtype, rng):
    parts = [realised(a, dtype, rng) for a in arguments]
    return [p[0] for p in parts], [p[1] for p in parts], [pair for p in parts for pair in p[2]]


def realised(argument, dtype, rng):
    """The arguments of a call: outputs allocated, arrays in some memory order; and the same with every 16-bit array
    widened. Also the pairs of outputs."""
    if isinstance(argument, (list, tuple)) and argument and isinstance(argument[0], (np.ndarray, Out)):
        return realised_all(argument, dtype, rng)
    if isinstance(argument, Out):
        a = np.empty(argument.shape, argument.dtype or dtype)
        a[...] = argument.values if isinstance(argument.values, np.ndarray) else 7
        if argument.dtype is None:
            a = memory_orders(a, rng)
        wide = a.astype(np.float32) if a.dtype == dtype else a.copy()
        return a, wide, [(argument, a, wide)]
    if isinstance(argument, np.ndarray) and argument.dtype == dtype:
        a = memory_orders(argument, rng)
        return a, a.astype(np.float32), []  # in the same memory order
    return argument, argument, []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [f for f in FUNCTIONS if f not in ELSEWHERE])
def test_result_is_the_rounded_float32_result(name, dtype, rng):
    function = getattr(_core, name)
    with np.errstate(all="ignore"):
        for _ in range(12):
            arguments, wide, outs = realised_all(getattr(Cases(rng, dtype), name)(), dtype, rng)
            kept = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
            result, expected = function(*arguments), function(*wide)
            if isinstance(result, np.ndarray):
                outs = [*outs, (Out(*result.shape), result, expected)]
            else:
                assert result == expected
            for spec, a, w in outs:
                if isinstance(spec.values, str):
                    continue
                if name in ROUNDED_INSIDE and _core.get_cpu_isa() in ROUNDING_INSIDE[dtype]:
                    continue
                if name in NATIVE_BFLOAT16 and dtype == BF16:
                    assert_nearly(a, w)
                elif name in ANOTHER_ORDER_ON_CUDA and _core.get_cpu_isa().startswith("cuda"):
                    if a.dtype == dtype:
                        assert_nearly(
                            a, w, UNIT_ROUNDOFF[dtype] if name == "conv_pool_backward" else 2.0**-16
                        )
                    else:
                        np.testing.assert_allclose(a, w, rtol=1e-6)
                elif a.dtype.kind in "fV":
                    assert_same_bits(a, w.astype(a.dtype))
                else:
                    np.testing.assert_array_equal(a, w)
            written = [id(a) for _, a, _ in outs]
            for a, k in zip(arguments, kept, strict=True):  # inputs stay as they are
                if isinstance(a, np.ndarray) and id(a) not in written:
                    assert a.tobytes() == k.tobytes()


def test_the_memory_order_of_an_operand_is_kept(rng):
    """A channels-last image stays one: conv and pool read it in place, and the mask of dropout follows C order."""
    x = rng.normal(size=(2, 6, 5, 8)).astype(BF16).transpose(0, 3, 1, 2)
    out = np.empty((2, 3, 5, 8), BF16).transpose(0, 2, 3, 1)[:, :, :, :3].transpose(0, 3, 1, 2)
    assert out.shape == (2, 3, 5, 8)
    y, wide = np.empty_like(x), np.empty_like(x, np.float32)
    _core.dropout(x, y, 0.3, 5, 6)
    _core.dropout(np.ascontiguousarray(x.astype(np.float32)), wide, 0.3, 5, 6)
    assert_same_bits(y, wide.astype(BF16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accumulation_into_out(dtype, rng):
    a, b, c = (rng.normal(size=s).astype(dtype) for s in [(7, 5), (5, 9), (7, 9)])
    out, wide = c.copy(), c.astype(np.float32)
    _core.matmul(a, b, None, None, out, 0.5, 2.0, 0, 0.0, 0.0)
    _core.matmul(a.astype(np.float32), b.astype(np.float32), None, None, wide, 0.5, 2.0, 0, 0.0, 0.0)
    assert_nearly(out, wide)
    out.fill(np.nan)  # beta 0: not read
    _core.matmul(a, b, None, None, out, 1.0, 0.0, 0, 0.0, 0.0)
    assert not np.isnan(out).any()
    single = np.full((7, 9), np.nan, np.float32)
    _core.matmul(a, b, None, None, single, 1.0, 0.0, 0, 0.0, 0.0)
    assert_same_bits(out, single.astype(dtype))


def transposed(a):
    return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)


LAYOUTS = [
    np.ascontiguousarray,
    transposed,
    lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    lambda a: np.ascontiguousarray(a[::-1])[::-1],
]


@pytest.mark.parametrize(
    "m, n, k", [(1, 1, 1), (1, 70, 33), (3, 5, 129), (17, 66, 31), (33, 40, 700), (130, 3, 8)]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_in_every_layout(isa, dtype, m, n, k, rng):
    """alpha A B + beta C + bias + residual, rounded to 16 bits or left in float32, against float64."""
    shapes = [(m, k), (k, n), (n,), (m, n), (m, n)]
    a, b, bias, residual, c = (rng.normal(size=s).astype(dtype) for s in shapes)
    wide = [x.astype(np.float64) for x in (a, b, bias, residual, c)]
    sums = 0.5 * wide[0] @ wide[1] + 2 * wide[4] + wide[2] + wide[3]
    terms = 0.5 * np.abs(wide[0]) @ np.abs(wide[1]) + 2 * np.abs(wide[4]) + np.abs(wide[2]) + np.abs(wide[3])
    error = (k + 4) * 2.0**-24 * terms  # of float32 sums, in whatever order
    step = 2.0 ** -(ml_dtypes.finfo(dtype).nmant + 1) * (np.abs(sums) + error)
    for i, x in enumerate(LAYOUTS):
        y, z = LAYOUTS[(i + rng.integers(4)) % 4], LAYOUTS[(i + rng.integers(4)) % 4]
        for kind in (0, 1):  # none, relu
            out, single = z(c).copy(order="K"), z(c).astype(np.float32)
            arguments = [x(a), y(b), bias, z(residual)]
            _core.matmul(*arguments, out, 0.5, 2.0, kind, 0.0, 0.0)
            _core.matmul(*arguments, single, 0.5, 2.0, kind, 0.0, 0.0)
            expected = np.maximum(sums, 0) if kind else sums
            assert (np.abs(single - expected) <= error).all()
            assert (np.abs(out.astype(np.float64) - expected) <= error + step).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_gradients_in_either_dtype(isa, dtype, rng):
    x, w, grad = (rng.normal(size=s).astype(dtype) for s in [(2, 9, 21), (13, 21), (2, 9, 13)])
    y = ops.linear(x, w, activation="tanh")
    wide = [v.astype(np.float64) for v in (grad, x, w)]
    z = wide[0] * (1 - y.astype(np.float64) ** 2)
    expected = [z @ wide[2], np.einsum("abn,abk->nk", z, wide[1]), z.sum((0, 1))]
    terms = [
        np.abs(z) @ np.abs(wide[2]),
        np.einsum("abn,abk->nk", np.abs(z), np.abs(wide[1])),
        np.abs(z).sum((0, 1)),
    ]
    half_step = 2.0 ** -(ml_dtypes.finfo(dtype).nmant + 1)
    for kept in (dtype, np.float32):
        outs = [np.empty(x.shape, dtype), np.empty(w.shape, kept), np.empty(13, kept)]
        _core.linear_backward(grad, y, x, w, *outs, 16, 0.0, 0.0)
        for out, e, t in zip(outs, expected, terms, strict=True):
            assert (np.abs(out.astype(np.float64) - e) <= half_step * (1.01 * t + np.abs(e)) + 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_operands(isa, dtype, rng):
    for k, n in [(1, 1), (7, 9), (40, 70), (0, 3)]:
        a, b = rng.normal(size=(5, k)).astype(dtype), rng.normal(size=(n, k)).astype(dtype).T
        packed = ops.pack_b(b)
        assert packed.dtype == dtype and packed.shape == (k, n)
        assert_same_bits(ops.matmul(a, packed), ops.matmul(a, b))
        with pytest.raises(TypeError, match="packed b"):
            ops.matmul(a.astype(np.float32), packed)
    with pytest.raises(ValueError, match=r"not made by matmul_pack_b|expected packed b"):
        _core.matmul_packed(
            a, np.zeros(90, dtype), None, None, np.empty((5, 3), dtype), 1.0, 0.0, 0, 0.0, 0.0
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", ["same", "float32"])
def test_optimizer_steps(dtype, states, rng):
    """Parameters of 16 bits with states of either kind, beside float32 and float64 ones, each updated in place."""
    from fastdl import Tensor

    kind = dtype if states == "same" else np.float32
    start = [rng.normal(size=s) for s in [(5, 3), (40,), ()]]
    grads = [rng.normal(size=s.shape) for s in start]
    dtypes = [dtype, np.float32, np.float64]

    def step(widen):
        params, state = [], {}
        for value, grad, d in zip(start, grads, dtypes, strict=True):
            value, grad = value.astype(d), grad.astype(d)
            own = kind if d == dtype else d
            if widen and d == dtype:
                value, grad = value.astype(np.float32), grad.astype(np.float32)
            p = Tensor(value)
            p.grad = Tensor(grad)
            moments = [Tensor(np.abs(grad).astype(own)) for _ in range(2)]
            if widen:
                moments = [
                    Tensor(m.numpy().astype(np.float32)) if m.numpy().itemsize == 2 else m for m in moments
                ]
            state[p] = dict(zip(["exp_avg", "exp_avg_sq"], moments, strict=True), step=Tensor(np.float32(3)))
            params.append(p)
        group = _core.ParameterGroup(params, state, ["step", "exp_avg", "exp_avg_sq"])
        assert group.adam(0.01, 0.9, 0.99, 1e-8, 0.1, True, False, False)
        return [a.numpy() for p in params for a in (p, *state[p].values())]

    for narrow, wide in zip(step(False), step(True), strict=True):
        assert_same_bits(
            narrow.reshape(-1).astype(np.float32), wide.reshape(-1).astype(narrow.dtype).astype(np.float32)
        )


def test_which_dtypes_go_together(rng):
    x, w = rng.normal(size=(4, 6)).astype(BF16), np.ones(6, np.float32)
    plain = ops.layer_norm(x, (6,), w.astype(BF16), w.astype(BF16))[0]
    assert_same_bits(ops.layer_norm(x, (6,), w, w)[0], plain)
    with pytest.raises(TypeError, match=r"layer_norm: expected weight to be float32 .*got float16"):
        ops.layer_norm(x, (6,), w.astype(F16), w)
    with pytest.raises(
        TypeError, match="matmul: expected b to be bfloat16 like the other operands, got float32"
    ):
        ops.matmul(x, np.ones((6, 2), np.float32))
    with pytest.raises(
        TypeError, match="matmul: expected b to be float32 like the other operands, got bfloat16"
    ):
        ops.matmul(x.astype(np.float32), np.ones((6, 2), BF16))
    with pytest.raises(
        TypeError, match="matmul: expected b to be float16 like the other operands, got bfloat16"
    ):
        ops.matmul(x.astype(F16), np.ones((6, 2), BF16))
    mean = np.zeros(4, BF16)
    with pytest.raises(TypeError, match="expected mean to be float32"):
        _core.layer_norm_forward(x, None, None, np.empty_like(x), mean, mean.copy(), 1, 1e-5)


def test_batch_norm_moves_running_statistics_of_either_dtype(rng):
    x = rng.normal(size=(8, 3, 4)).astype(BF16)
    for dtype in (BF16, np.float32):
        mean, var = np.zeros(3, dtype), np.ones(3, dtype)
        exact_mean, exact_var = np.zeros(3, np.float32), np.ones(3, np.float32)
        out = ops.batch_norm(x, mean, var, training=True)[0]
        expected = ops.batch_norm(x.astype(np.float32), exact_mean, exact_var, training=True)[0]
        assert_same_bits(out, expected.astype(BF16))
        assert_same_bits(mean, exact_mean.astype(dtype))
        assert_same_bits(var, exact_var.astype(dtype))


def test_broadcast_operands_are_widened_once(rng):
    """A mask or key repeated by zero strides costs what it holds: this one claims 2**40 elements."""
    x = np.lib.stride_tricks.as_strided(np.ones(1, BF16), (2**20, 2**20), (0, 0))
    with pytest.raises(ValueError, match="shape"):
        _core.activation_forward(x, np.empty((2, 2), BF16), 1, 0.0, 0.0)
    q = rng.normal(size=(1, 1, 3, 4)).astype(BF16)
    mask = np.broadcast_to(rng.normal(size=3).astype(BF16), (1, 1, 3, 3))
    out, _ = ops.scaled_dot_product_attention(q, q, q, mask)
    wide = [a.astype(np.float32) for a in (q, mask)]
    assert_same_bits(
        out, ops.scaled_dot_product_attention(wide[0], wide[0], wide[0], wide[1])[0].astype(BF16)
    )
