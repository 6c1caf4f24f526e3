"""Recurrent networks on Tensors: `rnn_tanh`, `rnn_relu`, `gru`, `lstm` over sequences, and their cells.

Names and arguments are those of torch's functions of these names; `fastdl.nn.LSTM` and its kin are built on them. See
`fastdl.ops.rnn` for shapes, equations and sources.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import autograd, casting, random
from ..autograd import ArrayFunction, TensorBase
from ..backend import as_array
from ..ops.rnn import Network

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn_relu", "rnn_relu_cell", "rnn_tanh", "rnn_tanh_cell"]


class Recurrent(ArrayFunction):
    """A stack of recurrent layers over whole sequences."""

    none_grads = True
    autocast = "lower"
    network: Network
    lengths: Any

    @staticmethod
    def forward(
        ctx: Any, network: Network, lengths: Any, x: Any, h0: Any, c0: Any, *params: np.ndarray
    ) -> tuple:
        y, h_n, c_n, reserve = network.forward(x, h0, c0, params, lengths, any(ctx.needs))
        ctx.network, ctx.lengths = network, lengths
        ctx.save(x, h0, c0, y, reserve, *params)
        return (y, h_n) if c_n is None else (y, h_n, c_n)

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_h_n: Any, grad_c_n: Any = None) -> tuple:
        x, h0, c0, y, reserve, *params = ctx.saved
        dx, dh0, dc0, dparams = ctx.network.backward(
            grad_y, grad_h_n, grad_c_n, x, h0, c0, params, y, reserve, ctx.lengths, ctx.needs[2:]
        )
        return (None, None, dx, dh0, dc0, *dparams)


class RecurrentCell(ArrayFunction):
    """One step: a sequence of length 1. x and the states may lack the batch dimension."""

    none_grads = True
    autocast = "promote"
    network: Network

    @staticmethod
    def forward(ctx: Any, network: Network, x: Any, h: Any, c: Any, *params: np.ndarray) -> tuple:
        lift = (None,) if x.ndim == 2 else (None, None)
        x, h, c = x[lift], None if h is None else h[lift], None if c is None else c[lift]
        y, h_n, c_n, reserve = network.forward(x, h, c, params, None, any(ctx.needs))
        ctx.network, ctx.place = network, (0,) * len(lift)
        ctx.save(x, h, c, y, reserve, *params)
        return (h_n[ctx.place],) if c_n is None else (h_n[ctx.place], c_n[ctx.place])

    @staticmethod
    def backward(ctx: Any, grad_h: Any, grad_c: Any = None) -> tuple:
        x, h, c, y, reserve, *params = ctx.saved
        lift, place = (None,) * len(ctx.place), ctx.place
        grads = [None if g is None else g[lift] for g in (grad_h, grad_c)]
        *inputs, dparams = ctx.network.backward(
            None, *grads, x, h, c, params, y, reserve, None, ctx.needs[1:]
        )
        return (None, *[None if g is None else g[place] for g in inputs], *dparams)


# Networks without dropout are constants.
_network = functools.lru_cache(maxsize=256)(Network)


def run(
    kind: str,
    input: Tensor,
    states: Sequence[Tensor | None],
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: Any = None,
    packed: bool = False,
) -> tuple[Tensor, ...]:
    """(y, h_n), for "lstm" (y, h_n, c_n). input may be unbatched, (T, I): then states have no batch dimension either.
    packed: input holds rows without padding, lengths falling."""
    if not isinstance(input, TensorBase):
        raise TypeError(f"{kind}: expected a Tensor, got {type(input).__name__}")
    for state in states:
        if state is not None and not isinstance(state, TensorBase):
            raise TypeError(f"{kind}: expected initial states to be Tensors, got {type(state).__name__}")
    h0, c0 = (*states, None, None)[:2]
    if autograd.autocasting:
        input, h0, c0, *params = casting.lowered(input, h0, c0, *params)
    count = num_layers * (2 if bidirectional else 1)
    projected = count > 0 and len(params) == count * (5 if has_biases else 3)
    make = Network if train and dropout else _network
    network = make(
        kind, num_layers, bidirectional, has_biases, projected, batch_first, packed, dropout if train else 0.0
    )
    if isinstance(lengths, TensorBase):
        lengths = lengths._data
    unbatched = not packed and input._data.ndim == 2
    if unbatched:
        input = input.unsqueeze(0 if batch_first else 1)
        h0, c0 = (s if s is None or s._data.ndim != 2 else s.unsqueeze(1) for s in (h0, c0))
        if lengths is not None:
            lengths = np.atleast_1d(as_array(lengths))
    drawn = (
        network.dropout_size(input._data, lengths, [p._data for p in params])
        if network.options.dropout
        else 0
    )
    if drawn:
        network.options.seed, network.options.offset = random.next_offset(drawn)
    out = Recurrent.apply(network, lengths, input, h0, c0, *params)
    if unbatched:
        y, *final = out
        return (y.squeeze(0 if batch_first else 1), *[s.squeeze(1) for s in final])
    return out


def lstm(
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory over sequences: (y, h_n, c_n). hx: (h_0, c_0); params: torch's flat list of weights.

    Raises ValueError for shapes and lengths that do not fit, TypeError for dtypes.

    >>> import fastdl
    >>> params = [fastdl.zeros(4, 1), fastdl.zeros(4, 1), fastdl.zeros(4), fastdl.zeros(4)]
    >>> y, h_n, c_n = lstm(fastdl.ones(2, 1, 1), (fastdl.zeros(1, 1, 1), fastdl.ones(1, 1, 1)), params)
    >>> c_n.item()
    0.25
    """
    if len(hx) != 2:
        raise ValueError(f"lstm: expected hx to be (h_0, c_0), got {len(hx)} states")
    return run(
        "lstm", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths
    )  # type: ignore[return-value]


def gru(
    input: Tensor,
    hx: Tensor | None,
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent units over sequences: (y, h_n); see `lstm`.

    >>> import fastdl
    >>> params = [fastdl.zeros(3, 1), fastdl.zeros(3, 1), fastdl.zeros(3), fastdl.zeros(3)]
    >>> gru(fastdl.ones(2, 1, 1), fastdl.ones(1, 1, 1), params)[1].item()
    0.25
    """
    return run(
        "gru",
        input,
        (hx,),
        params,
        has_biases,
        num_layers,
        dropout,
        train,
        bidirectional,
        batch_first,
        lengths,
    )  # type: ignore[return-value]


def rnn_tanh(
    input: Tensor,
    hx: Tensor | None,
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor]:
    """Elman networks over sequences: (y, h_n); see `lstm`.

    >>> import fastdl
    >>> params = [fastdl.zeros(1, 1), fastdl.zeros(1, 1), fastdl.zeros(1), fastdl.zeros(1)]
    >>> rnn_tanh(fastdl.ones(2, 1, 1), None, params)[1].item()
    0.0
    """
    return run(
        "rnn_tanh",
        input,
        (hx,),
        params,
        has_biases,
        num_layers,
        dropout,
        train,
        bidirectional,
        batch_first,
        lengths,
    )  # type: ignore[return-value]


def rnn_relu(
    input: Tensor,
    hx: Tensor | None,
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor]:
    """`rnn_tanh` with ReLU in place of tanh.

    >>> import fastdl
    >>> params = [fastdl.ones(1, 1), fastdl.ones(1, 1), fastdl.zeros(1), fastdl.zeros(1)]
    >>> rnn_relu(fastdl.ones(3, 1, 1), None, params)[0].flatten().tolist()
    [1.0, 2.0, 3.0]
    """
    return run(
        "rnn_relu",
        input,
        (hx,),
        params,
        has_biases,
        num_layers,
        dropout,
        train,
        bidirectional,
        batch_first,
        lengths,
    )  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------------------ cells


def run_cell(
    kind: str, input: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor | None]
) -> tuple:
    """One step: the new states. input (B, I) or (I,), states (B, H) or (H,) or None."""
    if not isinstance(input, TensorBase):
        raise TypeError(f"{kind}: expected a Tensor, got {type(input).__name__}")
    ndim = input._data.ndim
    if ndim not in (1, 2):
        raise ValueError(
            f"{kind}: expected input of shape (B, input_size) or (input_size,), got {input._data.shape}"
        )
    for state in states:
        if state is None:
            continue
        if not isinstance(state, TensorBase):
            raise TypeError(f"{kind}: expected states to be Tensors, got {type(state).__name__}")
        if state._data.ndim != ndim:
            raise ValueError(
                f"{kind}: expected states of as many dimensions as the input ({ndim}), got {state._data.shape}"
            )
    h, c = (*states, None)[:2]
    if params[2] is None:
        params = params[:2]
    return RecurrentCell.apply(_network(kind, 1, False, len(params) == 4), input, h, c, *params)


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: (h', c'). input (B, I) or (I,), hx = (h, c).

    >>> import fastdl
    >>> h, c = lstm_cell(fastdl.ones(1), (fastdl.zeros(1), fastdl.ones(1)), fastdl.zeros(4, 1), fastdl.zeros(4, 1))
    >>> c.item()
    0.5
    """
    if len(hx) != 2:
        raise ValueError(f"lstm_cell: expected hx to be (h, c), got {len(hx)} states")
    return run_cell("lstm", input, hx, (w_ih, w_hh, b_ih, b_hh))  # type: ignore[return-value]


def gru_cell(
    input: Tensor,
    hx: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU: h'."""
    return run_cell("gru", input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


def rnn_tanh_cell(
    input: Tensor,
    hx: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of an Elman network: h'."""
    return run_cell("rnn_tanh", input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


def rnn_relu_cell(
    input: Tensor,
    hx: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of an Elman network with ReLU: h'."""
    return run_cell("rnn_relu", input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]
