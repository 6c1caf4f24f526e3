"""Functions on Tensors against NumPy, and their gradients against finite differences."""

# ruff: noqa: E501, SIM905
import zlib

import numpy as np
import pytest
from function_cases import CASES, EMPTY, NAN, ONE_ROW, STATEMENTS, TIES, ZEROS, X, Y
from gradcheck import gradcheck
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl

# Inputs where a function has a kink, or a value, that finite differences cannot cross.
NOT_SMOOTH = [id(a) for a in (TIES, ZEROS, NAN, EMPTY, ONE_ROW)]
SKIP = (
    "float",
    "half",
    "dtype=",
    "detach",
    "new_",
    "_like",
    "long",
    "int()",
    "short",
    "char",
    "item",
    "tolist",
    "aminmax(a)",
)


def smooth(case):
    code, *arrays = case
    return (
        any(np.asarray(a).dtype.kind == "f" for a in arrays)
        and not any(id(a) in NOT_SMOOTH for a in arrays)
        and not any(np.asarray(a).dtype in (np.float16, np.float64) for a in arrays)
        and not any(s in code for s in SKIP)
    )


def gradients_wanted(code, arrays):
    """Whether the case has a differentiable output."""
    names = {
        "m": fastdl,
        **{k: fastdl.tensor(a, requires_grad=a.dtype.kind == "f") for k, a in zip("abc", arrays)},
    }
    return any(isinstance(t, fastdl.Tensor) and t.requires_grad for t in flat(eval(code, names)))


def flat(out):
    if isinstance(out, (list, tuple)):
        return [t for o in out for t in flat(o)]
    return [out]


def on_tensors(code):
    compiled = compile(code, code, "eval")

    def function(*arrays):
        names = dict(zip("abc", [fastdl.tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]))
        return eval(compiled, {"m": fastdl, **names})

    return function


DIFFERENTIABLE = [c for c in CASES if smooth(c) and gradients_wanted(c[0], [np.asarray(a) for a in c[1:]])]


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda c: c[0])
def test_gradient(case):
    code, *arrays = case
    arrays = [np.asarray(a) for a in arrays]
    integers = {k: fastdl.tensor(a) for k, a in zip("abc", arrays) if a.dtype.kind != "f"}
    floats = [(k, a.astype(np.float64)) for k, a in zip("abc", arrays) if a.dtype.kind == "f"]
    compiled = compile(code, code, "eval")

    def function(*tensors):
        out = eval(compiled, {"m": fastdl, **integers, **dict(zip([k for k, _ in floats], tensors))})
        return tuple([t for t in flat(out) if t.is_floating_point()])

    gradcheck(function, *[a for _, a in floats], rtol=1e-5, atol=2e-8)


@pytest.mark.parametrize(
    "code", [s for s in STATEMENTS if "t > 0" not in s and "zeros" not in s and "detach" not in s]
)
def test_gradient_of_assignment(code):
    def function(a, b):
        names = {"m": fastdl, "a": a, "b": b}
        exec(code, names)
        return names["t"] + 0 * b.sum()  # some statements use only a

    gradcheck(function, X.astype(np.float64), Y.astype(np.float64), rtol=1e-5, atol=2e-8)


# --------------------------------------------------------------------------------------------------- values

rng = np.random.default_rng(1)
A, B = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
P = rng.random((3, 4)) + 0.5
T3 = rng.standard_normal((2, 3, 4))
K = rng.integers(0, 3, (3, 4))

# Function of (m, a, b) in fastdl's names; the same in NumPy's.
VALUES = [
    ("a + b", "a + b", A, B), ("a - b[0]", "a - b[0]", A, B), ("a * b[:, :1]", "a * b[:, :1]", A, B), ("a / b", "a / b", A, B), ("a ** 3", "a ** 3", A),
    ("a // 0.3", "a // 0.3", A), ("a % 0.3", "a % 0.3", A), ("m.fmod(a, 0.3)", "np.fmod(a, 0.3)", A), ("a @ b.T", "a @ b.T", A, B), ("m.atan2(a, b)", "np.arctan2(a, b)", A, B),
    *[(f"m.{n}(a)", f"np.{n}(a)", P) for n in "exp exp2 expm1 log log2 log10 log1p sqrt sin cos tan sinh cosh tanh floor ceil trunc round sign abs square isnan isinf isfinite reciprocal arcsinh".split()],
    ("m.sigmoid(a)", "1 / (1 + np.exp(-a))", A), ("m.rsqrt(a)", "1 / np.sqrt(a)", P), ("m.clamp(a, -0.5, 0.5)", "np.clip(a, -0.5, 0.5)", A), ("m.where(a > 0, a, b)", "np.where(a > 0, a, b)", A, B),
    *[(f"m.{n}(a{x})", f"np.{n}(a{y})", T3) for n in ("sum", "mean", "prod") for x, y in (("", ""), (", 1", ", 1"), (", -1, keepdim=True", ", -1, keepdims=True"))],
    ("a.sum((0, 2))", "a.sum((0, 2))", T3), ("a.amax((0, 2))", "a.max((0, 2))", T3), ("a.amin(1, True)", "a.min(1, keepdims=True)", T3), ("a.max(1).values", "a.max(1)", T3), ("a.max(1).indices", "a.argmax(1)", T3), ("a.argmin()", "a.argmin()", T3),
    ("a.std(1)", "a.std(1, ddof=1)", T3), ("a.var((0, 1), correction=0)", "a.var((0, 1))", T3), ("m.logsumexp(a, 1)", "np.log(np.exp(a).sum(1))", T3), ("m.norm(a)", "np.sqrt((a * a).sum())", A), ("m.norm(a, 1, 1)", "np.abs(a).sum(1)", A), ("m.norm(a, float('inf'))", "np.abs(a).max()", A),
    ("a.cumsum(1)", "a.cumsum(1)", T3), ("a.cumprod(-1)", "a.cumprod(-1)", T3), ("a.median(1).values", "np.sort(a, 1)[:, 1]", A), ("a.any(1)", "(a != 0).any(1)", A), ("a.all()", "np.bool_(True)", A), ("m.count_nonzero(a)", "np.count_nonzero(a)", K),
    ("a.reshape(4, 6)", "a.reshape(4, 6)", T3), ("a.permute(2, 0, 1)", "a.transpose(2, 0, 1)", T3), ("a.flatten(1)", "a.reshape(2, 12)", T3), ("a.unsqueeze(1)", "a[:, None]", T3), ("a.movedim(0, 2)", "np.moveaxis(a, 0, 2)", T3), ("a.flip(0, 2)", "np.flip(a, (0, 2))", T3), ("a.roll(1, 2)", "np.roll(a, 1, 2)", T3),
    ("a.repeat(2, 1, 3)", "np.tile(a, (2, 1, 3))", T3), ("a.repeat_interleave(2, 1)", "np.repeat(a, 2, 1)", T3), ("m.cat([a, b], 1)", "np.concatenate([a, b], 1)", A, B), ("m.stack([a, b], 1)", "np.stack([a, b], 1)", A, B), ("m.stack(a.unbind(1))", "a.T", A), ("m.cat(a.chunk(2, 1), 1)", "a", A),
    ("m.tril(a)", "np.tril(a)", T3), ("m.triu(a, 1)", "np.triu(a, 1)", T3), ("m.diag(a)", "np.diag(a)", A), ("a.sort(1).values", "np.sort(a, 1)", T3), ("a.argsort(-1)", "np.argsort(a, -1)", T3), ("a.topk(2).values", "np.sort(a, -1)[..., :-3:-1]", T3), ("a.gather(1, b)", "np.take_along_axis(a, b, 1)", A, K), ("m.unique(a)", "np.unique(a)", K),
    ("a[1:, None, ::2]", "a[1:, None, ::2]", T3), ("a[b[:, 0] > 0]", "a[b[:, 0] > 0]", A, K), ("a[b]", "a[b]", A, K), ("m.einsum('ij,kj->ik', a, b)", "np.einsum('ij,kj->ik', a, b)", A, B), ("m.outer(a[0], b[0])", "np.outer(a[0], b[0])", A, B), ("m.tensordot(a, b, ([0], [0]))", "np.tensordot(a, b, ([0], [0]))", A, B), ("m.kron(a, b)", "np.kron(a, b)", A, B),
    ("m.zeros(2, 3)", "np.zeros((2, 3), np.float32)"), ("m.arange(2, 9, 3)", "np.arange(2, 9, 3)"), ("m.linspace(0, 1, 7, dtype=m.float64)", "np.linspace(0, 1, 7)"), ("m.eye(3, 4, dtype=m.float64)", "np.eye(3, 4)"), ("m.full((2,), 3)", "np.full(2, 3)"),
]  # fmt: skip


LAYOUTS = ("plain", "transposed", "reversed", "offset")


@pytest.mark.parametrize(
    "case, layout", [(c, layout) for c in VALUES for layout in LAYOUTS[: 4 if c[2:] else 1]]
)
def test_value(case, layout):
    mine, theirs, *arrays = case

    def lay(a):
        if layout == "transposed":
            return np.asfortranarray(a)
        if layout == "reversed":
            return a[..., ::-1].copy()[..., ::-1]
        if layout == "offset":
            wide = np.zeros((*a.shape[:-1], a.shape[-1] + 3), a.dtype)
            wide[..., 2:-1] = a
            return wide[..., 2:-1]
        return a

    laid = [lay(a) for a in arrays]
    got = eval(mine, {"m": fastdl, **dict(zip("abc", [fastdl.from_numpy(a) for a in laid]))}).numpy()
    want = np.asarray(eval(theirs, {"np": np, **dict(zip("abc", arrays))}))
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    for before, after in zip(arrays, laid):
        np.testing.assert_array_equal(before, after)


def test_two_byte_floats_add_up_in_float32():
    for dtype in (fastdl.bfloat16, fastdl.float16):
        x = fastdl.ones(4096, dtype=dtype)
        for total in (
            x.sum(),
            x.reshape(64, 64).sum().reshape(()),
            x.reshape(4096, 1).sum(0)[0],
            x.cumsum(0)[-1],
        ):
            assert total.dtype == dtype and float(total) == 4096
        assert float(x.mean()) == 1 and float(x.var()) == 0


def test_values_do_not_depend_on_who_asks_for_gradients():
    for code, *arrays in CASES:
        arrays = [np.asarray(a) for a in arrays]
        if not arrays or "detach" in code or zlib.crc32(code.encode()) % 7:  # a sample is enough
            continue
        out = []
        for grad in (False, True):
            names = zip("abc", [fastdl.tensor(a, requires_grad=grad and a.dtype.kind == "f") for a in arrays])
            out.append(flat(eval(code, {"m": fastdl, **dict(names)})))
        for x, y in zip(*out):
            if isinstance(x, fastdl.Tensor):
                np.testing.assert_array_equal(x.numpy(), y.detach().numpy())


# ------------------------------------------------------------------------------------------------------ bad input

x23 = fastdl.ones(2, 3)
BAD = [
    (ValueError, "shape", lambda: x23 @ fastdl.ones(2, 3)),
    (ValueError, "matmul", lambda: fastdl.matmul(fastdl.tensor(1.0), x23)),
    (TypeError, "float64", lambda: x23 @ fastdl.ones(3, 2, dtype=fastdl.float64)),
    (ValueError, "bmm", lambda: fastdl.bmm(x23, x23)),
    (ValueError, "mm", lambda: fastdl.mm(fastdl.ones(1, 2, 3), x23)),
    (IndexError, "sum", lambda: x23.sum(2)),
    (IndexError, "sum", lambda: x23.sum(-3)),
    (ValueError, "twice", lambda: x23.sum((0, 0))),
    (TypeError, "mean", lambda: fastdl.arange(3).mean()),
    (IndexError, "amax", lambda: fastdl.ones(0, 3).amax()),
    (IndexError, "argmax", lambda: fastdl.ones(0).argmax()),
    (ValueError, "reshape", lambda: x23.reshape(4, 2)),
    (ValueError, "reshape", lambda: x23.reshape(-1, -1)),
    (ValueError, "reshape", lambda: x23.reshape(-1, 4)),
    (ValueError, "infer", lambda: fastdl.ones(0, 3).reshape(-1, 0)),
    (RuntimeError, "view", lambda: x23.T.view(6)),
    (ValueError, "permute", lambda: x23.permute(0, 0)),
    (IndexError, "permute", lambda: x23.permute(0, 2)),
    (ValueError, "expand", lambda: x23.expand(3, 3)),
    (ValueError, "expand", lambda: x23.expand(3)),
    (ValueError, "cat", lambda: fastdl.cat([x23, fastdl.ones(2, 4)])),
    (ValueError, "cat", lambda: fastdl.cat([])),
    (ValueError, "stack", lambda: fastdl.stack([x23, fastdl.ones(2, 4)])),
    (ValueError, "split", lambda: x23.split([1, 1], 1)),
    (ValueError, "split", lambda: x23.split(0)),
    (ValueError, "chunk", lambda: x23.chunk(0)),
    (IndexError, "narrow", lambda: x23.narrow(1, 2, 2)),
    (IndexError, "select", lambda: x23.select(0, 2)),
    (IndexError, None, lambda: x23[2]),
    (IndexError, None, lambda: x23[0, 0, 0]),
    (IndexError, "float", lambda: x23[fastdl.tensor([0.5])]),
    (IndexError, None, lambda: x23[fastdl.tensor([5])]),
    (IndexError, "gather", lambda: x23.gather(0, fastdl.tensor([[2, 0, 0]]))),
    (IndexError, "gather", lambda: x23.gather(0, fastdl.tensor([[-1, 0, 0]]))),
    (ValueError, "gather", lambda: x23.gather(0, fastdl.tensor([0]))),
    (TypeError, "gather", lambda: x23.gather(0, fastdl.tensor([[0.0]]))),
    (IndexError, "index_select", lambda: x23.index_select(1, fastdl.tensor([3]))),
    (IndexError, "scatter_add", lambda: x23.scatter_add(0, fastdl.tensor([[2]]), fastdl.ones(1, 1))),
    (TypeError, "masked_fill", lambda: x23.masked_fill(fastdl.ones(2, 3), 0)),
    (TypeError, "where", lambda: fastdl.where(x23, x23, x23)),
    (ValueError, "topk", lambda: x23.topk(4)),
    (ValueError, "kthvalue", lambda: x23.kthvalue(0)),
    (ValueError, "clamp", lambda: x23.clamp()),
    (ValueError, "tril", lambda: fastdl.ones(3).tril()),
    (ValueError, "diag", lambda: fastdl.diag(fastdl.ones(1, 1, 1))),
    (ValueError, "einsum", lambda: fastdl.einsum("ij,jk", x23)),
    (ValueError, "einsum", lambda: fastdl.einsum("ij,jk", x23, x23)),
    (ValueError, "einsum", lambda: fastdl.einsum("ijk", x23)),
    (ValueError, "einsum", lambda: fastdl.einsum("ij->ik", x23)),
    (RuntimeError, "negative", lambda: fastdl.arange(3) ** -1),
    (RuntimeError, "zero", lambda: fastdl.arange(3) // 0),
    (TypeError, "bool", lambda: -fastdl.tensor([True])),
    (TypeError, "bitwise", lambda: ~x23),
    (TypeError, "bitwise_and", lambda: x23 & x23),
    (TypeError, "add", lambda: x23 + "a"),
    (TypeError, "add", lambda: x23 + None),
    (ValueError, r"add: expected shapes .* got \(2, 3\) and \(2,\)", lambda: x23 + fastdl.ones(2)),
    (ValueError, "mul: expected shapes", lambda: x23 * np.ones((4, 3))),
    (ValueError, "lt: expected shapes", lambda: x23 < fastdl.ones(2)),
    (ValueError, "maximum: expected shapes", lambda: fastdl.maximum(x23, fastdl.ones(2))),
    (TypeError, "sum: expected dim", lambda: x23.sum("a")),
    (TypeError, "argmax: expected dim", lambda: x23.argmax(0.5)),
    (TypeError, "sum: expected a Tensor, got NoneType", lambda: fastdl.sum(None)),
    (TypeError, "sum: expected a Tensor, got list", lambda: fastdl.sum([1, 2])),
    (TypeError, "reshape: expected sizes", lambda: x23.reshape("a")),
    (TypeError, "zeros: expected sizes", lambda: fastdl.zeros(2.5)),
    (TypeError, "float99", lambda: x23.to("float99")),
    (ValueError, "quantile", lambda: x23.quantile(1.5)),
    (ValueError, "cross", lambda: fastdl.cross(x23, x23, 0)),
    (ValueError, "arange", lambda: fastdl.arange(1, 5, -1)),
    (ValueError, "arange", lambda: fastdl.arange(1, 5, 0)),
    (TypeError, "arange", lambda: fastdl.arange()),
    (ValueError, "zeros", lambda: fastdl.zeros(-1)),
    (ValueError, "randint", lambda: fastdl.randint(3, 3, (2,))),
    (TypeError, "rand", lambda: fastdl.rand(2, dtype=fastdl.int64)),
    (ValueError, "tensor", lambda: fastdl.tensor([[1, 2], [3]])),
    (TypeError, "tensor", lambda: fastdl.tensor(None)),
    (TypeError, "tensor", lambda: fastdl.tensor("abc")),
    (TypeError, "tensor", lambda: fastdl.tensor([1, None])),
    (TypeError, "from_numpy", lambda: fastdl.from_numpy([1, 2])),
    (ValueError, "multinomial", lambda: fastdl.multinomial(fastdl.tensor([0.0, 1.0]), 2)),
    (ValueError, "bernoulli", lambda: fastdl.bernoulli(fastdl.tensor([2.0]))),
]


@pytest.mark.parametrize("error, words, call", BAD)
def test_bad_input(error, words, call):
    with pytest.raises(error, match=words):
        call()


# ----------------------------------------------------------------------------------------- properties, by hypothesis

small = st.integers(0, 4)
shapes = st.lists(small, max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_broadcasting_is_numpys(data):
    full = data.draw(shapes)
    parts = []
    for _ in range(2):
        kept = full[data.draw(st.integers(0, len(full))) :]
        parts.append(tuple([1 if data.draw(st.booleans()) else n for n in kept]))
    a, b = (np.arange(1.0, 1 + np.prod(s, dtype=int)).reshape(s) for s in parts)
    x, y = fastdl.tensor(a, requires_grad=True), fastdl.tensor(b, requires_grad=True)
    z = x * y - x / y
    np.testing.assert_array_equal(z.detach().numpy(), a * b - a / b)
    z.sum().backward()
    one = np.ones(np.broadcast_shapes(*parts))
    for t, grad in ((x, one * b - one / b), (y, one * a + one * a / b**2)):
        extra = grad.ndim - t.ndim
        ones = tuple([i + extra for i, n in enumerate(t.shape) if n == 1])
        want = grad.sum(tuple(range(extra))).sum(tuple(i - extra for i in ones), keepdims=True)
        np.testing.assert_allclose(t.grad.numpy(), want.reshape(t.shape), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_views_are_numpys(data):
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple))
    a = np.arange(float(np.prod(shape, dtype=int))).reshape(shape)
    t = fastdl.from_numpy(a).requires_grad_()
    order = data.draw(st.permutations(range(len(shape))))
    index = tuple(
        data.draw(st.one_of(st.slices(n), st.just(slice(None)), *([st.integers(-n, n - 1)] if n else [])))
        for n in a.transpose(order).shape
    )
    step = tuple([slice(i.start, i.stop, abs(i.step or 1)) if isinstance(i, slice) else i for i in index])
    mine, theirs = t.permute(*order)[step], a.transpose(order)[step]
    assert mine.shape == theirs.shape
    np.testing.assert_array_equal(mine.detach().numpy(), theirs)
    mine.reshape(-1).sum().backward()
    picked = np.zeros(shape)
    picked.transpose(order)[step] = 1
    np.testing.assert_array_equal(t.grad.numpy(), picked)


@settings(max_examples=40, deadline=None)
@given(shapes, st.data())
def test_reductions_are_numpys(shape, data):
    a = np.arange(float(np.prod(shape, dtype=int))).reshape(shape)
    dims = data.draw(st.lists(st.integers(0, max(len(shape) - 1, 0)), unique=True, max_size=len(shape)))
    keep = data.draw(st.booleans())
    got = fastdl.from_numpy(a).sum(tuple(dims), keep) if dims else fastdl.from_numpy(a).sum()
    want = a.sum(tuple(dims), keepdims=keep) if dims else a.sum()
    np.testing.assert_array_equal(got.numpy(), want)
    assert got.shape == np.shape(want)
