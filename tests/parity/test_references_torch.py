"""The references against PyTorch in float64: two independent readings of the same definitions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from references import (  # noqa: E402
    activation,
    attention,
    conv,
    embedding,
    loss,
    matmul,
    norm,
    optim,
    pool,
    rnn,
    softmax,
)

TOLERANCE = 1e-12


def leaf(x):
    return torch.tensor(np.asarray(x, np.float64), requires_grad=True)


def array(t):
    return t.detach().numpy()


def agree(got, expected, tolerance=TOLERANCE):
    """Same shape, and within tolerance of the largest value."""
    got, expected = np.asarray(got), expected if isinstance(expected, np.ndarray) else array(expected)
    assert got.shape == expected.shape
    finite = expected[np.isfinite(expected)]
    scale = max(1.0, float(np.abs(finite).max(initial=0.0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def check(torch_function, forward, backward, *args, tolerance=TOLERANCE, **options):
    """Forward and all gradients of both sides, for one random cotangent."""
    leaves = [leaf(a) for a in args]
    y = torch_function(*leaves, **options)
    agree(forward(*args, **options), y)
    g = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(torch.tensor(g))
    grads = backward(g, *args, **options)
    for grad, t in zip(grads if isinstance(grads, tuple) else (grads,), leaves, strict=False):
        if grad is not None:
            agree(grad, t.grad, tolerance)


# ---- matmul ----


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((2, 1, 3, 4), (6, 4, 5)),
     ((4,), (2, 4, 5)), ((2, 3, 4), (4,)), ((0, 4), (4, 5)), ((3, 0), (0, 5)), ((2, 0, 3), (2, 3, 4))],
)  # fmt: skip
def test_matmul(rng, a, b):
    check(torch.matmul, matmul.matmul, matmul.matmul_backward, rng.standard_normal(a), rng.standard_normal(b))


@pytest.mark.parametrize(
    ("x", "w", "b"),
    [
        ((5, 4), (3, 4), (3,)),
        ((4,), (3, 4), (3,)),
        ((2, 3, 4), (3, 4), (3,)),
        ((0, 4), (3, 4), (3,)),
        ((2, 3, 4), (4,), ()),
    ],
)
def test_linear(rng, x, w, b):
    backward = lambda g, x, w, b: matmul.linear_backward(g, x, w)  # noqa: E731
    check(
        F.linear,
        matmul.linear,
        backward,
        rng.standard_normal(x),
        rng.standard_normal(w),
        np.float64(rng.standard_normal(b)),
    )


def test_baddbmm(rng):
    c, a, b = rng.standard_normal((3, 5)), rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4, 5))
    expected = torch.baddbmm(leaf(c), leaf(a), leaf(b), beta=0.5, alpha=2)
    agree(matmul.matmul(a, b, alpha=2, beta=0.5, c=c), expected)


# ---- conv ----


def torch_conv(nd, transpose=False):
    return getattr(F, f"conv{'_transpose' if transpose else ''}{nd}d")


@pytest.mark.parametrize("batch", [(), (2,), (0,)])
@pytest.mark.parametrize(
    ("channels", "size", "out", "kernel", "options"),
    [
        (3, (9,), 4, (3,), {}),
        (4, (9,), 6, (3,), {"stride": 2, "padding": 1, "groups": 2}),
        (4, (9,), 4, (4,), {"padding": "same", "dilation": 2, "groups": 4}),
        (3, (8,), 2, (3,), {"padding": "valid", "stride": 3}),
        (3, (7, 6), 4, (3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
        (2, (5, 6), 4, (4, 3), {"padding": "same", "groups": 2}),
        (2, (4, 5, 6), 3, (2, 3, 2), {"stride": (1, 2, 3), "padding": (1, 0, 1)}),
        (2, (4, 4, 4), 4, (2, 3, 2), {"padding": "same", "dilation": (1, 1, 2), "groups": 2}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_conv(rng, batch, channels, size, out, kernel, options):
    x = rng.standard_normal((*batch, channels, *size))
    w, b = rng.standard_normal((out, channels // options.get("groups", 1), *kernel)), rng.standard_normal(out)
    backward = lambda g, x, w, b, **o: conv.conv_backward(g, x, w, **o)  # noqa: E731
    check(torch_conv(len(size)), conv.conv, backward, x, w, b, **options)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize(
    ("channels", "size", "out", "kernel", "options"),
    [
        (3, (5,), 4, (3,), {}),
        (4, (5,), 6, (3,), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
        (3, (5, 4), 2, (3, 2), {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 1)}),
        (2, (3, 4), 2, (2, 3), {"dilation": (2, 3), "output_padding": (1, 2)}),
        (2, (3, 2, 2), 6, (2, 2, 3), {"stride": 2, "padding": (1, 0, 1), "groups": 2}),
    ],
)
def test_conv_transpose(rng, batch, channels, size, out, kernel, options):
    x = rng.standard_normal((*batch, channels, *size))
    w, b = rng.standard_normal((channels, out // options.get("groups", 1), *kernel)), rng.standard_normal(out)
    backward = lambda g, x, w, b, **o: conv.conv_transpose_backward(g, x, w, **o)  # noqa: E731
    check(torch_conv(len(size), transpose=True), conv.conv_transpose, backward, x, w, b, **options)


# ---- activations ----

ACTIVATIONS = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {}), ("leaky_relu", {"negative_slope": 0.3}), ("rrelu", {}),
    ("elu", {}), ("elu", {"alpha": 0.5}), ("selu", {}), ("celu", {}), ("celu", {"alpha": 2.0}), ("gelu", {}),
    ("gelu", {"approximate": "tanh"}), ("silu", {}), ("mish", {}), ("softplus", {}),
    ("softplus", {"beta": 2.0, "threshold": 3.0}), ("hardswish", {}), ("hardsigmoid", {}), ("hardtanh", {}),
    ("hardtanh", {"min_val": -2.0, "max_val": 0.5}), ("hardshrink", {}), ("softshrink", {"lambd": 0.75}),
    ("tanhshrink", {}), ("threshold", {"threshold": 0.3, "value": -1.0}), ("softsign", {}), ("sigmoid", {}),
    ("logsigmoid", {}), ("tanh", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activation(rng, name, options):
    # Random values, every kink of every function, and values where exp over- or underflows.
    edges = [
        -800.0,
        -100,
        -20,
        -6,
        -3,
        -2,
        -1,
        -0.75,
        -0.5,
        -0.0,
        0.0,
        0.3,
        0.5,
        0.75,
        1,
        1.5,
        2,
        3,
        6,
        10,
        20,
        100,
        800,
    ]
    x = np.concatenate([3 * rng.standard_normal(77), edges]).reshape(4, 25)
    torch_function = getattr(torch, name) if name in ("tanh", "sigmoid") else getattr(F, name)
    # torch's hardsigmoid gradient holds 1/6 in float32 whatever the type.
    tolerance = 1e-7 if name == "hardsigmoid" else TOLERANCE
    forward, backward = getattr(activation, name), getattr(activation, name + "_backward")
    check(torch_function, forward, backward, x, tolerance=tolerance, **options)


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activation_of_nan_and_infinity(name, options):
    x = np.array([np.nan, np.inf, -np.inf])
    torch_function = getattr(torch, name) if name in ("tanh", "sigmoid") else getattr(F, name)
    np.testing.assert_array_equal(
        getattr(activation, name)(x, **options), array(torch_function(torch.tensor(x), **options))
    )


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4)])
def test_prelu(rng, shape):
    for n in {1, shape[1] if len(shape) > 1 else 1}:
        check(
            F.prelu,
            activation.prelu,
            activation.prelu_backward,
            rng.standard_normal(shape),
            rng.standard_normal(n),
        )


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_glu(rng, dim):
    check(F.glu, activation.glu, activation.glu_backward, rng.standard_normal((4, 6, 2)), dim=dim)


# ---- softmax ----


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax(rng, name, dim):
    forward, backward = getattr(softmax, name), getattr(softmax, name + "_backward")
    check(getattr(F, name), forward, backward, 3 * rng.standard_normal((3, 5, 4)), dim=dim)
    check(getattr(F, name), forward, backward, np.zeros((0, 5, 4)), dim=dim)
    check(getattr(F, name), forward, backward, np.zeros((3, 1, 4)), dim=dim)


@pytest.mark.parametrize("keepdim", [False, True])
def test_logsumexp(rng, keepdim):
    x = 3 * rng.standard_normal((3, 5, 4))
    check(torch.logsumexp, softmax.logsumexp, softmax.logsumexp_backward, x, dim=1, keepdim=keepdim)


@pytest.mark.parametrize(
    "row", [[-np.inf, 0, 1], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [-np.inf, np.inf, 1]]
)
def test_softmax_of_nan_and_infinity(row):
    x = np.array(row)
    for name in ("softmax", "log_softmax"):
        np.testing.assert_array_equal(
            np.isnan(getattr(softmax, name)(x)), np.isnan(array(getattr(F, name)(torch.tensor(x), dim=-1)))
        )
    np.testing.assert_array_equal(softmax.logsumexp(x), array(torch.logsumexp(torch.tensor(x), dim=-1)))


# ---- recurrent networks ----


def torch_rnn(mode, inputs, hidden, layers, bidirectional, bias, batch_first):
    options = {
        "bidirectional": bidirectional,
        "bias": bias,
        "batch_first": batch_first,
        "dtype": torch.float64,
    }
    torch.manual_seed(0)
    if mode.startswith("rnn"):
        module = torch.nn.RNN(inputs, hidden, layers, nonlinearity=mode[4:], **options)
    else:
        module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[mode](inputs, hidden, layers, **options)
    count = 4 if bias else 2
    parameters = list(module.parameters())
    groups = [parameters[i : i + count] for i in range(0, len(parameters), count)]
    return module, groups, [tuple(array(p) for p in g) + (None,) * (4 - count) for g in groups]


@pytest.mark.parametrize("mode", list(rnn.GATES))
@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias", "batch_first", "lengths", "batched"),
    [
        (1, False, True, False, None, True),
        (2, True, False, True, None, True),
        (2, True, True, False, [3, 5, 1], True),
        (1, False, True, True, [5, 2, 2], True),
        (2, True, True, False, None, False),
    ],
)
def test_rnn(rng, mode, layers, bidirectional, bias, batch_first, lengths, batched):
    module, groups, weights = torch_rnn(mode, 4, 3, layers, bidirectional, bias, batch_first)
    batch = (3,) if batched else ()
    x = rng.standard_normal((*batch, 5, 4) if batch_first else (5, *batch, 4))
    states = 2 if mode == "lstm" else 1
    state = tuple(rng.standard_normal((states, len(weights), *batch, 3)))
    x_t, state_t = leaf(x), [leaf(s) for s in state]
    packed = x_t
    if lengths:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x_t, lengths, batch_first, enforce_sorted=False)
    y_t, final_t = module(packed, tuple(state_t) if states == 2 else state_t[0])
    if lengths:
        y_t, _ = torch.nn.utils.rnn.pad_packed_sequence(y_t, batch_first)
    final_t = final_t if states == 2 else (final_t,)
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "lengths": lengths}
    y, final = rnn.sequence(mode, x, state, weights, **options)
    agree(y, y_t)
    for s, s_t in zip(final, final_t, strict=True):
        agree(s, s_t)
    dy, dfinal = rng.standard_normal(y.shape), [rng.standard_normal(s.shape) for s in final]
    torch.autograd.backward([y_t, *final_t], [torch.tensor(d) for d in (dy, *dfinal)])
    dx, dstate, dweights = rnn.sequence_backward(mode, dy, dfinal, x, state, weights, **options)
    agree(dx, x_t.grad)
    for d, s_t in zip(dstate, state_t, strict=True):
        agree(d, s_t.grad)
    for dw, group in zip(dweights, groups, strict=True):
        for d, p in zip(dw, group, strict=False):
            agree(d, p.grad)


def test_rnn_without_initial_state(rng):
    module, _, weights = torch_rnn("lstm", 4, 3, 1, True, True, False)
    x = rng.standard_normal((5, 2, 4))
    agree(rnn.lstm(x, None, weights, bidirectional=True)[0], module(torch.tensor(x))[0])


@pytest.mark.parametrize("mode", list(rnn.GATES))
@pytest.mark.parametrize("batch", [(), (2,)])
def test_rnn_cell(rng, mode, batch):
    kinds = {"gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}
    make = kinds.get(mode) or (lambda *a, **k: torch.nn.RNNCell(*a, nonlinearity=mode[4:], **k))
    module = make(4, 3, dtype=torch.float64)
    weights = tuple(array(p) for p in module.parameters())
    x, state = (
        rng.standard_normal((*batch, 4)),
        tuple(rng.standard_normal((2 if mode == "lstm" else 1, *batch, 3))),
    )
    expected = module(
        torch.tensor(x), tuple(map(torch.tensor, state)) if mode == "lstm" else torch.tensor(state[0])
    )
    for s, s_t in zip(
        rnn.cell(mode, x, state, weights), expected if mode == "lstm" else (expected,), strict=True
    ):
        agree(s, s_t)


# ---- attention ----


@pytest.mark.parametrize(
    ("q", "k", "options"),
    [
        ((2, 3, 4, 5), (2, 3, 6, 5), {}),
        ((4, 5), (4, 5), {"is_causal": True}),
        ((2, 4, 3), (2, 6, 3), {"is_causal": True, "scale": 0.3}),
        ((2, 6, 3), (2, 4, 3), {"is_causal": True}),
        ((2, 4, 3, 5), (2, 2, 6, 5), {"enable_gqa": True}),
        ((1, 2, 1, 1), (1, 2, 7, 1), {}),
    ],
)
@pytest.mark.parametrize("mask", [None, "bool", "additive"])
def test_attention(rng, q, k, options, mask):
    if mask and options.get("is_causal"):
        pytest.skip("torch does not combine the two")
    rows = (q[-2], k[-2])
    q, k, v = rng.standard_normal(q), rng.standard_normal(k), rng.standard_normal((*k[:-1], 7))
    forward, backward = (
        attention.scaled_dot_product_attention,
        attention.scaled_dot_product_attention_backward,
    )
    function = F.scaled_dot_product_attention
    if mask == "additive":
        m = rng.standard_normal(rows)
        m[-1, 1:3] = -np.inf
        check(
            lambda q, k, v, mask: function(q, k, v, attn_mask=mask, **options),
            lambda *a: forward(*a, **options),
            lambda *a: backward(*a, **options),
            q,
            k,
            v,
            m,
        )
        return
    m = rng.random(rows) < 0.6 if mask else None
    if mask and rows[0] > 1:
        m[1] = False  # a query that may attend to nothing gives zeros
    check(
        lambda q, k, v: function(q, k, v, attn_mask=None if m is None else torch.tensor(m), **options),
        lambda *a: forward(*a, mask=m, **options),
        lambda *a: backward(*a, mask=m, **options),
        q,
        k,
        v,
    )


def test_attention_without_keys():
    q, k = np.ones((1, 2, 3, 4)), np.ones((1, 2, 0, 4))
    agree(
        attention.scaled_dot_product_attention(q, k, k),
        F.scaled_dot_product_attention(leaf(q), leaf(k), leaf(k)),
    )


# ---- losses ----

REDUCTIONS = ["none", "mean", "sum"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 5, 3, 2), (0, 5)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy(rng, reduction, shape, weighted, smoothing):
    lead = shape[:1] + shape[2:] if len(shape) > 1 else ()
    weight = rng.random(5) if weighted else None
    torch_weight = None if weight is None else torch.tensor(weight)
    x, target = rng.standard_normal(shape), rng.integers(0, 5, lead)
    if target.size > 1:
        target[0] = 1
    options = {"ignore_index": 1, "reduction": reduction}
    check(
        lambda x: F.cross_entropy(
            x, torch.tensor(target), torch_weight, label_smoothing=smoothing, **options
        ),
        lambda x: loss.cross_entropy(x, target, weight, label_smoothing=smoothing, **options),
        lambda g, x: loss.cross_entropy_backward(g, x, target, weight, label_smoothing=smoothing, **options),
        x,
    )
    check(
        lambda x: F.nll_loss(x, torch.tensor(target), torch_weight, **options),
        lambda x: loss.nll_loss(x, target, weight, **options),
        lambda g, x: loss.nll_loss_backward(g, x, target, weight, **options),
        x,
    )
    soft, options = rng.random(shape), {"reduction": reduction, "label_smoothing": smoothing}
    check(
        lambda x: F.cross_entropy(x, torch.tensor(soft), torch_weight, **options),
        lambda x: loss.cross_entropy(x, soft, weight, **options),
        lambda g, x: loss.cross_entropy_backward(g, x, soft, weight, **options),
        x,
    )


# name, inputs that are differentiated, the rest, options; shapes (4, 3) throughout
LOSSES = [
    ("mse_loss", "xx", "", {}), ("l1_loss", "xx", "", {}), ("huber_loss", "xx", "", {"delta": 0.7}),
    ("smooth_l1_loss", "xx", "", {"beta": 0.7}), ("smooth_l1_loss", "xx", "", {"beta": 0.0}),
    ("binary_cross_entropy", "p", "p", {}), ("binary_cross_entropy", "e", "p", {}),
    ("binary_cross_entropy_with_logits", "x", "p", {}), ("kl_div", "x", "p", {}), ("kl_div", "x", "e", {}),
    ("kl_div", "x", "x", {"log_target": True}), ("poisson_nll_loss", "x", "p", {}),
    ("poisson_nll_loss", "x", "n", {"full": True}),
    ("poisson_nll_loss", "p", "n", {"log_input": False, "full": True}), ("gaussian_nll_loss", "xxp", "", {}),
    ("gaussian_nll_loss", "xxp", "", {"full": True}), ("gaussian_nll_loss", "xxe", "", {"eps": 0.3}),
    ("hinge_embedding_loss", "x", "s", {"margin": 0.6}),
    ("soft_margin_loss", "x", "s", {}), ("margin_ranking_loss", "xx", "s", {"margin": 0.4}),
    ("cosine_embedding_loss", "xx", "r", {"margin": 0.1}), ("triplet_margin_loss", "xxx", "", {}),
    ("triplet_margin_loss", "xxx", "", {"swap": True, "p": 3.0, "margin": 0.5}),
]  # fmt: skip


def loss_input(rng, kind):
    """x: real, p: in (0, 1), e: in [0, 1] with both ends, n: counts, s: +-1, r: +-1 per row."""
    if kind == "x":
        return rng.standard_normal((4, 3))
    if kind == "n":
        return rng.integers(0, 6, (4, 3)).astype(float)
    if kind in "pe":
        p = rng.uniform(0.05, 0.95, (4, 3))
        if kind == "e":
            p[0, 0], p[1, 1] = 0, 1
        return p
    return rng.choice([-1.0, 1.0], (4, 3) if kind == "s" else (4,))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "wanted", "constant", "options"), LOSSES)
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_loss(rng, name, wanted, constant, options, reduction):
    inputs, rest = [loss_input(rng, k) for k in wanted], [loss_input(rng, k) for k in constant]
    forward, backward = getattr(loss, name), getattr(loss, name + "_backward")
    check(
        lambda *a: getattr(F, name)(*a, *map(torch.tensor, rest), reduction=reduction, **options),
        lambda *a: forward(*a, *rest, reduction=reduction, **options),
        lambda g, *a: backward(g, *a, *rest, reduction=reduction, **options),
        *inputs,
        # torch clamps the denominator of this gradient by 1e-12 rounded to float32
        tolerance=1e-7 if name == "binary_cross_entropy" else TOLERANCE,
    )


def test_weighted_binary_losses(rng):
    t, w, p = rng.random((4, 3)), rng.random((4, 3)), rng.random(3) + 0.5
    T = torch.tensor
    check(
        lambda x: F.binary_cross_entropy_with_logits(x, T(t), T(w), pos_weight=T(p)),
        lambda x: loss.binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
        lambda g, x: loss.binary_cross_entropy_with_logits_backward(g, x, t, w, pos_weight=p),
        50 * rng.standard_normal((4, 3)),
    )
    check(
        lambda x: F.binary_cross_entropy(x, T(t), T(w)),
        lambda x: loss.binary_cross_entropy(x, t, w),
        lambda g, x: loss.binary_cross_entropy_backward(g, x, t, w),
        rng.random((4, 3)),
    )


def test_kl_div_batchmean(rng):
    t = rng.random((4, 3))
    check(
        lambda x: F.kl_div(x, torch.tensor(t), reduction="batchmean"),
        lambda x: loss.kl_div(x, t, "batchmean"),
        lambda g, x: loss.kl_div_backward(g, x, t, "batchmean"),
        rng.standard_normal((4, 3)),
    )


@pytest.mark.parametrize("var", [(4, 1), (4,)])
def test_gaussian_nll_broadcast(rng, var):
    check(
        F.gaussian_nll_loss,
        loss.gaussian_nll_loss,
        loss.gaussian_nll_loss_backward,
        rng.standard_normal((4, 3)),
        rng.standard_normal((4, 3)),
        rng.random(var) + 0.1,
    )


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_mean_of_nothing(name):
    check(
        getattr(F, name),
        getattr(loss, name),
        getattr(loss, name + "_backward"),
        np.zeros((0, 3)),
        np.zeros((0, 3)),
    )


# ---- norms ----


@pytest.mark.parametrize(
    ("shape", "normalized"), [((4, 5), (5,)), ((2, 3, 4), (3, 4)), ((6,), (6,)), ((0, 4), (4,))]
)
def test_layer_and_rms_norm(rng, shape, normalized):
    x, w, b = rng.standard_normal(shape), rng.standard_normal(normalized), rng.standard_normal(normalized)
    check(
        lambda x, w, b: F.layer_norm(x, normalized, w, b, 1e-3),
        lambda x, w, b: norm.layer_norm(x, normalized, w, b, 1e-3),
        lambda g, x, w, b: norm.layer_norm_backward(g, x, normalized, w, 1e-3),
        x,
        w,
        b,
    )
    check(
        lambda x, w: F.rms_norm(x, normalized, w),
        lambda x, w: norm.rms_norm(x, normalized, w),
        lambda g, x, w: norm.rms_norm_backward(g, x, normalized, w),
        x,
        w,
    )
    check(
        lambda x: F.rms_norm(x, normalized, eps=0.1),
        lambda x: norm.rms_norm(x, normalized, eps=0.1),
        lambda g, x: norm.rms_norm_backward(g, x, normalized, eps=0.1),
        x,
    )


@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 6), 2), ((2, 6, 4), 3), ((1, 4, 3, 2), 1), ((3, 2, 5), 2)]
)
def test_group_norm(rng, shape, groups):
    x, w, b = rng.standard_normal(shape), rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    check(
        lambda x, w, b: F.group_norm(x, groups, w, b),
        lambda x, w, b: norm.group_norm(x, groups, w, b),
        lambda g, x, w, b: norm.group_norm_backward(g, x, groups, w),
        x,
        w,
        b,
    )


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 3), (1, 3, 2, 2, 2)])
def test_instance_norm(rng, shape):
    x, w, b = rng.standard_normal(shape), rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    check(
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
        norm.instance_norm,
        lambda g, x, w, b: norm.instance_norm_backward(g, x, w),
        x,
        w,
        b,
    )
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    F.instance_norm(torch.tensor(x), mean, var, use_input_stats=True, momentum=0.3)
    new_mean, new_var = norm.instance_norm_running(x, np.zeros(3), np.ones(3), 0.3)
    agree(new_mean, mean)
    agree(new_var, var)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 4, 3)])
def test_batch_norm(rng, training, shape):
    x, (w, b, mean) = rng.standard_normal(shape), rng.standard_normal((3, 3))
    var = rng.random(3) + 0.5
    mean_t, var_t = torch.tensor(mean), torch.tensor(var)
    check(
        lambda x, w, b: F.batch_norm(x, mean_t, var_t, w, b, training, 0.3),
        lambda x, w, b: norm.batch_norm(x, mean, var, w, b, training, 0.3)[0],
        lambda g, x, w, b: norm.batch_norm_backward(g, x, mean, var, w, training),
        x,
        w,
        b,
    )
    _, new_mean, new_var = norm.batch_norm(x, mean, var, w, b, training, 0.3)
    agree(new_mean, mean_t)
    agree(new_var, var_t)


# ---- pooling ----

POOLS = [
    (1, (2, 3, 9), {"kernel_size": 3}),
    (1, (3, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    (1, (2, 1, 10), {"kernel_size": 4, "stride": 3, "padding": 2}),
    (2, (1, 2, 7, 6), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    (2, (5, 4, 3), {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}),
    (2, (1, 1, 6, 7), {"kernel_size": 3, "stride": 4, "padding": 1, "ceil_mode": True}),
    (
        3,
        (2, 2, 5, 4, 6),
        {"kernel_size": (2, 3, 2), "stride": (2, 1, 3), "padding": (1, 1, 0), "ceil_mode": True},
    ),
]


@pytest.mark.parametrize(("nd", "shape", "options"), POOLS)
@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pool(rng, nd, shape, options, dilation):
    x = rng.integers(0, 9, shape).astype(float)  # with ties
    options = {**options, "dilation": dilation}
    try:
        expected, expected_indices = getattr(F, f"max_pool{nd}d")(
            torch.tensor(x), return_indices=True, **options
        )
    except RuntimeError as error:
        pytest.skip(f"torch: {error}")  # a window that does not fit
    y, indices = pool.max_pool(x, nd=nd, **options)
    agree(y, expected)
    np.testing.assert_array_equal(indices, expected_indices.numpy())
    check(
        lambda x: getattr(F, f"max_pool{nd}d")(x, **options),
        lambda x: pool.max_pool(x, nd=nd, **options)[0],
        lambda g, x: pool.max_pool_backward(g, pool.max_pool(x, nd=nd, **options)[1], x.shape, nd),
        x,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_max_pool_of_nan_and_infinity(rng, value):
    x = rng.standard_normal((1, 2, 5, 5))
    x[0, 0, 2, 1:3] = x[0, 1] = value
    y, indices = pool.max_pool(x, 2, 2, padding=1)
    expected, expected_indices = F.max_pool2d(torch.tensor(x), 2, padding=1, return_indices=True)
    np.testing.assert_array_equal(y, expected.numpy())
    if not np.isnan(value):  # of several NaN torch reports the last, we the first
        np.testing.assert_array_equal(indices, expected_indices.numpy())


@pytest.mark.parametrize(("nd", "shape", "options"), POOLS)
@pytest.mark.parametrize("extra", [{}, {"count_include_pad": False}, {"divisor_override": 5}])
def test_avg_pool(rng, nd, shape, options, extra):
    if nd == 1 and "divisor_override" in extra:
        pytest.skip("torch has no divisor_override in 1-d")
    options = {**options, **extra}
    check(
        lambda x: getattr(F, f"avg_pool{nd}d")(x, **options),
        lambda x: pool.avg_pool(x, nd=nd, **options),
        lambda g, x: pool.avg_pool_backward(g, x.shape, nd=nd, **options),
        rng.standard_normal(shape),
    )


@pytest.mark.parametrize(
    ("nd", "shape", "out"),
    [(1, (2, 3, 9), 4), (1, (3, 5), 7), (2, (2, 3, 7, 5), (3, 2)), (2, (1, 4, 4), 1),
     (2, (1, 2, 5, 6), (None, 4)), (3, (1, 2, 5, 4, 6), (2, 3, 4))],
)  # fmt: skip
def test_adaptive_pool(rng, nd, shape, out):
    x = rng.standard_normal(shape)
    check(
        lambda x: getattr(F, f"adaptive_max_pool{nd}d")(x, out),
        lambda x: pool.adaptive_max_pool(x, out, nd)[0],
        lambda g, x: pool.max_pool_backward(g, pool.adaptive_max_pool(x, out, nd)[1], x.shape, nd),
        x,
    )
    check(
        lambda x: getattr(F, f"adaptive_avg_pool{nd}d")(x, out),
        lambda x: pool.adaptive_avg_pool(x, out, nd),
        lambda g, x: pool.adaptive_avg_pool_backward(g, x.shape, nd),
        x,
    )


# ---- embedding ----


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (0,)])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"padding_idx": 1, "scale_grad_by_freq": True}])
def test_embedding(rng, shape, options):
    indices = rng.integers(0, 5, shape)
    check(
        lambda w: F.embedding(torch.tensor(indices), w, **options),
        lambda w: embedding.embedding(indices, w),
        lambda g, w: embedding.embedding_backward(g, indices, 5, **options),
        rng.standard_normal((5, 2)),
    )


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0])
def test_embedding_max_norm(rng, norm_type):
    indices, w = np.array([[0, 3], [3, 1]]), rng.standard_normal((5, 4))
    w_t = torch.tensor(w)
    y = F.embedding(torch.tensor(indices), w_t, max_norm=1.5, norm_type=norm_type)
    agree(embedding.embedding(indices, w, max_norm=1.5, norm_type=norm_type), y)
    agree(embedding.renormalise(w, indices, 1.5, norm_type), w_t)


# Without scale_grad_by_freq: torch 2.13's CPU code divides by the count of another index than documented.
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("offsets", [None, [0, 3, 3, 5], "last"])
def test_embedding_bag(rng, mode, padding_idx, offsets):
    indices, w = rng.integers(0, 5, 8 if offsets else (4, 3)), rng.standard_normal((5, 2))
    options = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": offsets == "last"}
    if offsets == "last":
        offsets = [0, 2, 5, 8]
    offsets_t = None if offsets is None else torch.tensor(offsets)
    check(
        lambda w: F.embedding_bag(torch.tensor(indices), w, offsets_t, **options),
        lambda w: embedding.embedding_bag(indices, w, offsets, **options),
        lambda g, w: embedding.embedding_bag_backward(g, indices, w, offsets, **options)[0],
        w,
    )


def test_embedding_bag_per_sample_weights(rng):
    indices, w, s = rng.integers(0, 5, (4, 3)), rng.standard_normal((5, 2)), rng.standard_normal((4, 3))
    check(
        lambda w, s: F.embedding_bag(torch.tensor(indices), w, mode="sum", per_sample_weights=s),
        lambda w, s: embedding.embedding_bag(indices, w, None, "sum", s),
        lambda g, w, s: embedding.embedding_bag_backward(g, indices, w, None, "sum", s),
        w,
        s,
    )


# ---- optimizers ----


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {}), ("sgd", {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9, "nesterov": True, "maximize": True}),
        ("sgd", {"weight_decay": 0.1, "maximize": True}),
        ("adagrad", {}),
        ("adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
        ("rmsprop", {}), ("rmsprop", {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
        ("rmsprop", {"alpha": 0.5, "eps": 0.1, "maximize": True}),
        ("adam", {}), ("adam", {"betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.1}),
        ("adam", {"amsgrad": True, "maximize": True}), ("adamw", {}),
        ("adamw", {"weight_decay": 0.3, "amsgrad": True}),
    ],
)  # fmt: skip
def test_optimizer(rng, name, options):
    kinds = {"sgd": "SGD", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
    p = rng.standard_normal((3, 4))
    p_t, state = leaf(p), {}
    optimizer = getattr(torch.optim, kinds[name])([p_t], lr=0.05, **options)
    for _ in range(6):
        g = rng.standard_normal(p.shape)
        p_t.grad = torch.tensor(g)
        optimizer.step()
        p, state = getattr(optim, name)(p, g, state, lr=0.05, **options)
        agree(p, p_t)
