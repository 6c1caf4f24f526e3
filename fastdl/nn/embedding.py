"""Tables of vectors looked up by index."""

from __future__ import annotations

from typing import Any

from ..tensor import Tensor
from . import functional as F
from .arguments import check_count, new_parameter
from .init import normal_
from .module import Module
from .parameter import Parameter


class _Table(Module):
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool,
        weight: Tensor | None,
        freeze: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_embeddings = check_count(name, "num_embeddings", num_embeddings)
        self.embedding_dim = check_count(name, "embedding_dim", embedding_dim)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"{name}: padding_idx {padding_idx} is outside {num_embeddings} embeddings")
            padding_idx %= num_embeddings
        if sparse:
            raise ValueError(f"{name}: sparse gradients are not supported")
        self.padding_idx = padding_idx
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        shape = (self.num_embeddings, self.embedding_dim)
        if weight is None:
            self.weight = new_parameter(shape, device, dtype)
            self.weight.requires_grad_(not freeze)
            self.reset_parameters()
        else:
            if tuple(weight.shape) != shape:
                raise ValueError(f"{name}: expected a weight of shape {shape}, got {tuple(weight.shape)}")
            self.weight = Parameter(weight, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draw the table anew from the standard normal distribution; the padding row is zero."""
        normal_(self.weight)
        if self.padding_idx is not None:
            self.weight._data[self.padding_idx] = 0

    def _options_repr(self) -> str:
        s = f", max_norm={self.max_norm}" if self.max_norm is not None else ""
        s += f", norm_type={self.norm_type}" if self.norm_type != 2 else ""
        return s + (f", scale_grad_by_freq={self.scale_grad_by_freq}" if self.scale_grad_by_freq else "")


def _rows_and_columns(name: str, embeddings: Tensor) -> tuple[int, int]:
    if embeddings.ndim != 2:
        raise ValueError(
            f"{name}.from_pretrained: expected 2 dimensions, got shape {tuple(embeddings.shape)}"
        )
    return embeddings.shape  # type: ignore[return-value]


class Embedding(_Table):
    """Rows of a table: integers of any shape (*) -> (*, embedding_dim).

    weight is (num_embeddings, embedding_dim), standard normal; the row at ``padding_idx`` is zero and gets no
    gradient; rows longer than ``max_norm`` are shortened as they are looked up.

    Raises ValueError for a padding_idx outside the table; IndexError, when called, for indices outside it.

    >>> import fastdl
    >>> from fastdl import nn
    >>> table = nn.Embedding(10, 3, padding_idx=0)
    >>> table(fastdl.tensor([[0, 4]])).shape
    (1, 2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options: Any = (
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            _freeze,
            device,
            dtype,
        )
        super().__init__(num_embeddings, embedding_dim, *options)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """A layer with a given table (memory is shared), by default one that is not trained."""
        how: dict[str, Any] = {"max_norm": max_norm, "norm_type": norm_type, "sparse": sparse}
        how.update(padding_idx=padding_idx, scale_grad_by_freq=scale_grad_by_freq, _weight=embeddings)
        return cls(*_rows_and_columns("Embedding", embeddings), **how, _freeze=freeze)

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            *(input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq),
        )

    def extra_repr(self) -> str:
        s = f"{self.num_embeddings}, {self.embedding_dim}"
        s += f", padding_idx={self.padding_idx}" if self.padding_idx is not None else ""
        return s + self._options_repr()


class EmbeddingBag(_Table):
    """Sums, means or maxima of bags of rows, without the rows in between.

    ``forward(input, offsets, per_sample_weights)``: input (B, N) is B bags of N indices; a 1-d input is cut into bags
    at ``offsets``. mode: "sum", "mean" or "max". Raises ValueError for another mode.

    >>> import fastdl
    >>> from fastdl import nn
    >>> bags = nn.EmbeddingBag(10, 3, mode="sum")
    >>> bags(fastdl.tensor([1, 2, 4]), fastdl.tensor([0, 2])).shape
    (2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        _freeze: bool = False,
    ) -> None:
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"EmbeddingBag: expected mode 'sum', 'mean' or 'max', got {mode!r}")
        options: Any = (
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            _freeze,
            device,
            dtype,
        )
        super().__init__(num_embeddings, embedding_dim, *options)
        self.mode = mode
        self.include_last_offset = include_last_offset

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """A layer with a given table (memory is shared), by default one that is not trained."""
        how: dict[str, Any] = {"max_norm": max_norm, "norm_type": norm_type, "mode": mode, "sparse": sparse}
        how.update(include_last_offset=include_last_offset, padding_idx=padding_idx, _weight=embeddings)
        how.update(scale_grad_by_freq=scale_grad_by_freq, _freeze=freeze)
        return cls(*_rows_and_columns("EmbeddingBag", embeddings), **how)

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        return F.embedding_bag(
            *(input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode),
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        s = f"{self.num_embeddings}, {self.embedding_dim}{self._options_repr()}, mode={self.mode!r}"
        return s + (f", padding_idx={self.padding_idx}" if self.padding_idx is not None else "")
