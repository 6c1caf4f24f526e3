"""RNN, GRU and LSTM: kernels against the references, options, errors. (Layers: test_rnn_layers.py.)"""

import numpy as np
import pytest
from devices import thread_counts
from layouts import strided_variants
from references import rnn as ref
from tolerance import assert_same_bits, unit_roundoff

import fastdl
from fastdl import _core, ops
from fastdl.ops.rnn import Network

KINDS = ("rnn_tanh", "rnn_relu", "gru", "lstm")


def make(rng, kind, inputs, hidden, layers=1, bidirectional=False, bias=True, dtype=np.float64):
    """Weights as the references take them (a tuple per layer and direction) and as a flat list."""
    rows = ref.GATES[kind] * hidden
    directions = 2 if bidirectional else 1
    weights = []
    for layer in range(layers):
        for _ in range(directions):
            shapes = [(rows, inputs if layer == 0 else directions * hidden), (rows, hidden), (rows,), (rows,)]
            values = [(rng.uniform(-1, 1, s) / np.sqrt(hidden)).astype(dtype) for s in shapes]
            weights.append(tuple(values) if bias else (*values[:2], None, None))
    return weights, [p for w in weights for p in w if p is not None]


def make_states(rng, kind, count, batch, hidden, dtype=np.float64):
    return tuple(
        rng.standard_normal((count, batch, hidden)).astype(dtype) for _ in range(2 if kind == "lstm" else 1)
    )


def close(actual, expected, dtype, steps, what):
    """Gates and states stay of order 1 and their errors add up over the steps: some 100 roundings a step."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, what
    allowed = 100 * steps * unit_roundoff(dtype) * max(1.0, float(np.max(np.abs(expected), initial=0)))
    error = float(np.max(np.abs(actual - expected), initial=0))
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"


def compare(
    rng, kind, steps, batch, inputs, hidden, layers=1, bidirectional=False, lengths=None, bias=True, state=True,
    batch_first=False, dtype=np.float32,
):  # fmt: skip
    """One forward and backward against the reference; padding holds NaN, which nothing may read."""
    weights, params = make(rng, kind, inputs, hidden, layers, bidirectional, bias, dtype)
    count = len(weights)
    x = rng.standard_normal((steps, batch, inputs)).astype(dtype)
    states = make_states(rng, kind, count, batch, hidden, dtype) if state else None
    h0, c0 = (*(states or ()), None, None)[:2]
    given = x.copy()
    for b, n in enumerate(() if lengths is None else lengths):
        given[n:, b] = np.nan
    if batch_first:
        given = np.ascontiguousarray(given.swapaxes(0, 1))
    network = Network(kind, layers, bidirectional, bias, batch_first=batch_first)
    y, h_n, c_n, reserve = network.forward(given, h0, c0, params, lengths, True)
    again = network.forward(given, h0, c0, params, lengths, False)
    assert_same_bits(again[0], y, "without a reserve")

    tapes_y, final = ref.sequence(kind, x, states, weights, bidirectional, lengths=lengths)
    grads = [rng.standard_normal(tapes_y.shape).astype(dtype)]
    grads += [rng.standard_normal(f.shape).astype(dtype) for f in final]
    grad_y = grads[0].swapaxes(0, 1) if batch_first else grads[0]
    got = network.backward(grad_y, grads[1], (*grads, None)[2], given, h0, c0, params, y, reserve, lengths)
    dx, dstates, dweights = ref.sequence_backward(
        kind, grads[0], grads[1:], x, states, weights, bidirectional, lengths=lengths
    )
    expected = [tapes_y.swapaxes(0, 1) if batch_first else tapes_y, *final]
    expected += [dx.swapaxes(0, 1) if batch_first else dx, *dstates]
    expected += [
        d
        for ds, ws in zip(dweights, weights, strict=True)
        for d, w in zip(ds, ws, strict=True)
        if w is not None
    ]
    actual = [a for a in (y, h_n, c_n, *got[:3], *got[3]) if a is not None]
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        close(a, e, dtype, (steps + hidden) * layers, f"array {i}")
    return actual


# Sizes around every block: panels of 4, 8, 16, 32, 64 hidden units, rows in blocks of up to 8.
SIZES = [
    # steps, batch, inputs, hidden
    (1, 1, 1, 1), (3, 2, 4, 5), (2, 3, 3, 16), (3, 5, 2, 17), (2, 6, 7, 31), (2, 7, 1, 33), (2, 8, 5, 64),
    (3, 9, 3, 65), (2, 13, 2, 63), (4, 1, 3, 130),
    (1, 3, 2, 17), (1, 9, 3, 65), (2, 30, 1, 18), (3, 0, 2, 3), (2, 3, 0, 4),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes(rng, isa, kind, dtype):
    for steps, batch, inputs, hidden in SIZES:
        compare(rng, kind, steps, batch, inputs, hidden, dtype=dtype)


OPTIONS = [
    dict(layers=2), dict(bidirectional=True), dict(layers=3, bidirectional=True, state=False), dict(bias=False),
    dict(batch_first=True), dict(lengths=[3, 5, 1, 4, 5]), dict(lengths=[5, 4, 4, 2, 1], bidirectional=True),
    dict(lengths=[1, 2, 3, 4, 5], layers=2, bidirectional=True, batch_first=True),
    dict(lengths=[2, 2, 2, 2, 2], state=False, bidirectional=True),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_options(rng, kind, options):
    compare(rng, kind, 5, 5, 3, 20, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batch", "hidden", "bidirectional"), [(16, 72, False), (2, 200, False), (3, 190, True), (9, 430, False)]
)
def test_same_bits_for_any_number_of_threads(rng, kind, batch, hidden, bidirectional):
    """Few sequences are split by hidden units, many by sequences; no bit may depend on it."""
    results = []
    seed = int(rng.integers(1 << 30))
    before = fastdl.get_num_threads()
    try:
        for threads in thread_counts():
            fastdl.set_num_threads(threads)
            lengths = np.random.default_rng(1).integers(1, 9, batch)
            arrays = []
            for n in (None, lengths):
                arrays += compare(np.random.default_rng(seed), kind, 8, batch, 9, hidden, 1, bidirectional, n)
            results.append(arrays)
    finally:
        fastdl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(b, a)


@pytest.mark.parametrize("kind", KINDS)
def test_any_strides(rng, kind):
    _, params = make(rng, kind, 3, 6, 1, True)
    x = rng.standard_normal((4, 5, 3))
    states = make_states(rng, kind, 2, 5, 6)
    h0, c0 = (*states, None)[:2]
    network = Network(kind, 1, True)
    y, h_n, _, reserve = network.forward(x, h0, c0, params, None, True)
    grad_y = rng.standard_normal(y.shape)
    grads = network.backward(grad_y, None, None, x, h0, c0, params, y, reserve)
    layouts = [
        dict(strided_variants(a)) for a in (x, h0, h0 if c0 is None else c0, y, grad_y, params[1], params[2])
    ]
    for name in layouts[0]:
        x2, h2, c2, y2, g2, w2, b2 = (v.get(name, v["offset"]) for v in layouts)
        c2 = None if c0 is None else c2
        mixed = [params[0], w2, b2, *params[3:]]
        again = network.forward(x2, h2, c2, mixed, None, True)
        assert_same_bits(again[0], y, name)
        assert_same_bits(again[1], h_n, name)
        out = network.backward(g2, None, None, x2, h2, c2, mixed, y2, again[3])
        for a, b in zip((*out[:2], *out[3]), (*grads[:2], *grads[3]), strict=True):
            assert_same_bits(a, b, name)
    # Outputs too may have any strides.
    for name, out in strided_variants(np.full(y.shape, np.nan)):
        if name != "broadcast":
            _core.rnn_forward(x, h0, c0, params, None, out, None, None, None, network.options)
            assert_same_bits(np.ascontiguousarray(out), y, name)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_propagate(rng, kind):
    _, params = make(rng, kind, 2, 5)
    x = rng.standard_normal((4, 3, 2))
    x[2, 1, 0] = np.nan
    y, h_n, _, reserve = Network(kind).forward(x, None, None, params, None, True)
    assert np.isnan(y[2:, 1]).all() and np.isnan(h_n[0, 1]).all()
    assert np.isfinite(np.delete(y, 1, 1)).all() and np.isfinite(y[:2]).all()
    dx, _, _, dparams = Network(kind).backward(np.ones_like(y), None, None, x, None, None, params, y, reserve)
    assert np.isfinite(np.delete(dx, 1, 1)).all()
    if kind == "rnn_relu":  # a slope of 0 or 1: only the products with x and h are NaN
        assert np.isnan(dparams[0]).any() and np.isnan(dparams[1]).any()
    else:
        assert np.isnan(dx[:, 1]).all() and all(np.isnan(d).any() for d in dparams)
    x[2, 1, 0] = np.inf
    y, *_ = Network(kind).forward(x, None, None, [np.abs(p) for p in params])
    if kind == "rnn_relu":
        assert np.isposinf(y[2, 1]).all()
    else:  # saturated gates
        assert np.isfinite(y).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_at_all(kind):
    _, params = make(np.random.default_rng(0), kind, 2, 5)
    network = Network(kind, packed=True)
    x = np.zeros((0, 2))
    y, h_n, _, reserve = network.forward(x, None, None, params, [], True)
    assert y.shape == (0, 5) and h_n.shape == (1, 0, 5)
    dx, _, _, dparams = network.backward(y, None, None, x, None, None, params, y, reserve, [])
    assert dx.shape == x.shape and all((d == 0).all() for d in dparams)


def test_projection(rng):
    """Against the equations, one step at a time."""
    inputs, hidden, state, steps, batch = 3, 20, 6, 4, 5
    shapes = [(4 * hidden, inputs), (4 * hidden, state), (4 * hidden,), (4 * hidden,), (state, hidden)]
    params = [rng.uniform(-0.5, 0.5, s) for s in shapes]
    x, h, c = (rng.standard_normal(s) for s in ((steps, batch, inputs), (batch, state), (batch, hidden)))
    y, h_n, c_n = ops.lstm(x, params, h[None], c[None], has_projection=True)
    for t in range(steps):
        pre = x[t] @ params[0].T + params[2] + h @ params[1].T + params[3]
        i, f, g, o = np.split(pre, 4, -1)
        i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = (o * np.tanh(c)) @ params[4].T
        assert np.allclose(y[t], h, rtol=0, atol=1e-13)
    assert np.allclose(h_n[0], h, rtol=0, atol=1e-13) and np.allclose(c_n[0], c, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_dropout_between_layers(rng, kind, p):
    """The masks are those of ops.dropout, one layer after the other; backward uses them again."""
    steps, batch, hidden, layers = 4, 3, 6, 3
    weights, params = make(rng, kind, 5, hidden, layers, True)
    x = rng.standard_normal((steps, batch, 5))
    network = Network(kind, layers, True, dropout=p, seed=7, offset=11)
    y, _, _, reserve = network.forward(x, None, None, params, None, True)
    again = network.forward(x, None, None, params)
    assert_same_bits(again[0], y)
    masks = ops.dropout(np.ones((layers - 1, steps, batch, 2 * hidden)), p, 7, 11)
    assert network.dropout_size(x, None, params) == masks.size
    expected, _ = ref.sequence(kind, x, None, weights, True, dropout_masks=masks)
    close(y, expected, np.float64, 50, "y")
    grad = rng.standard_normal(y.shape)
    dx, _, _, dparams = network.backward(grad, None, None, x, None, None, params, y, reserve)
    dx_ref, _, dweights = ref.sequence_backward(kind, grad, None, x, None, weights, True, dropout_masks=masks)
    for a, b in zip((dx, *dparams), (dx_ref, *[d for group in dweights for d in group]), strict=True):
        close(a, b, np.float64, 50, "gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_cells(rng, kind):
    weights, params = make(rng, kind, 3, 10, dtype=np.float32)
    x = rng.standard_normal((4, 3)).astype(np.float32)
    states = tuple(s[0] for s in make_states(rng, kind, 1, 4, 10, np.float32))
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    name = kind.split("_")[0]
    out = getattr(ops, f"{name}_cell")(x, params, *states, save=True, **options)
    expected = ref.cell(kind, x, states, weights[0])
    for a, b in zip(out[:-1], expected, strict=True):
        close(a, b, np.float32, 10, "state")
    grads = [rng.standard_normal(e.shape).astype(np.float32) for e in expected]
    got = getattr(ops, f"{name}_cell_backward")(*grads, x, params, *states, out[0], out[-1], **options)
    dx, dstates, dparams = ref.cell_backward(kind, grads, x, states, weights[0])
    for a, b in zip((*got[:-1], *got[-1]), (dx, *dstates, *dparams), strict=True):
        close(a, b, np.float32, 10, "gradient")


# ---- errors ----


def test_bad_arguments(rng):
    x = np.zeros((4, 3, 2))
    _, params = make(rng, "lstm", 2, 5)
    h, c = make_states(rng, "lstm", 1, 3, 5)
    bad = [
        (ValueError, "input_size", lambda: ops.lstm(np.zeros((4, 3, 7)), params)),
        (ValueError, "shape", lambda: ops.lstm(np.zeros(4), params)),
        (ValueError, "at least 1 step", lambda: ops.lstm(np.zeros((0, 3, 2)), params)),
        (TypeError, "float", lambda: ops.lstm(np.zeros((4, 3, 2), np.int64), params)),
        (TypeError, "float32", lambda: ops.lstm(x.astype(np.float32), params)),
        (TypeError, "array", lambda: ops.lstm([[1.0]], params)),
        (TypeError, "array", lambda: ops.lstm(None, params)),
        (ValueError, "4 parameters", lambda: ops.lstm(x, params[:3])),
        (ValueError, "weight_hh_l0", lambda: ops.lstm(x, [params[0], params[1][:, :4], *params[2:]])),
        (ValueError, "bias_ih_l0", lambda: ops.lstm(x, [*params[:2], params[2][:-1], params[3]])),
        (ValueError, "h0", lambda: ops.lstm(x, params, h[:, :2], c)),
        (ValueError, "c0", lambda: ops.lstm(x, params, h, c[0])),
        (ValueError, "lengths", lambda: ops.lstm(x, params, lengths=[4, 5, 4])),
        (ValueError, "length", lambda: ops.lstm(x, params, lengths=[4, 0, 4])),
        (ValueError, "length", lambda: ops.lstm(x, params, lengths=[4, -1, 4])),
        (ValueError, "length", lambda: ops.lstm(x, params, lengths=[4, 4])),
        (ValueError, "length", lambda: ops.lstm(x, params, lengths=[[4, 4, 4]])),
        (TypeError, "lengths", lambda: ops.lstm(x, params, lengths=[4.0, 4.0, 4.0])),
        (ValueError, "layer", lambda: ops.lstm(x, [], num_layers=0)),
        (ValueError, "dropout", lambda: ops.lstm(x, params, dropout=1.5)),
        (ValueError, "nonlinearity", lambda: ops.rnn(x, params, nonlinearity="gelu")),
        (ValueError, "packed", lambda: ops.lstm(x[0], params, packed=True)),
        (ValueError, "falling", lambda: ops.lstm(x[0], params, packed=True, lengths=[1, 2])),
        (ValueError, "rows", lambda: ops.lstm(x[0], params, packed=True, lengths=[2, 2])),
    ]  # fmt: skip
    for error, text, call in bad:
        with pytest.raises(error, match=text):
            call()


def test_nothing_is_written_when_a_check_fails(rng):
    _, params = make(rng, "gru", 2, 5)
    y = np.full((4, 3, 5), 7.0)
    with pytest.raises(ValueError, match="lengths"):
        _core.rnn_forward(
            np.zeros((4, 3, 2)),
            None,
            None,
            params,
            np.array([4, 9, 1]),
            y,
            None,
            None,
            None,
            Network("gru").options,
        )
    assert (y == 7).all()
