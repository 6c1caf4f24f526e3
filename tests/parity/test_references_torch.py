"""The references against PyTorch in float64: two independent readings of the same definitions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from references import activation, conv, matmul, softmax  # noqa: E402

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
