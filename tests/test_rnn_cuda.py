"""What is special to the CUDA recurrent layers: several blocks of a step, products longer than shared memory, 16-bit
types, precisions. On the host executor where it was built (FASTDL_SIMT=ON), else skipped."""

import sys

import devices
import numpy as np
import pytest
from test_rnn import KINDS, close, compare, make, make_states
from tolerance import assert_same_bits

import fastdl
from fastdl.ops.rnn import Network

sim = devices.cuda_kernels()
HIGHEST, HIGH, MEDIUM = range(3)


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(sys.modules[Network.__module__], "kernels", lambda array: sim)
    monkeypatch.setenv("FASTDL_CUDA_RNN", "portable")  # Hopper's have tests of their own
    yield
    sim.set_float32_precision(HIGHEST)


@pytest.mark.parametrize("kind", KINDS)
def test_several_blocks(rng, kind):
    """A block makes 32 sequences and 8 (or 16) units."""
    lengths = [*rng.integers(1, 4, 35), 3]
    compare(rng, kind, 3, 36, 5, 37, bidirectional=True, lengths=lengths)
    compare(rng, kind, 2, 33, 3, 17, dtype=np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, fastdl.bfloat16])
@pytest.mark.parametrize(("batch", "hidden"), [(40, 29), (40, 7), (9, 16), (36, 70)])
def test_one_kernel_for_all_steps_or_one_each(rng, kind, dtype, batch, hidden):
    """Small layers (here: up to 64 units) keep their weights on chip over all steps; their sums have another order."""
    _, params = make(rng, kind, 5, hidden, dtype=dtype)
    x, network = rng.standard_normal((5, batch, 5)).astype(dtype), Network(kind)
    y, h_n, *_ = network.forward(x, None, None, params, None, True)
    h = c = None
    for t in range(5):
        step, h, c, _ = network.forward(x[t : t + 1], h, c, params)
        # Of 16 bits, GRU and LSTM round their states between calls.
        close = 2e-6 if dtype == np.float32 else 0.05
        assert np.abs(y[t].astype(np.float32) - step[0].astype(np.float32)).max() < close
    assert_same_bits(h_n[0], y[-1])


def run(network, dtype, x, states, params, lengths=None):
    """Everything forward and backward make of the same numbers in one dtype, as float64."""
    x, *arrays = (a.astype(dtype) for a in (x, *states, *params))
    states, params = arrays[: len(states)], arrays[len(states) :]
    h0, c0 = (*states, None, None)[:2]
    y, h_n, c_n, reserve = network.forward(x, h0, c0, params, lengths, True)
    rng = np.random.default_rng(5)
    grads = [rng.standard_normal(a.shape).astype(dtype) for a in (y, h_n, c_n) if a is not None]
    dx, dh, dc, dparams = network.backward(*(*grads, None)[:3], x, h0, c0, params, y, reserve, lengths)
    results = [a for a in (y, h_n, c_n, dx, dh, dc, *dparams) if a is not None]
    assert all(a.dtype == np.dtype(dtype) for a in results)
    return [a.astype(np.float64) for a in results]


def distances(actual, expected):
    """Of every array, the largest error over its largest element."""
    return [np.abs(a - e).max() / max(1.0, np.abs(e).max()) for a, e in zip(actual, expected, strict=True)]


def projected(rng, hidden=9, state=420, inputs=3, batch=5):
    """An LSTM with states so long that the tiles of a step take turns in shared memory, forward and backward."""
    shapes = [(4 * hidden, inputs), (4 * hidden, state), (4 * hidden,), (4 * hidden,), (state, hidden)]
    params = [rng.uniform(-1, 1, s) / np.sqrt(s[-1]) for s in shapes * 2]
    states = rng.standard_normal((2, batch, state)), rng.standard_normal((2, batch, hidden))
    return (
        Network("lstm", 1, True, has_projection=True),
        rng.standard_normal((3, batch, inputs)),
        states,
        params,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, fastdl.bfloat16])
def test_long_products(rng, dtype):
    network, x, states, params = projected(rng)
    x, states = x.astype(dtype), [s.astype(dtype) for s in states]
    params = [p.astype(dtype) for p in params]
    expected = run(network, np.float64, x, states, params, [3, 1, 2, 3, 3])
    actual = run(network, dtype, x, states, params, [3, 1, 2, 3, 3])
    unit = {2: 2.0**-8 if dtype == fastdl.bfloat16 else 2.0**-11, 4: 2.0**-20}[np.dtype(dtype).itemsize]
    assert max(distances(actual, expected)) < 6 * unit
    for a, b in zip(actual, run(network, dtype, x, states, params, [3, 1, 2, 3, 3]), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_float16(rng, kind):
    _, params = make(rng, kind, 5, 21, 2, True)
    x, states = rng.standard_normal((4, 6, 5)), make_states(rng, kind, 4, 6, 21)
    x, *arrays = (a.astype(np.float16) for a in (x, *states, *params))
    states, params = arrays[: len(states)], arrays[len(states) :]
    network = Network(kind, 2, True)
    expected = run(network, np.float64, x, states, params)
    errors = distances(run(network, np.float16, x, states, params), expected)
    # Of relu only the outputs: its gradient jumps where rounding changes a sign.
    assert max(errors[: 2 if kind == "rnn_relu" else None]) < 8 * 2.0**-11


def test_precisions(rng):
    network, x, states, params = projected(rng)
    expected = run(network, np.float64, x, states, params)
    errors = []
    for precision in (HIGHEST, HIGH, MEDIUM):
        sim.set_float32_precision(precision)
        errors.append(max(distances(run(network, np.float32, x, states, params), expected)))
    assert errors[0] < 2e-6 and 2e-6 < errors[1] < 1e-3 and 5e-4 < errors[2] < 0.05


def test_values_that_do_not_split(rng):
    """Weights beside 2^-100 or infinite are multiplied by ordinary arithmetic."""
    _, params = make(rng, "rnn_tanh", 4, 20, dtype=np.float32)
    params[1][3] *= np.float32(2.0**-120)
    x, (h0,) = rng.standard_normal((3, 4, 4)), make_states(rng, "rnn_tanh", 1, 4, 20)
    expected = run(Network("rnn_tanh"), np.float64, x, [h0], params)
    for a, e in zip(run(Network("rnn_tanh"), np.float32, x, [h0], params), expected, strict=True):
        close(a.astype(np.float32), e, np.float32, 20, "tiny weights")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_no_states_are_not_multiplied(rng, kind, dtype):
    """Not even by an infinite weight where other sequences of the block have one."""
    _, params = make(rng, kind, 4, 10, 1, True, dtype=dtype)
    x = rng.standard_normal((2, 3, 4)).astype(dtype)
    network, lengths = Network(kind, 1, True), [2, 1, 1]
    expected = network.forward(x, None, None, params, lengths)[0]
    params[1][2, 3] = params[5][2, 3] = np.inf
    y = network.forward(x, None, None, params, lengths)[0]
    assert_same_bits(y[0, 1:], expected[0, 1:])


def test_lengths_are_read_on_the_host(rng):
    _, params = make(rng, "gru", 2, 5)
    x, y = np.zeros((3, 2, 2)), np.zeros((3, 2, 5))
    with pytest.raises(TypeError, match="lengths"):
        sim.rnn_forward(x, None, None, params, [3, 1], y, None, None, None, Network("gru").options)
