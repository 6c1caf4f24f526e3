"""Recurrent networks as torch.nn defines them: RNN (tanh, relu), GRU, LSTM; cells, sequences, and backward
through time.

Weights of one layer and direction are a tuple (w_ih [G*H, I], w_hh [G*H, H], b_ih [G*H], b_hh [G*H]); biases
may be None. G counts the gates: 1 for RNN, 3 for GRU in the order r, z, n, 4 for LSTM in the order i, f, g,
o. A state is (h,) or, for LSTM, (h, c), each [B, H].
"""

import numpy as np

from .activation import sigmoid
from .common import f64

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}


def _affine(x, w, b):
    return x @ w.T + (0.0 if b is None else b)


# ---- One step. Forward gives the new state and what backward needs; backward gives (dx, dstate, dweights).
# ----


def _rnn_step(x, state, weights, mode):
    """h' = act(W x + b_ih + R h + b_hh), act = tanh or relu. Elman (1990)."""
    (h,), (w, r, bw, br) = state, weights
    pre = _affine(x, w, bw) + _affine(h, r, br)
    new = np.tanh(pre) if mode == "rnn_tanh" else np.where(pre <= 0, 0.0, pre)
    return (new,), (x, h, pre, new)


def _rnn_step_backward(dstate, saved, weights, mode):
    (dh,), (x, h, pre, new) = dstate, saved
    da = dh * (1 - new * new) if mode == "rnn_tanh" else np.where(pre <= 0, 0.0, dh)
    w, r, _, _ = weights
    return da @ w, (da @ r,), (da.T @ x, da.T @ h, da.sum(0), da.sum(0))


def _gru_step(x, state, weights, mode):
    """Cho et al. (2014) with the reset gate after the product (torch's and cuDNN's form):

    r = s(W_r x + R_r h), z = s(W_z x + R_z h), n = tanh(W_n x + b + r * (R_n h + b')), h' = (1 - z) n + z h.
    """
    (h,), (w, r, bw, br) = state, weights
    from_x, from_h = np.split(_affine(x, w, bw), 3, axis=-1), np.split(_affine(h, r, br), 3, axis=-1)
    reset, update = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
    new = np.tanh(from_x[2] + reset * from_h[2])
    return ((1 - update) * new + update * h,), (x, h, reset, update, new, from_h[2])


def _gru_step_backward(dstate, saved, weights, mode):
    (dh,), (x, h, reset, update, new, hn) = dstate, saved
    dn = dh * (1 - update) * (1 - new * new)
    dz = dh * (h - new) * update * (1 - update)
    dr = dn * hn * reset * (1 - reset)
    dx_gates = np.concatenate([dr, dz, dn], axis=-1)
    dh_gates = np.concatenate([dr, dz, dn * reset], axis=-1)  # the reset gate scales only R_n h + b'
    w, r, _, _ = weights
    return (
        dx_gates @ w,
        (dh_gates @ r + dh * update,),
        (dx_gates.T @ x, dh_gates.T @ h, dx_gates.sum(0), dh_gates.sum(0)),
    )


def _lstm_step(x, state, weights, mode):
    """Hochreiter & Schmidhuber (1997) with forget gates (Gers et al., 2000):

    i, f, o = s(.), g = tanh(.) of W x + b + R h + b';  c' = f c + i g;  h' = o tanh(c').
    """
    (h, c), (w, r, bw, br) = state, weights
    i, f, g, o = np.split(_affine(x, w, bw) + _affine(h, r, br), 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    new_c = f * c + i * g
    return (o * np.tanh(new_c), new_c), (x, h, c, i, f, g, o, new_c)


def _lstm_step_backward(dstate, saved, weights, mode):
    (dh, dc), (x, h, c, i, f, g, o, new_c) = dstate, saved
    t = np.tanh(new_c)
    dc = dc + dh * o * (1 - t * t)
    gates = np.concatenate(
        [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)], axis=-1
    )
    w, r, _, _ = weights
    return gates @ w, (gates @ r, dc * f), (gates.T @ x, gates.T @ h, gates.sum(0), gates.sum(0))


STEP = {"rnn_tanh": _rnn_step, "rnn_relu": _rnn_step, "gru": _gru_step, "lstm": _lstm_step}
STEP_BACKWARD = {
    "rnn_tanh": _rnn_step_backward,
    "rnn_relu": _rnn_step_backward,
    "gru": _gru_step_backward,
    "lstm": _lstm_step_backward,
}


def cell(mode, x, state, weights):
    """One step. x: (B, I) or (I,); state: tuple of (B, H) or (H,). The new state, a tuple."""
    x, state, weights = f64(x), tuple(map(f64, state)), tuple(map(f64, weights))
    if x.ndim == 1:
        return tuple(s[0] for s in cell(mode, x[None], tuple(s[None] for s in state), weights))
    return STEP[mode](x, state, weights, mode)[0]


def cell_backward(mode, dstate, x, state, weights):
    """(dx, dstate_before, (dw_ih, dw_hh, db_ih, db_hh)) for the gradients of the new state."""
    dstate, x, state = tuple(map(f64, dstate)), f64(x), tuple(map(f64, state))
    weights = tuple(map(f64, weights))
    if x.ndim == 1:
        dx, ds, dw = cell_backward(
            mode, tuple(d[None] for d in dstate), x[None], tuple(s[None] for s in state), weights
        )
        return dx[0], tuple(s[0] for s in ds), dw
    return STEP_BACKWARD[mode](dstate, STEP[mode](x, state, weights, mode)[1], weights, mode)


# ---- One layer in one direction, time-major x [T, B, I]. ----


def _run(mode, x, state, weights, lengths, reverse):
    """Outputs [T, B, H], final state, tape. A sequence shorter than T neither reads nor changes its state
    beyond its length, and its outputs there are 0; reversed, it therefore starts at its own last element.
    """
    y = np.zeros((x.shape[0], x.shape[1], state[0].shape[1]))
    tape = {}
    for t in _times(len(x), reverse):
        active = (t < lengths)[:, None]
        new, tape[t] = STEP[mode](x[t], state, weights, mode)
        state = tuple(np.where(active, n, s) for n, s in zip(new, state, strict=True))
        y[t] = np.where(active, new[0], 0.0)
    return y, state, tape


def _run_backward(mode, dy, dstate, tape, weights, lengths, reverse):
    """(dx, dstate_initial, dweights): the steps of _run in the opposite order."""
    dx = np.zeros((*dy.shape[:2], weights[0].shape[1]))
    dweights = [np.zeros(weights[0].shape), np.zeros(weights[1].shape), *np.zeros((2, len(weights[0])))]
    for t in _times(len(dy), not reverse):
        active = (t < lengths)[:, None]
        dnew = tuple(np.where(active, d, 0.0) for d in dstate)
        dnew = (dnew[0] + np.where(active, dy[t], 0.0), *dnew[1:])
        dx[t], dbefore, dw = STEP_BACKWARD[mode](dnew, tape[t], weights, mode)
        dstate = tuple(np.where(active, b, d) for b, d in zip(dbefore, dstate, strict=True))
        for total, part in zip(dweights, dw, strict=True):
            total += part
    return dx, dstate, tuple(dweights)


def _times(steps, reverse):
    return range(steps - 1, -1, -1) if reverse else range(steps)


# ---- Stacks of layers. ----


def sequence(
    mode,
    x,
    state,
    weights,
    bidirectional=False,
    batch_first=False,
    lengths=None,
    dropout_masks=None,
    tapes=None,
):
    """A whole RNN: (y, final_state).

    x: (T, B, I), (B, T, I) with batch_first, or unbatched (T, I). state: tuple of (layers * directions, B,
    H), or None for zeros. weights: one tuple per layer and direction in torch's order (layer 0 forward, layer
    0 reverse, ...).
    lengths: per sequence, as packed sequences have them. dropout_masks: for each layer but the last an array
    that multiplies its output, (T, B, directions * H) whatever batch_first. `tapes`, a list, collects what
    backward needs.
    """
    x, weights = f64(x), [tuple(map(f64, w)) for w in weights]
    if x.ndim == 2:
        state = None if state is None else tuple(f64(s)[:, None] for s in state)
        masks = None if dropout_masks is None else [f64(m)[:, None] for m in dropout_masks]
        y, final = sequence(mode, x[:, None], state, weights, bidirectional, False, lengths, masks, tapes)
        return y[:, 0], tuple(s[:, 0] for s in final)
    if batch_first:
        x = x.swapaxes(0, 1)
    steps, batch, _ = x.shape
    directions = 2 if bidirectional else 1
    state = _initial_state(mode, state, len(weights), batch, weights[0][1].shape[1])
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    finals = []
    for layer in range(len(weights) // directions):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            y, final, tape = _run(mode, x, tuple(s[k] for s in state), weights[k], lengths, direction == 1)
            outputs.append(y)
            finals.append(final)
            if tapes is not None:
                tapes.append(tape)
        x = np.concatenate(outputs, axis=-1)
        if dropout_masks is not None and layer < len(weights) // directions - 1:
            x = x * f64(dropout_masks[layer])
    return x.swapaxes(0, 1) if batch_first else x, tuple(np.stack(s) for s in zip(*finals, strict=True))


def _initial_state(mode, state, count, batch, hidden):
    if state is None:
        return (np.zeros((count, batch, hidden)),) * (2 if mode == "lstm" else 1)
    return tuple(map(f64, state))


def sequence_backward(
    mode,
    dy,
    dfinal,
    x,
    state,
    weights,
    bidirectional=False,
    batch_first=False,
    lengths=None,
    dropout_masks=None,
):
    """(dx, dstate, dweights) for the gradients of y and of the final state (each may be None)."""
    x, weights = f64(x), [tuple(map(f64, w)) for w in weights]
    if x.ndim == 2:
        add = lambda arrays: None if arrays is None else tuple(f64(a)[:, None] for a in arrays)  # noqa: E731
        dx, dstate, dweights = sequence_backward(
            mode, None if dy is None else f64(dy)[:, None], add(dfinal), x[:, None], add(state), weights,
            bidirectional, False, lengths, add(dropout_masks),
        )  # fmt: skip
        return dx[:, 0], tuple(s[:, 0] for s in dstate), dweights
    tapes = []
    y, final = sequence(mode, x, state, weights, bidirectional, batch_first, lengths, dropout_masks, tapes)
    dy = np.zeros(y.shape) if dy is None else f64(dy)
    dfinal = tuple(np.zeros(s.shape) for s in final) if dfinal is None else tuple(map(f64, dfinal))
    if batch_first:
        dy = dy.swapaxes(0, 1)
    steps, batch, _ = dy.shape
    directions = 2 if bidirectional else 1
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    layers = len(weights) // directions
    dstates, dweights = [None] * len(weights), [None] * len(weights)
    for layer in reversed(range(layers)):
        if dropout_masks is not None and layer < layers - 1:
            dy = dy * f64(dropout_masks[layer])
        dx = 0.0
        for direction, part in enumerate(np.split(dy, directions, axis=-1)):
            k = layer * directions + direction
            end = tuple(d[k] for d in dfinal)
            dx_k, dstates[k], dweights[k] = _run_backward(
                mode, part, end, tapes[k], weights[k], lengths, direction == 1
            )
            dx = dx + dx_k
        dy = dx
    dstate = tuple(np.stack(s) for s in zip(*dstates, strict=True))
    return dy.swapaxes(0, 1) if batch_first else dy, dstate, dweights


def rnn_tanh(x, hx, weights, **options):
    """(y, h_n) of torch.nn.RNN(nonlinearity="tanh")."""
    y, (h,) = sequence("rnn_tanh", x, None if hx is None else (hx,), weights, **options)
    return y, h


def rnn_relu(x, hx, weights, **options):
    """(y, h_n) of torch.nn.RNN(nonlinearity="relu")."""
    y, (h,) = sequence("rnn_relu", x, None if hx is None else (hx,), weights, **options)
    return y, h


def gru(x, hx, weights, **options):
    """(y, h_n) of torch.nn.GRU."""
    y, (h,) = sequence("gru", x, None if hx is None else (hx,), weights, **options)
    return y, h


def lstm(x, hx, weights, **options):
    """(y, (h_n, c_n)) of torch.nn.LSTM; hx is (h_0, c_0) or None."""
    return sequence("lstm", x, hx, weights, **options)
