"""Sequences of different lengths: packed without padding, or padded to one length (torch.nn.utils.rnn)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...autograd import ArrayFunction, TensorBase, wrap
from ...backend import to_numpy
from ...tensor import Tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class PackedSequence(NamedTuple):
    """Sequences without padding: the first elements of all, then the second ones of those longer than 1, and so on.

    data: (sum of lengths, *); batch_sizes: how many sequences each step has (int64, falling); sorted_indices: the order
    the sequences were brought into, unsorted_indices: the way back; None if they came sorted.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with data.to(...); the sizes and the order stay on the CPU."""
        return self._replace(data=self.data.to(*args, **kwargs))

    def float(self) -> PackedSequence:
        """The same in float32."""
        return self.to(np.float32)

    def double(self) -> PackedSequence:
        """The same in float64."""
        return self.to(np.float64)

    def cpu(self) -> PackedSequence:
        """The same on the CPU."""
        return self.to("cpu")

    def lengths(self) -> np.ndarray:
        """The length of every sequence, in the order of the data (falling)."""
        sizes = to_numpy(self.batch_sizes._data)
        batch = int(sizes[0]) if sizes.size else 0
        return np.searchsorted(-sizes, -np.arange(batch), side="left").astype(np.int64)


class _Take(ArrayFunction):
    """The elements x[t, b] for arrays of times and sequences, none twice."""

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, times: np.ndarray, sequences: np.ndarray) -> np.ndarray:
        ctx.where, ctx.shape = (times, sequences), x.shape
        return x[times, sequences]

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        out = np.zeros(ctx.shape, grad.dtype, like=grad)
        out[ctx.where] = grad
        return out


class _Put(ArrayFunction):
    """The reverse: rows at (t, b) of an array filled with a value."""

    @staticmethod
    def forward(
        ctx: Any, rows: np.ndarray, times: np.ndarray, sequences: np.ndarray, shape: tuple, value: float
    ) -> np.ndarray:
        ctx.where = (times, sequences)
        out = np.full((*shape, *rows.shape[1:]), value, rows.dtype, like=rows)
        out[ctx.where] = rows
        return out

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        return grad[ctx.where]


def _places(batch_sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Time and sequence of every row of packed data."""
    times = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
    starts = np.cumsum(batch_sizes) - batch_sizes
    return times, np.arange(len(times)) - starts[times]


def _lengths(op: str, lengths: Any) -> np.ndarray:
    lengths = to_numpy(lengths._data) if isinstance(lengths, TensorBase) else np.asarray(lengths)
    if lengths.size == 0:
        lengths = lengths.astype(np.int64)
    if lengths.ndim != 1:
        raise ValueError(f"{op}: expected one length per sequence, got shape {lengths.shape}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"{op}: expected lengths to be integers, got {lengths.dtype}")
    if lengths.size and lengths.min() < 1:
        raise ValueError(f"{op}: expected every length to be at least 1, got {lengths.min()}")
    return lengths.astype(np.int64)


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes one.

    >>> import fastdl
    >>> invert_permutation(fastdl.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    if permutation is None:
        return None
    return wrap(np.argsort(permutation._data).astype(np.int64))


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs padded sequences: input (T, B, *), or (B, T, *) with batch_first; lengths (B,), falling if enforce_sorted.

    Raises ValueError for lengths below 1, beyond T, or not falling; TypeError for lengths that are no integers.

    >>> import fastdl
    >>> packed = pack_padded_sequence(fastdl.tensor([[1, 2], [3, 0]]), [2, 1])
    >>> packed.data.tolist(), packed.batch_sizes.tolist()
    ([1, 2, 3], [2, 1])
    """
    op = "pack_padded_sequence"
    if not isinstance(input, TensorBase) or input._data.ndim < 2:
        raise ValueError(f"{op}: expected a Tensor of at least 2 dimensions, got {input!r}")
    n = _lengths(op, lengths)
    if batch_first:
        input = input.transpose(0, 1)
    steps, batch = input._data.shape[:2]
    if len(n) != batch:
        raise ValueError(f"{op}: expected {batch} lengths, got {len(n)}")
    if batch == 0:
        raise ValueError(f"{op}: expected at least one sequence")
    if n.max() > steps:
        raise ValueError(f"{op}: a length of {n.max()} is longer than the sequences of {steps} steps")
    sorted_indices = unsorted_indices = None
    if enforce_sorted:
        if (np.diff(n) > 0).any():
            raise ValueError(f"{op}: expected falling lengths, got {n.tolist()}; pass enforce_sorted=False")
        order = np.arange(batch)
    else:
        order = np.argsort(-n, kind="stable")
        sorted_indices = wrap(order.astype(np.int64))
        unsorted_indices = invert_permutation(sorted_indices)
    batch_sizes = np.count_nonzero(n[:, None] > np.arange(n.max()), axis=0).astype(np.int64)
    times, places = _places(batch_sizes)
    return PackedSequence(
        _Take.apply(input, times, order[places]), wrap(batch_sizes), sorted_indices, unsorted_indices
    )


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The padded sequences (T, B, *), or (B, T, *), in their original order, and their lengths.

    Raises ValueError if total_length is less than the longest sequence.

    >>> import fastdl
    >>> packed = pack_padded_sequence(fastdl.tensor([[1, 2], [3, 0]]), [2, 1])
    >>> pad_packed_sequence(packed, padding_value=-1)[0].tolist()
    [[1, 2], [3, -1]]
    """
    if not isinstance(sequence, PackedSequence):
        raise TypeError(f"pad_packed_sequence: expected a PackedSequence, got {type(sequence).__name__}")
    sizes = to_numpy(sequence.batch_sizes._data)
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                f"pad_packed_sequence: the longest sequence has {steps} steps, got total_length={total_length}"
            )
        steps = total_length
    times, places = _places(sizes)
    chosen = sequence.sorted_indices
    order = np.arange(batch) if chosen is None else to_numpy(chosen._data)
    lengths = np.empty(batch, np.int64)
    lengths[order] = sequence.lengths()
    out = _Put.apply(sequence.data, times, order[places], (steps, batch), padding_value)
    return out.transpose(0, 1) if batch_first else out, wrap(lengths)


def pad_sequence(
    sequences: Sequence[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Stacks sequences (L_i, *) of different lengths: (max L, B, *), or (B, max L, *).

    Raises ValueError for an empty list or another padding_side than "right" and "left".

    >>> import fastdl
    >>> pad_sequence([fastdl.tensor([1, 2]), fastdl.tensor([3])], batch_first=True).tolist()
    [[1, 2], [3, 0]]
    """
    from ...functional.joining import cat

    if padding_side not in ("right", "left"):
        raise ValueError(f"pad_sequence: expected padding_side 'right' or 'left', got {padding_side!r}")
    sequences = _tensors("pad_sequence", sequences)
    n = np.array([s._data.shape[0] for s in sequences], np.int64)
    steps = int(n.max())
    times = np.concatenate([np.arange(k) + (0 if padding_side == "right" else steps - k) for k in n])
    rows = cat(list(sequences), 0)
    out = _Put.apply(rows, times, np.repeat(np.arange(len(n)), n), (steps, len(n)), padding_value)
    return out.transpose(0, 1) if batch_first else out


def _tensors(op: str, sequences: Any) -> list[Tensor]:
    sequences = list(sequences)
    if not sequences:
        raise ValueError(f"{op}: expected at least one sequence")
    for s in sequences:
        if not isinstance(s, TensorBase) or s._data.ndim < 1:
            raise TypeError(f"{op}: expected Tensors of at least one dimension, got {s!r}")
        if s._data.shape[1:] != sequences[0]._data.shape[1:]:
            raise ValueError(
                f"{op}: expected sequences that differ in length only, got shapes {sequences[0]._data.shape} "
                f"and {s._data.shape}"
            )
    return sequences


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The sequences (L_i, *) of padded ones (T, B, *).

    >>> import fastdl
    >>> [s.tolist() for s in unpad_sequence(fastdl.tensor([[1, 2], [3, 0]]), [2, 1])]
    [[1, 3], [2]]
    """
    n = to_numpy(lengths._data) if isinstance(lengths, TensorBase) else np.asarray(lengths)
    if not batch_first:
        padded_sequences = padded_sequences.transpose(0, 1)
    if len(n) != padded_sequences._data.shape[0]:
        raise ValueError(f"unpad_sequence: expected {padded_sequences._data.shape[0]} lengths, got {len(n)}")
    return [padded_sequences[i, : int(k)] for i, k in enumerate(n)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Packs a list of sequences (L_i, *).

    >>> import fastdl
    >>> pack_sequence([fastdl.tensor([1, 2]), fastdl.tensor([3])]).data.tolist()
    [1, 3, 2]
    """
    sequences = _tensors("pack_sequence", sequences)
    lengths = [s._data.shape[0] for s in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The list of sequences a PackedSequence was made from.

    >>> import fastdl
    >>> [s.tolist() for s in unpack_sequence(pack_sequence([fastdl.tensor([1, 2]), fastdl.tensor([3])]))]
    [[1, 2], [3]]
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
