"""Table look-ups and their gradients."""

import itertools

import numpy as np

from .common import f64


def renormalise(weight, indices, max_norm, norm_type=2.0):
    """The table with every row that `indices` names and whose norm exceeds max_norm scaled to
    max_norm / (norm + 1e-7): what torch's max_norm does to the weight in place before the look-up."""
    weight = f64(weight).copy()
    for i in np.unique(indices):
        norm = (np.abs(weight[i]) ** norm_type).sum() ** (1 / norm_type)
        if norm > max_norm:
            weight[i] *= max_norm / (norm + 1e-7)
    return weight


def embedding(indices, weight, padding_idx=None, max_norm=None, norm_type=2.0):
    """weight[indices]: (*, D). padding_idx changes only the gradient."""
    weight = f64(weight) if max_norm is None else renormalise(weight, indices, max_norm, norm_type)
    return weight[np.asarray(indices)]


def embedding_backward(grad, indices, num_weights, padding_idx=None, scale_grad_by_freq=False):
    """dweight[i] = sum of the gradients of the places where i was looked up; 0 for padding_idx.

    scale_grad_by_freq divides by the number of those places.
    """
    indices = np.asarray(indices).ravel()
    grad = f64(grad).reshape(len(indices), -1) if len(indices) else np.zeros((0, np.shape(grad)[-1]))
    dweight = np.zeros((num_weights, grad.shape[1]))
    np.add.at(dweight, indices, grad)
    if scale_grad_by_freq:
        dweight /= np.maximum(np.bincount(indices, minlength=num_weights), 1)[:, None]
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def _bags(indices, offsets, include_last_offset):
    """The positions in indices.ravel() that belong to each bag."""
    indices = np.asarray(indices)
    if indices.ndim == 2:
        n, length = indices.shape
        return indices.ravel(), [list(range(i * length, (i + 1) * length)) for i in range(n)]
    offsets = list(map(int, offsets))
    ends = offsets if include_last_offset else [*offsets, len(indices)]
    return indices, [list(range(a, b)) for a, b in itertools.pairwise(ends)]


def embedding_bag(
    indices, weight, offsets=None, mode="mean", per_sample_weights=None, include_last_offset=False,
    padding_idx=None, max_norm=None, norm_type=2.0,
):  # fmt: skip
    """Sum (with per_sample_weights, if given), mean or maximum of the rows of each bag.

    indices: (B, n), or (n,) with the start of each bag in offsets. Entries equal to padding_idx do not count,
    neither in the result nor in the mean's divisor. An empty bag gives 0.
    """
    weight = f64(weight) if max_norm is None else renormalise(weight, indices, max_norm, norm_type)
    scale = None if per_sample_weights is None else f64(per_sample_weights).ravel()
    flat, bags = _bags(indices, offsets, include_last_offset)
    out = np.zeros((len(bags), weight.shape[1]))
    for b, places in enumerate(bags):
        places = [p for p in places if flat[p] != padding_idx]
        if not places:
            continue
        rows = weight[flat[places]]
        if mode == "sum":
            out[b] = rows.sum(axis=0) if scale is None else (rows * scale[places, None]).sum(axis=0)
        else:
            out[b] = rows.mean(axis=0) if mode == "mean" else rows.max(axis=0)
    return out


def embedding_bag_backward(
    grad, indices, weight, offsets=None, mode="mean", per_sample_weights=None, include_last_offset=False,
    padding_idx=None, scale_grad_by_freq=False,
):  # fmt: skip
    """(dweight, dper_sample_weights or None). The maximum's gradient goes to the first row that attains
    it.
    """
    grad, weight = f64(grad), f64(weight)
    scale = None if per_sample_weights is None else f64(per_sample_weights).ravel()
    flat, bags = _bags(indices, offsets, include_last_offset)
    count = np.bincount(flat, minlength=len(weight))
    dweight, dscale = np.zeros(weight.shape), None if scale is None else np.zeros(scale.shape)
    for b, places in enumerate(bags):
        places = [p for p in places if flat[p] != padding_idx]
        if mode == "max" and places:
            winner = flat[places][weight[flat[places]].argmax(axis=0)]
            dweight[winner, np.arange(weight.shape[1])] += grad[b]
            continue
        for p in places:
            g = grad[b] / len(places) if mode == "mean" else grad[b]
            if scale is not None:
                dscale[p] = (g * weight[flat[p]]).sum()
                g = g * scale[p]
            dweight[flat[p]] += g / count[flat[p]] if scale_grad_by_freq else g
    return dweight, None if dscale is None else dscale.reshape(np.shape(per_sample_weights))


def one_hot(indices, num_classes=-1):
    """1 at each index on a new last axis, int64."""
    indices = np.asarray(indices)
    n = int(indices.max()) + 1 if num_classes == -1 else num_classes
    return np.eye(n, dtype=np.int64)[indices]
