"""fastdl.nn.functional and torch.nn.functional called with the very same arguments: values, gradients, errors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastdl  # noqa: E402
import fastdl.nn.functional as F  # noqa: E402


class Array:
    """An argument: a Tensor of this shape on both sides. kind: normal, unit (0, 1), sign, bool, or an int bound."""

    def __init__(self, *shape, kind="normal", grad=True):
        self.shape, self.kind, self.grad = shape, kind, grad

    def __repr__(self):
        return f"{'x'.join(map(str, self.shape)) or '0-d'}{'' if self.kind == 'normal' else f':{self.kind}'}"

    def draw(self, rng):
        if isinstance(self.kind, int):
            return rng.integers(0, self.kind, self.shape)
        if self.kind == "bool":
            return rng.random(self.shape) < 0.7
        if self.kind == "unit":
            return rng.uniform(0.05, 0.95, self.shape)
        if self.kind == "sign":
            return rng.choice([-1.0, 1.0], self.shape)
        return rng.standard_normal(self.shape)


A = Array


def labels(*shape, classes):
    return Array(*shape, kind=classes, grad=False)


def unit(*shape, grad=True):
    return Array(*shape, kind="unit", grad=grad)


def sign(*shape):
    return Array(*shape, kind="sign", grad=False)


CASES = {
    "linear": [
        ((A(5, 4), A(3, 4), A(3)), {}), ((A(4), A(3, 4)), {}), ((A(2, 3, 4), A(4)), {}), ((A(0, 4), A(3, 4), A(3)), {}),
        ((A(2, 0, 4), A(3, 4)), {"bias": A(3)}),
    ],
    "conv1d": [
        ((A(2, 3, 9), A(4, 3, 3), A(4)), {}), ((A(3, 9), A(4, 3, 3)), {"padding": "same", "dilation": 2}),
        ((A(2, 4, 9), A(6, 2, 3), A(6), 2, 1, 1, 2), {}), ((A(2, 3, 9), A(4, 3, 3)), {"stride": (2,), "padding": (1,)}),
    ],
    "conv2d": [
        ((A(2, 3, 7, 6), A(4, 3, 3, 2), A(4), (2, 1), (1, 2), (1, 2)), {}), ((A(3, 5, 5), A(2, 3, 3, 3)), {}),
        ((A(1, 4, 6, 5), A(4, 1, 2, 3)), {"padding": "same", "groups": 4}), ((A(0, 3, 5, 5), A(2, 3, 3, 3), A(2)), {}),
        ((A(2, 3, 5, 5), A(2, 3, 3, 3)), {"padding": "valid", "stride": 2}),
    ],
    "conv3d": [((A(2, 2, 4, 5, 6), A(3, 2, 2, 3, 2), A(3), (1, 2, 3), (1, 0, 1)), {})],
    "conv_transpose1d": [
        ((A(2, 3, 5), A(3, 4, 3), A(4)), {"stride": 2, "output_padding": 1}),
        ((A(4, 5), A(4, 3, 3), None, 2, 1, 1, 2), {}), ((A(2, 3, 5), A(3, 4, 3), None, 1, 0, 0, 1, 2), {}),
    ],
    "conv_transpose2d": [((A(2, 4, 5, 4), A(4, 3, 3, 2), A(6), (3, 2), (0, 1), (2, 1), 2), {})],
    "conv_transpose3d": [((A(1, 2, 3, 2, 2), A(2, 3, 2, 2, 3)), {"stride": 2, "padding": (1, 0, 1)})],
    "scaled_dot_product_attention": [
        ((A(2, 3, 4, 5), A(2, 3, 6, 5), A(2, 3, 6, 7)), {}), ((A(4, 5), A(6, 5), A(6, 5)), {"is_causal": True}),
        ((A(2, 4, 3), A(2, 6, 3), A(2, 6, 3), A(4, 6)), {"scale": 0.3}),
        ((A(2, 4, 3), A(2, 6, 3), A(2, 6, 3)), {"attn_mask": A(2, 4, 6, kind="bool", grad=False)}),
        ((A(2, 4, 3, 5), A(2, 2, 6, 5), A(2, 2, 6, 5)), {"enable_gqa": True, "is_causal": True}),
    ],
    "softmax": [((A(3, 4), 1), {}), ((A(3, 4, 2),), {"dim": 0}), ((A(0, 4),), {"dim": -1}), ((A(),), {"dim": 0})],
    "log_softmax": [((A(3, 4), -2), {}), ((A(5),), {"dim": 0})],
    "softmin": [((A(3, 4),), {"dim": 1})],
    "layer_norm": [
        ((A(3, 4), (4,), A(4), A(4)), {}), ((A(2, 3, 4), [3, 4]), {"eps": 0.1}), ((A(2, 3, 4), (4,), A(4)), {}),
    ],
    "rms_norm": [((A(3, 4), (4,), A(4)), {}), ((A(2, 3, 4), (3, 4)), {"eps": 0.1})],
    "group_norm": [((A(2, 6, 3), 3, A(6), A(6)), {}), ((A(2, 4), 2), {"eps": 0.1})],
    "instance_norm": [((A(2, 3, 4),), {"weight": A(3), "bias": A(3)}), ((A(2, 3, 4, 2),), {})],
    "batch_norm": [
        ((A(4, 3), A(3, grad=False), unit(3, grad=False), A(3), A(3)), {}),
        ((A(4, 3, 5), None, None, A(3), A(3), True), {}), ((A(4, 3, 2, 2), None, None), {"training": True, "eps": 0.1}),
    ],
    "max_pool1d": [((A(2, 3, 9), 3), {}), ((A(3, 9), 3, 2, 1), {"ceil_mode": True}), ((A(2, 3, 9), 2, 1, 0, 3), {})],
    "max_pool2d": [
        ((A(2, 3, 7, 6), 2), {}), ((A(2, 3, 7, 6), (3, 2)), {"stride": (2, 1), "padding": (1, 0)}),
        ((A(3, 7, 6), 3), {}), ((A(0, 3, 7, 6), 2), {}),
    ],
    "max_pool3d": [((A(1, 2, 4, 5, 6), 2), {"stride": (1, 2, 2), "padding": 1})],
    "avg_pool1d": [((A(2, 3, 9), 3), {}), ((A(3, 9), 3, 2, 1, True, False), {})],
    "avg_pool2d": [
        ((A(2, 3, 7, 6), 2), {}), ((A(2, 3, 7, 6), 3, 2, 1), {"ceil_mode": True, "count_include_pad": False}),
        ((A(2, 3, 7, 6), (2, 3)), {"divisor_override": 5}),
    ],
    "avg_pool3d": [((A(1, 2, 4, 5, 6), 2), {"padding": 1})],
    "adaptive_avg_pool1d": [((A(2, 3, 9), 4), {})],
    "adaptive_avg_pool2d": [((A(2, 3, 7, 5), (3, 2)), {}), ((A(3, 7, 5), 1), {}), ((A(2, 3, 7, 5), (None, 2)), {})],
    "adaptive_avg_pool3d": [((A(1, 2, 4, 5, 6), (2, 3, 4)), {})],
    "adaptive_max_pool1d": [((A(2, 3, 9), 4), {})],
    "adaptive_max_pool2d": [((A(2, 3, 7, 5), (3, 2)), {})],
    "adaptive_max_pool3d": [((A(1, 2, 4, 5, 6), (2, 3, 4)), {})],
    "embedding": [
        ((labels(4, 3, classes=6), A(6, 2)), {}), ((labels(4, classes=6), A(6, 2), 1), {}),
        ((labels(4, 3, classes=6), A(6, 2)), {"padding_idx": -2, "scale_grad_by_freq": True}),
        ((labels(classes=6), A(6, 2)), {}), ((labels(0, classes=6), A(6, 2)), {}),
    ],
    "embedding_bag": [
        ((labels(4, 3, classes=6), A(6, 2)), {}),
        ((labels(4, 3, classes=6), A(6, 2)), {"mode": "sum", "padding_idx": 1}),
        ((labels(4, 3, classes=6), A(6, 2)), {"mode": "max"}),
        ((labels(4, 3, classes=6), A(6, 2)), {"mode": "sum", "per_sample_weights": A(4, 3)}),
    ],
    "prelu": [((A(2, 3, 4), A(3)), {}), ((A(2, 3), A(1)), {}), ((A(4), A(1)), {})],
    "leaky_relu": [((A(3, 4), 0.2), {})], "elu": [((A(3, 4), 0.7), {})], "celu": [((A(3, 4), 1.5), {})],
    "gelu": [((A(3, 4),), {}), ((A(3, 4),), {"approximate": "tanh"})], "glu": [((A(3, 4),), {}), ((A(4, 3), 0), {})],
    "softplus": [((A(3, 4), 2.0, 1.0), {})], "hardtanh": [((A(3, 4), -0.5, 0.7), {})],
    "hardshrink": [((A(3, 4), 0.3), {})], "softshrink": [((A(3, 4), 0.3), {})],
    "threshold": [((A(3, 4), 0.1, 20.0), {})],
    "rrelu": [((A(3, 4),), {})],
    **{name: [((A(3, 4),), {}), ((A(),), {}), ((A(0, 3),), {})] for name in (
        "relu", "relu6", "selu", "silu", "mish", "hardswish", "hardsigmoid", "tanhshrink", "softsign", "logsigmoid",
        "sigmoid", "tanh",
    )},
    "cross_entropy": [
        ((A(6, 5), labels(6, classes=5)), {}), ((A(5), labels(classes=5)), {}),
        ((A(2, 5, 3), labels(2, 3, classes=5)), {"reduction": "sum", "ignore_index": 2}),
        ((A(6, 5), labels(6, classes=5), unit(5, grad=False)), {"label_smoothing": 0.2}),
        ((A(6, 5), unit(6, 5, grad=False)), {"label_smoothing": 0.2, "weight": unit(5, grad=False)}),
        ((A(6, 5), labels(6, classes=5)), {"reduction": "none"}), ((A(2, 5, 3), unit(2, 5, 3, grad=False)), {}),
    ],
    "nll_loss": [
        ((A(6, 5), labels(6, classes=5)), {}), ((A(2, 5, 3), labels(2, 3, classes=5)), {"reduction": "none"}),
        ((A(6, 5), labels(6, classes=5), unit(5, grad=False)), {"ignore_index": 1}),
    ],
    "binary_cross_entropy": [
        ((unit(3, 4), unit(3, 4, grad=False)), {}), ((unit(3, 4), unit(3, 4, grad=False)), {"reduction": "sum"}),
    ],
    "binary_cross_entropy_with_logits": [
        ((A(3, 4), unit(3, 4, grad=False)), {}),
        ((A(3, 4), unit(3, 4, grad=False)), {"weight": unit(4, grad=False), "pos_weight": unit(4, grad=False)}),
    ],
    "mse_loss": [((A(3, 4), A(3, 4)), {}), ((A(3, 4), A(3, 4)), {"reduction": "none"}), ((A(), A()), {})],
    "l1_loss": [((A(3, 4), A(3, 4)), {})],
    "smooth_l1_loss": [((A(3, 4), A(3, 4)), {"beta": 0.5}), ((A(3, 4), A(3, 4)), {"reduction": "sum"})],
    "huber_loss": [((A(3, 4), A(3, 4)), {"delta": 0.5})],
    "kl_div": [
        ((A(3, 4), unit(3, 4, grad=False)), {"reduction": "batchmean"}),
        ((A(3, 4), A(3, 4, grad=False)), {"reduction": "sum", "log_target": True}),
    ],
    "poisson_nll_loss": [
        ((A(3, 4), unit(3, 4, grad=False)), {}),
        ((unit(3, 4), unit(3, 4, grad=False)), {"log_input": False, "full": True}),
    ],
    "gaussian_nll_loss": [((A(3, 4), A(3, 4), unit(3, 4)), {}), ((A(3, 4), A(3, 4), unit(3, 1)), {"full": True})],
    "hinge_embedding_loss": [((A(3, 4), sign(3, 4)), {"margin": 0.6})],
    "margin_ranking_loss": [((A(4), A(4), sign(4)), {"margin": 0.3})],
    "cosine_embedding_loss": [((A(4, 3), A(4, 3), sign(4)), {"margin": 0.1})],
    "triplet_margin_loss": [((A(4, 3), A(4, 3), A(4, 3)), {}), ((A(4, 3), A(4, 3), A(4, 3)), {"swap": True, "p": 3.0})],
    "soft_margin_loss": [((A(3, 4), sign(3, 4)), {})],
    "cosine_similarity": [((A(3, 4), A(3, 4)), {}), ((A(3, 4), A(4)), {"dim": -1})],
    "pairwise_distance": [((A(3, 4), A(3, 4)), {}), ((A(3, 4), A(3, 4)), {"p": 1.0, "keepdim": True})],
    "normalize": [((A(3, 4),), {}), ((A(3, 4),), {"p": 3.0, "dim": 0})],
    "one_hot": [((labels(4, 2, classes=3), 5), {})],
    "pad": [
        ((A(2, 3), (1, 2)), {}), ((A(2, 3, 4), (1, 0, 2, 1), "constant", 0.5), {}),
        ((A(2, 3, 4), (2, 1)), {"mode": "reflect"}),
        ((A(2, 3, 4, 4), (1, 2, 0, 1)), {"mode": "replicate"}), ((A(2, 3, 4), (2, 1)), {"mode": "circular"}),
        ((A(3, 5), (-1, -1)), {}),
    ],
    "interpolate": [
        ((A(1, 2, 4, 5), (8, 7)), {}), ((A(1, 2, 4, 5),), {"scale_factor": 2, "mode": "bilinear"}),
        ((A(1, 2, 4, 5),), {"size": (3, 3), "mode": "bilinear", "align_corners": True}),
        ((A(1, 2, 5),), {"scale_factor": 1.7, "mode": "linear"}), ((A(1, 2, 4, 5),), {"size": 7, "mode": "bicubic"}),
        ((A(1, 2, 6, 5),), {"size": (2, 3), "mode": "area"}),
    ],
    "unfold": [((A(2, 3, 5, 6), 3), {"stride": 2, "padding": 1})],
    "fold": [((A(2, 12, 6), (3, 4), 2), {})],
    "pixel_shuffle": [((A(2, 8, 3, 3), 2), {})],
}  # fmt: skip


def instantiate(args, kwargs, seed=3):
    """The drawn values, then a function that turns them into tensors of one side."""
    rng = np.random.default_rng(seed)
    drawn = [a.draw(rng) if isinstance(a, Array) else a for a in args]
    named = {k: a.draw(rng) if isinstance(a, Array) else a for k, a in kwargs.items()}

    def build(make):
        leaves = []

        def one(spec, value):
            if not isinstance(spec, Array):
                return value
            t = make(value, spec.grad and value.dtype.kind == "f")
            leaves.append(t)
            return t

        positional = [one(s, v) for s, v in zip(args, drawn, strict=True)]
        return positional, {k: one(kwargs[k], named[k]) for k in kwargs}, leaves

    return build


def agree(got, expected, dtype):
    expected = expected.detach().numpy()
    got = got.detach().numpy()
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    bound = 2e-5 if dtype == np.float32 else 1e-7  # some of torch's float64 kernels hold constants in float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound * max(1, np.abs(expected).max(initial=0.0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [(name, *call) for name, calls in CASES.items() for call in calls],
    ids=[f"{name}-{i}" for name, calls in CASES.items() for i in range(len(calls))],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's about its own arguments
def test_same_call(name, args, kwargs, dtype):
    build = instantiate(args, kwargs)
    cast = lambda v: v.astype(dtype) if v.dtype.kind == "f" else v  # noqa: E731
    theirs = build(lambda v, g: torch.tensor(cast(v), requires_grad=g))
    ours = build(lambda v, g: fastdl.tensor(cast(v), requires_grad=g))
    function = getattr(torch.nn.functional, name)
    expected = function(*theirs[0], **theirs[1])
    got = getattr(F, name)(*ours[0], **ours[1])
    agree(got, expected, dtype)
    assert got.requires_grad == expected.requires_grad
    if not expected.requires_grad:
        return
    g = np.random.default_rng(4).standard_normal(expected.shape).astype(dtype)
    expected.backward(torch.tensor(g))
    got.backward(fastdl.tensor(g))
    for ours_leaf, theirs_leaf in zip(ours[2], theirs[2], strict=True):
        if theirs_leaf.grad is not None:
            agree(ours_leaf.grad, theirs_leaf.grad, dtype)


# Calls that torch refuses: refused here as well, by the exception the project documents, and naming the op.
WRONG = [
    ("linear", (A(5, 4), A(3, 5)), {}), ("linear", (A(5, 4), A(3, 4), A(2)), {}),
    ("conv2d", (A(2, 3, 5, 5), A(4, 2, 3, 3)), {}), ("conv2d", (A(2, 3, 5, 5), A(4, 3, 3, 3)), {"stride": 0}),
    ("conv2d", (A(2, 3, 5, 5), A(4, 3, 3, 3)), {"padding": -1}), ("conv2d", (A(2, 3, 2, 2), A(4, 3, 3, 3)), {}),
    ("conv2d", (A(2, 3, 5, 5), A(4, 3, 3, 3)), {"groups": 2}), ("conv2d", (A(3, 5), A(4, 3, 3, 3)), {}),
    ("conv2d", (A(2, 3, 5, 5), A(4, 3, 3, 3)), {"padding": "same", "stride": 2}),
    ("conv2d", (A(2, 3, 5, 5), A(4, 3, 3, 3), A(3)), {}), ("conv2d", (A(2, 3, 5, 5), A(4, 3, 3, 3)), {"dilation": 0}),
    ("conv1d", (A(2, 3, 5), A(4, 3, 3), None, (1, 1)), {}),
    ("conv_transpose2d", (A(2, 3, 5, 5), A(3, 4, 3, 3)), {"output_padding": 1}),
    ("max_pool2d", (A(2, 3, 5, 5), 3), {"padding": 2}), ("max_pool2d", (A(2, 3, 5, 5), 0), {}),
    ("avg_pool2d", (A(2, 3, 2, 2), 3), {}), ("max_pool2d", (A(5, 5), 2), {}),
    ("layer_norm", (A(3, 4), (3,)), {}), ("group_norm", (A(2, 5, 3), 2), {}),
    ("batch_norm", (A(1, 3), None, None), {"training": True}), ("softmax", (A(3, 4),), {"dim": 2}),
    ("cross_entropy", (A(6, 5), labels(4, classes=5)), {}), ("cross_entropy", (A(6, 5), labels(6, classes=9)), {}),
    ("nll_loss", (A(6, 5), labels(6, classes=5), unit(4, grad=False)), {}),
    ("mse_loss", (A(3, 4), A(3, 4)), {"reduction": "median"}),
    ("binary_cross_entropy", (unit(3, 4), unit(3, 5, grad=False)), {}),
    ("embedding", (labels(4, classes=60), A(6, 2)), {}), ("embedding", (A(4), A(6, 2)), {}),
    ("scaled_dot_product_attention", (A(2, 4, 5), A(2, 6, 4), A(2, 6, 4)), {}), ("glu", (A(3, 5),), {}),
    ("scaled_dot_product_attention", (A(4, 5), A(6, 5), A(7, 5)), {}), ("pad", (A(2, 3), (1,)), {}),
    ("dropout", (A(3, 4), 1.5), {}), ("one_hot", (labels(4, classes=9), 2), {}), ("prelu", (A(2, 3), A(2)), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "kwargs"), WRONG, ids=[f"{w[0]}-{i}" for i, w in enumerate(WRONG)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_refused_like_torch(name, args, kwargs):
    build = instantiate(args, kwargs)
    positional, named, _ = build(lambda v, g: torch.tensor(v, requires_grad=g))
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)):
        getattr(torch.nn.functional, name)(*positional, **named)
    positional, named, _ = build(lambda v, g: fastdl.tensor(v, requires_grad=g))
    with pytest.raises((ValueError, TypeError, IndexError)) as info:
        getattr(F, name)(*positional, **named)
    # The message names the op, in its general form where one serves several ("conv" for conv2d).
    assert {"linear": "matmul"}.get(name, name).rstrip("123d") in str(info.value) or name in str(info.value)
