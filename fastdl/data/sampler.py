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
