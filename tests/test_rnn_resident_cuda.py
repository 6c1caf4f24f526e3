"""The kernel that takes a recurrent layer through all its steps (rnn_resident.cuh): which layers it takes and how it is
cut up, the heights there are of it, how its blocks hand states to each other. On the host executor where it was built
(FASTDL_SIMT=ON), else skipped."""

import sys

import devices
import numpy as np
import pytest
from test_rnn import KINDS, make, make_states
from test_rnn_cuda import distances, run

import fastdl
from fastdl.ops.rnn import Network

sim = devices.cuda_kernels()
TYPES = [np.float32, np.float16, fastdl.bfloat16]
UNIT = {np.float32: 2.0**-20, np.float16: 2.0**-11, fastdl.bfloat16: 2.0**-8}


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(sys.modules[Network.__module__], "kernels", lambda array: sim)
    monkeypatch.setenv("FASTDL_CUDA_RNN", "portable")  # Hopper's have tests of their own


def check(network, dtype, x, states, params, lengths=None, slack=8):
    """Forward and backward against the same in float64, from the same rounded numbers; twice the same bits."""
    x, *arrays = (a.astype(dtype) for a in (x, *states, *params))
    states, params = arrays[: len(states)], arrays[len(states) :]
    expected = run(network, np.float64, x, states, params, lengths)
    actual = run(network, dtype, x, states, params, lengths)
    # Of relu only the outputs: its gradient jumps where rounding changes a sign.
    count = 2 if network.kind == "rnn_relu" and dtype != np.float32 else None
    assert max(distances(actual[:count], expected[:count])) < slack * UNIT[dtype]
    for a, b in zip(actual, run(network, dtype, x, states, params, lengths), strict=True):
        np.testing.assert_array_equal(a, b)


# The most hidden units of each height on the executor's four multiprocessors, and one more.
@pytest.mark.parametrize(
    ("kind", "hidden"),
    [("lstm", n) for n in (1, 8, 32, 33, 48, 49, 64, 65)]
    + [("gru", n) for n in (40, 41, 64, 65)]
    + [("rnn_tanh", n) for n in (16, 64, 65, 128, 129)]
    + [("rnn_relu", n) for n in (17, 128)],
)
@pytest.mark.parametrize("dtype", TYPES)
def test_heights(rng, kind, hidden, dtype):
    _, params = make(rng, kind, 3, hidden)
    check(Network(kind), dtype, rng.standard_normal((4, 5, 3)), make_states(rng, kind, 1, 5, hidden), params)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_directions_and_lengths(rng, kind, dtype):
    """Several groups of 16 sequences, the last one not full; sequences that begin and end within the others."""
    _, params = make(rng, kind, 3, 15, 2, True)
    lengths = [*rng.integers(1, 6, 35), 5]
    x, states = rng.standard_normal((5, 36, 3)), make_states(rng, kind, 4, 36, 15)
    check(Network(kind, 2, True), dtype, x, states, params, lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_rows_of_states(rng, kind):
    """Their last 16 bytes are not all theirs."""
    for hidden in (3, 9, 13, 30):
        _, params = make(rng, kind, 2, hidden, 1, True)
        x, states = rng.standard_normal((3, 9, 2)), make_states(rng, kind, 2, 9, hidden)
        check(Network(kind, 1, True), fastdl.bfloat16, x, states, params)
        check(Network(kind, 1, True), np.float32, x, states, params)


@pytest.mark.parametrize(
    ("kind", "dtype", "hidden", "processors", "shared"),
    [
        ("lstm", np.float32, 264, 22, 227),
        ("lstm", np.float32, 264, 22, 80),
        ("rnn_tanh", np.float32, 264, 9, 227),
        ("lstm", fastdl.bfloat16, 520, 33, 227),
    ],
)
def test_weights_that_registers_do_not_hold(rng, monkeypatch, kind, dtype, hidden, processors, shared):
    """Some lie in shared memory. With 80 KiB of it there is one buffer for sums."""
    monkeypatch.setenv("FASTDL_SIMT_PROCESSORS", str(processors))
    monkeypatch.setenv("FASTDL_SIMT_SHARED", str(shared))
    _, params = make(rng, kind, 2, hidden)
    x, states = rng.standard_normal((2, 3, 2)), make_states(rng, kind, 1, 3, hidden)
    check(Network(kind), dtype, x, states, params)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("hidden", "processors", "shared"), [(64, 4, 227), (70, 8, 227), (136, 16, 40)])
def test_backward_in_parts_of_k(rng, monkeypatch, kind, hidden, processors, shared):
    """Two groups of sequences; one to three groups of units, four or five parts; one buffer for sums or two."""
    monkeypatch.setenv("FASTDL_CUDA_RNN_PARTS", "always")
    monkeypatch.setenv("FASTDL_SIMT_PROCESSORS", str(processors))
    monkeypatch.setenv("FASTDL_SIMT_SHARED", str(shared))
    _, params = make(rng, kind, 3, hidden)
    x, states = rng.standard_normal((4, 18, 3)), make_states(rng, kind, 1, 18, hidden)
    check(Network(kind), fastdl.bfloat16, x, states, params)
    check(Network(kind), np.float16, x, states, params, [*rng.integers(1, 5, 17), 4])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processors", [8, 64])
def test_two_directions_in_parts_of_k(rng, monkeypatch, kind, processors):
    """Groups of sequences that take turns, or have blocks of their own."""
    monkeypatch.setenv("FASTDL_CUDA_RNN_PARTS", "always")
    monkeypatch.setenv("FASTDL_SIMT_PROCESSORS", str(processors))
    _, params = make(rng, kind, 3, 40, 2, True)
    x, states = rng.standard_normal((5, 36, 3)), make_states(rng, kind, 4, 36, 40)
    check(Network(kind, 2, True), fastdl.bfloat16, x, states, params, [*rng.integers(1, 6, 35), 5])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("where", ["x", "h0", "grad", "grad in parts of k"])
def test_a_nan_of_all_ones_is_not_waited_for(rng, monkeypatch, kind, dtype, where):
    """What has not come yet is all ones: a NaN that is must arrive all the same, and only where it belongs."""
    if where == "grad in parts of k":
        monkeypatch.setenv("FASTDL_CUDA_RNN_PARTS", "always")
    _, params = make(rng, kind, 3, 40)
    x, states = rng.standard_normal((3, 4, 3)), make_states(rng, kind, 1, 4, 40)
    x, *arrays = (a.astype(dtype) for a in (x, *states, *params))
    states, params = arrays[: len(states)], arrays[len(states) :]
    ones = np.frombuffer(b"\xff" * 8, dtype)[0]
    if where == "x":
        x[1, 2, 0] = ones
    elif where == "h0":
        states[0][0, 2, 1] = ones
    network = Network(kind)
    y, _, _, reserve = network.forward(x, *(*states, None)[:2], params, None, True)
    if where in ("x", "h0"):
        wrong = np.isnan(y.astype(np.float32)).any(2)
        assert wrong[1 if where == "x" else 0 :, 2].all() and not wrong[:, [0, 1, 3]].any()
    grad = np.ones_like(y)
    if where not in ("x", "h0"):
        grad[2, 2, 4] = ones
    dx = network.backward(grad, None, None, x, *(*states, None)[:2], params, y, reserve)[0]
    wrong = np.isnan(dx.astype(np.float32)).any(2)
    assert (wrong[0, 2] or kind == "rnn_relu") and not wrong[:, [0, 1, 3]].any()
