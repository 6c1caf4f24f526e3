"""Connectionist temporal classification: the likelihood of a label sequence, summed over all its alignments."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction, TensorBase, is_float
from ..backend import to_numpy
from .core import add_at, as_tensor, float32_in_autocast

if TYPE_CHECKING:
    from ..tensor import Tensor


class CTC(ArrayFunction):
    """-log p(labels | log_probs) of every sequence, by the recursions of Graves et al. 2006, section 4.1, in logs.

    log_probs (T, N, C); labels (N, S), of which target_lengths count; the alignments of S labels walk through 2 S + 1
    states: blank, label, blank, label, ..., blank.
    """

    @staticmethod
    def forward(
        ctx: Any,
        log_probs: np.ndarray,
        labels: np.ndarray,
        input_lengths: np.ndarray,
        target_lengths: np.ndarray,
        blank: int,
        zero_infinity: bool,
    ) -> np.ndarray:
        steps, n, _ = log_probs.shape
        states = np.full((n, 2 * labels.shape[1] + 1), blank, like=labels)
        states[:, 1::2] = labels
        # One may skip the blank between two labels that differ.
        skip = np.zeros(states.shape, np.bool_, like=labels)
        skip[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
        emit = np.take_along_axis(log_probs, np.broadcast_to(states, (steps, *states.shape)), axis=2)
        batch, last = np.arange(n, like=labels), 2 * target_lengths
        alpha = np.full(emit.shape, -np.inf, log_probs.dtype, like=emit)
        if steps:
            alpha[0, :, :2] = emit[0, :, :2]
            alpha[0, target_lengths == 0, 1:] = -np.inf
        for t in range(1, steps):
            alpha[t] = _arrive(alpha[t - 1], skip) + emit[t]
        likelihood = np.where(target_lengths == 0, 0.0, -np.inf)  # no input at all says the empty sequence
        if steps:
            at_end = alpha[np.maximum(input_lengths - 1, 0)[:, None], batch[:, None], _ends(last)]
            at_end[target_lengths == 0, 1] = -np.inf  # with no label there is but one end
            likelihood = np.where(input_lengths == 0, likelihood, np.logaddexp(*at_end.T))
        loss = -likelihood.astype(log_probs.dtype)
        ctx.how = zero_infinity
        ctx.save(log_probs, states, skip, emit, alpha, input_lengths, last, loss)
        return np.where(np.isinf(loss), 0, loss).astype(loss.dtype) if zero_infinity else loss

    @staticmethod
    def backward(ctx: Any, grad: np.ndarray) -> np.ndarray:
        log_probs, states, skip, emit, alpha, input_lengths, last, loss = ctx.saved
        steps, n, _ = log_probs.shape
        batch = np.arange(n, like=emit)
        occupied = np.full(emit.shape, -np.inf, emit.dtype, like=emit)  # log of alpha beta / likelihood
        beta = np.full(emit.shape[1:], -np.inf, emit.dtype, like=emit)
        for t in reversed(range(steps)):
            if t + 1 < steps:
                beta = _leave(beta + emit[t + 1], skip)
            ending = input_lengths == t + 1
            beta[ending] = -np.inf
            beta[batch[ending, None], _ends(last[ending])] = 0
            occupied[t] = alpha[t] + beta + loss[:, None]
        gradient = np.zeros_like(log_probs)
        with np.errstate(invalid="ignore"):
            weight = np.exp(occupied) * -grad[:, None]
        if ctx.how:
            weight[:, np.isinf(loss)] = 0
        where: Any = (np.arange(steps, like=emit)[:, None, None], batch[None, :, None], states[None])
        add_at(gradient, where, weight)
        return gradient


def _ends(last: np.ndarray) -> np.ndarray:
    """The two states an alignment may end in: the last blank and the last label (the blank again for no labels)."""
    return np.stack([last, np.maximum(last - 1, 0)], 1)


def _add(*terms: np.ndarray) -> np.ndarray:
    """log of the sum of exponentials, -inf where all are."""
    top = reduce(np.maximum, terms)
    safe = np.where(np.isneginf(top), 0, top)
    with np.errstate(divide="ignore"):
        return safe + np.log(sum(np.exp(x - safe) for x in terms))


def _arrive(previous: np.ndarray, skip: np.ndarray) -> np.ndarray:
    """log of the ways into every state: from itself, the one before, and where allowed the one before that."""
    one, two = np.full_like(previous, -np.inf), np.full_like(previous, -np.inf)
    one[:, 1:] = previous[:, :-1]
    two[:, 2:] = previous[:, :-2]
    two[~skip] = -np.inf
    return _add(previous, one, two)


def _leave(following: np.ndarray, skip: np.ndarray) -> np.ndarray:
    """log of the ways out of every state: the transpose of `_arrive`."""
    one, two = np.full_like(following, -np.inf), np.full_like(following, -np.inf)
    one[:, :-1] = following[:, 1:]
    two[:, :-2] = np.where(skip[:, 2:], following[:, 2:], -np.inf)
    return _add(following, one, two)


def _lengths(name: str, lengths: Any, n: int, limit: int) -> np.ndarray:
    array = np.asarray(to_numpy(lengths._data) if isinstance(lengths, TensorBase) else lengths)
    if array.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: expected integers for {name}, got {array.dtype}")
    array = array.reshape(-1).astype(np.int64)
    if len(array) != n:
        raise ValueError(f"ctc_loss: expected {n} {name}, got {len(array)}")
    if array.size and (array.min() < 0 or array.max() > limit):
        raise ValueError(f"ctc_loss: expected {name} from 0 to {limit}, got {array.min()} to {array.max()}")
    return array


@float32_in_autocast
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability of label sequences of unknown alignment (Graves et al. 2006, "Connectionist temporal
    classification", section 4).

    log_probs: (T, N, C) or (T, C), logarithms of probabilities; targets: (N, S), or all labels one after the other;
    input_lengths, target_lengths: (N). The "mean" divides each loss by its number of labels first. zero_infinity:
    sequences too long for their input count 0 instead of infinity.

    Raises ValueError for shapes, lengths and options, IndexError for labels that are no class, TypeError for dtypes.

    >>> import fastdl
    >>> import fastdl.nn.functional as F
    >>> log_probs = fastdl.full((2, 1, 2), 0.5).log()
    >>> F.ctc_loss(log_probs, fastdl.tensor([[1]]), [2], [1]).exp().item()  # 3 of 4 paths say "1"
    1.3333333730697632
    """
    log_probs, targets = as_tensor(log_probs), as_tensor(targets)
    shape = log_probs._data.shape
    if len(shape) not in (2, 3):
        raise ValueError(f"ctc_loss: expected log_probs of 2 or 3 dimensions, got shape {shape}")
    if not is_float(log_probs._data.dtype):
        raise TypeError(f"ctc_loss: expected floating-point log_probs, got {log_probs._data.dtype}")
    if targets._data.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: expected integer targets, got {targets._data.dtype}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"ctc_loss: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
    if len(shape) == 2:
        log_probs = log_probs.unsqueeze(1)
    steps, n, classes = log_probs._data.shape
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: expected blank from 0 to {classes - 1}, got {blank}")
    label = targets._data.astype(np.int64)
    inputs = _lengths("input_lengths", input_lengths, n, steps)
    counts = _lengths("target_lengths", target_lengths, n, label.shape[-1] if label.ndim else 0)
    label = np.asarray(_padded(to_numpy(label), counts, len(shape) == 2), like=log_probs._data)
    inputs, counts = np.asarray(inputs, like=label), np.asarray(counts, like=label)
    inside = np.arange(label.shape[1], like=label) < counts[:, None]
    if ((label < 0) | (label >= classes))[inside].any():
        raise IndexError(f"ctc_loss: expected labels from 0 to {classes - 1}, got {label[inside].tolist()}")
    label = np.where(inside, label, blank)
    loss = CTC.apply(log_probs, label, inputs, counts, blank, zero_infinity)
    if reduction == "mean":
        return (loss / as_tensor(np.maximum(counts, 1).astype(loss.dtype))).mean()
    if reduction == "sum":
        return loss.sum()
    return loss if len(shape) == 3 else loss.squeeze(0)


def _padded(label: np.ndarray, counts: np.ndarray, single: bool) -> np.ndarray:
    """Labels as (N, S), from that or from all of them one after the other."""
    n = len(counts)
    if label.ndim == 2 and len(label) == n:
        return label
    if label.ndim == 1 and (single or label.size == counts.sum()):
        rows = [label[:size] for size in counts] if single else np.split(label, np.cumsum(counts)[:-1])
        padded = np.zeros((n, max((len(r) for r in rows), default=0)), np.int64)
        for row, values in zip(padded, rows, strict=True):
            row[: len(values)] = values
        return padded
    raise ValueError(f"ctc_loss: expected targets ({n}, S) or ({counts.sum()},), got shape {label.shape}")
