"""Embeddings on Tensors, with torch's names and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, mark_inplace, wrap
from ..ops.embedding import embedding as embed
from ..ops.embedding import embedding_backward, embedding_bag_backward, renormalise
from ..ops.embedding import embedding_bag as embed_bags
from .core import as_tensor

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["embedding", "embedding_bag", "one_hot"]


class Embedding(ArrayFunction):
    """Rows of a table."""

    @staticmethod
    def forward(ctx: Any, weight: np.ndarray, indices: np.ndarray, padding_idx: int, by_freq: bool) -> Any:
        ctx.save(indices)
        ctx.how = weight.shape[0], padding_idx, by_freq
        return embed(weight, indices)

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return embedding_backward(grad, ctx.saved[0], *ctx.how)


class EmbeddingBag(ArrayFunction):
    """Sums, means or maxima of rows of a table."""

    @staticmethod
    def forward(
        ctx: Any, weight: Any, indices: Any, offsets: Any, mode: str, samples: Any, last: bool, padding: int,
        by_freq: bool,
    ) -> np.ndarray:  # fmt: skip
        out, which = embed_bags(weight, indices, offsets, mode, samples, last, padding)
        ctx.save(weight, indices, offsets, samples, which)
        ctx.how = mode, last, padding, by_freq
        return out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> Any:
        weight, indices, offsets, samples, which = ctx.saved
        mode, last, padding, by_freq = ctx.how
        need_weight, need_samples = ctx.needs[0] is not None, ctx.needs[4] is not None
        grad_weight, grad_samples = embedding_bag_backward(
            grad,
            weight,
            indices,
            offsets,
            mode,
            samples,
            which,
            last,
            padding,
            by_freq,
            need_weight,
            need_samples,
        )
        return grad_weight, None, None, None, grad_samples


def _padding(op: str, padding_idx: int | None, rows: int) -> int:
    if padding_idx is None:
        return -1
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{op}: expected padding_idx within {rows} embeddings, got {padding_idx}")
    return padding_idx % rows


def _indices(op: str, input: Any) -> np.ndarray:
    indices = as_tensor(input)._data
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{op}: expected integer indices, got {indices.dtype}")
    return indices if indices.dtype in (np.int64, np.int32) else indices.astype(np.int64)


def _renormalise(op: str, weight: Any, indices: np.ndarray, max_norm: float | None, norm_type: float) -> None:
    if max_norm is not None:
        renormalise(weight._data, indices, max_norm, norm_type)
        mark_inplace(weight._data)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of weight (V, D) that the integers of input (*) name: (*, D).

    ``padding_idx``: a row that gets no gradient. ``max_norm``: rows looked up are first scaled, in place, to a norm
    of at most that. ``scale_grad_by_freq``: gradients are divided by how often their row was looked up. Raises
    IndexError for an index outside [0, V), ValueError for ``sparse`` and bad options, TypeError for dtypes.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.embedding(fastdl.tensor([1, 0]), fastdl.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[3., 4.],
            [1., 2.]])
    """
    if sparse:
        raise ValueError("embedding: sparse gradients are not supported")
    indices = _indices("embedding", input)
    weight = as_tensor(weight)
    padding = _padding("embedding", padding_idx, weight._data.shape[0])
    _renormalise("embedding", weight, indices, max_norm, norm_type)
    return Embedding.apply(weight, indices, padding, scale_grad_by_freq)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or maximum of the rows of each bag of indices: (B, D), without the rows in between.

    input: (B, L), or (N,) with the first index of each bag in ``offsets``. Other options as in `embedding` and
    `fastdl.ops.embedding_bag`. Raises as they do.
    """
    op = "embedding_bag"
    if sparse:
        raise ValueError(f"{op}: sparse gradients are not supported")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError(f"{op}: scale_grad_by_freq does not go with mode 'max'")
    if per_sample_weights is not None and mode != "sum":
        raise ValueError(f"{op}: per_sample_weights go with mode 'sum', got {mode!r}")
    indices = _indices(op, input)
    if indices.ndim == 2:
        if offsets is not None:
            raise ValueError(f"{op}: offsets do not go with input of 2 dimensions")
    elif indices.ndim != 1 or offsets is None:
        raise ValueError(f"{op}: expected input of 2 dimensions, or of 1 with offsets, got {indices.shape}")
    starts = None if offsets is None else _indices(op, offsets)
    weight = as_tensor(weight)
    padding = _padding(op, padding_idx, weight._data.shape[0])
    _renormalise(op, weight, indices, max_norm, norm_type)
    return EmbeddingBag.apply(
        weight, indices, starts, mode, per_sample_weights, include_last_offset, padding, scale_grad_by_freq
    )


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 of shape (*, num_classes): 1 at the place of each integer, 0 elsewhere; -1: the largest plus one.

    Raises IndexError for an integer outside [0, num_classes), ValueError for an empty tensor without
    ``num_classes``, TypeError for other dtypes.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> F.one_hot(fastdl.tensor([0, 2])).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    indices = _indices("one_hot", tensor)
    if num_classes == -1:
        if indices.size == 0:
            raise ValueError("one_hot: expected num_classes for an empty tensor")
        num_classes = int(indices.max()) + 1
    elif num_classes < 1 and not (num_classes == 0 and indices.size == 0):
        raise ValueError(f"one_hot: expected num_classes >= 1 or -1, got {num_classes}")
    bad = np.flatnonzero((indices < 0) | (indices >= num_classes))
    if bad.size:
        raise IndexError(
            f"one_hot: expected classes in [0, {num_classes}), got {indices.reshape(-1)[bad[0]]} at position {bad[0]}"
        )
    out = np.zeros((*indices.shape, num_classes), np.int64, like=indices)
    np.put_along_axis(out, indices[..., None].astype(np.int64), 1, -1)
    return wrap(out)
