"""Every function against PyTorch: values, dtypes, shapes and gradients, from one table run on both libraries."""

import warnings

import numpy as np
import pytest
from function_cases import CASES, STATEMENTS, X, Y

import fastdl

torch = pytest.importorskip("torch")


def tensors(module, arrays, grad):
    make = module.tensor
    return [make(x, requires_grad=grad and x.dtype.kind == "f") for x in arrays]


def flat(out):
    if isinstance(out, (list, tuple)):
        return [t for o in out for t in flat(o)]
    return [out]


def value(t):
    if isinstance(t, (fastdl.Tensor, torch.Tensor)):
        return t.detach().numpy()
    return t


def same(mine, theirs, tolerance):
    if isinstance(theirs, np.ndarray):
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(mine, theirs)
    else:
        assert mine == pytest.approx(theirs)


def tolerance_of(arrays):
    return 2e-3 if any(x.dtype == np.float16 for x in arrays) else 2e-5


def run(compiled, module, arrays, statement=False):
    args = tensors(module, arrays, True)
    names = {"m": module, **dict(zip("abc", args))}
    if statement:
        exec(compiled, names)
        out = names["t"]
    else:
        out = eval(compiled, names)
    outs = flat(out)
    loss = None
    for k, t in enumerate(outs):
        if isinstance(t, (fastdl.Tensor, torch.Tensor)) and t.requires_grad:
            weights = np.cos(np.arange(t.numel()) + k).reshape(tuple(t.shape)).astype(value(t).dtype)
            part = (t * module.tensor(weights)).sum().to(module.float64)
            loss = part if loss is None else loss + part
    if loss is not None:
        loss.backward()
    grads = [None if t.grad is None else value(t.grad) for t in args]
    return (
        [value(t) for t in outs],
        [isinstance(t, (fastdl.Tensor, torch.Tensor)) and t.requires_grad for t in outs],
        grads,
    )


def compare(code, arrays, statement):
    compiled = compile(code, code, "exec" if statement else "eval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, their_flags, their_grads = run(compiled, torch, arrays, statement)
    mine, flags, grads = run(compiled, fastdl, arrays, statement)
    tolerance = tolerance_of(arrays)
    assert len(mine) == len(theirs)
    for x, y in zip(mine, theirs):
        same(x, y, tolerance)
    assert flags == their_flags
    for x, y in zip(grads, their_grads):
        if x is None or y is None:
            assert x is None or not np.any(x)
            assert y is None or not np.any(y)
        else:
            same(x, y, tolerance)


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_parity(case):
    code, *arrays = case
    compare(code, [np.asarray(x) for x in arrays], False)


@pytest.mark.parametrize("code", STATEMENTS)
def test_assignment(code):
    compare(code, [X, Y], True)
