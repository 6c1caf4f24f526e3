"""Recurrent layers by Hopper's clusters (csrc/cuda/rnn_sm90_*.cuh): every layer that they can compute is sent to them
and compared with float64. On the host executor where it was built (FASTDL_SIMT=ON), on a GPU of compute capability
9.0 with ``--device cuda``."""

import sys

import devices
import numpy as np
import pytest
from hopper import kernel_choice
from references import rnn as ref
from test_rnn import KINDS, make, make_states
from tolerance import assert_same_bits

import fastdl
from fastdl.ops.rnn import Network

sim = devices.cuda_kernels()
sm90, portable = kernel_choice("FASTDL_CUDA_RNN")
BF16, F16 = fastdl.bfloat16, np.float16
ROUNDOFF = {BF16: 2.0**-8, F16: 2.0**-11}


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(sys.modules[Network.__module__], "kernels", lambda array: sim)


class Case:
    """A layer's arguments, in 16 bits; padding holds NaN, which nothing may read."""

    def __init__(
        self, rng, kind, steps, batch, hidden, dtype=BF16, directions=1, lengths=None, state=True, inputs=3
    ):
        narrow = lambda a: a.astype(dtype)  # noqa: E731
        weights, _ = make(rng, kind, inputs, hidden, 1, directions == 2)
        self.weights = [tuple(map(narrow, w)) for w in weights]
        self.params = [p for w in self.weights for p in w]
        self.kind, self.dtype, self.directions, self.lengths = kind, dtype, directions, lengths
        self.x = narrow(rng.standard_normal((steps, batch, inputs)))
        for b, n in enumerate(() if lengths is None else lengths):
            self.x[n:, b] = np.nan
        self.states = tuple(map(narrow, make_states(rng, kind, directions, batch, hidden))) if state else None
        self.network = Network(kind, 1, directions == 2)
        self.grads = None
        self.rng = rng
        self.jumps = kind == "rnn_relu"  # gradients, where rounding changes a sign

    def forward(self, save=True):
        h0, c0 = (*(self.states or ()), None, None)[:2]
        return self.network.forward(self.x, h0, c0, self.params, self.lengths, save)

    def run(self):
        """Everything that forward and backward make."""
        y, h_n, c_n, reserve = self.forward()
        if self.grads is None:
            shapes = [a.shape for a in (y, h_n, c_n) if a is not None]
            self.grads = [self.rng.standard_normal(s).astype(self.dtype) for s in shapes]
        h0, c0 = (*(self.states or ()), None, None)[:2]
        got = self.network.backward(
            *(*self.grads, None)[:3], self.x, h0, c0, self.params, y, reserve, self.lengths
        )
        return [a for a in (y, h_n, c_n, *got[:3], *got[3]) if a is not None]

    def expected(self):
        wide = lambda a: np.nan_to_num(a.astype(np.float64))  # noqa: E731
        states = None if self.states is None else [*map(wide, self.states)]
        weights = [tuple(map(wide, w)) for w in self.weights]
        both, grads = self.directions == 2, [*map(wide, self.grads)]
        y, final = ref.sequence(self.kind, wide(self.x), states, weights, both, lengths=self.lengths)
        dx, dstates, dweights = ref.sequence_backward(
            self.kind, grads[0], grads[1:], wide(self.x), states, weights, both, lengths=self.lengths
        )
        return [y, *final, dx, *(dstates if states else ()), *(d for ds in dweights for d in ds)]

    def check(self):
        """Within some three roundings a step (h, the gates' gradients), each half a unit, that add up at random."""
        actual, steps = self.run(), len(self.x)
        expected = self.expected()
        if self.states is None:  # gradients of states that were not given may come or not
            actual = [*actual[: len(self.grads) + 1], *actual[-len(self.params) :]]
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            allowed = (
                3 * ROUNDOFF[self.dtype] * np.sqrt(steps) * max(1.0, float(np.max(np.abs(e), initial=0)))
            )
            error = float(np.max(np.abs(a.astype(np.float64) - e), initial=0))
            assert error <= allowed or (self.jumps and i > 1), (
                f"array {i}: error {error:.3g}, allowed {allowed:.3g}"
            )
        return actual


def check_bits(one, other):
    for a, b in zip(one, other, strict=True):
        assert_same_bits(a.view(np.uint16), b.view(np.uint16))


# Clusters of 4 and of 8 blocks; one sequence of a lane and two; units that do not fill blocks.
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [1, 7, 32, 33, 100, 128])
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_small_layers(rng, kind, hidden, dtype):
    Case(rng, kind, 4, 3, hidden, dtype).check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden, batch", [(129, 7), (161, 2), (250, 1), (256, 9)])
def test_large_clusters(rng, kind, hidden, batch):
    Case(rng, kind, 3, batch, hidden).check()


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("hidden, batch", [(257, 5), (400, 1), (512, 9)])
def test_large_clusters_without_gates(rng, kind, hidden, batch):
    Case(rng, kind, 3, batch, hidden).check()


@pytest.mark.parametrize(
    "kind, hidden, batch",
    [("lstm", 257, 3), ("lstm", 512, 9), ("gru", 330, 8), ("gru", 512, 1), ("rnn_tanh", 530, 7), ("rnn_relu", 1024, 2)],
)  # fmt: skip
def test_the_largest_clusters(rng, kind, hidden, batch):
    """Sixteen blocks, in which two warps share k. Not every device has places for them; others take the layer then."""
    lengths = [int(n) for n in rng.integers(1, 5, batch)]
    lengths[0] = 4
    case = Case(rng, kind, 4, batch, hidden, directions=2, lengths=lengths)
    check_bits(case.check(), case.run())


@pytest.mark.parametrize("hidden, batch", [(40, 3), (200, 9), (600, 2)])
def test_gradients_of_relu(rng, hidden, batch):
    """Of units that are far above zero or far below."""
    case = Case(rng, "rnn_relu", 4, batch, hidden, directions=2, lengths=[4, *rng.integers(1, 5, batch - 1)])
    for w_ih, w_hh, b_ih, _ in case.weights:
        w_ih[:] = np.clip(w_ih, -0.1, 0.1)
        w_hh[:] = abs(w_hh) / hidden**0.5
        b_ih[:] = rng.choice([-100.0, 3.0], hidden)
    case.jumps = False
    y = case.check()[0].astype(np.float32)
    assert (y == 0).mean() > 0.2 and (y > 1).mean() > 0.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch, directions", [(1, 1), (1, 2), (70, 1), (130, 2), (215, 1)])
def test_groups(rng, kind, batch, directions):
    """From one sequence of a cluster to eight, the last group not full; more clusters than run at a time."""
    Case(rng, kind, 3, batch, 20, directions=directions).check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden, batch", [(40, 13), (140, 13), (300, 9)])
def test_few_sequences_to_a_cluster(rng, monkeypatch, kind, hidden, batch):
    """As on a whole device: one, two or four, the last group not full."""
    monkeypatch.setenv("FASTDL_SIMT_PROCESSORS", "132")
    Case(rng, kind, 3, batch, hidden, lengths=[3] * (batch - 2) + [2, 1]).check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("batch", [6, 120])
def test_lengths(rng, kind, state, batch):
    """Sequences that begin (backwards: end) at different steps, in either direction."""
    lengths = [int(n) for n in rng.integers(1, 7, batch)]
    lengths[batch // 2] = 6
    Case(rng, kind, 6, batch, 21, directions=2, lengths=lengths, state=state).check()


@pytest.mark.parametrize("kind", KINDS)
def test_longest_sequences_of_a_group_are_short(rng, kind):
    lengths = [2] * 119 + [6]
    Case(rng, kind, 6, 120, 21, directions=2, lengths=lengths).check()


@pytest.mark.parametrize("kind", KINDS)
def test_many_steps(rng, kind):
    Case(rng, kind, 60, 2, 40, F16, state=False).check()


@pytest.mark.parametrize("kind", KINDS)
def test_repeats_and_companions(rng, kind):
    """The same bits again, without a reserve, and whatever sequences share a cluster."""
    case = Case(rng, kind, 5, 90, 40)
    results = case.run()
    check_bits(case.run(), results)
    check_bits([case.forward(save=False)[0]], results[:1])
    few = Case(rng, kind, 5, 3, 40)
    few.params, few.weights = case.params, case.weights
    few.x, few.states = (
        np.ascontiguousarray(case.x[:, 50:53]),
        [np.ascontiguousarray(s[:, 50:53]) for s in case.states],
    )
    check_bits([few.forward()[0]], [results[0][:, 50:53]])


@pytest.mark.parametrize("kind", KINDS)
def test_like_the_portable_kernels(rng, portable, kind):
    """Whichever makes the reserve, and whichever reads it."""
    case = Case(rng, kind, 5, 9, 50, F16, directions=2, lengths=[5, 1, 2, 3, 4, 5, 5, 1, 2])
    ours, theirs = case.run(), portable(case.run)
    if kind == "rnn_relu":  # its gradient jumps where rounding changes a sign
        ours, theirs = ours[:2], theirs[:2]
    else:
        assert any((a.view(np.uint16) != b.view(np.uint16)).any() for a, b in zip(ours, theirs, strict=True))
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.astype("f8"), b.astype("f8")
        assert np.abs(a - b).max() <= 8 * ROUNDOFF[F16] * max(1, np.abs(b).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden, batch", [(21, 3), (200, 9)])
def test_all_of_every_result_is_written(rng, kind, hidden, batch):
    """By the functions of the library themselves, into arrays of NaN; padding becomes zeros."""
    lengths = np.array([2, 4, 1] * (batch // 3))
    case = Case(rng, kind, 4, batch, hidden, directions=2, lengths=lengths)
    expected = case.run()
    options = case.network.options
    poisoned = lambda *shape: np.full(shape, np.nan, BF16)  # noqa: E731
    h0, c0 = (*case.states, None)[:2]
    states = (2, batch, hidden)
    y, h_n, c_n = poisoned(4, batch, 2 * hidden), poisoned(*states), None if c0 is None else poisoned(*states)
    size = sim.rnn_reserve_size(options, int(lengths.sum()), hidden, hidden)
    reserve = np.full(size, np.nan, np.float32)
    sim.rnn_forward(case.x, h0, c0, case.params, lengths, y, h_n, c_n, reserve, options)
    dx, dh, dc = poisoned(*case.x.shape), poisoned(*states), None if c0 is None else poisoned(*states)
    grads = [poisoned(*p.shape) for p in case.params]
    sim.rnn_backward(
        *(*case.grads, None)[:3], case.x, h0, c0, case.params, lengths, y, reserve, dx, dh, dc, grads, options
    )
    check_bits([a for a in (y, h_n, c_n, dx, dh, dc, *grads) if a is not None], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_no_states_are_not_multiplied(rng, kind):
    """Not even by an infinite weight where other sequences of the cluster have one."""
    case = Case(rng, kind, 2, 30, 10, directions=2, lengths=[2] + [1] * 29, state=False)
    expected = case.forward()[0]
    case.params[1][2, 3] = case.params[5][2, 3] = np.inf
    assert_same_bits(case.forward()[0][0, 1:].view(np.uint16), expected[0, 1:].view(np.uint16))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_with_its_sequence(rng, kind):
    case = Case(rng, kind, 3, 110, 24)
    expected = case.forward()[0]
    case.x[1, 4, 0] = np.nan
    y = case.forward()[0]
    assert np.isnan(y[1, 4].astype("f4")).any()
    others = [i for i in range(110) if i != 4]
    assert_same_bits(y[:, others].view(np.uint16), expected[:, others].view(np.uint16))


def test_large_inputs(rng):
    """Gates saturate; their exponentials overflow."""
    case = Case(rng, "lstm", 3, 2, 9)
    case.x = (case.x.astype(np.float32) * 1000).astype(BF16)
    case.check()
