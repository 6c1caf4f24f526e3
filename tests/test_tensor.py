"""The Tensor as an object: creation, conversion, protocols, interchange, random numbers."""

# ruff: noqa: E501
import copy
import operator
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastdl
from fastdl import random

# ---------------------------------------------------------------------------------------------------- creation


@pytest.mark.parametrize(
    "data, dtype",
    [
        (1.5, "float32"), (1, "int64"), (True, "bool"), ([], "float32"), ([[1.0, 2]], "float32"), ([1, 2.5], "float32"),
        (np.ones(2), "float64"), (np.float64(3), "float64"), (np.ones(2, np.float16), "float16"), (np.arange(3), "int64"),
        (np.ones(2, ">f4"), "float32"), ([np.float64(1)], "float64"), (range(3), "int64"), ((1, 2), "int64"), ([[]], "float32"),
    ],
)  # fmt: skip
def test_tensor_takes_dtype_from_data(data, dtype):
    t = fastdl.tensor(data)
    assert t.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(t.numpy(), np.asarray(data, dtype))


def test_tensor_copies_and_the_others_share():
    a = np.zeros(3, np.float32)
    copied, shared, also, wrapped = (
        fastdl.tensor(a),
        fastdl.from_numpy(a),
        fastdl.as_tensor(a),
        fastdl.Tensor(a),
    )
    a[0] = 1
    assert copied[0] == 0
    assert shared[0] == also[0] == wrapped[0] == 1
    assert shared.numpy() is a
    t = fastdl.ones(2)
    assert fastdl.as_tensor(t) is t and fastdl.as_tensor(t, dtype=fastdl.float64) is not t
    assert fastdl.tensor(t) is not t and not np.shares_memory(fastdl.tensor(t).numpy(), t.numpy())
    assert fastdl.tensor([fastdl.tensor(1.0), 2.0]).tolist() == [1, 2]


def test_nan_survives_and_integers_stay_exact():
    assert fastdl.tensor([float("nan")]).isnan().item()
    assert fastdl.tensor(2**53 + 1).item() == 2**53 + 1
    assert fastdl.tensor(1e40).item() == float("inf")


def test_default_dtype():
    assert fastdl.get_default_dtype() == fastdl.float32
    fastdl.set_default_dtype(fastdl.float64)
    try:
        assert (
            fastdl.tensor(1.0).dtype == fastdl.ones(2).dtype == (fastdl.arange(2) / 2).dtype == fastdl.float64
        )
        assert (fastdl.arange(2) * 1.5).dtype == fastdl.float64
    finally:
        fastdl.set_default_dtype(fastdl.float32)
    with pytest.raises(TypeError, match="int64"):
        fastdl.set_default_dtype(fastdl.int64)


def test_dtype_names():
    assert fastdl.float is fastdl.float32 and fastdl.long is fastdl.int64 and fastdl.half is fastdl.float16
    assert fastdl.float32 == np.float32 and fastdl.bool == np.bool_
    assert fastdl.bfloat16.name == "bfloat16" and fastdl.ones(1, dtype="bfloat16").dtype == fastdl.bfloat16
    for name in ("float64", np.float64, "double", fastdl.double):
        assert fastdl.ones(1, dtype=name).dtype == fastdl.float64
    assert (
        fastdl.ones(1, dtype=int).dtype == fastdl.int64
        and fastdl.ones(1, dtype=float).dtype == fastdl.float32
    )
    assert (
        fastdl.finfo(fastdl.float32).eps == np.finfo(np.float32).eps
        and fastdl.finfo(fastdl.bfloat16).max > 3e38
    )
    assert fastdl.iinfo(fastdl.int8).max == 127
    assert fastdl.promote_types(fastdl.int64, fastdl.float16) == fastdl.float16
    assert fastdl.promote_types(fastdl.bfloat16, fastdl.float16) == fastdl.float32
    assert fastdl.result_type(fastdl.ones(2), 2) == fastdl.float32
    assert fastdl.result_type(fastdl.arange(2), 2.0) == fastdl.float32
    assert fastdl.can_cast(fastdl.int64, fastdl.float32) and not fastdl.can_cast(fastdl.float32, fastdl.int64)


def test_devices():
    t = fastdl.ones(1, device="cpu")
    assert (
        t.device == "cpu" == fastdl.device("cpu")
        and str(t.device) == "cpu"
        and t.cpu() is t
        and not t.is_cuda
    )
    assert t.to("cpu") is t and t.to(fastdl.device("cpu"), fastdl.float64).dtype == fastdl.float64
    assert repr(fastdl.device("cuda:1")) == "device(type='cuda', index=1)" and hash(fastdl.device("cpu"))
    missing = [] if fastdl.cuda.is_available() else (lambda: t.to("cuda"), lambda: t.cuda(), lambda: t.to(device="cuda:0"), lambda: fastdl.ones(1, device="cuda"), lambda: fastdl.Tensor([1.0], device="cuda"))  # fmt: skip
    for call in missing:
        with pytest.raises(RuntimeError, match=r"'cuda.*' is not available"):
            call()
    with pytest.raises(ValueError, match="device"):
        fastdl.device("cpu:x")
    with pytest.raises(TypeError, match="device"):
        fastdl.device(3)


# ------------------------------------------------------------------------------------------ Python's protocols


def test_numbers():
    one, half = fastdl.tensor([1]), fastdl.tensor(0.5)
    assert (
        float(half) == 0.5 and int(fastdl.tensor(3.9)) == 3 and bool(one) and not bool(fastdl.tensor([0.0]))
    )
    assert [10, 20][one[0]] == 20 and operator.index(one) == 1
    assert f"{half:.2f}" == "0.50" and f"{one}" == "tensor([1])"
    with pytest.raises(TypeError, match="index"):
        operator.index(half)
    for empty_or_many in (fastdl.ones(2), fastdl.ones(0)):
        with pytest.raises(RuntimeError, match="ambiguous"):
            bool(empty_or_many)
        with pytest.raises(RuntimeError, match="one element"):
            float(empty_or_many)
    with pytest.raises(TypeError, match="0-d"):
        len(half)
    with pytest.raises(TypeError, match="0-d"):
        iter(half)


def test_iteration_unpacks_rows_that_share_memory():
    t = fastdl.arange(6).reshape(3, 2)
    a, b, c = t
    assert a.tolist() == [0, 1] and len(t) == 3 and [r.tolist() for r in t][2] == c.tolist()
    b += 10
    assert t[1].tolist() == [12, 13]
    assert list(fastdl.ones(0, 2)) == []


def test_hash_and_identity():
    a, b = fastdl.ones(2), fastdl.ones(2)
    assert len({a, b}) == 2 and {a: 1}[a] == 1
    assert (a == None) is False and (a != None) is True  # noqa: E711


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: fastdl.tensor([1.0, 2.5]), "tensor([1.0000, 2.5000])"),
        (lambda: fastdl.tensor([1.0, 2.0]), "tensor([1., 2.])"),
        (lambda: fastdl.tensor(3), "tensor(3)"),
        (lambda: fastdl.tensor([[True, False]]), "tensor([[ True, False]])"),
        (lambda: fastdl.ones(2, dtype=fastdl.float64), "tensor([1., 1.], dtype=float64)"),
        (lambda: fastdl.ones(2, dtype=fastdl.bfloat16), "tensor([1., 1.], dtype=bfloat16)"),
        (lambda: fastdl.ones(2, requires_grad=True), "tensor([1., 1.], requires_grad=True)"),
        (lambda: fastdl.ones(2, requires_grad=True) * 2, "tensor([2., 2.], grad_fn=<MulNumber>)"),
        (lambda: fastdl.tensor([]), "tensor([])"),
        (lambda: fastdl.ones(0, 3), "tensor([], size=(0, 3))"),
        (lambda: fastdl.tensor([float("nan"), float("inf"), 0.5]), "tensor([   nan,    inf, 0.5000])"),
        (lambda: fastdl.ones(2, 2), "tensor([[1., 1.],\n        [1., 1.]])"),
    ],
)
def test_repr(make, text):
    assert repr(make()) == text


def test_long_tensors_are_abridged():
    assert "..." in repr(fastdl.arange(2000)) and len(repr(fastdl.ones(100, 100))) < 1000


# ------------------------------------------------------------------------------------------------- interchange


def test_numpy_meets_tensor():
    t = fastdl.tensor([1.0, 2.0])
    a = np.array([10.0, 20.0], np.float32)
    for left, right in ((t, a), (a, t)):
        for op in (
            operator.add,
            operator.sub,
            operator.mul,
            operator.truediv,
            operator.pow,
            operator.lt,
            operator.eq,
        ):
            out = op(left, right)
            assert isinstance(out, fastdl.Tensor)
            np.testing.assert_array_equal(out.numpy(), op(np.asarray(left), np.asarray(right)))
    assert isinstance(np.float32(2) * t, fastdl.Tensor)
    m = np.ones((2, 2), np.float32)
    assert (m @ t).tolist() == (t @ m).tolist() == [3, 3]
    assert (
        np.asarray(t) is t.numpy()
        and np.array(t) is not t.numpy()
        and np.asarray(t, np.float64).dtype == np.float64
    )
    t.requires_grad = True
    with pytest.raises(RuntimeError, match="detach"):
        np.asarray(t)
    with pytest.raises(RuntimeError, match="detach"):
        t.numpy()
    assert t.numpy(force=True) is t.detach().numpy()


def test_dlpack():
    a = np.arange(6, dtype=np.float32).reshape(2, 3).T
    t = fastdl.from_dlpack(a)
    assert np.shares_memory(t.numpy(), a) and t.stride() == (1, 3)
    back = np.from_dlpack(t)
    assert np.shares_memory(back, a)
    assert t.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(fastdl.ones(1, requires_grad=True))


def test_dlpack_with_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.arange(4.0)
    mine = fastdl.from_dlpack(theirs)
    mine += 1
    assert theirs.tolist() == [1, 2, 3, 4]
    assert torch.from_dlpack(mine).data_ptr() == theirs.data_ptr() == mine.data_ptr()
    assert fastdl.tensor(theirs).tolist() == theirs.tolist()


def test_deepcopy_and_pickle():
    t = fastdl.ones(2, requires_grad=True)
    (t * 3).sum().backward()
    for other in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert other.requires_grad and other.is_leaf and other is not t
        assert not np.shares_memory(other.detach().numpy(), t.detach().numpy())
        (other * 2).sum().backward()
    assert t.grad.tolist() == [3, 3] and copy.deepcopy(t).grad.tolist() == [3, 3]
    memo = copy.deepcopy([t, t])
    assert memo[0] is memo[1]
    for function in (copy.deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match="leaf"):
            function(t * 2)

    class Named(fastdl.Tensor):
        pass

    named = Named(np.ones(2), requires_grad=True)
    named.name = ["n"]
    twin = copy.deepcopy(named)
    assert (
        isinstance(twin, Named) and twin.name == ["n"] and twin.name is not named.name and twin.requires_grad
    )
    assert type(named * 2) is fastdl.Tensor


# ------------------------------------------------------------------------------------------------- memory layout


def test_layout_is_kept_or_made():
    t = fastdl.from_numpy(np.arange(24.0).reshape(2, 3, 4).transpose(0, 2, 1))
    assert not t.is_contiguous()
    assert (
        (t * 2).stride()
        == t.clone().stride()
        == fastdl.zeros_like(t).stride()
        == t.exp().stride()
        == t.stride()
    )
    assert t.contiguous().is_contiguous() and t.contiguous().tolist() == t.tolist()
    c = fastdl.ones(2)
    assert c.contiguous() is c
    assert (
        t.nbytes == 24 * 8
        and t.itemsize == t.element_size() == 8
        and t.numel() == 24
        and t.dim() == t.ndim == 3
    )
    x = fastdl.ones(2, 3, requires_grad=True)
    x.T.contiguous().sum().backward()
    assert x.grad.shape == (2, 3)


def test_views_share_memory():
    t = fastdl.zeros(2, 3)
    for view in (t.view(6), t.T, t[0], t[:, None], t.unsqueeze(0), t.flatten(), t.reshape(3, 2), t.permute(1, 0), t.expand(4, 2, 3), t.diagonal(), t.narrow(1, 1, 2), *t.chunk(3, 1), *t.unbind(1), t.detach(), t.data):  # fmt: skip
        assert np.shares_memory(view.numpy(), t.numpy())
    for copied in (t.clone(), t[[0]], t.flip(0), t.repeat(1, 1), t + 0, t.to(fastdl.float32, copy=True)):
        assert not np.shares_memory(copied.numpy(), t.numpy())
    assert t.to(fastdl.float32) is t.float() is t.type_as(t) is t
    assert t.type() == "float32" and t.type("int64").dtype == fastdl.int64


def test_data_setter():
    t = fastdl.ones(2, requires_grad=True)
    t.data = fastdl.zeros(3)
    assert t.tolist() == [0, 0, 0] and t.requires_grad
    t.data = np.ones(1, np.float32)
    assert t.tolist() == [1]


# ------------------------------------------------------------------------------------------------------- chance


def test_seed_repeats_everything():
    def draw():
        return [
            fastdl.rand(3), fastdl.randn(2, 2), fastdl.randint(10, (4,)), fastdl.randperm(5), fastdl.normal(0.0, 1.0, (2,)),
            fastdl.bernoulli(fastdl.full((9,), 0.5)), fastdl.multinomial(fastdl.ones(5), 3), fastdl.empty(3).uniform_(),
            fastdl.empty(3).normal_(), fastdl.rand(2, dtype=fastdl.bfloat16).float(), fastdl.empty(2).exponential_(),
            fastdl.tensor(random.next_offset(5)),
        ]  # fmt: skip

    fastdl.manual_seed(7)
    first = [t.tolist() for t in draw()]
    second = [t.tolist() for t in draw()]
    fastdl.manual_seed(7)
    assert [t.tolist() for t in draw()] == first != second
    fastdl.manual_seed(8)
    assert [t.tolist() for t in draw()] != first
    assert fastdl.initial_seed() == 8


def test_rng_state_goes_on():
    fastdl.manual_seed(3)
    fastdl.rand(5), fastdl.randint(3, (1,), dtype=fastdl.int32), random.next_offset(10)
    state = fastdl.get_rng_state()
    assert state.dtype == fastdl.uint8
    a = fastdl.randn(7).tolist(), random.next_offset(1)
    fastdl.manual_seed(99)
    fastdl.set_rng_state(state)
    assert (fastdl.randn(7).tolist(), random.next_offset(1)) == a
    fastdl.set_rng_state(state.numpy())
    assert (fastdl.randn(7).tolist(), random.next_offset(1)) == a
    with pytest.raises(ValueError, match="shape"):
        fastdl.set_rng_state(fastdl.zeros(3, dtype=fastdl.uint8))
    with pytest.raises(TypeError, match="uint8"):
        fastdl.set_rng_state(fastdl.zeros(120))
    with pytest.raises(TypeError, match="manual_seed"):
        fastdl.manual_seed("1")
    fastdl.manual_seed(-1)
    assert fastdl.initial_seed() == 2**64 - 1


def test_offsets_do_not_overlap_across_threads():
    fastdl.manual_seed(0)
    got = []
    threads = [
        threading.Thread(target=lambda: got.extend(random.next_offset(3)[1] for _ in range(200)))
        for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(got) == list(range(0, 2400, 3))


def test_distributions():
    fastdl.manual_seed(0)
    n = 20_000
    u, z, e = fastdl.rand(n), fastdl.randn(n), fastdl.empty(n).exponential_(2.0)
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03 and abs(e.mean() - 0.5) < 0.02
    assert (
        u.dtype == z.dtype == fastdl.float32 and fastdl.rand(2, dtype=fastdl.float64).dtype == fastdl.float64
    )
    k = fastdl.randint(-2, 3, (n,))
    assert set(k.unique().tolist()) == {-2, -1, 0, 1, 2}
    assert fastdl.randperm(50).sort().values.tolist() == list(range(50))
    m = fastdl.multinomial(fastdl.tensor([0.0, 1.0, 3.0]), n, replacement=True)
    assert abs((m == 2).float().mean() - 0.75) < 0.02 and not (m == 0).any()
    assert sorted(fastdl.multinomial(fastdl.tensor([[1.0, 0, 2], [0, 1, 1]]), 2)[0].tolist()) == [0, 2]
    x = fastdl.normal(fastdl.tensor([0.0, 100.0]), fastdl.tensor([1.0, 0.0]))
    assert x.shape == (2,) and x[1] == 100
    assert (
        fastdl.rand_like(u).shape == u.shape
        and fastdl.randn_like(u[:3]).shape == (3,)
        and fastdl.randint_like(k, 5).max() < 5
    )
    assert fastdl.empty(n).bernoulli_(0.25).mean() < 0.27
    g = np.random.default_rng(5)
    assert fastdl.rand(3, generator=g).tolist() != fastdl.rand(3, generator=g).tolist()
    with pytest.raises(TypeError, match="generator"):
        fastdl.rand(3, generator=5)


# ------------------------------------------------------------------------------------------------------- import


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    code = "import numpy, sys; before = set(sys.modules); import fastdl; print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    loaded = set(run_python(code).split())
    assert not loaded & {"ml_dtypes", "safetensors", "tqdm", "sklearn", "matplotlib", "torch", "pybind11"}


def test_numpy_warnings_are_off_inside_and_on_outside():
    code = (
        "import warnings; warnings.simplefilter('error'); import fastdl, numpy as np\n"
        "t = fastdl.tensor([0.0, 1e30]); t / 0; t.log(); t * t; (t - t) / 0\n"
        "try:\n    np.ones(1) / 0\n    print('quiet')\nexcept RuntimeWarning:\n    print('loud')"
    )
    assert run_python(code).strip() == "loud"


def test_every_exported_name_is_documented():
    for name in list(vars(fastdl)):
        value = getattr(fastdl, name)
        if (
            not name.startswith("_")
            and callable(value)
            and getattr(value, "__module__", "").startswith("fastdl")
        ):
            assert value.__doc__, name
    for name in dir(fastdl.Tensor):
        value = getattr(fastdl.Tensor, name)
        if not name.startswith("_") and callable(value):
            assert value.__doc__, name
