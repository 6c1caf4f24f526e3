"""bfloat16 (and float16) on the Python side: making, converting, promoting, summing, storing and exchanging Tensors."""

# ruff: noqa: E501
import copy
import json
import pickle

import ml_dtypes
import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import io, nn

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


def bf(values, grad=False):
    return fastdl.tensor(values, dtype="bfloat16", requires_grad=grad)


def test_names():
    assert fastdl.bfloat16 == BF16 and fastdl.float16 == np.float16 == fastdl.half
    for name in ("bfloat16", fastdl.bfloat16, ml_dtypes.bfloat16, BF16):
        for t in (
            fastdl.zeros(2, dtype=name), fastdl.tensor([1.0], dtype=name), fastdl.arange(3, dtype=name),
            fastdl.randn(2, dtype=name), fastdl.full((2,), 0.1, dtype=name), fastdl.ones(2).to(name),
            fastdl.ones(2).type(name), fastdl.ones_like(fastdl.ones(2), dtype=name), fastdl.eye(2, dtype=name),
            fastdl.ones(2).sum(dtype=name), F.softmax(fastdl.ones(2), 0, dtype=name), fastdl.linspace(0, 1, 3, dtype=name),
        ):  # fmt: skip
            assert t.dtype == BF16
    x = fastdl.ones(2)
    assert [t.dtype.name for t in (x.bfloat16(), x.half(), x.bfloat16().float(), x.bfloat16().double())] == [
        "bfloat16", "float16", "float32", "float64",
    ]  # fmt: skip
    assert x.bfloat16().bfloat16().dtype == BF16 and x.bfloat16().is_floating_point()
    assert fastdl.finfo("bfloat16").eps == 2**-7


def test_conversion_rounds_to_nearest_even():
    x = np.array(
        [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, 1e-40, np.inf, -np.inf, np.nan], F32
    )
    for repeat in (1, 100):  # NumPy's loop, then the kernel
        y = fastdl.tensor(np.tile(x, repeat)).bfloat16().numpy().astype(F32)[: x.size]
        expected = [
            1.0,
            1.0,
            1 + 2**-6,
            1 + 2**-7,
            np.inf,
            x[5].astype(BF16).astype(F32),
            np.inf,
            -np.inf,
            np.nan,
        ]
        np.testing.assert_array_equal(y, np.array(expected, F32))


def test_promotion():
    x, wide = bf([1.0, 2.0]), fastdl.ones(2)
    for result, dtype in (
        (x + 1, "bfloat16"), (x * 0.1, "bfloat16"), (2.5 - x, "bfloat16"), (x**2, "bfloat16"), (1 / x, "bfloat16"),
        (x + wide, "float32"), (wide * x, "float32"), (x + wide.half(), "float32"), (x - wide.double(), "float64"),
        (x + fastdl.tensor([1, 2]), "bfloat16"), (x * fastdl.tensor([True, False]), "bfloat16"),
        (x + fastdl.tensor(2.0), "bfloat16"), (x * np.float64(2), "bfloat16"), (x + np.ones(2, F32), "float32"),
        (fastdl.where(x > 1, x, wide), "float32"), (fastdl.where(x > 1, x, 0.0), "bfloat16"),
        (fastdl.cat([x, wide]), "float32"), (fastdl.maximum(x, wide), "float32"), (x.clamp(0.1, 1), "bfloat16"),
        (fastdl.atan2(x, x), "bfloat16"), (x // 2, "bfloat16"), (fastdl.lerp(x, x, 0.3), "bfloat16"),
        (F.mse_loss(x, wide), "float32"), (x.mean(), "bfloat16"), (x.norm(), "bfloat16"), (x.exp(), "bfloat16"),
    ):  # fmt: skip
        assert result.dtype.name == dtype
    x += wide  # in place keeps the dtype
    assert x.dtype == BF16 and x.tolist() == [2.0, 3.0]
    assert fastdl.promote_types("bfloat16", "float16") == F32
    assert fastdl.promote_types("bfloat16", "int64") == BF16
    assert fastdl.result_type(x, 1.5) == BF16


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: a @ b, lambda a, b: F.linear(a, b), lambda a, b: fastdl.einsum("ij,jk", a, b),
        lambda a, b: F.conv2d(a[None, None], b[None, None]), lambda a, b: F.scaled_dot_product_attention(a, b, b),
        lambda a, b: F.bilinear(a, a, b[None]), lambda a, b: F.prelu(a, b[0, :1]),
    ],
)  # fmt: skip
def test_products_refuse_mixed_dtypes(call):
    a, b = fastdl.ones(2, 2), bf(np.ones((2, 2), F32))
    for x, y in ((a, b), (b, a)):
        with pytest.raises(TypeError, match="bfloat16") as info:
            call(x, y)
        assert "float32" in str(info.value).replace("bfloat16", "")


def test_scalars_are_not_rounded_first():
    """0.1 is 0.10009765625 in bfloat16: 1000 * 0.1 would be 100.1 before it is rounded."""
    x = bf([1000.0, 3.0])
    for result, exact in (
        (x * 0.1, [100.0, 0.3]), (x / 0.7, [1000 / 0.7, 3 / 0.7]), (x - 0.001, [999.999, 2.999]),
        (0.1 * x, [100.0, 0.3]), (x**1.1, [1000**1.1, 3**1.1]), (2.3**x / x, None),
    ):  # fmt: skip
        if exact is not None:
            np.testing.assert_array_equal(result.numpy(), np.array(exact).astype(F32).astype(BF16))
    assert (bf([0.1]) == 0.1).item()  # comparisons round the number, as torch does


def test_sums_are_wide(rng):
    """Where NumPy's own sum of 1,000 ones is 256."""
    ones = fastdl.ones(1000, dtype="bfloat16")
    assert np.add.reduce(ones.numpy()).item() == 256
    x = fastdl.tensor(rng.standard_normal(4000).astype(BF16) + BF16.type(1))
    w = x.numpy().astype(np.float64)
    a, b = x.reshape(40, 100), w.reshape(40, 100)
    i = fastdl.tensor(rng.integers(0, 3, 4000))
    buckets = np.bincount(i.numpy(), w, 3)
    zeros = fastdl.zeros(3, dtype="bfloat16")
    cases = [
        (ones.sum(), 1000.0), (ones.mean(), 1.0), (ones.cumsum(0)[-1], 1000.0), (x.sum(), w.sum()), (x.mean(), w.mean()),
        (x.var(), w.var(ddof=1)), (x.std(), w.std(ddof=1)), (x.norm(), np.linalg.norm(w)), (x.norm(1), np.abs(w).sum()),
        (a.sum(0), b.sum(0)), (a.mean(1), b.mean(1)), (a.var(1), b.var(1, ddof=1)), (x.cumsum(0), w.cumsum()),
        (a.logsumexp(1), np.log(np.exp(b).sum(1))), (zeros.scatter_add(0, i, x), buckets),
        (zeros.index_add(0, i, x), buckets), (fastdl.einsum("ij->j", a), b.sum(0)), (x @ x, w @ w), (x.nansum(), w.sum()),
        (F.softmax(a, 1), np.exp(b) / np.exp(b).sum(1, keepdims=True)), (F.mse_loss(x, x * 0 + 1), ((w - 1) ** 2).mean()),
        (F.layer_norm(a, (100,)), (b - b.mean(1, keepdims=True)) / np.sqrt(b.var(1, keepdims=True) + 1e-5)),
        (fastdl.dist(x, ones.repeat(4)), np.linalg.norm(w - 1)), (F.cosine_similarity(x, ones.repeat(4), 0),
         w.sum() / np.linalg.norm(w) / 4000**0.5), (fastdl.cdist(a[:2], a[2:4]), np.linalg.norm(b[:2, None] - b[None, 2:4], axis=-1)),
    ]  # fmt: skip
    for n, (result, exact) in enumerate(cases):
        assert result.dtype == BF16
        # one rounding, and float32's in the sums
        np.testing.assert_allclose(
            result.numpy().astype(np.float64), exact, 2**-8 + 1e-4, 1e-4, err_msg=str(n)
        )


def test_names_of_arguments_do_not_matter(rng):
    x = fastdl.tensor(rng.standard_normal(4000).astype(BF16) + BF16.type(1))
    for a, b in (
        (x.var(), fastdl.var(input=x)), (x.norm(), fastdl.norm(input=x)), (x.cumsum(0), fastdl.cumsum(input=x, dim=0)),
        (F.normalize(x, dim=0), F.normalize(input=x, dim=0)),
        (F.cosine_similarity(x, x, 0), F.cosine_similarity(x1=x, x2=x, dim=0)),
    ):  # fmt: skip
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_gradients_of_repeated_elements_are_wide():
    x = bf([1.0, 1.0], grad=True)
    cases = [
        lambda: x[fastdl.zeros(1000, dtype="int64")], lambda: x[:1].expand(1000), lambda: x[:1].repeat(1000),
        lambda: fastdl.ones(1000, dtype="bfloat16") * x[0], lambda: x.repeat_interleave(1000)[:1000],
        lambda: F.embedding(fastdl.zeros(1000, dtype="int64"), x[:, None]), lambda: F.pad(x[None], (999, 0), "replicate"),
        lambda: fastdl.gather(x, 0, fastdl.zeros(1000, dtype="int64")), lambda: fastdl.zeros(1000, dtype="bfloat16") + x[0],
    ]  # fmt: skip
    for n, case in enumerate(cases):
        x.grad = None
        case().sum().backward()
        assert x.grad.dtype == BF16
        assert x.grad[0].item() == 1000.0, n


def test_mean_of_odd_counts_has_an_exact_gradient():
    x = fastdl.zeros(1001, dtype="bfloat16", requires_grad=True)
    x.mean().backward()
    assert x.grad[0].item() == BF16.type(F32.type(1 / 1001))


def test_printing():
    assert repr(bf([0.1, 2.0])) == "tensor([0.1001, 2.0000], dtype=bfloat16)"
    assert repr(bf([1.0, 2.0])) == "tensor([1., 2.], dtype=bfloat16)"
    assert repr(bf(3.5, grad=True)) == "tensor(3.5000, dtype=bfloat16, requires_grad=True)"
    assert f"{bf(0.1):.3f}" == "0.100" and bf([1.0]).tolist() == [1.0] and isinstance(bf(1.0).item(), float)


def test_copies_and_pickles():
    x = bf([0.1, np.nan], grad=True)
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.clone()):
        assert y.dtype == BF16 and y.requires_grad
        assert y.detach().numpy().tobytes() == x.detach().numpy().tobytes()
    layer = nn.Linear(2, 2).to("bfloat16")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.weight.dtype == BF16
        assert other.weight.detach().numpy().tobytes() == layer.weight.detach().numpy().tobytes()


def test_files(tmp_path):
    state = {"b": bf([0.1, 2.0]), "h": fastdl.ones(3).half(), "f": fastdl.ones(1)}
    io.save(state, tmp_path / "x.safetensors")
    loaded = io.load(tmp_path / "x.safetensors")
    assert {k: v.dtype.name for k, v in loaded.items()} == {"b": "bfloat16", "h": "float16", "f": "float32"}
    assert all(loaded[k].numpy().tobytes() == v.numpy().tobytes() for k, v in state.items())
    header = (tmp_path / "x.safetensors").read_bytes()[8:]
    assert json.loads(header[: header.index(b"}}") + 2])["b"]["dtype"] == "BF16"
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    theirs = load_file(tmp_path / "x.safetensors")
    assert theirs["b"].dtype == torch.bfloat16 and theirs["b"].tolist() == state["b"].tolist()
    save_file(theirs, tmp_path / "y.safetensors")
    assert io.load(tmp_path / "y.safetensors")["b"].numpy().tobytes() == state["b"].numpy().tobytes()


def test_modules():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    for convert, dtype in (
        (lambda: model.to("bfloat16"), BF16), (model.float, F32), (model.bfloat16, BF16), (model.half, np.float16),
        (lambda: model.to("cpu", fastdl.bfloat16), BF16), (lambda: model.to(bf([1.0])), BF16),
    ):  # fmt: skip
        assert convert() is model
        assert {p.dtype for p in model.parameters()} == {np.dtype(dtype)}
        assert {b.dtype for b in model.buffers()} == {np.dtype(dtype), np.dtype(np.int64)}
    y = model(fastdl.randn(4, 1, 4, 4, dtype="bfloat16"))
    y.sum().backward()
    assert y.dtype == BF16 and all(p.grad.dtype == BF16 for p in model.parameters())
    model.float()  # gradients go along
    assert model[0].weight.grad.dtype == F32


def test_state_dicts_are_cast():
    wide = nn.Linear(3, 2)
    narrow = nn.Linear(3, 2).to("bfloat16")
    narrow.load_state_dict(wide.state_dict())
    assert narrow.weight.dtype == BF16
    np.testing.assert_array_equal(narrow.weight.detach().numpy(), wide.weight.detach().numpy().astype(BF16))
    wide.load_state_dict(narrow.state_dict())
    assert wide.weight.dtype == F32
    np.testing.assert_array_equal(wide.weight.detach().numpy(), narrow.weight.detach().numpy().astype(F32))
    wide.load_state_dict(narrow.state_dict(), assign=True)
    assert wide.weight.dtype == BF16


def test_norms_take_float32_weights_beside_bfloat16():
    x = bf(np.random.default_rng(0).standard_normal((4, 6)).astype(F32), grad=True)
    for layer in (nn.LayerNorm(6), nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.RMSNorm(6)):
        y = layer(x)
        assert y.dtype == BF16
        y.sum().backward()
        assert x.grad.dtype == BF16 and layer.weight.grad.dtype == F32


def test_default_dtype():
    fastdl.set_default_dtype("bfloat16")
    try:
        assert fastdl.get_default_dtype() == BF16
        assert fastdl.tensor([1.5]).dtype == fastdl.ones(2).dtype == nn.Linear(2, 2).weight.dtype == BF16
    finally:
        fastdl.set_default_dtype("float32")


def test_random_numbers():
    fastdl.manual_seed(0)
    for draw in (
        lambda: fastdl.randn(1000, dtype="bfloat16"), lambda: fastdl.zeros(1000, dtype="bfloat16").normal_(),
        lambda: F.dropout(fastdl.ones(1000, dtype="bfloat16")), lambda: fastdl.zeros(1000, dtype="bfloat16").random_(),
        lambda: fastdl.bernoulli(fastdl.full((1000,), 0.5, dtype="bfloat16")),
    ):  # fmt: skip
        t = draw()
        assert t.dtype == BF16 and np.isfinite(t.float().numpy()).all() and t.float().numpy().std() > 0.4


def test_dlpack_round_trip():
    x = bf(np.arange(6, dtype=F32)).reshape(2, 3)
    y = fastdl.from_dlpack(x)
    assert y.dtype == BF16 and y.tolist() == x.tolist()
    y[0, 0] = 7.0
    assert x[0, 0].item() == 7.0  # the memory is shared
    assert fastdl.from_dlpack(x.T).tolist() == x.T.tolist()
    z = fastdl.from_dlpack(fastdl.arange(3.0))
    assert z.dtype == F32
    with pytest.raises(BufferError, match="requires grad"):
        fastdl.from_dlpack(bf([1.0], grad=True))


def test_torch_interchange():
    torch = pytest.importorskip("torch")
    x = bf([[0.5, 1.5], [2.0, np.inf]])
    t = torch.from_dlpack(x)
    assert t.dtype == torch.bfloat16 and t.tolist() == x.tolist()
    t[0, 0] = 3.0
    assert x[0, 0].item() == 3.0
    u = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).bfloat16()
    for y in (fastdl.from_dlpack(u), fastdl.tensor(u), fastdl.as_tensor(u), fastdl.from_dlpack(u.T).T):
        assert y.dtype == BF16 and y.tolist() == u.tolist()
    assert fastdl.tensor([u, u]).dtype == BF16
    assert (x + fastdl.tensor(u)).dtype == BF16
    layer = nn.Linear(2, 2).to("bfloat16")
    source = torch.nn.Linear(2, 2).bfloat16()
    layer.load_state_dict(source.state_dict())
    assert layer.weight.tolist() == source.weight.tolist()


def test_ops_on_arrays(rng):
    from fastdl import ops

    a, b = rng.standard_normal((2, 6, 6)).astype(BF16)
    assert ops.matmul(a, b).dtype == ops.softmax(a).dtype == ops.activation(a, "gelu").dtype == BF16
    out, mean, rstd = ops.layer_norm(a, (6,))
    assert out.dtype == BF16 and mean.dtype == rstd.dtype == F32
    with pytest.raises(TypeError, match="bfloat16"):
        ops.matmul(a, b.astype(F32))
