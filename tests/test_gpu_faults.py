"""Bad input and faults on a GPU, as a user meets them: memory that runs out, arrays of another device, views that no
kernel could read, sizes of zero and beyond 2^31. On a GPU where there is one, else on the host executor."""

import ctypes
import math
import mmap
import os
import re
import sys

import numpy as np
import pytest
from gpu import DEVICE, has_kernels, needs_gpu

import fastdl
import fastdl.nn.functional as F
from fastdl import nn, ops, optim
from fastdl.device import backend_of

pytestmark = needs_gpu
simulated = pytest.mark.skipif(DEVICE != "cuda-sim", reason="by what the host executor lets one arrange")


def on(array):
    """A copy on the device."""
    return backend_of(DEVICE).from_numpy(np.asarray(array))


def host(array):
    return backend_of(DEVICE).to_numpy(array)


X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1])

# Every family's calls on arrays of one device, by name: (kernels needed, arrays, call).
CALLS = {
    "matmul": (("matmul",), (X, X.T), ops.matmul),
    "linear": (("linear",), (X, X, X[:, 0]), lambda x, w, b: ops.linear(x, w[:2], b[:2])),
    "linear_backward": (("linear_backward",), (X[:, :2], X, X[:2]), lambda g, x, w: ops.linear_backward(g, x, w)),
    "softmax": (("softmax_forward",), (X,), ops.softmax),
    "softmax_backward": (("softmax_backward",), (X, X), ops.softmax_backward),
    "activation": (("activation_forward",), (X,), lambda x: ops.activation(x, "gelu")),
    "activation_backward": (("activation_backward",), (X, X), lambda g, x: ops.activation_backward(g, x, "gelu")),
    "glu": (("glu_forward",), (X,), ops.glu),
    "prelu": (("prelu_forward",), (X, X[0]), ops.prelu),
    "dropout": (("dropout",), (X,), lambda x: ops.dropout(x, 0.5, 3)),
    "layer_norm": (("layer_norm_forward",), (X, X[0], X[1]), lambda x, w, b: ops.layer_norm(x, (4,), w, b)),
    "rms_norm": (("rms_norm_forward",), (X, X[0]), lambda x, w: ops.rms_norm(x, (4,), w)),
    "group_norm": (("group_norm_forward",), (IMAGE, X[0, :3], X[1, :3]), lambda x, w, b: ops.group_norm(x, 1, w, b)),
    "batch_norm": (("batch_norm_forward",), (IMAGE, X[0, :3], X[1, :3]),
                   lambda x, w, b: ops.batch_norm(x, None, None, w, b, training=True)),
    "cross_entropy": (("cross_entropy",), (X, LABELS), lambda x, t: ops.cross_entropy(x, t)),
    "nll_loss": (("nll_loss",), (X, LABELS), lambda x, t: ops.nll_loss(x, t)),
    "max_pool": (("max_pool_forward",), (IMAGE,), lambda x: ops.max_pool(x, 2)),
    "avg_pool": (("avg_pool_forward",), (IMAGE,), lambda x: ops.avg_pool(x, 2)),
    "embedding": (("embedding_forward",), (X, LABELS[:1]), ops.embedding),
    "conv": (("conv_forward",), (IMAGE, IMAGE[:, :, :2, :2]), ops.conv),
    "conv_transpose": (("conv_transpose_forward",), (IMAGE, IMAGE.transpose(1, 0, 2, 3)[:, :, :2, :2]),
                       ops.conv_transpose),
    "attention": (("attention_forward",), (IMAGE, IMAGE, IMAGE), ops.scaled_dot_product_attention),
    "lstm": (("rnn_forward",), (X[:, None], X[[0, 0, 0, 0, 1, 1, 1, 1]], X[[0, 1, 2, 0, 1, 2, 0, 1], :2]),
             lambda x, w, r: ops.lstm(x, [w, r, w[:, 0], w[:, 1]])),
}  # fmt: skip


def call(name):
    """A call of CALLS, or a skip where its kernels are missing."""
    kernels, arrays, function = CALLS[name]
    if not has_kernels(*kernels):
        pytest.skip(f"no CUDA kernel for {', '.join(kernels)} yet")
    return arrays, function


def first(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", CALLS)
def test_a_device_computes_what_the_cpu_does(name):
    arrays, function = call(name)
    np.testing.assert_allclose(
        host(first(function(*map(on, arrays)))), first(function(*arrays)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", [n for n in CALLS if len(CALLS[n][1]) > 1])
def test_an_array_forgotten_on_the_cpu_is_an_error(name):
    arrays, function = call(name)
    for forgotten in range(1, len(arrays)):
        moved = [a if i == forgotten else on(a) for i, a in enumerate(arrays)]
        try:
            result = first(function(*moved))
        except TypeError as error:
            assert re.search(r"expected an array|CPU|[Cc]u[Pp]y|[Nn]um[Pp]y", str(error))
        else:  # the operand that decides was the one on the CPU, whose kernels take what is derived from NumPy's arrays
            assert DEVICE == "cuda-sim" and type(result) is np.ndarray


def test_a_module_or_optimizer_left_on_the_cpu_is_an_error():
    x = fastdl.ones(3, 4, device=DEVICE)
    with pytest.raises(TypeError):
        nn.Linear(4, 2)(x)
    with pytest.raises(TypeError):
        F.cross_entropy(x, fastdl.tensor([0, 1, 2]))
    with pytest.raises(TypeError):
        F.linear(fastdl.ones(3, 4, device=DEVICE), fastdl.ones(2, 4))
    a, b = fastdl.ones(2, device=DEVICE, requires_grad=True), fastdl.ones(2, requires_grad=True)
    a.grad, b.grad = fastdl.ones(2, device=DEVICE), fastdl.ones(2)
    with pytest.raises(TypeError):
        nn.utils.clip_grad_norm_([a, b], 1.0)
    with pytest.raises(RuntimeError, match="different devices"):
        optim.SGD([a, b], 0.1).step()
    assert a.grad.tolist() == [1, 1] and b.grad.tolist() == [1, 1]


def test_a_device_that_is_not_there():
    for function in (lambda d: fastdl.ones(2, device=d), fastdl.ones(2).to, nn.Linear(2, 2).to):
        with pytest.raises(RuntimeError, match=rf"device '{DEVICE}:99' is not available"):
            function(f"{DEVICE}:99")


def laid_out(a, kind):
    """The same numbers on the device, as a view that was cut there: every second of a row, rows backwards, axes in the
    other order, one element behind any boundary."""
    if kind == "every second":
        return on(np.repeat(a, 2, -1))[..., ::2]
    if kind == "backwards":
        return on(np.flip(a, -1).copy())[..., ::-1]
    if kind == "transposed":
        return on(np.ascontiguousarray(a.T)).T
    return on(np.concatenate([a.ravel()[:1], a.ravel()]))[1:].reshape(a.shape)


@pytest.mark.parametrize("kind", ["every second", "backwards", "transposed", "one behind"])
@pytest.mark.parametrize("name", CALLS)
def test_strides_and_offsets_of_any_kind(name, kind):
    arrays, function = call(name)
    views = [laid_out(a, kind) for a in arrays]
    np.testing.assert_allclose(host(first(function(*views))), first(function(*arrays)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_sizes_of_zero(name):
    """A result of zero size, or the error that the CPU has."""
    arrays, function = call(name)
    if name in ("embedding", "lstm"):
        pytest.skip("what is empty means something else to each operand")
    empty = [
        a[:0] if a.shape[0] == arrays[0].shape[0] and name not in ("prelu", "linear") else a for a in arrays
    ]
    if name == "linear":
        empty[0] = arrays[0][:0]
    if name == "prelu":
        empty[0] = arrays[0][:0]
    try:
        expected = first(function(*empty))
    except (ValueError, IndexError) as error:
        with pytest.raises(type(error)):
            function(*map(on, empty))
        return
    actual = first(function(*map(on, empty)))
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(host(actual)), np.isnan(expected))


def test_optimizers_and_norms_of_nothing():
    empty, some = (fastdl.ones(n, device=DEVICE, requires_grad=True) for n in (0, 3))
    for p in (empty, some):
        p.grad = fastdl.ones(len(p), device=DEVICE)
    assert nn.utils.clip_grad_norm_([empty], 1.0).item() == 0
    assert nn.utils.clip_grad_norm_([empty, some], 10.0).item() == pytest.approx(math.sqrt(3))
    for make in (optim.SGD, optim.Adam, optim.Adagrad, optim.RMSprop):
        make([empty, some]).step()
    assert (some != 1).all()


def test_labels_and_indices_out_of_range():
    """Nothing waits for them: results that depend on them are NaN, and `synchronize` raises."""
    x = fastdl.tensor(X).to(DEVICE)
    for function in (
        lambda bad: F.cross_entropy(x, bad),
        lambda bad: F.embedding(bad, x)[0, 0],
    ):
        result = function(fastdl.tensor([7, 1, 2]).to(DEVICE))
        with pytest.raises(IndexError, match="out of range"):
            fastdl.cuda.synchronize()
        assert math.isnan(result.item())
        fastdl.cuda.synchronize()  # said once
        assert math.isfinite(function(fastdl.tensor([0, 1, 2]).to(DEVICE)).item())


# ------------------------------------------------------------------------------------------- memory that runs out


@simulated
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "batch_norm", "max_pool"])
def test_memory_runs_out(name, monkeypatch):
    """Strided operands want scratch memory. Afterwards the process goes on, nothing is lost, nothing is written."""
    arrays, function = call(name)
    big = [np.tile(a, (60, *[1] * (a.ndim - 1))) if i == 0 else a for i, a in enumerate(arrays)]
    views = [on(np.repeat(a, 2, -1))[..., ::2] for a in big]
    expected = host(first(function(*views)))
    monkeypatch.setenv("FASTDL_SIMT_MEMORY", "0")
    for _ in range(3):
        with pytest.raises(MemoryError, match="out of device memory"):
            function(*views)
    monkeypatch.delenv("FASTDL_SIMT_MEMORY")
    np.testing.assert_array_equal(host(first(function(*views))), expected)
    monkeypatch.setenv("FASTDL_SIMT_MEMORY", "1")  # MiB: had scratch been kept, it would not be there
    np.testing.assert_array_equal(host(first(function(*views))), expected)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU's memory")
def test_gpu_memory_runs_out():
    x = fastdl.ones(1000, device=DEVICE)
    with pytest.raises(Exception, match=r"[Oo]ut of memory|memory"):
        fastdl.ones(1 << 45, device=DEVICE)
    fastdl.cuda.empty_cache()
    assert x.sum().item() == 1000 and F.softmax(x, 0).sum().item() == pytest.approx(1, rel=1e-4)


# ------------------------------------------------------------------------------------------------- beyond 2^31

FAR = (1 << 31) + 40  # elements


@pytest.fixture(scope="module")
def sparse():
    """Two bytes for each of more than 2^32 elements, of which those that are touched cost memory."""
    if not hasattr(mmap, "MAP_NORESERVE") or sys.platform != "linux":
        pytest.skip("needs memory that is there when it is touched")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE
    return mmap.mmap(-1, 5 * FAR, flags=flags)


def far_rows(sparse, dtype, rows, columns, step=None):
    """A SimArray whose rows lie more than 2^31 elements apart."""
    from fastdl.simulated import SimArray

    dtype = np.dtype(dtype)
    step = FAR if step is None else step
    flat = np.frombuffer(sparse, dtype, 5 * FAR // dtype.itemsize)
    return np.lib.stride_tricks.as_strided(
        flat, (rows, columns), (step * dtype.itemsize, dtype.itemsize)
    ).view(SimArray)


@simulated
@pytest.mark.parametrize("name", ["softmax", "activation", "layer_norm", "matmul", "dropout"])
def test_rows_beyond_two_to_the_31(sparse, rng, name):
    """Offsets are 64 bits wide: in 32 bits, the second row would lie in front of the first."""
    values = rng.standard_normal((2, 24)).astype(np.float16)
    x = far_rows(sparse, np.float16, 2, 24)
    x[...] = values
    functions = {
        "softmax": lambda x: ops.softmax(x),
        "activation": lambda x: ops.activation(x, "gelu"),
        "layer_norm": lambda x: ops.layer_norm(x, (24,))[0],
        "matmul": lambda x: ops.matmul(x, x.T),
        "dropout": lambda x: ops.dropout(x, 0.5, 3),
    }
    expected = functions[name](values)
    np.testing.assert_allclose(
        host(functions[name](x)).astype(np.float32), expected.astype(np.float32), rtol=2e-3, atol=2e-3
    )


@simulated
def test_results_beyond_two_to_the_31(sparse, rng):
    from fastdl.simulated import SimArray

    a, b = (rng.standard_normal(s).astype(np.float16) for s in ((2, 8), (8, 24)))
    out = far_rows(sparse, np.float16, 2, 24)
    out[...] = 0
    ops.matmul(on(a), on(b), out=out)
    np.testing.assert_allclose(
        np.asarray(out.view(np.ndarray), np.float32),
        ops.matmul(a, b).astype(np.float32),
        rtol=2e-3,
        atol=2e-3,
    )
    assert type(out) is SimArray


@simulated
def test_a_table_of_more_than_two_to_the_31_elements(sparse, rng):
    table = far_rows(sparse, np.float16, FAR // 64 + 10, 64, step=64)  # contiguous: (33 million, 64)
    rows = np.array([0, 5, table.shape[0] - 1, FAR // 64 + 1])
    values = rng.standard_normal((4, 64)).astype(np.float16)
    table[rows] = on(values)
    np.testing.assert_array_equal(host(ops.embedding(table, on(rows))), values)
    fastdl.cuda.synchronize()


@simulated
def test_sizes_no_memory_holds():
    """Refused by shape alone, before anything is allocated."""
    from fastdl.simulated import SimArray

    one = np.ones(1, np.float32)
    huge = np.lib.stride_tricks.as_strided(one, (1 << 20, 1 << 20), (0, 0)).view(SimArray)
    with pytest.raises((ValueError, MemoryError)):
        backend_of(DEVICE).kernels.activation_forward(huge, on(np.ones((2, 2), np.float32)), 1, 0.0, 0.0)


# --------------------------------------------------------------------------------------------- what the ABI refuses


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _Dtype(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Dtype),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def test_what_the_abi_refuses_before_a_launch():
    """Another GPU's memory, the CPU's, an address that no element can have: an error in words, nothing written."""
    from pathlib import Path

    name = "libfastdl_cuda_sim.so" if DEVICE == "cuda-sim" else "libfastdl_cuda.so"
    library = ctypes.CDLL(os.fspath(Path(fastdl.__file__).parent / "lib" / name))
    library.fastdl_cuda_last_error.restype = ctypes.c_char_p
    memory = (ctypes.c_float * 8)(*[5] * 8)
    shape = (ctypes.c_int64 * 1)(4)

    def tensor(device=(2, 0), offset=0):
        return _Tensor(ctypes.addressof(memory), _Device(*device), 1, _Dtype(2, 32, 1), shape, None, offset)

    good = tensor()
    for bad, status, words in (
        (tensor(device=(2, 1)), 6, b"x is on GPU 1, the current one is 0"),
        (tensor(device=(1, 0)), 6, b"x must be in CUDA memory"),
        (tensor(offset=2), 2, b"x is not aligned to its elements of 4 bytes"),
    ):
        assert (
            library.fastdl_cuda_softmax_forward(None, ctypes.byref(bad), ctypes.byref(good), 0, 0) == status
        )
        assert words in library.fastdl_cuda_last_error()
    assert list(memory) == [5] * 8
