"""`fastdl.autocast`: which function computes in what, casts of parameters, gradients, nesting, threads."""

import threading

import ml_dtypes
import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import autograd, nn, optim

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def left_off():
    yield
    assert autograd.autocasting == 0 and not fastdl.is_autocast_enabled()


def f(*shape):
    return fastdl.tensor(np.random.default_rng(0).standard_normal(shape).astype(F32))


X, B = f(4, 6), f(4, 6).bfloat16()
IMAGE = f(2, 3, 8, 8)
LABELS = fastdl.tensor([0, 1, 2, 3])

# Expressions of a float32 x and a bfloat16 b, by the dtype they have inside autocast.
CALLS = {
    "bfloat16": (
        "F.linear(x, x)", "x @ x.T", "x @ b.T", "m.mm(x, x.T)", "m.bmm(x[None], x.T[None])",
        'm.einsum("ij,kj", x, x)', "m.addmm(x @ x.T, x, x.T)", "m.tensordot(x, x.T, 1)", "F.prelu(x, x[0, :1])",
        "F.scaled_dot_product_attention(x, x, x)", "F.gaussian_nll_loss(b, b + 1, b.exp())", "F.softmax(b, -1)",
        "F.log_softmax(b, -1)", "b.cumsum(0)", "F.layer_norm(b, (6,), x[0], x[1])", "F.cosine_similarity(b, b)",
        "m.dist(b, b)",
        *[f"m.{n}(b)" for n in ("exp", "log", "sqrt", "sin", "tanh", "sigmoid", "erf", "sum", "mean", "var", "norm")],
        *[f"F.{n}(b)" for n in ("relu", "gelu", "silu", "softplus", "glu")],
    ),
    "float64": (
        "x.double() @ x.T.double()",
    ),
    "int64": (
        "x.long() @ x.T.long()",
    ),
    "float32": (
        "F.cross_entropy(b, b.argmax(1))", "F.cross_entropy(b, x.softmax(1))", "F.nll_loss(b, b.argmax(1))",
        "F.mse_loss(b, b)", "F.l1_loss(b, b * 2)", "F.huber_loss(b, b * 2)", "F.smooth_l1_loss(b, b * 2)",
        'F.kl_div(b, b.exp(), reduction="sum")', "F.binary_cross_entropy(b.sigmoid(), b.sigmoid())",
        "F.binary_cross_entropy_with_logits(b, b.sigmoid(), b.exp(), pos_weight=b[0].exp())",
        "F.poisson_nll_loss(b, b.exp())", "F.soft_margin_loss(b, b.sign())", "F.hinge_embedding_loss(b, b.sign())",
        "F.triplet_margin_loss(b, b + 1, b - 1)", "F.margin_ranking_loss(b[0], b[1], b[2].sign())",
        "F.cosine_embedding_loss(b, b + 1, b[:, 0].sign())", "F.multi_margin_loss(b, b.argmax(1))", "b.prod()",
        "m.quantile(b, 0.5)", "m.cdist(b, b)", "m.trace(b[:, :4])", "F.softmax(x, -1)", "F.layer_norm(x, (6,))",
        "x + b", "m.cat([b, x])", "m.stack([b, x])", "m.where(b > 0, b, x)", "F.embedding(b.argmax(1) % 4, x)",
        "m.addcmul(b, x, b)", "F.bilinear(x, x, x[:, :, None].expand(4, 6, 6))",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "call"), [(dtype, call) for dtype, calls in CALLS.items() for call in calls]
)
def test_dtypes(dtype, call):
    call = eval(f"lambda m, F, x, b: {call}")
    with fastdl.autocast():
        y = call(fastdl, F, X, B)
    assert y.dtype.name == dtype
    assert np.isfinite(y.float().numpy()).any()
    torch = pytest.importorskip("torch")
    x = torch.tensor(X.numpy())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = call(torch, torch.nn.functional, x, x.bfloat16())
    assert str(z.dtype).removeprefix("torch.") == dtype
    np.testing.assert_allclose(
        y.float().numpy(),
        z.float().numpy(),
        2**-6,
        2**-6 * max(1.0, float(z.float().nan_to_num().abs().max())),
    )


def test_convolutions_and_pools():
    weight, plane = f(4, 3, 3, 3), IMAGE.bfloat16()
    with fastdl.autocast():
        for y in (
            F.conv2d(IMAGE, weight), F.conv_transpose2d(IMAGE, weight.transpose(0, 1)), F.conv1d(IMAGE[0], f(5, 8, 3)),
            F.conv3d(IMAGE[None], f(2, 2, 2, 2, 2)), F.avg_pool2d(plane, 2), F.max_pool2d(plane, 2),
        ):  # fmt: skip
            assert y.dtype == BF16
        for y in (F.avg_pool3d(plane, 2), F.adaptive_avg_pool3d(plane, 2), F.local_response_norm(plane, 2)):
            assert y.dtype == F32


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(kind):
    layer = getattr(nn, kind)(6, 5, num_layers=2, bidirectional=True)
    x = f(7, 3, 6)
    for data in (x, x.bfloat16()):
        with fastdl.autocast():
            y, state = layer(data)
        assert y.dtype == BF16 and all(s.dtype == BF16 for s in (state if kind == "LSTM" else [state]))
        layer.zero_grad()
        y.sum().backward()
        assert all(p.grad.dtype == F32 for p in layer.parameters())
    with fastdl.no_grad():
        np.testing.assert_allclose(y.float().numpy(), layer(x)[0].numpy(), atol=2**-5)


def test_cells_compute_in_the_wider_dtype():
    with fastdl.autocast():
        assert nn.LSTMCell(6, 5)(B)[0].dtype == F32 and nn.GRUCell(6, 5)(X).dtype == F32


def test_whole_models():
    x = f(5, 4, 8)
    for layer, inputs in (
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (x,)),
        (nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (x, x)),
        (nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True), (x, x, x)),
        (nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.GELU(), nn.MaxPool1d(2), nn.Flatten()), (x,)),
    ):  # fmt: skip
        expected = layer(*inputs)
        with fastdl.autocast():
            got = layer(*inputs)
        expected, got = (t[0] if isinstance(t, tuple) else t for t in (expected, got))
        np.testing.assert_allclose(got.detach().float().numpy(), expected.detach().numpy(), atol=0.1)
        got.float().sum().backward()
        for name, p in layer.named_parameters():
            assert p.dtype == F32 and p.grad.dtype == F32, name
        assert all(b.dtype == F32 for b in layer.buffers() if b.is_floating_point())


def test_gradients_are_those_of_the_casts():
    """backward(autocast(layer)) is the float32 of what the layer in bfloat16 gives."""
    layer, narrow = nn.Linear(6, 3), nn.Linear(6, 3)
    narrow.load_state_dict(layer.state_dict())
    narrow.to("bfloat16")
    with fastdl.autocast():
        y = layer(X)
        loss = F.mse_loss(y, fastdl.zeros(4, 3))
    z = narrow(X.bfloat16())
    assert y.detach().numpy().tobytes() == z.detach().numpy().tobytes()
    loss.backward()
    F.mse_loss(z.float(), fastdl.zeros(4, 3)).backward()
    for p, q in zip(layer.parameters(), narrow.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), q.grad.float().numpy())


def count_casts(function):
    from fastdl.functional.core import Cast

    made = []
    apply = Cast.apply

    def counted(*args):
        made.append(args[0])
        return apply(*args)

    Cast.apply = counted
    try:
        function()
    finally:
        del Cast.apply
    return made


def test_parameters_are_cast_once():
    layer = nn.Linear(6, 6)
    x = B

    def twice(enabled=True):
        with fastdl.autocast(cache_enabled=enabled):
            layer(layer(x))

    assert len(count_casts(twice)) == 2  # weight and bias
    assert len(count_casts(lambda: twice(False))) == 4

    def nested():
        with fastdl.autocast():
            layer(x)
            with fastdl.autocast():
                layer(x)
            layer(x)

    assert len(count_casts(nested)) == 2

    def without_recording():
        with fastdl.autocast():
            with fastdl.no_grad():
                y = layer(x)
            assert not y.requires_grad
            assert layer(x).requires_grad

    assert len(count_casts(without_recording)) == 4


def test_a_changed_parameter_is_cast_again():
    layer = nn.Linear(6, 1, bias=False)
    optimizer = optim.SGD(layer.parameters(), lr=1.0)
    with fastdl.autocast():
        before = layer(X)
        before.sum().backward()
        optimizer.step()
        after = layer(X)
        assert (before != after).all()
        layer.load_state_dict({"weight": np.zeros((1, 6))})
        assert (layer(X) == 0).all()
        layer.weight.data = fastdl.ones(1, 6)
        assert not (layer(X) == 0).any()


def test_accumulation_inside_one_block():
    layer = nn.Linear(6, 2)
    with fastdl.autocast():
        for _ in range(3):
            layer(X).sum().backward()
    once = nn.Linear(6, 2)
    once.load_state_dict(layer.state_dict())
    with fastdl.autocast():
        once(X).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), 3 * once.weight.grad.numpy())


def test_blocks():
    block = fastdl.autocast("cpu", fastdl.bfloat16)
    with block:
        assert fastdl.is_autocast_enabled() and fastdl.get_autocast_dtype() == BF16
        with fastdl.autocast(enabled=False):
            assert not fastdl.is_autocast_enabled() and (X @ X.T).dtype == F32
            with block:
                assert (X @ X.T).dtype == BF16
            with pytest.raises(TypeError, match="one dtype"):
                X @ B.T
        with fastdl.autocast("float16"):
            assert (X @ X.T).dtype == np.float16 and fastdl.get_autocast_dtype() == np.float16
        assert (X @ X.T).dtype == BF16
    assert (X @ X.T).dtype == F32
    with pytest.raises(KeyError), fastdl.autocast():
        raise KeyError
    assert (X @ X.T).dtype == F32

    @fastdl.autocast(dtype="bfloat16")
    def product(n):
        return product(n - 1) if n else X @ X.T

    assert product(2).dtype == BF16 and product.__name__ == "product"


def test_other_threads_are_not_in_the_block():
    seen = []
    with fastdl.autocast():
        thread = threading.Thread(
            target=lambda: seen.extend([(X @ X.T).dtype, F.linear(X, X).dtype, F.mse_loss(B, B).dtype])
        )
        thread.start()
        thread.join()
        assert (X @ X.T).dtype == BF16
    assert seen == [F32, F32, BF16]


def test_bad_arguments():
    for dtype in ("float32", "int8", np.float64):
        with pytest.raises(ValueError, match="bfloat16 or float16"):
            fastdl.autocast("cpu", dtype)
    with pytest.raises(RuntimeError, match="cuda"):
        fastdl.autocast("cuda")
    with pytest.raises(TypeError, match="dtype"):
        fastdl.autocast("tpu")


def test_backward_inside_and_outside_agree():
    grads = []
    for inside in (True, False):
        layer = nn.Linear(6, 2)
        layer.load_state_dict({"weight": np.ones((2, 6)), "bias": np.ones(2)})
        with fastdl.autocast():
            loss = F.mse_loss(layer(X), fastdl.zeros(4, 2))
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        grads.append(layer.weight.grad.numpy())
    np.testing.assert_array_equal(*grads)
