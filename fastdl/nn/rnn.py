"""Recurrent layers and cells, with torch's parameters, gate order and semantics."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .. import backend, random
from ..autograd import is_float, wrap
from ..device import like
from ..dtypes import as_dtype
from ..functional import rnn as F
from ..tensor import Tensor
from .module import Module
from .parameter import Parameter
from .utils.rnn import PackedSequence

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}


def _size(layer: str, name: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{layer}: expected an integer for {name}, got {value!r}")
    if value.__index__() < minimum:
        raise ValueError(f"{layer}: expected {name} >= {minimum}, got {value}")
    return value.__index__()


def _new_parameter(shape: tuple[int, ...], device: Any, dtype: Any) -> Parameter:
    dtype = backend.get_default_dtype() if dtype is None else as_dtype(dtype)
    if not is_float(dtype):
        raise TypeError(f"expected a floating-point dtype for parameters, got {dtype}")
    return Parameter(wrap(np.empty(shape, dtype, like=like(device))))


def _reset(layer: Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(hidden_size) if hidden_size > 0 else 0.0
    for p in layer.parameters():
        drawn = random.generator().uniform(-bound, bound, p._data.shape)
        p._data[...] = backend.beside(drawn, p._data)


class RNNBase(Module):
    """What RNN, GRU and LSTM share: the stack of layers and directions and their parameters.

    mode: "RNN_TANH", "RNN_RELU", "GRU" or "LSTM".
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if mode not in _GATES:
            raise ValueError(f"{name}: unrecognized mode {mode!r}")
        if (
            isinstance(dropout, bool)
            or not isinstance(dropout, int | float | np.number)
            or not 0 <= dropout <= 1
        ):
            raise ValueError(f"{name}: expected a dropout probability within 0 and 1, got {dropout!r}")
        self.mode = mode
        self.input_size = _size(name, "input_size", input_size, 0)
        self.hidden_size = _size(name, "hidden_size", hidden_size, 1)
        self.num_layers = _size(name, "num_layers", num_layers, 1)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = float(dropout)
        self.bidirectional = bool(bidirectional)
        self.proj_size = _size(name, "proj_size", proj_size, 0)
        if proj_size and mode != "LSTM":
            raise ValueError(f"{name}: proj_size is for LSTM only")
        if proj_size >= hidden_size:
            raise ValueError(f"{name}: expected proj_size < hidden_size, got {proj_size} and {hidden_size}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"{name}: dropout applies between layers, so dropout={dropout} does nothing with num_layers=1",
                UserWarning,
                stacklevel=3,
            )
        gates = _GATES[mode] * hidden_size
        state = proj_size or hidden_size
        directions = 2 if bidirectional else 1
        self._weight_names: list[list[str]] = []
        for layer in range(num_layers):
            for direction in range(directions):
                inputs = input_size if layer == 0 else state * directions
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (gates, inputs),
                    "weight_hh": (gates, state),
                }
                if bias:
                    shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                for key, shape in shapes.items():
                    setattr(self, key + suffix, _new_parameter(shape, device, dtype))
                self._weight_names.append([key + suffix for key in shapes])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter uniformly from +- 1 / sqrt(hidden_size)."""
        _reset(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels take the parameters as they lie."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._weight_names]

    def _run(self, input: Any, states: tuple, lengths: Any) -> tuple:
        """(output, final states): input is a Tensor or a PackedSequence; states are of the same order as its
        sequences."""
        params = [p for group in self.all_weights for p in group]
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        kind = self.mode.lower()
        if not isinstance(input, PackedSequence):
            y, *final = F.run(kind, input, states, params, *options, self.batch_first, lengths)
            return y, tuple(final)
        if lengths is not None:
            raise ValueError(f"{type(self).__name__}: a PackedSequence has its own lengths; pass no others")
        states = tuple([_permute(s, input.sorted_indices) for s in states])
        y, *final = F.run(kind, input.data, states, params, *options, False, input.lengths(), True)
        return input._replace(data=y), tuple([_permute(s, input.unsorted_indices) for s in final])

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0.0),
            ("bidirectional", False),
        ):  # fmt: skip
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


def _permute(state: Tensor | None, order: Tensor | None) -> Tensor | None:
    return state if state is None or order is None else state.index_select(1, order)


class RNN(RNNBase):
    """Elman network: h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu (Elman 1990, "Finding structure in
    time").

    forward(input, hx=None, *, lengths=None) -> (output, h_n). input: (T, B, input_size), (B, T, input_size) with
    batch_first, (T, input_size) unbatched, or a PackedSequence; output: the same with directions * hidden_size
    features; hx, h_n: (num_layers * directions, B, hidden_size). lengths (B,): how many steps of each padded sequence
    count; output is 0 beyond, and h_n is the state after each sequence's last step.

    Raises ValueError for sizes, shapes and lengths that do not fit, TypeError for dtypes.

    >>> import fastdl
    >>> from fastdl import nn
    >>> output, h_n = nn.RNN(3, 5, num_layers=2)(fastdl.randn(7, 4, 3))
    >>> output.shape, h_n.shape
    ((7, 4, 5), (2, 4, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Tensor | None = None, *, lengths: Any = None) -> tuple[Any, Tensor]:
        output, (h_n,) = self._run(input, (hx,), lengths)
        return output, h_n


class GRU(RNNBase):
    """Gated recurrent units (Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", section
    2.3), with the reset gate applied after the product as torch and cuDNN do.

    forward(input, hx=None, *, lengths=None) -> (output, h_n): shapes and errors as for `RNN`.

    >>> import fastdl
    >>> from fastdl import nn
    >>> output, h_n = nn.GRU(3, 5, bidirectional=True, batch_first=True)(fastdl.randn(4, 7, 3), lengths=[7, 2, 5, 1])
    >>> output.shape, h_n.shape
    ((4, 7, 10), (2, 4, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )

    def forward(self, input: Any, hx: Tensor | None = None, *, lengths: Any = None) -> tuple[Any, Tensor]:
        output, (h_n,) = self._run(input, (hx,), lengths)
        return output, h_n


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gates of Gers et al. 2000; projections:
    Sak et al. 2014).

    forward(input, (h_0, c_0)=None, *, lengths=None) -> (output, (h_n, c_n)): shapes and errors as for `RNN`; with
    proj_size, h and output have proj_size features in place of hidden_size.

    >>> import fastdl
    >>> from fastdl import nn
    >>> output, (h_n, c_n) = nn.LSTM(3, 5)(fastdl.randn(7, 4, 3))
    >>> output.shape, h_n.shape, c_n.shape
    ((7, 4, 5), (1, 4, 5), (1, 4, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype,
        )  # fmt: skip

    def forward(
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None, *, lengths: Any = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        output, states = self._run(input, _pair("LSTM", hx), lengths)
        return output, states


def _pair(layer: str, hx: Any) -> tuple:
    if hx is None:
        return (None, None)
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        raise ValueError(
            f"{layer}: expected the initial states as a pair (h_0, c_0), got {type(hx).__name__}"
        )
    return tuple(hx)


# ------------------------------------------------------------------------------------------------------------ cells


class RNNCellBase(Module):
    """What the cells share: weight_ih, weight_hh, bias_ih, bias_hh."""

    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = _size(name, "input_size", input_size, 0)
        self.hidden_size = _size(name, "hidden_size", hidden_size, 1)
        self.bias = bool(bias)
        rows = num_chunks * hidden_size
        self.weight_ih = _new_parameter((rows, input_size), device, dtype)
        self.weight_hh = _new_parameter((rows, hidden_size), device, dtype)
        self.register_parameter("bias_ih", _new_parameter((rows,), device, dtype) if bias else None)
        self.register_parameter("bias_hh", _new_parameter((rows,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter uniformly from +- 1 / sqrt(hidden_size)."""
        _reset(self, self.hidden_size)

    def _params(self) -> tuple:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(RNNCellBase):
    """One step of `RNN`: forward(input (B, input_size) or (input_size,), hx=None) -> h' (B, hidden_size).

    >>> import fastdl
    >>> from fastdl import nn
    >>> nn.RNNCell(3, 5)(fastdl.randn(4, 3)).shape
    (4, 5)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNNCell: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return F.run_cell(f"rnn_{self.nonlinearity}", input, (hx,), self._params())[0]

    def extra_repr(self) -> str:
        return super().extra_repr() + (", nonlinearity=relu" if self.nonlinearity == "relu" else "")


class GRUCell(RNNCellBase):
    """One step of `GRU`: forward(input (B, input_size) or (input_size,), hx=None) -> h' (B, hidden_size).

    >>> import fastdl
    >>> from fastdl import nn
    >>> nn.GRUCell(3, 5)(fastdl.randn(4, 3)).shape
    (4, 5)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return F.run_cell("gru", input, (hx,), self._params())[0]


class LSTMCell(RNNCellBase):
    """One step of `LSTM`: forward(input (B, input_size) or (input_size,), (h, c)=None) -> (h', c').

    >>> import fastdl
    >>> from fastdl import nn
    >>> h, c = nn.LSTMCell(3, 5)(fastdl.randn(4, 3))
    >>> h.shape, c.shape
    ((4, 5), (4, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        return F.run_cell("lstm", input, _pair("LSTMCell", hx), self._params())  # type: ignore[return-value]
