"""Recurrent networks on arrays: RNN (tanh, relu), GRU and LSTM over sequences, and their cells, with gradients.

Shapes: T steps, B sequences, I inputs, H hidden units, L layers, D directions (2 if bidirectional), P the size of a
state (H, or proj_size). ``x`` is (T, B, I), or (B, T, I) with ``batch_first``; ``y`` likewise with D*P features;
``h0`` and ``h_n`` are (L*D, B, P), ``c0`` and ``c_n`` (L*D, B, H). ``params`` is the flat list torch keeps: for each
layer and direction weight_ih (G*H, I or D*P), weight_hh (G*H, P), bias_ih and bias_hh (G*H,), with a projection
weight_hr (P, H); G is 1 for an RNN, 3 for a GRU (reset, update, new), 4 for an LSTM (input, forget, cell, output).

``lengths`` (B,) says how many steps of each sequence count: the rest is never read, y is 0 there, and the final states
are those of each sequence's own last step. With ``packed``, x holds the rows of all sequences without padding (see
`fastdl.nn.utils.rnn.PackedSequence`): (sum of lengths, I), lengths falling.

Forward functions called with ``save=True`` return one more array, the reserve, which the backward ones take. All arrays
are float32 or all float64. Errors: ValueError for shapes and values that do not fit (lengths below 1 or beyond T among
them), TypeError for dtypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from ..backend import empty, is_array, kernels, to_numpy, wide

__all__ = [
    "Network",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "rnn",
    "rnn_backward",
    "rnn_cell",
    "rnn_cell_backward",
]

_KINDS = {"rnn_tanh": 0, "rnn_relu": 1, "gru": 2, "lstm": 3}
_GATES = (1, 1, 3, 4)
_NONLINEARITIES = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


class Network:
    """What forward and backward must agree on: the kind of cell and how the layers are stacked.

    kind: "rnn_tanh", "rnn_relu", "gru" or "lstm". dropout: the probability with which every layer but the last drops
    its outputs; seed and offset say which mask (see `fastdl.random.next_offset`).
    """

    __slots__ = ("batch_first", "directions", "gates", "kind", "layers", "lstm", "options", "packed", "per_direction",
                 "projection")  # fmt: skip

    def __init__(
        self,
        kind: str,
        num_layers: int = 1,
        bidirectional: bool = False,
        has_biases: bool = True,
        has_projection: bool = False,
        batch_first: bool = False,
        packed: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
        offset: int = 0,
    ):
        self.kind = kind
        number = _KINDS[kind]
        self.lstm = number == 3
        self.gates = _GATES[number]
        self.layers = num_layers
        self.directions = 2 if bidirectional else 1
        self.projection = bool(has_projection)
        self.per_direction = (4 if has_biases else 2) + self.projection
        self.batch_first = batch_first and not packed
        self.packed = packed
        self.options = kernels(None).RnnOptions(
            number, num_layers, bool(bidirectional), bool(has_biases), self.projection, dropout, seed, offset
        )

    def sizes(self, params: Sequence[ndarray]) -> tuple[int, int]:
        """(H, P) as the first layer's parameters have them; the kernel checks the rest."""
        expected = self.layers * self.directions * self.per_direction
        if expected < 1:
            raise ValueError(f"{self.kind}: expected at least 1 layer, got {self.layers}")
        if len(params) != expected:
            raise ValueError(f"{self.kind}: expected {expected} parameters, got {len(params)}")
        weight = params[0]
        if not is_array(weight) or weight.ndim != 2 or weight.shape[0] < self.gates:
            raise _bad_weight(self, weight)
        hidden = weight.shape[0] // self.gates
        if not self.projection:
            return hidden, hidden
        weight = params[self.per_direction - 1]
        if not is_array(weight) or weight.ndim != 2:
            raise _bad_weight(self, weight)
        return hidden, weight.shape[0]

    def rows(self, x: ndarray, lengths: ndarray | None) -> int:
        """How many steps all sequences have together."""
        if self.packed:
            return x.shape[0]
        steps, batch = x.shape[:2]
        # Lengths that do not fit are the kernel's to report.
        return steps * batch if lengths is None else int(lengths.clip(0, steps).sum())

    def dropout_size(self, x: ndarray, lengths: ndarray | None, params: Sequence[ndarray]) -> int:
        """How many random numbers forward draws."""
        if self.options.dropout == 0 or self.layers == 1:
            return 0
        x, lengths = _operands(self, x, lengths)
        return kernels(x).rnn_dropout_size(self.options, self.rows(x, lengths), self.sizes(params)[1])

    def forward(
        self,
        x: ndarray,
        h0: ndarray | None,
        c0: ndarray | None,
        params: Sequence[ndarray],
        lengths: Any = None,
        save: bool = False,
    ) -> tuple[ndarray, ndarray, ndarray | None, ndarray | None]:
        """(y, h_n, c_n, reserve); c_n is None but for LSTM, reserve unless ``save``."""
        hidden, state = self.sizes(params)
        x, lengths = _operands(self, x, lengths)
        batch = len(lengths) if self.packed else x.shape[1]
        count = self.layers * self.directions
        dtype = x.dtype
        core = kernels(x)
        y = empty((*x.shape[:-1], self.directions * state), dtype, x)
        h_n = empty((count, batch, state), dtype, x)
        c_n = empty((count, batch, hidden), dtype, x) if self.lstm else None
        reserve = None
        if save:
            size = core.rnn_reserve_size(self.options, self.rows(x, lengths), hidden, state)
            reserve = empty(size, wide(dtype), x)
        core.rnn_forward(x, h0, c0, params, lengths, y, h_n, c_n, reserve, self.options)
        return y.swapaxes(0, 1) if self.batch_first else y, h_n, c_n, reserve

    def backward(
        self,
        grad_y: ndarray | None,
        grad_h_n: ndarray | None,
        grad_c_n: ndarray | None,
        x: ndarray,
        h0: ndarray | None,
        c0: ndarray | None,
        params: Sequence[ndarray],
        y: ndarray,
        reserve: ndarray,
        lengths: Any = None,
        needs: Sequence[Any] | None = None,
    ) -> tuple[Any, Any, Any, list]:
        """(grad_x, grad_h0, grad_c0, [gradients of params]). needs: true where x, h0, c0 and each parameter wants one
        (default: all). Gradients of y, h_n and c_n may be None."""
        hidden, state = self.sizes(params)
        x, lengths = _operands(self, x, lengths)
        if self.batch_first:
            y = y.swapaxes(0, 1)
            grad_y = None if grad_y is None else grad_y.swapaxes(0, 1)
        if needs is None:
            needs = (True,) * (3 + len(params))
        batch = len(lengths) if self.packed else x.shape[1]
        count = self.layers * self.directions
        dtype = x.dtype
        grad_x = empty(x.shape, dtype, x) if needs[0] else None
        grad_h0 = empty((count, batch, state), dtype, x) if needs[1] else None
        grad_c0 = empty((count, batch, hidden), dtype, x) if self.lstm and needs[2] else None
        grads = [empty(p.shape, dtype, x) if n else None for p, n in zip(params, needs[3:])]
        kernels(x).rnn_backward(
            grad_y, grad_h_n, grad_c_n, x, h0, c0, params, lengths, y, reserve,
            grad_x, grad_h0, grad_c0, grads, self.options,
        )  # fmt: skip
        if grad_x is not None and self.batch_first:
            grad_x = grad_x.swapaxes(0, 1)
        return grad_x, grad_h0, grad_c0, grads


def _bad_weight(network: Network, weight: Any) -> Exception:
    if not is_array(weight):
        return TypeError(f"{network.kind}: expected parameters to be arrays, got {type(weight).__name__}")
    return ValueError(
        f"{network.kind}: expected weight_ih_l0 to have shape ({network.gates} * hidden_size, input_size) and "
        f"weight_hr_l0 (proj_size, hidden_size), got {weight.shape}"
    )


def _operands(network: Network, x: ndarray, lengths: Any) -> tuple[ndarray, Any]:
    """x time-major, lengths as an array of the CPU: they say which kernels run."""
    if not is_array(x):
        raise TypeError(f"{network.kind}: expected an array, got {type(x).__name__}")
    if x.ndim != (2 if network.packed else 3):
        leading = "rows" if network.packed else "B, T" if network.batch_first else "T, B"
        raise ValueError(f"{network.kind}: expected x of shape ({leading}, input_size), got {x.shape}")
    if lengths is not None:
        lengths = to_numpy(lengths) if is_array(lengths) else np.asarray(lengths)
        if lengths.size == 0:
            lengths = lengths.astype(np.int64)
    if lengths is not None and lengths.ndim != 1:
        raise ValueError(f"{network.kind}: expected one length per sequence, got shape {lengths.shape}")
    if network.packed and lengths is None:
        raise ValueError(f"{network.kind}: packed sequences need lengths")
    return x.swapaxes(0, 1) if network.batch_first else x, lengths


def _network(kind: str, params: Sequence[ndarray], options: dict) -> Network:
    projection = kind == "lstm" and options.pop("has_projection", False)
    return Network(kind, has_projection=projection, **options)


def _kind(op: str, nonlinearity: str) -> str:
    try:
        return _NONLINEARITIES[nonlinearity]
    except (KeyError, TypeError):
        raise ValueError(f"{op}: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}") from None


def rnn(
    x: ndarray,
    params: Sequence[ndarray],
    h0: ndarray | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Any = None,
    save: bool = False,
    **options: Any,
) -> tuple:
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu of it (Elman 1990, "Finding Structure in Time").

    options: num_layers, bidirectional, has_biases, batch_first, packed, dropout, seed, offset. Returns (y, h_n), and
    the reserve if ``save``. See the module's text for shapes and errors.

    >>> one = np.ones((1, 1))
    >>> y, h_n = rnn(np.ones((3, 1, 1)), [one, one], nonlinearity="relu", has_biases=False)
    >>> y.ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    network = _network(_kind("rnn", nonlinearity), params, options)
    y, h_n, _, reserve = network.forward(x, h0, None, params, lengths, save)
    return (y, h_n, reserve) if save else (y, h_n)


def rnn_backward(
    grad_y: ndarray | None,
    grad_h_n: ndarray | None,
    x: ndarray,
    params: Sequence[ndarray],
    h0: ndarray | None,
    y: ndarray,
    reserve: ndarray,
    *,
    nonlinearity: str = "tanh",
    lengths: Any = None,
    **options: Any,
) -> tuple:
    """(grad_x, grad_h0, [gradients of params]) of `rnn`: backpropagation through time (Werbos 1990).

    >>> one = np.ones((1, 1))
    >>> x, params = np.ones((3, 1, 1)), [one, one]
    >>> y, h_n, reserve = rnn(x, params, nonlinearity="relu", has_biases=False, save=True)
    >>> grads = rnn_backward(np.ones_like(y), None, x, params, None, y, reserve, nonlinearity="relu", has_biases=False)
    >>> grads[0].ravel().tolist()
    [3.0, 2.0, 1.0]
    """
    network = _network(_kind("rnn", nonlinearity), params, options)
    dx, dh, _, dw = network.backward(grad_y, grad_h_n, None, x, h0, None, params, y, reserve, lengths)
    return dx, dh, dw


def gru(
    x: ndarray,
    params: Sequence[ndarray],
    h0: ndarray | None = None,
    *,
    lengths: Any = None,
    save: bool = False,
    **options: Any,
) -> tuple:
    """Gated recurrent units (Cho et al. 2014, section 2.3) with the reset gate after the product, as cuDNN and torch:

    r, z = sigmoid(W x + b + R h + b'), n = tanh(W_n x + b_n + r * (R_n h + b_n')), h' = (1 - z) * n + z * h.

    Returns (y, h_n), and the reserve if ``save``; options as for `rnn`.

    >>> params = [np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), np.zeros(3)]
    >>> gru(np.ones((2, 1, 1)), params, np.ones((1, 1, 1)))[0].ravel().tolist()
    [0.5, 0.25]
    """
    y, h_n, _, reserve = _network("gru", params, options).forward(x, h0, None, params, lengths, save)
    return (y, h_n, reserve) if save else (y, h_n)


def gru_backward(
    grad_y: ndarray | None,
    grad_h_n: ndarray | None,
    x: ndarray,
    params: Sequence[ndarray],
    h0: ndarray | None,
    y: ndarray,
    reserve: ndarray,
    *,
    lengths: Any = None,
    **options: Any,
) -> tuple:
    """(grad_x, grad_h0, [gradients of params]) of `gru`."""
    network = _network("gru", params, options)
    dx, dh, _, dw = network.backward(grad_y, grad_h_n, None, x, h0, None, params, y, reserve, lengths)
    return dx, dh, dw


def lstm(
    x: ndarray,
    params: Sequence[ndarray],
    h0: ndarray | None = None,
    c0: ndarray | None = None,
    *,
    lengths: Any = None,
    save: bool = False,
    **options: Any,
) -> tuple:
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with forget gates (Gers et al. 2000):

    i, f, o = sigmoid(.), g = tanh(.) of W x + b + R h + b';  c' = f * c + i * g;  h' = o * tanh(c'), with
    ``has_projection`` W_hr (o * tanh(c')) (Sak et al. 2014).

    Returns (y, h_n, c_n), and the reserve if ``save``; options as for `rnn`, and has_projection.

    >>> params = [np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(4), np.zeros(4)]
    >>> y, h_n, c_n = lstm(np.ones((2, 1, 1)), params, np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    >>> c_n.ravel().tolist()
    [0.25]
    """
    y, h_n, c_n, reserve = _network("lstm", params, options).forward(x, h0, c0, params, lengths, save)
    return (y, h_n, c_n, reserve) if save else (y, h_n, c_n)


def lstm_backward(
    grad_y: ndarray | None,
    grad_h_n: ndarray | None,
    grad_c_n: ndarray | None,
    x: ndarray,
    params: Sequence[ndarray],
    h0: ndarray | None,
    c0: ndarray | None,
    y: ndarray,
    reserve: ndarray,
    *,
    lengths: Any = None,
    **options: Any,
) -> tuple:
    """(grad_x, grad_h0, grad_c0, [gradients of params]) of `lstm`."""
    network = _network("lstm", params, options)
    return network.backward(grad_y, grad_h_n, grad_c_n, x, h0, c0, params, y, reserve, lengths)


# ------------------------------------------------------------------------------------------------------------ cells
# A cell is a sequence of one step: x (B, I), states (B, H), params (weight_ih, weight_hh[, bias_ih, bias_hh]).


def _one_step(a: ndarray | None) -> ndarray | None:
    return None if a is None else a[None]


def _cell(kind: str, x: ndarray, params: Sequence[ndarray], h: Any, c: Any, save: bool) -> tuple:
    network = Network(kind, has_biases=len(params) == 4)
    _, h_n, c_n, reserve = network.forward(x[None], _one_step(h), _one_step(c), params, None, save)
    states = (h_n[0],) if c_n is None else (h_n[0], c_n[0])
    return (*states, reserve) if save else states


def _cell_backward(
    kind: str, grad_h: Any, grad_c: Any, x: ndarray, params: Sequence[ndarray], h: Any, c: Any, new_h: ndarray,
    reserve: ndarray, needs: Any = None,
) -> tuple:  # fmt: skip
    network = Network(kind, has_biases=len(params) == 4)
    dx, dh, dc, dw = network.backward(
        None, _one_step(grad_h), _one_step(grad_c), x[None], _one_step(h), _one_step(c), params, new_h[None], reserve,
        None, needs,
    )  # fmt: skip
    return None if dx is None else dx[0], None if dh is None else dh[0], None if dc is None else dc[0], dw


def rnn_cell(
    x: ndarray,
    params: Sequence[ndarray],
    h: ndarray | None = None,
    *,
    nonlinearity: str = "tanh",
    save: bool = False,
) -> Any:
    """One step of `rnn`: h' (B, H), and the reserve if ``save``. x (B, I), h (B, H) or None for zeros.

    >>> rnn_cell(np.ones((1, 1)), [np.ones((1, 1)), np.ones((1, 1))], np.ones((1, 1)), nonlinearity="relu").tolist()
    [[2.0]]
    """
    out = _cell(_kind("rnn_cell", nonlinearity), x, params, h, None, save)
    return out if save else out[0]


def rnn_cell_backward(
    grad_h: ndarray, x: ndarray, params: Sequence[ndarray], h: ndarray | None, new_h: ndarray, reserve: ndarray,
    *, nonlinearity: str = "tanh",
) -> tuple:  # fmt: skip
    """(grad_x, grad_h, [gradients of params]) of `rnn_cell`."""
    kind = _kind("rnn_cell", nonlinearity)
    dx, dh, _, dw = _cell_backward(kind, grad_h, None, x, params, h, None, new_h, reserve)
    return dx, dh, dw


def gru_cell(x: ndarray, params: Sequence[ndarray], h: ndarray | None = None, *, save: bool = False) -> Any:
    """One step of `gru`: h' (B, H), and the reserve if ``save``."""
    out = _cell("gru", x, params, h, None, save)
    return out if save else out[0]


def gru_cell_backward(
    grad_h: ndarray,
    x: ndarray,
    params: Sequence[ndarray],
    h: ndarray | None,
    new_h: ndarray,
    reserve: ndarray,
) -> tuple:
    """(grad_x, grad_h, [gradients of params]) of `gru_cell`."""
    dx, dh, _, dw = _cell_backward("gru", grad_h, None, x, params, h, None, new_h, reserve)
    return dx, dh, dw


def lstm_cell(
    x: ndarray,
    params: Sequence[ndarray],
    h: ndarray | None = None,
    c: ndarray | None = None,
    *,
    save: bool = False,
) -> tuple:
    """One step of `lstm`: (h', c'), and the reserve if ``save``."""
    return _cell("lstm", x, params, h, c, save)


def lstm_cell_backward(
    grad_h: ndarray | None, grad_c: ndarray | None, x: ndarray, params: Sequence[ndarray], h: ndarray | None,
    c: ndarray | None, new_h: ndarray, reserve: ndarray,
) -> tuple:  # fmt: skip
    """(grad_x, grad_h, grad_c, [gradients of params]) of `lstm_cell`."""
    return _cell_backward("lstm", grad_h, grad_c, x, params, h, c, new_h, reserve)
