"""The references themselves: every backward by finite differences, and cases small enough to calculate by
hand.
"""

import numpy as np
import pytest
from references import (
    activation,
    attention,
    conv,
    dropout,
    embedding,
    loss,
    matmul,
    norm,
    optim,
    pool,
    rnn,
    softmax,
)


def check_backward(forward, backward, *args, rtol=2e-7):
    """backward(grad, *args) -> one gradient or a tuple (None = not differentiable), against central
    differences.
    """
    args = [np.array(a, np.float64) for a in args]
    rng = np.random.default_rng(0)
    y = np.asarray(forward(*args))
    w = rng.standard_normal(y.shape)
    grads = backward(w, *args)
    grads = grads if isinstance(grads, tuple) else (grads,)
    h = 6e-6
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        assert np.shape(grad) == args[i].shape, f"argument {i}: {np.shape(grad)} != {args[i].shape}"
        for _ in range(3):
            d = rng.standard_normal(args[i].shape)
            plus, minus = list(args), list(args)
            plus[i], minus[i] = args[i] + h * d, args[i] - h * d
            numeric = np.sum(w * (np.asarray(forward(*plus)) - np.asarray(forward(*minus)))) / (2 * h)
            scale = np.linalg.norm(grad) * np.linalg.norm(d) + np.linalg.norm(w) * np.linalg.norm(y) * 1e-3
            assert abs(np.sum(grad * d) - numeric) <= rtol * scale + 1e-9, (
                f"argument {i}: {np.sum(grad * d)} {numeric}"
            )


# ---- matmul ----


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((2, 1, 3, 4), (6, 4, 5)),
     ((4,), (2, 4, 5)), ((2, 3, 4), (4,)), ((0, 4), (4, 5)), ((3, 0), (0, 5))],
)  # fmt: skip
def test_matmul_backward(rng, a, b):
    a, b = rng.standard_normal(a), rng.standard_normal(b)
    check_backward(
        lambda a, b: matmul.matmul(a, b, alpha=0.7),
        lambda g, a, b: matmul.matmul_backward(g, a, b, 0.7),
        a,
        b,
    )


def test_matmul_by_hand():
    a, b = [[1, 2], [3, 4]], [[1, 0], [1, 1]]
    assert matmul.matmul(a, b).tolist() == [[3, 2], [7, 4]]
    y = matmul.matmul(
        a,
        b,
        alpha=2,
        beta=-1,
        c=[[6, 0], [0, 9]],
        bias=[-1, 0],
        activation="relu",
        residual=[[10, 20], [30, 40]],
    )
    assert y.tolist() == [[9, 24], [43, 39]]
    assert matmul.matmul(a, b, beta=0, c=np.full((2, 2), np.nan)).tolist() == [[3, 2], [7, 4]]


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 4)])
def test_linear_backward(rng, shape):
    x, w, b = rng.standard_normal(shape), rng.standard_normal((3, 4)), rng.standard_normal(3)
    check_backward(matmul.linear, lambda g, x, w, b: matmul.linear_backward(g, x, w), x, w, b)


# ---- conv ----

CONVS = [
    ((2, 3, 9), (4, 3, 3), {}),
    ((2, 4, 9), (6, 2, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ((4, 9), (4, 1, 3), {"padding": "same", "dilation": 2, "groups": 4}),
    ((2, 3, 7, 6), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
    ((1, 2, 5, 6), (4, 1, 4, 3), {"padding": "same", "groups": 2}),
    ((2, 2, 4, 5, 6), (3, 2, 2, 3, 2), {"stride": (1, 2, 3), "padding": (1, 0, 1)}),
    ((0, 2, 5, 5), (3, 2, 3, 3), {}),
]


@pytest.mark.parametrize(("x", "w", "options"), CONVS)
def test_conv_backward(rng, x, w, options):
    x, w, b = rng.standard_normal(x), rng.standard_normal(w), rng.standard_normal(w[0])
    check_backward(
        lambda x, w, b: conv.conv(x, w, b, **options),
        lambda g, x, w, b: conv.conv_backward(g, x, w, **options),
        x,
        w,
        b,
    )


TRANSPOSES = [
    ((2, 3, 5), (3, 4, 3), {}),
    ((2, 4, 5), (4, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ((3, 5, 4), (3, 2, 3, 2), {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 1)}),
    ((1, 2, 3, 4), (2, 2, 2, 3), {"dilation": (2, 3), "output_padding": (1, 2)}),
    ((1, 2, 3, 2, 2), (2, 3, 2, 2, 3), {"stride": 2, "padding": (1, 0, 1)}),
]


@pytest.mark.parametrize(("x", "w", "options"), TRANSPOSES)
def test_conv_transpose_backward(rng, x, w, options):
    x, w = rng.standard_normal(x), rng.standard_normal(w)
    b = rng.standard_normal(w.shape[1] * options.get("groups", 1))
    check_backward(
        lambda x, w, b: conv.conv_transpose(x, w, b, **options),
        lambda g, x, w, b: conv.conv_transpose_backward(g, x, w, **options),
        x,
        w,
        b,
    )


def test_conv_by_hand():
    x, w = np.arange(1.0, 6).reshape(1, 1, 5), np.array([[[1.0, 10, 100]]])
    assert conv.conv(x, w).tolist() == [[[321, 432, 543]]]
    assert conv.conv(x, w, [1.0], stride=2, padding=1).tolist() == [[[211, 433, 55]]]
    assert conv.conv(x, w, dilation=2).tolist() == [[[531]]]
    assert conv.conv(x, [[[1.0, 10]]], padding="same").tolist() == [[[21, 32, 43, 54, 5]]]
    assert conv.conv_transpose([[[1.0, 2]]], w, stride=2, output_padding=1).tolist() == [
        [[1, 10, 102, 20, 200, 0]]
    ]
    assert conv.conv_transpose([[[1.0, 2]]], w, stride=2, padding=1).tolist() == [[[10, 102, 20]]]


# ---- activations ----

ACTIVATIONS = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {}), ("leaky_relu", {"negative_slope": 0.3}), ("rrelu", {}),
    ("elu", {}), ("elu", {"alpha": 0.5}), ("selu", {}), ("celu", {}), ("celu", {"alpha": 2.0}), ("gelu", {}),
    ("gelu", {"approximate": "tanh"}), ("silu", {}), ("mish", {}), ("softplus", {}),
    ("softplus", {"beta": 2.0, "threshold": 3.0}), ("hardswish", {}), ("hardsigmoid", {}), ("hardtanh", {}),
    ("hardtanh", {"min_val": -2.0, "max_val": 0.5}), ("hardshrink", {}), ("softshrink", {"lambd": 0.75}),
    ("tanhshrink", {}), ("threshold", {"threshold": 0.3, "value": -1.0}), ("softsign", {}), ("sigmoid", {}),
    ("logsigmoid", {}), ("tanh", {}),
    ("glu", {"dim": 0}), ("glu", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activation_backward(rng, name, options):
    forward, backward = getattr(activation, name), getattr(activation, name + "_backward")
    x = 3 * rng.standard_normal((6, 10))
    check_backward(lambda x: forward(x, **options), lambda g, x: backward(g, x, **options), x)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4)])
def test_prelu_backward(rng, shape):
    w = rng.standard_normal(shape[1] if len(shape) > 1 else 1)
    check_backward(activation.prelu, activation.prelu_backward, rng.standard_normal(shape), w)
    check_backward(activation.prelu, activation.prelu_backward, rng.standard_normal(shape), w[:1])


@pytest.mark.parametrize(("name", "options"), [a for a in ACTIVATIONS if a[0] != "glu"])
def test_activation_passes_nan_on(name, options):
    assert np.isnan(getattr(activation, name)(np.array([np.nan]), **options)).all()


def test_activation_by_hand():
    assert activation.hardswish([-4.0, -1, 0, 3, 5]).tolist() == [0, -1 / 3, 0, 3, 5]
    assert activation.gelu([0.0, 40, -40]).tolist() == [0, 40, 0]
    assert (
        abs(activation.gelu([1.0])[0] - 0.8413447460685429) < 1e-15
    )  # Phi(1), Abramowitz & Stegun table 26.1
    assert abs(activation.sigmoid([-800.0, 0.0, 800.0]) - [0, 0.5, 1]).max() == 0
    assert abs(activation.softplus([-800.0, 800.0]) - [0, 800]).max() == 0


# ---- softmax ----


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin", "logsumexp"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_backward(rng, name, dim):
    forward, backward = getattr(softmax, name), getattr(softmax, name + "_backward")
    check_backward(
        lambda x: forward(x, dim), lambda g, x: backward(g, x, dim), 3 * rng.standard_normal((3, 5, 4))
    )


def test_softmax_by_hand():
    assert np.allclose(softmax.softmax(np.log([1.0, 2, 5])), [1 / 8, 2 / 8, 5 / 8], rtol=1e-15)
    assert softmax.softmax([1000.0, 1000.0]).tolist() == [0.5, 0.5]
    assert softmax.softmax([-np.inf, 0.0]).tolist() == [0, 1]
    assert np.isnan(softmax.softmax([-np.inf, -np.inf])).all()
    assert softmax.logsumexp([-np.inf, -np.inf]) == -np.inf


# ---- recurrent networks ----


def rnn_weights(rng, mode, inputs, hidden, layers=1, bidirectional=False, bias=True):
    gates, directions = rnn.GATES[mode], 2 if bidirectional else 1
    sizes = [
        inputs if layer == 0 else hidden * directions for layer in range(layers) for _ in range(directions)
    ]
    make = lambda *shape: rng.standard_normal(shape) * 0.7  # noqa: E731
    return [
        (make(gates * hidden, n), make(gates * hidden, hidden))
        + ((make(gates * hidden), make(gates * hidden)) if bias else (None, None))
        for n in sizes
    ]


@pytest.mark.parametrize("mode", list(rnn.GATES))
@pytest.mark.parametrize("batch", [(), (2,)])
def test_rnn_cell_backward(rng, mode, batch):
    states = 2 if mode == "lstm" else 1
    (weights,) = rnn_weights(rng, mode, 3, 4)
    inputs = [rng.standard_normal((*batch, 3)), *rng.standard_normal((states, *batch, 4)), *weights]
    split = lambda args: (args[0], args[1 : 1 + states], args[1 + states :])  # noqa: E731

    def backward(g, *args):
        dx, ds, dw = rnn.cell_backward(mode, tuple(g), *split(args))
        return (dx, *ds, *dw)

    check_backward(lambda *args: np.stack(rnn.cell(mode, *split(args))), backward, *inputs)


@pytest.mark.parametrize("mode", list(rnn.GATES))
@pytest.mark.parametrize(
    ("layers", "options"),
    [
        (1, {}),
        (1, {"lengths": [4, 1, 2]}),
        (2, {"bidirectional": True, "batch_first": True, "lengths": [2, 4, 3]}),
    ],
)
def test_rnn_sequence_backward(rng, mode, layers, options):
    states, directions = 2 if mode == "lstm" else 1, 2 if options.get("bidirectional") else 1
    weights = rnn_weights(rng, mode, 2, 3, layers, directions == 2)
    x = rng.standard_normal((3, 4, 2) if options.get("batch_first") else (4, 3, 2))
    inputs = [x, *rng.standard_normal((states, layers * directions, 3, 3)), *(p for w in weights for p in w)]
    masks = [2.0 * (rng.random((4, 3, 3 * directions)) < 0.5) for _ in range(layers - 1)] or None
    y_size = x.shape[0] * x.shape[1] * 3 * directions

    def split(args):
        flat = args[1 + states :]
        return args[0], args[1 : 1 + states], [flat[i : i + 4] for i in range(0, len(flat), 4)]

    def forward(*args):
        y, final = rnn.sequence(mode, *split(args), **options, dropout_masks=masks)
        return np.concatenate([y.ravel(), *(s.ravel() for s in final)])

    def backward(g, *args):
        y, final = rnn.sequence(mode, *split(args), **options, dropout_masks=masks)
        dfinal = tuple(np.split(g[y_size:], states)[i].reshape(s.shape) for i, s in enumerate(final))
        dx, ds, dw = rnn.sequence_backward(
            mode, g[:y_size].reshape(y.shape), dfinal, *split(args), **options, dropout_masks=masks
        )
        return (dx, *ds, *(p for w in dw for p in w))

    check_backward(forward, backward, *inputs)


@pytest.mark.parametrize("mode", list(rnn.GATES))
def test_rnn_lengths_equal_separate_sequences(rng, mode):
    weights = rnn_weights(rng, mode, 2, 3, 2, True)
    x, lengths = rng.standard_normal((5, 3, 2)), [5, 2, 3]
    y, final = rnn.sequence(mode, x, None, weights, bidirectional=True, lengths=lengths)
    for b, n in enumerate(lengths):
        y_b, final_b = rnn.sequence(mode, x[:n, b], None, weights, bidirectional=True)
        np.testing.assert_allclose(y[:n, b], y_b, rtol=1e-13, atol=1e-14)
        assert not y[n:, b].any()
        for s, s_b in zip(final, final_b, strict=True):
            np.testing.assert_allclose(s[:, b], s_b, rtol=1e-13, atol=1e-14)


def test_lstm_by_hand():
    # All pre-activations 0: i = f = o = 1/2, g = 0, so c halves and h = tanh(c) / 2.
    zero = [(np.zeros((4, 1)), np.zeros((4, 1)), None, None)]
    y, (h, c) = rnn.lstm(np.ones((2, 1, 1)), (np.zeros((1, 1, 1)), np.full((1, 1, 1), 4.0)), zero)
    assert y.ravel().tolist() == [np.tanh(2) / 2, np.tanh(1) / 2]
    assert (h.item(), c.item()) == (np.tanh(1) / 2, 1)


# ---- attention ----

ATTENTIONS = [
    ((2, 3, 4, 5), (2, 3, 6, 5), {}),
    ((4, 5), (4, 5), {"is_causal": True}),
    ((2, 4, 3), (2, 6, 3), {"is_causal": True, "scale": 0.3}),
    ((2, 6, 3), (1, 4, 3), {"is_causal": True}),
    ((2, 4, 3, 5), (2, 2, 6, 5), {"enable_gqa": True}),
]


@pytest.mark.parametrize(("q", "k", "options"), ATTENTIONS)
@pytest.mark.parametrize("mask", [None, "bool", "additive"])
@pytest.mark.parametrize("dropout", [False, True])
def test_attention_backward(rng, q, k, options, mask, dropout):
    rows = (q[-2], k[-2])
    v = rng.standard_normal((*k[:-1], 7))
    q, k = rng.standard_normal(q), rng.standard_normal(k)
    options = dict(options)
    if dropout:
        options["dropout_mask"] = 2.0 * (rng.random((*q.shape[:-2], *rows)) < 0.5)
    if mask == "additive":
        check_backward(
            lambda q, k, v, m: attention.scaled_dot_product_attention(q, k, v, m, **options),
            lambda g, q, k, v, m: attention.scaled_dot_product_attention_backward(g, q, k, v, m, **options),
            q,
            k,
            v,
            rng.standard_normal(rows),
        )
        return
    if mask == "bool":
        options["mask"] = rng.random(rows) < 0.6
        options["mask"][1] = False
    check_backward(
        lambda q, k, v: attention.scaled_dot_product_attention(q, k, v, **options),
        lambda g, q, k, v: attention.scaled_dot_product_attention_backward(g, q, k, v, **options),
        q,
        k,
        v,
    )


def test_attention_by_hand():
    q, k, v = [[0.0], [1.0]], [[0.0], [np.log(3)]], [[0.0], [4.0]]
    y = attention.scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(y, [[2], [3]], rtol=1e-15)
    np.testing.assert_allclose(attention.logsumexp_of_scores(q, k), np.log([2, 4]), rtol=1e-15)
    assert attention.scaled_dot_product_attention(q, k, v, is_causal=True)[0].tolist() == [0]
    nothing = np.array([[False, False], [True, True]])
    assert attention.scaled_dot_product_attention(q, k, v, nothing)[0].tolist() == [0]


# ---- losses ----


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 5, 3, 2)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_backward(rng, reduction, shape, weighted, smoothing):
    lead = shape[:1] + shape[2:] if len(shape) > 1 else ()
    options = {"weight": rng.random(5) if weighted else None, "reduction": reduction}
    x, target = rng.standard_normal(shape), rng.integers(0, 5, lead)
    if lead:
        target[0] = 1
        options["ignore_index"] = 1
    check_backward(
        lambda x: loss.cross_entropy(x, target, label_smoothing=smoothing, **options),
        lambda g, x: loss.cross_entropy_backward(g, x, target, label_smoothing=smoothing, **options),
        x,
    )
    check_backward(
        lambda x: loss.nll_loss(x, target, **options),
        lambda g, x: loss.nll_loss_backward(g, x, target, **options),
        x,
    )
    options.pop("ignore_index", None)
    soft = rng.random(shape)
    check_backward(
        lambda x: loss.cross_entropy(x, soft, label_smoothing=smoothing, **options),
        lambda g, x: loss.cross_entropy_backward(g, x, soft, label_smoothing=smoothing, **options),
        x,
    )


def test_cross_entropy_by_hand():
    x = np.log([[1.0, 1, 2], [3, 4, 1]])
    np.testing.assert_allclose(loss.cross_entropy(x, [2, 1], reduction="none"), np.log([2, 2]), rtol=1e-15)
    np.testing.assert_allclose(loss.cross_entropy(x, [2, 0], [1, 9, 3]), (3 * np.log(2) + np.log(8 / 3)) / 4)
    assert np.isnan(loss.cross_entropy(x, [-100, -100]))
    assert loss.cross_entropy(x, [-100, -100], reduction="sum") == 0
    assert loss.cross_entropy([[0.0, -np.inf]], [0]) == 0


# name, inputs that are differentiated, the rest, options; shapes (4, 3) throughout
LOSSES = [
    ("mse_loss", "xx", "", {}), ("l1_loss", "xx", "", {}), ("huber_loss", "xx", "", {"delta": 0.7}),
    ("smooth_l1_loss", "xx", "", {"beta": 0.7}), ("smooth_l1_loss", "xx", "", {"beta": 0.0}),
    ("binary_cross_entropy", "p", "p", {}), ("binary_cross_entropy_with_logits", "x", "p", {}),
    ("kl_div", "x", "p", {}),
    ("kl_div", "x", "x", {"log_target": True}), ("poisson_nll_loss", "x", "p", {}),
    ("poisson_nll_loss", "p", "n", {"log_input": False, "full": True}), ("gaussian_nll_loss", "xxp", "", {}),
    ("gaussian_nll_loss", "xxp", "", {"full": True}), ("hinge_embedding_loss", "x", "s", {"margin": 0.6}),
    ("soft_margin_loss", "x", "s", {}), ("margin_ranking_loss", "xx", "s", {"margin": 0.4}),
    ("cosine_embedding_loss", "xx", "r", {"margin": 0.1}), ("triplet_margin_loss", "xxx", "", {}),
    ("triplet_margin_loss", "xxx", "", {"swap": True, "p": 3.0, "margin": 0.5}),
]  # fmt: skip


def loss_input(rng, kind):
    """x: real, p: in (0, 1), n: counts, s: +-1, r: +-1 per row."""
    if kind == "x":
        return rng.standard_normal((4, 3))
    if kind == "p":
        return rng.uniform(0.05, 0.95, (4, 3))
    if kind == "n":
        return rng.integers(0, 6, (4, 3)).astype(float)
    return rng.choice([-1.0, 1.0], (4, 3) if kind == "s" else (4,))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("name", "wanted", "constant", "options"), LOSSES)
def test_loss_backward(rng, name, wanted, constant, options, reduction):
    inputs, rest = [loss_input(rng, k) for k in wanted], [loss_input(rng, k) for k in constant]
    forward, backward = getattr(loss, name), getattr(loss, name + "_backward")
    check_backward(
        lambda *a: forward(*a, *rest, reduction=reduction, **options),
        lambda g, *a: backward(g, *a, *rest, reduction=reduction, **options),
        *inputs,
    )


def test_weighted_binary_losses_backward(rng):
    t, w, p = rng.random((4, 3)), rng.random((4, 3)), rng.random(3) + 0.5
    check_backward(
        lambda x: loss.binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
        lambda g, x: loss.binary_cross_entropy_with_logits_backward(g, x, t, w, pos_weight=p),
        rng.standard_normal((4, 3)),
    )
    check_backward(
        lambda x: loss.binary_cross_entropy(x, t, w),
        lambda g, x: loss.binary_cross_entropy_backward(g, x, t, w),
        rng.uniform(0.1, 0.9, (4, 3)),
    )


# ---- norms ----


@pytest.mark.parametrize(("shape", "normalized"), [((4, 5), (5,)), ((2, 3, 4), (3, 4)), ((6,), (6,))])
def test_layer_and_rms_norm_backward(rng, shape, normalized):
    x, w, b = rng.standard_normal(shape), rng.standard_normal(normalized), rng.standard_normal(normalized)
    check_backward(
        lambda x, w, b: norm.layer_norm(x, normalized, w, b, 0.1),
        lambda g, x, w, b: norm.layer_norm_backward(g, x, normalized, w, 0.1),
        x,
        w,
        b,
    )
    check_backward(
        lambda x, w: norm.rms_norm(x, normalized, w),
        lambda g, x, w: norm.rms_norm_backward(g, x, normalized, w),
        x,
        w,
    )


@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 6), 2), ((2, 6, 4), 3), ((1, 4, 3, 2), 1), ((3, 2, 5), 2)]
)
def test_group_norm_backward(rng, shape, groups):
    x, w, b = rng.standard_normal(shape), rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    check_backward(
        lambda x, w, b: norm.group_norm(x, groups, w, b, 0.1),
        lambda g, x, w, b: norm.group_norm_backward(g, x, groups, w, 0.1),
        x,
        w,
        b,
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 4, 3)])
def test_batch_norm_backward(rng, training, shape):
    x, (w, b, mean) = rng.standard_normal(shape), rng.standard_normal((3, 3))
    var = rng.random(3) + 0.5
    check_backward(
        lambda x, w, b: norm.batch_norm(x, mean, var, w, b, training)[0],
        lambda g, x, w, b: norm.batch_norm_backward(g, x, mean, var, w, training),
        x,
        w,
        b,
    )


def test_norms_by_hand():
    assert norm.layer_norm([1.0, 3, 1, 3], (4,), eps=0).tolist() == [-1, 1, -1, 1]
    assert norm.rms_norm([3.0, -3], (2,), [2, 2], eps=0).tolist() == [2, -2]
    y, mean, var = norm.batch_norm([[1.0], [3.0]], [10.0], [1.0], training=True, momentum=0.5, eps=0)
    assert (y.tolist(), mean.tolist(), var.tolist()) == ([[-1], [1]], [6], [1.5])  # unbiased variance 2


# ---- pooling ----

POOLS = [
    ((2, 3, 9), {"kernel_size": 3}),
    ((3, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((1, 2, 7, 6), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    ((2, 5, 4, 3), {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}),
]


@pytest.mark.parametrize(("shape", "options"), POOLS)
def test_pool_backward(rng, shape, options):
    nd = 1 if len(shape) == 3 or shape == (3, 8) else 2
    x = rng.permutation(np.arange(float(np.prod(shape)))).reshape(shape)  # no ties
    check_backward(
        lambda x: pool.max_pool(x, nd=nd, **options)[0],
        lambda g, x: pool.max_pool_backward(g, pool.max_pool(x, nd=nd, **options)[1], x.shape, nd),
        x,
    )
    for extra in ({}, {"count_include_pad": False}, {"divisor_override": 5}):
        check_backward(
            lambda x, e=extra: pool.avg_pool(x, nd=nd, **options, **e),
            lambda g, x, e=extra: pool.avg_pool_backward(g, x.shape, nd=nd, **options, **e),
            x,
        )
    out = (3, 2)[:nd]
    check_backward(
        lambda x: pool.adaptive_max_pool(x, out, nd)[0],
        lambda g, x: pool.max_pool_backward(g, pool.adaptive_max_pool(x, out, nd)[1], x.shape, nd),
        x,
    )
    check_backward(
        lambda x: pool.adaptive_avg_pool(x, out, nd),
        lambda g, x: pool.adaptive_avg_pool_backward(g, x.shape, nd),
        x,
    )


def test_pool_by_hand():
    x = [[[1.0, 5, 5, 2, 0]]]
    y, i = pool.max_pool(x, 3, 1, stride=2, padding=1)
    assert (y.tolist(), i.tolist()) == ([[[5, 5, 2]]], [[[1, 1, 3]]])
    assert pool.max_pool(x, 2, 1, 1, dilation=3)[0].tolist() == [[[2, 5]]]
    assert pool.max_pool([[[1.0, np.nan, 9, 2]]], 2, 1, stride=1)[1].tolist() == [[[1, 1, 2]]]
    assert pool.avg_pool(x, 2, 1, ceil_mode=True).tolist() == [[[3, 3.5, 0]]]
    assert pool.avg_pool(x, 3, 1, stride=2, padding=1).tolist() == [[[2, 4, 2 / 3]]]
    assert pool.avg_pool(x, 3, 1, stride=2, padding=1, count_include_pad=False).tolist() == [[[3, 4, 1]]]
    assert pool.adaptive_avg_pool(x, 2, 1).tolist() == [[[11 / 3, 7 / 3]]]


# ---- embedding ----


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding_backward(rng, padding_idx):
    indices, w = rng.integers(0, 5, (4, 3)), rng.standard_normal((5, 2))
    if padding_idx is None:
        check_backward(
            lambda w: embedding.embedding(indices, w),
            lambda g, w: embedding.embedding_backward(g, indices, 5),
            w,
        )
    for mode in ("sum", "mean", "max"):
        check_backward(
            lambda w, mode=mode: embedding.embedding_bag(indices, w, mode=mode, padding_idx=padding_idx),
            lambda g, w, mode=mode: embedding.embedding_bag_backward(
                g, indices, w, mode=mode, padding_idx=padding_idx
            )[0],
            w,
        )
    check_backward(
        lambda w, s: embedding.embedding_bag(indices, w, None, "sum", s, padding_idx=padding_idx),
        lambda g, w, s: embedding.embedding_bag_backward(
            g, indices, w, None, "sum", s, padding_idx=padding_idx
        ),
        w,
        rng.standard_normal((4, 3)),
    )


def test_embedding_by_hand():
    grad = np.array([[1.0], [10], [100], [1000]])
    assert embedding.embedding_backward(grad, [1, 0, 1, 2], 4).ravel().tolist() == [10, 101, 1000, 0]
    scaled = embedding.embedding_backward(grad, [1, 0, 1, 2], 4, padding_idx=2, scale_grad_by_freq=True)
    assert scaled.ravel().tolist() == [10, 50.5, 0, 0]
    assert embedding.embedding_bag([0, 1, 1], [[1.0], [2]], [0, 1, 1], "sum").tolist() == [[1], [0], [4]]
    np.testing.assert_allclose(embedding.embedding([1], [[3.0, 4], [6, 8]], max_norm=5), [[3, 4]], rtol=1e-7)
    assert embedding.one_hot([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]


# ---- dropout ----


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers published with the authors' Random123 library
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, expected):
    words = lambda text: [int(w, 16) for w in text.split()]  # noqa: E731
    assert dropout.philox4x32(words(counter), words(key)).tolist() == words(expected)


def test_dropout_words():
    assert dropout.random_words(4, 0).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    stream = dropout.random_words(40, seed=2**63 + 5, offset=7)
    assert stream[4:30].tolist() == dropout.random_words(26, seed=2**63 + 5, offset=8).tolist()
    carry = dropout.random_words(8, 3, offset=2**32 - 1)
    assert carry[4:].tolist() == dropout.philox4x32([0, 1, 0, 0], [3, 0]).tolist()
    wrap = dropout.random_words(8, 3, offset=2**64 - 1)
    assert wrap[4:].tolist() == dropout.random_words(4, 3, offset=0).tolist()


def test_dropout_statistics():
    n, p = 200_000, 0.3
    keep = dropout.dropout_keep((n,), p, seed=1)
    assert abs(keep.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)
    assert dropout.dropout_keep((n,), 0.0, 1).all()
    assert not dropout.dropout_keep((n,), 1.0, 1).any()
    y = dropout.dropout(np.ones((3, 5)), p, 1)
    assert (y == dropout.dropout_mask((3, 5), p, 1)).all()
    assert set(y.ravel()) == {0.0, 1 / 0.7}


# ---- optimizers ----


def test_optimizers_by_hand():
    p, g = np.array([1.0]), np.array([0.5])
    assert optim.sgd(p, g, {}, lr=0.1)[0].tolist() == [0.95]
    q, state = optim.sgd(p, g, {}, lr=0.1, momentum=0.5)
    q, state = optim.sgd(q, g, state, lr=0.1, momentum=0.5)
    assert q.tolist() == [0.95 - 0.1 * 0.75]
    # The first Adam step is lr * sign(g), whatever g (up to eps).
    np.testing.assert_allclose(optim.adam(p, g, {}, lr=0.1, eps=0)[0], [0.9], rtol=1e-14)
    np.testing.assert_allclose(optim.adamw(p, g, {}, lr=0.1, eps=0, weight_decay=0.5)[0], [0.85], rtol=1e-14)
    np.testing.assert_allclose(optim.adagrad(p, g, {}, lr=0.1, eps=0)[0], [0.9], rtol=1e-14)
    np.testing.assert_allclose(optim.rmsprop(p, g, {}, lr=0.1, alpha=0.75, eps=0)[0], [0.8], rtol=1e-14)
