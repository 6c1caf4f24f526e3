"""Who holds the GIL during a product: kernels on up to 4,096 elements keep it, larger ones let other threads run."""

import sys
import threading
import time

import numpy as np
import pytest
from references import matmul as ref
from tolerance import assert_close_sum

from fastdl import _core

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL"),
]

MOST = 4096  # csrc/bindings/common.h

#: m, n and k of products whose operands have just as many elements, and one more or a few.
MATMUL = {"few": (1, 240, 16), "many": (1, 682, 5)}
BACKWARD = {"few": (1, 681, 5), "many": (2, 817, 3)}


def matmul(rng, m, n, k):
    a, b, out = rng.standard_normal((m, k)), rng.standard_normal((k, n)), np.empty((m, n))
    return [a, b, out], lambda: _core.matmul(a, b, None, None, out, 1.0, 0.0, 0, 0.0, 0.0)


def linear(rng, m, n, k):
    x, w, out = rng.standard_normal((m, k)), rng.standard_normal((n, k)), np.empty((m, n))
    return [x, w, out], lambda: _core.linear(x, w, None, out, 0, 0.0, 0.0)


def linear_to_new(rng, m, n, k):
    x, w, out = rng.standard_normal((m, k)), rng.standard_normal((n, k)), np.empty((m, n))

    def call():
        out[...] = _core.linear_to_new(x, w, None, 0, 0.0, 0.0, False)

    return [x, w, out], call


def linear_backward(rng, m, n, k):
    grad, x, w = (rng.standard_normal(shape) for shape in ((m, n), (m, k), (n, k)))
    dx = np.empty((m, k))
    return [grad, x, w, dx], lambda: _core.linear_backward(
        grad, None, x, w, dx, np.empty((n, k)), None, 0, 0.0, 0.0
    )


FUNCTIONS = [(matmul, MATMUL), (linear, MATMUL), (linear_to_new, MATMUL), (linear_backward, BACKWARD)]


@pytest.fixture
def ticks():
    """A list that another thread appends to whenever it gets the GIL. Nothing but giving it up hands it over: not
    even in an hour does the interpreter ask for it.
    """
    found, started, stop = [], threading.Event(), threading.Event()

    def tick():
        started.set()
        while not stop.is_set():
            found.append(1)
            time.sleep(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        started.wait()
        yield found
    finally:
        sys.setswitchinterval(before)
        stop.set()
        thread.join()


@pytest.mark.parametrize("function, sizes", FUNCTIONS, ids=lambda x: getattr(x, "__name__", ""))
def test_small_products_keep_the_gil(function, sizes, rng, ticks):
    arrays, call = function(rng, *sizes["few"])
    assert sum(a.size for a in arrays) == MOST
    call()  # what pybind11 looks up once, it looks up without the GIL
    before = len(ticks)
    for _ in range(2000):
        call()
    assert len(ticks) == before


@pytest.mark.parametrize("function, sizes", FUNCTIONS, ids=lambda x: getattr(x, "__name__", ""))
def test_others_run_during_larger_ones(function, sizes, rng, ticks):
    arrays, call = function(rng, *sizes["many"])
    assert MOST < sum(a.size for a in arrays) < MOST + 10
    before, end = len(ticks), time.monotonic() + 60
    while len(ticks) == before and time.monotonic() < end:
        call()
    assert len(ticks) > before


@pytest.mark.parametrize("side", ["few", "many"])
def test_results_and_errors_on_both_sides(side, rng):
    for function in (matmul, linear, linear_to_new):
        (a, b, out), call = function(rng, *MATMUL[side])
        call()
        right = b if function is matmul else b.T
        assert_close_sum(out, ref.matmul(a, right), ref.matmul_abs(a, right), a.shape[1])
    (grad, _, w, dx), call = linear_backward(rng, *BACKWARD[side])
    call()
    assert_close_sum(dx, grad @ w, np.abs(grad) @ np.abs(w), grad.shape[1])

    m, n, k = MATMUL[side]
    x, out = np.ones((m, k)), np.full((m, n), 7.0)
    w = np.ones((n, k - 1 if side == "few" else k + 1))
    dw = np.full(w.shape, 7.0)
    for error, call in [
        (ValueError, lambda: _core.matmul(x, w.T, None, None, out, 1.0, 0.0, 0, 0.0, 0.0)),
        (TypeError, lambda: _core.matmul(x, w.astype(np.float32), None, None, out, 1.0, 0.0, 0, 0.0, 0.0)),
        (ValueError, lambda: _core.linear(x, w, None, out, 0, 0.0, 0.0)),
        (ValueError, lambda: _core.linear_backward(out, None, x, w, None, dw, None, 0, 0.0, 0.0)),
    ]:
        with pytest.raises(error):
            call()
        # An error, too, gives the GIL back: threads begin and end.
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
    assert (out == 7.0).all() and (dw == 7.0).all()
