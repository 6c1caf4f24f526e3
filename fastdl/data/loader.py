"""The DataLoader: batches in order, in the caller's thread or prefetched by worker threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..autograd import wrap
from ..backend import as_array, is_array
from ..tensor import Tensor
from .dataset import rng_for
from .sampler import BatchSampler


class DataLoader:
    """Iterates over a dataset in batches.

    ``dataset`` has ``__len__`` and ``__getitem__``, or ``take(indices)`` for whole batches (TensorDataset
    does). Arguments and defaults are torch's; beyond them:

    * ``num_workers`` are background threads (0 = none) that keep ``prefetch_factor`` batches each ready. They
      need no pickling; the loop that consumes the batches raises a worker's exception where that batch
      would have come; leaving the loop stops the workers.
    * ``seed`` makes the order of epoch e a function of (seed, e) alone. Without it every epoch draws a seed
      from ``generator``, or from fastdl's own (``fastdl.manual_seed``).
    * ``transform(batch, rng)`` is applied to every collated batch, with a generator that depends on epoch
      and batch only: augmentation is reproducible for any number of workers.
    * ``state_dict()`` / ``load_state_dict()`` save and restore the place, down to the batch: a resumed run
      sees the batches the uninterrupted one would.

    * ``pin_memory`` hands batches out in page-locked memory, from which copies to a GPU run while the CPU goes on
      (without a GPU it does nothing). ``persistent_workers`` is accepted and does nothing.

    Raises ValueError for contradictory or out-of-range options, TypeError for a dataset without a length.

    >>> import numpy as np
    >>> from fastdl.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(np.arange(5)), batch_size=2)
    >>> [batch[0].tolist() for batch in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        *,
        generator: np.random.Generator | None = None,
        seed: int | None = None,
        prefetch_factor: int = 2,
        transform: Callable[[Any, np.random.Generator], Any] | None = None,
        persistent_workers: bool = False,
    ) -> None:
        if not hasattr(dataset, "__len__") or not (
            hasattr(dataset, "__getitem__") or hasattr(dataset, "take")
        ):
            raise TypeError(
                f"DataLoader: expected a dataset with __len__ and __getitem__, got {type(dataset).__name__}"
            )
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int)):
            raise TypeError(f"DataLoader: expected an integer batch_size, got {batch_size!r}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"DataLoader: expected a batch_size of at least 1, got {batch_size}")
        if not isinstance(num_workers, int) or num_workers < 0:
            raise ValueError(f"DataLoader: expected num_workers of at least 0, got {num_workers!r}")
        if prefetch_factor < 1:
            raise ValueError(f"DataLoader: expected a prefetch_factor of at least 1, got {prefetch_factor}")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler and shuffle exclude each other")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if batch_size is None and drop_last:
            raise ValueError("DataLoader: batch_size=None (no batching) excludes drop_last")
        if seed is not None and (not isinstance(seed, int) or seed < 0):
            raise ValueError(f"DataLoader: expected a seed of at least 0, got {seed!r}")
        if generator is not None:
            rng_for(generator, None)
        self.dataset = dataset
        self.batch_size = batch_size if batch_sampler is None else None
        self.shuffle = bool(shuffle)
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.collate_fn = collate_fn
        self.pin_memory = bool(pin_memory)
        self.drop_last = drop_last
        self.generator = generator
        self.seed = seed
        self.prefetch_factor = prefetch_factor
        self.transform = transform
        self._epoch = 0  # epochs begun so far
        self._batch = 0  # batches handed out in the epoch under way
        self._epoch_seed: int | None = None  # of the epoch under way; None between epochs
        self._resume = False  # the next iteration continues the epoch under way

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        size = len(self.dataset) if self.sampler is None else len(self.sampler)
        if self.batch_size is None:
            return size
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        if self._resume:
            self._resume = False
        else:
            self._batch = 0
            self._epoch_seed = self._draw_seed()
            self._epoch += 1
        produce = self._produce
        seed, first = self._epoch_seed or 0, self._batch
        batches = self._batches(seed)
        jobs = ((batch, seed, i) for i, batch in enumerate(batches) if i >= first)
        results = (produce(*job) for job in jobs) if self.num_workers == 0 else self._prefetch(jobs)
        for item in results:
            self._batch += 1
            yield item
        self._batch = 0
        self._epoch_seed = None

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is that of epoch ``epoch``, counted from 0 (with a ``seed``: its order)."""
        self._epoch = epoch
        self._batch = 0
        self._epoch_seed = None
        self._resume = False

    def state_dict(self) -> dict[str, Any]:
        """The place in the data: epoch, batch and the state of the random order. Plain Python values."""
        generator = None if self.generator is None else _plain(self.generator.bit_generator.state)
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "epoch_seed": self._epoch_seed,
            "seed": self.seed,
            "generator": generator,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where ``state`` was taken. Raises ValueError for a state of something else."""
        wanted = {"epoch", "batch", "epoch_seed", "seed", "generator"}
        if not isinstance(state, Mapping) or set(state) != wanted:
            raise ValueError(f"DataLoader: expected a state with {sorted(wanted)}, got {_keys(state)}")
        if state["generator"] is not None:
            if self.generator is None:
                raise ValueError("DataLoader: the state holds that of a generator, this loader has none")
            self.generator.bit_generator.state = state["generator"]
        self._epoch = int(state["epoch"])
        self._batch = int(state["batch"])
        self._epoch_seed = state["epoch_seed"]
        self.seed = state["seed"]
        self._resume = self._epoch_seed is not None

    def _draw_seed(self) -> int:
        if self.seed is not None:
            # One 64-bit number per (seed, epoch).
            return int(np.random.SeedSequence((self.seed, self._epoch)).generate_state(1, np.uint64)[0])
        if not self.shuffle and self.transform is None:
            return 0  # nothing is random: leave the generators alone
        return int(rng_for(self.generator, None).integers(1 << 63))

    def _batches(self, seed: int) -> Iterator[Any]:
        """The indices of each batch: arrays, or lists from a user's sampler."""
        if self.batch_sampler is not None:
            yield from self.batch_sampler
            return
        if self.sampler is not None:
            size = self.batch_size
            yield from self.sampler if size is None else BatchSampler(self.sampler, size, self.drop_last)
            return
        size = len(self.dataset)
        order = (
            np.random.Generator(np.random.Philox(seed)).permutation(size) if self.shuffle else np.arange(size)
        )
        if self.batch_size is None:
            yield from order.tolist()
            return
        step = self.batch_size
        for start in range(0, size - size % step if self.drop_last else size, step):
            yield order[start : start + step]

    def _produce(self, indices: Any, seed: int, number: int) -> Any:
        dataset, collate = self.dataset, self.collate_fn
        if self.batch_size is None and self.batch_sampler is None:
            sample = dataset[indices]
            batch = _convert(sample) if collate is None else collate(sample)
        elif collate is None and hasattr(dataset, "take"):
            batch = dataset.take(np.asarray(indices))
        else:
            samples = [dataset[i] for i in (indices.tolist() if isinstance(indices, np.ndarray) else indices)]
            batch = (default_collate if collate is None else collate)(samples)
        if self.transform is not None:
            batch = self.transform(batch, np.random.Generator(np.random.Philox(key=(seed, number))))
        return _pinned(batch) if self.pin_memory else batch

    def _prefetch(self, jobs: Iterator[tuple[Any, int, int]]) -> Iterator[Any]:
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="fastdl-data")
        pending: deque[Any] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(self._produce, *job))
                if len(pending) > self.num_workers * self.prefetch_factor:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # Reached at the end, on an error, and when the consumer leaves its loop.
            pool.shutdown(wait=True, cancel_futures=True)


def default_collate(batch: list[Any]) -> Any:
    """Stacks samples along a new first dimension.

    Tensors, arrays and numbers become one Tensor (Python floats float32, ints int64, bools bool); tuples,
    lists and dicts are collated member by member; strings and bytes stay a list.

    Raises ValueError for samples of different shapes, lengths or keys, TypeError for kinds it does not know.

    >>> pair = default_collate([(1.0, 2), (3.0, 4)])
    >>> [t.tolist() for t in pair]
    [[1.0, 3.0], [2, 4]]
    """
    if not batch:
        raise ValueError("default_collate: expected at least one sample, got none")
    first = batch[0]
    kind = type(first)
    if isinstance(first, Tensor):
        return wrap(_stack([t._data for t in batch]))
    if isinstance(first, np.generic) or is_array(first):
        return wrap(_stack([as_array(v) for v in batch]))
    if isinstance(first, (bool, int, float)):
        array = _stack([np.asarray(v) for v in batch])
        return wrap(array.astype(np.float32) if array.dtype == np.float64 else array)
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        for sample in batch:
            if not isinstance(sample, Mapping) or sample.keys() != first.keys():
                raise ValueError(f"default_collate: expected dicts with {_keys(first)}, got {_keys(sample)}")
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, (tuple, list)):
        for sample in batch:
            if not isinstance(sample, (tuple, list)) or len(sample) != len(first):
                size = len(sample) if isinstance(sample, (tuple, list)) else type(sample).__name__
                raise ValueError(f"default_collate: expected samples of {len(first)} members, got {size}")
        members = [default_collate(list(column)) for column in zip(*batch, strict=True)]
        return kind(*members) if hasattr(first, "_fields") else kind(members)
    raise TypeError(
        f"default_collate: expected tensors, arrays, numbers, strings, tuples or dicts, got {kind.__name__}; "
        "pass collate_fn"
    )


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise ValueError(f"default_collate: expected samples of one shape, got {sorted(shapes)[:4]}")
    stacked = np.stack(arrays)
    if stacked.dtype.kind in "OUS":
        raise TypeError(f"default_collate: expected numbers, got dtype {stacked.dtype}")
    return stacked


def _convert(sample: Any) -> Any:
    """A single sample, unbatched: arrays become Tensors."""
    if is_array(sample):
        return wrap(sample)
    if isinstance(sample, Mapping):
        return {key: _convert(value) for key, value in sample.items()}
    if isinstance(sample, (tuple, list)):
        members = [_convert(value) for value in sample]
        return type(sample)(*members) if hasattr(sample, "_fields") else type(sample)(members)
    return sample


def _pinned(batch: Any) -> Any:
    """A batch with the Tensors that live on the CPU in page-locked memory."""
    if isinstance(batch, Tensor):
        return batch.pin_memory() if batch.device.type == "cpu" else batch
    if isinstance(batch, Mapping):
        return {key: _pinned(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        members = [_pinned(value) for value in batch]
        return type(batch)(*members) if hasattr(batch, "_fields") else type(batch)(members)
    return batch


def _plain(value: Any) -> Any:
    """A bit generator's state as plain Python values (what a checkpoint stores)."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [int(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _keys(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
