"""The references themselves: every backward by finite differences, and cases small enough to calculate by
hand.
"""

import numpy as np
import pytest
from references import activation, conv, matmul, softmax


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
    assert y.tolist() == [[10, 24], [43, 40]]
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
        x, w, b,
    )  # fmt: skip


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
