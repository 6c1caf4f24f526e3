"""The order in which a DataLoader visits a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np

from .dataset import rng_for


class Sampler:
    """Base class: override ``__iter__`` (yields indices) and ``__len__``."""

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")


class SequentialSampler(Sampler):
    """0, 1, ... in order."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """A new random order at every iteration; with ``replacement``, ``num_samples`` independent draws.

    >>> sorted(RandomSampler([10, 11, 12], seed=0))
    [0, 1, 2]
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: np.random.Generator | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        if num_samples is not None and num_samples <= 0:
            raise ValueError(f"RandomSampler: expected num_samples > 0, got {num_samples}")
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        # A seed is turned into a generator once, so that every iteration differs.
        self.generator = rng_for(generator, seed) if generator is not None or seed is not None else None

    def __iter__(self) -> Iterator[int]:
        rng = rng_for(self.generator, None)
        size, wanted = len(self.data_source), len(self)
        if self.replacement:
            yield from rng.integers(size, size=wanted).tolist()
            return
        while wanted > 0:
            order = rng.permutation(size)[:wanted]
            yield from order.tolist()
            wanted -= len(order)

    def __len__(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples


class SubsetRandomSampler(Sampler):
    """The given indices in a new random order at every iteration."""

    def __init__(
        self, indices: Any, generator: np.random.Generator | None = None, *, seed: int | None = None
    ) -> None:
        self.indices = indices
        self.generator = rng_for(generator, seed) if generator is not None or seed is not None else None

    def __iter__(self) -> Iterator[int]:
        for i in rng_for(self.generator, None).permutation(len(self.indices)).tolist():
            yield int(self.indices[i])

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler):
    """``num_samples`` indices drawn in proportion to ``weights`` (one per sample; they need not sum to 1).

    Raises ValueError for weights that are not finite, negative, or too few for a draw without replacement.

    >>> list(WeightedRandomSampler([0.0, 1.0], 3))
    [1, 1, 1]
    """

    def __init__(
        self,
        weights: Any,
        num_samples: int,
        replacement: bool = True,
        generator: np.random.Generator | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        self.weights = np.array(weights, np.float64)
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise ValueError(
                f"WeightedRandomSampler: expected one finite weight >= 0 per sample, got {weights!r}"
            )
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
            raise ValueError(
                f"WeightedRandomSampler: expected num_samples of at least 1, got {num_samples!r}"
            )
        positive = np.count_nonzero(self.weights)
        if positive < (1 if replacement else num_samples):
            raise ValueError(
                f"WeightedRandomSampler: expected a weight above 0 for each of {num_samples} samples, got {positive}"
            )
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = rng_for(generator, seed) if generator is not None or seed is not None else None

    def __iter__(self) -> Iterator[int]:
        p = self.weights / self.weights.sum()
        rng = rng_for(self.generator, None)
        yield from rng.choice(len(p), self.num_samples, self.replacement, p).tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """Groups the indices of another sampler into lists of ``batch_size``.

    >>> list(BatchSampler(range(5), 2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"BatchSampler: expected a batch_size of at least 1, got {batch_size!r}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        size = len(self.sampler)
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)
