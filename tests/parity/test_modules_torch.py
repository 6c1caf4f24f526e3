"""Every layer against PyTorch's: the same repr, state_dict, outputs and gradients after loading its weights."""

import numpy as np
import pytest

import fastdl
from fastdl import nn

torch = pytest.importorskip("torch")
TNN = torch.nn


def to_torch(x):
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


def to_ours(x):
    return fastdl.tensor(x) if isinstance(x, np.ndarray) else x


def flat(outputs):
    if isinstance(outputs, tuple | list):
        return [t for o in outputs for t in flat(o)]
    return [] if outputs is None else [outputs]


def array(t):
    return np.asarray(t.detach().numpy())


def pair(name, args=(), kwargs=None, dtype=np.float64):
    """A layer of both, with torch's weights, of which the zeros and ones became random."""
    theirs = getattr(TNN, name)(*args, **(kwargs or {})).to(
        torch.float64 if dtype == np.float64 else torch.float32
    )
    ours = getattr(nn, name)(*args, **(kwargs or {})).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return ours, load(ours, theirs)


def load(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert ours.state_dict()[key].shape == tuple(value.shape), key
    result = ours.load_state_dict(theirs.state_dict())
    assert result == ([], [])
    return theirs


def compare(ours, theirs, *inputs, rtol=1e-10, grad_inputs=None, same_repr=True, **options):
    """Outputs and gradients of both for the same inputs; floating inputs get gradients."""
    if same_repr:
        assert repr(ours) == repr(theirs)
    a, b = [to_ours(x) for x in inputs], [to_torch(x) for x in inputs]
    ours_options = {k: to_ours(v) for k, v in options.items()}
    their_options = {k: to_torch(v) for k, v in options.items()}
    wants = (
        [isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in inputs]
        if grad_inputs is None
        else grad_inputs
    )
    for want, p, q in zip(wants, a, b, strict=True):
        if want:
            p.requires_grad_(True)
            q.requires_grad_(True)
    y, z = flat(ours(*a, **ours_options)), flat(theirs(*b, **their_options))
    assert len(y) == len(z)
    loss_y = loss_z = 0
    for s, t in zip(y, z, strict=True):
        assert tuple(s.shape) == tuple(t.shape)
        assert str(s.dtype) == str(t.dtype).removeprefix("torch.")
        np.testing.assert_allclose(array(s), array(t), rtol, rtol, equal_nan=True)
        if t.requires_grad:
            w = np.random.default_rng(5).standard_normal(tuple(t.shape)).astype(array(t).dtype)
            loss_y = loss_y + (s * fastdl.tensor(w)).sum()
            loss_z = loss_z + (t * torch.tensor(w)).sum()
    if not isinstance(loss_z, int):
        loss_y.backward()
        loss_z.backward()
    names = dict(ours.named_parameters()) if isinstance(ours, nn.Module) else {}
    if names:
        assert list(names) == [n for n, _ in theirs.named_parameters()]
    checks = [(f"input {i}", p, q) for i, (w, p, q) in enumerate(zip(wants, a, b, strict=True)) if w]
    checks += [(n, p, q) for (n, p), (_, q) in zip(names.items(), theirs.named_parameters(), strict=True)]
    for what, p, q in checks:
        assert (p.grad is None) == (q.grad is None), what
        if q.grad is not None:
            scale = max(1.0, float(q.grad.abs().max())) if q.grad.numel() else 1.0
            np.testing.assert_allclose(array(p.grad), array(q.grad), rtol, 10 * rtol * scale, err_msg=what)
    for (key, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_allclose(array(p), array(q), rtol, rtol, err_msg=key)


def normal(rng, *shapes):
    return [rng.standard_normal(shape) for shape in shapes]


LAYERS = [
    ("Linear", (5, 4), {}, [(3, 5)]),
    ("Linear", (5, 4), {"bias": False}, [(5,)]),
    ("Linear", (5, 4), {}, [(2, 3, 5)]),
    ("Linear", (5, 4), {}, [(0, 5)]),
    ("Bilinear", (3, 4, 2), {}, [(5, 3), (5, 4)]),
    ("Bilinear", (3, 4, 2), {"bias": False}, [(2, 5, 3), (2, 5, 4)]),
    ("Identity", (3,), {"x": 1}, [(2, 3)]),
    ("Flatten", (), {}, [(2, 3, 4)]),
    ("Flatten", (0, 1), {}, [(2, 3, 4)]),
    ("Conv1d", (3, 4, 3), {}, [(2, 3, 9)]),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}, [(4, 9)]),
    ("Conv2d", (3, 4, 3), {"padding": 1}, [(2, 3, 7, 6)]),
    ("Conv2d", (3, 4, (3, 2)), {"padding": "same"}, [(2, 3, 7, 6)]),
    ("Conv2d", (3, 4, 3), {"padding": "valid", "bias": False}, [(3, 7, 6)]),
    ("Conv2d", (4, 4, 3), {"groups": 4, "stride": (2, 1), "padding": (1, 0)}, [(2, 4, 7, 6)]),
    *[
        ("Conv2d", (3, 4, 3), {"padding": (2, 1), "padding_mode": m}, [(2, 3, 7, 6)])
        for m in ("reflect", "replicate", "circular")
    ],
    ("Conv2d", (3, 4, (3, 2)), {"padding": "same", "padding_mode": "reflect"}, [(2, 3, 7, 6)]),
    ("Conv3d", (2, 3, 2), {"stride": (1, 2, 1), "padding": 1}, [(2, 2, 4, 5, 3)]),
    ("ConvTranspose1d", (3, 4, 3), {"stride": 2, "output_padding": 1}, [(2, 3, 5)]),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, [(2, 4, 4, 3)]),
    ("ConvTranspose2d", (3, 4, (2, 3)), {"dilation": 2, "bias": False}, [(3, 4, 3)]),
    ("ConvTranspose3d", (2, 3, 2), {"stride": 2}, [(1, 2, 3, 2, 3)]),
    ("MaxPool1d", (2,), {}, [(2, 3, 7)]),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, [(2, 3, 6, 7)]),
    ("MaxPool2d", (2,), {"return_indices": True, "dilation": 2}, [(3, 6, 7)]),
    ("MaxPool3d", (2,), {}, [(1, 2, 4, 5, 4)]),
    ("AvgPool1d", (3,), {"stride": 1, "padding": 1}, [(2, 3, 7)]),
    ("AvgPool2d", (3,), {"padding": 1, "count_include_pad": False, "ceil_mode": True}, [(2, 3, 6, 7)]),
    ("AvgPool2d", (2,), {"divisor_override": 3}, [(2, 3, 6, 7)]),
    ("AvgPool3d", (2,), {}, [(1, 2, 4, 5, 4)]),
    ("AdaptiveAvgPool1d", (3,), {}, [(2, 3, 7)]),
    ("AdaptiveAvgPool2d", ((2, None),), {}, [(2, 3, 5, 7)]),
    ("AdaptiveAvgPool3d", (2,), {}, [(2, 3, 5, 4, 3)]),
    ("AdaptiveMaxPool1d", (3,), {}, [(2, 3, 7)]),
    ("AdaptiveMaxPool2d", (2,), {"return_indices": True}, [(2, 3, 5, 7)]),
    ("AdaptiveMaxPool3d", (2,), {}, [(2, 3, 5, 4, 3)]),
    ("LayerNorm", (5,), {}, [(2, 3, 5)]),
    ("LayerNorm", ((3, 5),), {"eps": 1e-3, "bias": False}, [(2, 3, 5)]),
    ("LayerNorm", (5,), {"elementwise_affine": False}, [(3, 5)]),
    ("RMSNorm", (5,), {}, [(2, 3, 5)]),
    ("RMSNorm", ((3, 5),), {"eps": 1e-3, "elementwise_affine": False}, [(2, 3, 5)]),
    ("GroupNorm", (2, 4), {}, [(2, 4, 5, 3)]),
    ("GroupNorm", (4, 4), {"affine": False}, [(2, 4, 5)]),
    ("InstanceNorm1d", (3,), {}, [(2, 3, 5)]),
    ("InstanceNorm1d", (3,), {"affine": True}, [(3, 5)]),
    ("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True}, [(2, 3, 5, 4)]),
    ("InstanceNorm3d", (3,), {}, [(2, 3, 5, 4, 2)]),
    ("BatchNorm1d", (4,), {}, [(5, 4)]),
    ("BatchNorm1d", (4,), {"momentum": None}, [(5, 4, 3)]),
    ("BatchNorm2d", (4,), {"eps": 1e-3, "momentum": 0.3}, [(3, 4, 3, 2)]),
    ("BatchNorm2d", (4,), {"affine": False}, [(3, 4, 3, 2)]),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, [(3, 4, 3, 2)]),
    ("BatchNorm3d", (2,), {}, [(3, 2, 3, 2, 2)]),
    ("LocalResponseNorm", (3,), {"alpha": 0.5}, [(2, 5, 4, 3)]),
    *[
        (n, (), {}, [(3, 4)])
        for n in (
            "ReLU",
            "ReLU6",
            "SELU",
            "SiLU",
            "Mish",
            "Hardswish",
            "Hardsigmoid",
            "Sigmoid",
            "Tanh",
            "LogSigmoid",
            "Softsign",
            "Tanhshrink",
            "Hardtanh",
            "ELU",
            "CELU",
            "LeakyReLU",
            "PReLU",
            "GELU",
            "Softplus",
            "Hardshrink",
            "Softshrink",
            "GLU",
        )
    ],
    ("Threshold", (0.1, 20.0), {}, [(3, 4)]),
    ("Hardtanh", (-0.5, 0.3), {}, [(3, 4)]),
    ("ELU", (0.7,), {}, [(3, 4)]),
    ("CELU", (0.7,), {}, [(3, 4)]),
    ("LeakyReLU", (0.2,), {}, [(3, 4)]),
    ("PReLU", (4, 0.1), {}, [(2, 4, 3)]),
    ("GELU", (), {"approximate": "tanh"}, [(3, 4)]),
    ("Softplus", (2.0, 1.0), {}, [(3, 4)]),
    ("GLU", (0,), {}, [(4, 3)]),
    *[(n, (), {"dim": d}, [(2, 3, 4)]) for n in ("Softmax", "LogSoftmax", "Softmin") for d in (1, -1)],
    ("Softmax2d", (), {}, [(2, 3, 4, 5)]),
    ("ConstantPad1d", (2, 1.5), {}, [(2, 3)]),
    ("ConstantPad2d", ((1, 0, -1, 2), 1.5), {}, [(2, 3, 4)]),
    ("ConstantPad3d", (1, 1.5), {}, [(2, 3, 4, 2)]),
    ("ZeroPad1d", (2,), {}, [(2, 3)]),
    ("ZeroPad2d", (2,), {}, [(2, 3, 3)]),
    ("ZeroPad3d", (1,), {}, [(2, 3, 3, 2)]),
    *[
        (f"{m}Pad{d}d", (1,), {}, [(2, 3, 4, 3, 4)[: d + 2]])
        for m in ("Reflection", "Replication", "Circular")
        for d in (1, 2, 3)
    ],
    ("Upsample", (), {"scale_factor": 2}, [(1, 2, 3)]),
    ("Upsample", (), {"size": (5, 7), "mode": "bicubic", "align_corners": True}, [(1, 2, 3, 4)]),
    ("UpsamplingNearest2d", (), {"scale_factor": 2}, [(1, 2, 3, 4)]),
    ("UpsamplingBilinear2d", (), {"size": 5}, [(1, 2, 3, 4)]),
    ("PixelShuffle", (2,), {}, [(2, 8, 3, 2)]),
    ("PixelUnshuffle", (2,), {}, [(2, 2, 4, 2)]),
    ("ChannelShuffle", (2,), {}, [(2, 6, 4, 2)]),
    ("Unfold", ((2, 3),), {"padding": 1, "stride": 2}, [(2, 3, 6, 5)]),
    ("Fold", ((4, 5), 2), {}, [(2, 12, 12)]),
    ("CosineSimilarity", (), {}, [(3, 4), (3, 4)]),
    ("PairwiseDistance", (), {"keepdim": True}, [(3, 4), (3, 4)]),
    ("LPPool1d", (2, 3), {}, [(2, 3, 7)]),
    ("LPPool2d", (2, 2), {"stride": 1}, [(2, 3, 4, 5)]),
]


def case_id(case):
    name, args, kwargs, shapes = case
    return f"{name}{args}{kwargs or ''}{shapes[0]}".replace(" ", "")


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("case", LAYERS, ids=case_id)
def test_layer(case, rng):
    name, args, kwargs, shapes = case
    ours, theirs = pair(name, args, kwargs)
    rough = 1e-7 if name in ("Hardsigmoid", "CELU") else 1e-10  # there torch has constants in float32
    compare(ours, theirs, *normal(rng, *shapes), rtol=rough)
    if any(True for _ in theirs.buffers()):  # a second batch moves the running statistics on; then evaluation
        compare(ours, theirs, *normal(rng, *shapes))
        compare(ours.eval(), theirs.eval(), *normal(rng, *shapes))


def test_inplace(rng):
    x = normal(rng, (3, 4))[0]
    for name in (
        "ReLU",
        "ReLU6",
        "SELU",
        "SiLU",
        "Mish",
        "Hardswish",
        "Hardsigmoid",
        "Hardtanh",
        "ELU",
        "CELU",
        "LeakyReLU",
    ):
        ours, theirs = pair(name, (), {"inplace": True})
        assert repr(ours) == f"{name}(inplace=True)" or repr(ours) == repr(theirs)
        a, b = fastdl.tensor(x), torch.tensor(x)
        assert ours(a) is a
        np.testing.assert_allclose(array(a), array(theirs(b)), 1e-7)
        check_function(lambda t, m=ours: m(t * 2), lambda t, m=theirs: m(t * 2), x, rtol=1e-7)


def test_initial_distribution():
    """Bounds of uniform, deviations of normal initial values are torch's (by layer and parameter)."""
    cases = [
        ("Linear", (64, 256), {}),
        ("Bilinear", (16, 16, 64), {}),
        ("Conv2d", (32, 64, 3), {"groups": 2}),
        ("ConvTranspose2d", (32, 64, 3), {"groups": 2}),
        ("Embedding", (200, 30), {"padding_idx": 3}),
        ("EmbeddingBag", (200, 30), {}),
        ("MultiheadAttention", (64, 4), {"add_bias_kv": True}),
        ("MultiheadAttention", (64, 4), {"kdim": 32, "vdim": 48}),
        ("TransformerEncoderLayer", (64, 4, 128), {}),
        ("BatchNorm2d", (8,), {}),
        ("PReLU", (8,), {}),
        ("GroupNorm", (2, 8), {}),
    ]
    fastdl.manual_seed(3)
    torch.manual_seed(3)
    for name, args, kwargs in cases:
        ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(TNN, name)(*args, **kwargs)
        for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            a, b = array(a).astype(np.float64), b.double().numpy()
            assert a.shape == b.shape
            if b.size < 2 or b.std() == 0:
                np.testing.assert_array_equal(a, b, err_msg=f"{name}.{key}")
                continue
            n = (
                b.size
            )  # deviation of a sample's deviation: sigma sqrt((kurtosis - 1) / 4n), kurtosis at most 3
            assert abs(a.std() / b.std() - 1) < 5 * np.sqrt(2) * np.sqrt(0.5 / n), f"{name}.{key}"
            assert abs(a.mean() - b.mean()) < 5 * np.sqrt(2 / n) * b.std(), f"{name}.{key}"
            assert abs(a).max() < 1.3 * abs(b).max(), f"{name}.{key}"


def test_conv_transpose_output_size(rng):
    ours, theirs = pair("ConvTranspose2d", (3, 4, 3), {"stride": 2, "padding": 1})
    x = normal(rng, (2, 3, 4, 5))[0]
    for size in ((7, 9), (8, 10), (2, 4, 7, 10)):
        compare(ours, theirs, x, output_size=list(size))
    with pytest.raises(ValueError, match="output_size"):
        ours(fastdl.tensor(x), output_size=(9, 9))


def test_max_unpool(rng):
    for n, shape in ((1, (2, 3, 8)), (2, (2, 3, 6, 7)), (3, (3, 4, 4, 5))):
        x = normal(rng, shape)[0]
        _, where = getattr(torch.nn.functional, f"max_pool{n}d")(torch.tensor(x), 2, return_indices=True)
        values = normal(rng, tuple(where.shape))[0]
        ours, theirs = pair(f"MaxUnpool{n}d", (2,))
        compare(ours, theirs, values, where.numpy(), output_size=list(shape[-n:]))


def test_embedding(rng):
    x = rng.integers(0, 10, (3, 4))
    for kwargs in ({}, {"padding_idx": -1}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}):
        ours, theirs = pair("Embedding", (10, 4), kwargs)
        compare(ours, theirs, x)
    table = normal(rng, (5, 3))[0]
    ours, theirs = (
        nn.Embedding.from_pretrained(fastdl.tensor(table)),
        TNN.Embedding.from_pretrained(torch.tensor(table)),
    )
    compare(ours, theirs, np.array([0, 4]))
    assert not ours.weight.requires_grad


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag(mode, rng):
    for kwargs in ({}, {"padding_idx": 2}, {"include_last_offset": True}):
        ours, theirs = pair("EmbeddingBag", (10, 4), {"mode": mode, **kwargs})
        offsets = np.array([0, 3, 3, 12] if kwargs.get("include_last_offset") else [0, 3, 3])
        compare(ours, theirs, rng.integers(0, 10, 12), offsets, same_repr=False)
        if not kwargs.get("include_last_offset"):
            compare(ours, theirs, rng.integers(0, 10, (3, 4)), same_repr=False)
    if mode == "sum":
        ours, theirs = pair("EmbeddingBag", (10, 4), {"mode": mode})
        compare(
            ours,
            theirs,
            rng.integers(0, 10, (3, 4)),
            per_sample_weights=normal(rng, (3, 4))[0],
            same_repr=False,
        )


def test_dropout_in_evaluation(rng):
    for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"):
        ours, theirs = pair(name, (0.3,))
        compare(
            ours.eval(),
            theirs.eval(),
            *normal(rng, (2, 3, 4, 5, 2)[: 3 + (name[-2:] in ("2d", "3d")) + (name[-2:] == "3d")]),
        )


LOSSES = [
    ("L1Loss", {}),
    ("MSELoss", {}),
    ("SmoothL1Loss", {"beta": 0.3}),
    ("HuberLoss", {"delta": 0.3}),
    ("PoissonNLLLoss", {}),
    ("SoftMarginLoss", {}),
    ("HingeEmbeddingLoss", {"margin": 0.5}),
    ("BCEWithLogitsLoss", {}),
    ("BCELoss", {}),
    ("KLDivLoss", {}),
    ("KLDivLoss", {"log_target": True}),
    ("MultiLabelSoftMarginLoss", {}),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name, kwargs", LOSSES, ids=str)
@pytest.mark.filterwarnings("ignore:reduction")
def test_losses_of_two(name, kwargs, reduction, rng):
    x, y = normal(rng, (3, 4), (3, 4))
    if name in ("SoftMarginLoss", "HingeEmbeddingLoss"):
        y = np.sign(y)
    elif name in ("BCELoss", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss") or name == "KLDivLoss":
        y = rng.random((3, 4))
        x = rng.random((3, 4)) if name == "BCELoss" else x
    elif name == "PoissonNLLLoss":
        y = np.abs(y)
    ours, theirs = pair(name, (), {**kwargs, "reduction": reduction})
    compare(ours, theirs, x, y, grad_inputs=[True, False])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_classification_losses(reduction, rng):
    weight = rng.random(5)
    for name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"):
        ours = getattr(nn, name)(weight=fastdl.tensor(weight), reduction=reduction)
        theirs = getattr(TNN, name)(weight=torch.tensor(weight), reduction=reduction)
        compare(ours, theirs, normal(rng, (3, 5))[0], rng.integers(0, 5, 3))
    for shape in ((3, 5, 2), (3, 5, 2, 4)):
        target = rng.integers(0, 5, (shape[0], *shape[2:]))
        target[0] = 1
        ours, theirs = pair(
            "CrossEntropyLoss", (), {"reduction": reduction, "ignore_index": 1, "label_smoothing": 0.1}
        )
        compare(ours, theirs, normal(rng, shape)[0], target)
    probabilities = rng.random((3, 5))
    ours, theirs = pair("CrossEntropyLoss", (), {"reduction": reduction, "label_smoothing": 0.1})
    compare(ours, theirs, normal(rng, (3, 5))[0], probabilities, grad_inputs=[True, False])
    ours, theirs = pair("MultiLabelMarginLoss", (), {"reduction": reduction})
    compare(ours, theirs, normal(rng, (2, 4))[0], np.array([[3, 0, -1, 1], [1, -1, 0, 2]]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_three(reduction, rng):
    a, b, c = normal(rng, (4, 3), (4, 3), (4, 3))
    sign = np.array([1.0, -1, 1, -1])
    r = {"reduction": reduction}
    compare(*pair("TripletMarginLoss", (), {"swap": True, **r}), a, b, c)
    compare(*pair("TripletMarginWithDistanceLoss", (), r), a, b, c, same_repr=False)
    compare(*pair("CosineEmbeddingLoss", (0.1,), r), a, b, sign, grad_inputs=[True, True, False])
    compare(
        *pair("MarginRankingLoss", (0.1,), r),
        a[:, 0].copy(),
        b[:, 0].copy(),
        sign,
        grad_inputs=[True, True, False],
    )
    compare(*pair("GaussianNLLLoss", (), {"full": True, **r}), a, b, np.abs(c) + 0.1)
    weight = rng.random(3)
    ours = nn.BCEWithLogitsLoss(pos_weight=fastdl.tensor(weight), **r)
    compare(
        ours,
        TNN.BCEWithLogitsLoss(pos_weight=torch.tensor(weight), **r),
        a,
        rng.random((4, 3)),
        grad_inputs=[True, False],
    )


# ---------------------------------------------------------------------------------------------------- attention


ATTENTION = [
    {},
    {"bias": False},
    {"batch_first": True},
    {"kdim": 6, "vdim": 5},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "batch_first": True},
    {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6, "vdim": 5},
]


def attention_inputs(rng, kwargs, batched, length=3, keys=5):
    batch_first = kwargs.get("batch_first")
    dims = (8, kwargs.get("kdim", 8), kwargs.get("vdim", 8))
    shapes = []
    for n, d in zip((length, keys, keys), dims, strict=True):
        shapes.append(((2, n, d) if batch_first else (n, 2, d)) if batched else (n, d))
    return normal(rng, *shapes)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kwargs", ATTENTION, ids=str)
def test_multihead_attention(kwargs, need_weights, rng):
    ours, theirs = pair("MultiheadAttention", (8, 2), kwargs)
    for batched in (True, False):
        inputs = attention_inputs(rng, kwargs, batched)
        n = {"need_weights": need_weights, "average_attn_weights": batched}
        compare(ours, theirs, *inputs, same_repr=False, **n)
        forbidden = rng.random((3, 5)) < 0.3
        forbidden[:, 0] = False
        padding = np.array([[False] * 5, [False] * 3 + [True] * 2])[: 2 if batched else 1].squeeze(
            0 if not batched else ()
        )
        compare(ours, theirs, *inputs, same_repr=False, attn_mask=forbidden, **n)
        compare(ours, theirs, *inputs, same_repr=False, key_padding_mask=padding, attn_mask=forbidden, **n)
        heads = rng.standard_normal((4 if batched else 2, 3, 5))
        compare(ours, theirs, *inputs, same_repr=False, attn_mask=heads, **n)


@pytest.mark.parametrize("need_weights", [True, False])
def test_self_attention(need_weights, rng):
    """Query, key and value one and the same: projected at once; and only key and value the same."""
    for kwargs in ({}, {"batch_first": True, "bias": False}, {"kdim": 8, "vdim": 8, "add_bias_kv": True}):
        ours, theirs = pair("MultiheadAttention", (8, 2), kwargs)
        x, m = normal(rng, (4, 4, 8), (4, 4, 8))
        for mask in (None, np.triu(np.ones((4, 4), bool), 1)):
            options = {"attn_mask": mask, "need_weights": need_weights}
            causal = mask is not None and "add_bias_kv" not in kwargs  # there torch hides the added key, too
            check_function(self_attention(ours), self_attention(theirs), x, is_causal=causal, **options)
            check_function(cross_attention(ours), cross_attention(theirs), x, m, **options)


def self_attention(layer):
    return lambda x, **options: layer(x, x, x, **options)


def cross_attention(layer):
    return lambda x, m, **options: layer(x, m, m, **options)


def check_function(ours, theirs, *inputs, rtol=1e-10, **options):
    a = [fastdl.tensor(x, requires_grad=True) for x in inputs]
    b = [torch.tensor(x, requires_grad=True) for x in inputs]
    y = flat(ours(*a, **{k: to_ours(v) for k, v in options.items()}))
    z = flat(theirs(*b, **{k: to_torch(v) for k, v in options.items()}))
    assert len(y) == len(z)
    for s, t in zip(y, z, strict=True):
        np.testing.assert_allclose(array(s), array(t), rtol, rtol)
    w = np.random.default_rng(5).standard_normal(tuple(z[0].shape))
    (y[0] * fastdl.tensor(w)).sum().backward()
    (z[0] * torch.tensor(w)).sum().backward()
    for p, q in zip(a, b, strict=True):
        np.testing.assert_allclose(array(p.grad), array(q.grad), rtol, 10 * rtol)


TRANSFORMERS = [
    {},
    {"activation": "gelu", "batch_first": True},
    {"norm_first": True, "bias": False},
]


@pytest.mark.parametrize("kwargs", TRANSFORMERS, ids=str)
def test_transformer_layers(kwargs, rng):
    kwargs = {"dropout": 0.0, "dim_feedforward": 12, **kwargs}
    x, memory = normal(rng, (4, 4, 8), (4, 4, 8))
    causal = np.triu(np.ones((4, 4), bool), 1)
    padding = np.zeros((4, 4), bool)
    padding[:, 3] = True
    ours, theirs = pair("TransformerEncoderLayer", (8, 2), kwargs)
    for options in (
        {},
        {"src_mask": causal},
        {"src_mask": causal, "is_causal": True},
        {"src_key_padding_mask": padding},
    ):
        compare(ours, theirs, x, same_repr=False, **options)
        compare(ours.eval(), theirs.eval(), x, same_repr=False, **options)
        ours.train(), theirs.train()
    ours, theirs = pair("TransformerDecoderLayer", (8, 2), kwargs)
    for options in (
        {},
        {"tgt_mask": causal, "tgt_is_causal": True},
        {"memory_key_padding_mask": padding, "tgt_mask": causal},
    ):
        compare(ours, theirs, x, memory, same_repr=False, **options)


@pytest.mark.parametrize("kwargs", TRANSFORMERS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_transformer(kwargs, rng):
    kwargs = {
        "dropout": 0.0,
        "dim_feedforward": 12,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        **kwargs,
    }
    ours, theirs = pair("Transformer", (8, 2), kwargs)
    n = (2, 4) if kwargs.get("batch_first") else (4, 2)
    source, target = normal(rng, (*n, 8), (*n, 8))
    mask = array(nn.Transformer.generate_square_subsequent_mask(4, dtype=np.float64))
    np.testing.assert_array_equal(mask, array(TNN.Transformer.generate_square_subsequent_mask(4)))
    for options in ({}, {"tgt_mask": mask}, {"src_mask": mask, "tgt_mask": mask, "memory_mask": mask}):
        compare(ours, theirs, source, target, same_repr=False, rtol=1e-9, **options)
    encoder, their_encoder = ours.encoder, theirs.encoder
    compare(encoder, their_encoder, source, same_repr=False, rtol=1e-9)


# ------------------------------------------------------------------------------------------------- whole models


def test_sequential_of_float32(rng):
    def build(m):
        return m.Sequential(
            m.Conv2d(1, 4, 3, padding=1),
            m.BatchNorm2d(4),
            m.ReLU(),
            m.MaxPool2d(2),
            m.Flatten(),
            m.Linear(4 * 4 * 4, 10),
        )

    theirs = build(TNN)
    ours = build(nn)
    load(ours, theirs)
    compare(ours, theirs, rng.standard_normal((3, 1, 8, 8)).astype(np.float32), rtol=2e-5)


def test_fused_activation(rng):
    """activation= gives what the layer followed by the activation gives."""
    theirs = {"relu": TNN.ReLU(), "gelu": TNN.GELU(), "tanh": TNN.Tanh(), "silu": TNN.SiLU()}
    for name, args, shape in (
        ("Linear", (5, 4), (3, 5)),
        ("Conv2d", (2, 3, 3), (2, 2, 5, 5)),
        ("ConvTranspose1d", (2, 3, 2), (1, 2, 5)),
    ):
        for activation, layer in theirs.items():
            _, plain = pair(name, args, {})
            for value in (activation, lambda x, a=activation: getattr(nn.functional, a)(x)):
                fused = getattr(nn, name)(*args, activation=value).double()
                fused.load_state_dict(plain.state_dict())
                check_function(fused, TNN.Sequential(plain, layer), *normal(rng, shape))
