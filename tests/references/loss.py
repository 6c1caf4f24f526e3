"""The losses of torch.nn.functional and their gradients.

`<name>_backward(grad, ...)` takes the gradient of the reduced loss and gives those of the floating inputs
that torch differentiates in practice (predictions, and targets where the loss is symmetric in them).
"""

import math

import numpy as np

from .activation import sigmoid
from .common import expand_grad, f64, reduce
from .softmax import log_softmax, softmax


def _broadcast(*arrays):
    return tuple(np.array(a) for a in np.broadcast_arrays(*map(f64, arrays)))


def _xlogy(x, y):
    """x log y, 0 where x is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, 0.0, x * np.log(y))


# ---- classification ----


def _target_distribution(shape, target, weight, ignore_index, label_smoothing):
    """(q, w, norm): the smoothed target distribution with classes on the last axis (0 for ignored elements),
    the class weights, and what "mean" divides by.
    """
    n_classes = shape[-1]
    w = np.ones(n_classes) if weight is None else f64(weight)
    target = np.asarray(target)
    if target.shape == shape and np.issubdtype(target.dtype, np.floating):
        q = f64(target)
        valid, norm = np.ones(shape[:-1], bool), math.prod(shape[:-1])
    else:
        valid = target != ignore_index
        safe = np.where(valid, target, 0)
        q = np.eye(n_classes)[safe]
        norm = (w[safe] * valid).sum()
    q = (1 - label_smoothing) * q + label_smoothing / n_classes
    return np.where(valid[..., None], q, 0.0), w, norm


def _classes_last(x):
    """(N, C, d1, ...) or (C,) with the classes moved to the last axis."""
    return np.moveaxis(f64(x), 1 if np.ndim(x) > 1 else 0, -1)


def _classes_back(x):
    return np.moveaxis(x, -1, 1 if x.ndim > 1 else 0)


def _divide(a, b):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.float64(a) / np.float64(b)


def _per_class_loss(logp, q, w, norm, reduction):
    """-sum_c w_c q_c log p_c, reduced."""
    with np.errstate(invalid="ignore"):
        losses = -np.where(q == 0, 0.0, w * q * logp).sum(axis=-1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else _divide(losses.sum(), norm)


def _row_scale(grad, norm, reduction, lead):
    grad = np.broadcast_to(f64(grad), lead)
    if reduction == "mean" and norm != 0:  # with every row ignored the loss is NaN, but each gradient is 0
        grad = grad / norm
    return grad[..., None]


def _is_probabilities(x, target):
    return np.shape(x) == np.shape(target) and np.issubdtype(np.asarray(target).dtype, np.floating)


def cross_entropy(x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """-sum_c w_c q_c log softmax(x)_c.

    x: (C,), (N, C) or (N, C, d1, ...). target: class indices without the C axis, or probabilities of x's
    shape. q = (1 - e) * target + e / C with e = label_smoothing. "mean" divides by the sum of the weights of
    the classes that occur and are not ignored (indices), or by the number of rows (probabilities).
    """
    rows = _classes_last(x)
    t = _classes_last(target) if _is_probabilities(x, target) else target
    q, w, norm = _target_distribution(rows.shape, t, weight, ignore_index, label_smoothing)
    return _per_class_loss(log_softmax(rows), q, w, norm, reduction)


def cross_entropy_backward(
    grad, x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """dx = softmax(x) * sum_c(w q) - w q, scaled by the reduction."""
    rows = _classes_last(x)
    t = _classes_last(target) if _is_probabilities(x, target) else target
    q, w, norm = _target_distribution(rows.shape, t, weight, ignore_index, label_smoothing)
    wq = w * q
    scale = _row_scale(grad, norm, reduction, rows.shape[:-1])
    return _classes_back(scale * (softmax(rows) * wq.sum(axis=-1, keepdims=True) - wq))


def nll_loss(x, target, weight=None, ignore_index=-100, reduction="mean"):
    """-w[y] x[y]: cross_entropy of log-probabilities x with class indices."""
    rows = _classes_last(x)
    q, w, norm = _target_distribution(rows.shape, target, weight, ignore_index, 0.0)
    return _per_class_loss(rows, q, w, norm, reduction)


def nll_loss_backward(grad, x, target, weight=None, ignore_index=-100, reduction="mean"):
    rows = _classes_last(x)
    q, w, norm = _target_distribution(rows.shape, target, weight, ignore_index, 0.0)
    return _classes_back(-_row_scale(grad, norm, reduction, rows.shape[:-1]) * w * q)


# ---- regression ----


def mse_loss(x, target, reduction="mean"):
    """(x - t)^2."""
    return reduce((f64(x) - f64(target)) ** 2, reduction)


def mse_loss_backward(grad, x, target, reduction="mean"):
    """(dx, dtarget)."""
    d = f64(x) - f64(target)
    dx = expand_grad(grad, d.shape, reduction) * 2 * d
    return dx, -dx


def l1_loss(x, target, reduction="mean"):
    """|x - t|."""
    return reduce(np.abs(f64(x) - f64(target)), reduction)


def l1_loss_backward(grad, x, target, reduction="mean"):
    """(dx, dtarget); 0 where x = t."""
    d = f64(x) - f64(target)
    dx = expand_grad(grad, d.shape, reduction) * np.sign(d)
    return dx, -dx


def huber_loss(x, target, reduction="mean", delta=1.0):
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2). Huber (1964)."""
    d = np.abs(f64(x) - f64(target))
    return reduce(np.where(d < delta, 0.5 * d * d, delta * (d - 0.5 * delta)), reduction)


def huber_loss_backward(grad, x, target, reduction="mean", delta=1.0):
    """(dx, dtarget): d clipped to [-delta, delta]."""
    d = f64(x) - f64(target)
    dx = expand_grad(grad, d.shape, reduction) * np.clip(d, -delta, delta)
    return dx, -dx


def smooth_l1_loss(x, target, reduction="mean", beta=1.0):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2; l1_loss for beta 0. Girshick (2015), eq. 3."""
    d = np.abs(f64(x) - f64(target))
    if beta == 0:
        return reduce(d, reduction)
    return reduce(np.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta), reduction)


def smooth_l1_loss_backward(grad, x, target, reduction="mean", beta=1.0):
    """(dx, dtarget)."""
    d = f64(x) - f64(target)
    dx = expand_grad(grad, d.shape, reduction) * (np.sign(d) if beta == 0 else np.clip(d / beta, -1, 1))
    return dx, -dx


# ---- probabilities ----


def binary_cross_entropy(x, target, weight=None, reduction="mean"):
    """-w (t log x + (1 - t) log(1 - x)), the logarithms held at or above -100."""
    x, t = f64(x), f64(target)
    with np.errstate(divide="ignore"):
        losses = -(t * np.maximum(np.log(x), -100) + (1 - t) * np.maximum(np.log1p(-x), -100))
    return reduce(losses if weight is None else losses * f64(weight), reduction)


def binary_cross_entropy_backward(grad, x, target, weight=None, reduction="mean"):
    """w (x - t) / max(x (1 - x), 1e-12)."""
    x, t = f64(x), f64(target)
    d = (x - t) / np.maximum(x * (1 - x), 1e-12)
    return expand_grad(grad, d.shape, reduction) * (d if weight is None else d * f64(weight))


def binary_cross_entropy_with_logits(x, target, weight=None, reduction="mean", pos_weight=None):
    """-w (p t log s(x) + (1 - t) log(1 - s(x))), p = pos_weight; log s(x) = -softplus(-x)."""
    x, t = f64(x), f64(target)
    p = 1.0 if pos_weight is None else f64(pos_weight)
    softplus = lambda z: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))  # noqa: E731
    losses = p * t * softplus(-x) + (1 - t) * softplus(x)
    return reduce(losses if weight is None else losses * f64(weight), reduction)


def binary_cross_entropy_with_logits_backward(
    grad, x, target, weight=None, reduction="mean", pos_weight=None
):
    """w ((1 - t) s(x) - p t (1 - s(x)))."""
    x, t = f64(x), f64(target)
    p = 1.0 if pos_weight is None else f64(pos_weight)
    d = (1 - t) * sigmoid(x) - p * t * sigmoid(-x)
    return expand_grad(grad, d.shape, reduction) * (d if weight is None else d * f64(weight))


def kl_div(x, target, reduction="mean", log_target=False):
    """t (log t - x) with x log-probabilities; exp(t) (t - x) for log_target. "batchmean" divides by the first
    axis.
    """
    x, t = f64(x), f64(target)
    losses = np.exp(t) * (t - x) if log_target else _xlogy(t, t) - t * x
    if reduction == "batchmean":
        return losses.sum() / losses.shape[0]
    return reduce(losses, reduction)


def kl_div_backward(grad, x, target, reduction="mean", log_target=False):
    """-t or -exp(t)."""
    x, t = f64(x), f64(target)
    d = -(np.exp(t) if log_target else t) * np.ones(x.shape)
    if reduction == "batchmean":
        return f64(grad) * d / x.shape[0]
    return expand_grad(grad, d.shape, reduction) * d


def poisson_nll_loss(x, target, log_input=True, full=False, eps=1e-8, reduction="mean"):
    """exp(x) - t x, or x - t log(x + eps); `full` adds Stirling's t log t - t + log(2 pi t) / 2 where t >
    1.
    """
    x, t = f64(x), f64(target)
    losses = np.exp(x) - t * x if log_input else x - t * np.log(x + eps)
    if full:
        s = np.maximum(t, 1.0)
        losses = losses + np.where(t > 1, s * np.log(s) - s + 0.5 * np.log(2 * np.pi * s), 0.0)
    return reduce(losses, reduction)


def poisson_nll_loss_backward(grad, x, target, log_input=True, full=False, eps=1e-8, reduction="mean"):
    x, t = f64(x), f64(target)
    d = np.exp(x) - t if log_input else 1 - t / (x + eps)
    return expand_grad(grad, d.shape, reduction) * d


def gaussian_nll_loss(x, target, var, full=False, eps=1e-6, reduction="mean"):
    """(log v + (x - t)^2 / v) / 2, v = max(var, eps); `full` adds log(2 pi) / 2. Nix & Weigend (1994)."""
    x, t, v = _broadcast(x, target, _column(var, x))
    v = np.maximum(v, eps)
    losses = 0.5 * (np.log(v) + (x - t) ** 2 / v)
    return reduce(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


def gaussian_nll_loss_backward(grad, x, target, var, full=False, eps=1e-6, reduction="mean"):
    """(dx, dtarget, dvar); the clamp passes gradients as if it were not there (torch's choice)."""
    var_shape = np.shape(var)
    x, t, v = _broadcast(x, target, _column(var, x))
    v = np.maximum(v, eps)
    g = expand_grad(grad, x.shape, reduction)
    dx, dv = g * (x - t) / v, g * 0.5 * (1 / v - (x - t) ** 2 / v**2)
    column = _column(np.zeros(var_shape), x)
    stretched = tuple(i for i in range(x.ndim) if column.shape[i] != x.shape[i])
    return dx, -dx, dv.sum(axis=stretched, keepdims=True).reshape(var_shape)


def _column(var, x):
    """var may lack x's last axis: one variance per row."""
    return f64(var)[..., None] if np.ndim(var) == np.ndim(x) - 1 else f64(var)


# ---- margins ----


def hinge_embedding_loss(x, target, margin=1.0, reduction="mean"):
    """x where t = 1, max(0, margin - x) where t = -1."""
    x, t = f64(x), np.asarray(target)
    return reduce(np.where(t == 1, x, np.maximum(0, margin - x)), reduction)


def hinge_embedding_loss_backward(grad, x, target, margin=1.0, reduction="mean"):
    x, t = f64(x), np.asarray(target)
    return expand_grad(grad, x.shape, reduction) * np.where(t == 1, 1.0, np.where(margin - x > 0, -1.0, 0.0))


def soft_margin_loss(x, target, reduction="mean"):
    """log(1 + exp(-t x)), t = 1 or -1."""
    return reduce(np.logaddexp(0, -f64(target) * f64(x)), reduction)


def soft_margin_loss_backward(grad, x, target, reduction="mean"):
    t = f64(target)
    return expand_grad(grad, t.shape, reduction) * -t * sigmoid(-t * f64(x))


def margin_ranking_loss(x1, x2, target, margin=0.0, reduction="mean"):
    """max(0, -t (x1 - x2) + margin)."""
    return reduce(np.maximum(0, -f64(target) * (f64(x1) - f64(x2)) + margin), reduction)


def margin_ranking_loss_backward(grad, x1, x2, target, margin=0.0, reduction="mean"):
    """(dx1, dx2)."""
    t = f64(target)
    active = -t * (f64(x1) - f64(x2)) + margin > 0
    dx1 = expand_grad(grad, active.shape, reduction) * np.where(active, -t, 0.0)
    return dx1, -dx1


def _cosine(x1, x2):
    """x1.x2 / sqrt((|x1|^2 + e) (|x2|^2 + e)), e = 1e-12, and the two squared lengths with e."""
    n1, n2 = (x1 * x1).sum(-1) + 1e-12, (x2 * x2).sum(-1) + 1e-12
    return (x1 * x2).sum(-1) / np.sqrt(n1 * n2), n1, n2


def cosine_embedding_loss(x1, x2, target, margin=0.0, reduction="mean"):
    """1 - cos(x1, x2) where t = 1, max(0, cos - margin) where t = -1; x (N, D) with t (N,), or (D,) with
    ().
    """
    cos, _, _ = _cosine(f64(x1), f64(x2))
    return reduce(np.where(np.asarray(target) == 1, 1 - cos, np.maximum(0, cos - margin)), reduction)


def cosine_embedding_loss_backward(grad, x1, x2, target, margin=0.0, reduction="mean"):
    """(dx1, dx2): d cos / d x1 = x2 / sqrt(n1 n2) - cos x1 / n1."""
    x1, x2 = f64(x1), f64(x2)
    cos, n1, n2 = _cosine(x1, x2)
    slope = np.where(np.asarray(target) == 1, -1.0, np.where(cos - margin > 0, 1.0, 0.0))
    g = (expand_grad(grad, cos.shape, reduction) * slope)[..., None]
    cos, n1, n2 = cos[..., None], n1[..., None], n2[..., None]
    return g * (x2 / np.sqrt(n1 * n2) - cos * x1 / n1), g * (x1 / np.sqrt(n1 * n2) - cos * x2 / n2)


def pairwise_distance(x1, x2, p=2.0, eps=1e-6, keepdim=False):
    """|x1 - x2 + eps|_p over the last axis."""
    return (np.abs(f64(x1) - f64(x2) + eps) ** p).sum(axis=-1, keepdims=keepdim) ** (1 / p)


def _pairwise_distance_backward(grad, x1, x2, p, eps):
    """d / d x1 = sign(d) |d|^(p-1) / |d|_p^(p-1); d / d x2 is its negative."""
    d = f64(x1) - f64(x2) + eps
    norm = pairwise_distance(x1, x2, p, eps, keepdim=True)
    return grad[..., None] * np.sign(d) * np.abs(d) ** (p - 1) / norm ** (p - 1)


def triplet_margin_loss(
    anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"
):
    """max(0, |a - p| - |a - n| + margin); with swap the smaller of |a - n| and |p - n|. Balntas et al.
    (2016).
    """
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = np.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduce(np.maximum(0, pairwise_distance(anchor, positive, p, eps) - far + margin), reduction)


def triplet_margin_loss_backward(
    grad, anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"
):
    """(danchor, dpositive, dnegative)."""
    near = pairwise_distance(anchor, positive, p, eps)
    far, other = pairwise_distance(anchor, negative, p, eps), pairwise_distance(positive, negative, p, eps)
    swapped = (other < far) if swap else np.zeros(far.shape, bool)
    active = near - np.where(swapped, other, far) + margin > 0
    g = expand_grad(grad, near.shape, reduction) * active
    ap = _pairwise_distance_backward(g, anchor, positive, p, eps)
    an = _pairwise_distance_backward(np.where(swapped, 0.0, g), anchor, negative, p, eps)
    pn = _pairwise_distance_backward(np.where(swapped, g, 0.0), positive, negative, p, eps)
    return ap - an, -ap - pn, an + pn
