"""Map-style datasets: anything with ``__len__`` and ``__getitem__``.

A dataset may also offer ``take(indices)``, which returns a whole collated batch for an index array; the
DataLoader then gathers a batch with one call instead of one call per sample.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ..autograd import wrap
from ..backend import is_array
from ..tensor import Tensor


class Dataset:
    """Base class of map-style datasets: override ``__len__`` and ``__getitem__``.

    >>> class Squares(Dataset):
    ...     def __len__(self):
    ...         return 5
    ...     def __getitem__(self, i):
    ...         return i, i * i
    >>> Squares()[3]
    (3, 9)
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


def as_array(value: Any) -> np.ndarray:
    """The array behind a Tensor, an array (on any device), or a nested list (Python floats become float32)."""
    if isinstance(value, Tensor):
        return value._data
    if is_array(value):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"dataset: expected rectangular data, got ragged nested lists ({error})") from None
    if array.dtype == object or array.dtype.kind in "USV":
        raise TypeError(f"dataset: expected numbers, got {type(value).__name__} of dtype {array.dtype}")
    return array.astype(np.float32) if array.dtype == np.float64 else array


class TensorDataset(Dataset):
    """Samples are rows of one or more tensors or arrays of equal first dimension.

    Raises ValueError when the first dimensions differ, TypeError for data that holds no numbers.

    >>> import numpy as np
    >>> data = TensorDataset(np.zeros((10, 3), np.float32), np.arange(10))
    >>> len(data), data[4][1].item()
    (10, 4)
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise ValueError("TensorDataset: expected at least one tensor, got none")
        self._arrays = tuple(as_array(t) for t in tensors)
        sizes = [a.shape[0] if a.ndim else None for a in self._arrays]
        if None in sizes or len(set(sizes)) > 1:
            shapes = ", ".join(str(a.shape) for a in self._arrays)
            raise ValueError(f"TensorDataset: expected tensors of one first dimension, got shapes {shapes}")

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors themselves (they share memory with the dataset)."""
        return tuple(wrap(a) for a in self._arrays)

    def __len__(self) -> int:
        return self._arrays[0].shape[0]

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(wrap(a[index, ...]) for a in self._arrays)

    def take(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """The batch of the samples at ``indices``: contiguous, sharing no memory with the dataset."""
        return tuple([wrap(a.take(indices, 0)) for a in self._arrays])


class Subset(Dataset):
    """The samples of ``dataset`` at ``indices``. Raises IndexError for an index outside the dataset."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices)
        if self.indices.size == 0:
            self.indices = self.indices.astype(np.int64).reshape(0)
        if self.indices.ndim != 1 or self.indices.dtype.kind not in "iu":
            raise TypeError(
                "Subset: expected a 1-d sequence of integers, "
                f"got {self.indices.dtype} of shape {self.indices.shape}"
            )
        size = len(dataset)
        if self.indices.size and (self.indices.max() >= size or self.indices.min() < -size):
            bad = self.indices[(self.indices >= size) | (self.indices < -size)][0]
            raise IndexError(f"Subset: expected indices below {size}, got {bad}")
        if hasattr(dataset, "take"):
            self.take = lambda indices: dataset.take(self.indices[indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.indices[index]
        return self.dataset[chosen if isinstance(chosen, np.ndarray) else int(chosen)]


class ConcatDataset(Dataset):
    """One dataset after another."""

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: expected at least one dataset, got none")
        self.cumulative_sizes = list(accumulate(len(d) for d in self.datasets))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"ConcatDataset: expected an index below {size}, got {index}")
        index = int(index) % size
        which = bisect_right(self.cumulative_sizes, index)
        return self.datasets[which][index - (self.cumulative_sizes[which - 1] if which else 0)]


def random_split(
    dataset: Any,
    lengths: Sequence[float],
    generator: np.random.Generator | None = None,
    *,
    seed: int | None = None,
) -> list[Subset]:
    """Splits a dataset at random into subsets of the given lengths (counts, or fractions that sum to 1).

    Left-over samples of fractional lengths go to the first subsets, one each. The order comes from
    ``generator``, from ``seed``, or from fastdl's own generator (``fastdl.manual_seed``).

    Raises ValueError when the lengths do not add up to the dataset.

    >>> import numpy as np
    >>> data = TensorDataset(np.arange(10))
    >>> [len(part) for part in random_split(data, [0.75, 0.25], seed=0)]
    [8, 2]
    """
    size = len(dataset)
    if any(n < 0 for n in lengths) or not lengths:
        raise ValueError(f"random_split: expected lengths of at least 0, got {list(lengths)}")
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1 + 1e-9 and not (size == 1 and 1 in lengths):
        counts = [math.floor(size * fraction) for fraction in lengths]
        for i in range(size - sum(counts)):
            counts[i % len(counts)] += 1
    else:
        if any(n != int(n) for n in lengths) or sum(lengths) != size:
            raise ValueError(
                f"random_split: expected counts that sum to {size} or fractions that sum to 1, "
                f"got {list(lengths)}"
            )
        counts = [int(n) for n in lengths]
    order = rng_for(generator, seed).permutation(size)
    ends = list(accumulate(counts))
    return [Subset(dataset, order[end - n : end]) for end, n in zip(ends, counts, strict=True)]


def rng_for(generator: np.random.Generator | None, seed: int | None) -> np.random.Generator:
    """``generator``, or a new one from ``seed``, or fastdl's own."""
    if generator is not None:
        if not isinstance(generator, np.random.Generator):
            raise TypeError(f"generator: expected numpy.random.Generator, got {type(generator).__name__}")
        return generator
    if seed is not None:
        return np.random.Generator(np.random.Philox(seed))
    from .. import random

    return random.generator()
