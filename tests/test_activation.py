"""Activations and elementary functions: accuracy in ulps, the ends of the range, layouts, gradients, F's calls."""

import importlib
import math

import numpy as np
import pytest
from gradcheck import gradcheck
from layouts import strided_variants
from references import activation as ref
from tolerance import assert_close, assert_close_sum, assert_same_bits, assert_ulp

import fastdl
import fastdl.nn.functional as F
from fastdl import _core

ops = importlib.import_module("fastdl.ops.activation")  # as an attribute the name may be a function

INF, NAN = math.inf, math.nan

# Name for ops, reference, options of the reference, roundings allowed relative to scale(x) forward and backward.
CASES = [
    ("relu", "relu", {}), ("relu6", "relu6", {}), ("leaky_relu", "leaky_relu", {}),
    (("leaky_relu", 0.3), "leaky_relu", {"negative_slope": 0.3}), ("elu", "elu", {}),
    (("elu", 0.5), "elu", {"alpha": 0.5}), ("selu", "selu", {}), (("celu", 2.0), "celu", {"alpha": 2.0}),
    ("gelu", "gelu", {}), ("gelu_tanh", "gelu", {"approximate": "tanh"}), ("silu", "silu", {}),
    ("mish", "mish", {}), ("softplus", "softplus", {}),
    (("softplus", 2.0, 3.0), "softplus", {"beta": 2.0, "threshold": 3.0}), ("hardswish", "hardswish", {}),
    ("hardsigmoid", "hardsigmoid", {}), (("hardtanh", -2.0, 0.5), "hardtanh", {"min_val": -2.0, "max_val": 0.5}),
    ("sigmoid", "sigmoid", {}), ("tanh", "tanh", {}), ("logsigmoid", "logsigmoid", {}),
    ("softsign", "softsign", {}), (("hardshrink", 0.75), "hardshrink", {"lambd": 0.75}),
    ("softshrink", "softshrink", {}), ("tanhshrink", "tanhshrink", {}),
]  # fmt: skip
IDS = [c[0] if isinstance(c[0], str) else f"{c[0][0]}-{c[0][1]}" for c in CASES]

# Sizes around one, two and four vectors of 4, 8 and 16 lanes.
SIZES = [0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 64, 67]


def samples(rng, n, dtype):
    """Numbers of many magnitudes, with zeros and the kinks of the piecewise functions among them."""
    x = 4 * rng.standard_normal(n) * 10.0 ** rng.integers(-6, 2, n)
    kinks = np.array([0.0, -0.0, 3.0, -3.0, 6.0, 0.5, -0.5, -1.0, 1.0, 20.0, 30.0, -30.0])
    x[: min(n, len(kinks))] = kinks[:n]
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "reference", "options"), CASES, ids=IDS)
def test_forward_and_backward(name, reference, options, dtype, isa, rng):
    f = ops.resolve_activation(name)
    for n in SIZES:
        x = samples(rng, n, dtype)
        expected = getattr(ref, reference)(x, **options)
        y = ops.activation(x, name)
        # Differences (x - tanh x) round in proportion to x, not to themselves.
        assert_close(y, expected, rtol_u=24, scale=np.maximum(np.abs(expected), np.abs(x)) + 1e-3)
        g = rng.standard_normal(n).astype(dtype)
        expected = getattr(ref, reference + "_backward")(g, x, **options)
        got = ops.activation_backward(g, y if f.from_output else x, name)
        assert_close(got, expected, rtol_u=64, scale=np.abs(g) * np.maximum(1, np.minimum(np.abs(x), 8)))


@pytest.mark.parametrize(("name", "reference", "options"), CASES, ids=IDS)
def test_special_values(name, reference, options, isa):
    x = np.array([NAN, INF, -INF, 1e30, -1e30, 1e-40, -1e-40], np.float32)
    with np.errstate(all="ignore"):
        expected = getattr(ref, reference)(x, **options)
        infinite = np.isfinite(expected) | (np.array([True] * 3 + [False] * 4))
    y = ops.activation(x, name)
    assert (np.isnan(y) == np.isnan(expected)).all()
    assert_close(y[infinite], expected[infinite], rtol_u=8)
    f = ops.resolve_activation(name)
    g = ops.activation_backward(np.ones_like(x), y if f.from_output else x, name)
    assert np.isnan(g[0]) or reference in {"relu", "relu6", "hardtanh", "hardsigmoid", "hardshrink", "softshrink",
                                           "leaky_relu"}  # fmt: skip
    assert np.isfinite(g[3:]).all()


@pytest.mark.parametrize("name", [c[0] for c in CASES if ops.resolve_activation(c[0]).from_output], ids=str)
def test_input_and_output_derivatives_agree(name, rng):
    """Where the derivative can be had from the output, asking for it from the input gives the same."""
    f = ops.resolve_activation(name)
    x = rng.standard_normal(100)
    from_input = ops.activation_backward(np.ones(100), x, f._replace(from_output=False))
    from_output = ops.activation_backward(np.ones(100), ops.activation(x, name), name)
    np.testing.assert_allclose(from_input, from_output, rtol=1e-12, atol=1e-15)


def test_layouts(rng):
    x = rng.standard_normal((3, 5, 4, 7)).astype(np.float32)
    g = rng.standard_normal(x.shape).astype(np.float32)
    expected, grad = ops.activation(x, "gelu"), ops.activation_backward(g, x, "gelu")
    for _, v in strided_variants(x):
        assert_same_bits(ops.activation(v, "gelu"), expected)
        out = np.full((7, 4, 5, 3), np.nan, np.float32).transpose()
        _core.activation_forward(v, out, ops.GELU, 0, 0)
        assert_same_bits(out, expected)
        assert_same_bits(ops.activation_backward(g, v, "gelu"), grad)
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    assert ops.activation(channels_last, "relu").strides == channels_last.strides


def test_threads_give_the_same_bits(threads, rng):
    x = rng.standard_normal(100_003).astype(np.float32)
    y = ops.activation(x, "mish")
    _core.set_num_threads(1)
    assert_same_bits(y, ops.activation(x, "mish"))


def test_resolve_activation():
    assert ops.resolve_activation(None).kind == 0
    assert ops.resolve_activation("swish") == ops.resolve_activation("silu")
    assert not ops.resolve_activation(("elu", -1.0)).from_output
    for bad in ("nosuch", 3, ("nosuch", 1.0), ("elu", 1.0, 2.0, 3.0), ["relu"]):
        with pytest.raises(ValueError, match=r"activation: expected .*gelu"):
            ops.resolve_activation(bad)


# ---- elementary functions ----

# name: (bound in ulps for float32, for float64, reference)
ELEMENTARY = {
    "exp": (1.1, 1.1, np.exp), "expm1": (1.6, 1.9, np.expm1), "log": (1.0, 1.0, np.log),
    "log1p": (1.6, 1.6, np.log1p), "tanh": (1.5, 1.6, np.tanh), "sigmoid": (2.5, 2.5, ref.sigmoid),
    "erf": (1.7, 1.7, ref.erf), "erfc": (6.0, None, np.vectorize(math.erfc, otypes=[float])),
}  # fmt: skip


def elementary(name, x):
    return ops.activation(x, name) if name in ("tanh", "sigmoid") else getattr(ops, name)(x)


@pytest.mark.parametrize("name", ELEMENTARY)
def test_accuracy_float32(name, isa):
    bound, _, function = ELEMENTARY[name]
    # Every 130,003rd bit pattern covers all exponents and both signs; then the ranges where results vary.
    slow = name in ("erf", "erfc")  # their reference is a Python loop
    bits = np.arange(0, 2**32, 1_300_003 if slow else 130_003, dtype=np.int64).astype(np.uint32)
    x = bits.view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.linspace(-12, 12, 4001 if slow else 60001, dtype=np.float32)])
    with np.errstate(all="ignore"):
        expected = function(x.astype(np.float64))
    # Results below the smallest normal number may round twice.
    assert_ulp(elementary(name, x), expected, bound, atol=1.5e-45)


@pytest.mark.parametrize("name", [n for n in ELEMENTARY if n != "erfc"])
def test_accuracy_float64(name, isa, rng):
    """Against NumPy's or the C library's, which are themselves within about 1 ulp."""
    _, bound, function = ELEMENTARY[name]
    x = np.concatenate(
        [rng.uniform(-4, 4, 3000), rng.uniform(-40, 40, 1000), 10 ** rng.uniform(-30, 30, 1000)]
    )
    with np.errstate(all="ignore"):
        expected = function(x)
    assert_ulp(elementary(name, x), expected, bound + 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_ends(dtype, isa):
    tiny, top = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([0.0, -0.0, INF, -INF, NAN, -1.0, 1.0, tiny, -tiny, top, -top], dtype)
    expected = {
        "exp": [1, 1, INF, 0, NAN, math.exp(-1), math.e, 1, 1, INF, 0],
        "expm1": [0.0, -0.0, INF, -1, NAN, math.expm1(-1), math.expm1(1), tiny, -tiny, INF, -1],
        "log": [-INF, -INF, INF, NAN, NAN, NAN, 0, math.log(float(tiny)), NAN, math.log(float(top)), NAN],
        "log1p": [0.0, -0.0, INF, NAN, NAN, -INF, math.log(2), tiny, -tiny, math.log(float(top)), NAN],
        "tanh": [0.0, -0.0, 1, -1, NAN, math.tanh(-1), math.tanh(1), tiny, -tiny, 1, -1],
        "sigmoid": [0.5, 0.5, 1, 0, NAN, 1 / (1 + math.e), 1 / (1 + 1 / math.e), 0.5, 0.5, 1, 0],
        "erf": [0.0, -0.0, 1, -1, NAN, math.erf(-1), math.erf(1), tiny, -tiny, 1, -1],
        "erfc": [1, 1, 0, 2, NAN, math.erfc(-1), math.erfc(1), 1, 1, 0, 2],
    }
    for name, values in expected.items():
        y = elementary(name, x)
        assert_close(y, np.array(values), rtol_u=8, what=name)
        zeros = np.array(values) == 0
        assert (np.signbit(y[zeros]) == np.signbit(np.array(values)[zeros])).all(), name


# ---- GLU, PReLU ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "dim"), [((6, 10), -1), ((6, 10), 0), ((2, 34, 3, 5), 1), ((0, 4), 1), ((4, 0), 1)]
)
def test_glu(shape, dim, dtype, isa, rng):
    x = rng.standard_normal(shape).astype(dtype)
    expected = ref.glu(x, dim)
    for _, v in strided_variants(x):
        assert_close(ops.glu(v, dim), expected, rtol_u=8)
    g = rng.standard_normal(expected.shape).astype(dtype)
    assert_close(ops.glu_backward(g, x, dim), ref.glu_backward(g, x, dim), rtol_u=16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "channels"), [((5,), 1), ((7, 33), 33), ((7, 33), 1), ((3, 5, 4, 9), 5), ((0, 3, 2), 3), ((2, 3, 0), 3),
                            ((1, 2, 20000), 2), ((1500, 17), 17)],
)  # fmt: skip
def test_prelu(shape, channels, dtype, isa, rng):
    x, w = rng.standard_normal(shape).astype(dtype), rng.standard_normal(channels).astype(dtype)
    g = rng.standard_normal(shape).astype(dtype)
    expected, grads = ref.prelu(x, w), ref.prelu_backward(g, x, w)
    magnitudes = ref.prelu_backward(np.abs(g), -np.abs(x), w)[1]
    for _, v in strided_variants(x) if x.size < 1000 else [("", x)]:
        assert_close(ops.prelu(v, w), expected, rtol_u=4)
        dx, dw = ops.prelu_backward(g, v, w)
        assert_close(dx, grads[0], rtol_u=4)
        assert_close_sum(dw, grads[1], magnitudes, k=x.size // channels)
    assert ops.prelu_backward(g, x, w, need_x=False)[0] is None


def test_prelu_threads(threads, rng):
    x, g, w = (rng.standard_normal(s).astype(np.float32) for s in ((64, 6, 500), (64, 6, 500), (6,)))
    got = ops.prelu_backward(g, x, w)
    _core.set_num_threads(1)
    for a, b in zip(got, ops.prelu_backward(g, x, w), strict=True):
        assert_same_bits(a, b)


# ---- the calls on Tensors ----

FUNCTIONS = [
    (F.relu, ()), (F.relu6, ()), (F.leaky_relu, (0.2,)), (F.elu, (0.7,)), (F.selu, ()), (F.celu, (1.5,)),
    (F.gelu, ()), (F.gelu, ("tanh",)), (F.silu, ()), (F.mish, ()), (F.softplus, (2.0, 3.0)), (F.hardswish, ()),
    (F.hardsigmoid, ()), (F.hardtanh, (-0.5, 0.7)), (F.sigmoid, ()), (F.tanh, ()), (F.logsigmoid, ()),
    (F.softsign, ()), (F.hardshrink, (0.3,)), (F.softshrink, (0.3,)), (F.tanhshrink, ()), (F.threshold, (0.1, 2.0)),
    (F.rrelu, ()), (F.glu, (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "options"), FUNCTIONS, ids=lambda v: getattr(v, "__name__", None))
def test_gradients(function, options, rng):
    x = 2 * rng.standard_normal((4, 3))
    options = {"approximate": options[0]} if options == ("tanh",) else options
    if isinstance(options, dict):
        gradcheck(lambda t: function(t, **options), x)
    else:
        gradcheck(lambda t: function(t, *options), x)


def test_prelu_gradients(rng):
    gradcheck(F.prelu, rng.standard_normal((2, 3, 2)), rng.standard_normal(3))
    gradcheck(F.prelu, rng.standard_normal(5), rng.standard_normal(1))


@pytest.mark.parametrize(
    "name", ["relu", "leaky_relu", "elu", "selu", "celu", "hardtanh", "rrelu", "threshold"]
)
def test_inplace(name):
    args = (0.0, 0.0) if name == "threshold" else ()
    x = fastdl.tensor([-1.0, 0.5, 2.0])
    expected = getattr(F, name)(x, *args).tolist()
    y = x * 1
    assert getattr(F, name + "_")(y, *args) is y and y.tolist() == expected
    leaf = fastdl.tensor([1.0, -1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        getattr(F, name + "_")(leaf, *args)
    z = leaf * 1
    assert getattr(F, name)(z, *args, inplace=True) is z
    z.sum().backward()
    assert leaf.grad is not None


def test_rrelu_training(rng):
    fastdl.manual_seed(3)
    x = fastdl.tensor(rng.standard_normal(1000), requires_grad=True)
    y = F.rrelu(x, 0.1, 0.3, training=True)
    y.sum().backward()
    a, slope = x.detach().numpy(), x.grad.numpy()
    np.testing.assert_allclose(y.detach().numpy(), a * slope)
    assert (slope[a > 0] == 1).all() and ((slope[a <= 0] >= 0.1) & (slope[a <= 0] <= 0.3)).all()
    assert np.unique(slope).size > 100


def test_gumbel_softmax(rng):
    fastdl.manual_seed(1)
    logits = fastdl.tensor(np.zeros((2000, 4)) + np.log([0.1, 0.2, 0.3, 0.4]), requires_grad=True)
    y = F.gumbel_softmax(logits, tau=0.5, hard=True)
    assert (y.detach().numpy().sum(-1) == 1).all() and set(np.unique(y.detach().numpy().round(9))) == {
        0.0,
        1.0,
    }
    # The largest deviation of four means of 2000 draws is below 5 standard deviations (0.011).
    np.testing.assert_allclose(y.detach().numpy().mean(0), [0.1, 0.2, 0.3, 0.4], atol=0.055)
    (y * fastdl.tensor(rng.standard_normal((2000, 4)))).sum().backward()
    assert np.isfinite(logits.grad.numpy()).all() and logits.grad.numpy().any()


def test_integers():
    assert F.relu(fastdl.tensor([-1, 2])).tolist() == [0, 2]
    assert F.sigmoid(fastdl.tensor([0])).dtype == fastdl.float32
    with pytest.raises(TypeError, match="int64"):
        F.gelu(fastdl.tensor([1]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.glu(np.zeros((2, 3))), ValueError, "even"),
        (lambda: ops.glu(np.zeros((2, 3)), 2), IndexError, "dim 2"),
        (lambda: ops.activation(np.zeros(3, np.int64), "tanh"), TypeError, "int64"),
        (
            lambda: ops.activation_backward(np.zeros(3), np.zeros(4), "tanh"),
            ValueError,
            r"\(3,\).*\(4,\)|\(4,\)",
        ),
        (lambda: ops.activation_backward(np.zeros(3), np.zeros(3, np.float32), "tanh"), TypeError, "float"),
        (lambda: ops.prelu(np.zeros((2, 3)), np.zeros(2)), ValueError, "weight"),
        (lambda: ops.prelu(np.zeros(3), np.zeros(3)), ValueError, "weight"),
        (lambda: F.gelu(fastdl.ones(2), approximate="erf"), ValueError, "approximate"),
        (lambda: F.hardtanh(fastdl.ones(2), 1.0, 0.0), ValueError, "min_val"),
        (lambda: F.celu(fastdl.ones(2), 0.0), ValueError, "alpha"),
        (lambda: F.softshrink(fastdl.ones(2), -1.0), ValueError, "lambd"),
        (lambda: F.rrelu(fastdl.ones(2), 1.0, 0.0), ValueError, "lower"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
