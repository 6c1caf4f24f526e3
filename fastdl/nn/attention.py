"""Attention layers: multi-head attention, and the scores of recurrent sequence-to-sequence models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import is_float, wrap
from ..functional.heads import split_heads
from ..functional.joining import cat
from ..tensor import Tensor
from . import functional as F
from .arguments import check_count, check_probability, new_parameter
from .init import xavier_normal_, xavier_uniform_, zeros_
from .matmul import Linear
from .module import Module


class MultiheadAttention(Module):
    """Attention with several heads (Vaswani et al. 2017, "Attention is all you need", section 3.2.2).

    ``forward(query, key, value)``: (L, N, E), (S, N, kdim), (S, N, vdim), or with ``batch_first`` (N, L, E) and so
    on, or without N; gives the output, shaped as the query, and the weights (N, L, S), averaged over the heads unless
    ``average_attn_weights`` is false, or None without ``need_weights`` (much faster: no L x S matrix is made).

    key_padding_mask (N, S) and attn_mask (L, S) or (N heads, L, S): true where attention is not allowed, or floats
    that are added to the scores. ``is_causal``: position i sees keys up to i.

    Raises ValueError for sizes and shapes that do not fit together, TypeError for masks of other dtypes.

    >>> import fastdl
    >>> from fastdl import nn
    >>> layer = nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = fastdl.randn(3, 5, 8)
    >>> y, weights = layer(x, x, x)
    >>> y.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.embed_dim = e = check_count("MultiheadAttention", "embed_dim", embed_dim, 1)
        self.num_heads = check_count("MultiheadAttention", "num_heads", num_heads, 1)
        if e % num_heads:
            raise ValueError(f"MultiheadAttention: {num_heads} heads do not divide embed_dim {e}")
        self.kdim = e if kdim is None else check_count("MultiheadAttention", "kdim", kdim, 1)
        self.vdim = e if vdim is None else check_count("MultiheadAttention", "vdim", vdim, 1)
        self.dropout = check_probability("MultiheadAttention", dropout)
        self.batch_first = batch_first
        self.head_dim = e // num_heads
        self.add_zero_attn = add_zero_attn
        packed = self.kdim == self.vdim == e
        self._qkv_same_embed_dim = packed
        weights = {"q_proj_weight": (e, e), "k_proj_weight": (e, self.kdim), "v_proj_weight": (e, self.vdim)}
        if packed:
            self.in_proj_weight = new_parameter((3 * e, e), device, dtype)
        for name, shape in weights.items():
            self.register_parameter(name, None if packed else new_parameter(shape, device, dtype))
        if not packed:
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", new_parameter((3 * e,), device, dtype) if bias else None)
        self.out_proj = Linear(e, e, bias, device, dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, new_parameter((1, 1, e), device, dtype) if add_bias_kv else None)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            zeros_(self.in_proj_bias)
            zeros_(self.out_proj.bias)  # type: ignore[arg-type]
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                xavier_normal_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        self._check(query, key, value)
        batched = query.ndim == 3
        same = query is key, key is value
        batch_axis = 0 if self.batch_first else 1
        if not batched:
            query, key, value = (
                query.unsqueeze(batch_axis),
                key.unsqueeze(batch_axis),
                value.unsqueeze(batch_axis),
            )
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        q, k, v = self._project(query, key, value, same)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        n, h, length, _ = q.shape
        extra = (self.bias_k is not None) + self.add_zero_attn
        if is_causal and (need_weights or key_padding_mask is not None or extra) and attn_mask is None:
            attn_mask = causal_mask(length, k.shape[2] - extra)
        if is_causal and attn_mask is not None and not (need_weights or extra) and key_padding_mask is None:
            attn_mask = None  # the mask says what is_causal says
        elif attn_mask is not None or key_padding_mask is not None:
            is_causal = False
        mask = merge_masks(attn_mask, key_padding_mask, (n, h, length, k.shape[2] - extra), q.dtype)
        if mask is not None and extra:
            mask = F.pad(mask, (0, extra), value=mask._data.dtype.kind == "b")
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            y, weights = _weighted(q, k, v, mask, dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
            weights = None
        y = y.permute(*((0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)))
        y = self.out_proj(y.reshape(*y.shape[:2], self.embed_dim))
        if weights is not None:
            if average_attn_weights:
                weights = weights.mean(1)
            if not batched:
                weights = weights.squeeze(0)
        return (y if batched else y.squeeze(batch_axis)), weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            raise ValueError(
                f"MultiheadAttention: expected all with 2 or all with 3 dimensions, got {shapes}"
            )
        wanted = (self.embed_dim, self.kdim, self.vdim)
        if (query.shape[-1], key.shape[-1], value.shape[-1]) != wanted:
            raise ValueError(f"MultiheadAttention: expected last dimensions {wanted}, got {shapes}")
        batch = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (query.ndim == 3 and query.shape[batch] != key.shape[batch]):
            raise ValueError(f"MultiheadAttention: lengths or batch sizes do not agree: {shapes}")

    def _project(self, query: Tensor, key: Tensor, value: Tensor, same: tuple[bool, bool]) -> list[Tensor]:
        """Query, key and value times their weights, as (N, heads, L, head_dim); in one product what is one tensor."""
        e, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        runs = [(query, 1), (key, 1), (value, 1)]
        if weight is not None and self.bias_k is None and same[1]:
            runs = [(query, 3)] if same[0] else [(query, 1), (key, 2)]
        out: list[Tensor] = []
        for x, parts in runs:
            first, last = len(out) * e, (len(out) + parts) * e
            if weight is None:
                w = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[len(out)]
            else:
                w = weight if parts == 3 else weight[first:last]
            y = F.linear(x, w, bias if bias is None or parts == 3 else bias[first:last])
            if self.bias_k is not None and out:
                y = _append(y, self.bias_k if len(out) == 1 else self.bias_v, 1 if self.batch_first else 0)
            out += split_heads(y, parts, self.num_heads, self.batch_first)
        return out


def _append(x: Tensor, row: Tensor, axis: int) -> Tensor:
    """x with one more position, the same in every batch."""
    shape = list(x.shape)
    shape[axis] = 1
    return cat([x, row.expand(*shape)], axis)


def causal_mask(length: int, keys: int, beside: Tensor | None = None) -> Tensor:
    """True where a position must not look: at keys after it; where ``beside`` lives."""
    there = None if beside is None else beside._data
    return wrap(np.triu(np.ones((length, keys), np.bool_, like=there), 1))


def merge_masks(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, shape: tuple, dtype: Any
) -> Tensor | None:
    """Both masks as one that scaled_dot_product_attention takes, for scores of ``shape`` (N, heads, L, S): true where
    attention is allowed, or floats to add."""
    n, h, length, keys = shape
    masks = []
    if attn_mask is not None:
        _check_mask("attn_mask", attn_mask)
        if attn_mask.shape not in ((length, keys), (n * h, length, keys)):
            raise ValueError(
                f"MultiheadAttention: expected attn_mask {(length, keys)} or {(n * h, length, keys)}, "
                f"got {attn_mask.shape}"
            )
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.reshape(n, h, length, keys))
    if key_padding_mask is not None:
        _check_mask("key_padding_mask", key_padding_mask)
        if key_padding_mask.shape != (n, keys):
            raise ValueError(
                f"MultiheadAttention: expected key_padding_mask {(n, keys)}, got {key_padding_mask.shape}"
            )
        masks.append(key_padding_mask.reshape(n, 1, 1, keys))
    if not masks:
        return None
    if all(m._data.dtype.kind == "b" for m in masks):
        forbidden = masks[0]._data if len(masks) == 1 else masks[0]._data | masks[1]._data
        return wrap(~forbidden)
    added = [_additive(m, dtype) for m in masks]
    return added[0] if len(added) == 1 else added[0] + added[1]


def _check_mask(name: str, mask: Tensor) -> None:
    if mask._data.dtype.kind != "b" and not is_float(mask._data.dtype):
        raise TypeError(f"MultiheadAttention: expected {name} of bools or floats, got {mask._data.dtype}")


def _additive(mask: Tensor, dtype: Any) -> Tensor:
    if mask._data.dtype.kind == "b":
        return wrap(np.where(mask._data, -math.inf, 0.0).astype(dtype))
    return mask.to(dtype)


def _weighted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Attention that shows its weights: softmax(q k^T / sqrt(d) + mask) v."""
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + (
            wrap(np.where(mask._data, 0.0, -math.inf).astype(q.dtype)) if _is_bool(mask) else mask
        )
    weights = F.softmax(scores, -1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ v, weights


def _is_bool(mask: Tensor) -> bool:
    return mask._data.dtype.kind == "b"


class _SequenceAttention(Module):
    """Attention of decoder states over encoder states; subclasses give the scores (N, L, S).

    ``forward(query, key, value=None, mask=None)``: query (N, L, query_dim), key (N, S, key_dim), value (N, S, D), the
    key if None; mask (N, S) or (N, L, S), true where attention is allowed. Gives the context (N, L, D) and the
    weights (N, L, S).
    """

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        """The scores before the softmax."""
        raise NotImplementedError(f"{type(self).__name__}: score is not defined")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        value = key if value is None else value
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim != 3:
                raise ValueError(
                    f"{type(self).__name__}: expected {name} of 3 dimensions, got shape {x.shape}"
                )
        if query.shape[0] != key.shape[0] or key.shape[:2] != value.shape[:2]:
            raise ValueError(
                f"{type(self).__name__}: batch sizes or lengths do not agree: "
                f"query {query.shape}, key {key.shape}, value {value.shape}"
            )
        scores = self.score(query, key)
        if mask is not None:
            allowed = mask._data if mask.ndim == 3 else mask._data[:, None, :]
            scores = scores.masked_fill(wrap(~allowed.astype(np.bool_)), -math.inf)
        weights = F.softmax(scores, -1)
        return weights @ value, weights


class DotAttention(_SequenceAttention):
    """score(q, k) = q . k (Luong et al. 2015, "Effective approaches to attention-based neural machine translation",
    section 3.1); with ``scaled``, divided by the root of the dimension (Vaswani et al. 2017, section 3.2.1).

    ``forward(query, key, value=None, mask=None)``: (N, L, E), (N, S, E), (N, S, D), mask (N, S) or (N, L, S) true
    where attention is allowed; gives the context (N, L, D) and the weights (N, L, S).

    >>> import fastdl
    >>> from fastdl import nn
    >>> context, weights = nn.DotAttention()(fastdl.randn(2, 3, 4), fastdl.randn(2, 5, 4))
    >>> context.shape, weights.shape
    ((2, 3, 4), (2, 3, 5))
    """

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        scores = query @ key.transpose(1, 2)
        return scores / math.sqrt(key.shape[-1]) if self.scaled else scores

    def extra_repr(self) -> str:
        return f"scaled={self.scaled}"


class GeneralAttention(_SequenceAttention):
    """score(q, k) = q^T W k (Luong et al. 2015, section 3.1), W being (query_dim, key_dim); see `DotAttention`.

    >>> import fastdl
    >>> from fastdl import nn
    >>> context, weights = nn.GeneralAttention(4, 6)(fastdl.randn(2, 3, 4), fastdl.randn(2, 5, 6))
    >>> context.shape
    (2, 3, 6)
    """

    def __init__(
        self, query_dim: int, key_dim: int | None = None, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.query_dim = check_count("GeneralAttention", "query_dim", query_dim, 1)
        self.key_dim = (
            query_dim if key_dim is None else check_count("GeneralAttention", "key_dim", key_dim, 1)
        )
        self.weight = new_parameter((self.query_dim, self.key_dim), device, dtype)
        xavier_uniform_(self.weight)

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        return (query @ self.weight) @ key.transpose(1, 2)

    def extra_repr(self) -> str:
        return f"query_dim={self.query_dim}, key_dim={self.key_dim}"


class ConcatAttention(_SequenceAttention):
    """score(q, k) = v^T tanh(W [q; k]) (Luong et al. 2015, section 3.1; Bahdanau et al. 2015, section A.1.2), W split
    into the parts of q and k; see `DotAttention`.

    >>> import fastdl
    >>> from fastdl import nn
    >>> context, weights = nn.ConcatAttention(4, 6, 8)(fastdl.randn(2, 3, 4), fastdl.randn(2, 5, 6))
    >>> weights.shape
    (2, 3, 5)
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int | None = None,
        hidden_dim: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.query_dim = check_count("ConcatAttention", "query_dim", query_dim, 1)
        self.key_dim = query_dim if key_dim is None else check_count("ConcatAttention", "key_dim", key_dim, 1)
        hidden = (
            query_dim if hidden_dim is None else check_count("ConcatAttention", "hidden_dim", hidden_dim, 1)
        )
        self.hidden_dim = hidden
        self.weight = new_parameter((hidden, self.query_dim + self.key_dim), device, dtype)
        self.v = new_parameter((1, hidden), device, dtype)
        xavier_uniform_(self.weight)
        xavier_uniform_(self.v)

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        # W [q; k] = W_q q + W_k k: one product per position, not per pair of positions.
        q = F.linear(query, self.weight[:, : self.query_dim])
        k = F.linear(key, self.weight[:, self.query_dim :])
        hidden = F.tanh(q.unsqueeze(2) + k.unsqueeze(1))
        return F.linear(hidden, self.v).squeeze(-1)

    def extra_repr(self) -> str:
        return f"query_dim={self.query_dim}, key_dim={self.key_dim}, hidden_dim={self.hidden_dim}"
