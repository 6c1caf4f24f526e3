"""Recurrent layers of bfloat16 beside the references on the same numbers."""

import numpy as np
import pytest
from references import rnn as ref
from test_rnn import KINDS, make, make_states
from tolerance import assert_same_bits

import fastdl
from fastdl.ops.rnn import Network


def run_bfloat16(rng, kind, steps, batch, inputs, hidden, layers=1, bidirectional=False, lengths=None):
    """Forward and backward on bfloat16 arrays beside the reference on the same numbers; what came out."""
    bfloat16 = fastdl.bfloat16
    narrow = lambda a: a.astype(bfloat16)  # noqa: E731
    weights, _ = make(rng, kind, inputs, hidden, layers, bidirectional)
    weights = [tuple(map(narrow, w)) for w in weights]
    params = [p for w in weights for p in w]
    x = narrow(rng.standard_normal((steps, batch, inputs)))
    states = tuple(map(narrow, make_states(rng, kind, len(weights), batch, hidden)))
    h0, c0 = (*states, None)[:2]
    network = Network(kind, layers, bidirectional)
    y, h_n, c_n, reserve = network.forward(x, h0, c0, params, lengths, True)
    again = network.forward(x, h0, c0, params, lengths, False)
    assert_same_bits(again[0].view(np.uint16), y.view(np.uint16), "without a reserve")
    grads = [narrow(rng.standard_normal(a.shape)) for a in (y, h_n, c_n) if a is not None]
    got = network.backward(*(*grads, None)[:3], x, h0, c0, params, y, reserve, lengths)

    wide = lambda a: a.astype(np.float64)  # noqa: E731
    wide_weights = [tuple(map(wide, w)) for w in weights]
    wide_grads = [*map(wide, grads)]
    tape, final = ref.sequence(
        kind, wide(x), [*map(wide, states)], wide_weights, bidirectional, lengths=lengths
    )
    dx, dstates, dweights = ref.sequence_backward(
        kind,
        wide_grads[0],
        wide_grads[1:],
        wide(x),
        [*map(wide, states)],
        wide_weights,
        bidirectional,
        lengths=lengths,
    )
    expected = [tape, *final, dx, *dstates, *(d for ds in dweights for d in ds)]
    actual = [a for a in (y, h_n, c_n, *got[:3], *got[3]) if a is not None]
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        # Each of some three roundings a step (h, the gates kept, their gradients) is half a unit of 2^-8; what they add
        # up to grows with the square root of the steps.
        allowed = 3 * 2.0**-8 * np.sqrt(steps) * layers * max(1.0, float(np.max(np.abs(e), initial=0)))
        error = float(np.max(np.abs(a.astype(np.float64) - e), initial=0))
        assert a.dtype == bfloat16
        # The gradient of relu jumps where rounding changes a sign.
        assert error <= allowed or (kind == "rnn_relu" and i > 1), (
            f"array {i}: error {error:.3g}, allowed {allowed:.3g}"
        )
    return [a.view(np.uint16) for a in actual]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (3, 2, 4, 5), (4, 15, 7, 33), (5, 33, 20, 64), (1, 3, 5, 17)]
)
def test_bfloat16(rng, isa, kind, sizes):
    run_bfloat16(rng, kind, *sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_options(rng, isa, kind):
    run_bfloat16(rng, kind, 4, 6, 9, 20, layers=2, bidirectional=True)
    run_bfloat16(rng, kind, 5, 5, 3, 20, bidirectional=True, lengths=[3, 5, 1, 4, 5])


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_same_bits_for_any_number_of_threads(rng, kind):
    seed = int(rng.integers(1 << 30))
    before = fastdl.get_num_threads()
    try:
        for sizes, bidirectional in [
            ((6, 16, 9, 72), False),
            ((6, 3, 9, 190), True),
            ((6, 40, 30, 33), False),
        ]:
            lengths = np.random.default_rng(1).integers(1, 7, sizes[1])
            results = []
            for threads in (1, 2, 7):
                fastdl.set_num_threads(threads)
                for n in (None, lengths):
                    args = np.random.default_rng(seed), kind, *sizes, 1, bidirectional, n
                    results.append(run_bfloat16(*args))
            for i in (2, 4):
                for a, b in zip(results[0] + results[1], results[i] + results[i + 1], strict=True):
                    assert_same_bits(b, a)
    finally:
        fastdl.set_num_threads(before)
