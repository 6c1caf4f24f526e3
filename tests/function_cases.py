"""One table of calls that covers the functions on Tensors: the parity tests run it on PyTorch too, the gradient tests
compare it with finite differences, and the reference tests with NumPy."""

# ruff: noqa: E501, SIM905
import numpy as np

rng = np.random.default_rng(0)


def f(*shape, dtype=np.float32):
    """Distinct normal numbers."""
    return rng.standard_normal(shape).astype(dtype)


def pos(*shape):
    """Numbers in (0.5, 1.5)."""
    return (rng.random(shape) + 0.5).astype(np.float32)


def unit(*shape):
    """Numbers in (-0.9, 0.9)."""
    return (rng.random(shape) * 1.8 - 0.9).astype(np.float32)


def i(*shape, high=3):
    return rng.integers(0, high, shape)


def b(*shape):
    return rng.random(shape) < 0.5


X, Y, V, ROW = f(3, 4), f(3, 4), f(5), f(4)
T3 = f(2, 3, 4)
SCALAR = f()
EMPTY = np.zeros((0, 4), np.float32)
TIES = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]], np.float32)
ZEROS = np.array([[1.0, 0.0, 3.0], [0.0, 2.0, 0.0], [1.0, 2.0, 3.0]], np.float32)
NAN = np.array([[1.0, np.nan, 3.0], [np.inf, 2.0, -np.inf]], np.float32)
ONE_ROW = f(1, 3)
INTS = np.array([[7, -7, 2], [0, 5, -3]])
SAME = np.array([[1, 2, 2], [3, 1, 2]])

# Each row: source of a function of (m, *tensors) where m is fastdl or torch; the arrays.
CASES = [
    # arithmetic and broadcasting
    *[(f"a {op} b", X, y) for op in "+ - * /".split() for y in (Y, ROW, f(3, 1), SCALAR)],
    *[(f"a {op} 2.5", X) for op in "+ - * / %".split()], ("a ** 2.5", pos(3, 4)),
    *[(f"2.5 {op} a", pos(3, 4)) for op in "+ - * / **".split()],
    ("2.5 % a.detach()", pos(3, 4)), ("2.5 // a.detach()", pos(3, 4)),
    *[(f"a {op} 2", INTS) for op in "+ - * / ** % //".split()],
    *[(f"a {op} b", INTS, np.array([[2, -3, 4], [5, -1, 2]])) for op in "+ - * / % //".split()],
    ("a * 2.5", INTS), ("2.5 - a", INTS), ("a + True", INTS), ("True + a", b(4)), ("a * 2", b(4)), ("a * 1.5", b(4)),
    ("a ** b", pos(3, 4), Y), ("a ** b", pos(3, 4), SCALAR), ("a ** 0", ZEROS), ("a ** 1", ZEROS), ("a ** 2", X),
    ("a ** 3", X), ("a ** -1", pos(3)), ("a ** 0.5", pos(3)), ("a ** b", ZEROS, np.full((3, 3), 2, np.float32)),
    ("m.add(a, b, alpha=2)", X, Y), ("m.sub(a, b, alpha=0.5)", X, Y), ("m.rsub(a, b)", X, Y),
    ("m.div(a, b, rounding_mode='floor')", INTS, np.array(2)), ("m.div(a, b, rounding_mode='trunc')", INTS, np.array(2)),
    ("m.div(a, 0.7, rounding_mode='floor')", X), ("m.fmod(a, 0.7)", X), ("m.fmod(a, 3)", INTS), ("m.remainder(a, b)", X, pos(3, 4)),
    ("m.fmod(a, b)", X, pos(3, 4)), ("m.maximum(a, b)", X, Y), ("m.minimum(a, b)", X, Y), ("m.maximum(a, b)", TIES, TIES[::-1].copy()),
    ("m.maximum(a, b)", NAN, TIES), ("m.atan2(a, b)", X, Y), ("m.atan2(a, b)", X, ROW), ("-a", X), ("+a", X), ("abs(a)", X), ("~a", b(3)), ("~a", INTS),
    ("-a", INTS), ("m.lerp(a, b, 0.3)", X, Y), ("m.lerp(a, b, c)", X, Y, f(3, 4)), ("m.addcmul(a, b, c, value=2)", X, Y, f(3, 4)),
    ("m.addcdiv(a, b, c, value=2)", X, Y, pos(3, 4)), ("a & b", b(5), b(5)), ("a | b", b(5), b(5)), ("a ^ b", INTS, INTS[::-1].copy()),
    ("a << 2", INTS), ("a >> 1", INTS), ("a & 6", INTS),
    # comparisons
    *[(f"a {op} b", TIES, TIES[::-1].copy()) for op in "== != < <= > >=".split()],
    *[(f"a {op} 2", TIES) for op in "== != < <= > >=".split()], ("a == b", INTS, TIES), ("a < 1.5", INTS), ("1.5 < a", INTS),
    *[(f"m.logical_{op}(a, b)", ZEROS, TIES[:1]) for op in ("and", "or", "xor")], ("m.logical_not(a)", ZEROS),
    # promotion
    *[("a + b", x, y) for x in (f(2), f(2, dtype=np.float64), f(2).astype(np.float16), i(2), i(2).astype(np.uint8), i(2).astype(np.int32), b(2))
      for y in (f(2, dtype=np.float64), i(2).astype(np.int16), i(), np.array(1.5), b(2))],
    ("a * b", f(3, dtype=np.float64), SCALAR), ("a / b", i(3) + 1, i() + 1), ("a ** 2", i(3)), ("m.where(a > 0, a, 0)", X), ("m.where(a > 0, 1.0, 2)", X),
    ("m.where(a > 0, a, b)", X, f(3, 4, dtype=np.float64)), ("m.where(a > 0, b, c)", X, ROW, f(3, 1)), ("m.where(a > 0, 1, 2)", X),
    # one operand
    *[(f"m.{n}(a)", unit(3, 4)) for n in "exp exp2 expm1 sin cos tan asin acos atan sinh cosh tanh asinh atanh sigmoid erf abs square sign floor ceil trunc frac round neg positive".split()],
    *[(f"m.{n}(a)", pos(3, 4)) for n in "log log2 log10 log1p sqrt rsqrt reciprocal".split()], ("m.acosh(a)", pos(3) + 1),
    *[(f"m.{n}(a)", INTS) for n in "exp sin sigmoid abs square sign floor round neg reciprocal".split()],
    *[(f"m.{n}(a)", NAN) for n in "exp floor round sigmoid tanh isnan isinf isfinite isposinf isneginf nan_to_num signbit".split()],
    ("m.round(a, decimals=2)", X), ("a.clamp(-0.5, 0.5)", X), ("a.clamp(min=0.1)", X), ("a.clamp(max=0.1)", X), ("a.clamp(1, 2)", INTS), ("a.clamp(0.5, 2.5)", INTS),
    ("a.clamp(0.5, -0.5)", X), ("m.clamp(a, b, c)", X, f(3, 4) - 0.5, f(3, 4) + 0.5), ("m.clamp(a, min=b)", X, ROW), ("m.clamp(a, 0, 2)", NAN), ("m.clamp_min(a, 0.2)", X), ("m.clamp_max(a, 0.2)", X),
    ("m.nan_to_num(a, nan=1.0, posinf=2.0, neginf=3.0)", NAN), ("m.isclose(a, b)", X, X + 1e-6), ("m.abs(a)", ZEROS),
    # reductions
    *[(f"m.{n}(a{args})", x) for n in ("sum", "mean", "amax", "amin") for args in ("", ", 0", ", -1", ", (0, 2)", ", dim=1, keepdim=True", ", (0, 1, 2)") for x in (T3,) if not (n[0] == "a" and args == "")],
    ("a.amax()", X), ("a.amin()", X), ("a.sum(axis=1)", X), ("a.sum(1, keepdims=True)", X), ("a.mean(axis=0, keepdims=True)", X), ("a.max(axis=1)", X),
    ("a.sum()", SCALAR), ("a.sum(0)", SCALAR), ("a.mean(-1)", SCALAR), ("a.sum()", EMPTY), ("a.sum(0)", EMPTY), ("a.sum(1)", EMPTY), ("a.mean()", EMPTY), ("a.mean(0)", EMPTY),
    ("a.sum(())", X), ("a.sum()", INTS), ("a.sum(0)", b(3, 4)), ("a.sum(0, dtype=m.float32)", INTS), ("a.mean(dtype=m.float64)", INTS), ("a.sum()", i(4).astype(np.int32)),
    ("a.sum(0)", f(3, 4).astype(np.float16)), ("a.mean()", f(3, 4).astype(np.float16)),
    *[(f"a.prod({args})", x) for args in ("", "0", "-1", "1, keepdim=True") for x in (ZEROS, X)], ("a.prod()", INTS), ("a.prod()", SCALAR), ("a.prod()", EMPTY), ("a.prod(0)", EMPTY),
    ("a.amax(1)", TIES), ("a.amin((0, 1))", TIES), ("a.amax(1)", NAN), ("a.max()", TIES), ("a.min()", X), ("a.max()", SCALAR), ("a.max(0)", SCALAR),
    *[(f"a.{n}({args})", x) for n in ("max", "min", "median") for args in ("0", "1", "-1, keepdim=True") for x in (X, T3)], ("a.max(1)", NAN), ("a.min(1)", NAN), ("a.median()", X), ("a.median()", V), ("a.median(0)", SCALAR), ("m.max(a, b)", X, Y), ("m.min(a, b)", X, ROW),
    ("a.median(1).values", NAN), ("m.aminmax(a, dim=0)", X), ("m.aminmax(a)", X), ("a.kthvalue(2)", X), ("a.kthvalue(2, 0, keepdim=True)", X),
    *[(f"a.{n}({args})", T3) for n in ("argmax", "argmin") for args in ("", "0", "-1", "1, keepdim=True")], ("a.argmax()", SCALAR), ("a.argmax(1)", NAN), ("a.argmin(1)", NAN), ("a.argmax()", INTS),
    *[(f"m.{n}(a{args})", T3) for n in ("std", "var") for args in ("", ", 0", ", (0, 2)", ", 1, keepdim=True", ", unbiased=False", ", 0, False", ", dim=1, correction=0", ", False", ", dim=(0, 1), correction=2")],
    ("m.std_mean(a, 1)", X), ("m.var_mean(a, 1, correction=0)", X), ("a.var(0)", ONE_ROW), ("a.std()", f(1, 4).astype(np.float16)),
    ("m.logsumexp(a, 1)", X), ("m.logsumexp(a, (0, 1), keepdim=True)", X), ("m.logsumexp(a, 0)", NAN), ("m.logsumexp(a, 0)", EMPTY), ("m.logsumexp(a, 0)", SCALAR), ("m.logsumexp(a, 1)", X * 1000), ("m.logsumexp(a, 0)", INTS),
    *[(f"m.norm(a{args})", X) for args in ("", ", 1", ", 3", ", 2.5", ", 0", ", float('inf')", ", -float('inf')", ", 'fro', 1", ", 2, 0, True", ", p=1, dim=(0, 1)")], ("m.norm(a)", ZEROS * 0), ("m.dist(a, b)", X, Y), ("m.dist(a, b, 1)", X, Y),
    *[(f"a.{n}({d})", x) for n in ("cumsum", "cumprod") for d in (0, -1) for x in (X, T3, ZEROS, SCALAR)], ("a.cumsum(0)", INTS), ("a.cumsum(0, dtype=m.float64)", INTS), ("a.cumsum(0)", b(4)), ("m.cummax(a, 0)", X), ("m.cummin(a, 1)", X), ("m.cummax(a, 1)[0]", NAN),
    ("a.any()", ZEROS), ("a.all(1)", ZEROS), ("a.any(0, keepdim=True)", b(3, 4)), ("a.all()", EMPTY), ("a.any()", EMPTY), ("m.count_nonzero(a)", ZEROS), ("m.count_nonzero(a, 1)", ZEROS), ("m.nansum(a, 0)", NAN),
    ("m.bincount(a)", np.array([0, 1, 1, 3])), ("m.bincount(a, minlength=6)", np.array([0, 1, 1, 3])), ("m.bincount(a, b.detach())", np.array([0, 1, 1]), pos(3)),
    ("m.nanmean(a)", NAN), ("m.nanmean(a, 0)", X), ("m.diff(a)", X), ("m.diff(a, 2, 0)", X), ("m.quantile(a, 0.3)", X), ("m.quantile(a, m.tensor([0.0, 0.25, 1.0]), dim=1)", X), ("m.quantile(a, m.tensor([0.5, 0.7]), dim=0, keepdim=True)", X), ("m.quantile(a, 0.5, 1, True)", X), ("m.histc(a, 4, -2, 2)", X), ("m.histc(a, 5)", X),
    ("m.logaddexp(a, b)", X, ROW), ("m.hypot(a, b)", X, ROW), ("m.cross(a, b, dim=0)", X, Y),
    # shape
    *[(f"a.{e}", T3) for e in (
        "reshape(6, 4)", "reshape(-1)", "reshape((4, -1))", "view(3, 8)", "view(-1, 2)", "flatten()", "flatten(1)", "flatten(0, 1)", "flatten(start_dim=1, end_dim=2)", "unsqueeze(0)", "unsqueeze(-1)", "unsqueeze(1).squeeze(1)",
        "permute(2, 0, 1)", "permute((2, 0, 1))", "permute(-1, 0, 1)", "transpose(0, 2)", "transpose(-1, -2)", "swapaxes(0, 1)", "mT", "movedim(0, 2)", "movedim((0, 1), (1, 2))", "unflatten(2, (2, -1))", "unflatten(-1, (2, 2))",
        "expand(5, 2, 3, 4)", "expand(-1, -1, -1)", "repeat(2, 1, 1)", "repeat(2, 1, 3, 1)", "tile((2,))", "tile(2, 1, 1, 2)", "repeat_interleave(2)", "repeat_interleave(2, 1)", "repeat_interleave(3, dim=-1)",
        "flip(0)", "flip((0, 2))", "flip(0, 1)", "fliplr()", "flipud()", "roll(1, 0)", "roll((1, -2), (0, 2))", "roll(5)", "roll(-1, -1)", "rot90()", "rot90(2)", "rot90(3, (1, 2))", "rot90(-1, (0, 2))",
        "narrow(1, 1, 2)", "narrow(2, -3, 2)", "select(1, 2)", "select(-1, -2)", "split(2, 2)", "split(3, -1)", "split((1, 2), 1)", "chunk(2)", "chunk(3, 2)", "chunk(5, -1)", "tensor_split(3, 2)", "tensor_split((1, 3), -1)", "unbind()", "unbind(2)",
        "unfold(2, 2, 1)", "unfold(-1, 3, 2)", "unfold(1, 2, 2)", "contiguous()", "clone()", "mT.contiguous()", "diagonal()", "diagonal(1, 1, 2)", "diagonal(-1, -2, -1)")],
    ("a.squeeze()", f(1, 3, 1)), ("a.squeeze(0)", f(1, 3, 1)), ("a.squeeze(1)", f(1, 3, 1)), ("a.squeeze((0, 2))", f(1, 3, 1)), ("a.squeeze(-1)", f(1, 3, 1)), ("a.T", X), ("a.t()", X), ("a.t()", V), ("a.flatten()", SCALAR), ("a.reshape(1, 1)", SCALAR), ("a.unsqueeze(0)", SCALAR), ("a.squeeze(0)", SCALAR), ("a.permute(())", SCALAR),
    ("a.expand(3, 4)", f(3, 1)), ("a.expand(2, -1, 4)", f(3, 1)), ("a.expand_as(b)", ROW, X), ("m.broadcast_to(a, (3, 4))", ROW), ("m.broadcast_tensors(a, b)", ROW, f(3, 1)), ("a.reshape(0, 2, 2)", EMPTY), ("a.reshape(-1, 4)", EMPTY), ("a.expand(5, 3)", SCALAR),
    ("m.cat((a, b))", X, f(2, 4)), ("m.cat([a, b], 1)", X, f(3, 2)), ("m.cat([a, b], dim=-1)", X, X), ("m.cat([a, b])", X, f(2, 4, dtype=np.float64)), ("m.cat([a, b])", np.zeros(0, np.float32), X), ("m.cat([a, b])", EMPTY, X), ("m.cat([a, b])", i(2), f(3)),
    ("m.stack((a, b))", X, Y), ("m.stack([a, b], 1)", X, Y), ("m.stack([a, b], dim=-1)", X, Y), ("m.stack([a, b])", SCALAR, f()), ("m.hstack([a, b])", X, Y), ("m.vstack([a, b])", ROW, X), ("m.dstack([a, b])", X, Y), ("m.hstack([a, b])", V, V), ("m.concat([a, a])", X),
    ("m.atleast_1d(a)", SCALAR), ("m.atleast_2d(a)", V), ("m.atleast_3d(a)", X), ("m.atleast_3d(a)", V), ("m.meshgrid(a, b, indexing='ij')", V, ROW), ("m.meshgrid(a, b, indexing='xy')", V, ROW), ("m.repeat_interleave(a, b)", V, np.array([0, 1, 2, 0, 3])), ("m.repeat_interleave(a, b, 0)", X, np.array([2, 0, 1])),
    # indexing
    *[(f"a[{e}]", T3) for e in ("0", "-1", "0, 1", "0, 1, 2", ":", "...", "..., 0", ":, 1", "1:", ":, ::2", ":, 1:3, 2", "None", ":, None, 1", "0, ..., None", "[0, 1]", "[1, 1, 0]", ":, [0, 2, 2]", "[0, 1], [1, 2]", "[0, 1], :, [1, 2]", "1, [0, 2]", "..., [0, 0, 3]", "a > 0", "a[:, :, 0] > 0", ":, [True, False, True]", "1, :, [True, False, True, True]", "[], :", "m.tensor(1)", "m.tensor([1, 0])", "m.tensor([-1, 0]), m.tensor([[1], [2]])", "[-1]", "True", "0:0", "slice(1, None), m.tensor([0, 1])")],
    ("a[...]", SCALAR), ("a[None]", SCALAR), ("a[a > -100]", SCALAR), ("a[b]", X, i(2, 2)), ("a[b, 1:]", X, i(5)), ("a[b]", V, b(5)), ("[r * 2 for r in a]", X), ("a[:, b]", X, i(3)),
    ("a.gather(0, b)", X, i(2, 4)), ("a.gather(1, b)", X, i(3, 6)), ("m.gather(a, -1, b)", T3, i(1, 2, 5)), ("a.gather(0, b)", SCALAR, i(high=1)), ("m.take_along_dim(a, b, 1)", X, i(3, 2)), ("m.take_along_dim(a, b, 1)", X, i(1, 2)), ("m.take_along_dim(a, b)", X, i(4)),
    ("a.scatter(0, b, c)", X, np.array([[0, 1, 2, 0]]), f(1, 4)), ("a.scatter(1, b, 2.5)", X, np.array([[0], [3], [2]])), ("a.detach().scatter(1, b, c.detach())", X, np.array([[0, 1], [1, 3]]), f(3, 4)), ("a.scatter_add(0, b, c)", X, i(5, 4), f(5, 4)), ("a.detach().scatter_add(1, b, c.detach())", X, i(2, 3), f(3, 4)), ("a.scatter(1, b, value=1.5)", X, np.array([[0], [3], [2]])),
    *[(f"a.detach().scatter_reduce(0, b, c.detach(), '{r}', include_self={s})", X, i(5, 4), f(5, 4)) for r in ("sum", "prod", "mean", "amax", "amin") for s in (True, False)],
    ("a.index_select(0, b)", X, i(4)), ("a.index_select(-1, b)", X, i(2)), ("a.index_add(0, b, c)", X, i(5), f(5, 4)), ("a.index_add(1, b, c, alpha=2)", X, i(2), f(3, 2)), ("a.index_copy(0, b, c)", X, np.array([2, 0]), f(2, 4)), ("a.index_fill(1, b, 0.5)", X, np.array([0, 3])), ("a.take(b)", X, i(2, 3, high=12)),
    ("a.masked_fill(b, 1.5)", X, b(3, 4)), ("a.masked_fill(b, c)", X, b(4), SCALAR), ("a.masked_fill(b, float('-inf'))", X, b(3, 1)), ("a.masked_select(b)", X, b(3, 4)), ("a.masked_select(b)", X, b(4)), ("a.masked_scatter(b, c)", X, b(3, 4), f(3, 4)), ("a.masked_fill(a > 2, 0)", INTS),
    ("a.nonzero()", ZEROS), ("m.nonzero(a, as_tuple=True)", ZEROS), ("m.argwhere(a)", ZEROS), ("m.where(a > 0)", X), ("a.nonzero()", np.array(3.0)), ("a.nonzero()", np.array(0.0)),
    *[(f"m.{n}(a{k})", x) for n in ("tril", "triu") for k in ("", ", 1", ", -1", ", diagonal=2") for x in (X, T3)], ("m.tril_indices(3, 4)",), ("m.triu_indices(3, 4, 1)",), ("m.diag(a)", X), ("m.diag(a, 1)", X), ("m.diag(a)", V), ("m.diag(a, -2)", V), ("m.diag_embed(a)", X), ("m.diag_embed(a, 1, 0, 2)", X), ("m.trace(a)", X),
    *[(f"a.sort({args})", x) for args in ("", "0", "descending=True", "0, True", "dim=1, descending=True, stable=True") for x in (X, T3)], ("a.sort(stable=True)", TIES), ("a.sort(descending=True, stable=True)", TIES), ("a.sort().values", NAN), ("a.sort(descending=True).values", NAN), ("a.argsort()", X), ("a.argsort(0, descending=True)", X), ("a.sort()", SCALAR), ("a.sort()", INTS), ("m.msort(a)", X),
    *[(f"a.topk({args})", x) for args in ("2", "1, 0", "2, largest=False", "3, dim=1", "0") for x in (X, T3)], ("a.topk(2)", f(3, 50)), ("a.topk(2, 0, largest=False)", f(50, 3)), ("a.topk(1)", SCALAR),
    ("m.unique(a)", SAME), ("m.unique(a, return_inverse=True, return_counts=True)", SAME), ("m.unique(a, dim=0)", np.array([[1, 2], [0, 1], [1, 2]])), ("m.unique_consecutive(a)", SAME[0]), ("m.unique_consecutive(a, return_inverse=True, return_counts=True)", SAME), ("m.searchsorted(a, b)", np.array([1.0, 2.0, 3.0]), np.array([[0.5, 2.0], [3.0, 4.0]])), ("m.searchsorted(a, b, right=True)", np.array([1, 2, 3]), SAME), ("m.bucketize(a, b)", X, np.sort(V)), ("m.isin(a, b)", INTS, np.array([7, 0])),
    # products
    *[("a @ b", f(*s), f(*r)) for s, r in (((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((0, 3), (3, 2)), ((2, 0), (0, 2)), ((5, 0, 3), (3, 4)))],
    ("a @ b", i(2, 3), i(3, 2)), ("m.mm(a, b)", f(2, 3), f(3, 4)), ("m.bmm(a, b)", f(5, 2, 3), f(5, 3, 4)), ("m.mv(a, b)", X, ROW), ("m.dot(a, b)", V, V), ("m.outer(a, b)", V, ROW), ("m.inner(a, b)", X, f(2, 4)), ("m.inner(a, b)", X, SCALAR), ("m.addmm(a, b, c)", f(4), f(2, 3), f(3, 4)), ("m.addmm(a, b, c, beta=0.5, alpha=2)", f(2, 4), f(2, 3), f(3, 4)),
    ("m.addmv(a, b, c)", f(3), X, ROW), ("m.baddbmm(a, b, c, beta=2)", f(5, 2, 4), f(5, 2, 3), f(5, 3, 4)), ("m.addr(a, b, c)", X, f(3), ROW), ("m.tensordot(a, b, 2)", T3, f(3, 4, 5)), ("m.tensordot(a, b, ([1, 0], [0, 1]))", T3, f(3, 2, 5)), ("m.kron(a, b)", X, f(2, 3)), ("m.cdist(a, b)", X, f(2, 4)), ("m.cdist(a, b, p=1.0)", X, f(2, 4)),
    *[(f"m.einsum('{e}', {', '.join('abc'[:len(s)])})", *[f(*x) for x in s]) for e, s in (
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("ij,jk", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)]), ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("ii->i", [(3, 3)]), ("ii", [(3, 3)]), ("ij->ji", [(2, 3)]), ("ij->", [(2, 3)]), ("ij->j", [(2, 3)]), ("i,j->ij", [(2,), (3,)]), ("i,i->", [(3,), (3,)]), ("i,i->i", [(3,), (3,)]),
        ("...ij,...jk->...ik", [(5, 2, 3), (3, 4)]), ("b...,b...->b", [(2, 3, 4), (2, 3, 4)]), ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("ij,ij,ij->i", [(2, 3)] * 3), ("iij,jk->ik", [(2, 2, 3), (3, 4)]), ("ab,cd->abcd", [(2, 3), (4, 5)]), ("ijk,il->kl", [(2, 3, 4), (2, 5)]), ("bn,anm,bm->ba", [(2, 3), (4, 3, 5), (2, 5)]), (",i->i", [(), (3,)]), ("i...->...", [(2, 3)]))],
    # creation
    *[(e,) for e in ("m.arange(5)", "m.arange(1, 4)", "m.arange(1, 2, 0.25)", "m.arange(5, 0, -2)", "m.arange(3.0)", "m.arange(3, dtype=m.float64)", "m.linspace(0, 1, 5)", "m.linspace(2, -1, 4)", "m.logspace(0, 2, 3)", "m.eye(3)", "m.eye(2, 3)", "m.zeros(2, 3)", "m.zeros((2, 3), dtype=m.int64)", "m.ones([2])", "m.ones(())", "m.full((2, 2), 7)", "m.full((2,), 1.5)", "m.full((), True)", "m.tensor(3)", "m.tensor(3.5)", "m.tensor(True)", "m.tensor([[1, 2.5]])", "m.tensor([])", "m.tensor([1, True])", "m.tensor([1, 2], dtype=m.float32)", "m.tensor([1.7], dtype=m.int64)", "m.empty(0, 3)")],
    ("m.zeros_like(a)", INTS), ("m.ones_like(a)", X), ("m.full_like(a, 3)", X), ("m.zeros_like(a, dtype=m.bool)", X), ("a.new_zeros(2, 3)", X), ("a.new_ones((2,))", INTS), ("a.new_full((2,), 3)", X), ("a.new_tensor([1, 2])", X),
    # types
    *[(f"a.{t}()", x) for t in ("float", "double", "half", "long", "int", "short", "bool", "char") for x in (ZEROS, INTS)], ("a.to(m.float64)", X), ("a.type_as(b)", X, f(1, dtype=np.float64)), ("a.to(b)", X, i(1)), ("m.is_floating_point(a)", X), ("m.numel(a)", X), ("a.stride()", T3), ("a.mT.stride()", T3), ("a.mT.is_contiguous()", T3), ("tuple(a.size())", T3), ("a.size(1)", T3), ("a.element_size()", T3), ("len(a)", T3), ("a.tolist()", INTS), ("a.item()", SCALAR), ("m.allclose(a, b)", X, X), ("m.equal(a, b)", X, X), ("m.equal(a, b)", X, V), ("2.0 in a", TIES), ("5 in a", TIES), ("bool(a)", np.array(0.0)), ("float(a)", SCALAR), ("int(a)", np.array(3)), ("f'{a:.3f}'", SCALAR), ("m.broadcast_shapes((3, 1), (4,)) == (3, 4)",),
    # in place
    *[(f"(lambda t: t.{e})(a * 1)", X) for e in ("add_(2)", "sub_(1.5)", "mul_(3)", "div_(2)", "neg_()", "exp_()", "sigmoid_()", "tanh_()", "clamp_(-0.5, 0.5)", "zero_()", "fill_(3)", "masked_fill_(m.tensor([True, False, True, False]), 9)", "abs_()", "floor_()", "tril_()", "round_()", "clamp_min_(0)", "mul_(2).add_(1)", "cumsum_(0)")],
    ("(lambda t: t.add_(b, alpha=2))(a * 1)", X, ROW), ("(lambda t: t.copy_(b))(a * 1)", X, ROW), ("(lambda t: t.scatter_add_(0, b, c))(a * 1)", X, i(5, 4), f(5, 4)), ("(lambda t: t.lerp_(b, 0.5))(a * 1)", X, Y), ("(lambda t: t.index_add_(0, b, c))(a * 1)", X, i(2), f(2, 4)), ("(lambda t: t.fill_diagonal_(2))(a * 1)", X),
]  # fmt: skip

STATEMENTS = [
    "t = a * 1; t[0] = 5.0",
    "t = a * 1; t[:, 1] = b[:, 0] * 2",
    "t = a * 1; t[0] += 3",
    "t = a * 1; t[0].mul_(2)",
    "t = a * 1; t[0, 1:].mul_(2); t = t * t",
    "t = a * 1; v = t[1]; v.add_(b[0]); t = t * b",
    "t = a * 1; v = t.view(-1); v[2:5] = 7; t = t * 2",
    "t = a * 1; v = t.T; v[0].mul_(3)",
    "t = a * 1; t[t > 0] = 0",
    "t = a * 1; t[t > 0] *= 2",
    "t = a * 1; t[[0, 2]] = b[:2]",
    "t = a * 1; t[m.tensor([0, 1]), m.tensor([1, 2])] = b[0, :2]",
    "t = a * 1; t[...] = b",
    "t = a * 1; t[1:] = b[0]",
    "t = a * 1; t += b; t -= 1; t *= 2; t /= 3",
    "t = a * 1; v = t[0:2]; t.mul_(3); t = v * b[0:2]",
    "t = a * 1; v = t[0]; w = t.view(-1); v.mul_(2); t = w * w",
    "t = a * 1; v = t.T; w = v[1:]; t[:, 2] = 5.0; t += b; t = w * w",
    "t = a * 1; v = t[0]; w = v[1:]; v.exp_(); t = w * t[0, 1:]",
    "t = a * 1; v = t[0]; t.zero_(); t = v + b[0]",
    "t = m.zeros(3, 4); t[0] = a[0]; t[1] += b[1]",
    "t = m.zeros(3, 4); t[1:].copy_(a[1:])",
    "t = a * 1; u = t.detach(); s = t + 1; t = s * u",
]
