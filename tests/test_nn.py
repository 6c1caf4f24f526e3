"""Layers beyond parity with torch: gradients, fused activations, our own layers, bad input, names in errors."""

import copy
import math

import numpy as np
import pytest
from gradcheck import gradcheck

import fastdl
import fastdl.nn.functional as F
from fastdl import nn


@pytest.fixture(autouse=True)
def seeded():
    fastdl.manual_seed(3)


def check_layer(layer, *inputs, call=None):
    """Gradients of a layer for its inputs and all its parameters, by finite differences in float64."""
    layer.double()
    params = dict(layer.named_parameters())
    arrays = [p.numpy(force=True).copy() for p in params.values()]
    count = len(inputs)

    def function(*tensors):
        for p, t in zip(params.values(), tensors[count:], strict=True):
            owner, _, name = next(n for n, q in params.items() if q is p).rpartition(".")
            module = layer.get_submodule(owner)
            module.__dict__[name] = t  # the tensor under test in the parameter's place
        outputs = (call or layer)(*tensors[:count])
        return outputs[0] if isinstance(outputs, tuple) else outputs

    gradcheck(function, *inputs, *arrays)


# ---------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(
    "make, shapes",
    [
        (lambda: nn.Linear(3, 2, activation="tanh"), [(4, 3)]),
        (lambda: nn.Linear(3, 2, activation="gelu"), [(4, 3)]),
        (lambda: nn.Linear(3, 2, activation=("leaky_relu", 0.2)), [(4, 3)]),
        (lambda: nn.Linear(3, 2, activation=nn.Softplus()), [(4, 3)]),
        (lambda: nn.Bilinear(3, 2, 2), [(4, 3), (4, 2)]),
        (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect", activation="silu"), [(2, 2, 5)]),
        (lambda: nn.Conv2d(2, 2, 2, groups=2, activation="sigmoid"), [(1, 2, 3, 4)]),
        (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2, activation="tanh"), [(1, 2, 2, 3)]),
        (lambda: nn.LayerNorm(4), [(3, 4)]),
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), [(4, 3)]),
        (lambda: nn.PReLU(3), [(2, 3, 2)]),
        (
            lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True),
            [(3, 2, 4), (2, 2, 4), (2, 2, 4)],
        ),
        (
            lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=2, batch_first=True),
            [(2, 3, 4), (2, 2, 3), (2, 2, 2)],
        ),
        (lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu"), [(3, 2, 4)]),
        (lambda: nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0, activation=F.silu), [(2, 2, 4), (3, 2, 4)]),
        (lambda: nn.DotAttention(scaled=True), [(2, 3, 4), (2, 5, 4), (2, 5, 2)]),
        (lambda: nn.GeneralAttention(3, 4), [(2, 3, 3), (2, 5, 4)]),
        (lambda: nn.ConcatAttention(3, 4, 5), [(2, 3, 3), (2, 2, 4)]),
    ],
)
def test_gradients(make, shapes, rng):
    check_layer(make(), *[rng.standard_normal(s) for s in shapes])


# -------------------------------------------------------------------------------------------- fused activations


NAMES = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus hardswish hardsigmoid hardtanh sigmoid tanh"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_fused_activation_is_the_activation(name, rng):
    x = fastdl.tensor(rng.standard_normal((5, 4)), dtype=fastdl.float32)
    fused = nn.Linear(4, 6, activation=name)
    plain = nn.Linear(4, 6)
    plain.load_state_dict(fused.state_dict())
    a, b = fused(x), getattr(F, name)(plain(x))
    np.testing.assert_allclose(a.numpy(force=True), b.numpy(force=True), 1e-6, 1e-6)
    assert f"activation='{name}'" in repr(fused)
    (a**2).sum().backward()
    (b**2).sum().backward()
    np.testing.assert_allclose(fused.weight.grad.numpy(), plain.weight.grad.numpy(), 1e-4, 1e-5)


def test_activation_argument():
    assert nn.Linear(2, 3, activation=None).activation is None
    assert "activation" not in repr(nn.Linear(2, 3, activation="linear"))
    model = nn.Sequential(nn.Linear(2, 3, activation=nn.PReLU()))
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias", "0.activation.weight"]
    x = fastdl.randn(4, 2)
    layer = nn.Linear(2, 3, activation=lambda t: t * 0)
    assert (layer(x).numpy(force=True) == 0).all()
    clone = copy.deepcopy(nn.Conv1d(2, 3, 2, activation="relu"))
    assert (clone(fastdl.randn(1, 2, 4)).numpy(force=True) >= 0).all()
    for bad in ("cube", 3, ("relu", 1, 2, 3)):
        with pytest.raises(ValueError, match="activation"):
            nn.Linear(2, 3, activation=bad)


# ----------------------------------------------------------------------------------------------- our own layers


def test_positional_encoding():
    layer = nn.PositionalEncoding(6, max_len=50)
    assert not layer.state_dict() and not list(layer.parameters())
    table = layer(fastdl.zeros(1, 50, 6)).numpy()[0]
    for pos in (0, 1, 7, 49):
        for i in range(3):
            angle = pos / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(
                table[pos, 2 * i : 2 * i + 2], [math.sin(angle), math.cos(angle)], atol=1e-6
            )
    x = fastdl.randn(2, 5, 6)
    np.testing.assert_allclose(layer(x).numpy(), x.numpy() + table[:5], atol=1e-6)
    sequence_first = nn.PositionalEncoding(6, batch_first=False)
    np.testing.assert_allclose(sequence_first(x.transpose(0, 1)).numpy(), layer(x).numpy().swapaxes(0, 1))
    np.testing.assert_allclose(layer(x[0]).numpy(), layer(x).numpy()[0])
    assert nn.PositionalEncoding(5)(fastdl.zeros(1, 3, 5)).shape == (1, 3, 5)
    assert layer.double()(x.double()).dtype == fastdl.float64
    for bad in (fastdl.zeros(1, 51, 6), fastdl.zeros(1, 5, 7), fastdl.zeros(6)):
        with pytest.raises(ValueError, match="PositionalEncoding"):
            layer(bad)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_luong_attention(rng):
    """Scores of section 3.1 of Luong et al. 2015, spelled out."""
    q, k, v = (rng.standard_normal(s) for s in ((2, 3, 4), (2, 5, 4), (2, 5, 6)))
    tensors = [fastdl.tensor(t) for t in (q, k, v)]
    general, concat = nn.GeneralAttention(4).double(), nn.ConcatAttention(4, hidden_dim=7).double()
    w, u, b = (p.numpy(force=True) for p in (general.weight, concat.weight, concat.v))
    scores = {
        nn.DotAttention(): np.einsum("nld,nsd->nls", q, k),
        nn.DotAttention(scaled=True): np.einsum("nld,nsd->nls", q, k) / 2,
        general: np.einsum("nld,de,nse->nls", q, w, k),
        concat: np.array(
            [
                [[b[0] @ np.tanh(u @ np.concatenate([q[n, i], k[n, s]])) for s in range(5)] for i in range(3)]
                for n in range(2)
            ]
        ),
    }
    mask = rng.random((2, 5)) < 0.6
    mask[:, 0] = True
    for layer, score in scores.items():
        context, weights = layer(*tensors)
        np.testing.assert_allclose(weights.numpy(force=True), softmax(score), 1e-12)
        np.testing.assert_allclose(context.numpy(force=True), softmax(score) @ v, 1e-12)
        _, weights = layer(tensors[0], tensors[1], mask=fastdl.tensor(mask))
        expected = softmax(np.where(mask[:, None], score, -np.inf))
        np.testing.assert_allclose(weights.numpy(force=True), expected, 1e-12)
        each = fastdl.tensor(np.broadcast_to(mask[:, None], (2, 3, 5)).copy())
        np.testing.assert_allclose(layer(*tensors, each)[1].numpy(force=True), expected, 1e-12)
    with pytest.raises(ValueError, match="DotAttention"):
        nn.DotAttention()(tensors[0][0], tensors[1])
    with pytest.raises(ValueError, match="agree"):
        nn.DotAttention()(tensors[0][:1], tensors[1])


def test_attention_with_and_without_weights_agree(rng):
    layer = nn.MultiheadAttention(8, 4, batch_first=True)
    x = fastdl.randn(2, 6, 8)
    a, weights = layer(x, x, x, is_causal=True)
    b, none = layer(x, x, x, is_causal=True, need_weights=False)
    np.testing.assert_allclose(a.numpy(force=True), b.numpy(force=True), 1e-5, 1e-5)
    assert none is None and (np.triu(weights.numpy(force=True)[0], 1) == 0).all()


def test_transformer_with_another_linear1():
    """Where the user replaced the first linear layer, theirs is called, and the activation still applied."""

    class Doubled(nn.Linear):
        def forward(self, input):
            return super().forward(input) * 2

    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0)
    x = fastdl.randn(3, 2, 4)
    before = layer(x).numpy(force=True)
    doubled = Doubled(4, 6)
    doubled.load_state_dict(layer.linear1.state_dict())
    layer.linear1 = doubled
    assert not np.allclose(before, layer(x).numpy(force=True))


# ------------------------------------------------------------------------------------------ batch norm, dropout


def test_batch_norm_state_and_modes(rng):
    layer = nn.BatchNorm2d(3, momentum=None)
    batches = [rng.standard_normal((4, 3, 2, 2)).astype(np.float32) * 2 + 1 for _ in range(3)]
    for x in batches:
        layer(fastdl.tensor(x))
    assert layer.num_batches_tracked.item() == 3
    np.testing.assert_allclose(
        layer.running_mean.numpy(), np.mean([x.mean((0, 2, 3)) for x in batches], 0), 1e-5, 1e-6
    )
    layer.eval()
    before = layer.running_mean.numpy().copy()
    layer(fastdl.tensor(batches[0]))
    np.testing.assert_array_equal(layer.running_mean.numpy(), before)
    assert layer.num_batches_tracked.item() == 3
    layer.reset_running_stats()
    assert layer.num_batches_tracked.item() == 0 and (layer.running_var.numpy() == 1).all()
    with pytest.raises(ValueError):  # nothing is updated by a batch that is refused
        layer.train()(fastdl.ones(2, 4, 3, 3))
    assert layer.num_batches_tracked.item() == 0 and (layer.running_mean.numpy() == 0).all()


def test_dropout_layers():
    x = fastdl.ones(200, 8, 4)
    for layer, axes in ((nn.Dropout(0.25), ()), (nn.Dropout1d(0.25), (2,))):
        y = layer(x).numpy()
        values = set(np.unique(y.round(5)))
        assert values == {0.0, np.float32(1 / 0.75).round(5)}
        assert abs(y.mean() - 1) < 5 * math.sqrt(1 / 3 / (y.size / (4 if axes else 1)))
        if axes:
            assert (y == y[:, :, :1]).all()
        assert layer.eval()(x).tolist() == x.tolist()
    fastdl.manual_seed(1)
    a = nn.Dropout(0.5)(x).numpy()
    fastdl.manual_seed(1)
    np.testing.assert_array_equal(a, nn.Dropout(0.5)(x).numpy())
    z = fastdl.randn(400, 300)
    y = nn.AlphaDropout(0.2)(z).numpy()
    assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.02


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.Linear(-1, 3), ValueError, "Linear: expected in_features >= 0"),
        (lambda: nn.Linear(2.5, 3), TypeError, "Linear: expected an integer for in_features"),
        (lambda: nn.Linear(2, None), TypeError, "out_features"),
        (lambda: nn.Linear(2, 3, dtype=fastdl.int64), TypeError, "floating-point"),
        (lambda: nn.Linear(2, 3, device="cuda"), RuntimeError, "cuda"),
        (lambda: nn.Bilinear(0, 3, 2), ValueError, "in1_features"),
        (lambda: nn.Conv2d(4, 6, 3, groups=4), ValueError, "Conv2d: 4 groups do not divide"),
        (lambda: nn.Conv2d(4, 6, 3, groups=0), ValueError, "groups"),
        (lambda: nn.Conv2d(4, 6, 3, stride=0), ValueError, "stride"),
        (lambda: nn.Conv2d(4, 6, 3, padding=-1), ValueError, "padding"),
        (lambda: nn.Conv2d(4, 6, 3, dilation=0), ValueError, "dilation"),
        (lambda: nn.Conv2d(4, 6, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: nn.Conv2d(4, 6, 3.0), TypeError, "kernel_size"),
        (lambda: nn.Conv2d(4, 6, 3, padding="full"), ValueError, "padding"),
        (lambda: nn.Conv2d(4, 6, 3, padding="same", stride=2), ValueError, "stride 1"),
        (lambda: nn.Conv2d(4, 6, 3, padding_mode="mirror"), ValueError, "padding_mode"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, padding="same"), ValueError, "padding"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, padding_mode="reflect"), ValueError, "padding_mode"),
        (lambda: nn.LayerNorm(()), ValueError, "LayerNorm"),
        (lambda: nn.LayerNorm(-3), ValueError, "normalized_shape"),
        (lambda: nn.GroupNorm(3, 4), ValueError, "GroupNorm: 3 groups"),
        (lambda: nn.BatchNorm2d(-1), ValueError, "num_features"),
        (lambda: nn.Dropout(1.5), ValueError, "Dropout: expected a probability"),
        (lambda: nn.Dropout("half"), ValueError, "probability"),
        (lambda: nn.Embedding(10, 3, padding_idx=10), ValueError, "padding_idx"),
        (lambda: nn.Embedding(10, 3, sparse=True), ValueError, "sparse"),
        (lambda: nn.Embedding(10, 3, _weight=fastdl.ones(3, 3)), ValueError, "shape"),
        (lambda: nn.Embedding.from_pretrained(fastdl.ones(3)), ValueError, "2 dimensions"),
        (lambda: nn.EmbeddingBag(10, 3, mode="median"), ValueError, "mode"),
        (lambda: nn.MultiheadAttention(8, 3), ValueError, "3 heads do not divide"),
        (lambda: nn.MultiheadAttention(8, 2, dropout=2.0), ValueError, "probability"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="tanh"), ValueError, "activation"),
        (lambda: nn.CrossEntropyLoss(reduction="most"), ValueError, "CrossEntropyLoss: expected reduction"),
        (lambda: nn.TripletMarginLoss(margin=0), ValueError, "margin"),
        (lambda: nn.MultiMarginLoss(p=3), ValueError, "p 1 or 2"),
        (lambda: nn.Hardtanh(1.0, 1.0), ValueError, "min_val"),
        (lambda: nn.Unflatten(1, 3), TypeError, "Unflatten"),
        (lambda: nn.ZeroPad2d((1, 2, 3)), ValueError, "ZeroPad2d"),
        (lambda: nn.ReflectionPad1d(-1), ValueError, "padding"),
        (lambda: nn.PReLU(0), ValueError, "num_parameters"),
        (lambda: nn.AvgPool1d((2, 2)), ValueError, "kernel_size"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "make, inputs, error",
    [
        (lambda: nn.Linear(3, 2), [(4, 4)], ValueError),
        (lambda: nn.Linear(3, 2), [()], ValueError),
        (lambda: nn.Conv2d(3, 2, 3), [(1, 4, 5, 5)], ValueError),
        (lambda: nn.Conv2d(3, 2, 3), [(5, 5)], ValueError),
        (lambda: nn.Conv2d(3, 2, 3), [(1, 3, 2, 2)], ValueError),
        (lambda: nn.BatchNorm2d(3), [(2, 3)], ValueError),
        (lambda: nn.BatchNorm2d(3), [(2, 4, 3, 3)], ValueError),
        (lambda: nn.BatchNorm1d(3), [(1, 3)], ValueError),
        (lambda: nn.InstanceNorm2d(3, affine=True), [(2, 4, 3, 3)], ValueError),
        (lambda: nn.InstanceNorm2d(3), [(2, 3)], ValueError),
        (lambda: nn.LayerNorm(3), [(2, 4)], ValueError),
        (lambda: nn.GroupNorm(2, 4), [(2, 6, 3)], ValueError),
        (lambda: nn.Softmax2d(), [(2, 3)], ValueError),
        (lambda: nn.MaxPool2d(3), [(1, 3, 2, 2)], ValueError),
        (lambda: nn.MultiheadAttention(4, 2), [(3, 2, 4), (3, 2, 5), (3, 2, 4)], ValueError),
        (lambda: nn.MultiheadAttention(4, 2), [(3, 2, 4), (3, 4), (3, 4)], ValueError),
        (lambda: nn.MultiheadAttention(4, 2), [(3, 2, 4), (3, 1, 4), (3, 1, 4)], ValueError),
        (lambda: nn.Transformer(4, 2, 1, 1, 6), [(3, 2, 4), (3, 2, 5)], ValueError),
    ],
)
def test_bad_inputs_name_the_layer(make, inputs, error):
    model = nn.Sequential() if len(inputs) == 1 else make()
    if len(inputs) == 1:
        model.append(make())
    tensors = [fastdl.ones(*s) for s in inputs]
    with pytest.raises(error) as caught:
        model(*tensors)
    notes = caught.value.__notes__
    assert len(notes) == 1 and type(make()).__name__ in notes[0]
    if len(inputs) == 1:
        assert notes[0].startswith("in layer '0' of Sequential")


def test_bad_dtypes_and_masks():
    with pytest.raises(TypeError):
        nn.Linear(3, 2)(fastdl.ones(4, 3, dtype=fastdl.float64))
    with pytest.raises(TypeError):
        nn.Linear(3, 2)(fastdl.ones(4, 3, dtype=fastdl.int64))
    layer, x = nn.MultiheadAttention(4, 2), fastdl.ones(3, 2, 4)
    with pytest.raises(TypeError, match="attn_mask"):
        layer(x, x, x, attn_mask=fastdl.ones(3, 3, dtype=fastdl.int64))
    with pytest.raises(ValueError, match="attn_mask"):
        layer(x, x, x, attn_mask=fastdl.ones(3, 4))
    with pytest.raises(ValueError, match="key_padding_mask"):
        layer(x, x, x, key_padding_mask=fastdl.ones(3, 2) > 0)
    with pytest.raises(IndexError):
        nn.Embedding(4, 2)(fastdl.tensor([4]))
    with pytest.raises(TypeError):
        nn.Embedding(4, 2)(fastdl.tensor([1.0]))
    with pytest.raises(IndexError):
        nn.CrossEntropyLoss()(fastdl.ones(2, 3), fastdl.tensor([0, 3]))


def test_empty_batches():
    for layer, shape in (
        (nn.Linear(3, 2), (0, 3)),
        (nn.Linear(0, 2), (4, 0)),
        (nn.Linear(3, 0), (4, 3)),
        (nn.Conv2d(3, 2, 3), (0, 3, 5, 5)),
        (nn.LayerNorm(3), (0, 3)),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), (0, 3, 2)),
        (nn.MaxPool2d(2), (0, 3, 4, 4)),
    ):
        x = fastdl.ones(*shape, requires_grad=True)
        y = layer(x)
        assert y.shape[0] == shape[0]
        y.sum().backward()
        assert x.grad.shape == shape and all(np.isfinite(p.grad.numpy()).all() for p in layer.parameters())


def test_a_model_learns():
    """A small model of many layers fits a small set: everything trains together."""
    rng = np.random.default_rng(0)
    x = fastdl.tensor(rng.standard_normal((64, 1, 8, 8)).astype(np.float32))
    y = fastdl.tensor((x.numpy().mean((1, 2, 3)) > 0).astype(np.int64))
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, activation="relu"),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Flatten(2),
        nn.LayerNorm(16),
        nn.Flatten(),
        nn.Linear(64, 2),
    )
    optimizer = fastdl.optim.Adam(model.parameters(), lr=1e-2)
    loss_fn = nn.CrossEntropyLoss()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_what_is_no_tensor_is_named():
    for layer, count in (
        (nn.LayerNorm(3), 1),
        (nn.BatchNorm2d(3), 1),
        (nn.Flatten(), 1),
        (nn.PixelShuffle(2), 1),
        (nn.MultiheadAttention(4, 2), 3),
        (nn.CrossEntropyLoss(), 2),
        (nn.BCELoss(), 2),
        (nn.Linear(3, 2), 1),
        (nn.Conv2d(3, 2, 3), 1),
        (nn.MaxPool2d(2), 1),
        (nn.GLU(), 1),
    ):
        for bad in (None, [[1.0, 2.0], [3.0]], "text"):
            with pytest.raises((TypeError, ValueError)) as caught:
                layer(*[bad] * count)
            assert type(layer).__name__ in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="cross_entropy: expected input to be a Tensor, got NoneType"):
        F.cross_entropy(None, fastdl.tensor([1]))

    class Mine(nn.Module):  # a model's own mistakes stay what they are
        def forward(self, x):
            return x.nothing

    with pytest.raises(AttributeError, match="nothing"):
        Mine()([1])
