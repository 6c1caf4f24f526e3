"""Metrics that stream: ``update`` per batch, ``compute`` at the end; arrays and Tensors alike.

Classification metrics take scores (N, C, ...) with the class in dimension 1, or labels of the targets' own
shape; scores of the targets' own shape count as class 1 above ``threshold``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import to_numpy
from ..data.dataset import as_array


class Metric:
    """Base class: a ``name`` and ``reset``, ``update(prediction, target)`` and ``compute``."""

    name = "metric"

    def reset(self) -> None:
        """Forgets everything seen."""
        raise NotImplementedError(f"{type(self).__name__} must define reset")

    def update(self, prediction: Any, target: Any) -> None:
        """Takes in a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define update")

    def compute(self) -> Any:
        """The value over all batches since ``reset``; NaN when there were none."""
        raise NotImplementedError(f"{type(self).__name__} must define compute")


class _Mean(Metric):
    """A mean over samples: subclasses give the sum and the count of a batch."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total = 0.0
        self.count = 0

    def compute(self) -> float:
        return self.total / self.count if self.count else float("nan")


class Accuracy(_Mean):
    """The share of right classes.

    >>> metric = Accuracy()
    >>> metric.update(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    >>> metric.compute()
    0.5
    """

    name = "accuracy"

    def __init__(self, threshold: float = 0.5, ignore_index: int | None = None) -> None:
        super().__init__()
        self.threshold = threshold
        self.ignore_index = ignore_index

    def update(self, prediction: Any, target: Any) -> None:
        scores, labels = _host(prediction), _host(target)
        right = predicted_labels(scores, labels, self.threshold) == labels
        if self.ignore_index is not None:
            right = right[labels != self.ignore_index]
        self.total += int(np.count_nonzero(right))
        self.count += right.size


class TopKAccuracy(_Mean):
    """The share of samples whose class is among the ``k`` highest scores (of equals the lower class wins)."""

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"TopKAccuracy: expected k of at least 1, got {k}")
        self.k = k
        self.name = f"top{k}_accuracy"

    def update(self, prediction: Any, target: Any) -> None:
        scores, labels = _host(prediction), _host(target)
        if scores.ndim != labels.ndim + 1 or scores.ndim < 2:
            raise ValueError(
                f"{self.name}: expected scores (N, C, ...) and labels (N, ...), "
                f"got {scores.shape} and {labels.shape}"
            )
        # The class's rank is the number of classes that beat it.
        own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)
        classes = np.arange(scores.shape[1]).reshape((1, -1) + (1,) * (labels.ndim - 1))
        rank = ((scores > own) | ((scores == own) & (classes < labels[:, None]))).sum(1)
        self.total += int(np.count_nonzero((rank < self.k) & ~np.isnan(own[:, 0])))
        self.count += labels.size


class MeanSquaredError(_Mean):
    """The mean of (prediction - target)^2 over all elements."""

    name = "mse"

    def update(self, prediction: Any, target: Any) -> None:
        difference = _difference(self.name, prediction, target)
        self.total += float(np.square(difference).sum())
        self.count += difference.size


class MeanAbsoluteError(_Mean):
    """The mean of |prediction - target| over all elements."""

    name = "mae"

    def update(self, prediction: Any, target: Any) -> None:
        difference = _difference(self.name, prediction, target)
        self.total += float(np.abs(difference).sum())
        self.count += difference.size


class ConfusionMatrix(Metric):
    """Counts (C, C): rows are true classes, columns predicted ones. Grows as classes appear, from
    ``num_classes``.

    >>> matrix = ConfusionMatrix()
    >>> matrix.update(np.array([0, 1, 1]), np.array([0, 1, 0]))
    >>> matrix.compute().tolist()
    [[1, 1], [0, 1]]
    """

    name = "confusion_matrix"

    def __init__(self, num_classes: int = 0, threshold: float = 0.5) -> None:
        self.num_classes = num_classes
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, prediction: Any, target: Any) -> None:
        scores, labels = _host(prediction), _host(target)
        guess = predicted_labels(scores, labels, self.threshold).astype(np.int64).ravel()
        labels = labels.astype(np.int64).ravel()
        if labels.size == 0:
            return
        if min(labels.min(), guess.min()) < 0:
            raise ValueError(
                f"{self.name}: expected classes of at least 0, got {min(labels.min(), guess.min())}"
            )
        size = max(int(labels.max()), int(guess.max())) + 1
        if scores.ndim > as_array(target).ndim:
            size = max(size, scores.shape[1])
        size = max(size, len(self.counts))
        if size > len(self.counts):
            grown = size - len(self.counts)
            self.counts = np.pad(self.counts, ((0, grown), (0, grown)))
        self.counts += np.bincount(labels * size + guess, minlength=size * size).reshape(size, size)

    def compute(self) -> np.ndarray:
        return self.counts.copy()

    def per_class(self) -> dict[str, np.ndarray]:
        """Precision, recall, F1 and support of every class; 0 where a quotient has nothing below the line."""
        hits = np.diag(self.counts).astype(np.float64)
        predicted, actual = self.counts.sum(0), self.counts.sum(1)
        return {
            "precision": _ratio(hits, predicted),
            "recall": _ratio(hits, actual),
            "f1": _ratio(2 * hits, predicted + actual),
            "support": actual,
        }


class _Averaged(ConfusionMatrix):
    """A per-class score: average "macro" over classes, "weighted" by support, "micro" over samples, or None.

    Macro averages leave out classes that neither targets nor predictions hold.
    """

    def __init__(self, average: str | None = "macro", num_classes: int = 0, threshold: float = 0.5) -> None:
        if average not in ("macro", "weighted", "micro", None):
            raise ValueError(f"{self.name}: expected average macro, weighted, micro or None, got {average!r}")
        self.average = average
        super().__init__(num_classes, threshold)

    def compute(self) -> Any:
        total = self.counts.sum()
        if total == 0:
            return float("nan")
        if self.average == "micro":
            return float(np.trace(self.counts) / total)
        table = self.per_class()
        if self.average is None:
            return table[self.name]
        weights = (
            table["support"] if self.average == "weighted" else (self.counts.sum(0) + table["support"]) > 0
        )
        return float(np.average(table[self.name], weights=weights))


class Precision(_Averaged):
    """Of the samples given a class, the share that belong to it."""

    name = "precision"


class Recall(_Averaged):
    """Of the samples of a class, the share given it."""

    name = "recall"


class F1Score(_Averaged):
    """The harmonic mean of precision and recall."""

    name = "f1"


class _FunctionMetric(_Mean):
    """The mean over samples of a user's ``function(prediction, target)``."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def update(self, prediction: Any, target: Any) -> None:
        n = len(as_array(target))
        self.total += float(self.function(prediction, target)) * n
        self.count += n


_BY_NAME: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "top5": TopKAccuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1Score,
    "confusion_matrix": ConfusionMatrix,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
}


def make_metrics(metrics: Sequence[Any]) -> list[Metric]:
    """Metric objects from names ("accuracy", "top5", "f1", ...), Metric classes or objects, or functions."""
    made: list[Metric] = []
    for item in [metrics] if isinstance(metrics, (str, Metric)) else metrics:
        if isinstance(item, str):
            if item not in _BY_NAME:
                raise ValueError(f"metrics: expected one of {', '.join(_BY_NAME)}, got {item!r}")
            made.append(_BY_NAME[item]())
        elif isinstance(item, Metric):
            made.append(item)
        elif isinstance(item, type) and issubclass(item, Metric):
            made.append(item())
        elif callable(item):
            made.append(_FunctionMetric(item))
        else:
            raise TypeError(
                f"metrics: expected names, Metric objects or functions, got {type(item).__name__}"
            )
    return made


def _host(value: Any) -> np.ndarray:
    """The array behind a Tensor or array, on the CPU."""
    return to_numpy(as_array(value))


def predicted_labels(scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The classes that ``scores`` choose, in the shape of ``labels``. Raises ValueError."""
    if (
        scores.ndim == labels.ndim + 1
        and scores.ndim >= 2
        and scores.shape[:1] + scores.shape[2:] == labels.shape
    ):
        return scores.argmax(1)
    if scores.shape == labels.shape:
        return scores if scores.dtype.kind in "iub" else scores > threshold
    raise ValueError(
        "metrics: expected scores (N, C, ...) or (N, ...) for labels (N, ...), "
        f"got {scores.shape} and {labels.shape}"
    )


def _difference(name: str, prediction: Any, target: Any) -> np.ndarray:
    a, b = _host(prediction), _host(target)
    if a.shape != b.shape:
        raise ValueError(f"{name}: expected equal shapes, got {a.shape} and {b.shape}")
    return np.subtract(a, b, dtype=np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
