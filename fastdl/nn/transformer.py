"""The Transformer (Vaswani et al. 2017, "Attention is all you need"), layer by layer and whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import backend
from ..autograd import wrap
from ..device import place
from ..tensor import Tensor
from . import functional as F
from .arguments import check_count
from .attention import MultiheadAttention, causal_mask
from .container import ModuleList
from .dropout import Dropout
from .init import xavier_uniform_
from .matmul import Linear
from .module import Module
from .norm import LayerNorm


class PositionalEncoding(Module):
    """Adds sines and cosines of the position to its input, then drops out (section 3.5).

    ``forward(x)``: (N, L, d_model), or (L, N, d_model) without ``batch_first``. Raises ValueError for a sequence
    longer than ``max_len``. There are no parameters, and the table is not part of the state_dict.

    >>> import fastdl
    >>> from fastdl import nn
    >>> nn.PositionalEncoding(4)(fastdl.zeros(1, 2, 4))[0, 0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """

    pe: Tensor

    def __init__(
        self,
        d_model: int,
        dropout: float = 0.0,
        max_len: int = 5000,
        batch_first: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.d_model = check_count("PositionalEncoding", "d_model", d_model, 1)
        self.max_len = check_count("PositionalEncoding", "max_len", max_len, 1)
        self.batch_first = batch_first
        self.dropout = Dropout(dropout)
        position = np.arange(max_len)[:, None]
        angle = position * np.exp(np.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        table = np.zeros((max_len, d_model), backend.get_default_dtype() if dtype is None else dtype)
        table[:, 0::2] = np.sin(angle)
        table[:, 1::2] = np.cos(angle)[:, : d_model // 2]
        self.register_buffer("pe", wrap(place(table, device)), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        axis = 1 if self.batch_first else 0
        if input.ndim < 2 or input.shape[-1] != self.d_model:
            raise ValueError(f"PositionalEncoding: expected (..., {self.d_model}), got shape {input.shape}")
        length = input.shape[axis if input.ndim > 2 else 0]
        if length > self.max_len:
            raise ValueError(
                f"PositionalEncoding: sequence of {length} is longer than max_len {self.max_len}"
            )
        table = self.pe[:length]
        if input.ndim > 2 and not self.batch_first:
            table = table.unsqueeze(1)
        return self.dropout(input + table)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, max_len={self.max_len}"


class _Layer(Module):
    """What encoder and decoder layers share: the feed-forward network and the order of the normalisations."""

    linear1: Linear
    linear2: Linear
    dropout: Dropout

    def _set_activation(self, activation: str | Callable[[Tensor], Tensor]) -> None:
        if isinstance(activation, str) and activation not in ("relu", "gelu"):
            raise ValueError(
                f"{type(self).__name__}: expected activation 'relu', 'gelu' or a callable, got {activation!r}"
            )
        if isinstance(activation, str):
            activation = F.relu if activation == "relu" else F.gelu
        fused = (
            {F.relu: "relu", F.gelu: "gelu"}.get(activation) if not isinstance(activation, Module) else None
        )
        self.activation = activation
        self._fused = fused

    def _hidden(self, x: Tensor) -> Tensor:
        layer = self.linear1
        if (
            self._fused is not None and layer.__class__ is Linear
        ):  # not where the user put something else there
            return F.linear(x, layer.weight, layer.bias, activation=self._fused)
        return self.activation(layer(x))

    def _residual(self, x: Tensor, norm: Module, block: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + block(norm(x))
        return norm(x + block(x))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each with residual, dropout and layer norm (section 3.1).

    ``forward(src, src_mask, src_key_padding_mask, is_causal)``; masks as in `MultiheadAttention`. ``norm_first``:
    normalise before the blocks instead of after (Xiong et al. 2020, "On layer normalization in the transformer
    architecture", figure 1).

    >>> import fastdl
    >>> from fastdl import nn
    >>> layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(fastdl.randn(3, 5, 8)).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **how)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **how)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **how)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **how)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **how)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self._set_activation(activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            y, _ = self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)
            return self.dropout1(y)

        def feed(x: Tensor) -> Tensor:
            return self.dropout2(self.linear2(self.dropout(self._hidden(x))))

        return self._residual(self._residual(src, self.norm1, attend), self.norm2, feed)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention over the encoder's output and a feed-forward network (section 3.1).

    ``forward(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
    memory_is_causal)``; masks as in `MultiheadAttention`.

    >>> import fastdl
    >>> from fastdl import nn
    >>> layer = nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(fastdl.randn(3, 5, 8), fastdl.randn(3, 7, 8)).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **how)
        self.multihead_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, **how
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, **how)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **how)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **how)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **how)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, **how)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self._set_activation(activation)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            y, _ = self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)
            return self.dropout1(y)

        def look(x: Tensor) -> Tensor:
            masks = (memory_key_padding_mask, False, memory_mask)
            y, _ = self.multihead_attn(x, memory, memory, *masks, is_causal=memory_is_causal)
            return self.dropout2(y)

        def feed(x: Tensor) -> Tensor:
            return self.dropout3(self.linear2(self.dropout(self._hidden(x))))

        x = self._residual(self._residual(tgt, self.norm1, attend), self.norm2, look)
        return self._residual(x, self.norm3, feed)


def _copies(layer: Module, n: int) -> ModuleList:
    return ModuleList([copy.deepcopy(layer) for _ in range(n)])


def _is_causal(mask: Tensor | None, is_causal: bool | None) -> bool:
    """Whether a mask is the causal one: then the kernel needs none. One on a GPU is not looked into, which would mean
    to wait for it: there ``is_causal=True`` says so."""
    if is_causal is not None or mask is None:
        return bool(is_causal)
    if mask.ndim != 2 or mask.device != "cpu":
        return False
    causal = causal_mask(mask.shape[0], mask.shape[1], mask)._data
    if mask._data.dtype.kind == "b":
        return bool((mask._data == causal).all())
    return bool((mask._data == np.where(causal, -math.inf, 0.0)).all())


class TransformerEncoder(Module):
    """``num_layers`` copies of an encoder layer, and ``norm`` at the end where given.

    ``forward(src, mask, src_key_padding_mask, is_causal)``; with is_causal None a causal mask is recognised.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _copies(encoder_layer, check_count("TransformerEncoder", "num_layers", num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        causal = _is_causal(mask, is_causal)
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """``num_layers`` copies of a decoder layer, and ``norm`` at the end where given.

    ``forward(tgt, memory, ...)`` takes what `TransformerDecoderLayer` takes; with tgt_is_causal None a causal mask is
    recognised.
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _copies(decoder_layer, check_count("TransformerDecoder", "num_layers", num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        causal = _is_causal(tgt_mask, tgt_is_causal)
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, causal, memory_is_causal)
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """Encoder and decoder (Vaswani et al. 2017, figure 1), without embeddings and without the final linear layer.

    >>> import fastdl
    >>> from fastdl import nn
    >>> model = nn.Transformer(8, 2, 1, 1, dim_feedforward=16, batch_first=True)
    >>> model(fastdl.randn(3, 7, 8), fastdl.randn(3, 5, 8)).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": device, "dtype": dtype}
        options = (dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)
        if custom_encoder is None:
            custom_encoder = TransformerEncoder(
                TransformerEncoderLayer(d_model, nhead, *options, **how),
                num_encoder_layers,
                LayerNorm(d_model, layer_norm_eps, bias=bias, **how),
            )
        if custom_decoder is None:
            custom_decoder = TransformerDecoder(
                TransformerDecoderLayer(d_model, nhead, *options, **how),
                num_decoder_layers,
                LayerNorm(d_model, layer_norm_eps, bias=bias, **how),
            )
        self.encoder = custom_encoder
        self.decoder = custom_decoder
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        for param in self.parameters():
            if param.ndim > 1:
                xavier_uniform_(param)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        if src.ndim != tgt.ndim or src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ValueError(
                f"Transformer: expected src and tgt with the same number of dimensions and {self.d_model} features, "
                f"got {src.shape} and {tgt.shape}"
            )
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return self.decoder(tgt, memory, *masks, tgt_is_causal, memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """The causal mask as floats: -inf where a position must not look, else 0."""
        dtype = backend.get_default_dtype() if dtype is None else dtype
        return wrap(np.where(causal_mask(sz, sz)._data, -math.inf, 0.0).astype(dtype))
