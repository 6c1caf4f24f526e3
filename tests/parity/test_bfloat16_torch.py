"""bfloat16 against PyTorch's, with the calls of the other tables: dtypes, shapes, values and gradients.

Both libraries are compared with PyTorch in float64 on the same (rounded) arguments: fastdl has to be within a few
roundings to bfloat16 of it, or no further away than PyTorch is in bfloat16.
"""

import warnings

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.test_functional_torch import CASES as FUNCTIONAL  # noqa: E402
from parity.test_functional_torch import Array  # noqa: E402
from parity.test_modules_torch import LAYERS, case_id  # noqa: E402

import fastdl  # noqa: E402
import fastdl.nn.functional as F  # noqa: E402

import function_cases  # noqa: E402  # isort: skip

BF16 = np.dtype(ml_dtypes.bfloat16)
EPS = 2.0**-8  # half the distance of neighbours, relative


def rounded(x):
    return x.astype(BF16) if x.dtype == np.float32 else x


def ours(x, grad=True):
    return fastdl.tensor(rounded(x), requires_grad=grad and x.dtype == np.float32)


def theirs(x, grad=True, wide=False):
    t = torch.tensor(x)
    if x.dtype == np.float32:
        t = t.bfloat16()
    if wide and t.dtype.is_floating_point:
        t = t.double()
    return t.requires_grad_(grad and x.dtype == np.float32)


def flat(out):
    if isinstance(out, (list, tuple)):
        return [t for o in out for t in flat(o)]
    return [out]


def tensor_like(t):
    return isinstance(t, (fastdl.Tensor, torch.Tensor))


def wide(t):
    """A value as float64 or as it is, and the name of its dtype."""
    if isinstance(t, fastdl.Tensor):
        a = t.detach().numpy()
        return a.astype(np.float64) if t.is_floating_point() else a, t.dtype.name
    if isinstance(t, torch.Tensor):
        a = t.detach()
        return (a.double() if a.dtype.is_floating_point else a).numpy(), str(t.dtype).removeprefix("torch.")
    return t, type(t).__name__


def run(call, make, module):
    leaves, out = call(make)
    outs = flat(out)
    loss = None
    for k, t in enumerate(outs):
        if tensor_like(t) and t.requires_grad:
            weights = np.cos(np.arange(t.numel()) + k).reshape(tuple(t.shape)).astype(BF16).astype(np.float64)
            part = (t.to(module.float64) * module.tensor(weights)).sum()
            loss = part if loss is None else loss + part
    if loss is not None:
        loss.backward()
    return [wide(t) for t in outs], [None if t.grad is None else wide(t.grad) for t in leaves]


def close(what, mine, reference, other, slack=1.5):
    """other: what PyTorch has in bfloat16, where it has this at all."""
    (a, kind), (r, _) = mine, reference
    if not isinstance(r, np.ndarray):
        assert a == pytest.approx(r, rel=2 * EPS), what
        return
    assert a.shape == r.shape, what
    if other is not None:
        assert kind == other[1], f"{what}: {kind}, PyTorch has {other[1]}"
    if r.dtype.kind != "f":
        if not (a == r).all() and other is not None:  # rounding may change the order of elements
            np.testing.assert_array_equal(a, other[0], err_msg=what)
        return
    scale = np.abs(r[np.isfinite(r)]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - r)
    allowed = 3 * EPS * np.abs(r) + slack * EPS / 3 * scale  # cancellation: relative to the largest
    if other is not None:
        with np.errstate(invalid="ignore"):
            allowed = np.maximum(
                allowed, 1.5 * np.nan_to_num(np.abs(other[0] - r), nan=0, posinf=0).max(initial=0)
            )
    with np.errstate(invalid="ignore"):
        bad = ~((error <= allowed) | (a == r) | (np.isnan(a) & np.isnan(r)) | ~np.isfinite(allowed))
    assert not bad.any(), f"{what}: {a[bad][:5]} for {r[bad][:5]}"


def compare(call, slack=1.5):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference, reference_grads = run(call, lambda x, g=True: theirs(x, g, wide=True), torch)
        try:
            other, other_grads = run(call, theirs, torch)
        except (RuntimeError, NotImplementedError):  # PyTorch has this in wider types only
            other, other_grads = [None] * len(reference), [None] * len(reference_grads)
    mine, grads = run(call, ours, fastdl)
    assert len(mine) == len(reference)
    for i, (a, r, o) in enumerate(zip(mine, reference, other, strict=True)):
        close(f"output {i}", a, r, o, slack)
    for i, (a, r, o) in enumerate(zip(grads, reference_grads, other_grads, strict=True)):
        if a is None or r is None:
            assert all(g is None or not np.any(g[0]) for g in (a, r)), f"gradient {i}"
        else:
            close(f"gradient {i}", a, r, o, slack)


def takes_floats(case):
    return any(np.asarray(x).dtype == np.float32 for x in case[1:])


# Not comparable: results that depend on an exact value, on ties that rounding makes, or on the sign of NaN.
SKIPPED = ("m.isclose", "m.allclose", "a.item()", "float(a)", "f'", "m.histc(a, 5)", "a.element_size")
SKIPPED += ("m.nan_to_num(a)", "m.signbit(a)", "m.quantile(a, m.tensor")
TABLE = [c for c in function_cases.CASES if takes_floats(c) and not any(s in c[0] for s in SKIPPED)]


@pytest.mark.parametrize("case", TABLE, ids=[f"{n}-{c[0]}" for n, c in enumerate(TABLE)])
def test_functions(case):
    code, *arrays = case
    compiled = compile(code, code, "eval")

    def call(make):
        leaves = [make(np.asarray(x)) for x in arrays]
        module = fastdl if isinstance(leaves[0], fastdl.Tensor) else torch
        return leaves, eval(compiled, {"m": module, **dict(zip("abc", leaves, strict=False))})

    compare(call)


NAMED = [(n, *c) for n, calls in FUNCTIONAL.items() for c in calls if n not in ("one_hot",)]


@pytest.mark.parametrize(
    ("name", "args", "kwargs"), NAMED, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(NAMED)]
)
def test_functional(name, args, kwargs):
    rng = np.random.default_rng(3)

    def draw(a):
        if not isinstance(a, Array):
            return a
        x = a.draw(rng)
        return x.astype(np.float32) if x.dtype.kind == "f" else x

    drawn, named = [draw(a) for a in args], {k: draw(v) for k, v in kwargs.items()}

    def call(make):
        leaves = []

        def one(spec, value):
            if not isinstance(spec, Array):
                return value
            leaves.append(make(value, spec.grad))
            return leaves[-1]

        positional = [one(s, v) for s, v in zip(args, drawn, strict=True)]
        keywords = {k: one(kwargs[k], named[k]) for k in kwargs}
        mine = any(isinstance(t, fastdl.Tensor) for t in leaves)
        return leaves, getattr(F if mine else torch.nn.functional, name)(*positional, **keywords)

    # Attention's gradients hang on the sum of products with an output that was rounded.
    compare(call, 12 if name.startswith("scaled") else 1.5)


# ------------------------------------------------------------------------------------------------------ modules

MORE_LAYERS = [
    ("TransformerEncoderLayer", (8, 2), {"dropout": 0.0, "dim_feedforward": 12}, [(4, 4, 8)]),
    ("TransformerDecoderLayer", (8, 2), {"dropout": 0.0, "dim_feedforward": 12}, [(4, 4, 8), (3, 4, 8)]),
    ("MultiheadAttention", (8, 2), {}, [(4, 3, 8)] * 3),
    ("MultiheadAttention", (8, 2), {"add_bias_kv": True, "add_zero_attn": True}, [(4, 3, 8)] * 3),
    ("LSTM", (5, 4), {"num_layers": 2, "bidirectional": True}, [(6, 3, 5)]),
    ("LSTM", (5, 4), {"proj_size": 3}, [(6, 3, 5)]), ("GRU", (5, 4), {}, [(6, 3, 5)]), ("RNN", (5, 4), {}, [(6, 3, 5)]),
    ("LSTMCell", (5, 4), {}, [(3, 5)]), ("GRUCell", (5, 4), {}, [(3, 5)]), ("RNNCell", (5, 4), {}, [(3, 5)]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", LAYERS + MORE_LAYERS, ids=case_id)
def test_layers(case, rng):
    name, args, kwargs, shapes = case
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(*args, **kwargs).bfloat16()
    state = module.state_dict()
    inputs = [rng.standard_normal(s).astype(np.float32).astype(BF16).astype(np.float32) for s in shapes]

    def call(make):
        xs = [make(x) for x in inputs]
        if isinstance(xs[0], fastdl.Tensor):
            layer = getattr(fastdl.nn, name)(*args, **kwargs).to("bfloat16")
            if state:
                layer.load_state_dict(state)
        else:
            layer = getattr(torch.nn, name)(*args, **kwargs).to(xs[0].dtype)
            if state:
                layer.load_state_dict(state)
        out = flat(layer(*xs))
        leaves = [*xs, *layer.parameters()]
        return leaves, [t for t in [*out, *(b + 0 for b in layer.buffers())] if t is not None]

    compare(call, 24 if name.startswith("Transformer") else 12)  # rounded once per layer
